"""neco_loss: the PyTorch path against the original formula, the kernels against float64, and what surrounds them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, get_args

import diffsort  # type: ignore[import-untyped] # it has no stubs
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from pineco.kernels.backend import Backend
from pineco.kernels.interpreter import interpreting
from pineco.kernels.neco_loss import chunked, neco_loss, reference
from pineco.kernels.soft_sort import chunked as sorting
from pineco.kernels.soft_sort.networks import Network, wiring
from pineco.kernels.soft_sort.relaxation import Distribution, Relaxation
from pineco.kernels.timing import peak_bytes
from tests.support.exactness import assert_as_exact_as_torch
from tests.support.guarded_memory import guard_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CPU = torch.device("cpu")
NETWORKS, DISTRIBUTIONS = get_args(Network), get_args(Distribution)
BACKENDS: tuple[Backend, ...] = ("reference", "triton")
EPS = torch.finfo(torch.float32).eps
NAMES = ("loss", "gradient to the student")

# What the interpreter computes for lanes that are masked out may overflow; NumPy tells.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Every test compiles anew: torch gives up on a function that it compiled eight times."""
    torch.compiler.reset()


def features(
    b: int, n: int, m: int, d: int = 8, dtype: torch.dtype = torch.float32, agree: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and references; the student's are the teacher's for a part."""
    random = torch.Generator().manual_seed(b + n + m)
    own, teacher, references = (torch.randn(b, k, d, generator=random, dtype=torch.float64) for k in (n, n, m))
    student = agree * teacher + (1 - agree) * own
    return student.to(DEVICE, dtype), teacher.to(DEVICE, dtype), references.to(DEVICE, dtype)


def run(loss: Loss, student: Tensor, teacher: Tensor, references: Tensor) -> list[Tensor]:
    """What NAMES names."""
    leaf = student.detach().requires_grad_()
    value = loss(leaf, teacher, references)
    return [value.detach(), *torch.autograd.grad(value, leaf)]


def ours(backend: Backend | None = "reference", **options: Any) -> Loss:
    return lambda *vectors: neco_loss(*vectors, backend=backend, **options)


def specified(
    network: Network = "bitonic", distribution: Distribution = "cauchy", student_steepness: float = 100.0,
    teacher_steepness: float = 100.0, weights: Tensor | None = None,
) -> Loss:  # fmt: skip
    """reference.py, in whatever dtype it is given: what torch loses there."""
    mine, target = (Relaxation(distribution, s) for s in (student_steepness, teacher_steepness))
    return lambda student, teacher, references: reference.neco_loss(
        student, teacher, references, weights, network, mine, target
    )


def original(network: Network = "bitonic", steepness: float = 100.0) -> Loss:
    """The published formula, with the published sorting networks."""

    def loss(student: Tensor, teacher: Tensor, references: Tensor) -> Tensor:
        m = references.shape[1]
        sort = diffsort.DiffSortNet(network, m, device=str(DEVICE), steepness=steepness, distribution="cauchy")
        mine, target = (
            sort((normalize(x, dim=-1) @ normalize(references, dim=-1).mT).reshape(-1, m))[1]
            for x in (student, teacher.detach())
        )
        return -(target * mine.log()).sum(-1).mean()

    return loss


def close(got: list[Tensor], expected: list[Tensor], rtol: float) -> None:
    """Within rtol of the largest expected number, by name."""
    for name, a, b in zip(NAMES, got, expected, strict=True):
        assert a.isfinite().all(), name
        off, scale = (a.double() - b.double()).abs().max().item(), b.abs().max().item()
        assert off <= rtol * scale, f"{name}: off by {off:.2e} of {scale:.2e}"


# The PyTorch path


@pytest.mark.parametrize("network", NETWORKS)
def test_equals_the_original(network: Network) -> None:
    """Training would not be NeCo's."""
    vectors = features(4, 49, 49, 256)
    expected = run(original(network), *vectors)
    close(run(ours(network=network), *vectors), expected, 1e-4)
    close(run(specified(network), *vectors), expected, 1e-4)


def test_each_side_has_its_steepness() -> None:
    """The student's steepness would be the teacher's, or the sides be exchanged."""
    student, teacher, references = features(2, 3, 7, dtype=torch.float64)
    m = references.shape[1]
    sides = [(student, 20.0), (teacher, 60.0)]
    mine, target = (
        diffsort.DiffSortNet("bitonic", m, steepness=s, distribution="cauchy", device=str(DEVICE))(
            (normalize(x, dim=-1) @ normalize(references, dim=-1).mT).reshape(-1, m)
        )[1]
        for x, s in sides
    )
    expected = -(target * mine.log()).sum(-1).mean()
    got = neco_loss(student, teacher, references, student_steepness=20.0, teacher_steepness=60.0)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("n", [2, 7, 33])
@pytest.mark.parametrize("network", NETWORKS)
def test_chunks_are_the_specification(network: Network, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows or references at the border of a chunk would be lost, or the gradient written by hand be wrong."""
    monkeypatch.setattr(sorting, "STATE", 3 * n * n if n != 33 else 7 * n)  # three rows at once, or seven vectors
    monkeypatch.setattr(chunked, "_SHARES", 5 * 5 * wiring(network, n, DEVICE).partner.numel())  # groups of five
    vectors = features(2, 4, n, dtype=torch.float64)
    weights = torch.arange(8.0, dtype=torch.float64, device=DEVICE).reshape(2, 4)
    for distribution in DISTRIBUTIONS if n == 7 else ("cauchy", "logistic"):
        options: dict[str, Any] = {
            "network": network,
            "distribution": distribution,
            "weights": weights,
            "student_steepness": 7.0,
        }
        got, expected = run(ours(**options), *vectors), run(specified(**options), *vectors)
        for name, a, b in zip(NAMES, got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=f"{name}, {distribution}")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_those_of_the_loss(network: Network, distribution: Distribution) -> None:
    """Training would follow a gradient that is not one. Finite differences, in float64."""
    student, teacher, references = features(2, 2, 5, 3, dtype=torch.float64)
    weights = torch.tensor([0.3, 2.0], dtype=torch.float64, device=DEVICE)
    loss = ours(network=network, distribution=distribution, student_steepness=3.0, weights=weights)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, references), student.requires_grad_(), eps=1e-7)


@pytest.mark.parametrize("m", [256, 512])
def test_many_references(m: int) -> None:
    """Sorting a whole map of patches would fail, or be another loss than for few."""
    vectors = features(1, 1, m)
    close(run(ours(), *vectors), run(specified(), *(x.double() for x in vectors)), 1e-4)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="counts the CPU's allocations")
def test_memory_grows_with_the_similarities_only() -> None:
    """The permutations of all rows would be in memory, which is what this op is there to avoid."""
    peaks = []
    for n in (220, 420):  # more than one group
        student, teacher, references = features(1, n, 49, 4)
        student.requires_grad_()
        peaks.append(peak_bytes(partial(lambda *x: ours()(*x).backward(), student, teacher, references), CPU))
    assert peaks[1] - peaks[0] <= 16 * 4 * 200 * 49  # a permutation of the other 200 rows has 49 · 4 · 200 · 49 bytes
    assert peaks[0] <= 1 << 26


def test_three_times_as_fast_as_the_original() -> None:
    """The CPU path would be too slow for what it is there for. It is some seven times as fast."""
    vectors = features(4, 49, 49, 256)
    seconds: dict[str, list[float]] = {}
    for _ in range(3):
        for name, loss in (("ours", ours()), ("original", original())):
            start = time.perf_counter()
            run(loss, *vectors)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    assert 3 * min(seconds["ours"]) < min(seconds["original"])


# Both paths


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_finite_at_every_steepness(distribution: Distribution, backend: Backend) -> None:
    """log 0 of a steep sort, tied or empty features would make a training step NaN."""
    own, teacher, references = features(1, 5, 7)
    student = own.clone()
    student[0, 1] = teacher[0, 1]
    student[0, 2] = -teacher[0, 2]
    student[0, 3] = 0
    student[0, 4], teacher[0, 4] = references[0, 0], 0
    references[0, 1:3] = references[0, 0]
    references[0, 3] = 0
    for steepness in (1.0, 100.0, 10_000.0) if backend == "reference" else (10_000.0,):  # the others are tested below
        options: dict[str, Any] = {
            "distribution": distribution,
            "student_steepness": steepness,
            "teacher_steepness": steepness,
        }
        got = run(ours(backend, **options), student, teacher, references)
        for name, x in zip(NAMES, got, strict=True):
            assert x.isfinite().all(), (name, steepness)
        assert 0 <= got[0] <= 7 * 88


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_counts_as_zero(backend: Backend) -> None:
    """A position that a steep sort excludes would cost another price than the documented one, or pull the student."""
    student, teacher = torch.tensor([[[1.0, 0.1]]], device=DEVICE), torch.tensor([[[0.1, 1.0]]], device=DEVICE)
    references = torch.eye(2, device=DEVICE)
    steep: dict[str, Any] = {"distribution": "logistic", "student_steepness": 1e4, "teacher_steepness": 1e4}
    loss, gradient = run(ours(backend, **steep), student, teacher, references)
    price = torch.tensor(reference.SMALLEST, device=DEVICE).log().neg()
    torch.testing.assert_close(loss, price, rtol=1e-6, atol=0)
    assert (gradient == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_agreement_is_the_minimum(network: Network, backend: Backend) -> None:
    """The loss would reward another order than the teacher's."""
    student, teacher, references = features(1, 3, 6, agree=0.0)
    agreeing = run(ours(backend, network=network), teacher, teacher, references)
    assert agreeing[0] < neco_loss(student, teacher, references, network=network, backend=backend)
    assert agreeing[1].abs().max() < 1e-4  # cross-entropy is stationary where both sides are the same


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_student_learns(backend: Backend) -> None:
    """Teacher or references would be trained, to agree on anything."""
    vectors = [x.requires_grad_() for x in features(2, 2, 5)]
    grads = torch.autograd.grad(neco_loss(*vectors, backend=backend), vectors, allow_unused=True)
    assert grads[0].abs().max() > 0
    assert [x is None for x in grads[1:]] == [True, True]
    assert not neco_loss(vectors[0].detach(), *vectors[1:], backend=backend).requires_grad


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        ([1.0, 0.0, 1.0], [0, 2]),
        ([[7, 7], [0, 0], [7, 7]], [0, 2]),
        ([True, False, False], [0]),
        ([1e38, 1e38, 1e38], [0, 1, 2]),
        ([[1e-40, 1e-40], [0, 0], [0, 0]], [0]),
    ],
    ids=["images", "patches", "mask", "huge", "tiny"],
)
def test_weights_choose(weights: list[object], chosen: list[int]) -> None:
    """A patch without weight would still pull on the student, or the size of the weights matter."""
    vectors = features(3, 2, 5)
    got = run(ours(weights=torch.tensor(weights, device=DEVICE)), *vectors)
    alone = run(ours(), *(x[chosen] for x in vectors))
    expected = torch.zeros_like(vectors[0])
    expected[chosen] = alone[1]
    close(got, [alone[0], expected], 1e-5)


