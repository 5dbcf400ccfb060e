"""Losses as pure functions of features. NeCo's, which sorts, is `kernels.neco_loss`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pineco.pretrain.distributed import RankInfo, gather_with_grad


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, ranks: RankInfo) -> Tensor:
    """Symmetric cross-entropy of CLIP (Radford et al. 2021, figure 3) over the batch of all ranks; a scalar.

    image, text: (B, D) L2-normalised, one row a pair, same order. scale: exp of the learned logit scale.
    Each rank scores its own B rows against the columns of all ranks, so memory is B x (world * B), and the mean over
    ranks of this loss, gradient included, equals the loss of one process with the whole batch.
    """
    labels = torch.arange(len(image), device=image.device) + ranks.rank * len(image)
    return _both_ways(image, text, labels, scale, ranks)


def prompt_contrastive_loss(
    image: Tensor, text: Tensor, prompt_tokens: Tensor, scale: Tensor, ranks: RankInfo
) -> Tensor:
    """`contrastive_loss` where several pairs may have one text, as triplets have that were made from one prompt.

    Every row of the batch of all ranks whose prompt_tokens, (B, L) int64, are the same counts as right, and the
    probability is shared equally among them (UniCL, Yang et al. 2022, arXiv 2204.03610). Where all prompts differ it
    is `contrastive_loss`.
    """
    every = gather_with_grad(prompt_tokens, ranks)  # integers: the same gather, and no gradient comes back
    number = torch.unique(every, dim=0, return_inverse=True)[1]
    own = number[ranks.rank * len(image) : (ranks.rank + 1) * len(image)]
    same = (own[:, None] == number[None]).float()
    return _both_ways(image, text, same / same.sum(dim=1, keepdim=True), scale, ranks)


def _both_ways(image: Tensor, text: Tensor, targets: Tensor, scale: Tensor, ranks: RankInfo) -> Tensor:
    """Mean of both directions' cross-entropy; targets: (B,) numbers of columns, or (B, world * B) probabilities."""
    with torch.autocast(image.device.type, enabled=False):  # else the products would be bf16, whatever goes in
        image, text = image.float(), text.float()
        every_image, every_text = gather_with_grad(image, ranks), gather_with_grad(text, ranks)
        by_image = F.cross_entropy(scale * image @ every_text.T, targets)
        by_text = F.cross_entropy(scale * text @ every_image.T, targets)
        return (by_image + by_text) / 2


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of rows, in [0, 2]: (B, D), (B, D) -> (B,)."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1)


def triplet_hinge(left: Tensor, right: Tensor, right_vote: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin - y (d_left - d_right)); a scalar (DreamSim, Fu et al. 2023, section 4.1).

    left, right: (B,) distances to the reference. right_vote: (B,) share of voters for the right image; y is +1
    where it is above one half, else -1.
    """
    y = torch.where(right_vote > 0.5, 1.0, -1.0)
    return F.relu(margin - y * (left - right)).mean()


def two_afc(left: Tensor, right: Tensor, right_vote: Tensor) -> Tensor:
    """Two-alternative forced choice score, a scalar in [0, 1]: the mean share of voters who chose as the distances do.

    A tie of the distances counts one half.
    """
    chosen = torch.where(left < right, 1 - right_vote, right_vote)
    return torch.where(left == right, 0.5, chosen).mean()
