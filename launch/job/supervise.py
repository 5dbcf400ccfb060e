"""python -m pineco.launch.job.supervise RUN: the batch script of a job.

Starts the ranks, watches them, decides what comes after. It runs beside the ranks, not in one of them, so it outlives
every rank, and it is as small as can be, without torch. If its own node fails, SLURM requeues the job, and the next
start finds an attempt that never ended.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from itertools import count
from pathlib import Path

from pineco.data_pipeline.errors import InputError
from pineco.launch.exits import BAD_INPUT, INTERRUPTED
from pineco.launch.job.rank import ATTEMPT, CRASHES, LEFT, PORT_TAKEN, read_left
from pineco.launch.job.watchdog import Watchdog
from pineco.launch.rundir.attempts import Attempt, Cause, decide, read_attempts, write_attempt
from pineco.launch.rundir.checkpoints import saved_steps
from pineco.launch.rundir.spec import CODE, JOB, STOP, Spec, read_job, read_spec
from pineco.launch.submit import slurm

_POLL = 0.5  # seconds
_REQUEUED = 60.0  # seconds in which SLURM ends a job that it has put back into the queue
_PATIENCE = (5, 15, 30, 60, 120, 240)  # seconds between two requests to a controller that does not answer
_NUMBERED = 60.0  # seconds in which who submitted this job has written its number
_LEAVE = 15.0  # seconds before the time limit at which ranks that have not saved are given up, to come back at all


def main(run: Path) -> int:
    folder, job = run / JOB, slurm.own_job(os.environ)
    signals = list[int]()
    for number in (signal.SIGTERM, signal.SIGUSR2):  # meant for the ranks, which save; SLURM ends this process at last
        signal.signal(number, lambda number, _: signals.append(number))  # not SIG_IGN, which srun would inherit
    _wait_for_turn(run, job)
    spec = read_spec(run)
    for step in count():
        attempt = _begin(run, folder, job)
        notice = CancelNotice(run, attempt, signals)
        attempt = notice.said_of(_end(run, attempt, *_run_ranks(run, spec, attempt, f"{job}.{step}", notice)))
        write_attempt(folder, attempt)
        decision = decide(read_attempts(folder), stop_asked=(folder / STOP).exists())
        _say(f"attempt {attempt.number} ended: {attempt.cause} ({attempt.why}); {decision.action}: {decision.why}")
        if decision.action == "end":
            if attempt.cause != "done":
                _say(f"go on with: make resume RUN={run}")
            return 0
        if decision.action == "give up":
            print(f"pineco: {run}: given up: {decision.why}", file=sys.stderr)
            return 1
        if attempt.cause != "port":
            break
    return _start_again(run, attempt)


def _wait_for_turn(run: Path, job: str) -> None:
    """InputError where another job is the one of this run. It must not touch a file of it, then.

    The number is written after sbatch has returned it, when the job may run already.
    """
    end = time.monotonic() + _NUMBERED
    while (known := read_job(run)) != job:
        if time.monotonic() > end:
            other = f"job {known} is the one of this run" if known else "no job is the one of this run"
            raise InputError(f"{run}: {other}, not job {job}, which ends and leaves it alone")
        time.sleep(_POLL)


def _begin(run: Path, folder: Path, job: str) -> Attempt:
    before = read_attempts(folder)
    for name in ("beats", CRASHES, LEFT):
        for path in (folder / name).glob("rank_*"):
            path.unlink()
    attempt = Attempt(len(before) + 1, job, time.time(), saved_steps(run))
    write_attempt(folder, attempt)
    return attempt


def _run_ranks(run: Path, spec: Spec, attempt: Attempt, step: str, notice: CancelNotice) -> tuple[int, str | None]:
    """(exit code of srun, what the watchdog found or None)."""
    environment = _environment(run, spec, attempt)
    with subprocess.Popen(command(run, spec), env=environment) as ranks:  # noqa: S603 - words of the spec
        watchdog = Watchdog(run / JOB, spec.cluster.limits, spec.ranks, say=_say)
        limit = TimeLimit(step.partition(".")[0])
        while ranks.poll() is None:
            time.sleep(_POLL)
            notice.look()
            if (found := watchdog.look(time.monotonic()) or limit.look(time.monotonic())) is not None:
                _kill(step, ranks, watchdog)
                return ranks.wait(), found
        return ranks.returncode, None


def _kill(step: str, ranks: subprocess.Popen[bytes], watchdog: Watchdog) -> None:
    """Every rank, once it was asked for its stacks; those of a dead srun are ended by SLURM's daemons."""
    try:
        watchdog.collect_stacks(lambda: slurm.signal_tasks(step, "QUIT"))
        slurm.signal_tasks(step, "KILL")
    except InputError as error:
        _say(f"{error}; srun is killed instead")
        ranks.kill()


class CancelNotice:
    """Writes down at once that scancel ended the job: SLURM's signal leaves the ranks and this process some seconds."""

    def __init__(self, run: Path, attempt: Attempt, signals: list[int]) -> None:
        """signals: what this process was sent so far; others append to it."""
        self._run, self._attempt, self._signals, self._seen = run, attempt, signals, False

    def look(self) -> None:
        if signal.SIGTERM not in self._signals:
            return
        self._signals.clear()  # a preemption sends the same: asked once for each signal
        try:
            self._seen = self._seen or slurm.cancelled(self._attempt.job, _restarts())
        except InputError as error:
            _say(f"{error}; whether the job was cancelled is asked again once the ranks have ended")
        if self._seen:
            so_far = replace(self._attempt, ended=time.time(), to_step=saved_steps(self._run))
            write_attempt(self._run / JOB, self.said_of(so_far))

    def said_of(self, attempt: Attempt) -> Attempt:
        """The attempt as one that was cancelled, if it was and is not done all the same."""
        return _as_cancelled(attempt) if self._seen and attempt.cause != "done" else attempt


