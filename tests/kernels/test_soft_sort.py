"""soft_sort: networks and PyTorch path against diffsort, kernels against float64, and what surrounds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, get_args

import diffsort  # type: ignore[import-untyped] # it has no stubs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pineco.kernels.backend import Backend
from pineco.kernels.interpreter import interpreting
from pineco.kernels.soft_sort import chunked, networks, reference, soft_sort
from pineco.kernels.soft_sort.networks import Network, layers, wiring
from pineco.kernels.soft_sort.relaxation import Distribution, Relaxation
from pineco.kernels.timing import peak_bytes
from tests.support.exactness import assert_as_exact_as_torch
from tests.support.guarded_memory import guard_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CPU = torch.device("cpu")
NETWORKS, DISTRIBUTIONS = get_args(Network), get_args(Distribution)
SIZES = (2, 3, 5, 8, 16, 31, 49, 64, 100, 128)
EPS = torch.finfo(torch.float32).eps
NAMES = ("sorted", "permutation", "gradient of sorted", "gradient of the permutation")

# What the interpreter computes for lanes that are masked out may overflow; NumPy tells.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")

Sort = Callable[[Tensor], tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Every test compiles anew: torch gives up on a function that it compiled eight times."""
    torch.compiler.reset()


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def run(sort: Sort, values: Tensor) -> list[Tensor]:
    """What NAMES names, for fixed random gradients of both outputs."""
    leaf = values.detach().requires_grad_()
    outputs = sort(leaf)
    pulls = [random(*x.shape, seed=8).to(x.dtype) - 0.5 for x in outputs]
    gradients = [
        torch.autograd.grad(x, leaf, pull, retain_graph=True)[0] for x, pull in zip(outputs, pulls, strict=True)
    ]
    return [*(x.detach() for x in outputs), *gradients]


def ours(backend: Backend | None = "reference", **options: Any) -> Sort:
    return lambda values: soft_sort(values, backend=backend, **options)


def specified(network: Network, n: int, **options: Any) -> Sort:
    """reference.py, in whatever dtype it is given: what torch loses there."""
    relaxation = Relaxation(options.pop("distribution", "cauchy"), options.pop("steepness", 10.0), **options)
    return lambda values: reference.soft_sort(values, wiring(network, n, DEVICE), relaxation)


def diffsorts(network: Network, n: int, **options: Any) -> Sort:
    return diffsort.DiffSortNet(network, n, device=str(DEVICE), **options)


# Networks


def from_matrices(network: Network, n: int) -> list[set[tuple[int, int]]]:
    """The comparators in diffsort's matrices; it writes a wire that is left alone as one compared with itself."""
    pairs = []
    for _split_a, _split_b, smaller, larger in diffsort.get_sorting_network(network, n, "cpu"):
        ends = zip(smaller.T, larger.T, strict=True)
        pairs.append({(int(a.argmax()), int(b.argmax())) for a, b in ends if a.max() == 1})
    return pairs


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_are_those_of_diffsort(network: Network, n: int) -> None:
    """Permutations would be those of another network: soft results differ although both sort."""
    assert [set(layer) for layer in layers(network, n)] == from_matrices(network, n)


def test_the_published_network() -> None:
    """NeCo's setting would not be what papers and cost models say it is."""
    assert len(layers("bitonic", 49)) == 21
    assert sum(map(len, layers("bitonic", 49))) == 483
    assert len(layers("odd_even", 49)) == 49


@pytest.mark.parametrize("n", [*range(1, 11), 49, 1000, 1024])
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_sort(network: Network, n: int) -> None:
    """A wrong comparator: by the 0-1 principle a network that sorts zeros and ones sorts everything."""
    if n <= 10:
        values = torch.tensor(list(product((0, 1), repeat=n))).T.contiguous()
    else:
        values = torch.randint(2, (n, 64), generator=torch.Generator().manual_seed(0))
    for layer in layers(network, n):
        wires = [wire for pair in layer for wire in pair]
        assert len(set(wires)) == len(wires)
        if layer:
            low, high = torch.tensor(layer).T
            pair = values[low], values[high]
            values[low], values[high] = torch.minimum(*pair), torch.maximum(*pair)
    assert torch.equal(values, values.sort(0).values)


