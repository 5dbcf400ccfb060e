"""Where shards may go, and what stops a preparation before it begins: one line, exit code 2, nothing written."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pineco.data_pipeline.prepare.samples.images import EMPTY
from pineco.data_pipeline.stores.tar_writer import TarWriter
from tests.support.commands import command
from tests.support.prepared import Done, Prepare, photo, prepared, rejections, tree, write_pairs
from tests.support.triplet_sets import nights_row, write_nights

main = command("data prepare")


def refused(done: Done, words: str) -> None:
    assert done.code == 2
    assert words in done.err
    assert done.err.startswith("pineco: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["yfcc15m", "image-folder", "nights", "bapps", "things"])
@pytest.mark.parametrize("state", ["missing", "empty", "a file", "something else"])
def test_a_source_that_is_none_is_refused(tmp_path: Path, prepare: Prepare, kind: str, state: str) -> None:
    """A slip of the keyboard would end as an empty data set."""
    source = tmp_path / "src"
    if state == "a file":
        source.write_text("x")
    elif state != "missing":
        source.mkdir()
    if state == "something else":
        (source / "README.md").write_text("x")
    refused(prepare(kind, source, tmp_path / "dst"), "src")
    assert not (tmp_path / "dst").exists()


def test_shards_do_not_go_where_other_things_are(tmp_path: Path, prepare: Prepare) -> None:
    """Other shards would become part of the data set, or be overwritten."""
    source = write_pairs(tmp_path / "src")
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "00000.tar").write_bytes(b"somebody's")
    refused(prepare("yfcc15m", source, tmp_path / "dst"), "00000.tar")
    assert tree(tmp_path / "dst") == {"00000.tar": b"somebody's"}


def test_a_folder_called_prepare_is_not_taken_for_ours(tmp_path: Path, prepare: Prepare) -> None:
    """Somebody's folder would be written into and its drafts cleared away."""
    (tmp_path / "dst" / "prepare").mkdir(parents=True)
    (tmp_path / "dst" / "prepare" / "notes").write_text("x")
    refused(prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst"), "'prepare'")


@pytest.mark.parametrize("place", ["", "dst", "a/b/dst", "../src/dst", "link"])
def test_shards_do_not_go_into_their_source(tmp_path: Path, prepare: Prepare, place: str) -> None:
    """The next call would take shards for their own source."""
    source = write_pairs(tmp_path / "src")
    before = tree(source)
    (tmp_path / "link").symlink_to(source)
    destination = tmp_path / "link" / "dst" if place == "link" else source / place
    refused(prepare("yfcc15m", source, destination), "inside SRC")
    assert tree(source) == before


@pytest.mark.parametrize(
    "root", ["pipe:cat", "file:///tmp/x", "http://x/y", "https://x/y", "gs://b", "s3://", "s3://b/../c"]
)
def test_other_schemes_are_refused(
    tmp_path: Path, prepare: Prepare, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1: a folder called `pipe:cat` would appear, or data go where nobody meant it to."""
    monkeypatch.chdir(tmp_path)
    source = write_pairs(tmp_path / "src")
    refused(prepare("yfcc15m", source, root), "s3://bucket/prefix")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize("source", ["s3://bucket/raw", "https://example.org/x.tar"])
def test_nothing_is_fetched(tmp_path: Path, prepare: Prepare, source: str) -> None:
    """S1: a URL would be opened by some library."""
    done = prepare("yfcc15m", source, tmp_path / "dst")
    refused(done, "SRC must be on this machine")


def test_a_destination_that_is_a_file_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    """A traceback, or a file overwritten."""
    (tmp_path / "dst").write_text("x")
    refused(prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst"), "is a file")


def test_other_options_do_not_mix(tmp_path: Path, prepare: Prepare) -> None:
    """Half of the shards would have other images than the other half."""
    source = write_pairs(tmp_path / "src")
    prepare("yfcc15m", source, tmp_path / "dst")
    before = tree(tmp_path / "dst")
    refused(prepare("yfcc15m", source, tmp_path / "dst", "--resize", 8), "option resize None, not 8")
    (source / "00003.tar").write_bytes((source / "00000.tar").read_bytes())
    refused(prepare("yfcc15m", source, tmp_path / "dst"), "SRC holds other things")
    assert tree(tmp_path / "dst") == before


def test_another_version_does_not_mix(tmp_path: Path, prepare: Prepare) -> None:
    """A newer program would go on with shards whose bytes it would write otherwise."""
    source = write_pairs(tmp_path / "src")
    prepare("yfcc15m", source, tmp_path / "dst")
    (tmp_path / "dst" / "prepare.json").write_text(json.dumps(prepared(tmp_path / "dst") | {"version": 0}))
    refused(prepare("yfcc15m", source, tmp_path / "dst"), "version 0, not 1")


@pytest.mark.parametrize("name", ["prepare.json", "prepare/00001.json"])
@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"number": 1}', "[" * 100_000])
def test_damaged_records_are_named(tmp_path: Path, prepare: Prepare, name: str, content: str) -> None:
    """A traceback instead of the name of the file at fault."""
    source = write_pairs(tmp_path / "src")
    prepare("yfcc15m", source, tmp_path / "dst")
    (tmp_path / "dst" / name).write_text(content)
    refused(prepare("yfcc15m", source, tmp_path / "dst"), str(tmp_path / "dst"))


def test_a_full_disk_is_one_line(tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback at the end of the night, without a word that the same command goes on."""

    def add(writer: TarWriter, name: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TarWriter, "add", add)
    for workers in (1, 2):
        done = prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst", "--workers", workers)
        refused(done, "dst: No space left on device")


def test_a_source_that_cannot_be_read_is_one_line(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing permission would count as a missing image, and the data set lack it for ever."""
    source = write_nights(tmp_path / "src", [nights_row(0, 0, 1, 2)])
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.suffix == ".png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    refused(prepare("nights", source, tmp_path / "dst"), "ref/0.png: Permission denied")


def test_a_destination_below_a_file_is_one_line(tmp_path: Path, prepare: Prepare) -> None:
    """A traceback for a slip of the keyboard."""
    (tmp_path / "file").write_text("x")
    refused(prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "file" / "dst"), "file")


BAD_OPTIONS = {
    "no worker": ("yfcc15m", "--workers", "0"),
    "shard size 0": ("nights", "--shard-size", "0"),
    "more than four digits of places": ("csv", "--shard-size", "10001"),
    "quality 0": ("csv", "--resize", "9", "--quality", "0"),
    "no number": ("csv", "--resize", "large"),
    "an unknown check": ("csv", "--verify", "maybe"),
    "an option of another kind": ("yfcc15m", "--shard-size", "9"),
    "an unknown kind": ("imagenet",),
}


@pytest.mark.parametrize("arguments", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    """A page of usage would hide what is wrong."""
    kind, *options = arguments
    with pytest.raises(SystemExit) as stop:
        main([kind, "src", "dst", *options])
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1)
    assert err.startswith("pineco: ")


def test_quality_without_resizing_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    """The user would believe that images are encoded again."""
    refused(prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst", "--quality", 80), "--resize")


def test_help_imports_nothing_heavy() -> None:
    """`--help` would take seconds on a login node."""
    code = (
        "import sys; from pineco.data_pipeline.prepare.command import parse\n"
        "try: parse(['csv', '--help'])\n"
        "finally: print(sorted({'numpy', 'PIL', 'torch', 'boto3', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_every_kind_says_what_it_wants(capsys: pytest.CaptureFixture[str]) -> None:
    """An option would be there that nobody finds, or one more appear that no test knows."""
    images = {"--help", "--workers", "--verify", "--resize", "--quality"}
    expected = {
        "yfcc15m": images,
        "csv": images | {"--shard-size", "--csv-separator", "--csv-img-key", "--csv-caption-key"},
        "image-folder": images | {"--shard-size"},
        "nights": images | {"--shard-size"},
        "bapps": images | {"--shard-size"},
        "things": images | {"--shard-size", "--triplets", "--images", "--image-list"},
        "toy": {"--help", "--workers"},
    }
    for kind, options in expected.items():
        with pytest.raises(SystemExit):
            main([kind, "--help"])
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)) == options


def test_progress_is_a_line_now_and_then(tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file would hold nothing for hours, or control codes of a bar."""
    monkeypatch.setattr("pineco.data_pipeline.progress.PLAIN_EVERY", 0.0)
    done = prepare("yfcc15m", write_pairs(tmp_path / "src", k4={"txt": b""}), tmp_path / "dst")
    assert done.err.splitlines() == [
        "yfcc15m: 1 of 3 parts, 3 samples, 0 rejected",
        "yfcc15m: 2 of 3 parts, 4 samples, 1 rejected",
        "yfcc15m: 3 of 3 parts, 8 samples, 1 rejected",
    ]


def test_progress_is_a_bar_for_people(tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at a terminal would see that it goes on."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = prepare("yfcc15m", write_pairs(tmp_path / "src"), tmp_path / "dst")
    assert done.code == 0
    assert "3/3" in done.err


def test_a_hostile_name_does_not_reach_the_terminal(tmp_path: Path, prepare: Prepare) -> None:
    """A file name of a downloaded archive would move the cursor, or break rejected.jsonl."""
    folder = tmp_path / "src" / "a"
    folder.mkdir(parents=True)
    name = "x\x1b[2J\n\udcff.jpg"
    (folder / name).write_bytes(b"")
    (folder / "good.jpg").write_bytes(photo(0))
    done = prepare("image-folder", tmp_path / "src", tmp_path / "dst")
    assert done.code == 0
    assert done.out.replace("\n", "").isprintable()
    assert done.out.count("\n") == 2
    assert rejections(tmp_path / "dst") == {f"a/{name}": EMPTY}
