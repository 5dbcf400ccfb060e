"""Teacher patches of the last steps, from which the references of the next ones are drawn; training state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pineco.data_pipeline.randomness import Stream, permutation


class PatchQueue(nn.Module):
    """One queue for each of two global crops, the newest patches first. Every draw is a pure function of integers.

    All ranks hold the same patches in the same order, so that what is drawn does not depend on their number.
    """

    patches: Tensor
    entries: Tensor

    def __init__(self, length: int, width: int, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self.register_buffer("patches", torch.zeros(2, length, width))
        self.register_buffer("entries", torch.zeros(2, dtype=torch.int64))

    def push(self, view: int, patches: Tensor) -> None:
        """patches: (n, D) of global crop `view`, from all ranks, in the order of the batch; the oldest ones go."""
        queue = self.patches[view]
        new = patches[: len(queue)].to(queue.dtype)
        self.patches[view] = torch.cat((new, queue[: len(queue) - len(new)]))
        self.entries[view] = (self.entries[view] + len(new)).clamp(max=len(queue))

    def draw(self, view: int, images: slice, *, each: int, of: int, key: tuple[int, int]) -> Tensor:
        """(images, each, D): references of a slice of the batch's `of` images; without replacement while it is full.

        key: two integers that no other draw has.
        """
        queue = self.patches[view]
        numbers = _shuffled(len(queue), of * each, self._seed, key).view(of, each)[images].to(queue.device)
        return queue[numbers % self.entries[view].clamp(min=1)]


def shuffled(patches: Tensor, wanted: int, seed: int, key: tuple[int, int]) -> Tensor:
    """(wanted, D): rows of (n, D) in a random order, again and again where there are fewer than wanted."""
    return patches[_shuffled(len(patches), wanted, seed, key).to(patches.device)]


def pick(
    patches: Tensor, images: slice, *, each: int, seed: int, key: tuple[int, int], counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Some of every image's (B, N, D) patches: (B * each, D), and (B * each,) bool, whether a patch counts.

    images: where these stand in the whole batch. counts: (B, N) bool; those that count are taken first.
    """
    rows = torch.stack([
        torch.from_numpy(permutation(patches.shape[1], seed, Stream.QUEUE, *key, image))
        for image in range(images.start, images.stop)
    ]).to(patches.device)  # fmt: skip
    if counts is None:
        counts = torch.ones_like(rows, dtype=torch.bool)
    first = counts.gather(1, rows).int().argsort(dim=1, descending=True, stable=True)
    numbers = rows.gather(1, first)[:, :each]
    chosen = patches.gather(1, numbers[..., None].expand(-1, -1, patches.shape[2]))
    return chosen.flatten(0, 1), counts.gather(1, numbers).flatten()


def _shuffled(n: int, wanted: int, seed: int, key: tuple[int, int]) -> Tensor:
    """(wanted,) int64 numbers below n: one permutation after the other."""
    rounds = range(-(-wanted // n))
    rows = [torch.from_numpy(permutation(n, seed, Stream.REFERENCES, *key, number)) for number in rounds]
    return torch.cat(rows)[:wanted]
