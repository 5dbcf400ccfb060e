"""Recipes: strict, typed, torch-free, and the published numbers as they were published."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.recipe.data import TripletSettings
from pineco.pretrain.recipe.load import first_difference, load_init_recipe, load_recipe, recipe_names, recipe_yaml
from pineco.pretrain.recipe.objectives import OBJECTIVES, PerceptualInitSettings

VARIABLES = (
    "PINECO_DATA", "PINECO_NIGHTS", "PINECO_YFCC15M", "PINECO_BENCHMARKS", "PINECO_BACKBONE", "PINECO_IMAGES",
    "PINECO_BAPPS", "PINECO_THINGS", "PINECO_IMAGENET_TRIPLETS", "PINECO_DINO", "PINECO_CLIP",
    "PINECO_OPENCLIP", "PINECO_TEXT",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, f"/somewhere/{name.lower()}")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_loads_and_so_does_its_first_stage(name: str) -> None:
    """A recipe with a typing error would fail only when somebody's job starts."""
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.objective.kind in OBJECTIVES
    if recipe.init == "pretrained":
        first = load_init_recipe(recipe)
        assert (first.model, first.seed, first.engine) == (recipe.model, recipe.seed, recipe.engine)
        return
    for init in ("perceptual", "shuffled_triplets") if recipe.init_recipe else ():
        first = load_init_recipe(load_recipe(name, [f"init={init}"]))
        assert first.objective.kind == "perceptual_init"
        assert isinstance(first.data, TripletSettings)
        assert first.data.shuffled == (init == "shuffled_triplets")
        assert (first.model, first.seed, first.engine) == (recipe.model, recipe.seed, recipe.engine)


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_recipe_reads_back_equal(name: str, tmp_path: Path) -> None:
    """recipe.yaml of a run directory would not describe the run."""
    recipe = load_recipe(name, ["seed=7", "schedule.epochs=3"])
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(recipe))
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("schedule.epoch=3", ["unknown key schedule.epoch", "did you mean schedule.epochs"]),
        ("objective.margins=1", ["unknown key objective.margins"]),
        ("optimiser.lr=1", ["unknown key optimiser", "did you mean optimizer"]),
        ("toy_world.settings.train_pair=1", ["toy_world.settings.train_pair", "train_pairs"]),
        ("optimizer.lr=fast", ["optimizer.lr", "'fast'"]),
        ("engine.zero_stage=3", ["engine.zero_stage", "3"]),
        ("init=perceptuall", ["init", "perceptuall", "shuffled_triplets"]),
        ("data.batch_size=100", ["data.batch_size is 100", "multiple"]),
        ("data.workers=0", ["data.workers is 0"]),
        ("schedule.epochs=0", ["schedule.epochs is 0"]),
        ("objective.kind=clipp", ["'clipp'", "clip, perceptual_init"]),
        ("init_recipe=null", ["init_recipe"]),
        ("schedule.steps=0", ["schedule.steps is 0"]),
        ("checkpoint.every_epochs=0", ["checkpoint.every_epochs is 0"]),
        ("data.prefetch=-1", ["data.prefetch is -1"]),
        ("schedule.warmup=-5", ["schedule.warmup is -5"]),
        ("data.crop_scale=[2.0,3.0]", ["data.crop_scale is [2.0, 3.0]"]),
        ("data.crop_scale=[0.5]", ["data.crop_scale has 1 values; it must have 2"]),
        ("evaluation.batch_size=0", ["evaluation.batch_size is 0"]),
        ("optimizer.lr=0", ["optimizer.lr is 0.0", "positive"]),
        ("optimizer.lr=.inf", ["optimizer.lr is inf", "finite"]),
        ("optimizer.eps=0", ["optimizer.eps is 0.0", "positive"]),
        ("optimizer.eps=.nan", ["optimizer.eps is nan", "positive"]),
        ("optimizer.weight_decay=-0.1", ["optimizer.weight_decay is -0.1", "not negative"]),
        ("optimizer.weight_decay=.inf", ["optimizer.weight_decay is inf", "finite"]),
        ("optimizer.weight_decay_end=-1", ["optimizer.weight_decay_end is -1.0", "not negative"]),
        ("optimizer.betas=[0.9,1.0]", ["optimizer.betas is [0.9, 1.0]", "[0, 1)"]),
        ("optimizer.betas=[-0.1,0.9]", ["optimizer.betas is [-0.1, 0.9]", "[0, 1)"]),
        ("optimizer.betas=[.nan,0.9]", ["optimizer.betas is [nan, 0.9]", "[0, 1)"]),
        ("schedule.epochs={", ["schedule.epochs={", "no YAML"]),
        ("noequals", ["key=value"]),
    ],
)
def test_a_bad_override_is_named_with_its_path_and_the_nearest_key(override: str, parts: list[str]) -> None:
    """A misspelt setting would be ignored, and the run would not be what was asked for."""
    with pytest.raises(InputError) as error:
        load_recipe("clip_toy", [override])
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


