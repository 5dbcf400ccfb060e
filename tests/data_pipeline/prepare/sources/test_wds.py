"""Class folders and captions as evaluation sets that evals, webdataset and CLIP_benchmark's users read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from pineco.data_pipeline.prepare.confine import MISSING, OUTSIDE
from pineco.data_pipeline.prepare.samples.images import FOREIGN
from pineco.data_pipeline.prepare.samples.texts import EMPTY_CAPTION
from pineco.evals.data.datasets import open_folder, read_examples
from tests.support.prepare_calls import Source, call, survives
from tests.support.prepared import URL, Prepare, photo, prepared, rejections, tree, write_classes
from tests.support.shards import encode

CLASSES = {"ant": 3, "bee": 0, "red fox": 4}


def keys(folder: Path) -> list[str]:
    """Of the samples, as webdataset finds them in the shards that nshards.txt counts."""
    count = int((folder / "test" / "nshards.txt").read_text())
    urls = [str(folder / "test" / f"{number}.tar") for number in range(count)]
    return [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]


def test_class_folders_are_read_back(tmp_path: Path, prepare: Prepare) -> None:
    """Labels would be of other classes, images lose bytes, or our own evaluation refuse what we packed."""
    source = write_classes(tmp_path / "src", CLASSES)
    (source / "ant" / "z.JPG").write_bytes(encode(Image.new("RGB", (4, 4)), "PNG"))
    assert prepare("wds", source, tmp_path / "dst", "--shard-size", 3).code == 0
    folder = open_folder(tmp_path / "dst")
    assert (folder.kind, folder.classnames, len(folder.shards)) == ("classification", tuple(CLASSES), 3)
    assert folder.class_prompts()[2] == ["a photo of red fox."]
    found = [(example.label, example.image) for example in read_examples(folder)]
    assert found[:3] == [(0, photo(i)) for i in range(3)]
    assert found[3] == (0, (source / "ant" / "z.JPG").read_bytes())
    assert found[4:] == [(2, photo(i)) for i in range(3, 7)]


def test_webdataset_finds_the_keys_of_the_layout(tmp_path: Path, prepare: Prepare) -> None:
    """Programs that look for s%07d and for KEY.cls would find nothing."""
    assert prepare("wds", write_classes(tmp_path / "src", CLASSES), tmp_path / "dst", "--shard-size", 5).code == 0
    assert keys(tmp_path / "dst") == [f"s{number:07d}" for number in range(7)]
    urls = str(tmp_path / "dst" / "test" / "{0..1}.tar")
    dataset = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
    assert [label for image, label in dataset if image.size == (24, 16)] == [0, 0, 0, 2, 2, 2, 2]


def test_only_the_named_split_is_packed(tmp_path: Path, prepare: Prepare) -> None:
    """A model would be measured on the images that it was trained on, or on classes called train and test."""
    write_classes(tmp_path / "src" / "train", {"a": 5, "b": 5})
    write_classes(tmp_path / "src" / "test", {"a": 1, "b": 1})
    done = prepare("wds", tmp_path / "src", tmp_path / "dst")
    assert (done.code, done.err.count("\n"), "pass --split test" in done.err) == (2, 1, True)
    assert prepare("wds", tmp_path / "src", tmp_path / "dst", "--split", "test").code == 0
    assert [example.label for example in read_examples(open_folder(tmp_path / "dst"))] == [0, 1]
    refused = prepare("wds", tmp_path / "src", tmp_path / "dst2", "--split", "../src/test")
    assert (refused.code, "no folder" in refused.err) == (2, True)


@pytest.mark.parametrize("name", ["names.txt", "names.json"])
def test_names_and_templates_of_the_user(tmp_path: Path, prepare: Prepare, name: str) -> None:
    """wnids would stand in prompts, or names of other classes."""
    source = write_classes(tmp_path / "src", {"n02": 1, "n01": 1})
    lines, table = "tench\ngreat white shark\n", {"n02": "great white shark", "n01": "tench", "n03": "hen"}
    (tmp_path / name).write_text(lines if name.endswith("txt") else json.dumps(table))
    (tmp_path / "templates.txt").write_text("a {c}.\nthe {c}\n")
    options = ("--classnames", tmp_path / name, "--templates", tmp_path / "templates.txt")
    assert prepare("wds", source, tmp_path / "dst", *options).code == 0
    prompts = open_folder(tmp_path / "dst").class_prompts()
    assert prompts == [["a tench.", "the tench"], ["a great white shark.", "the great white shark"]]


REFUSED = {
    "too few names": ("--classnames", "names.txt", "one\n", "1 lines, but 2 class folders"),
    "a blank name": ("--classnames", "names.txt", "one\n\n", "not blank"),
    "a folder without a name": ("--classnames", "names.json", '{"a": "x"}', "lacks 1 of 2 class folders"),
    "no mapping": ("--classnames", "names.json", "[1]", "must be {folder: name}"),
    "no JSON": ("--classnames", "names.json", "{", "no JSON"),
    "a template without a place": ("--templates", "t.txt", "a {c}\na photo\n", "line 2"),
    "a template with another field": ("--templates", "t.txt", "a {c} of {d}\n", "no other brace"),
    "no template": ("--templates", "t.txt", "", "no line"),
    "no such file": ("--templates", "t.txt", None, "No such file"),
    "no table": ("--captions", "t.csv", None, "no such file"),
    "a table without captions": ("--captions", "t.csv", "filepath\ttitle\n", "no row"),
    "a table without columns": ("--captions", "t.csv", "image,text\n", "no column filepath or title"),
}


@pytest.mark.parametrize(("option", "name", "content", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_files_are_one_line(
    tmp_path: Path, prepare: Prepare, option: str, name: str, content: str | None, words: str
) -> None:
    """A set would be packed whose classes or prompts are shifted, and every figure on it be wrong."""
    if content is not None:
        (tmp_path / name).write_text(content)
    done = prepare("wds", write_classes(tmp_path / "src", {"a": 1, "b": 1}), tmp_path / "dst", option, tmp_path / name)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert not (tmp_path / "dst").exists()


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path, prepare: Prepare) -> None:
    """The evaluation would refuse the whole set for one GIF; or files from outside of SRC be published."""
    source = write_classes(tmp_path / "src", {"a": 2, "b": 2})
    (source / "a" / "0.JPEG").write_bytes(encode(Image.new("P", (4, 4)), "GIF"))
    (tmp_path / "secret.jpg").write_bytes(photo(9))
    (source / "b" / "x.jpg").symlink_to(tmp_path / "secret.jpg")
    done = prepare("wds", source, tmp_path / "dst")
    assert (done.code, "rejected 1: " in done.out) == (0, True)
    assert rejections(tmp_path / "dst") == {"a/0.JPEG": FOREIGN, "b/x.jpg": OUTSIDE}
    assert [example.image for example in read_examples(open_folder(tmp_path / "dst"))] == [photo(i) for i in (1, 2, 3)]
    assert keys(tmp_path / "dst") == ["s0000001", "s0000002", "s0000003"], "a key says which image of SRC it was"


def test_a_shard_without_samples_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    """nshards.txt would count a shard that is not there, and no program read the set."""
    source = write_classes(tmp_path / "src", {"a": 2, "b": 2})
    for path in (source / "a").iterdir():
        path.write_bytes(b"no image")
    done = prepare("wds", source, tmp_path / "dst", "--shard-size", 2)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "none of 2 images in a row, up to 'a/1.JPEG'" in done.err
    assert not prepared(tmp_path / "dst")["complete"]


def write_captions(root: Path) -> Path:
    """A table of three images, one of them without a usable caption, one missing."""
    write_classes(root, {"images": 3})
    rows = ["image,caption", 'images/0.JPEG,"a dog\nruns"', "images/1.JPEG,a cat", "images/0.JPEG, two dogs "]
    rows += ["images/2.JPEG, ", "images/9.JPEG,nothing"]
    (root.parent / "captions.csv").write_text("\n".join(rows))
    return root.parent / "captions.csv"


def test_captions_become_a_retrieval_set(tmp_path: Path, prepare: Prepare) -> None:
    """Captions would belong to other images, or one with a line end count as two."""
    table = write_captions(tmp_path / "src")
    columns = ("--csv-separator", ",", "--csv-img-key", "image", "--csv-caption-key", "caption")
    assert prepare("wds", tmp_path / "src", tmp_path / "dst", "--captions", table, *columns).code == 0
    folder = open_folder(tmp_path / "dst")
    assert folder.kind == "retrieval"
    found = [(example.image, example.captions) for example in read_examples(folder)]
    assert found == [(photo(0), ("a dog runs", "two dogs")), (photo(1), ("a cat",))]
    assert rejections(tmp_path / "dst") == {"images/2.JPEG": EMPTY_CAPTION, "images/9.JPEG": MISSING}


def test_captions_take_no_class_names(tmp_path: Path, prepare: Prepare) -> None:
    """The user would believe that the templates were used."""
    table = write_captions(tmp_path / "src")
    done = prepare("wds", tmp_path / "src", tmp_path / "dst", "--captions", table, "--templates", table)
    assert (done.code, "leave it out" in done.err) == (2, True)


def test_killed_at_every_write_and_called_again(tmp_path: Path) -> None:
    """An evaluation set would lack shards that nshards.txt counts, or hold half of one."""
    source: Source = "wds", write_classes(tmp_path / "src", CLASSES), ("--shard-size", "3")
    assert call(source, tmp_path / "whole") == 0
    expected = tree(tmp_path / "whole")
    assert {"test/0.tar", "test/2.tar", "test/nshards.txt", "prepare/00002.json"} <= expected.keys()
    assert survives(source, lambda destination: None, tmp_path, expected) >= len(expected) - 1


def test_processes_change_no_byte(tmp_path: Path) -> None:
    """The same set packed on two machines would not be the same set; or workers write elsewhere."""
    source: Source = "wds", write_classes(tmp_path / "src", CLASSES), ("--shard-size", "2")
    for count in (1, 3):
        assert call(source, tmp_path / f"dst{count}", count) == 0
    assert tree(tmp_path / "dst1") == tree(tmp_path / "dst3")


@pytest.mark.parametrize("name", ["test/0.tar", "test/nshards.txt", "classnames.txt"])
def test_what_was_lost_is_made_again_and_nothing_else(tmp_path: Path, prepare: Prepare, name: str) -> None:
    """A set of which a file was deleted could not be mended; or its shards be replaced while they are read."""
    source = write_classes(tmp_path / "src", CLASSES)
    prepare("wds", source, tmp_path / "dst", "--shard-size", 3)
    expected = tree(tmp_path / "dst")
    kept = (tmp_path / "dst" / "test" / "1.tar").stat().st_ino
    (tmp_path / "dst" / name).unlink()
    assert prepare("wds", source, tmp_path / "dst", "--shard-size", 3).code == 0
    assert tree(tmp_path / "dst") == expected
    assert (tmp_path / "dst" / "test" / "1.tar").stat().st_ino == kept


def test_other_prompts_need_another_place(tmp_path: Path, prepare: Prepare) -> None:
    """One folder would hold the shards of one call and the prompts of another."""
    source = write_classes(tmp_path / "src", CLASSES)
    (tmp_path / "templates.txt").write_text("the {c}")
    assert prepare("wds", source, tmp_path / "dst").code == 0
    done = prepare("wds", source, tmp_path / "dst", "--templates", tmp_path / "templates.txt")
    assert (done.code, "choose another DST" in done.err) == (2, True)


def test_a_bucket_holds_the_same_files(tmp_path: Path, prepare: Prepare, bucket: Path) -> None:
    """In S3 the shards would lie beside the folder test/, where nobody looks for them."""
    source = write_classes(tmp_path / "src", CLASSES)
    assert prepare("wds", source, tmp_path / "dst", "--shard-size", 3).code == 0
    assert prepare("wds", source, URL, "--shard-size", 3).code == 0
    local = tree(tmp_path / "dst")
    del local["prepare/lock"]
    assert tree(bucket / "data" / "set") == local
    assert len(list(read_examples(open_folder(URL)))) == 7
