"""Where data sets lie: a folder, s3://bucket/prefix or http(s)://host/path, plain or with {dataset} in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.stores.http import HttpStore
from pineco.data_pipeline.stores.store import LocalStore, Store, open_store

MAX_TEXT = 1 << 24  # bytes of a text file; the longest known one, of prompts for 1,000 classes, has 4 MB
COUNTER = "nshards.txt"  # in the test folder of every data set
_HUB = re.compile(r"(https://huggingface\.co/datasets/[^/]+/[^/]+/)tree/")


class DataRoot:
    """A root that holds a folder for each data set, or a pattern that leads to one.

    {dataset} in it stands for the key of a benchmark, {dataset_cleaned} for the key with "-" for "/", as in
    clip-benchmark's --dataset_root. The page of a repository on the Hugging Face hub stands for its files.
    """

    def __init__(self, root: str | Path) -> None:
        text = str(root)
        self.root = text if text.endswith("//") else text.rstrip("/") or text
        self.is_remote = re.match(r"[a-z0-9]+://", text, re.IGNORECASE) is not None
        self.is_pattern = "{dataset}" in text or "{dataset_cleaned}" in text
        if not self.is_remote and not self.is_pattern and not Path(text).is_dir():
            raise InputError(f"{text}: no such folder of data sets")
        self._base = open_place(self.root) if self.is_remote and not self.is_pattern else None

    def candidates(self, key: str) -> Iterator[str]:
        """Where a data set may be: ROOT/KEY, or as clip-benchmark and DataComp name it, or what the pattern gives."""
        dashed = key.replace("/", "-")
        if self.is_pattern:
            yield self.root.replace("{dataset_cleaned}", dashed).replace("{dataset}", key)
        else:
            yield from dict.fromkeys(
                f"{self.root}/{name}" for name in (key, dashed, f"wds_{dashed}", f"wds_{dashed}_test")
            )

    def find(self, key: str) -> str | None:
        """The folder or address of a data set, None where there is none."""
        if any(part in ("", ".", "..") for part in key.split("/")):
            return None
        return next((place for place in self.candidates(key) if self._is_there(place)), None)

    def open(self, place: str) -> Store:
        """The store of what `find` gave, through one client for all of a root."""
        if self._base is None:
            return open_place(place)
        return below(self._base, place.removeprefix(f"{self.root}/"))

    def _is_there(self, place: str) -> bool:
        if not self.is_remote:
            return Path(place).is_dir()
        return self.open(f"{place}/test").find(COUNTER) is not None


def open_place(place: str | Path) -> Store:
    """The store of one data set's folder; raises InputError for an address of another kind."""
    text = str(place)
    if re.match("https?://", text, re.IGNORECASE):
        return HttpStore(_HUB.sub(r"\1resolve/", text))
    return open_store(text)


def below(store: Store, folder: str) -> Store:
    """The store of a folder in it."""
    if isinstance(store, HttpStore):
        return store.below(folder)
    if isinstance(store, LocalStore):
        return LocalStore(store.root / folder)
    from pineco.data_pipeline.stores.s3 import S3Store  # boto3 takes 0.2 s to import, and only S3 needs it

    assert isinstance(store, S3Store), store
    return store.below(folder)


def read_text(store: Store, name: str) -> str | None:
    """The text of a small file, None where there is none; raises InputError for a large one, and one not in UTF-8."""
    size = store.find(name)
    if size is None:
        return None
    if size > MAX_TEXT:
        raise InputError(f"{store.where(name)}: {size} bytes, more than the {MAX_TEXT} that a text file may have")
    try:
        return store.read(name, 0, size).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{store.where(name)}: not UTF-8; save it as UTF-8") from None
