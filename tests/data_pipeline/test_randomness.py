"""Random numbers as a pure function of integers: the same for ever, and never shared."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pineco.data_pipeline.randomness import Stream, bits, generator, permutation

SETTINGS = [(seed, stream, (epoch, n, 0)) for seed in (0, 1) for stream in Stream for epoch in (0, 1) for n in (0, 1)]


def test_stream_values_never_change() -> None:
    """A renumbered stream would change the data order and the augmentation of every run that is resumed."""
    assert {s.name: int(s) for s in Stream} == {
        "EXTENTS": 1,
        "BLOCK": 2,
        "AUGMENTATION": 3,
        "CAPTION": 4,
        "SHUFFLED_VOTES": 5,
        "SUBSTITUTE": 6,
        "SIDES": 7,
        "REFERENCES": 8,
        "QUEUE": 9,
        "SHARE": 10,
        "CLASS_TRIPLETS": 11,
    }


def test_streams_share_no_number() -> None:
    """What two streams, seeds, epochs or samples draw would be correlated."""
    draws = [bits(seed, stream, *numbers).random_raw(500) for seed, stream, numbers in SETTINGS]
    assert len(set(np.concatenate(draws).tolist())) == 500 * len(SETTINGS)


@pytest.mark.parametrize(
    ("numbers", "golden"),
    [
        ((10, 0, Stream.EXTENTS, 0), [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]),
        ((10, 1, Stream.BLOCK, 2, 3, 4), [9, 8, 6, 7, 3, 5, 4, 2, 0, 1]),
    ],
)
def test_golden_permutation(numbers: tuple[int, int, Stream, *tuple[int, ...]], golden: list[int]) -> None:
    """A run that is resumed after an upgrade would see another order of samples."""
    assert permutation(*numbers).tolist() == golden


def test_golden_bits() -> None:
    """Augmentation would change with the release of numpy."""
    assert bits(3, Stream.AUGMENTATION, 1, 2).random_raw(2).tolist() == [8390422587811174086, 11538678072107434671]


@given(st.integers(0, 300), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_permutation_holds_every_number_once(n: int, seed: int, epoch: int) -> None:
    """Samples would be left out or seen twice."""
    order = permutation(n, seed, Stream.EXTENTS, epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_permutations_are_uniform() -> None:
    """Some orders of the samples would come more often than others."""
    seen = [tuple(permutation(3, 0, Stream.BLOCK, epoch).tolist()) for epoch in range(6000)]
    counts = [seen.count(order) for order in itertools.permutations(range(3))]
    assert sum((c - 1000) ** 2 / 1000 for c in counts) < 20.5  # chi-square, 5 degrees of freedom, p = 0.001


def test_generator_starts_anew() -> None:
    """What a worker drew before would change what it draws next."""
    first, second = generator(0, Stream.CAPTION, 1, 2), generator(0, Stream.CAPTION, 1, 2)
    first_draws = first.random(5)
    assert first_draws.tolist() == second.random(5).tolist()
    assert first_draws.tolist() != first.random(5).tolist()
