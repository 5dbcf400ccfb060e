"""Class names and prompts: which files win, prompts made for one class, and what is packaged."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.datasets import open_folder, resolve_tasks
from pineco.evals.data.prompts import FOLDER, is_packaged, packaged
from pineco.evals.data.tasks import load_tasks

SPECIFIC = {"blue": ["the sky."], "red": ["a tomato.", "blood."], "green": ["grass."]}


@pytest.fixture
def folder(colour_set: Path) -> Path:
    (colour_set / "cupl_prompts.json").write_text(json.dumps(SPECIFIC))
    return colour_set


def test_templates_are_the_default(folder: Path) -> None:
    """A file that lies there would change the figures of everybody who did not ask for it."""
    found = open_folder(folder)
    assert found.prompts_from == "folder"
    assert found.class_prompts()[1] == ["a green thing.", "something green"]


def test_prompts_made_for_a_class_follow_the_order_of_classes(folder: Path) -> None:
    """A class would be described by the prompts of another one."""
    found = open_folder(folder, prompts="cupl")
    assert found.prompts_from == "cupl_prompts.json"
    assert found.class_prompts() == [["a tomato.", "blood."], ["grass."], ["the sky."]]
    both = open_folder(folder, prompts="both")
    assert both.prompts_from == "folder + cupl_prompts.json"
    assert both.class_prompts()[0] == ["a red thing.", "something red", "a tomato.", "blood."]


@pytest.mark.parametrize("name", ["vtab/pets", "pets"])
def test_a_file_for_many_sets_is_read(name: str, folder: Path) -> None:
    """The file that clip-benchmark's users have would have to be cut into pieces."""
    (folder / "cupl_prompts.json").write_text(json.dumps({"mnist": {"0": ["zero"]}, name: SPECIFIC}))
    assert open_folder(folder, "vtab/pets", prompts="cupl").class_prompts()[2] == ["the sky."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cupl_prompts.json: missing; prompts 'cupl' need it"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "must be {class name"),
        ('{"red": "a tomato"}', "must be {class name"),
        (json.dumps(SPECIFIC | {"red": []}), "at least one prompt"),
        (json.dumps(SPECIFIC | {"red": [" "]}), "none blank"),
        (json.dumps({"red": ["a"], "Green": ["b"], "blue": ["c"]}), "lacks 'green' and has unknown 'Green'; its keys"),
        (json.dumps({"red": ["a"]}), "lacks 'green', 'blue'; its keys must be the lines of classnames.txt"),
        (
            json.dumps(SPECIFIC | {f"c{i}": ["a"] for i in range(9)}),
            "has unknown 'c0', 'c1', 'c2' and 6 more; its keys",
        ),
    ],
)
def test_a_bad_file_is_one_line(content: str | None, message: str, folder: Path) -> None:
    """A class without prompts would be measured with none, or with those of another class."""
    path = folder / "cupl_prompts.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="^" + str(path)) as caught:
        open_folder(folder, prompts="cupl")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_packaged_prompts_stand_in_only_for_both_files(
    write_folder: Callable[..., Path], picture: Callable[..., bytes]
) -> None:
    """Names in one order would meet labels in another one, or a set that brings its own would get ours."""
    root = write_folder("mnist", [{"jpg": picture(), "cls": b"9"}], classnames=None, templates=None)
    [(_, folder)] = resolve_tasks(root.parent, "mnist")
    assert folder.prompts_from == "packaged"
    assert folder.classnames == tuple("0123456789")
    assert any("9" in prompt for prompt in folder.class_prompts()[9])
    (root / "zeroshot_classification_templates.txt").write_text("{c}!\n")
    with pytest.raises(InputError, match=r"classnames\.txt: missing"):
        resolve_tasks(root.parent, "mnist")
    (root / "classnames.txt").write_text("\n".join("abcdefghij"))
    [(_, own)] = resolve_tasks(root.parent, "mnist")
    assert (own.prompts_from, own.class_prompts()[0]) == ("folder", ["a!"])


def test_every_packaged_file_fits_its_benchmark() -> None:
    """A name too many or too few would shift the classes after it."""
    keys = {key for key in load_tasks() if is_packaged(key)}
    files = {path.stem for path in FOLDER.glob("*.yaml")}
    assert {key.removeprefix("vtab/") for key in keys} - {"voc2007_multilabel"} >= files
    for key in keys:
        found = packaged(key)
        assert found is not None
        assert len(found.classnames) == load_tasks()[key].classes, key
        assert len(set(found.templates)) == len(found.templates) > 0
        assert all("{c}" in template for template in found.templates), key
        if found.source == "packaged":
            assert len(set(found.classnames)) == len(found.classnames), key
            assert all(isinstance(text, str) and text.strip() == text for text in found.classnames), key


@pytest.mark.parametrize("name", ["cifar100", "dtd", "food101", "resisc45", "stl10", "voc2007"])
def test_alphabetical_sets_are_alphabetical(name: str) -> None:
    """The labels of these sets follow the alphabet; a name out of place would stand for two wrong classes."""
    names = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["classnames"]
    assert names == sorted(names, key=str.lower)


def test_packaged_names_have_the_order_of_real_sets(real_data: Path) -> None:
    """Class 3 of the images would be called by the name of another class."""
    for key in ("cifar10", "mnist"):
        theirs = (real_data / "wds" / key / "classnames.txt").read_text().split()
        ours = packaged(key)
        assert ours is not None
        assert list(ours.classnames) == theirs
    ids = (real_data / "wds" / "imagenet1k_sample" / "classnames.txt").read_text().splitlines()
    imagenet = packaged("imagenet1k")
    assert imagenet is not None
    assert list(imagenet.classnames) == ids
    assert imagenet.source == "open_clip"
    templates = (real_data / "wds" / "imagenet1k_sample" / "zeroshot_classification_templates.txt").read_text()
    assert list(imagenet.templates) == templates.splitlines()


@pytest.mark.parametrize("key", ["", "..", "vtab/..", "../prompts/mnist", "flickr8k", "colours", "fer2013"])
def test_other_names_have_none(key: str) -> None:
    """A key would be a way to other files, or fer2013 be measured in one of its two orders of classes."""
    assert packaged(key) is None


def test_folders_with_texts_need_no_torch(colour_set: Path) -> None:
    """Checking what is asked for would take the seconds of a torch import."""
    code = (
        "import sys; from pineco.evals.data.datasets import resolve_tasks, layout_needed;"
        "from pineco.evals.data.tasks import load_tasks;"
        f"resolve_tasks({str(colour_set.parent)!r}, 'colours'); layout_needed(load_tasks()['imagenet1k']);"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
