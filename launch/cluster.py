"""Where a run executes: one YAML file for each cluster. Nothing in it changes a number of the run."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import user_path
from pineco.pretrain.recipe.typed_yaml import merge, parse_overrides, read_layer

CLUSTERS = Path(__file__).parent / "clusters"
_TIME = re.compile(r"(?:(\d+)-)?(\d{1,3}):([0-5]\d)(?::([0-5]\d))?")  # days-hours:minutes, or hours:minutes:seconds


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What `make plan` counts with. The defaults are an H100 SXM node of eight."""

    gpu_gib: float = 80.0  # memory of one GPU
    tflops: float = 989.0  # of one GPU, dense bf16, by its data sheet
    mfu: float = 0.25  # share of `tflops` that training is expected to reach
    node_gbit: float = 400.0  # between nodes, of one node
    ram_gib: float = 1000.0  # of one node
    store_gb: float = 2.0  # GB/s that one node gets from the object store or the shared file system
    failures: float = 6.5  # of 1,000 node-days; 2.3 to 6.5 are published for GPU clusters (arXiv 2410.21680)
    price: float | None = None  # of one GPU hour


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds that a rank may be silent in a phase before the run counts as hanging and is started again."""

    start: float = 1800.0  # imports, the data set, the model, the first collective
    step: float = 900.0  # waiting for data included
    save: float = 1800.0
    evaluate: float = 14400.0
    end: float = 600.0


@dataclass(frozen=True, kw_only=True)
class EvaluationJobs:
    """The small allocation that measures checkpoints while training goes on."""

    partition: str | None = None  # null: that of training
    gpus: int = 1
    cpus: int = 8
    time: str = "2:00:00"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    constraint: str | None = None
    exclude: str | None = None  # nodes, e.g. "node[3,7]"
    time: str = "24:00:00"  # limit of one job; a run goes on in the next one
    gpus_per_node: int = 8  # 0: computes on CPUs
    tasks_per_node: int | None = None  # null: one for each GPU
    cpus_per_task: int = 8
    memory: str | None = None  # of a node, e.g. "900G"; null: what the partition gives
    exclusive: bool = False
    signal_delay: int = 120  # seconds before the limit at which a run is told to save
    environment: dict[str, str] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)  # lines of bash before the run: module load ..., source ...
    srun_args: list[str] = field(default_factory=list)  # e.g. --container-image=...
    network: str | None = None  # interface between the nodes, e.g. ib0: sets GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME
    limits: Limits = field(default_factory=Limits)
    hardware: Hardware = field(default_factory=Hardware)
    evaluation: EvaluationJobs = field(default_factory=EvaluationJobs)

    @property
    def tasks(self) -> int:
        """Ranks on one node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def minutes(self) -> int:
        """The limit of one job."""
        return minutes(self.time)


def load_cluster(name: str, overrides: list[str] | None = None) -> Cluster:
    """The cluster `name`, or that of a YAML file by its path, with `key=value` overrides applied.

    A name is looked for in ./clusters, then in the folders of PINECO_CLUSTERS, then among those that ship.
    Raises InputError for an unknown name, an unknown key, or a value out of its bounds.
    """
    path = user_path(name) if name.endswith((".yaml", ".yml")) else _files().get(name, CLUSTERS / f"{name}.yaml")
    if not path.is_file():
        near = difflib.get_close_matches(name, cluster_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        known = ", ".join(cluster_names())
        raise InputError(
            f"CLUSTER {name}: no such cluster; {hint}there are {known}; add clusters/{name}.yaml, or pass its path"
        )
    schema = OmegaConf.structured(Cluster)
    cluster = merge(f"cluster {name}", schema, [read_layer(path), parse_overrides(overrides or [])])
    assert isinstance(cluster, Cluster)
    _check(name, cluster)
    return cluster


def cluster_names() -> list[str]:
    return sorted(_files())


def _files() -> dict[str, Path]:
    """File by name of cluster; folders of the user win over those that ship."""
    folders = [Path("clusters"), *map(user_path, filter(None, os.environ.get("PINECO_CLUSTERS", "").split(":")))]
    return {path.stem: path for folder in reversed([*folders, CLUSTERS]) for path in folder.glob("*.yaml")}


def minutes(time: str) -> int:
    """Of a SLURM time such as 24:00:00, 1-12:00 or 90:00 (hours:minutes), rounded up; InputError for others."""
    match = _TIME.fullmatch(time)
    if not match:
        raise InputError(f"time {time!r}: write hours:minutes:seconds or days-hours:minutes, e.g. 24:00:00")
    days, hours, mins, seconds = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + mins + (seconds > 0)


def _check(name: str, cluster: Cluster) -> None:
    problems = [
        (cluster.minutes < 1, f"time is {cluster.time}; it must be at least a minute"),
        (minutes(cluster.evaluation.time) < 1, f"evaluation.time is {cluster.evaluation.time}; at least a minute"),
        (cluster.gpus_per_node < 0, f"gpus_per_node is {cluster.gpus_per_node}; it must not be negative"),
        (cluster.cpus_per_task < 1, f"cpus_per_task is {cluster.cpus_per_task}; it must be at least 1"),
        (cluster.tasks < 1, f"tasks_per_node is {cluster.tasks_per_node}; it must be at least 1"),
        (
            not 0 < cluster.signal_delay < 60 * cluster.minutes,
            f"signal_delay is {cluster.signal_delay} s; it must be above 0 and below the limit of {cluster.time}",
        ),
        (
            any(re.search(r"[\n\r]", line) for line in cluster.setup),
            "setup: one command a list entry, without line breaks",
        ),
    ]
    for wrong, what in problems:
        if wrong:
            raise InputError(f"cluster {name}: {what}")
