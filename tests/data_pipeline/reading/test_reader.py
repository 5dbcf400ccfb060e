"""Members of samples: few ranges, every byte checked, what is wrong found with shard, key and offset."""

from __future__ import annotations

import json
import random
import tarfile
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import GROUP_BYTES, Index, open_index
from pineco.data_pipeline.reading.reader import GAP, PIECE, Piece, SampleError, ShardReader, spans
from pineco.data_pipeline.stores.cache import HEADER, DiskCache
from pineco.data_pipeline.stores.store import LocalStore
from tests.support.shards import tar_bytes, write_shard

EXTENSIONS = ("jpg", "txt")  # what is read here
Expected = list[tuple[str, dict[str, bytes], int]]  # key, members that are read, offset of the first member


class SpyStore(LocalStore):
    """Remembers which ranges it was asked for; the ranges in `flips` come with one byte changed, once each."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges: list[tuple[str, int, int]] = []
        self.flips: dict[int, int] = {}  # number of the read -> byte of the shard

    def read(self, name: str, offset: int, length: int) -> bytes:
        self.ranges.append((name, offset, length))
        data = bytearray(super().read(name, offset, length))
        at = self.flips.pop(len(self.ranges), -1) - offset
        if 0 <= at < len(data):
            data[at] ^= 1
        return bytes(data)


@dataclass
class Shards:
    root: Path
    expected: Expected  # of every sample
    store: SpyStore
    index: Index

    def reader(self, cache: DiskCache | None = None) -> ShardReader:
        self.store.ranges.clear()
        return ShardReader(self.store, self.index, EXTENSIONS, cache)

    @property
    def every(self) -> np.ndarray:
        return np.arange(len(self.expected))


def make_shards(root: Path, samples: tuple[int, ...] = (40, 1, 25), seed: int = 0, size: int = 3000) -> Shards:
    """Shards whose samples have a jpg, mostly a txt, sometimes a json or npy that nobody asks for, some of 0 bytes."""
    draw = random.Random(seed)
    for number, count in enumerate(samples):
        files = []
        for i in range(count):
            for extension, chance in (("json", 0.3), ("jpg", 1.0), ("npy", 0.2), ("txt", 0.9)):
                if draw.random() < chance:
                    files.append((f"d.{number}/{i:03}.{extension}", draw.randbytes(draw.choice([0, 1, 100, size]))))
        write_shard(root / f"{number}.tar", files)
    store = SpyStore(root)
    index = open_index(store)
    return Shards(root, [sample for name in store.list_shards() for sample in read_tar(root / name)], store, index)


def read_tar(path: Path) -> Expected:
    """The samples of a shard as the standard library reads them."""
    found: dict[str, tuple[dict[str, bytes], int]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            folder, _, base = member.name.rpartition("/")
            key, _, extension = base.partition(".")
            members, first = found.setdefault(f"{folder}/{key}", ({}, member.offset_data))
            if extension in EXTENSIONS:
                members[extension] = archive.extractfile(member).read()  # type: ignore[union-attr]
            if extension == "npy" and first == member.offset_data:
                raise AssertionError("a sample would begin with a member that is not indexed")
    return [(key, members, first) for key, (members, first) in found.items()]


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return make_shards(tmp_path / "shards")


def check(shards: Shards, rows: np.ndarray, found: Mapping[int, object], bad: Collection[int] = ()) -> None:
    assert list(found) == rows.tolist()
    for row in rows.tolist():
        assert isinstance(found[row], SampleError) if row in bad else found[row] == shards.expected[row][1]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_rows_hold_what_the_tar_holds(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Training would see members of other samples, or parts of them."""
    counts = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    seed = data.draw(st.integers(0, 1000))
    shards = make_shards(tmp_path_factory.mktemp("shards"), tuple(counts), seed)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(shards.expected) - 1)))), np.int64)
    ahead = data.draw(st.booleans())
    cache = DiskCache(tmp_path_factory.mktemp("cache"), 1 << 20) if data.draw(st.booleans()) else None
    reader = shards.reader(cache)
    for _ in range(2):
        check(shards, rows, reader.read(rows, ahead=ahead))
    held = reader.counters
    assert held.bytes == sum(length for _, _, length in shards.store.ranges)
    assert (held.reads, held.repaired) == (len(shards.store.ranges), 0)


def test_neighbours_come_with_one_range(shards: Shards) -> None:
    """Object storage would be asked once for every sample."""
    reader = shards.reader()
    check(shards, shards.every, reader.read(shards.every))
    assert [name for name, _, _ in shards.store.ranges] == ["0.tar", "1.tar", "2.tar"]
    assert reader.counters.reads == 3


