"""One run directory has one writer."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.launch.rundir.lease import Lease, read_holder


def test_two_jobs_cannot_write_one_run(tmp_path: Path) -> None:
    """F18: checkpoints of two runs would follow each other in one directory."""
    with Lease(tmp_path, "1"):
        with pytest.raises(InputError, match="job 1 is writing it"), Lease(tmp_path, "2"):
            pass
        with pytest.raises(InputError, match="job 1 is writing it"), Lease(tmp_path, None):
            pass


def token(lease: Lease) -> int:
    assert lease.holder is not None
    return lease.holder.token


def test_who_left_gives_it_free(tmp_path: Path) -> None:
    """A resumed run would wait a minute for nobody; tokens must grow all the same."""
    tokens = []
    for job in ("1", "2", None, "2"):
        with Lease(tmp_path, job) as lease:
            tokens.append(token(lease))
            lease.check()
    assert tokens == [1, 2, 3, 4]


def test_a_requeued_job_goes_on_at_once(tmp_path: Path) -> None:
    """Its own lease, of a minute ago, would keep it out."""
    first = Lease(tmp_path, "1").__enter__()
    with Lease(tmp_path, "1") as again:
        assert token(again) == 2
        with pytest.raises(InputError, match="taken over by job 1"):
            first.check()


def test_a_silent_holder_is_gone(tmp_path: Path) -> None:
    """The lease of a node that burnt down would keep the run for ever; that of a living one must hold."""
    (tmp_path / "lease.json").write_text('{"token": 4, "owner": "job 1"}')
    with pytest.raises(InputError, match="job 1 is writing it"), Lease(tmp_path, "2", dead=60):
        pass
    os.utime(tmp_path / "lease.json", (1, 1))
    with Lease(tmp_path, "2", dead=60) as lease:
        assert token(lease) == 5


def test_a_dead_process_of_this_machine_is_gone_at_once(tmp_path: Path) -> None:
    """After a kill on a laptop, people would wait a minute before they could go on."""
    owner = f"process {2**22 + 1} on {socket.gethostname()}"
    (tmp_path / "lease.json").write_text(json.dumps({"token": 1, "owner": owner}))
    with Lease(tmp_path, None) as lease:
        assert token(lease) == 2


def test_a_claim_that_was_left_behind_is_passed_over(tmp_path: Path) -> None:
    """A process that died between claiming and writing would lock the run for ever."""
    claim = tmp_path / ".lease_00000001"
    claim.touch()
    with pytest.raises(InputError, match="somebody else is taking it"), Lease(tmp_path, "1"):
        pass
    os.utime(claim, (1, 1))
    with Lease(tmp_path, "1") as lease:
        assert token(lease) == 2


def test_a_damaged_lease_is_named(tmp_path: Path) -> None:
    """People would meet a stack of the JSON parser."""
    (tmp_path / "lease.json").write_text("{")
    with pytest.raises(InputError, match=r"lease\.json: damaged"):
        read_holder(tmp_path)
