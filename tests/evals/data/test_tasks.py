"""The table of benchmarks and the language that selects from it."""

import csv
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.hints import nearest
from pineco.evals.data.tasks import Task, load_tasks, select_tasks

ROW = "- {key: a, kind: classification, size: 4, classes: 2, main_metric: acc1, group: g}\n"


def keys(selection: str) -> list[str]:
    return [task.key for task in select_tasks(selection, load_tasks().values())]


def test_the_paper_suite_is_whole() -> None:
    """A benchmark of the published suite would be missing from, or added to, its average."""
    assert len(keys("paper29")) == 29
    assert keys("paper2") == ["flickr30k", "mscoco_captions"]
    by_recall = [t.key for t in load_tasks().values() if t.main_metric == "mean_per_class_recall"]
    assert by_recall == ["vtab/caltech101", "fgvc_aircraft", "vtab/flowers", "vtab/pets"]


def test_the_paper_suite_is_the_reference_one(real_data: Path) -> None:
    """A figure would be compared with a published one of another size, number of classes or metric."""
    path = real_data.parent / "reference" / "benchmarks.csv"
    if not path.is_file():
        pytest.skip("needs reference/benchmarks.csv beside the folder that PINECO_DATA names")
    with path.open(newline="") as file:
        expected = list(csv.DictReader(file))
    ours = [
        {
            "key": task.key,
            "size": str(task.size),
            "classes": str(task.classes or ""),
            "main_metric": task.main_metric,
            "group": task.group,
        }
        for task in select_tasks("paper29+paper2", load_tasks().values())
    ]
    assert ours == expected


def test_clip_benchmarks_list_is_whole() -> None:
    """A set that clip-benchmark measures could not be measured here."""
    tagged = set(keys("paper29,paper2"))
    rest = [task for task in load_tasks().values() if task.group not in ("toy", "small") and task.key not in tagged]
    assert len(tagged) + len(rest) + 1 == 43  # its 41, of which flickr8k stands in `small`; cifar10 and food101
    assert [task.key for task in rest if task.kind == "multilabel"] == ["voc2007_multilabel"]
    assert load_tasks()["voc2007_multilabel"].chance is None


def test_toy_rows_agree_with_the_toy_world() -> None:
    """The toy world's sets would be refused for their number of classes, or reported with another chance."""
    from pineco.data_pipeline.toy_world.samples import ZERO_SHOT_SETS

    rows = {key: task.classes for key, task in load_tasks().items() if task.group == "toy"}
    made = {name: len(kind.classnames) for name, kind in ZERO_SHOT_SETS.items()}
    assert rows == made | {"toy_retrieval": None}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("mnist,cifar10", ["mnist", "cifar10"]),
        (" mnist , mnist ,", ["mnist"]),
        ("paper2 + mnist", ["flickr30k", "mscoco_captions", "mnist"]),
        ("mnist+cifar10,dtd10", ["mnist", "cifar10", "dtd10"]),
        ("small", ["imagenet1k_sample", "dtd10", "flickr8k"]),
        (
            "toy_*",
            ["toy_shapes", "toy_objects", "toy_counts", "toy_textures", "toy_layouts", "toy_retrieval"],
        ),
        ("cifar10,imagenet-?", ["cifar10", "imagenet-a", "imagenet-o", "imagenet-r"]),
    ],
)
def test_selection(selection: str, expected: list[str]) -> None:
    """A command line would measure other benchmarks than it names, or some twice."""
    assert keys(selection) == expected


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """A typing error would be measured as nothing."""
    with pytest.raises(InputError, match="'cifra10'; nearest is 'cifar10'"):
        keys("mnist,cifra10")
    with pytest.raises(InputError, match="names no task"):
        keys(" , ")
    assert nearest("x", []) == ""


def test_a_users_folder_is_found_after_the_table() -> None:
    """A data set without a row could not be measured, or one with a row would lose its main metric."""
    own = [
        Task(key=k, kind="classification", size=None, classes=3, main_metric="acc1", group="own")
        for k in ("birds", "vtab/pets")
    ]
    chosen = select_tasks("birds,vtab/pets", load_tasks().values(), own)
    assert [(t.key, t.group) for t in chosen] == [("birds", "own"), ("vtab/pets", "vtab")]


def test_chance() -> None:
    """A figure would be compared with another level than guessing reaches."""
    tasks = load_tasks()
    assert tasks["cifar10"].chance == 0.1
    assert tasks["flickr30k"].chance == 1 / 1000
    assert tasks["flickr8k"].chance == 10 / 1000
    assert (
        Task(key="own", kind="retrieval", size=None, classes=None, main_metric="mean_recall@10", group="own").chance
        is None
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "a list of rows"),
        ("- a", "must be a mapping"),
        (ROW.replace("size", "sise"), "unknown field 'sise'; nearest is 'size'"),
        (ROW.replace("size: 4, ", ""), "lacks size"),
        (ROW.replace("size: 4", "size: many"), "positive integers"),
        (ROW.replace("classes: 2, ", ""), "positive integers"),
        (ROW.replace("classification", "segmentation"), "is none of classification, retrieval, multilabel"),
        (ROW.replace("acc1", "mean_recall@1"), "one of acc1"),
        (ROW.replace("classification", "retrieval").replace("acc1", "mean_recall@1"), "has no classes"),
        (ROW.replace("classification", "multilabel"), "main_metric of multilabel is one of mean_average_precision"),
        (ROW.replace("group: g", "group: [g]"), "must be strings"),
        (ROW + ROW, "row 2: the key 'a' stands twice"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    """A wrong row would be used silently, with a wrong chance level or main metric."""
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_tasks(path)
