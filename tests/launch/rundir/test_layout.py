"""Names in a run directory, which runs of older versions have, too."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pineco.launch.rundir import layout
from pineco.launch.rundir.owner import Owner
from pineco.pretrain.run_files import step_name, step_of


def test_names_are_what_they_were() -> None:
    """A run that was begun before an update could neither be resumed nor measured."""
    assert (step_name(460), step_of("step_00000460"), layout.rank_name(7)) == ("step_00000460", 460, "rank_00007")
    run = Path("runs/a")
    assert layout.metrics(run) == run / "metrics.jsonl"
    assert layout.report_of(run, "step_00000460") == run / "reports" / "step_00000460.json"
    folders = {"init", "job", "bad_samples", "checkpoints", "reports", "tensorboard"}
    assert set(layout.FOLDERS) == folders


def test_only_published_checkpoints_count(tmp_path: Path) -> None:
    """A resume would begin with a checkpoint that was not written to its end."""
    for name in ("step_00000020", "step_00000010", "step_00000030", ".step_00000040.a.tmp", "other"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        if name != "step_00000030":
            (tmp_path / "checkpoints" / name / "manifest.json").touch()
    assert [path.name for path in layout.published(tmp_path)] == ["step_00000010", "step_00000020"]


def test_files_by_step_and_by_rank(tmp_path: Path) -> None:
    """The newest report would not be the last one, or a draft be read as one."""
    for name in ("step_00000020.json", "step_00000003.json", "step_00000003.md", ".step_00000009.json.a.tmp"):
        (tmp_path / name).touch()
    for name in ("rank_00010.json", "rank_00002.json", ".rank_00003.json.a.tmp"):
        (tmp_path / name).touch()
    assert [(step, path.name) for step, path in layout.by_step(tmp_path).items()] == [
        (3, "step_00000003.json"),
        (20, "step_00000020.json"),
    ]
    assert [rank for rank, _ in layout.rank_files(tmp_path, ".json")] == [2, 10]


def test_an_owner_is_read_as_it_was_written() -> None:
    """A lease of an older version would count as damaged, or a living run as dead."""
    for text in ("job 123", "job 123_4", "process 45 on node-7.cluster"):
        assert str(Owner.parse(text)) == text
    here = Owner.here()
    assert str(here) == f"process {os.getpid()} on {socket.gethostname()}"
    assert (here.on_this_host, here.gone) == (True, False)
    assert (Owner(pid=2**22 + 1, host=socket.gethostname()).gone, Owner(pid=2**22 + 1, host="x").gone) == (True, False)
    assert (Owner.here("7").on_this_host, Owner.here("7").gone) == (False, False)


@pytest.mark.parametrize("text", ["", "somebody", "process x on y", "process 1", "job "])
def test_an_owner_that_nobody_wrote_is_refused(text: str) -> None:
    """The status would show a page of Python."""
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Owner.parse(text)


def test_names_need_no_torch() -> None:
    """The supervisor of a job and a login node would wait seconds for it."""
    code = "import sys, pineco.launch.rundir.layout, pineco.launch.rundir.lease; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
