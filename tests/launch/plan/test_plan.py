"""The plan of a run: the figures of scale models, what it warns of, what it refuses, and that it imports no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pineco.launch.plan.plan as planning
from pineco.data_pipeline.errors import InputError
from pineco.data_pipeline.index import GROUP_BYTES, build_index
from pineco.data_pipeline.order import BLOCK_EXTENTS, EpochOrder, cut_extents
from pineco.data_pipeline.reading.shard_set import open_shards
from pineco.launch.cluster import Cluster, Hardware, load_cluster
from pineco.launch.plan.model_size import model_size
from pineco.launch.plan.plan import Plan, goodput, mtbf_hours, plan, ring_bytes, young_seconds
from pineco.launch.train.training import total_steps
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.settings import Recipe
from tests.support.commands import command
from tests.support.structure import ROOT

main = command("plan")

YFCC = ["clip_vitb32_yfcc15m", "data.root=/nowhere/yfcc15m", "init=random"]
P = 151_277_313  # parameters of ViT-B-32
HARDWARE = Hardware()


def _recipe(*overrides: str) -> Recipe:
    return load_recipe(YFCC[0], [*YFCC[1:], *overrides])


def _cluster(**hardware: Any) -> Cluster:
    return replace(load_cluster("default"), hardware=replace(HARDWARE, **hardware))


def _plan(*overrides: str, nodes: int = 8, cluster: Cluster | None = None, **known: Any) -> Plan:
    return plan(_recipe(*overrides), cluster or _cluster(), nodes, **known)


def test_all_reduce_is_that_of_a_ring() -> None:
    """The network would be planned for other bytes: 596 to 605 MB in bf16, 1.19 to 1.21 GB in fp32, 8 to 128 nodes."""
    assert model_size("ViT-B-32").parameters == P
    assert [ring_bytes(P, ranks, 2) / 1e6 for ranks in (64, 1024)] == pytest.approx([596, 605], rel=0.002)
    assert [ring_bytes(P, nodes, 2) / 1e6 for nodes in (8, 128)] == pytest.approx([529, 600], rel=0.002)
    assert [ring_bytes(P, ranks) / 1e9 for ranks in (64, 1024)] == pytest.approx([1.19, 1.21], rel=0.002)
    assert ring_bytes(P, 1) == 0


@pytest.mark.parametrize(
    ("hours", "minutes", "share", "delta", "lost"),
    [
        (461, 166, 99.2, 30, 45), (461, 53, 99.8, 3, 15), (461, 17, 99.9, 0.3, 2),
        (28.8, 42, 95.0, 30, 45), (28.8, 13, 98.4, 3, 15), (28.8, 4.2, 99.6, 0.3, 2),
        (12, 27, 90.0, 30, 45), (12, 8.5, 96.7, 3, 15), (12, 2.7, 99.4, 0.3, 2),
        (7.9, 22, 85.9, 30, 45), (7.9, 6.9, 95.4, 3, 15), (7.9, 2.2, 99.1, 0.3, 2),
        (2, 11, 53.4, 30, 45), (2, 3.5, 84.6, 3, 15), (2, 1.1, 97.4, 0.3, 2),
    ],
)  # fmt: skip
def test_young_and_goodput_are_those_of_the_table(
    hours: float, minutes: float, share: float, delta: float, lost: float
) -> None:
    """Checkpoints would be set too often or too seldom; delta in seconds, lost (detection and restart) in minutes."""
    best = young_seconds(delta, 3600 * hours)
    assert best / 60 == pytest.approx(minutes, rel=0.03)
    assert 100 * goodput(delta, best, 3600 * hours, 60 * lost) == pytest.approx(share, abs=0.06)


def test_time_between_failures() -> None:
    """461 h on 8 nodes and 28.8 h on 128 at 6.5 failures in 1,000 node-days."""
    assert [mtbf_hours(6.5, nodes) for nodes in (8, 128)] == pytest.approx([461, 28.8], rel=0.002)


@pytest.mark.parametrize(
    ("rate", "kb", "nodes", "node_gb", "all_gb", "gets"),
    [(800, 60, 8, 0.38, 3.1, 183), (2000, 110, 8, 1.76, 14.1, 839), (5000, 60, 128, 2.40, 307, 18_311)],
)
def test_reading_is_that_of_the_table(
    rate: float, kb: float, nodes: int, node_gb: float, all_gb: float, gets: float
) -> None:
    """The store would be asked for more than it was planned to give; rate: images/s a GPU."""
    tflops = rate * 3 * model_size("ViT-B-32").flops / 0.25 / 1e12
    batch = "data.batch_size=49152" if nodes == 128 else "data.batch_size=36864"
    made = _plan(batch, nodes=nodes, cluster=_cluster(tflops=tflops), samples=15_000_000, sample_bytes=1000 * kb)
    assert made.line("samples/s a GPU").value == pytest.approx(rate)
    assert made.line("read a node").value == pytest.approx(node_gb, rel=0.02)
    assert made.line("read in all").value == pytest.approx(all_gb, rel=0.01)
    assert made.line("GET").value == pytest.approx(gets, rel=0.002)
    assert (made.line("share of a prefix").care is not None) == (gets > 5500)


def test_an_epoch_takes_what_the_rate_says() -> None:
    """64 GPUs at 800 images/s see 15 million in 293 s: hours, GPU hours and cost follow from it."""
    tflops = 800 * 3 * model_size("ViT-B-32").flops / 0.25 / 1e12
    made = _plan(cluster=_cluster(tflops=tflops, price=2.0), samples=15_000_000, sample_bytes=60_000)
    assert made.line("hours an epoch").value * 3600 == pytest.approx(293, rel=0.003)
    hours = made.line("hours").value
    assert hours == pytest.approx(32 * 293 / 3600, rel=0.003)
    assert made.line("GPU hours").value == pytest.approx(64 * hours)
    assert made.line("cost").value == pytest.approx(128 * hours)
    assert made.line("jobs").value == 1


def test_the_plan_of_the_published_recipe_on_eight_nodes() -> None:
    """b = 96 and B = 6,144 decide memory; the lines that need care are those whose numbers say so."""
    made = _plan(samples=15_000_000, sample_bytes=60_000)
    assert made.ranks == 64
    assert made.line("activations").formula.startswith("b a = 96 x")
    assert made.line("logits").value * 2**30 == 24 * 96 * 6144
    assert made.line("gathered features").value * 2**30 == 2 * 2 * 2 * 6144 * 512 * 2
    parts = [line.value for line in made.lines if line.group == "memory" and line.what != "memory a rank"]
    assert made.line("memory a rank").value == pytest.approx(sum(parts))
    features, weights = 6 * 2 * 2 * 6144 * 512 * 4 * 7 / 8, 2 * 7 / 8 * P * 4
    assert made.line("features a node").value == pytest.approx(features / 1e9)
    assert made.line("exchange between nodes").value == pytest.approx((features + weights) * 8 / 400e9 * 1e3)
    assert made.line("cores that decode, a node").value == pytest.approx(8 * made.line("samples/s a GPU").value / 735)
    assert made.line("checkpoint").value == pytest.approx(12 * P / 1e9)
    assert made.line("checkpoints in the end").value == pytest.approx((3 * 12 + 29 * 4) * P / 1e9)
    assert {line.what for line in made.lines if line.care} == {"read a node", "exchange between nodes", "goodput"}
    assert "every_epochs=" in str(made.line("goodput").care)


def test_zero_two_scatters_in_every_micro_batch() -> None:
    """Its traffic with 6 micro-batches is 3.5 all-reduces, which would be planned as one; plain PyTorch ignores it."""
    plain, local = _plan(), _plan("engine.zero_stage=2", "engine.kind=local")
    zero = _plan("engine.zero_stage=2")
    assert zero.line("all-reduce a GPU").value == pytest.approx(3.5 * plain.line("all-reduce a GPU").value)
    assert zero.line("gradients").value == pytest.approx(plain.line("gradients").value / 64)
    assert local.line("gradients").value == plain.line("gradients").value
    assert local.line("all-reduce a GPU").value == plain.line("all-reduce a GPU").value


def test_steps_are_those_of_the_run(toy_world: Path) -> None:
    """Hours would be of another run: batches of whole lanes, and the accumulation over epochs, as the run counts."""
    overrides = [f"toy_world.root={toy_world}", "init=random", "data.batch_size=24", "data.lanes=4"]
    recipe = load_recipe("clip_toy", [*overrides, "data.accumulation=3", "schedule.epochs=7"])
    made = plan(recipe, load_cluster("virtual"), 2)
    index = open_shards(str(recipe.data.root)).index
    order = EpochOrder(cut_extents(index.groups_by_shard(), lanes=4), seed=1, epoch=0, lanes=4)
    assert made.line("steps").value == total_steps(recipe, order.batches(24 // 3))
    assert made.line("samples").value == len(index) == 64
    assert made.line("a sample").value == pytest.approx(index.shard_bytes / 64 / 1e3)
    assert made.line("lanes a rank").care is None, "it is kept in memory"


def test_the_first_stage_is_planned_too(toy_world: Path) -> None:
    """An init stage trains the image tower on three images a triplet; its hours and its memory would be forgotten."""
    overrides = [f"toy_world.root={toy_world}", "init_overrides=[data.batch_size=8,data.lanes=4]"]
    recipe = load_recipe("clip_toy", [*overrides, "data.batch_size=16", "data.lanes=4"])
    made, size = plan(recipe, load_cluster("virtual"), 2), model_size(recipe.model)
    assert [*dict.fromkeys(line.stage for line in made.lines)] == ["pi_toy", "clip_toy"]
    assert 0 < made.line("samples", "pi_toy").value <= 20
    assert made.line("checkpoint", "pi_toy").value * 1e9 == 4 * size.parameters + 8 * size.vision.parameters
    rates = [made.line("samples/s a GPU", stage).value for stage in ("pi_toy", "clip_toy")]
    assert rates[1] / rates[0] == pytest.approx(3 * size.vision.flops / size.flops)
    assert made.line("cores that decode, a node", "pi_toy").value == pytest.approx(3 * rates[0] / 735)
    assert not [line for line in made.lines if line.stage == "pi_toy" and line.what in ("logits", "features a node")]


def test_nothing_of_a_data_set_that_is_elsewhere_is_taken_for_known() -> None:
    """A guess that looks like a fact would be believed; what is given is no guess."""
    assert _plan().line("samples").value == 15_000_000
    assert "guess" in _plan().line("samples").formula
    assert _plan().line("samples").care is not None
    given = _plan(samples=14_829_396, sample_bytes=45_000)
    assert (given.line("samples").value, given.line("samples").care) == (14_829_396, None)
    assert given.line("a sample").value == 45


def test_the_manifest_says_how_many(toy_world: Path, tmp_path: Path) -> None:
    """An index in another folder would be passed over, and the data set scanned or guessed."""
    build_index(toy_world / "pairs" / "train", tmp_path, workers=1)
    recipe = load_recipe(
        "clip_toy", [f"toy_world.root={toy_world}", f"data.index={tmp_path}", "init=random", "data.batch_size=64"]
    )
    assert plan(recipe, load_cluster("virtual"), 1).line("samples").value == 64
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json"):
        plan(recipe, load_cluster("virtual"), 1)


@pytest.mark.parametrize(
    ("overrides", "what", "said"),
    [
        (["data.lanes=32"], "lanes a rank", "one by one"),
        (["data.memory_gib=0.5"], "lanes a rank", "part is read one by one"),
        (["data.workers=2"], "cores that decode, a node", "raise data.workers"),
    ],
)
def test_what_slows_a_run_down_is_marked(overrides: list[str], what: str, said: str) -> None:
    """A run at a fraction of its speed would be seen on the bill."""
    assert said in str(_plan(*overrides).line(what).care)
    assert _plan().line(what).care is None


REFUSED = {
    "batch": (["data.batch_size=49152", "data.accumulation=3"], 7, {}, r"3 x 56; pass data\.batch_size=\d+, or other"),
    "memory": (["data.accumulation=1", "model=ViT-L-14"], 8, {}, r"150\.\d of it for activations, and has 80\.0"),
    "ram": ([], 8, {"ram_gib": 64.0}, r"for 8 tasks 96 GiB a node, and hardware\.ram_gib is 64; at most 8 fit"),
    "nodes": ([], 0, {}, r"--nodes is 0; it must be at least 1"),
    "mfu": ([], 8, {"mfu": 35.0}, r"hardware\.mfu is 35\.0; it is a share"),
    "tflops": ([], 8, {"tflops": 0.0}, r"hardware\.tflops is 0\.0; it must be positive"),
    "model": (["model=RN50"], 8, {}, r"RN50.*ViT towers only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_in_one_line(case: str) -> None:
    """It would be refused on the cluster, after the hours in its queue."""
    overrides, nodes, hardware, said = REFUSED[case]
    with pytest.raises(InputError, match=said) as caught:
        _plan(*overrides, nodes=nodes, cluster=_cluster(**hardware))
    assert "\n" not in str(caught.value)


def test_the_batch_that_is_proposed_runs() -> None:
    """A message that proposes what is refused again is worse than none."""
    with pytest.raises(InputError) as caught:
        _plan(nodes=7)
    proposed = str(caught.value).split("data.batch_size=")[1].split(",")[0]
    assert _plan(f"data.batch_size={proposed}", nodes=7).ranks == 56


def test_a_data_set_that_fills_no_batch_is_refused() -> None:
    """The job would end with that line, on all of its nodes."""
    with pytest.raises(InputError, match="do not fill a step"):
        _plan(samples=6143, sample_bytes=1000)


def test_more_ranks_than_gpus_are_refused_unless_they_compute_on_cpus() -> None:
    """A rank would look for a GPU that is not there."""
    crowded = replace(load_cluster("default"), tasks_per_node=16)
    with pytest.raises(InputError, match="a rank needs a GPU of its own"):
        _plan("data.accumulation=3", cluster=crowded)
    cpu = _plan("data.accumulation=3", "engine.device=cpu", cluster=crowded)
    assert cpu.line("memory a rank").formula.startswith(f"sum, of {1000 / 16 - 12:g} GiB")


def test_constants_are_those_of_the_code_they_speak_of() -> None:
    """A plan would count ranges and blocks that the reader does not make, or cores by a figure that is not measured."""
    assert (planning.EXTENT, planning.BLOCK) == (GROUP_BYTES, BLOCK_EXTENTS * GROUP_BYTES)
    bench = json.loads((ROOT / "results" / "data" / "bench.json").read_text())
    measured = {(f["what"], f["unit"]): f["median"] for f in bench["figures"]}
    assert int(measured["this loader, 500 x 375 -> 224, one core", "img/s"]) == planning.DECODED


def test_json_holds_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A script would parse a table."""
    assert main([*YFCC, "--nodes", "8", "--samples", "15000000", "--sample-kb", "60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["nodes"], found["ranks"]) == (8, 64)
    lines = {line["what"]: line for line in found["lines"]}
    assert lines["hours"]["value"] > 0
    assert set(lines["hours"]) == {"stage", "group", "what", "value", "unit", "formula", "care"}


def test_the_table_marks_what_needs_care(capsys: pytest.CaptureFixture[str]) -> None:
    """A warning would be one line among forty; words in brackets would be taken for markup and vanish."""
    assert main(["clip_vitb32_yfcc15m", "data.root=/no[where]", "init=random", "--nodes", "8"]) == 0
    out = capsys.readouterr().out
    assert "a guess: /no[where] cannot be read here" in out
    marked = [row for row in out.splitlines() if row.lstrip().startswith("!")]
    assert len(marked) == len([row for row in out.splitlines() if row.lstrip().startswith("^")]) >= 3
    assert any("read a node" in row for row in marked)


@pytest.mark.parametrize(
    "arguments",
    [
        ["clip_vitb32_yfcc15n", "--nodes", "8"],
        [*YFCC, "--nodes", "7"],
        [*YFCC, "--nodes", "8", "--samples", "0"],
        [*YFCC, "--nodes", "8", "--sample-kb", "-1"],
        [*YFCC, "--nodes", "8", "--cluster", "defautl"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A script would go on to submit."""
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("pineco: ")
    assert told.err.count("\n") == 1


def test_a_plan_needs_no_torch(toy_world: Path) -> None:
    """A login node would wait seconds for an import, or run out of its memory limit; the index is read as well."""
    code = "import sys; from pineco.launch.plan.plan import main; print(main(sys.argv[1:]), sorted(sys.modules))"
    toy = ["clip_toy", f"toy_world.root={toy_world}", "data.batch_size=16", "data.lanes=8", "--nodes", "2"]
    small = ["init_overrides=[data.batch_size=8,data.lanes=4]", "--cluster", "virtual", "--json"]
    command = [sys.executable, "-c", code, *toy, *small]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    code, modules = done.stdout.splitlines()[-1].split(" ", 1)
    assert code == "0", done.stderr
    assert "'pineco.launch.plan.model_size'" in modules
    assert not [name for name in ("'torch'", "'open_clip'", "'deepspeed'", "'boto3'") if name in modules]