def test_wiring_is_symmetric() -> None:
    """A gradient would go back through other wires than the value came."""
    for network, n in product(NETWORKS, (1, 2, 7, 49)):
        partner, side = wiring(network, n, CPU)
        for p, s in zip(partner, side, strict=True):
            assert torch.equal(p[p], torch.arange(n))
            assert torch.equal(s[p], -s)
            assert torch.equal(s == 0, p == torch.arange(n))


# The PyTorch path against diffsort


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_equals_diffsort(network: Network, distribution: Distribution) -> None:
    """Results would not be those of the papers that used diffsort.

    In float64 everything agrees to 1e-10; 1e-8 for optimal, whose 1/u diffsort writes as 1/(u + 1e-10). At steepness 8,
    because diffsort rounds the gaussian's 1/steepness to float32. In float32 outputs agree to 1e-5, gradients to 1e-5
    of the largest wherever diffsort itself is that close to float64, else by the error rule. The slope of logistic_phi
    has no bound near a tie, where one rounding of a value changes it at will: there the rule holds for the median.
    """
    options: dict[str, Any] = {"distribution": distribution, "steepness": 8.0}
    for n in SIZES:
        values = random(3, n, seed=n)
        sorts = ours(network=network, **options), diffsorts(network, n, **options)
        got, theirs = (run(sort, values) for sort in sorts)
        exact, exact_theirs = (run(sort, values.double()) for sort in sorts)
        for name, a, b, c, d in zip(NAMES, got, theirs, exact, exact_theirs, strict=True):
            scale, label = d.abs().max().clamp(min=1).item(), f"{name}, n {n}"
            assert (c - d).abs().max().item() <= (1e-8 if distribution == "optimal" else 1e-10) * scale, label
            if name in ("sorted", "permutation"):
                assert (a - b).abs().max().item() <= 1e-5, label
            elif distribution != "logistic_phi":
                assert_as_exact_as_torch(a, b, d, 1e-5 * scale, label)
            else:
                off, allowed = ((x - d).abs().median().item() for x in (a, b))
                assert off <= 2 * allowed + 1e-6 * scale, label


