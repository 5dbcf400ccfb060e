"""pineco plan RECIPE [key=value ...] --nodes N: what a run needs and costs, before a GPU hour is spent.

Formulas over the recipe, the model's config, the cluster's `hardware` and the manifest of the data; no torch.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pineco.data_pipeline.errors import InputError
from pineco.launch.cluster import Cluster, cluster_names, load_cluster
from pineco.launch.plan.align_work import align_work
from pineco.launch.plan.data_size import data_size
from pineco.launch.plan.model_size import GIB, NoEstimateError, millions
from pineco.launch.plan.neco_work import neco_work
from pineco.launch.plan.recipe_on_nodes import Stage
from pineco.launch.plan.workload import Work, clip_work, triplet_work
from pineco.pretrain.recipe.load import load_init_recipe, load_recipe
from pineco.pretrain.recipe.settings import Recipe

DECODED = 735  # images/s a core, 500 x 375 -> 224 (results/data/bench.json)
EXTENT = 16 * 2**20  # bytes of a GET
BLOCK = 64 * EXTENT  # what a lane is shuffled in
PREFIX_GETS = 5500  # GET/s that S3 gives a prefix
WIDTH = 160  # characters, where the output is no terminal
RESTART = 900.0  # seconds from the end of one job until the next one trains, with a short queue
WORK: dict[str, Callable[[Recipe], Work]] = {
    "clip": clip_work,
    "perceptual_init": triplet_work,
    "align": align_work,
    "neco": neco_work,
}


@dataclass(frozen=True)
class Line:
    """One figure. care: why it needs a look, None where it does not."""

    stage: str  # name of the recipe
    group: str
    what: str
    value: float
    unit: str
    formula: str  # with the numbers put in
    care: str | None = None


@dataclass(frozen=True)
class Plan:
    nodes: int
    ranks: int
    lines: tuple[Line, ...]

    def line(self, what: str, stage: str | None = None) -> Line:
        """The line of that name, of the last stage if none is named; raises KeyError where there is none."""
        found = [line for line in self.lines if line.what == what and stage in (None, line.stage)]
        if not found:
            raise KeyError(what)
        return found[-1]


def ring_bytes(parameters: int, members: int, size: int = 4) -> float:
    """Sent by each member of a ring all-reduce: 2 (W - 1) / W P s. Between nodes, W is the number of nodes."""
    return 2 * (members - 1) / members * parameters * size


def mtbf_hours(failures: float, nodes: int) -> float:
    """Mean time between failures; failures: of 1,000 node-days."""
    return 24_000 / (failures * nodes)


def young_seconds(stall: float, mtbf: float) -> float:
    """Best time between checkpoints, sqrt(2 delta M) (Young 1974); all in seconds."""
    return math.sqrt(2 * stall * mtbf)


def goodput(stall: float, interval: float, mtbf: float, lost: float) -> float:
    """Share of time that trains, 1 - delta / tau - (tau / 2 + lost) / M, at least 0; all in seconds.

    lost: until a failure shows, and from then until the run trains again. Of first order (Young, Daly).
    """
    return max(0.0, 1 - stall / interval - (interval / 2 + lost) / mtbf)


def _memory(s: Stage) -> Iterator[Line]:
    for part in s.memory:
        yield _line(s, part.what, part.value / GIB, "GiB", part.formula)
    limit, total = s.memory_limit / GIB, s.memory_bytes / GIB
    care = "little is left for what CUDA and NCCL take themselves" if total > 0.85 * limit else None
    yield _line(s, "memory a rank", total, "GiB", f"sum, of {limit:g} GiB; what CUDA takes is not counted", care)


def _time(s: Stage) -> Iterator[Line]:
    hard, data, cluster = s.cluster.hardware, s.recipe.data, s.cluster
    known = "steps and hours are as good as this guess" if s.data.guessed else None
    yield _line(s, "samples", s.data.samples, "", s.data.source, known)
    for part in s.work.parts:
        yield _line(s, part.what, part.value / 1e9, "GFLOP a sample", part.formula)
    ours = f"{hard.tflops:g} TFLOP/s x {hard.mfu:g} / {s.work.flops_formula}"
    yield _line(s, "samples/s a GPU", s.rate, "1/s", ours)
    yield _line(s, "samples/s in all", s.rate * s.ranks, "1/s", f"{s.rate:.0f} x {s.ranks} ranks")
    yield _line(s, "step", s.step_seconds, "s", f"{data.batch_size} / {s.rate * s.ranks:.0f}")
    whole = f"{s.data.samples} / {data.batch_size}, whole micro-batches of {data.batch_size // data.accumulation}"
    yield _line(s, "steps an epoch", s.steps_an_epoch, "", whole)
    reason = "schedule.steps" if s.recipe.schedule.steps else f"{s.recipe.schedule.epochs} epochs"
    yield _line(s, "steps", s.steps, "", reason)
    epoch, run = s.steps_an_epoch * s.step_seconds / 3600, s.steps * s.step_seconds / 3600
    yield _line(s, "hours an epoch", epoch, "h", f"{s.steps_an_epoch:.1f} x {s.step_seconds:.3g} s")
    yield _line(s, "hours", run, "h", f"{s.steps} x {s.step_seconds:.3g} s, without evaluation and restarts")
    yield _line(s, "jobs", math.ceil(60 * run / cluster.minutes), "", f"{run:.3g} h in jobs of {cluster.time}")
    gpus = s.nodes * cluster.gpus_per_node
    if gpus:
        yield _line(s, "GPU hours", gpus * run, "h", f"{gpus} GPUs x {run:.3g} h")
        if hard.price is not None:
            yield _line(s, "cost", gpus * run * hard.price, "", f"{gpus * run:.3g} h x {hard.price:g}")


def _reading(s: Stage) -> Iterator[Line]:
    hard, data, size = s.cluster.hardware, s.recipe.data, s.data.sample_bytes
    yield _line(s, "a sample", size / 1e3, "KB", s.data.bytes_source)
    node = s.rate * s.cluster.tasks * size
    kept = "; first epoch only, then from memory" if s.in_memory else "; first epoch only" if data.cache else ""
    words = f"{s.rate * s.cluster.tasks:.0f} samples/s x {size / 1e3:.1f} KB{kept}"
    given = hard.store_gb * 1e9 / node
    care = f"the store gives {hard.store_gb:g} GB/s, so {100 * given:.0f} % of the speed" if given < 1 else None
    yield _line(s, "read a node", node / 1e9, "GB/s", words, care)
    total = node * s.nodes
    yield _line(s, "read in all", total / 1e9, "GB/s", f"{s.nodes} nodes")
    yield _line(s, "GET", total / EXTENT, "1/s", f"{total / 1e9:.2f} GB/s in ranges of 16 MiB")
    share = total / EXTENT / PREFIX_GETS
    care = f"spread the shards over {math.ceil(share)} prefixes" if share > 1 else None
    yield _line(s, "share of a prefix", 100 * share, "%", f"of {PREFIX_GETS} GET/s that S3 gives a prefix", care)


def _feeding(s: Stage) -> Iterator[Line]:
    data, tasks, cpus = s.recipe.data, s.cluster.tasks, s.cluster.cpus_per_task
    cores, busy = _decoding(s)
    threads = tasks * min(cpus, data.workers)
    there = f"{threads} decode: {tasks} tasks x min({cpus} CPUs, {data.workers} data.workers)"
    more = "data.workers" if data.workers < cpus else "cpus_per_task and data.workers"
    care = f"{threads} decode {100 * threads / cores:.0f} % of it; raise {more}" if cores > threads else None
    yield _line(s, "cores that decode, a node", cores, "", f"{busy}; {there}", care)
    asked = f"data.memory_gib {data.memory_gib:g} x {tasks} tasks, of {s.cluster.hardware.ram_gib:g} GiB"
    yield _line(s, "read-ahead memory a node", data.memory_gib * tasks, "GiB", asked)
    lane = min(BLOCK, s.data.samples * s.data.sample_bytes / data.lanes)  # that is shuffled at once
    lanes, blocks = data.lanes / s.ranks, math.ceil(data.lanes / s.ranks) * lane / GIB
    care = None
    if lanes < 1 and not s.in_memory:
        care = "ranks that share a lane read most samples one by one; data.lanes changes the order of samples"
    elif blocks > data.memory_gib and not s.in_memory:
        care = f"their blocks have {blocks:.3g} GiB, data.memory_gib is {data.memory_gib:g}: part is read one by one"
    yield _line(s, "lanes a rank", lanes, "", f"{data.lanes} / {s.ranks} ranks", care)


def _decoding(s: Stage) -> tuple[float, str]:
    """Cores of a node that are busy with its images, and the formula."""
    samples = s.rate * s.cluster.tasks
    if s.work.core_seconds is None:
        images = samples * s.work.images
        return images / DECODED, f"{images:.0f} images/s / {DECODED} a core"
    each = f"{1e3 * s.work.core_seconds:.2f} ms of a core ({s.work.core_formula})"
    return samples * s.work.core_seconds, f"{samples:.0f} images/s x {each}"


def _network(s: Stage) -> Iterator[Line]:
    gbit, accumulation, zero = s.cluster.hardware.node_gbit, s.recipe.data.accumulation, s.recipe.engine.zero_stage
    trained = millions(s.work.trained)
    # ZeRO 2 scatters gradients in every micro-batch and gathers weights once; each is half of an all-reduce.
    times = (accumulation + 1) / 2 if zero == 2 and s.recipe.engine.kind == "deepspeed" else 1
    often = f" x {times:g}" if times != 1 else ""
    ring = f"2 x {s.ranks - 1} / {s.ranks} x {trained} x 4{often}"
    yield _line(s, "all-reduce a GPU", times * ring_bytes(s.work.trained, s.ranks) / 1e9, "GB a step", ring)
    between = times * ring_bytes(s.work.trained, s.nodes)
    words = f"2 x {s.nodes - 1} / {s.nodes} x {trained} x 4{often}, hierarchical"
    yield _line(s, "all-reduce a node", between / 1e9, "GB a step", words)
    features, gathered = 0.0, s.work.gathered
    if gathered is not None:
        batch = s.micro * s.ranks
        features = accumulation * batch * gathered.value * (s.nodes - 1) / s.nodes
        words = f"{accumulation} x {gathered.formula} x {s.nodes - 1} / {s.nodes}, B = {batch}"
        yield _line(s, gathered.what, features / 1e9, "GB a step", words)
    seconds = (between + features) * 8 / (gbit * 1e9)
    share = seconds / s.step_seconds
    care = f"{100 * share:.0f} % of a step, and nothing hides it" if share > 0.1 else None
    words = f"{(between + features) / 1e9:.2f} GB over {gbit:g} Gbit/s; {100 * share:.0f} % of {s.step_seconds:.3g} s"
    yield _line(s, "exchange between nodes", 1e3 * seconds, "ms a step", words, care)


def _failures(s: Stage) -> Iterator[Line]:
    hard, every = s.cluster.hardware, s.recipe.checkpoint
    mtbf, stall = 3600 * mtbf_hours(hard.failures, s.nodes), s.checkpoint_bytes / (hard.store_gb * 1e9)
    failing = f"24,000 / ({hard.failures:g} of 1,000 node-days x {s.nodes} nodes)"
    yield _line(s, "time between failures", mtbf / 3600, "h", failing)
    written = f"{s.checkpoint_bytes / 1e9:.2f} GB, one writer at {hard.store_gb:g} GB/s"
    yield _line(s, "stall of a checkpoint", stall, "s", written)
    best, own = young_seconds(stall, mtbf), _own_interval(s)
    young = f"sqrt(2 delta M), delta {stall:.2g} s, M {mtbf / 3600:.3g} h"
    yield _line(s, "best interval (Young)", best / 60, "min", young)
    asked = {"every_epochs": every.every_epochs, "every_steps": every.every_steps}
    words = ", ".join(f"checkpoint.{key}={value}" for key, value in asked.items() if value) or "the last step alone"
    yield _line(s, "the recipe's interval", own / 60, "min", words)
    silent = s.cluster.limits.step
    ideal, real = (goodput(stall, interval, mtbf, silent + RESTART) for interval in (best, own))
    lost = f"D {silent / 60:g} min (limits.step), R {RESTART / 60:g} min until it trains again"
    yield _line(s, "best goodput", 100 * ideal, "%", f"1 - delta/tau - (tau/2 + D + R)/M at Young's; {lost}")
    below = f"{100 * (ideal - real):.1f} points below the best; {_better_interval(s, best)}"
    care = below if ideal - real > 0.01 else None
    yield _line(s, "goodput", 100 * real, "%", "the same at the recipe's interval", care)


def _disk(s: Stage) -> Iterator[Line]:
    formula = f"4 P + 8 T = 4 x {millions(s.work.parameters)} + 8 x {millions(s.work.trained)}"
    formula += f" + {s.work.kept.formula}" if s.work.kept else ""
    yield _line(s, "checkpoint", s.checkpoint_bytes / 1e9, "GB", formula)
    saved = math.ceil(s.steps * s.step_seconds / _own_interval(s) - 1e-6)
    whole = min(saved, s.recipe.checkpoint.keep)
    total = whole * s.checkpoint_bytes + (saved - whole) * 4 * s.work.exported
    yield _line(s, "checkpoints in the end", total / 1e9, "GB", f"{whole} whole, {saved - whole} of weights alone")


def _own_interval(s: Stage) -> float:
    """Seconds between two checkpoints as the recipe says; of the whole run where only the last step is saved."""
    every = s.recipe.checkpoint
    steps = [every.every_steps or 0, (every.every_epochs or 0) * s.steps_an_epoch]
    due = [float(n) for n in steps if n]
    return min([*due, float(s.steps)]) * s.step_seconds


def _better_interval(s: Stage, best: float) -> str:
    """The setting of the recipe that saves every `best` seconds, or once where the run is shorter."""
    steps = min(float(s.steps), best / s.step_seconds)
    if steps > s.steps_an_epoch:
        return f"checkpoint.every_epochs={round(steps / s.steps_an_epoch)} is better"
    return f"checkpoint.every_steps={max(1, round(steps))} is better"


_GROUPS = [
    ("memory", _memory),
    ("time", _time),
    ("data", _reading),
    ("data", _feeding),
    ("network", _network),
    ("failures", _disk),
    ("failures", _failures),
]


def _line(s: Stage, what: str, value: float, unit: str, formula: str, care: str | None = None) -> Line:
    return Line(s.recipe.name, "", what, value, unit, formula, care)


def check(s: Stage) -> None:
    """Raises InputError, one line, for what cannot fit or run."""
    _check_cluster(s.cluster, s.recipe)
    name, hard, data = s.recipe.name, s.cluster.hardware, s.recipe.data
    unit = data.accumulation * s.ranks
    if data.batch_size % unit:
        whole = math.lcm(unit, data.accumulation * data.lanes)
        mend = f"pass data.batch_size={max(1, round(data.batch_size / whole)) * whole}, or other --nodes"
        told = f"data.batch_size is {data.batch_size}, no multiple of data.accumulation x ranks"
        raise InputError(f"{name}: {told} = {data.accumulation} x {s.ranks}; {mend}")
    ahead = data.memory_gib * s.cluster.tasks
    if ahead > hard.ram_gib:
        told = f"data.memory_gib is {data.memory_gib:g}, for {s.cluster.tasks} tasks {ahead:g} GiB a node"
        mend = f"at most {hard.ram_gib / s.cluster.tasks:.3g} fit"
        raise InputError(f"{name}: {told}, and hardware.ram_gib is {hard.ram_gib:g}; {mend}")
    if s.memory_bytes > s.memory_limit:
        most = max(s.memory, key=lambda part: part.value)
        told = f"a rank needs {s.memory_bytes / GIB:.1f} GiB, {most.value / GIB:.1f} of it for {most.what}"
        saving = f"{s.work.saving}, " if s.work.saving else ""
        mend = f"take more nodes, a larger data.accumulation, {saving}or engine.zero_stage=2"
        raise InputError(f"{name}: {told}, and has {s.memory_limit / GIB:.1f}; {mend}")
    if not (s.batches_an_epoch and s.steps):
        told = f"{s.data.samples} samples ({s.data.source}) do not fill a step of {data.batch_size}"
        raise InputError(f"{name}: {told}; pass a smaller data.batch_size, or more epochs")


def _check_cluster(cluster: Cluster, recipe: Recipe) -> None:
    for key, value in asdict(cluster.hardware).items():
        if value is not None and not value > 0 and key != "price":
            raise InputError(f"the cluster's hardware.{key} is {value}; it must be positive to plan with")
    if cluster.hardware.mfu > 1:
        raise InputError(f"the cluster's hardware.mfu is {cluster.hardware.mfu}; it is a share, such as 0.35")
    if cluster.tasks > cluster.gpus_per_node > 0 and recipe.engine.device != "cpu":
        told = f"tasks_per_node is {cluster.tasks}, gpus_per_node {cluster.gpus_per_node}"
        raise InputError(f"the cluster's {told}; a rank needs a GPU of its own, mend one of them")


def plan(
    recipe: Recipe, cluster: Cluster, nodes: int, samples: int | None = None, sample_bytes: float | None = None
) -> Plan:
    """Of a run with its first stage, where it has one. samples, sample_bytes: of the last stage; None: looked up.

    Raises InputError for what cannot fit or run, NoEstimateError for what no formula knows.
    """
    if nodes < 1:
        raise InputError(f"--nodes is {nodes}; it must be at least 1")
    if not (samples is None or samples > 0) or not (sample_bytes is None or sample_bytes > 0):
        raise InputError("--samples and --sample-kb must be positive; leave them out to have them looked up")
    stages = []
    if recipe.init != "random" and recipe.init_checkpoint is None:
        stages.append(_stage(load_init_recipe(recipe), cluster, nodes, None, None))
    stages.append(_stage(recipe, cluster, nodes, samples, sample_bytes))
    lines = [replace(x, group=group) for s in stages for group, make in _GROUPS for x in make(s)]
    return Plan(nodes, nodes * cluster.tasks, tuple(lines))


def _stage(recipe: Recipe, cluster: Cluster, nodes: int, samples: int | None, size: float | None) -> Stage:
    kind = recipe.objective.kind
    if kind not in WORK:
        raise NoEstimateError(f"{recipe.name}: no formula for {kind}, only for {', '.join(WORK)}")
    stage = Stage(recipe, cluster, nodes, WORK[kind](recipe), data_size(recipe, samples, size))
    check(stage)
    return stage


def show(plan: Plan, console: Console | None = None) -> None:
    """A table a stage; a line that needs care has a ! before it and the reason below."""
    console = console or (Console() if sys.stdout.isatty() else Console(width=WIDTH, height=100))
    for stage in dict.fromkeys(line.stage for line in plan.lines):
        table, group = Table(box=None, show_header=False), ""
        for line in (line for line in plan.lines if line.stage == stage):
            value = f"{_readable(line.value)} {line.unit}".rstrip()
            named, group = line.group if line.group != group else "", line.group
            table.add_row("!" if line.care else "", named, line.what, value, escape(line.formula))
            if line.care:
                table.add_row("", "", "", "", escape(f"^ {line.care}"))
        console.print(f"{escape(stage)}: {plan.nodes} nodes, {plan.ranks} ranks", table, "", sep="\n")


def _readable(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    recipe = load_recipe(options.recipe, options.overrides)
    size = None if options.sample_kb is None else 1000 * options.sample_kb
    made = plan(recipe, load_cluster(options.cluster), options.nodes, options.samples, size)
    if options.json:
        print(json.dumps(asdict(made), indent=1))
    else:
        show(made)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pineco plan",
        description="What a run needs and costs, by formulas: memory, hours, bytes, cores, failures.",
        epilog="pineco recipes lists the recipes.",
    )
    parser.add_argument("recipe", help="name of a recipe, or path of a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.root=DIR schedule.epochs=2")
    parser.add_argument("--nodes", type=int, required=True, metavar="N", help="number of nodes")
    parser.add_argument(
        "--cluster",
        default="default",
        metavar="NAME",
        help=f"{', '.join(cluster_names())}, or a .yaml path (%(default)s)",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="of the data set (default: its index says)")
    parser.add_argument("--sample-kb", type=float, metavar="KB", help="of one sample (default: its index says)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