def test_a_sample_alone_costs_its_own_bytes(shards: Shards) -> None:
    """The first batch after a restart would read whole extents."""
    reader = shards.reader()
    for row in shards.every:
        shards.store.ranges.clear()
        check(shards, np.array([row]), reader.read(np.array([row])))
        wanted = sum(map(len, shards.expected[row][1].values()))
        assert sum(length for _, _, length in shards.store.ranges) <= wanted + 3000 + 4 * 1024  # a json or npy between
        assert len(shards.store.ranges) == 1


def test_what_nobody_wants_is_not_read(tmp_path: Path) -> None:
    """Large members that nobody asked for would come through the network."""
    files = []
    for i in range(4):
        files += [(f"{i}.jpg", b"j" * 1000), (f"{i}.seg.png", b"s" * (GAP + 1)), (f"{i}.txt", b"t" * 10)]
    write_shard(tmp_path / "0.tar", files)
    store = SpyStore(tmp_path)
    reader = ShardReader(store, open_index(store), EXTENSIONS)
    store.ranges.clear()
    assert reader.read(np.arange(4)) == {i: {"jpg": b"j" * 1000, "txt": b"t" * 10} for i in range(4)}
    assert len(store.ranges) == 5
    assert reader.counters.bytes < 4 * 2600


Place = tuple[int, int]  # offset and size of a member
PLACES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 200)), max_size=30).map(
    lambda steps: [(512 + sum(s + n for s, n in steps[:i]) + steps[i][0], steps[i][1]) for i in range(len(steps))]
)


def cut(places: list[Place], gap: int) -> list[list[Place]]:
    """The places of every span; sample i is the one at place i."""
    pieces = np.array([(offset, size, 0, i, 0) for i, (offset, size) in enumerate(places)], PIECE)
    found = [span.tolist() for span in spans(pieces, gap)]
    assert [piece[3] for span in found for piece in span] == list(range(len(places)))
    return [[piece[:2] for piece in span] for span in found]


@given(PLACES, st.integers(0, 300))
@settings(max_examples=300, deadline=None)
def test_every_piece_is_in_one_span_and_gaps_are_short(places: list[Place], gap: int) -> None:
    """I2: a member would be missing or read twice, or megabytes read that nobody wants."""
    found = cut(places, gap)
    assert [place for span in found for place in span] == places
    assert all(len(span) for span in found)
    for span in found:
        end = span[0][0]
        for offset, size in span:
            assert offset <= end + gap
            end = max(end, offset + size)
    assert_apart(found, gap)


def assert_apart(found: list[list[Place]], gap: int) -> None:
    for one, two in pairwise(found):
        assert two[0][0] > max(offset + size for offset, size in one) + gap


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 600)), max_size=30), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_members_that_overlap_are_read_all_the_same(places: list[Place], gap: int) -> None:
    """I2: a hostile index could make a span end before its members do."""
    found = cut(sorted(places), gap)
    assert [place for span in found for place in span] == sorted(places)
    assert_apart(found, gap)
    wanted = np.zeros(4000, bool)
    for offset, size in places:
        wanted[offset : offset + size] = True
    for span in found:
        begin, end = span[0][0], max(offset + size for offset, size in span)
        assert np.diff(np.flatnonzero(wanted[begin:end])).max(initial=1) <= gap + 1


def payload_bytes(shards: Shards) -> list[tuple[str, int, int | None]]:
    """(shard, byte, the sample that it is read for or None) of every byte of every member."""
    found, row = [], 0
    for name in shards.store.list_shards():
        keys = {key: row + i for i, (key, _, _) in enumerate(read_tar(shards.root / name))}
        row += len(keys)
        with tarfile.open(shards.root / name) as archive:
            for member in archive:
                key, _, extension = member.name.rpartition("/")[2].partition(".")
                sample = keys[f"{member.name.rpartition('/')[0]}/{key}"] if extension in EXTENSIONS else None
                found += [(name, member.offset_data + i, sample) for i in range(member.size)]
    return found


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """D2: a picture or a caption that a disk changed would be trained on."""
    shards = make_shards(tmp_path, (20, 1, 12), size=500)
    places, draw, hits = payload_bytes(shards), random.Random(1), 0
    reader = shards.reader()
    for name, offset, sample in draw.choices(places, k=1000):
        path = shards.root / name
        with path.open("r+b") as file:
            file.seek(offset)
            was = file.read(1)
            file.seek(offset)
            file.write(bytes([was[0] ^ 1 << draw.randrange(8)]))
        check(shards, shards.every, reader.read(shards.every), bad=set() if sample is None else {sample})
        if sample is not None:
            hits += 1
            origin = reader.origin(sample)
            assert (origin.shard, origin.key, origin.offset) == (str(path), *shards.expected[sample][::2])
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(was)
    assert 500 < hits < 990
    check(shards, shards.every, reader.read(shards.every))
    assert reader.counters.repaired == 0


