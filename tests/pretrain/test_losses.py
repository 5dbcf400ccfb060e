"""The losses against independent restatements, and the contrastive gradient over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.losses import contrastive_loss, cosine_distance, prompt_contrastive_loss, triplet_hinge, two_afc
from tests.support.ranks import run_ranks

B, D = 8, 16


def _features(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, B, D, generator=random, dtype=torch.float64).unbind()
    return torch.nn.functional.normalize(image, dim=1), torch.nn.functional.normalize(text, dim=1)


def test_contrastive_loss_is_the_cross_entropy_of_both_directions() -> None:
    """A wrong label, axis or scale would train a model that retrieves nothing."""
    image, text = _features()
    scale = 7.0
    expected = 0.0
    for a, b in ((image, text), (text, image)):
        for i in range(B):
            logits = [scale * float(a[i] @ b[j]) for j in range(B)]
            expected -= (logits[i] - math.log(sum(math.exp(x) for x in logits))) / (2 * B)
    assert contrastive_loss(image, text, torch.tensor(scale), RankInfo()).item() == pytest.approx(expected, abs=1e-6)


def _contrastive_gradient(ranks: RankInfo) -> tuple[float, list[list[float]], list[list[float]], float]:
    return _gradient(ranks, lambda image, text, scale: contrastive_loss(image, text, scale, ranks))


def _gradient(
    ranks: RankInfo, loss_of: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[float, list[list[float]], list[list[float]], float]:
    """Loss, gradients of this rank's features and of the scale, each as the mean over ranks would leave it."""
    image, text = (x.chunk(ranks.world)[ranks.rank].clone().requires_grad_() for x in _features())
    scale = torch.tensor(5.0, requires_grad=True)
    loss = loss_of(image, text, scale) / ranks.world
    loss.backward()
    assert image.grad is not None
    assert text.grad is not None
    assert scale.grad is not None
    return loss.item(), image.grad.tolist(), text.grad.tolist(), scale.grad.item()


