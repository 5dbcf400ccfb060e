"""python -m tests.bench.evals: our zero-shot evaluation beside clip-benchmark's and beside the bare forward pass.

Each contestant is a process of its own: the command line of ours, that of clip-benchmark, and stock open_clip on
decoded images and tokens. They take turns on the same data, weights (fixed seed) and threads, in fp32; the order turns
round every round, ratios are taken round by round, and figures are medians. Writes one record into results/evals/.
With --parity MODEL it measures no time, but every figure of whole sets by both programs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.datasets import open_folder
from pineco.evals.models.encoder import WEIGHTS_FILE
from pineco.evals.results.provenance import commit, hardware, versions
from tests.bench.data.figures import Demand, Figure
from tests.bench.eval_cuts import Cut, cut_sets
from tests.bench.peer_clip_benchmark import (
    PYTHON,
    TOLERANCE,
    Metrics,
    Pair,
    Peers,
    children_cpu,
    missing,
    pair_up,
    run_clip_benchmark,
)

MODEL, SEED = "ViT-B-32", 0
AT_MOST, GOAL = 1.10, 2.0  # times the bare forward pass; times as fast as clip-benchmark
QUICK = Cut(images=32, templates=1, classes=100)  # 80,000 prompts of ImageNet take an hour of two cores
BUSY = 1.25  # runnable threads a core, in the last minute, above which a record says so
_PACKAGES = ("clip-benchmark", "torch", "open_clip_torch", "numpy", "webdataset")  # of the peers


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all contestants are given."""

    model: str  # NAME:FILE of weights, or local-dir:DIR
    root: Path
    tasks: tuple[str, ...]
    batch_size: int
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """On the CPU, by as many threads as asked for."""
        return os.environ | {"OMP_NUM_THREADS": str(self.threads), "CUDA_VISIBLE_DEVICES": ""}

    @property
    def workers(self) -> int:
        """clip-benchmark's decoding processes: none may be without a shard."""
        return min(self.threads, *(len(open_folder(self.root / task, task).shards) for task in self.tasks))


@dataclass(frozen=True)
class Ours:
    """What one call of our command line gave."""

    wall: float  # seconds of the whole process
    cpu: float  # seconds that it computed
    evaluation: float  # of the wall time, without importing and loading
    metrics: dict[str, Metrics]


@dataclass(frozen=True)
class Round:
    """One turn of each contestant."""

    ours: Ours
    peers: Peers
    bare: Mapping[str, Any]  # see tests.bench.bare_forward

    def bare_seconds(self, *parts: str, clock: str = "wall") -> float | None:
        """Of these parts of the bare process together; None where one was not measured."""
        found = [self.bare[part] for part in parts]
        return None if None in found else sum(part[clock] for part in found)


