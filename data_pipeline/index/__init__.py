"""What is in the shards: for every sample the place and checksum of each member, in sidecars and one manifest."""

from pineco.data_pipeline.index.build import DamagedShardsError, build_index
from pineco.data_pipeline.index.lookup import Index, open_index
from pineco.data_pipeline.index.samples import Sample, index_shard, read_samples, split_name
from pineco.data_pipeline.index.scan import scan_file, scan_shard
from pineco.data_pipeline.index.sidecar import write_sidecar
from pineco.data_pipeline.index.table import GROUP_BYTES, MEMBER, ShardIndex

__all__ = [
    "GROUP_BYTES",
    "MEMBER",
    "DamagedShardsError",
    "Index",
    "Sample",
    "ShardIndex",
    "build_index",
    "index_shard",
    "open_index",
    "read_samples",
    "scan_file",
    "scan_shard",
    "split_name",
    "write_sidecar",
]
