"""patch_distance: the reference against torch's own float64, the kernels against both, and what surrounds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from torch.utils.checkpoint import checkpoint

from pineco.kernels.backend import Backend
from pineco.kernels.interpreter import interpreting
from pineco.kernels.patch_distance import patch_distance
from pineco.kernels.patch_distance.reference import Metric
from tests.support.guarded_memory import guard_memory

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
METRICS = get_args(Metric)
EPS = torch.finfo(torch.float32).eps
NAMES = ("values", "gradient to queries", "gradient to references")


# The kernels sweep large numbers twice: NumPy tells of the first sweep, which overflows.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Every test compiles anew: torch gives up on a function that it compiled eight times."""
    torch.compiler.reset()


def vectors(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def run(function: Callable[..., Tensor], queries: Tensor, references: Tensor, **options: Any) -> list[Tensor]:
    """Values, and the gradients to both inputs for one fixed random gradient of the values."""
    leaves = [x.detach().requires_grad_() for x in (queries, references)]
    values = function(*leaves, **options)
    pull = vectors(*values.shape, seed=9).to(values.dtype)
    return [values.detach(), *torch.autograd.grad(values, leaves, pull)]


def triton(queries: Tensor, references: Tensor, metric: Metric = "cosine") -> list[Tensor]:
    return run(patch_distance, queries, references, metric=metric, backend="triton")


def exact(queries: Tensor, references: Tensor, metric: Metric = "cosine") -> list[Tensor]:
    """The specification in float64 on the same numbers."""
    return run(patch_distance, queries.double(), references.double(), metric=metric, backend="reference")


def eager(queries: Tensor, references: Tensor, metric: Metric) -> Tensor:
    """What one would write with torch, in the dtype of the inputs."""
    if metric == "euclidean":
        return (queries[:, :, None] - references[:, None]).norm(dim=-1)
    similarity = normalize(queries, dim=-1) @ normalize(references, dim=-1).mT
    return 1 - similarity if metric == "cosine" else similarity


def no_worse_than_torch(got: list[Tensor], torchs: list[Tensor], truth: list[Tensor]) -> None:
    """At most twice the error that torch makes in the same dtype, plus four roundings of fp32."""
    for name, ours, theirs, true in zip(NAMES, got, torchs, truth, strict=True):
        ours_off, theirs_off = ((x.double() - true).abs().max().item() for x in (ours, theirs))
        assert ours_off <= 2 * theirs_off + 4 * EPS * true.abs().max().clamp(min=1).item(), (name, ours_off, theirs_off)


@pytest.mark.parametrize("shared", [False, True], ids=["batched", "shared"])
@pytest.mark.parametrize("metric", METRICS)
def test_reference_is_torchs_distance(metric: Metric, shared: bool) -> None:
    """The specification would specify something else than the distances it is named for."""
    queries, references = vectors(3, 7, 12).double(), vectors(3, 5, 12, seed=1).double()
    references = references[0] if shared else references
    got = patch_distance(queries, references, metric=metric, backend="reference")
    if metric == "euclidean":
        expected = torch.cdist(queries, references.expand(3, 5, 12), compute_mode="use_mm_for_euclid_dist")
    else:
        cosine = cosine_similarity(queries[:, :, None], references[..., None, :, :], dim=-1)
        expected = 1 - cosine if metric == "cosine" else cosine
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shared", [False, True], ids=["batched", "shared"])
@pytest.mark.parametrize("metric", METRICS)
def test_gradients_of_the_reference(metric: Metric, shared: bool) -> None:
    """The specification's gradients would not be those of its values."""
    queries, references = vectors(2, 4, 3).double(), vectors(2, 3, 3, seed=1).double()
    references = references[0] if shared else references
    leaves = (queries.requires_grad_(), references.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, r: patch_distance(q, r, metric=metric), leaves)


COSINE_SIZES = [(1, 2, 7), (2, 1, 100), (7, 49, 2), (49, 49, 63), (63, 7, 49), (64, 100, 64), (100, 128, 128)]
EUCLIDEAN_SIZES = [(1, 2, 7), (2, 1, 100), (7, 49, 2), (49, 33, 7), (33, 17, 64)]
SIZES = [("cosine", *size) for size in COSINE_SIZES] + [("euclidean", *size) for size in EUCLIDEAN_SIZES]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("metric", "n", "m", "d"), [*SIZES, ("cosine_similarity", 7, 5, 12)])
def test_kernels_err_no_more_than_torch(metric: Metric, n: int, m: int, d: int, dtype: torch.dtype) -> None:
    """Values or a gradient would be wrong, or less exact than those of torch in the same dtype."""
    queries, references = vectors(2, n, d, dtype=dtype), vectors(2, m, d, dtype=dtype, seed=1)
    got = triton(queries, references, metric)
    assert [x.dtype for x in got] == [torch.float32, dtype, dtype]
    no_worse_than_torch(got, run(eager, queries, references, metric=metric), exact(queries, references, metric))


