"""Data sets in S3 and behind web servers: the same samples as on a disk, and the same words on what is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.datasets import fingerprint, open_folder, read_examples, resolve_tasks
from pineco.evals.data.roots import DataRoot, open_place
from tests.support.buckets import serve
from tests.support.s3 import S3Server, in_thread

WriteFolder = Callable[..., Path]


class WholeFiles(SimpleHTTPRequestHandler):
    """A server that knows no ranges."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serve_whole(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(WholeFiles, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serve_ranges(folder: Path) -> Iterator[str]:
    with in_thread(S3Server(folder.parent).answer) as url:
        yield f"{url}/{folder.name}"


@contextmanager
def serve_bucket(folder: Path) -> Iterator[str]:
    """The folder itself as a bucket, in the environment of the kit's own."""
    with (
        serve(folder.parent / "kit"),
        in_thread(S3Server(folder.parent).answer) as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL", url)
        yield f"s3://{folder.name}"


SERVERS: dict[str, Any] = {"s3": serve_bucket, "http": serve_ranges, "http without ranges": serve_whole}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest, colour_set: Path, write_folder: WriteFolder, picture: Any) -> Iterator[str]:
    """The address of the folder that holds colours, wds_vtab-pets and pairs."""
    write_folder("wds_vtab-pets", [{"jpg": picture(), "cls": b"36"}], classnames="x\n" * 37)
    write_folder("pairs", [{"jpg": picture(), "txt": b"one\ntwo"}], kind="retrieval", classnames=None, templates=None)
    with SERVERS[request.param](colour_set.parent) as url:
        yield url


def test_samples_are_those_on_the_disk(served: str, colour_set: Path) -> None:
    """Figures would depend on where the data lie."""
    for (task, there), (_, here) in zip(
        resolve_tasks(served, "colours,vtab/pets+pairs"),
        resolve_tasks(colour_set.parent, "colours,vtab/pets+pairs"),
        strict=True,
    ):
        assert (there.kind, there.classnames, there.shards) == (here.kind, here.classnames, here.shards), task.key
        assert there.class_prompts() == here.class_prompts()
        for ours, theirs in zip(read_examples(there), read_examples(here), strict=True):
            assert (ours.image, ours.label, ours.captions, ours.number) == (
                theirs.image,
                theirs.label,
                theirs.captions,
                theirs.number,
            )
            assert ours.where.startswith(served)
        assert fingerprint(there) == fingerprint(resolve_tasks(served, task.key)[0][1])


def test_missing_sets_are_named_together(served: str) -> None:
    """Each missing data set would cost another start, after minutes of others being measured."""
    with pytest.raises(InputError, match=rf"^{served}: no folder for mnist, flickr8k; run again with --layout"):
        resolve_tasks(served, "colours,mnist,flickr8k")
    found = resolve_tasks(served, "colours,mnist", allow_missing=True)
    assert [task.key for task in found.missing] == ["mnist"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("test/1.tar", r"colours/test/nshards\.txt: says 3 shards .* but 2 are there"),
        ("classnames.txt", r"colours/classnames\.txt: missing"),
    ],
)
def test_a_bad_layout_is_named(served: str, colour_set: Path, file: str, message: str) -> None:
    """A data set that was uploaded in part would be measured in part, under the same name."""
    (colour_set / file).unlink()
    with pytest.raises(InputError, match=message):
        open_folder(f"{served}/colours")


def test_a_cut_shard_is_named(served: str, colour_set: Path) -> None:
    """A shard that was uploaded in part would be measured in part."""
    shard = colour_set / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(InputError, match=rf"^{served}/colours/test/1\.tar: at byte \d+: "):
        list(read_examples(open_folder(f"{served}/colours")))


def test_a_shard_that_is_replaced_is_named(served: str, colour_set: Path) -> None:
    """A figure would be of half the old data and half the new."""
    folder = open_folder(f"{served}/colours")
    sizes = [folder.test.size(name) for name in folder.shards]
    shard = colour_set / "test" / "2.tar"
    shard.write_bytes(shard.read_bytes() + bytes(10240))
    with pytest.raises(InputError, match=rf"^{served}/colours/test/2\.tar: .*changed while it was read"):
        list(read_examples(folder))
    assert len(sizes) == 3


def test_a_pattern_leads_to_the_address(write_folder: WriteFolder, picture: Callable[..., bytes]) -> None:
    """The --dataset_root that clip-benchmark's users have would have to be rewritten."""
    root = write_folder("wds_vtab-pets/tree/main", [{"jpg": picture(), "cls": b"0"}], classnames="x\n" * 37)
    with serve_ranges(root.parents[2]) as url:
        [(_, folder)] = resolve_tasks(url + "/wds_{dataset_cleaned}/tree/main", "vtab/pets")
        assert folder.root == f"{url}/wds_vtab-pets/tree/main"
        assert [example.label for example in read_examples(folder)] == [0]
        with pytest.raises(InputError, match="no folder for mnist"):
            resolve_tasks(url + "/wds_{dataset_cleaned}/tree/main", "mnist")


def test_a_page_of_the_hub_stands_for_its_files() -> None:
    """Pages about the files would be read instead of the files."""
    page = "https://huggingface.co/datasets/me/wds_{dataset_cleaned}/tree/main"
    [place] = DataRoot(page).candidates("vtab/pets")
    assert open_place(place).root_name == "https://huggingface.co/datasets/me/wds_vtab-pets/resolve/main"
    assert open_place("https://host/a/b/tree/main").root_name == "https://host/a/b/tree/main"


@pytest.mark.parametrize("root", ["gs://bucket/data", "pipe:cat", "-x"])
def test_other_addresses_are_refused(root: str) -> None:
    """A root would be taken for a folder, or run as a program."""
    with pytest.raises(InputError, match=r"refused; pass a folder|no such folder"):
        resolve_tasks(root, "mnist")