@pytest.mark.parametrize("world", [2, 4])
def test_contrastive_gradient_over_ranks_is_that_of_one_process(world: int) -> None:
    """Negatives of other ranks without their gradient would train another loss than the recipe states."""
    (loss, image, text, scale) = _contrastive_gradient(RankInfo())
    parts = run_ranks(_contrastive_gradient, world)
    assert sum(p[0] for p in parts) == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(
        torch.tensor([r for p in parts for r in p[1]]), torch.tensor(image), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(torch.tensor([r for p in parts for r in p[2]]), torch.tensor(text), atol=1e-6, rtol=1e-5)
    assert sum(p[3] for p in parts) == pytest.approx(scale, abs=1e-6)


def test_triplet_hinge_is_dreamsims() -> None:
    """A flipped sign would teach the opposite of what people said."""
    left, right = torch.tensor([0.30, 0.10, 0.20]), torch.tensor([0.10, 0.30, 0.18])
    votes = torch.tensor([1.0, 1.0, 0.9])
    rows = [max(0.0, 0.05 - 1 * (a - b)) for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    assert triplet_hinge(left, right, votes, 0.05).item() == pytest.approx(sum(rows) / 3, abs=1e-7)
    flipped = triplet_hinge(right, left, 1 - votes, 0.05)
    assert flipped.item() == pytest.approx(sum(rows) / 3, abs=1e-7)


def test_two_afc_counts_shares_and_half_for_ties() -> None:
    """The score would not be comparable with published 2AFC figures."""
    d0, d1 = torch.tensor([0.1, 0.4, 0.2]), torch.tensor([0.3, 0.2, 0.2])
    p = torch.tensor([0.25, 1.0, 0.9])
    expected = ((d0 < d1) * (1 - p) + (d1 < d0) * p + 0.5 * (d0 == d1)).mean()
    assert two_afc(d0, d1, p).item() == pytest.approx(expected.item(), abs=1e-7)


def test_cosine_distance_spans_zero_to_two() -> None:
    """Distances of another range would make the margin mean something else."""
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert cosine_distance(a, b).tolist() == pytest.approx([0.0, 1.0, 2.0])


def test_the_contrastive_loss_is_fp32_under_autocast() -> None:
    """Logits of 100 times a cosine would be rounded to 0.5: the products of bf16 features are taken in fp32."""
    image, text = (features.float() for features in _features())
    scale = torch.tensor(100.0)
    exact = contrastive_loss(image, text, scale, RankInfo())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = contrastive_loss(image, text, scale, RankInfo())
    assert rounded.dtype == torch.float32
    assert rounded == exact


PROMPTS = [0, 1, 0, 2, 1, 0, 3, 3]  # of the B rows: on one of two ranks, on both, on one once


def _tokens(prompts: list[int]) -> Tensor:
    """(B, 5): prompts differ in their third token alone."""
    tokens = torch.full((len(prompts), 5), 9)
    tokens[:, 2] = torch.tensor(prompts)
    return tokens


def _plain_prompt_loss(image: Tensor, text: Tensor, prompts: list[int], scale: Tensor) -> Tensor:
    """UniCL, term by term: the mean over rows and directions of the mean over what is right of -log softmax."""
    rows = range(len(prompts))
    terms = []
    for a, b in ((image, text), (text, image)):
        for i in rows:
            total = torch.stack([(scale * (a[i] @ b[j])).exp() for j in rows]).sum().log()
            right = [j for j in rows if prompts[j] == prompts[i]]
            terms.append(torch.stack([total - scale * (a[i] @ b[j]) for j in right]).mean())
    return torch.stack(terms).mean()


def test_all_rows_of_one_prompt_are_right() -> None:
    """Triplets of one prompt would push each other's text away, though it is the same text."""
    found: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    for losses, compute in (
        (found, lambda i, t, s: prompt_contrastive_loss(i, t, _tokens(PROMPTS), s, RankInfo())),
        (wanted, lambda i, t, s: _plain_prompt_loss(i, t, PROMPTS, s)),
    ):
        leaves = [x.clone().requires_grad_() for x in (*_features(), torch.tensor(7.0, dtype=torch.float64))]
        loss = compute(*leaves)
        losses.extend([loss.detach().double(), *torch.autograd.grad(loss, leaves)])
    for ours, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-5)


def test_different_prompts_make_it_the_contrastive_loss() -> None:
    """A run on a text for every image would be trained by another loss than CLIP's."""
    image, text = _features()
    scale = torch.tensor(30.0)
    found = prompt_contrastive_loss(image, text, _tokens(list(range(B))), scale, RankInfo())
    assert found.item() == pytest.approx(contrastive_loss(image, text, scale, RankInfo()).item(), rel=1e-6)
    assert found.item() != pytest.approx(_plain_prompt_loss(image, text, PROMPTS, scale).item(), rel=1e-2)


def test_a_batch_of_one_prompt_teaches_no_text_from_another() -> None:
    """All texts are right for all images: the loss is least where the scores are equal, log B, not at 0."""
    image, text = _features()[0], torch.ones(B, D, dtype=torch.float64) / D**0.5
    image = image - image @ text[:1].T * text[:1]  # every score is 0
    loss = prompt_contrastive_loss(image, text, _tokens([4] * B), torch.tensor(50.0), RankInfo())
    assert loss.item() == pytest.approx(math.log(B), abs=1e-5)


def _prompt_gradient(ranks: RankInfo) -> tuple[float, list[list[float]], list[list[float]], float]:
    tokens = _tokens(PROMPTS).chunk(ranks.world)[ranks.rank]
    return _gradient(ranks, lambda image, text, scale: prompt_contrastive_loss(image, text, tokens, scale, ranks))


@pytest.mark.parametrize("world", [2, 4])
def test_prompts_of_other_ranks_count_as_right(world: int) -> None:
    """A prompt on another rank would be taken for a wrong one: the loss would depend on the number of ranks."""
    (loss, image, text, scale) = _prompt_gradient(RankInfo())
    parts = run_ranks(_prompt_gradient, world)
    assert sum(p[0] for p in parts) == pytest.approx(loss, abs=1e-6)
    for place, whole in ((1, image), (2, text)):
        rows = torch.tensor([row for part in parts for row in part[place]])
        torch.testing.assert_close(rows, torch.tensor(whole), atol=1e-6, rtol=1e-5)
    assert sum(p[3] for p in parts) == pytest.approx(scale, abs=1e-6)


def test_the_loss_of_prompts_is_fp32_under_autocast() -> None:
    """Logits of 100 times a cosine would be rounded to 0.5."""
    image, text = (features.float() for features in _features())
    exact = prompt_contrastive_loss(image, text, _tokens(PROMPTS), torch.tensor(100.0), RankInfo())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = prompt_contrastive_loss(image, text, _tokens(PROMPTS), torch.tensor(100.0), RankInfo())
    assert rounded.dtype == torch.float32
    assert rounded == exact