def test_the_limits_of_the_optimizer_are_allowed() -> None:
    """A bound that is off by one would refuse plain Adam, or SGD-like runs without momentum."""
    overrides = ["optimizer.weight_decay=0", "optimizer.weight_decay_end=0", "optimizer.betas=[0.0,0.0]"]
    optimizer = load_recipe("clip_toy", overrides).optimizer
    assert (optimizer.weight_decay, optimizer.weight_decay_end, [*optimizer.betas]) == (0, 0, [0, 0])


def test_layers_override_in_order(tmp_path: Path) -> None:
    """defaults <- base <- file <- overrides: a base that wins would change every recipe built on it."""
    (tmp_path / "base.yaml").write_text("objective: {kind: clip}\nseed: 1\nlog_every: 2\nschedule: {epochs: 5}\n")
    (tmp_path / "mine.yaml").write_text("extends: base\nname: mine\nlog_every: 3\nschedule: {warmup: 4}\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"), ["schedule.warmup=6"])
    assert (recipe.seed, recipe.log_every) == (1, 3)
    assert (recipe.schedule.epochs, recipe.schedule.warmup, recipe.schedule.decay) == (5, 6, "cosine")
    (tmp_path / "third.yaml").write_text("extends: mine\nname: third\n")
    with pytest.raises(InputError, match="one level"):
        load_recipe(str(tmp_path / "third.yaml"))


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b\n", "!!python/object/apply:os.system ['true']"])
def test_a_broken_file_is_one_clear_line(text: str, tmp_path: Path) -> None:
    """A person would see a traceback, or YAML could run code."""
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml") as error:
        load_recipe(str(tmp_path / "bad.yaml"))
    assert "\n" not in str(error.value)


def test_a_missing_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person would not know what to set."""
    monkeypatch.delenv("PINECO_DATA")
    with pytest.raises(
        InputError, match=r"^flickr8k_tiny: set the environment variable PINECO_DATA, or pass data_root=[.]{3}$"
    ):
        load_recipe("flickr8k_tiny")
    assert load_recipe("flickr8k_tiny", ["data_root=/elsewhere"]).data.root == "/elsewhere/pairs/flickr8k/train"


def test_all_missing_environment_variables_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person would set one, wait, and be told of the next; the first stage's would stop the run later still."""
    for name in ("PINECO_TEXT", "PINECO_YFCC15M", "PINECO_NIGHTS"):
        monkeypatch.delenv(name)
    told = "clip_vitb32_yfcc15m_text: set the environment variables PINECO_TEXT and PINECO_YFCC15M"
    told += ", or pass objective.text_weights=... data.root=..."
    with pytest.raises(InputError) as error:
        load_recipe("clip_vitb32_yfcc15m_text", ["init=random"])
    assert str(error.value) == told
    with pytest.raises(InputError) as error:
        load_recipe("clip_vitb32_yfcc15m_text", ["init=perceptual"])
    assert str(error.value) == f"{told}; its first stage pi_vitb32_nights needs PINECO_NIGHTS too"


def test_a_missing_variable_within_a_list_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The members of an ensemble have no keys of their own that could be passed."""
    monkeypatch.delenv("PINECO_CLIP")
    with pytest.raises(InputError, match=r"variable PINECO_CLIP, or pass objective\.ensemble="):
        load_recipe("align_ensemble_vitb16")


def test_overrides_of_shared_sections_reach_the_first_stage() -> None:
    """The two stages would read different toy worlds or build different models."""
    recipe = load_recipe("clip_toy", ["toy_world.root=/t", "seed=9", "init_overrides=[schedule.epochs=2]"])
    first = load_init_recipe(recipe)
    assert first.data.root == "/t/shards/triplets"
    assert (first.seed, first.schedule.epochs) == (9, 2)


def test_the_first_stage_must_be_perceptual_initialisation() -> None:
    """CLIP would be started from CLIP, and called perceptual."""
    with pytest.raises(InputError, match="init_recipe clip_toy: its objective is clip"):
        load_init_recipe(load_recipe("clip_toy", ["init_recipe=clip_toy"]))


def test_first_difference_names_key_and_values() -> None:
    """A run directory of another recipe would be refused without saying why."""
    assert first_difference(load_recipe("clip_toy"), load_recipe("clip_toy")) is None
    difference = first_difference(load_recipe("clip_toy"), load_recipe("clip_toy", ["optimizer.lr=1"]))
    assert difference == "optimizer.lr is 0.001, there it is 1.0"


@pytest.mark.parametrize("override", ["data.workers=7", "engine.zero_stage=2", "checkpoint.keep=9", "log_every=1"])
def test_what_changes_no_number_does_not_bar_a_resume(override: str) -> None:
    """A run could not go on with more loader threads or on another engine."""
    assert first_difference(load_recipe("clip_toy"), load_recipe("clip_toy", [override])) is None
    assert first_difference(load_recipe("clip_toy"), load_recipe("clip_toy", ["engine.precision=fp32"])) is not None


def test_published_settings_of_perceptual_initialisation() -> None:
    """The recipe would claim a paper's name with other numbers (arXiv 2505.14204, stage 1)."""
    recipe = load_recipe("pi_vitb32_nights")
    assert isinstance(recipe.objective, PerceptualInitSettings)
    assert isinstance(recipe.data, TripletSettings)
    assert (recipe.model, recipe.seed, recipe.objective.margin) == ("ViT-B-32", 42, 0.05)
    assert (recipe.data.batch_size, recipe.data.min_votes, recipe.engine.precision) == (768, 6, "bf16")
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas, optimizer.eps) == (5e-4, 0.1, (0.9, 0.98), 1e-8)
    assert (recipe.schedule.epochs, recipe.schedule.warmup, recipe.schedule.decay) == (32, 150, "cosine")


