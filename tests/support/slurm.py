"""A real SLURM of virtual nodes on this machine, for tests and for trying things.

`python -m tests.support.slurm [--nodes 2] [-- COMMAND ...]` starts munged, slurmctld and a slurmd for each node below a
folder of its own, runs the command with SLURM_CONF in its environment (without one: waits for Ctrl-C), and stops them.
Needs root and Debian's packages slurm-wlm and munge. The nodes share host, memory and processes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_CPUS, _MEMORY = 8, 20_000  # of a virtual node; MB

_CONF = """
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=86400
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} RealMemory={memory}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL Default=NO MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why no SLURM can be started here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "only root can start a SLURM"


@contextmanager
def slurm(folder: Path, nodes: int = 2) -> Iterator[dict[str, str]]:
    """What to add to the environment of those who use the cluster; all nodes are idle."""
    for name in ("ctld", "spool", "log", "munge"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    port = _free_ports(nodes + 1)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    sizes = {"cpus": _CPUS, "memory": _MEMORY, "nodes": nodes}
    conf.write_text(
        _CONF.format(host=host, port=port, folder=folder, first=port + 1, last=port + nodes, **sizes).lstrip()
    )
    environment = {"SLURM_CONF": str(conf), "PATH": _PATH}
    with ExitStack() as stack:
        munge = folder / "munge"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        _start(stack, ["munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files], environment)
        _wait_for(lambda: (munge / "socket").exists(), "munged")
        _start(stack, ["slurmctld", "-D", "-f", str(conf)], environment)
        for number in range(1, nodes + 1):
            (folder / "spool" / f"node{number}").mkdir()
            _start(stack, ["slurmd", "-D", "-f", str(conf), "-N", f"node{number}"], environment)
        _wait_for(lambda: _idle(environment) == nodes, "slurmctld and slurmd", folder / "log")
        yield environment


def _start(stack: ExitStack, command: Sequence[str], environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


def _idle(environment: dict[str, str]) -> int:
    command = ["sinfo", "--noheader", "--partition=main", "--format=%D %t"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return sum(int(line.split()[0]) for line in done.stdout.splitlines() if line.split()[1:] == ["idle"])


def _wait_for(ready: object, what: str, logs: Path | None = None, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > end:
            said = "".join(path.read_text()[-800:] for path in sorted(logs.glob("*.log"))) if logs else ""
            raise RuntimeError(f"{what} did not come up in {seconds:.0f} s\n{said}")
        time.sleep(0.05)


def _free_ports(number: int) -> int:
    """The first of so many ports that are free and follow each other."""
    for first in range(17000 + os.getpid() % 1000 * 10, 60000, 16):
        with ExitStack() as stack:
            try:
                for port in range(first, first + number):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.slurm", description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    if (why := missing()) is not None:
        print(f"no SLURM here: {why}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm(Path(folder), options.nodes) as environment:
        if options.command:
            return subprocess.run(options.command, env={**os.environ, **environment}, check=False).returncode
        print(f"export SLURM_CONF={environment['SLURM_CONF']}   # Ctrl-C ends it", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
