"""Losses of a short run of each objective, as recorded in tests/golden/losses.json.

python -m tests.support.golden records them anew, which belongs in a commit that says which numbers it changes and why.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pineco.data_pipeline.prepare.toy import make_toy_world
from pineco.data_pipeline.toy_world.settings import TINY
from tests.support.commands import command
from tests.support.ranks import TINY_CLIP

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
STEPS = 5
SHORT = (
    "engine.kind=local", "engine.device=cpu", "engine.precision=fp32", f"schedule.steps={STEPS}", "schedule.warmup=2",
    "schedule.epochs=1", "init=random", "evaluation.tasks=null", "checkpoint.every_epochs=null", "log_every=1",
    "data.batch_size=8", "data.lanes=4", f"model={TINY_CLIP}",
)  # fmt: skip
RECIPES = {
    "clip": ("clip_toy",),
    "perceptual_init": ("pi_toy",),
    "align": ("align_tiny", "model=vit_toy_p8_64"),
    "neco": (
        "neco_tiny",
        "model=vit_toy_p8_64",
        "objective.queue=128",
        "objective.head_hidden=32",
        "objective.head_width=16",
    ),
}  # by objective


def train(objective: str, world: Path, run: Path) -> list[float]:
    """Train the objective's short run in `run` on the tiny toy world in `world`; return its losses, one per step."""
    settings = json.loads((world / "world.json").read_text())["settings"]
    place = [f"toy_world.root={world}", *(f"toy_world.settings.{key}={value}" for key, value in settings.items())]
    name, *own = RECIPES[objective]
    code = command("train")([name, *place, *SHORT, *own, "--run-dir", str(run)])
    assert code == 0, f"{name} ended with exit code {code}"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


def record() -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = make_toy_world(Path(folder) / "world", TINY, workers=1)
        losses = {objective: train(objective, world, Path(folder) / objective) for objective in RECIPES}
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    record()