def test_published_settings_of_clip_on_yfcc15m() -> None:
    """The recipe would claim a paper's name with other numbers (arXiv 2505.14204, stage 2)."""
    recipe = load_recipe("clip_vitb32_yfcc15m")
    assert (recipe.model, recipe.data.accumulation, recipe.engine.precision) == ("ViT-B-32", 6, "bf16")
    assert recipe.data.batch_size == 1024 * 6 * 6
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas, optimizer.eps) == (5e-4, 0.1, (0.9, 0.98), 1e-8)
    assert (optimizer.clip_grad, recipe.schedule.epochs, recipe.schedule.warmup) == (3.0, 32, 2500)
    assert (recipe.checkpoint.every_epochs, recipe.evaluation.tasks) == (1, "paper29,paper2")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("objective.caption_weight=-1", ["objective.caption_weight is -1.0", "not negative"]),
        ("objective.caption_weight=.nan", ["objective.caption_weight is nan", "finite"]),
        ("objective.caption_weight=.inf", ["objective.caption_weight is inf", "finite"]),
        ("objective.features=cls", ["caption_weight is 1.0 and objective.features cls", "features=embedding"]),
        ("objective.max_logit_scale=0.5", ["objective.max_logit_scale is 0.5", "at least 1"]),
        ("data.caption=an image", ["data.caption is 'an image'", "{} must stand in it once"]),
        ("data.caption='{} {}'", ["data.caption is '{} {}'", "{} must stand in it once"]),
    ],
)
def test_bad_settings_of_captions_are_one_line(override: str, parts: list[str]) -> None:
    """A first stage would diverge, train a projection that nobody reads, or learn one caption for all images."""
    with pytest.raises(InputError) as error:
        load_recipe("pi_toy_captions", [override])
    assert str(error.value).startswith("pi_toy_captions: ")
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("with_captions", "without"),
    [("pi_toy_captions", "pi_toy"), ("pi_vitb32_nights_captions", "pi_vitb32_nights")],
)
def test_a_first_stage_with_captions_differs_in_them_alone(with_captions: str, without: str) -> None:
    """The control would be compared with another run than the one it is the control of."""
    plain = ["name=x", "objective.caption_weight=0", "data.caption='{}'"]
    assert load_recipe(with_captions, plain) == load_recipe(without, ["name=x"])
    objective = load_recipe(with_captions).objective
    assert isinstance(objective, PerceptualInitSettings)
    assert objective.caption_weight == 1.0


@pytest.mark.parametrize(
    ("with_captions", "without", "first"),
    [
        ("clip_toy_captions", "clip_toy", "pi_toy_captions"),
        ("clip_vitb32_yfcc15m_captions", "clip_vitb32_yfcc15m", "pi_vitb32_nights_captions"),
    ],
)
def test_a_second_stage_with_captions_differs_in_its_first_alone(with_captions: str, without: str, first: str) -> None:
    """The control would be compared with another run than the one it is the control of."""
    same = ["name=x", f"init_recipe={first}"]
    assert load_recipe(with_captions, same[:1]) == load_recipe(without, same)


@pytest.mark.parametrize("arguments", [["--help"], ["clip_toy", "--check"]])
def test_help_and_validation_import_no_torch(arguments: list[str]) -> None:
    """A login node would wait seconds for every typing error."""
    code = "import sys; from pineco.launch.train.run import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1]
    assert "'pineco.pretrain.recipe.settings'" in modules
    assert "'torch'" not in modules
    assert "'numpy'" not in modules