@pytest.mark.parametrize(("metric", "d"), [("cosine", 4096), ("euclidean", 1000)])
def test_many_features(metric: Metric, d: int) -> None:
    """Sums over many features would lose digits, or stop early."""
    queries, references = vectors(1, 2, d), vectors(1, 3, d, seed=1)
    no_worse_than_torch(
        triton(queries, references, metric),
        run(eager, queries, references, metric=metric),
        exact(queries, references, metric),
    )


def close(got: list[Tensor], truth: list[Tensor], roundings: float = 64) -> None:
    for name, ours, true in zip(NAMES, got, truth, strict=True):
        scale = true.abs().max().item() or 1.0
        assert ours.isfinite().all(), name
        assert (ours.double() - true).abs().max().item() <= roundings * EPS * scale, name


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("metric", METRICS)
def test_identical_opposite_orthogonal(metric: Metric, backend: Backend) -> None:
    """The three distances that everybody knows would be wrong; identical vectors must not divide by their distance."""
    x = torch.eye(4, device=DEVICE)[None] * 3
    queries, references = x.clone().requires_grad_(), torch.stack([x[0, 0], -x[0, 0], x[0, 1]])[None]
    values = patch_distance(queries, references, metric=metric, backend=backend)
    expected = {"cosine": [0, 2, 1], "cosine_similarity": [1, -1, 0], "euclidean": [0, 6, 18**0.5]}[metric]
    torch.testing.assert_close(values[0, 0], torch.tensor(expected, device=DEVICE, dtype=torch.float32))
    (gradient,) = torch.autograd.grad(values[0, 0, 0], queries)
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_zero_vector_is_similar_to_nothing_and_gets_no_gradient(backend: Backend, dtype: torch.dtype) -> None:
    """A black patch would make a training step infinite: torch's own rules give 1e8 or 1e12, infinite in float16."""
    queries, references = vectors(1, 3, 8, dtype=dtype), vectors(1, 3, 8, dtype=dtype, seed=1)
    queries[0, 1] = references[0, 2] = 0
    values, to_queries, to_references = run(patch_distance, queries, references, backend=backend)
    assert torch.equal(values == 1, torch.tensor([[[0, 0, 1], [1, 1, 1], [0, 0, 1]]], device=DEVICE) > 0)
    for gradient, zero in ((to_queries, 1), (to_references, 2)):
        assert gradient.isfinite().all()
        assert (gradient[0].abs().amax(-1) == 0).tolist() == [row == zero for row in range(3)]


