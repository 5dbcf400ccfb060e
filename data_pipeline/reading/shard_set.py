"""A data set in shards: where they are, what their index says, how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import Index, open_index
from pineco.data_pipeline.reading.reader import RowReader, ShardReader
from pineco.data_pipeline.reading.resident import keep_if_small
from pineco.data_pipeline.stores.cache import DiskCache
from pineco.data_pipeline.stores.store import Store, open_store

MEMORY = 1 << 30  # bytes


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """How shards are read; none of it changes what is read."""

    index: str | None = None  # folder or prefix of the index, where that is not beside the shards
    cache: DiskCache | None = None
    memory: int = MEMORY  # a data set of up to this size is kept whole


@dataclass(frozen=True)
class ShardSet:
    """Indexed shards of one folder or prefix."""

    store: Store
    index: Index
    options: ShardOptions

    def require(self, extensions: Sequence[str], what: str) -> None:
        """Raises InputError for a shard in which no sample has one of these members."""
        for shard in self.index.manifest.shards:
            if shard.samples and not set(extensions) & set(shard.extensions):
                where = self.store.where(shard.name)
                raise InputError(f"{where}: no sample has {what}; it holds .{', .'.join(shard.extensions)}")

    def reader(self, extensions: Sequence[str]) -> RowReader:
        """Of these members, where a sample has them."""
        reader = ShardReader(self.store, self.index, extensions, self.options.cache)
        return keep_if_small(reader, self.index, self.options.memory)


def open_shards(root: str, options: ShardOptions | None = None) -> ShardSet:
    """The shards of a folder or `s3://bucket/prefix`."""
    store, options = open_store(root), options or ShardOptions()
    return ShardSet(store, open_index(store, options.index), options)
