"""Where the time of a run went: buckets that add up to the wall time, whatever happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pineco.launch.rundir.attempts import Attempt, Cause
from pineco.launch.rundir.goodput import Goodput, account
from pineco.launch.rundir.heartbeat import Beat, Phase

CAUSES: list[Cause] = ["done", "saved", "killed", "lost"]


def beats(*rows: tuple[Phase, float]) -> list[Beat]:
    return [Beat(phase, 0, time, 1) for phase, time in rows]


def test_a_run_that_was_killed_once() -> None:
    """Steps that were taken twice would count twice as progress."""
    attempts = [Attempt(1, "7", 0, 0, 100, 5, "killed"), Attempt(2, "7", 130, 5, 200, 9, "done")]
    phases = beats(
        ("start", 10), ("step", 30), ("save", 50), ("evaluate", 55), ("step", 60),
        ("start", 140), ("step", 150), ("save", 180), ("step", 185), ("end", 190),
    )  # fmt: skip
    found = account(attempts, phases, now=999)
    assert found == Goodput(productive=20 + 30 + 5, redo=40, save=5 + 5, evaluate=5, start=30 + 20, end=10, queue=30)
    assert found.wall == 200
    assert found.share == pytest.approx(55 / 200)


def test_a_node_that_failed_leaves_no_end() -> None:
    """The time until SLURM noticed would vanish from the account."""
    attempts = [Attempt(1, "7", 0, 0), Attempt(2, "7", 100, 0)]
    found = account(attempts, beats(("step", 40), ("save", 60), ("step", 65), ("step", 120)), now=150)
    assert found == Goodput(start=40 + 20, productive=20 + 30, save=5, redo=35)
    assert found.wall == 150


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(0, 9), st.sampled_from(["done", "saved", "killed", "lost"])),
        min_size=1,
    ),
    st.lists(st.tuples(st.sampled_from(["start", "step", "save", "evaluate", "end"]), st.integers(0, 900))),
)
def test_the_buckets_add_up(spans: list[tuple[int, int, Cause]], marks: list[tuple[Phase, int]]) -> None:
    """G1: time would be lost or counted twice."""
    attempts, clock = [], 0
    for number, (length, gap, cause) in enumerate(spans, 1):
        ended = None if cause == "lost" else float(clock + length)
        attempts.append(Attempt(number, "7", float(clock), 0, ended, cause=cause))
        clock += length + gap
    last = attempts[-1]
    now = float(clock + 10)
    found = account(attempts, sorted(beats(*marks), key=lambda beat: beat.time), now)
    assert found.wall == pytest.approx((last.ended or now) - attempts[0].began)
    assert min(vars(found).values()) >= 0
