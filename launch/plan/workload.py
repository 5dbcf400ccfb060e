"""What an objective makes of a sample: images, FLOPs, bytes and parameters, whatever the number of ranks. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pineco.launch.plan.model_size import ModelSize, gathered_bytes, logit_bytes, model_size
from pineco.pretrain.recipe.objectives import PerceptualInitSettings
from pineco.pretrain.recipe.settings import Recipe

IMAGES = 3  # of a triplet
_THERE_AND_BACK = "2 (there and back) x 2 B d 4"


class Amount(NamedTuple):
    """Bytes or FLOPs, and how they are counted."""

    what: str
    value: float
    formula: str


def _nothing(micro: int, ranks: int) -> list[Amount]:
    return []


@dataclass(frozen=True)
class Work:
    """One objective with its model. FLOPs, bytes and seconds are of one sample where nothing else is said."""

    images: int  # that are decoded
    exported: int  # parameters of the model that a checkpoint exports
    parameters: int  # of that model and of what is trained beside it
    trained: int  # of these, those that have gradients
    flops: float  # forward and backward, of everything
    flops_formula: str
    activations: int  # bytes at the peak, that grow with the micro-batch
    parts: tuple[Amount, ...] = ()  # of `flops`, where they are worth a line each
    memory: Callable[[int, int], list[Amount]] = _nothing  # (micro-batch of a rank, ranks) -> more bytes of a rank
    gathered: Amount | None = None  # bytes of each sample that every node gets in a micro-batch
    kept: Amount | None = None  # bytes of a checkpoint beside weights and moments
    core_seconds: float | None = None  # of one core; None: those of decoding the images
    core_formula: str = ""
    saving: str = ""  # a setting that saves memory, and changes no number


def clip_work(recipe: Recipe) -> Work:
    """Both towers on one pair; the loss is over the micro-batch of all ranks."""
    size = model_size(recipe.model)
    return Work(
        images=1,
        exported=size.parameters,
        parameters=size.parameters,
        trained=size.parameters,
        flops=3 * size.flops,
        flops_formula=f"(3 x {size.flops / 1e9:.2f} GFLOP)",
        activations=size.activation_bytes(recipe.engine.precision),
        memory=lambda micro, ranks: _contrastive_memory(size, micro, ranks),
        gathered=Amount("features a node", 2 * gathered_bytes(1, size.embed_dim), _THERE_AND_BACK),
    )


def triplet_work(recipe: Recipe) -> Work:
    """The image tower on three images; the text tower lies in memory, and is saved with it."""
    settings = recipe.objective
    assert isinstance(settings, PerceptualInitSettings)
    size = model_size(recipe.model)
    if settings.caption_weight > 0:
        return _captioned_work(recipe, size)
    flops = IMAGES * size.vision.flops
    return Work(
        images=IMAGES,
        exported=size.parameters,
        parameters=size.parameters,
        trained=size.vision.parameters,
        flops=3 * flops,
        flops_formula=f"(3 x {flops / 1e9:.2f} GFLOP)",
        activations=IMAGES * size.vision.activation_bytes(recipe.engine.precision),
    )


def _captioned_work(recipe: Recipe, size: ModelSize) -> Work:
    """Three images and a text, and a contrastive loss of references and prompts over the micro-batch of all ranks."""
    precision, flops = recipe.engine.precision, IMAGES * size.vision.flops + size.text.flops
    tokens = 8 * size.text.tokens

    def memory(micro: int, ranks: int) -> list[Amount]:
        batch = micro * ranks
        shares = Amount("captions that count as right", 8.0 * micro * batch, f"2 x 4 b B = 8 x {micro} x {batch}")
        return [*_contrastive_memory(size, micro, ranks), shares]

    return Work(
        images=IMAGES,
        exported=size.parameters,
        parameters=size.parameters,
        trained=size.parameters,
        flops=3 * flops,
        flops_formula=f"(3 x {flops / 1e9:.2f} GFLOP)",
        activations=IMAGES * size.vision.activation_bytes(precision) + size.text.activation_bytes(precision),
        memory=memory,
        gathered=Amount(
            "features a node", 2 * gathered_bytes(1, size.embed_dim) + tokens, f"({_THERE_AND_BACK} + {tokens} B)"
        ),
    )


def _contrastive_memory(size: ModelSize, micro: int, ranks: int) -> list[Amount]:
    batch, dimension = micro * ranks, size.embed_dim
    lines = []
    if ranks > 1:
        what = f"2 x 2 B d 4 = 16 x {batch} x {dimension}, with gradients"
        lines.append(Amount("gathered features", 2 * gathered_bytes(batch, dimension), what))
    return [*lines, Amount("logits", logit_bytes(micro, batch), f"2 x 3 x 4 b B = 24 x {micro} x {batch}")]