@pytest.mark.parametrize("size", [1e300, 1e-300])
def test_weights_beyond_float32(size: float) -> None:
    """D6: float64 weights that float32 has no numbers for would make the loss NaN, or 0, in silence."""
    vectors = features(2, 2, 5)
    got = run(ours(weights=torch.tensor([size, 3 * size], dtype=torch.float64, device=DEVICE)), *vectors)
    close(got, run(ours(weights=torch.tensor([1.0, 3.0], device=DEVICE)), *vectors), 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights(backend: Backend) -> None:
    """Patches would count for more or less than they should."""
    weights = torch.tensor([[0.5, 1.0], [2.0, 0.0], [3.0, 0.25]], device=DEVICE)
    vectors = features(3, 2, 5)
    exact = [x.double() for x in vectors]
    close(run(ours(backend, weights=weights), *vectors), run(specified(weights=weights), *exact), 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_no_weight_at_all(shape: tuple[int, ...], backend: Backend) -> None:
    """A batch whose patches are all masked would divide by zero, and end the run."""
    got = run(ours(backend, weights=torch.zeros(shape, device=DEVICE)), *features(2, 3, 4))
    for x in got:
        assert (x == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_references(backend: Backend) -> None:
    """One set of references for all images would be sorted as another set for each, or not at all."""
    student, teacher, references = features(3, 2, 5)
    shared = references[0]
    got = run(ours(backend), student, teacher, shared)
    close(got, run(ours(backend), student, teacher, shared.expand(3, 5, 8)), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend: Backend) -> None:
    """Maps of features and slices would be read as if contiguous."""
    vectors = features(2, 3, 5)
    strided = [x.mT.contiguous().mT for x in vectors]
    strided[1] = torch.cat([strided[1], strided[1]], -1)[..., :8]
    weights = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)).to(DEVICE).T
    dense = run(ours(backend, weights=weights.contiguous()), *vectors)
    close(run(ours(backend, weights=weights), *strided), dense, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_empty(shape: tuple[int, int], weighted: bool, backend: Backend) -> None:
    """The last, empty batch of a rank would stop the run, or make its loss NaN."""
    weights = torch.ones(shape, device=DEVICE) if weighted else None
    loss, gradient = run(ours(backend, weights=weights), *features(*shape, 5))
    assert loss == 0
    assert gradient.shape == (*shape, 8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype, backend: Backend) -> None:
    """Similarities of half precision features would be sorted in 8 bits, or get gradients of another dtype."""
    vectors = features(2, 3, 7, dtype=dtype)
    got = run(ours(backend), *vectors)
    assert [x.dtype for x in got] == [torch.float32, dtype]
    close(got, run(specified(), *(x.double() for x in vectors)), torch.finfo(dtype).eps)
    close(got[:1] * 2, run(specified(), *(x.double() for x in vectors))[:1] * 2, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_bits_every_time(backend: Backend) -> None:
    """A run could not be repeated."""
    vectors = features(1, 3, 5)
    first, second = (run(ours(backend), *vectors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Kernels


def check_kernels(vectors: tuple[Tensor, Tensor, Tensor], **options: Any) -> None:
    """Loss and gradient against float64, by the error rule, theirs being reference.py in the same dtype."""
    got, theirs = run(ours("triton", **options), *vectors), run(specified(**options), *vectors)
    exact = run(specified(**options), *(x.double() for x in vectors))
    for name, a, b, c in zip(NAMES, got, theirs, exact, strict=True):
        assert_as_exact_as_torch(a, b, c, 32 * EPS * c.abs().max().item(), name)
    value = neco_loss(*vectors, backend="triton", **options)  # without the gradient it is another kernel
    assert_as_exact_as_torch(value, theirs[0], exact[0], 32 * EPS * exact[0].item(), "loss alone")


@pytest.mark.parametrize("m", [2, 3, 7, 16, 33])
def test_register_kernels_err_no_more_than_torch(m: int) -> None:
    """The loss or its gradient would be wrong at some size, or less exact than torch's. 33 wires are two tiles."""
    check_kernels(features(2, 2, m) if m < 33 else features(1, 1, m))


@pytest.mark.parametrize("m", [2, 3, 7, 34])
def test_memory_kernels_err_no_more_than_torch(m: int) -> None:
    """As above, for odd-even networks. Programs take several rows."""
    check_kernels(features(2, 2, m) if m < 34 else features(1, 1, m), network="odd_even")


@pytest.mark.parametrize("m", [5, 16])
def test_large_networks_run_in_memory(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 128 references another kernel sorts."""
    from pineco.kernels.neco_loss import kernel

    monkeypatch.setattr(kernel, "_REGISTER_BITS", 0)
    check_kernels(features(1, 3, m))


def test_more_wires_than_registers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole maps of patches as references would not sort. One tile, which the interpreter is faster at."""
    from pineco.kernels.neco_loss import kernel

    monkeypatch.setattr(kernel, "_MEMORY_LANES", {512: 512})
    check_kernels(features(1, 1, 257))


@pytest.mark.parametrize("m", [9, 16])
def test_tiles_of_a_row_add_up(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles meet in comparators whose gradient is the sum of all: one would be lost, or counted twice."""
    from pineco.kernels.neco_loss import kernel

    monkeypatch.setattr(kernel, "_LANES", 4)
    check_kernels(features(1, 2, m))


@pytest.mark.parametrize("network", NETWORKS)
def test_parts_of_the_rows(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a part that is not the first would be lost, or scratch grow with the rows."""
    from pineco.kernels.neco_loss import kernel

    size = kernel.sorting.network_size(network, 5)
    monkeypatch.setattr(kernel, "_SHARES", 2 * 12 * size.layers * size.slots)
    assert [x.stop - x.start for x in kernel._parts(5, size)] == [2, 2, 1]
    check_kernels(features(1, 5, 5), network=network)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_kernels_know_every_distribution(distribution: Distribution) -> None:
    """A kernel would compute another F than its name says, or exchange the sides' steepness."""
    check_kernels(features(2, 2, 6), distribution=distribution, student_steepness=5.0, teacher_steepness=8.0)


@pytest.mark.parametrize("network", NETWORKS)
def test_steep_gaussians(network: Network) -> None:
    """D2: a small share of the gaussian would vanish: here the loss was 87 instead of 34, its gradient nothing."""
    vectors = [[0.95, -0.1]], [[0.6, 0.8]], [[1.0, 0.0], [0.8, 0.6]]
    student, teacher, references = (torch.tensor([x], device=DEVICE) for x in vectors)
    check_kernels(
        (student, teacher, references), network=network, distribution="gaussian",
        student_steepness=30.0, teacher_steepness=10.0,
    )  # fmt: skip


@pytest.mark.skipif(not interpreting(), reason="a GPU is here: kernels are not interpreted")
@pytest.mark.parametrize("registers", [True, False], ids=["registers", "memory"])
@pytest.mark.parametrize("m", [3, 9])
def test_no_access_outside_the_tensors(m: int, registers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing mask would read somebody else's memory: right in every other test, a crash on a GPU one day."""
    from pineco.kernels.neco_loss import kernel

    guard_memory(monkeypatch)
    if not registers:
        monkeypatch.setattr(kernel, "_REGISTER_BITS", 0)
    vectors = features(1, 3, m)
    run(ours("triton"), *vectors)
    neco_loss(*vectors, backend="triton")


def test_every_launch_is_one_that_the_gate_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block size that nobody compiled ahead of time could spill, or not fit, on the user's GPU."""
    from pineco.kernels.neco_loss import kernel

    seen: set[str] = set()
    monkeypatch.setattr(kernel.Plan, "launch", lambda plan, *_: seen.add(kernel.sorting.compiled_launch(plan).name))
    for network, n, gradient in product(NETWORKS, (2, 7, 49, 65, 129, 513, 1024), (False, True)):
        similarities, relaxation = torch.zeros(1, n), Relaxation("cauchy", 1.0)
        kernel.forward(similarities, similarities, torch.ones(1), network, relaxation, relaxation, gradient)
    compiled = {x.name for x in (*kernel.launches(), *kernel.sorting.launches())}
    assert seen <= compiled
    assert len(seen) > 10


@pytest.mark.parametrize("network", NETWORKS)
def test_scratch_is_small(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory would be that of the permutations, which this op is there to avoid. 31,360 rows of 49: 67 MB."""
    from pineco.kernels.neco_loss import kernel

    monkeypatch.setattr(kernel.Plan, "launch", lambda *_: None)
    similarities, relaxation = torch.zeros(31_360, 49), Relaxation("cauchy", 1.0)
    scale = torch.ones(31_360)
    peak = peak_bytes(
        lambda: kernel.forward(similarities, similarities, scale, network, relaxation, relaxation, True), CPU
    )
    assert peak <= 80e6


# What surrounds them

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no axis": ({"student": (5, 8)}, r"student \(5, 8\).*pass \(B, N, D\) twice"),
    "other patches": ({"teacher": (2, 4, 8)}, r"teacher \(2, 4, 8\).*pass \(B, N, D\) twice"),
    "other images": ({"references": (3, 5, 8)}, "differ in B"),
    "other features": ({"references": (2, 5, 7)}, "same number of features D"),
    "no references": ({"references": (2, 0, 8)}, "1 to 1024 references"),
    "too many": ({"references": (2, 1025, 8)}, "1 to 1024 references"),
    "weights of another shape": ({"weights": (3,)}, r"weights \(3,\); pass weights \(B,\) or \(B, N\)"),
    "network": ({"network": "bubble"}, "network is 'bubble'; choose one of bitonic, odd_even"),
    "distribution": ({"distribution": "normal"}, "distribution is 'normal'; choose one of cauchy"),
    "flat student": ({"student_steepness": 0}, "student_steepness is 0"),
    "endless teacher": ({"teacher_steepness": float("inf")}, "teacher_steepness is inf"),
    "beyond float32": (
        {"student_steepness": 3.5e38},
        "student_steepness is 3.5e.38; pass a number above 0",
    ),
    "far beyond float32": ({"teacher_steepness": 1e300}, "at most 3.4e.38"),
    "steepness in words": ({"teacher_steepness": "10"}, "teacher_steepness is '10'; pass a number above 0"),
    "a list of weights": ({"weights": [1, 1]}, r"weights are a list; pass a tensor \(B,\) or \(B, N\)"),
    "a list of patches": ({"teacher": [[[1.0] * 8] * 3] * 2}, r"teacher is a list; pass a tensor \(B, N, D\)"),
    "a list of references": ({"references": [[1.0] * 8]}, r"references are a list; pass a tensor \(B, M, D\) or"),
    "steepness that is no number": ({"student_steepness": float("nan")}, "student_steepness is nan"),
    "backend": ({"backend": "cuda"}, "backend is 'cuda'"),
}


@pytest.mark.parametrize("change", BAD)
def test_arguments_that_do_not_fit(change: str) -> None:
    """A kernel would read beyond a tensor, or numbers would come out of what was not meant."""
    options: dict[str, Any] = {"student": (2, 3, 8), "teacher": (2, 3, 8), "references": (2, 5, 8)} | BAD[change][0]
    tensors = {x: torch.ones(shape) for x, shape in options.items() if isinstance(shape, tuple)}
    with pytest.raises(ValueError, match=BAD[change][1]):
        neco_loss(**(options | tensors))


def test_dtypes_and_devices_that_do_not_fit() -> None:
    """Mixed inputs would be promoted in silence, or fail deep inside."""
    student, teacher, references = (x.cpu() for x in features(2, 3, 5))
    with pytest.raises(ValueError, match=r"teacher torch\.bfloat16.*cast them to one of float32"):
        neco_loss(student, teacher.bfloat16(), references)
    with pytest.raises(ValueError, match="cast them to one of"):
        neco_loss(student.int(), teacher.int(), references.int())
    with pytest.raises(ValueError, match=r"references on meta.*move them to one device"):
        neco_loss(student, teacher, references.to("meta"))
    with pytest.raises(ValueError, match="weights on meta"):
        neco_loss(student, teacher, references, weights=torch.ones(2, device="meta"))
    with pytest.raises(ValueError, match="pass real numbers"):
        neco_loss(student, teacher, references, weights=torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    """A diverged model would train on. On a GPU nothing stops to look: there the loss must show it."""
    for number, name in enumerate(("student", "teacher", "references")):
        vectors = [x.cpu() for x in features(2, 3, 5)]
        vectors[number][1, 2, 3] = bad
        with pytest.raises(ValueError, match=f"{name} hold NaN or infinite values"):
            neco_loss(*vectors)
    vectors = [x.cpu() for x in features(2, 3, 5)]
    with pytest.raises(ValueError, match="weights hold NaN or infinite values" if bad == bad else "weights hold NaN"):
        neco_loss(*vectors, weights=torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match="weights are negative"):
        neco_loss(*vectors, weights=torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
def test_a_row_that_is_not_finite_shows(side: int, network: Network, backend: Backend) -> None:
    """On a GPU, a diverged row would be taken for one with a large loss, or spread to the gradient of others."""
    similarities = [torch.rand(3, 6, device=DEVICE) for _ in range(2)]
    similarities[side][1, 2] = float("nan")
    scale = torch.full((3,), 1 / 18, device=DEVICE)
    loss, gradient = torch.ops.pineco.neco_loss(*similarities, scale, network, "cauchy", 9.0, 9.0, backend, True)
    assert loss.isnan()
    assert gradient[1].isnan().all()
    assert gradient[::2].isfinite().all()


def test_what_the_kernels_do_not_do() -> None:
    """Asking for the kernels would silently get something else, or backend=None fail where PyTorch can do it."""
    for dtype, m, message in ((torch.float64, 5, "float64"), (torch.float32, 1, "M is 1")):
        vectors = features(2, 2, m, dtype=dtype)
        with pytest.raises(ValueError, match=message):
            neco_loss(*vectors, backend="triton")
        assert neco_loss(*vectors).dtype == dtype
    assert all((x == 0).all() for x in run(ours(None), *features(2, 2, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compile_takes_it_whole(backend: Backend) -> None:
    """torch.compile would break the graph here, or lose the gradient; the batch may change."""
    weights = torch.tensor([[1.0], [3.0], [0.5], [2.0]], device=DEVICE)
    for weighted in (False, True) if backend == "reference" else (False,):
        compiled = torch.compile(
            lambda *x, w=weighted: neco_loss(*x, weights=weights[: len(x[0])] if w else None, backend=backend),
            backend="aot_eager", fullgraph=True, dynamic=True,
        )  # fmt: skip
        for b in (2, 4):
            vectors = features(b, 1, 3)
            expected = run(ours(backend, weights=weights[:b] if weighted else None), *vectors)
            for name, a, e in zip(NAMES, run(compiled, *vectors), expected, strict=True):
                assert torch.equal(a, e), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_operators_are_registered_as_they_behave(backend: Backend) -> None:
    """Shapes, dtypes or aliases that torch.compile is told would not be those of the operator."""
    similarities, scale = torch.rand(3, 4, device=DEVICE), torch.full((3,), 1 / 12, device=DEVICE)
    rest = scale, "bitonic", "cauchy", 10.0, 20.0, backend
    for student, gradient in ((similarities.clone().requires_grad_(), True), (similarities, False)):
        torch.library.opcheck(torch.ops.pineco.neco_loss.default, (student, similarities.flip(0), *rest, gradient))
    torch.library.opcheck(torch.ops.pineco.neco_loss_gradient.default, (scale.sum(), similarities, similarities))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_and_checkpoints_change_nothing(backend: Backend) -> None:
    """Mixed precision or recomputation would change what is sorted."""

    def under_autocast(*vectors: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return neco_loss(*vectors, backend=backend)

    def again(reentrant: bool) -> Loss:
        return lambda *vectors: checkpoint(ours(backend), *vectors, use_reentrant=reentrant)

    vectors = features(1, 2, 3)
    expected = run(ours(backend), *vectors)
    for loss in (under_autocast, again(False)):
        for name, a, b in zip(NAMES, run(loss, *vectors), expected, strict=True):
            assert torch.equal(a, b), name
    leaf = vectors[0].clone().requires_grad_()
    again(True)(leaf, *vectors[1:]).backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, expected[1])


def test_no_gradient_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation would pay for a gradient that nobody takes."""
    student, *rest = features(1, 2, 5)
    expected = neco_loss(student.requires_grad_(), *rest, backend="reference").detach()
    monkeypatch.setattr(sorting, "add_gains", None)
    assert torch.equal(neco_loss(student.detach(), *rest, backend="reference"), expected)
    with torch.no_grad():
        assert torch.equal(neco_loss(student, *rest, backend="reference"), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_second_gradient(backend: Backend) -> None:
    """A gradient penalty would be computed as if the gradient did not depend on the student."""
    student, *rest = features(1, 2, 4)
    leaf = student.requires_grad_()
    (gradient,) = torch.autograd.grad(neco_loss(leaf, *rest, backend=backend), leaf, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize(("network", "m"), [("bitonic", 49), ("bitonic", 256), ("odd_even", 49)])
def test_cuda_graphs(network: Network, m: int) -> None:
    """A hidden synchronisation would make the step impossible to capture."""
    vectors = features(2, 8, m)

    def step() -> list[Tensor]:
        return run(ours("triton", network=network), *vectors)

    expected = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
def test_peak_memory_of_a_published_step() -> None:
    """A fiftieth of the original's 6.7 GB would not be enough for it."""
    vectors = features(640, 49, 49, 256)
    assert peak_bytes(lambda: run(ours("triton"), *vectors), DEVICE) <= 134e6
