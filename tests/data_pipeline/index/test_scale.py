"""The index of 15 million samples: how fast it opens, how little it holds."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pineco.data_pipeline.index.lookup import Index
from pineco.data_pipeline.index.manifest import MANIFEST, Manifest, decode_manifest, encode_manifest
from pineco.data_pipeline.index.sidecar import sidecar_name, write_sidecar
from pineco.data_pipeline.index.table import MEMBER, ShardIndex
from pineco.data_pipeline.order import EpochOrder, cut_extents
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.indexed import REPOSITORY

SHARDS, SAMPLES, LANES, BATCH = 1500, 10_000, 64, 4096

READER = """
import hashlib, json, struct, sys, time
import numpy as np
from pineco.data_pipeline.index import open_index
from pineco.data_pipeline.order import EpochOrder, cut_extents
from pineco.data_pipeline.stores.store import LocalStore

def peak():  # MiB; unlike ru_maxrss not that of the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

imported, wall = (peak(), time.process_time()), time.perf_counter()
root, state, batch_size, lanes = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
epoch, t = struct.unpack("<qq", state)
index = open_index(LocalStore(root))
opened = time.process_time()
order = EpochOrder(cut_extents(index.groups_by_shard(), lanes=lanes), seed=5, epoch=epoch, lanes=lanes)
batch = order.batch(t, batch_size)
pages = sum(len(samples) > 0 for _, samples in index.pages(np.sort(batch)))
print(json.dumps({
    "samples": len(index), "pages": pages, "batch": hashlib.sha256(batch.tobytes()).hexdigest(),
    "import_cpu_s": imported[1], "open_cpu_s": opened - imported[1], "batch_cpu_s": time.process_time() - opened,
    "wall_s": time.perf_counter() - wall, "import_mib": imported[0], "peak_mib": peak(),
}))
"""


def synthetic_shard() -> tuple[ShardIndex, int]:
    """(rows of jpg, json and txt as in a shard of photos of 60 KB, bytes of that shard)."""
    draw = np.random.default_rng(0)
    sizes = np.stack(
        [draw.integers(20_000, 100_000, SAMPLES), draw.integers(200, 600, SAMPLES), draw.integers(20, 200, SAMPLES)]
    )
    ends = np.cumsum(512 + -(-sizes.T // 512) * 512)
    members = np.empty((SAMPLES, 3), MEMBER)
    members["offset"] = np.concatenate(([0], ends[:-1])).reshape(SAMPLES, 3) + 512
    members["size"], members["crc32"] = sizes.T, draw.integers(0, 1 << 32, (SAMPLES, 3))
    return ShardIndex(("jpg", "json", "txt"), members), int(ends[-1]) + 10_240


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards without content, since only their sizes are looked at, and one sidecar under 1,500 names."""
    root = tmp_path_factory.mktemp("fifteen_million")
    index, size = synthetic_shard()
    names = [f"{n:05}.tar" for n in range(SHARDS)]
    entry = write_sidecar(LocalStore(root), names[0], index, size, "")
    for name in names:
        with (root / name).open("wb") as file:
            file.truncate(size)
        if name != names[0]:
            os.link(root / sidecar_name(names[0]), root / sidecar_name(name))
    manifest = Manifest(tuple(replace(entry, name=name) for name in names))
    (root / MANIFEST).write_bytes(encode_manifest(manifest))
    return root


@pytest.mark.parametrize("position", [(0, 0), (3, 2500)], ids=["first batch", "middle of an epoch"])
def test_fifteen_million_samples(data_set: Path, position: tuple[int, int]) -> None:
    """D9: every start and every resume of every rank would take minutes, or the memory that the model needs."""
    state = struct.pack("<qq", *position)
    assert len(state) == 16
    command = [sys.executable, "-c", READER, str(data_set), state.hex(), str(BATCH), str(LANES)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["samples"] == SHARDS * SAMPLES
    assert found["pages"] > 2000, "the batch comes from all over the data set"
    assert found["import_cpu_s"] + found["open_cpu_s"] + found["batch_cpu_s"] <= 2
    assert found["peak_mib"] <= 500
    manifest = decode_manifest((data_set / MANIFEST).read_bytes(), MANIFEST)
    extents = cut_extents(Index(manifest, {}).groups_by_shard(), lanes=LANES)
    batch = EpochOrder(extents, seed=5, epoch=position[0], lanes=LANES).batch(position[1], BATCH)
    assert hashlib.sha256(batch.tobytes()).hexdigest() == found["batch"], "16 bytes do not tell where a run is"
