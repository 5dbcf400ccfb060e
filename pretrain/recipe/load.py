"""From YAML and `key=value` overrides to a Recipe: strict, in one line of error, without torch.

Layers merge as  defaults <- base (one `extends` level) <- file <- overrides.  Unknown keys are errors that name the
full path and the nearest valid key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path
from pineco.data_pipeline.hints import did_you_mean
from pineco.pretrain.recipe.objectives import OBJECTIVES
from pineco.pretrain.recipe.settings import CHANGES_NO_NUMBER, SHARED_WITH_INIT, Recipe
from pineco.pretrain.recipe.typed_yaml import UnsetVariablesError, leaves, listed, merge, parse_overrides, read_layer

RECIPES = Path(__file__).parents[1] / "recipes"


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe `name` (of pretrain/recipes, or a path of a YAML file) with `key=value` overrides applied.

    Raises InputError naming the full path of a key at fault and the nearest valid one, or all environment variables
    that are not set.
    """
    above = [parse_overrides(overrides)]
    try:
        return _load(name, above)
    except UnsetVariablesError as error:
        raise InputError(f"{error}{_unset_for_init(name, above, error.variables)}") from None


def _load(name: str, above: Sequence[DictConfig]) -> Recipe:
    layers = [*_read_with_base(_find(name)), *above]
    kind = next((k for k in (OmegaConf.select(x, "objective.kind") for x in reversed(layers)) if k), None)
    if kind not in list(OBJECTIVES):  # a list or mapping has no hash
        raise InputError(f"{name}: objective.kind is {kind!r}; it must be one of {', '.join(OBJECTIVES)}")
    return _resolve(name, _schema(kind), layers)


def load_init_recipe(recipe: Recipe) -> Recipe:
    """The first stage of a run: `init_recipe` with the shared sections of the second one."""
    if recipe.init_recipe is None:
        raise InputError(f"{recipe.name}: init is {recipe.init}, so init_recipe or init_checkpoint must be set")
    shuffled = ["data.shuffled=true"] if recipe.init == "shuffled_triplets" else []
    shared = OmegaConf.create({key: _plain(recipe)[key] for key in SHARED_WITH_INIT})
    first = _load(recipe.init_recipe, [parse_overrides([*recipe.init_overrides, *shuffled]), shared])
    if recipe.init != "pretrained" and first.objective.kind != "perceptual_init":
        raise InputError(
            f"init_recipe {recipe.init_recipe}: its objective is {first.objective.kind}, not perceptual_init; "
            "pass init=pretrained to start from it all the same"
        )
    return first


def _unset_for_init(name: str, above: Sequence[DictConfig], known: Sequence[str]) -> str:
    """What to add about variables that the recipe's first stage needs besides the `known` ones; empty: nothing."""
    layers = [*_read_with_base(_find(name)), *above]
    raw = OmegaConf.to_container(OmegaConf.merge(*layers))
    assert isinstance(raw, dict)
    first = raw.get("init_recipe")
    if raw.get("init", "random") == "random" or not first or raw.get("init_checkpoint"):
        return ""
    shared = [OmegaConf.masked_copy(layer, [key for key in SHARED_WITH_INIT if key in layer]) for layer in layers]
    try:
        _load(first, [parse_overrides(raw.get("init_overrides") or []), *shared])
    except UnsetVariablesError as error:
        variables = [variable for variable in error.variables if variable not in known]
        return f"; its first stage {first} needs {listed(variables)} too" if variables else ""
    except InputError:
        pass  # is raised again when the first stage is read for itself
    return ""


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML that load_recipe reads back to an equal recipe."""
    return OmegaConf.to_yaml(OmegaConf.create(_plain(recipe)))


def recipe_names() -> list[str]:
    """Recipes that ship; files whose name starts with an underscore are bases."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml") if not p.stem.startswith("_"))


def first_difference(ours: Recipe, theirs: Recipe) -> str | None:
    """The path and the two values of the first setting that changes numbers and differs, or None."""
    a, b = (dict(leaves(_plain(r))) for r in (ours, theirs))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key) and not key.startswith(CHANGES_NO_NUMBER):
            return f"{key} is {a.get(key)!r}, there it is {b.get(key)!r}"
    return None


def _find(name: str) -> Path:
    path = user_path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        hint = did_you_mean(name, recipe_names()) or ";"
        raise InputError(f"{name}: no such recipe{hint} pineco recipes lists them, or pass a .yaml path")
    return path


def _read_with_base(path: Path) -> list[DictConfig]:
    layer = read_layer(path)
    base = layer.pop("extends", None)
    if base is None:
        return [layer]
    below = read_layer(path.parent / f"{base}.yaml")
    if "extends" in below:
        raise InputError(f"{path}: extends {base}, which extends another; one level is allowed")
    return [below, layer]


def _schema(kind: str) -> DictConfig:
    schema = OmegaConf.structured(Recipe)
    OmegaConf.set_readonly(schema, False)
    schema.objective = OmegaConf.structured(OBJECTIVES[kind].settings)
    schema.data = OmegaConf.structured(OBJECTIVES[kind].data)
    return schema


def _resolve(name: str, schema: DictConfig, layers: Sequence[DictConfig]) -> Recipe:
    recipe = merge(name, schema, layers, hidden=["toy_world"])
    assert isinstance(recipe, Recipe)
    return recipe


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain = OmegaConf.to_container(OmegaConf.structured(recipe))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
