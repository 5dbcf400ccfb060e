"""What a job runs, as JSON in the run directory: `RUN/job/spec.json`. Nothing in it is executed as code."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.files import write_text_atomically
from pineco.launch.cluster import Cluster
from pineco.launch.rundir.layout import ID, JOB, SPEC
from pineco.pretrain.recipe.typed_yaml import merge


@dataclass(frozen=True)
class Spec:
    """One run on a cluster."""

    nodes: int
    python: str  # interpreter on the nodes
    cluster: Cluster

    @property
    def ranks(self) -> int:
        return self.nodes * self.cluster.tasks


def write_spec(run: Path, spec: Spec) -> None:
    write_text_atomically(run / JOB / SPEC, json.dumps(asdict(spec), indent=1) + "\n")


def read_spec(run: Path) -> Spec:
    """InputError where it is missing, cut or holds what it should not."""
    path = run / JOB / SPEC
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        cluster = merge(str(path), OmegaConf.structured(Cluster), [OmegaConf.create(found["cluster"])])
        return Spec(int(found["nodes"]), str(found["python"]), cluster)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = type(error).__name__
        raise InputError(f"{path}: missing or damaged ({what}); submit the run again, it goes on where it is") from None


def read_job(run: Path) -> str | None:
    """The number of the job that a run was submitted as last."""
    path = run / JOB / ID
    return path.read_text().strip() if path.is_file() else None