ROWS = {"1e-20": 1e-20, "1e-11": 1e-11, "1": 1.0, "1e18": 1e18, "1e20": 1e20, "1e37": 1e37}


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("metric", ["cosine", "cosine_similarity"])
def test_cosines_at_every_scale(metric: Metric, backend: Backend) -> None:
    """Squares of large features would overflow to NaN; rows of different scales must not disturb each other."""
    scales = torch.tensor(list(ROWS.values()), device=DEVICE)[None, :, None]
    queries, references = vectors(1, 6, 16) * scales, vectors(1, 6, 16, seed=1) * scales.flip(1)
    got, truth = (
        run(patch_distance, queries, references, metric=metric, backend=backend),
        exact(queries, references, metric),
    )
    torch.testing.assert_close(got[0].double(), truth[0], rtol=0, atol=8 * EPS)
    assert (got[0][0, 0] == (1 if metric == "cosine" else 0)).all()  # 1e-20: counts as zero
    for ours, true in zip(got[1:], truth[1:], strict=True):
        assert ours.isfinite().all()
        off = (ours.double() - true).norm(dim=-1) / true.norm(dim=-1).clamp(min=1e-36)
        assert off.max() < 64 * EPS


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e37])
def test_euclidean_at_every_scale(scale: float, backend: Backend) -> None:
    """Sums of squares would overflow, or underflow to distances of 0."""
    queries, references = vectors(1, 3, 5) * scale, vectors(1, 4, 5, seed=1) * scale
    queries[0, 2] = references[0, 1]
    got = run(patch_distance, queries, references, metric="euclidean", backend=backend)
    assert got[0][0, 2, 1] == 0
    close(got, exact(queries, references, "euclidean"))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_strides(metric: Metric) -> None:
    """Maps of features, slices and expanded gradients would be read as if they were contiguous."""
    queries = vectors(2, 12, 10).transpose(1, 2)[:, :9]  # (B, patches, features) of a (B, features, patches) map
    references = vectors(2, 14, 24, seed=1)[:, ::2, ::2]
    got = triton(queries, references, metric)
    dense = triton(queries.contiguous(), references.contiguous(), metric)
    for name, ours, expected in zip(NAMES, got, dense, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6, msg=name)
    leaf = queries.clone().requires_grad_()
    (of_sum,) = torch.autograd.grad(patch_distance(leaf, references, metric=metric, backend="triton").sum(), leaf)
    truth = queries.double().requires_grad_()
    (expected,) = torch.autograd.grad(patch_distance(truth, references.double(), metric=metric).sum(), truth)
    torch.testing.assert_close(of_sum.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_shared_references(metric: Metric) -> None:
    """One queue for the whole batch would not be the same as a copy for each image, or its gradient not their sum.

    570 patches pull at 5 references: the sum is split into parts, which are added up.
    """
    queries, references = vectors(3, 190, 4), vectors(5, 4, seed=1)
    got, truth = triton(queries, references, metric), exact(queries, references, metric)
    copied = exact(queries, references.expand(3, 5, 4), metric)
    assert got[2].shape == (5, 4)
    torch.testing.assert_close(truth[2], copied[2].sum(0))
    no_worse_than_torch(got, run(patch_distance, queries, references, metric=metric, backend="reference"), truth)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("b", "n", "m"), [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 0, 0)])
def test_empty(b: int, n: int, m: int, metric: Metric, backend: Backend) -> None:
    """The last, empty batch of a rank would stop the run, or leave gradients unwritten."""
    values, to_queries, to_references = run(
        patch_distance, vectors(b, n, 5), vectors(b, m, 5), metric=metric, backend=backend
    )
    assert values.shape == (b, n, m)
    assert not to_queries.any()
    assert not to_references.any()


def test_only_the_gradients_that_are_needed() -> None:
    """The teacher's side would cost a backward pass, or get a gradient."""
    queries, references = vectors(1, 4, 6).requires_grad_(), vectors(1, 3, 6, seed=1)
    values = patch_distance(queries, references, backend="triton")
    values.sum().backward()
    assert [x.grad is None for x in (queries, references)] == [False, True]
    assert not patch_distance(queries.detach(), references, backend="triton").requires_grad


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "metric": ({"metric": "manhattan"}, "metric is 'manhattan'"),
    "backend": ({"backend": "cuda"}, "backend is 'cuda'"),
    "queries are one image": ({"queries": (4, 6)}, r"\(B, N, D\)"),
    "batches differ": ({"references": (3, 4, 6)}, "share"),
    "features differ": ({"references": (2, 4, 5)}, "same number of features"),
    "no features": ({"queries": (2, 4, 0), "references": (2, 4, 0)}, "at least 1"),
}


@pytest.mark.parametrize("change", BAD)
def test_arguments_that_do_not_fit(change: str) -> None:
    """A kernel would read beyond a tensor, or numbers would come out of what was not meant."""
    arguments, message = BAD[change]
    options = {"queries": (2, 4, 6), "references": (2, 4, 6)} | arguments
    queries, references = vectors(*options.pop("queries")), vectors(*options.pop("references"))
    with pytest.raises(ValueError, match=message):
        patch_distance(queries, references, **options)