def test_a_bit_that_flipped_on_the_way_is_repaired(shards: Shards) -> None:
    """D2: one bad network card would fill the quarantine with good samples."""
    reader, places = shards.reader(), [place for place in payload_bytes(shards) if place[2] is not None]
    for n, (name, offset, _) in enumerate(random.Random(2).choices(places, k=200), 1):
        shards.store.flips[len(shards.store.ranges) + 1 + int(name[0])] = offset  # of the three spans, this shard's
        check(shards, shards.every, reader.read(shards.every))
        assert not shards.store.flips
        assert reader.counters.repaired == n


def cuts(shards: Shards, name: str) -> list[int]:
    size = (shards.root / name).stat().st_size
    return [*range(0, size, 512), *random.Random(3).choices(range(size), k=1000)]


def test_a_cut_shard_is_never_a_short_one(tmp_path: Path) -> None:
    """D1: a shard that was cut after it was indexed would give fewer samples, or parts of them."""
    shards = make_shards(tmp_path, (50,), size=400)
    path, reader = shards.root / "0.tar", shards.reader()
    ends = [sample_end(path, sample) for sample in shards.expected]
    for cut in sorted(cuts(shards, "0.tar"), reverse=True):
        with path.open("r+b") as file:
            file.truncate(cut)
        bad = {row for row, end in enumerate(ends) if end > cut}
        check(shards, shards.every, reader.read(shards.every), bad)
    assert len(bad) > 40  # samples of nothing but empty members are whole without a byte
    assert reader.origin(30).offset == shards.expected[30][2]


def sample_end(shard: Path, sample: tuple[str, dict[str, bytes], int]) -> int:
    """The byte after the last one of its members that is read."""
    with tarfile.open(shard) as archive:
        parts = [(member, *member.name.rpartition(".")[::2]) for member in archive if member.size]
    return max((m.offset_data + m.size for m, key, e in parts if key == sample[0] and e in EXTENSIONS), default=0)


def test_a_member_must_have_its_length_too(shards: Shards) -> None:
    """The checksum of nothing is 0: where a member has that checksum, a cut shard would pass for an empty member."""
    piece = Piece(512, 4, 0)
    zero_sum = bytes.fromhex("9d0ad96d")
    assert piece.matches(zero_sum)
    assert not piece.matches(b"")
    assert not piece.matches(zero_sum[:3])
    assert not piece.matches(b"\0" + zero_sum)


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 1 << 24)


def entries(cache: DiskCache) -> list[Path]:
    return sorted(path for path in cache.folder.iterdir() if len(path.name) == 64)


def test_what_was_read_ahead_once_comes_from_the_cache(shards: Shards, cache: DiskCache) -> None:
    """D5: every epoch, and every job of a node, would fetch the data set anew."""
    reader = shards.reader(cache)
    check(shards, shards.every[3:5], reader.read(shards.every[3:5]))
    assert not entries(cache), "what is read for a batch alone must not take in whole groups"
    check(shards, shards.every[::4], reader.read(shards.every[::4], ahead=True))
    assert len(entries(cache)) == 3
    shards.store.ranges.clear()
    again = ShardReader(shards.store, shards.index, EXTENSIONS, DiskCache(cache.folder, 1 << 24))
    for ahead in (False, True):
        check(shards, shards.every, again.read(shards.every, ahead=ahead))
    assert not shards.store.ranges
    assert (again.counters.cache_hits, again.counters.cache_misses) == (6, 0)