def identity_of(export: str) -> str:
    """What a record calls a model: its weights, not where they lie on one machine."""
    with (Path(export.removeprefix("local-dir:")) / WEIGHTS_FILE).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if (why := missing()) is not None:
            raise InputError(why)
        with tempfile.TemporaryDirectory(prefix="bench-evals-") as folder:
            found = _parity(options, Path(folder)) if options.parity else _bench(options, Path(folder))
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    out = options.out or Path("results/evals") / ("parity.json" if options.parity else "bench.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found | _provenance(options.threads), indent=2) + "\n")
    print(f"written to {out}")
    return 0 if found["parity"]["agree"] else 1


def run_ours(setting: Setting, out: Path) -> Ours:
    """Our command line on all tasks; raises InputError where it has no figure for one. out: an empty folder."""
    report = out / "report.json"
    command = [sys.executable, "-m", "pineco", "eval", "zeroshot", "--model", setting.model]
    command += ["--data", str(setting.root)]
    command += ["--tasks", ",".join(setting.tasks), "--batch-size", str(setting.batch_size), "--out", str(report)]
    started, cpu = time.perf_counter(), children_cpu()
    _call(command, setting, "pineco eval zeroshot")
    wall, cpu = time.perf_counter() - started, children_cpu() - cpu
    found = json.loads(report.read_text(encoding="utf-8"))
    return Ours(wall, cpu, found["seconds"], {result["task"]: result["metrics"] for result in found["results"]})


def run_bare(setting: Setting, *, stock_texts: bool) -> Mapping[str, Any]:
    """What tests.bench.bare_forward says."""
    command = [sys.executable, "-m", "tests.bench.bare_forward", "--model", setting.model, "--data", str(setting.root)]
    command += ["--tasks", ",".join(setting.tasks), "--batch-size", str(setting.batch_size)]
    command += ["--started", str(time.time()), *(["--stock-texts"] if stock_texts else [])]
    found: dict[str, Any] = json.loads(_call(command, setting, "tests.bench.bare_forward").splitlines()[-1])
    return found


def take_round(setting: Setting, place: Path, *, backwards: bool, stock_texts: bool) -> Round:
    """One turn of each contestant, one after the other. place: an empty folder."""
    turns: dict[str, Any] = {}
    for name in ("bare", "peers", "ours") if backwards else ("ours", "peers", "bare"):
        (place / name).mkdir(parents=True)
        match name:
            case "ours":
                turns[name] = run_ours(setting, place / name)
            case "peers":
                turns[name] = run_clip_benchmark(
                    setting.model, setting.root, setting.tasks, place / name,
                    batch_size=setting.batch_size, workers=setting.workers, environment=setting.environment,
                )  # fmt: skip
            case _:
                turns[name] = run_bare(setting, stock_texts=stock_texts)
    return Round(**turns)


def figures(rounds: Sequence[Round]) -> list[Figure]:
    """Seconds of the contestants and their ratios, round by round."""
    short, all_short = ("image_tower", "short_texts"), ("loading", "image_tower", "short_texts")
    seconds: dict[str, list[float | None]] = {
        "our command line, whole process": [r.ours.wall for r in rounds],
        "our evaluation, without importing and loading": [r.ours.evaluation for r in rounds],
        "clip-benchmark's command line, whole process": [r.peers.seconds for r in rounds],
        "importing and loading of the bare process": [r.bare_seconds("loading") for r in rounds],
        "bare forward, images": [r.bare_seconds("image_tower") for r in rounds],
        "bare forward, texts without padding": [r.bare_seconds("short_texts") for r in rounds],
        "bare forward, texts of 77 tokens": [r.bare_seconds("padded_texts") for r in rounds],
    }
    ratios: dict[str, list[float | None]] = {
        OVER_SHORT: [_over(r.ours.evaluation, r.bare_seconds(*short)) for r in rounds],
        OVER_PADDED: [_over(r.ours.evaluation, r.bare_seconds("image_tower", "padded_texts")) for r in rounds],
        WHOLE_OVER_SHORT: [_over(r.ours.wall, r.bare_seconds(*all_short)) for r in rounds],
        f"{WHOLE_OVER_SHORT}, computing": [_over(r.ours.cpu, r.bare_seconds(*all_short, clock="cpu")) for r in rounds],
        PEERS_OVER_OURS: [_over(r.peers.seconds, r.ours.wall) for r in rounds],
        f"{PEERS_OVER_OURS}, computing": [_over(r.peers.cpu, r.ours.cpu) for r in rounds],
    }
    return [
        Figure(what, unit, tuple(value for value in values if value is not None))
        for unit, group in (("s", seconds), ("x", ratios))
        for what, values in group.items()
        if None not in values
    ]


def _over(seconds: float, others: float | None) -> float | None:
    return None if others is None else seconds / others


OVER_SHORT = "our evaluation over the bare forward pass (texts without padding), neither with importing and loading"
OVER_PADDED = "our evaluation over the bare forward pass (texts of 77 tokens), neither with importing and loading"
WHOLE_OVER_SHORT = "our command line over a bare process (texts without padding), both with importing and loading"
PEERS_OVER_OURS = "clip-benchmark's command line over ours, whole processes"


def demands(found: Sequence[Figure]) -> list[Demand]:
    """What must hold of the medians; the goal is no more than a goal."""
    median = {figure.what: figure.median for figure in found}
    return [
        Demand("E1", OVER_SHORT, median[OVER_SHORT], AT_MOST, at_most=True),
        Demand("E2", PEERS_OVER_OURS, median[PEERS_OVER_OURS], 1.0),
        Demand("goal", PEERS_OVER_OURS, median[PEERS_OVER_OURS], GOAL),
    ]


def parity_record(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Both programs' figures, and the largest difference."""
    return {
        "tolerance": TOLERANCE,
        "agree": all(pair.agrees for pair in pairs),
        "largest_difference": max(abs(pair.ours - pair.theirs) for pair in pairs),
        "figures": [pair.record() for pair in pairs],
    }


def write_weights(path: Path) -> None:
    """The model's random weights of a fixed seed, as safetensors; the global random state is left alone."""
    import open_clip
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        model = open_clip.create_model(MODEL)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def _bench(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    cut = _cut(options, QUICK)
    tasks = cut_sets(options.data, folder / "data", cut)
    write_weights(folder / "weights.safetensors")
    setting = Setting(
        model=f"{MODEL}:{folder / 'weights.safetensors'}",
        root=folder / "data",
        tasks=tasks,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    rounds: list[Round] = []
    load = os.getloadavg()[0]
    for number in range(options.rounds):
        place = folder / f"round{number}"
        rounds.append(take_round(setting, place, backwards=number % 2 == 1, stock_texts=not options.no_stock_texts))
        print(_line(number, rounds[-1]), flush=True)
    found = figures(rounds)
    asked = demands(found)
    for demand in asked:
        bound = f"{'<=' if demand.at_most else '>='} {demand.required:g}"
        verdict = "holds" if demand.holds else "FALLS SHORT"
        print(f"{demand.id:5s}{demand.what}: {demand.measured:.3g} ({bound}), {verdict}")
    if load > BUSY * (os.cpu_count() or 1):
        print("other programs keep this machine busy: take the figures with caution")
    return {
        "what": "zero-shot evaluation beside clip-benchmark and the bare forward pass; medians of the rounds",
        "model": f"{MODEL}, random weights of seed {SEED}, fp32, CPU",
        "tasks": list(tasks),
        "cut": asdict(cut),
        "forward_passes": rounds[0].bare["counts"],
        "batch_size": setting.batch_size,
        "clip_benchmark_workers": setting.workers,
        "rounds": len(rounds),
        "load_average_before": round(load, 2),
        "demands": [demand.record() for demand in asked],
        "figures": [figure.record() for figure in found],
        "parity": parity_record(pair_up(rounds[-1].ours.metrics, rounds[-1].peers.metrics)),
    }


def _parity(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Whole sets unless asked otherwise, one process, so that both programs see the images in the same order."""
    cut = _cut(options, Cut(shards=1))
    setting = Setting(
        model=f"local-dir:{Path(options.parity).resolve()}",
        root=folder / "data",
        tasks=cut_sets(options.data, folder / "data", cut),
        batch_size=options.batch_size,
        threads=options.threads,
    )
    (folder / "ours").mkdir()
    (folder / "peers").mkdir()
    ours = run_ours(setting, folder / "ours")
    peers = run_clip_benchmark(
        setting.model, setting.root, setting.tasks, folder / "peers",
        batch_size=setting.batch_size, workers=0, environment=setting.environment,
    )  # fmt: skip
    found = parity_record(pair_up(ours.metrics, peers.metrics))
    print(f"largest difference {found['largest_difference']:.2g} over {len(found['figures'])} figures")
    print(f"{ours.wall:.1f} s ours, {peers.seconds:.1f} s clip-benchmark")
    return {
        "what": "every figure by both programs, fp32, CPU",
        "model": identity_of(options.parity),
        "tasks": list(setting.tasks),
        "cut": asdict(cut),
        "parity": found,
        "seconds": {"ours": round(ours.wall, 1), "clip_benchmark": round(peers.seconds, 1)},
    }


def _cut(options: argparse.Namespace, usual: Cut) -> Cut:
    """What the options say; 0 is all, and what they do not say is as usual."""
    given = {"images": options.images, "templates": options.templates, "classes": options.classes}
    asked: dict[str, Any] = {name: value or None for name, value in given.items() if value is not None}
    return replace(usual, **asked)


def _line(number: int, turn: Round) -> str:
    ours = turn.ours
    return (
        f"round {number}: ours {ours.wall:.1f} s ({ours.evaluation:.1f} s of evaluation), clip-benchmark "
        f"{turn.peers.seconds:.1f} s, bare {turn.bare_seconds('image_tower'):.1f} s of images + "
        f"{turn.bare_seconds('short_texts'):.1f} s of texts"
    )


def _provenance(threads: int) -> dict[str, Any]:
    return {
        "threads": threads,
        "commit": commit(),
        "versions": versions(),
        "peers": _peer_versions(),
        "load_average": round(os.getloadavg()[0], 2),
        "hardware": f"{hardware(torch.device('cpu'))}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _peer_versions() -> dict[str, str]:
    code = (
        "import sys, json; from importlib.metadata import version; print(json.dumps(list(map(version, sys.argv[1:]))))"
    )
    done = subprocess.run([str(PYTHON), "-c", code, *_PACKAGES], capture_output=True, text=True, check=True)
    return dict(zip(_PACKAGES, json.loads(done.stdout), strict=True))


def _call(command: list[str], setting: Setting, what: str) -> str:
    """What it printed; raises InputError with its last line where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=setting.environment)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
        raise InputError(f"{what} ended with {done.returncode}: {last.removeprefix('pineco: ')[:300]}")
    return done.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.evals", description="Measures the evaluation.")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PINECO_DATA", "data")) / "wds")
    for name in ("images", "templates", "classes"):
        usual = f"of each set ({getattr(QUICK, name)}, with --parity all; 0: all)"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=usual)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contestant (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="of every contestant (%(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(%(default)s)")
    parser.add_argument("--no-stock-texts", action="store_true", help="leave out the bare pass over padded texts")
    parser.add_argument("--parity", metavar="EXPORT", help="compare every figure of this model on whole sets instead")
    parser.add_argument("--out", type=Path, help="results/evals/bench.json, or parity.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