def test_lambda_is_that_of_diffsort() -> None:
    """The activation replacement trick would be off wherever lambda is not the default."""
    options: dict[str, Any] = {"distribution": "logistic_phi", "steepness": 3.0, "art_lambda": 0.6}
    values = random(4, 9, dtype=torch.float64)
    for name, got, theirs in zip(
        NAMES, run(ours(**options), values), run(diffsorts("bitonic", 9, **options), values), strict=True
    ):
        torch.testing.assert_close(got, theirs, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("n", [1, 2, 7, 33])
@pytest.mark.parametrize("network", NETWORKS)
def test_chunks_are_the_specification(network: Network, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows or original positions at the border of a chunk would be lost, or the gradients written by hand be wrong."""
    monkeypatch.setattr(chunked, "STATE", 3 * n * n if n != 33 else 7 * n)  # three rows at once, or seven vectors
    monkeypatch.setattr(chunked, "SHARES", 3 * 5 * wiring(network, n, CPU).partner.numel())  # five rows, then three
    values = random(8, n, dtype=torch.float64)
    for distribution in DISTRIBUTIONS:
        options: dict[str, Any] = {"distribution": distribution, "steepness": 7.0}
        got = run(ours(network=network, **options), values)
        if n == 1:
            assert torch.equal(got[0], values)
            assert (got[1] == 1).all()
            continue
        for name, a, b in zip(NAMES, got, run(specified(network, n, **options), values), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=f"{name}, {distribution}")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_those_of_the_values(network: Network, distribution: Distribution) -> None:
    """Training would follow a gradient that is not one. Finite differences, in float64."""
    values = random(2, 6, seed=3, dtype=torch.float64).requires_grad_()
    sort = ours(network=network, distribution=distribution, steepness=2.0)
    assert torch.autograd.gradcheck(sort, values, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(("network", "rows", "n"), [("bitonic", 300, 49), ("bitonic", 100, 7), ("odd_even", 30, 9)])
def test_four_copies_of_the_permutation(network: Network, rows: int, n: int) -> None:
    """The CPU path would need gigabytes where the permutation has 30 MB; diffsort holds some for each layer.

    Chunks are no larger than at the published 3,136 rows, which take longer to measure than the rest of this file.
    """
    leaf, pull = random(rows, n).requires_grad_(), random(rows, n, n, seed=1)
    peak = peak_bytes(lambda: torch.autograd.grad(ours(network=network)(leaf)[1], leaf, pull), CPU)
    assert peak <= 4 * 4 * pull.numel()


def test_three_times_as_fast_as_diffsort() -> None:
    """The CPU path would be too slow for what it is there for. It is some five times as fast at this size."""
    values, pull = random(392, 49), random(392, 49, 49, seed=1)
    seconds: dict[str, list[float]] = {}
    for _ in range(3):
        for name, sort in (("ours", ours()), ("theirs", diffsorts("bitonic", 49))):
            leaf = values.detach().requires_grad_()
            start = time.perf_counter()
            torch.autograd.grad(sort(leaf)[1], leaf, pull)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    assert 3 * min(seconds["ours"]) < min(seconds["theirs"]), seconds


# Both paths


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("network", NETWORKS)
def test_permutations_are_doubly_stochastic(network: Network, backend: Backend) -> None:
    """What is called a permutation would create or lose mass; sorted would not be the values it permutes."""
    for n in (2, 7, 18):
        values = random(2, n, seed=n)
        ordered, permutation = soft_sort(values, network=network, steepness=50.0, backend=backend)
        assert (permutation >= 0).all()
        for dim in (1, 2):
            torch.testing.assert_close(permutation.sum(dim), torch.ones_like(values), rtol=0, atol=32 * EPS)
        torch.testing.assert_close((values[:, None] @ permutation)[:, 0], ordered, rtol=0, atol=32 * EPS)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_steep_sorting_is_sorting(network: Network, distribution: Distribution, backend: Backend) -> None:
    """It would not be a relaxation of sorting, or sort the other way round."""
    n = 13
    values = torch.stack([random(n, seed=seed).argsort() for seed in range(4)]).float()
    expected, indices = values.sort()
    ordered, permutation = soft_sort(values, network=network, distribution=distribution, steepness=1e7, backend=backend)
    torch.testing.assert_close(ordered, expected, rtol=0, atol=1e-4)
    exact = torch.nn.functional.one_hot(indices, n).mT.float()
    torch.testing.assert_close(permutation, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_outputs_are_finite_at_the_largest_steepness(distribution: Distribution, backend: Backend) -> None:
    """D6: a steepness that is let through would make both outputs NaN."""
    values = random(3, 7)
    values[1, ::2] = values[1, 0]
    for output in soft_sort(values, distribution=distribution, steepness=3.4e38, backend=backend):
        assert output.isfinite().all()


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_finite_at_every_steepness(distribution: Distribution, backend: Backend) -> None:
    """A steep or a flat sort, tied or huge values would make a training step NaN."""
    values = random(5, 7)
    values[1] = 0.25
    values[2] += 1e6
    values[3, ::2] = values[3, 0]
    values[4] = torch.tensor([-1e37, 1e37, 0.0, 1e-38, -1e-38, 1e37, 1.0])
    for steepness in (1.0, 100.0, 10_000.0) if backend == "reference" else (10_000.0,):
        got = run(ours(backend, distribution=distribution, steepness=steepness), values)
        for name, output in zip(NAMES, got, strict=True):
            assert output.isfinite().all(), (name, steepness)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("network", NETWORKS)
def test_equal_values_stay(network: Network, backend: Backend) -> None:
    """Equal values would be told apart, or change."""
    equal = torch.tensor([[0.3], [1e6], [0.0]], device=DEVICE).expand(3, 8)
    ordered, permutation = soft_sort(equal, network=network, steepness=20.0, backend=backend)
    torch.testing.assert_close(ordered, equal, rtol=EPS, atol=0)
    expected = reference.soft_sort(equal.double(), wiring(network, 8, DEVICE), Relaxation("cauchy", 1.0))[1]
    torch.testing.assert_close(permutation.double(), expected, rtol=0, atol=EPS)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@settings(max_examples=10, deadline=None)
@given(n=st.integers(2, 9), seed=st.integers(0, 2**31), steepness=st.floats(1, 1e4), network=st.sampled_from(NETWORKS))
def test_properties(backend: Backend, n: int, seed: int, steepness: float, network: Network) -> None:
    """Sums of rows would change, extremes leave the range of the values, or order depend on the sign of a flip."""
    values = random(2, n, seed=seed)
    ordered, permutation = soft_sort(values, network=network, steepness=steepness, backend=backend)
    torch.testing.assert_close(ordered.sum(1), values.sum(1), rtol=0, atol=1e-5)
    assert (ordered.amax(1) <= values.amax(1) + 8 * EPS).all()
    assert (ordered.amin(1) >= values.amin(1) - 8 * EPS).all()
    assert ((permutation >= 0) & (permutation <= 1 + 8 * EPS)).all()


# Kernels


def check_kernels(
    values: Tensor, network: Network, distribution: Distribution = "cauchy", steepness: float = 10.0, **options: Any
) -> None:
    """Outputs and all gradients against float64, by the error rule, theirs being reference.py in the same dtype."""
    settings_: dict[str, Any] = {"distribution": distribution, "steepness": steepness, **options}
    n = values.shape[1]
    got = run(ours("triton", network=network, **settings_), values)
    theirs = run(specified(network, n, **settings_), values)
    exact = run(specified(network, n, **settings_), values.double())
    assert [x.dtype for x in got] == [torch.float32] * 2 + [values.dtype] * 2
    for name, a, b, c in zip(NAMES, got, theirs, exact, strict=True):
        assert_as_exact_as_torch(a, b, c, 32 * EPS * c.abs().max().clamp(min=1).item(), name)


@pytest.mark.parametrize("n", [2, 3, 7, 49, 63, 64, 65, 100, 128])
def test_bitonic_kernels_err_no_more_than_torch(n: int) -> None:
    """An output or a gradient of the kernels would be wrong at some size, or less exact than torch's."""
    check_kernels(random(2 if n < 50 else 1, n, seed=n), "bitonic")


@pytest.mark.parametrize("n", [2, 3, 7, 21, 34])
def test_odd_even_kernels_err_no_more_than_torch(n: int) -> None:
    """As above: these kernels keep their state in memory. 34 original wires are two tiles."""
    check_kernels(random(3 if n < 9 else 1, n, seed=n), "odd_even")


@pytest.mark.parametrize(("network", "n"), [("bitonic", 9), ("bitonic", 16), ("odd_even", 9)])
def test_tiles_of_a_row_add_up(network: Network, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles meet in comparators whose gradient is the sum of all: one would be lost, or counted twice."""
    from pineco.kernels.soft_sort import kernel

    monkeypatch.setattr(kernel, "_LANES", 4)
    check_kernels(random(2, n), network)


@pytest.mark.parametrize("n", [5, 16])
def test_large_bitonic_networks_go_back_through_memory(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 128 wires another kernel computes the gradient. Programs take several rows, rows several tiles."""
    from pineco.kernels.soft_sort import kernel

    monkeypatch.setattr(kernel, "_REGISTER_BITS", 0)
    monkeypatch.setattr(kernel, "_LANES", 4)
    check_kernels(random(5, n), "bitonic")


def test_values_far_from_zero() -> None:
    """Similarities with an offset would be sorted less exactly than torch does it."""
    check_kernels(random(4, 7) + 1000, "bitonic")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_kernels_take_half_precision(network: Network, dtype: torch.dtype) -> None:
    """Similarities under autocast would be sorted in 8 bits, or get gradients of another dtype."""
    check_kernels(random(2, 9, dtype=dtype), network)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("steepness", [3.0, 100.0])
def test_kernels_know_every_distribution(distribution: Distribution, steepness: float) -> None:
    """A kernel would compute another F than its name says, or another derivative of it."""
    check_kernels(random(5, 6, seed=4), "bitonic", distribution, steepness, art_lambda=0.4)


def test_shares_of_the_gaussian_are_exact() -> None:
    """D2: small shares would be those of a difference, some 1e-8, and a loss of steep gaussians too large.

    Arguments from 0 to 13 of wires out of order, which the first layer compares. A rounding of the argument's square
    changes the share by u²/2 roundings, in torch as well.
    """
    from pineco.kernels.soft_sort import kernel

    u = torch.linspace(0, 13, 512, device=DEVICE)
    pairs = torch.stack([u, torch.zeros_like(u)], 1).reshape(-1, 64)
    _, shares = kernel.sort_values(pairs, kernel.network_size("odd_even", 64), Relaxation("gaussian", 1.0))
    got, exact = shares[:, 0].reshape(-1), torch.special.erfc(u.double() / 2**0.5) / 2
    assert got[0] == 0.5
    roundings = (got / exact - 1).abs() / (EPS / 2)
    assert (roundings <= 6 + u.double().square() / 2).all()


@pytest.mark.parametrize("n", [130, 257, 513])
def test_kernels_forward_at_the_largest_sizes(n: int) -> None:
    """Tiles of networks of 512 and 1024 wires would be put together wrongly."""
    values = random(1, n)
    got, expected = soft_sort(values, backend="triton"), soft_sort(values.double())
    torch.testing.assert_close([x.double() for x in got], list(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_strides(network: Network) -> None:
    """Slices of similarities, and gradients that are expanded or transposed, would be read as if contiguous."""
    wide = random(8, 6).T[::2]  # (3, 8), stride (2, 6)
    for values in (wide[:, ::2], random(1, 5).expand(3, 5)):
        got, dense = (run(ours("triton", network=network), x) for x in (values, values.contiguous()))
        for name, a, b in zip(NAMES, got, dense, strict=True):
            assert torch.equal(a, b), name
    leaf = wide.detach().requires_grad_()
    ordered, permutation = soft_sort(leaf, network=network, backend="triton")
    weights = random(8, 8, seed=5)
    (expanded,) = torch.autograd.grad((permutation * weights).sum() + ordered[:, 0].sum(), leaf)
    again = wide.detach().requires_grad_()
    ordered, permutation = soft_sort(again, network=network, backend="reference")
    (expected,) = torch.autograd.grad((permutation * weights).sum() + ordered[:, 0].sum(), again)
    torch.testing.assert_close(expanded, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("network", NETWORKS)
def test_empty(network: Network, backend: Backend) -> None:
    """The last, empty batch of a rank would stop the run, or leave a gradient unwritten."""
    got = run(ours(backend, network=network), random(0, 5))
    assert [tuple(x.shape) for x in got] == [(0, 5), (0, 5, 5), (0, 5), (0, 5)]


@pytest.mark.skipif(not interpreting(), reason="a GPU is here: kernels are not interpreted")
@pytest.mark.parametrize("registers", [True, False], ids=["registers", "memory"])
@pytest.mark.parametrize("n", [3, 9])
@pytest.mark.parametrize("network", NETWORKS)
def test_no_access_outside_the_tensors(
    network: Network, n: int, registers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing mask would read somebody else's memory: right in every other test, a crash on a GPU one day."""
    from pineco.kernels.soft_sort import kernel

    guard_memory(monkeypatch)
    if not registers:
        monkeypatch.setattr(kernel, "_REGISTER_BITS", 0)
        monkeypatch.setattr(kernel, "_LANES", 4)
    values = random(5, n).requires_grad_()
    ordered, permutation = soft_sort(values, network=network, backend="triton")
    torch.autograd.grad(ordered.sum() + permutation.square().sum(), values)


def test_every_launch_is_one_that_the_gate_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block size that nobody compiled ahead of time could spill, or not fit, on the user's GPU."""
    from pineco.kernels.soft_sort import kernel

    seen: set[str] = set()
    monkeypatch.setattr(kernel.Plan, "launch", lambda plan, *_: seen.add(kernel.compiled_launch(plan).name))
    for network, n, distribution in product(NETWORKS, (2, 7, 49, 65, 129, 513, 1024), DISTRIBUTIONS):
        values, relaxation = torch.zeros(1, n), Relaxation(distribution, 1.0)
        ordered, permutation = kernel.forward(values, network, relaxation)
        kernel.backward(ordered, permutation, values, network, relaxation)
    assert seen <= {launch.name for launch in kernel.launches()}
    assert len(seen) > 40


# What surrounds them

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one row without its axis": ({"shape": (5,)}, r"values are \(5,\); pass \(rows, n\)"),
    "too many": ({"shape": (1, 1025)}, "n from 1 to 1024"),
    "none": ({"shape": (1, 0)}, "n from 1 to 1024"),
    "integers": ({"dtype": torch.int64}, r"torch\.int64; pass float32"),
    "network": ({"network": "bubble"}, "network is 'bubble'; choose one of bitonic, odd_even"),
    "distribution": ({"distribution": "normal"}, "distribution is 'normal'; choose one of cauchy"),
    "flat": ({"steepness": 0}, "steepness is 0"),
    "endless": ({"steepness": float("inf")}, "steepness is inf"),
    "beyond float32": ({"steepness": 3.5e38}, "steepness is 3.5e.38; pass a number above 0, at most 3.4e.38"),
    "far beyond float32": ({"steepness": 1e300}, "at most 3.4e.38"),
    "steepness in words": ({"steepness": "10"}, "steepness is '10'; pass a number above 0"),
    "lambda": ({"art_lambda": 1.5}, "art_lambda is 1.5; pass a number from 0 to 1"),
    "lambda in words": ({"art_lambda": "0.2"}, "art_lambda is '0.2'; pass a number"),
    "a list": ({"values": [[1.0, 2.0]]}, r"values are a list; pass a tensor \(rows, n\)"),
    "backend": ({"backend": "cuda"}, "backend is 'cuda'"),
}


@pytest.mark.parametrize("change", BAD)
def test_arguments_that_do_not_fit(change: str) -> None:
    """A kernel would read beyond a tensor, or numbers would come out of what was not meant."""
    options, message = {**BAD[change][0]}, BAD[change][1]
    values = torch.ones(options.pop("shape", (2, 5)), dtype=options.pop("dtype", torch.float32))
    values = options.pop("values", values)
    with pytest.raises(ValueError, match=message):
        soft_sort(values, **options)


def test_what_the_kernels_do_not_do() -> None:
    """Asking for the kernels would silently get something else, or backend=None fail where PyTorch can do it."""
    for values, message in ((random(2, 5).double(), "float64"), (random(2, 1), "n is 1")):
        with pytest.raises(ValueError, match=message):
            soft_sort(values, backend="triton")
        assert soft_sort(values)[1].dtype == values.dtype
    values = random(3, 6).cpu()
    for got, expected in zip(soft_sort(values), soft_sort(values, backend="reference"), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    """A diverged model would train on. On a GPU nothing stops to look: there the row must show it, and no other."""
    from pineco.kernels.soft_sort import kernel

    values = random(3, 6)
    values[1, 2] = bad
    if DEVICE.type == "cpu":
        for backend in (None, "reference", "triton"):
            with pytest.raises(ValueError, match="NaN or an infinity"):
                soft_sort(values, backend=backend)
    relaxation, spread = Relaxation("cauchy", 10.0), torch.ones(3, 6, 6, device=DEVICE)
    for network in NETWORKS:
        wires = wiring(network, 6, DEVICE)
        outputs = [
            *chunked.forward(values, wires, relaxation),
            chunked.backward(values.nan_to_num(), spread, values, wires, relaxation),
            *kernel.forward(values, network, relaxation),
            kernel.backward(values.nan_to_num(0, 0, 0), spread, values, network, relaxation),
        ]
        for output in outputs:
            assert output[1].isnan().all()
            assert output[::2].isfinite().all()


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_compile_takes_it_whole(backend: Backend) -> None:
    """torch.compile would break the graph here, or lose a gradient; the number of rows may change."""
    compiled = torch.compile(ours(backend), backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (3, 5):
        values = random(rows, 3)
        for name, a, b in zip(NAMES, run(compiled, values), run(ours(backend), values), strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("network", NETWORKS)
def test_both_gradients_at_once(network: Network, backend: Backend) -> None:
    """A loss on both outputs would forget one of them, or the one would disturb the other."""
    values = random(2, 6).requires_grad_()
    outputs = soft_sort(values, network=network, backend=backend)
    pulls = [random(*x.shape, seed=1) for x in outputs]
    (both,) = torch.autograd.grad(outputs, values, pulls, retain_graph=True)
    each = [torch.autograd.grad(x, values, p, retain_graph=True)[0] for x, p in zip(outputs, pulls, strict=True)]
    torch.testing.assert_close(both, sum(each), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_operators_are_registered_as_they_behave(backend: Backend) -> None:
    """Shapes, dtypes or aliases that torch.compile is told would not be those of the operators."""
    values, rest = random(2, 3).requires_grad_(), ("bitonic", "cauchy", 10.0, 0.25, backend)
    torch.library.opcheck(torch.ops.pineco.soft_sort.default, (values, *rest))
    half = random(2, 3, dtype=torch.bfloat16)
    torch.library.opcheck(torch.ops.pineco.soft_sort.default, (half, *rest))
    gradients = random(2, 3), random(2, 3, 3)
    for some in (gradients, (None, gradients[1]), (gradients[0], None)):
        torch.library.opcheck(torch.ops.pineco.soft_sort_backward.default, (*some, half, *rest))


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_autocast_and_checkpoints_change_nothing(backend: Backend) -> None:
    """Mixed precision or recomputation would change what is sorted."""

    def under_autocast(values: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return soft_sort(values, backend=backend)

    def again(values: Tensor) -> tuple[Tensor, Tensor]:
        return checkpoint(lambda x: soft_sort(x, backend=backend), values, use_reentrant=False)

    values = random(2, 9)
    expected = run(ours(backend), values)
    for sort in (under_autocast, again):
        for name, a, b in zip(NAMES, run(sort, values), expected, strict=True):
            assert torch.equal(a, b), name


def test_tables_of_a_first_call_without_gradients() -> None:
    """Tables made under inference mode would make every later gradient of that size fail."""
    networks.wiring.cache_clear()
    with torch.inference_mode():
        soft_sort(random(2, 6).cpu())
    run(specified("bitonic", 6), random(2, 6))


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize(("network", "n"), [("bitonic", 49), ("bitonic", 200), ("odd_even", 49)])
def test_cuda_graphs(network: Network, n: int) -> None:
    """A hidden synchronisation would make the step impossible to capture."""
    values, pulls = random(64, n).requires_grad_(), (random(64, n), random(64, n, n))

    def step() -> Iterable[Tensor]:
        outputs = soft_sort(values, network=network, backend="triton")
        return (*outputs, *torch.autograd.grad(outputs, values, pulls))

    expected = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
