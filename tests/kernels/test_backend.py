"""Which implementation runs, and that Triton's interpreter computes what a GPU would."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from pineco.kernels import backend
from pineco.kernels.backend import Backend, choose_backend
from pineco.kernels.interpreter import interpreting

CPU = torch.zeros(1)


@pytest.mark.parametrize("asked", [None, "reference"])
def test_the_reference_runs_where_there_is_no_gpu(asked: Backend | None) -> None:
    """A laptop would get an error, or the interpreter, instead of an answer."""
    assert choose_backend(asked, CPU) == "reference"


def test_triton_is_not_replaced_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody would measure the reference and believe that it was the kernel."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="tensors are on cpu, and TRITON_INTERPRET=1 is not set; pass"):
        choose_backend("triton", CPU)
    with pytest.raises(ValueError, match="n is 2000"):
        choose_backend("triton", CPU, obstacle="n is 2000 (limit 1024)")
    monkeypatch.setattr(backend, "_INSTALLED", False)
    with pytest.raises(ValueError, match="triton is not installed"):
        choose_backend("triton", CPU)


def test_a_shape_that_the_kernels_cannot_take_runs_on_the_reference() -> None:
    """A size beyond the kernels' limit would be an error although the reference can do it."""
    assert choose_backend(None, CPU, obstacle="n is 2000 (limit 1024)") == "reference"


def test_the_interpreter_runs_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten variable in the environment would make training a thousand times slower."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend(None, CPU) == "reference"
    assert choose_backend("triton", CPU) == "triton"
    with pytest.raises(ValueError, match="on meta"):
        choose_backend("triton", CPU.to("meta"))


def test_an_unknown_backend() -> None:
    """A misspelt name would quietly choose something."""
    with pytest.raises(ValueError, match="backend is 'cuda'; it must be"):
        choose_backend("cuda", CPU)  # type: ignore[arg-type] # the misspelt name


needs_interpreter = pytest.mark.skipif(not interpreting(), reason="a GPU is here: kernels are not interpreted")


@triton.jit
def _add_up(values: tl.tensor, result: tl.tensor, count: tl.tensor, WIDTH: tl.constexpr) -> None:
    total = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, count, WIDTH):
        at = start + tl.arange(0, WIDTH)
        total += tl.load(values + at, mask=at < count, other=0.0)
    tl.store(result, tl.sum(total, 0))


@triton.jit
def _cast(values: tl.tensor, result: tl.tensor, WIDTH: tl.constexpr) -> None:
    at = tl.arange(0, WIDTH)
    tl.store(result + at, tl.load(values + at).to(tl.bfloat16))


@triton.jit
def _multiply(a: tl.tensor, b: tl.tensor, result: tl.tensor, SIDE: tl.constexpr) -> None:
    at = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    tl.store(result + at, tl.dot(tl.load(a + at), tl.load(b + at)))


@needs_interpreter
def test_interpreted_loops_take_bounds_of_the_launch() -> None:
    """Every kernel with a loop over its sizes would fail in the interpreter, and go untested."""
    values, result = torch.arange(10.0), torch.zeros(1)
    _add_up[(1,)](values, result, 10, WIDTH=4)
    assert result.item() == 45


@needs_interpreter
def test_interpreted_casts_round_to_the_nearest() -> None:
    """Results in bfloat16 would be cut off, and their errors twice those of a GPU."""
    values = torch.randn(1024, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.linspace(-37, 37, 1024)
    values[:6] = torch.tensor([0.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, float("nan"), -float("inf")])
    result = torch.zeros(1024, dtype=torch.bfloat16)
    _cast[(1,)](values, result, WIDTH=1024)
    torch.testing.assert_close(result, values.bfloat16(), rtol=0, atol=0, equal_nan=True)


@needs_interpreter
def test_interpreted_products_of_bfloat16() -> None:
    """Products would be of the bits, taken for integers."""
    a, b = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    result = torch.zeros(16, 16)
    _multiply[(1,)](a, b, result, SIDE=16)
    torch.testing.assert_close(result, a.float() @ b.float())