def _as_cancelled(attempt: Attempt) -> Attempt:
    return replace(attempt, cause="cancelled", why="cancelled with scancel")


def _restarts() -> int:
    """How often this job had been put back when this process was started."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


class TimeLimit:
    """Ends ranks that did not save in time: a job that meets its limit is ended by SLURM and not put back."""

    def __init__(self, job: str) -> None:
        self._job, self._end = job, 0.0

    def look(self, now: float) -> str | None:
        """What is wrong, in words; None before. now: seconds of a clock that only goes forward."""
        if now < self._end - _LEAVE:
            return None
        try:
            self._end = now + slurm.seconds_left(self._job)  # it may have been given more time
        except InputError:  # a busy controller: asked again in a minute
            self._end = now + _LEAVE + 60
        return None if now < self._end - _LEAVE else "the time limit came before every rank had saved"


def command(run: Path, spec: Spec) -> list[str]:
    """Starts one process for each rank. One that fails ends all, and none waits for another for ever."""
    logs = str(run / JOB / "logs" / "rank_%5t.log")
    ranks = [f"--nodes={spec.nodes}", f"--ntasks={spec.ranks}", f"--ntasks-per-node={spec.cluster.tasks}"]
    fate = ["--kill-on-bad-exit=1", "--wait=60", "--unbuffered"]
    output = [f"--output={logs}", f"--error={logs}", "--open-mode=append"]
    python = [spec.python, "-P", "-m", "pineco.launch.job.rank", str(run)]
    return [
        "srun",
        *ranks,
        *fate,
        *output,
        f"--cpus-per-task={spec.cluster.cpus_per_task}",
        *spec.cluster.srun_args,
        *python,
    ]


def _environment(run: Path, spec: Spec, attempt: Attempt) -> dict[str, str]:
    node = slurm.first_node(os.environ["SLURM_JOB_NODELIST"])
    more = {
        "PYTHONPATH": str(run / JOB / CODE),
        "MASTER_ADDR": slurm.node_address(node),  # names of nodes need not resolve
        **spec.cluster.environment,
        ATTEMPT: attempt.key,
        "MASTER_PORT": str(_free_port()),  # another one each time: one that was taken is not tried again
    }
    if spec.cluster.network:
        more |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), spec.cluster.network)
    return {**os.environ, **more}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _end(run: Path, attempt: Attempt, code: int, hang: str | None) -> Attempt:
    crash = _first_crash(run / JOB, attempt.key)
    cause, why = classify(code, hang, crash, read_left(run / JOB, attempt.key).values())
    return replace(attempt, ended=time.time(), to_step=saved_steps(run), cause=cause, code=code, crash=crash, why=why)


def classify(code: int, hang: str | None, crash: str | None, left: Collection[int]) -> tuple[Cause, str]:
    """What ended the ranks, and in words.

    code: of srun, the largest of all, 128 + n for signal n. left: codes of the ranks that left by themselves: once one
    has, srun ends the others.
    """
    if hang is not None:
        return "hang", hang
    if code == 0:
        return "done", "every rank finished"
    if INTERRUPTED in left:  # all agreed to it, once the checkpoint was whole
        return "saved", "told to save and stop"
    if code == 128 + signal.SIGUSR2:  # SLURM's warning, before the interpreter could listen
        return "saved", "told to stop before it had begun"
    if PORT_TAKEN in left:
        return "port", "the port of rank 0 was taken"
    if BAD_INPUT in left and crash is None:
        return "bad input", "a rank refused its input"
    if crash is not None:
        return "crash", crash.splitlines()[0]
    return "killed", f"a rank was killed or left with code {code}"


def _first_crash(folder: Path, attempt: str) -> str | None:
    """Step, error and trace of the rank that raised first; what the others raise follows from it.

    Not which rank: of several that meet the same error, another one may be first the next time.
    """
    found = []
    for path in (folder / CRASHES).glob("rank_*.json"):
        record = json.loads(path.read_text())
        if record.get("attempt") == attempt:
            found.append((record["time"], record))
    if not found:
        return None
    _, record = min(found, key=lambda pair: pair[0])
    return "\n".join([f"{record['error']} after step {record['step']}", *record["trace"]])


def _start_again(run: Path, attempt: Attempt) -> int:
    """Puts the job back into the queue, and waits for SLURM to end it: who leaves first would end it for good.

    Not a job that was cancelled, whose ranks saved because scancel's signal is that of a preemption.
    """
    job = attempt.job
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # SLURM's, once the job is back: no rank is left to be told
    restarts = _restarts()
    for pause in _PATIENCE:
        try:
            if slurm.cancelled(job, restarts):
                return _end_cancelled(run, attempt)
            if slurm.restarts(job) == restarts:  # else it came back without us, and this would end what runs now
                slurm.requeue(job)
            time.sleep(_REQUEUED)
            return 1
        except InputError as error:
            _say(f"{error}; asks again in {pause} s")
            time.sleep(pause)
    print("pineco: SLURM did not take the job back; start again with make resume", file=sys.stderr)
    return 1


def _end_cancelled(run: Path, attempt: Attempt) -> int:
    write_attempt(run / JOB, _as_cancelled(attempt))
    _say(f"attempt {attempt.number} was cancelled with scancel; go on with: make resume RUN={run}")
    return 0


def _say(what: str) -> None:
    print(f"pineco: {time.strftime('%Y-%m-%d %H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except InputError as error:
        print(f"pineco: {error} ({shlex.join(sys.argv)})", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except OSError as error:
        print(f"pineco: {error}; mend it, then make resume RUN={sys.argv[1]}", file=sys.stderr)
        sys.exit(1)