def test_mixed_dtypes_and_devices() -> None:
    """A silent cast would hide that half of a model runs in another precision."""
    x = vectors(1, 2, 3)
    with pytest.raises(ValueError, match=r"float32, references torch\.float16; cast"):
        patch_distance(x, x.half())
    with pytest.raises(ValueError, match="cast both to one floating dtype"):
        patch_distance(x.int(), x.int())
    with pytest.raises(ValueError, match="on meta; move"):
        patch_distance(x, x.to("meta"))
    with pytest.raises(ValueError, match="float64"):
        patch_distance(x.double(), x.double(), backend="triton")


@pytest.mark.parametrize("backend", [None, "triton", "reference"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(bad: float, backend: Backend | None) -> None:
    """A diverged model would train on, its distances quietly NaN. A GPU is not stopped to look: there they stay so."""
    queries, references = vectors(1, 3, 4), vectors(1, 2, 4, seed=1)
    references[0, 1, 2] = bad
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="references hold NaN or infinite"):
            patch_distance(queries, references, backend=backend)
    compute = torch.compile(patch_distance, backend="eager", fullgraph=True)
    for metric in METRICS:
        values = compute(queries, references, metric=metric, backend=backend)
        assert values.isfinite().all(dim=1).tolist() == [[True, False]], metric
        assert not values[..., 1].isfinite().any(), metric


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("metric", METRICS)
def test_compile_takes_it_whole(metric: Metric, backend: Backend) -> None:
    """torch.compile would break the graph here, or lose a gradient; sizes may change."""
    compiled = torch.compile(patch_distance, backend="aot_eager", fullgraph=True, dynamic=True)
    for n in (3, 5):
        queries, references = vectors(2, n, 6), vectors(2, 4, 6, seed=1)
        got = run(compiled, queries, references, metric=metric, backend=backend)
        expected = run(patch_distance, queries, references, metric=metric, backend=backend)
        for name, ours, theirs in zip(NAMES, got, expected, strict=True):
            torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize("metric", METRICS)
def test_operators_are_registered_as_they_behave(metric: Metric) -> None:
    """Shapes, dtypes or aliases that torch.compile is told would not be those of the kernels."""
    queries, references = vectors(2, 4, 6).requires_grad_(), vectors(2, 3, 6, seed=1).requires_grad_()
    forward, gradient = torch.ops.pineco.patch_distance.default, torch.ops.pineco.patch_distance_gradient.default
    patch_distance(queries, references, backend="triton")
    torch.library.opcheck(forward, (queries, references, metric))
    values, *inverses = (x.detach() for x in forward(queries, references, metric))
    arguments = (torch.ones_like(values), values, queries.detach(), references.detach(), *inverses, metric)
    torch.library.opcheck(gradient, arguments)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("metric", METRICS)
def test_autocast_changes_nothing(metric: Metric, backend: Backend) -> None:
    """Distances would drop to 8 bits: sorting them at steepness 100 would see steps of 0.4."""
    queries, references = vectors(1, 5, 8, dtype=torch.bfloat16), vectors(1, 4, 8, dtype=torch.bfloat16, seed=1)
    expected = run(patch_distance, queries, references, metric=metric, backend=backend)

    def under_autocast(q: Tensor, r: Tensor) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16):
            return patch_distance(q, r, metric=metric, backend=backend)

    got = run(under_autocast, queries, references)
    assert got[0].dtype == torch.float32
    for name, ours, theirs in zip(NAMES, got, expected, strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_activation_checkpointing(backend: Backend) -> None:
    """Recomputing the distances in the backward pass would change gradients."""
    queries, references = vectors(1, 5, 8), vectors(1, 4, 8, seed=1)

    def again(q: Tensor, r: Tensor) -> Tensor:
        return checkpoint(lambda *x: patch_distance(*x, backend=backend), q, r, use_reentrant=False)

    expected = run(patch_distance, queries, references, backend=backend)
    for name, ours, theirs in zip(NAMES, run(again, queries, references), expected, strict=True):
        assert torch.equal(ours, theirs), name


def test_without_a_gpu_the_reference_runs() -> None:
    """backend=None would run the interpreter on a laptop, thousands of times slower."""
    queries, references = vectors(1, 5, 8).cpu(), vectors(1, 4, 8, seed=1).cpu()
    assert torch.equal(patch_distance(queries, references), patch_distance(queries, references, backend="reference"))


@pytest.mark.skipif(not interpreting(), reason="a GPU is here: kernels are not interpreted")
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (5, 70, 3), (70, 5, 33)])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_no_access_outside_the_tensors(metric: Metric, n: int, m: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing mask would read somebody else's memory: right in every other test, a crash on a GPU one day."""
    guard_memory(monkeypatch)
    triton(vectors(1, n, d), vectors(1, m, d, seed=1), metric)
    triton(vectors(1, d, n).mT, vectors(2, m, 2 * d, seed=1)[1:, :, ::2], metric)


@pytest.mark.parametrize("metric", METRICS)
def test_every_launch_is_one_that_the_gate_compiles(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block size that nobody compiled ahead of time could spill, or not fit, on the user's GPU."""
    from pineco.kernels.patch_distance import kernel

    known = {(x.kernel.__name__, x.num_warps, x.num_stages, _blocks(x.constexprs)) for x in kernel.launches()}
    seen: list[tuple[object, ...]] = []
    for name in ("cosine_forward", "cosine_backward", "euclidean_forward", "euclidean_backward"):
        monkeypatch.setattr(kernel, name, _Recorder(getattr(kernel, name), seen))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        triton(vectors(1, 2, 3, dtype=dtype), vectors(1, 2, 3, dtype=dtype), metric)
    assert len(seen) == 9
    assert set(seen) <= known


def _blocks(options: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset((k, v) for k, v in options.items() if k.isupper())


class _Recorder:
    """Launches a kernel and keeps its options."""

    def __init__(self, kernel: Any, seen: list[tuple[object, ...]]) -> None:
        self.kernel, self.seen = kernel, seen

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(*arguments: object, **options: Any) -> None:
            self.seen.append((self.kernel.__name__, options["num_warps"], options["num_stages"], _blocks(options)))
            self.kernel[grid](*arguments, **options)

        return launch


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("metric", METRICS)
def test_cuda_graphs(metric: Metric) -> None:
    """A hidden synchronisation would make the step impossible to capture."""
    queries, references = vectors(2, 49, 64), vectors(2, 49, 64, seed=1)
    expected = triton(queries, references, metric)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = triton(queries, references, metric)
    graph.replay()
    for name, ours, theirs in zip(NAMES, got, expected, strict=True):
        assert torch.equal(ours, theirs), name


SMALL = {"n": st.integers(1, 5), "m": st.integers(1, 5), "d": st.integers(1, 9), "seed": st.integers(0, 2**31)}


@pytest.mark.parametrize("backend", ["triton", "reference"])
@settings(max_examples=15, deadline=None)
@given(**SMALL, power=st.integers(-36, 60))
def test_properties_of_cosine_distance(backend: Backend, n: int, m: int, d: int, seed: int, power: int) -> None:
    """Distances would leave [0, 2], depend on which side is called the queries, or on the length of a vector."""
    queries, references = vectors(1, n, d, seed=seed), vectors(1, m, d, seed=seed + 1)
    values = patch_distance(queries, references, backend=backend)
    assert ((values >= 0) & (values <= 2)).all()
    swapped = patch_distance(references, queries, backend=backend)
    assert (patch_distance(queries, queries, backend=backend) >= 0).all()
    torch.testing.assert_close(swapped, values.mT, rtol=0, atol=4 * EPS)
    if queries.norm(dim=-1).min() * 2.0**power > 1e-11:
        torch.testing.assert_close(
            patch_distance(queries * 2.0**power, references, backend=backend), values, rtol=0, atol=4 * EPS
        )


@pytest.mark.parametrize("backend", ["triton", "reference"])
@settings(max_examples=10, deadline=None)
@given(**SMALL)
def test_properties_of_euclidean_distance(backend: Backend, n: int, m: int, d: int, seed: int) -> None:
    """Distances would be negative, not symmetric, or break the triangle inequality."""
    queries, references = vectors(1, n, d, seed=seed), vectors(1, m, d, seed=seed + 1)
    values = patch_distance(queries, references, metric="euclidean", backend=backend)
    torch.testing.assert_close(patch_distance(references, queries, metric="euclidean", backend=backend), values.mT)
    among = patch_distance(queries, queries, metric="euclidean", backend=backend)
    assert (values >= 0).all()
    assert (among.diagonal(dim1=1, dim2=2) == 0).all()
    assert (values[:, :1] <= (among[:, :1].mT + values) * (1 + 8 * EPS)).all()