def test_a_tampered_entry_is_dropped_and_read_again(shards: Shards, cache: DiskCache) -> None:
    """D5: whoever may write to the cache, or a failing disk, would decide what is trained on."""
    reader = shards.reader(cache)
    reader.read(shards.every, ahead=True)
    draw = random.Random(4)
    for n in range(50):
        for path in entries(cache):
            data = bytearray(path.read_bytes())
            data[draw.randrange(HEADER.size, len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
        check(shards, shards.every, reader.read(shards.every, ahead=bool(n % 2)))
        check(shards, shards.every, reader.read(shards.every, ahead=True))
    assert reader.counters.repaired > 20
    assert cache.counters.damaged >= reader.counters.repaired / 3


def test_shards_of_one_name_do_not_share_entries(tmp_path: Path, cache: DiskCache) -> None:
    """D5: two data sets whose shards have the same names would be mixed; two copies of one would be kept twice."""
    one, other = (make_shards(tmp_path / name, (9,), seed) for name, seed in (("one", 0), ("other", 1)))
    for shards in (one, other, one, other):
        check(shards, shards.every, shards.reader(cache).read(shards.every, ahead=True))
    assert len(entries(cache)) == 2
    copy = make_shards(tmp_path / "copy", (9,), 0)
    check(one, one.every, copy.reader(cache).read(one.every))
    assert not copy.store.ranges


def test_threads_that_want_one_group_fetch_it_once(shards: Shards, cache: DiskCache) -> None:
    """Where a group holds many extents, every connection would fetch the same 16 MiB."""
    reader, together = shards.reader(cache), threading.Barrier(8)

    def read(n: int) -> None:
        together.wait(10)
        rows = shards.every[n::8]
        check(shards, rows, reader.read(rows, ahead=True))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    assert len(shards.store.ranges) == 3


def test_threads_share_a_reader(shards: Shards) -> None:
    """Members of samples would be exchanged, or counted wrongly."""
    reader, draw = shards.reader(), random.Random(5)
    picks = [np.array(sorted(draw.sample(range(len(shards.expected)), 9))) for _ in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for rows, found in zip(picks, pool.map(reader.read, picks), strict=True):
            check(shards, rows, found)
    assert reader.counters.reads == len(shards.store.ranges)
    assert reader.counters.bytes == sum(length for _, _, length in shards.store.ranges)


def test_groups_of_a_large_shard_are_read_apart(tmp_path: Path) -> None:
    """One read would take a whole shard into memory."""
    sample = GROUP_BYTES // 2 - 512
    write_shard(tmp_path / "0.tar", [(f"{i}.jpg", bytes([i]) * sample) for i in range(5)])
    store = SpyStore(tmp_path)
    index = open_index(store)
    assert index.group_sizes.tolist() == [2, 2, 1]
    reader = ShardReader(store, index, EXTENSIONS)
    store.ranges.clear()
    found = reader.read(np.arange(5))
    assert [bytes(found[i]["jpg"])[:: sample - 1] for i in range(5)] == [bytes([i, i]) for i in range(5)]  # type: ignore[index]
    assert [length for _, _, length in store.ranges] == [2 * sample + 512, 2 * sample + 512, sample]


def test_rows_that_are_not_there_are_refused(shards: Shards) -> None:
    """A mistake in the order would read some other sample."""
    for rows in ([-1], [len(shards.expected)], [0, 10**9]):
        with pytest.raises(IndexError):
            shards.reader().read(np.array(rows))
    assert shards.reader().read(np.array([], np.int64)) == {}


def test_origins_of_long_and_lost_names(tmp_path: Path) -> None:
    """The ledger would name no place, or finding the place would stop the run."""
    name = "d/" + "k" * 150
    (tmp_path / "0.tar").write_bytes(tar_bytes([(f"{name}.jpg", b"j")], tarfile.PAX_FORMAT))
    store = LocalStore(tmp_path)
    reader = ShardReader(store, open_index(store), EXTENSIONS)
    found = reader.origin(0)
    assert found.offset == (tmp_path / "0.tar").read_bytes().index(b"j\0\0\0")
    assert name.startswith(found.key[:20])
    (tmp_path / "0.tar").write_bytes(b"")
    assert replace(reader.origin(0), key="") == replace(found, key="")


def test_errors_of_the_store_are_not_bad_samples(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage would put every sample into quarantine."""

    def gone(*_: object) -> bytes:
        raise InputError("the store is gone")

    reader = shards.reader()
    monkeypatch.setattr(shards.store, "read", gone)
    with pytest.raises(InputError, match="the store is gone"):
        reader.read(shards.every[:1])


def test_json_is_a_member_like_any_other(tmp_path: Path) -> None:
    """Captions in json could not be read."""
    text = json.dumps({"captions": ["a", "b"]}).encode()
    write_shard(tmp_path / "0.tar", [("0.JPG", b"j"), ("0.json", text)])
    store = LocalStore(tmp_path)
    reader = ShardReader(store, open_index(store), ("jpg", "json"))
    assert reader.read(np.array([0])) == {0: {"jpg": b"j", "json": text}}
