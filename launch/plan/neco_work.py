"""What NeCo makes of an image: a student sees all views, a teacher the global ones, and each pair has a loss."""

from __future__ import annotations

from pineco.launch.plan.model_size import millions
from pineco.launch.plan.neco_loss_size import COMPARATOR, comparators, scratch_bytes
from pineco.launch.plan.neco_size import GLOBALS, NecoSize, neco_size
from pineco.launch.plan.workload import Amount, Work
from pineco.pretrain.recipe.data import MultiCropSettings
from pineco.pretrain.recipe.settings import Recipe

# (pixels of all views of an image, seconds of one core) for a photo of 500 x 375, from
# data_pipeline/images/multicrop.py; the first is the middle of its 4.5 to 5 ms.
MEASURED = ((2 * 224**2 + 4 * 98**2, 0.00475), (2 * 518**2 + 4 * 98**2, 0.015))


def neco_work(recipe: Recipe) -> Work:
    """Raises InputError where the views do not fit the backbone, NoEstimateError where no formula knows it."""
    size = neco_size(recipe)
    parts = _flops(size)
    return Work(
        images=1,
        exported=size.model,
        parameters=size.model + size.head,
        trained=size.trained,
        flops=sum(part.value for part in parts),
        flops_formula=f"{sum(part.value for part in parts) / 1e9:.2f} GFLOP",
        activations=size.activation_bytes,
        parts=parts,
        memory=lambda micro, ranks: _memory(size, micro, ranks),
        gathered=_gathered(size),
        kept=_kept(size),
        core_seconds=core_seconds(size.data),
        core_formula=_core_formula(size.data),
        saving="" if size.settings.checkpointing else "objective.checkpointing=true",
    )


def _flops(size: NecoSize) -> tuple[Amount, ...]:
    forward, layers, data, s = size.forward, size.layers_forward, size.data, size.settings
    student, words = 3 * forward, f"3 x {_giga(forward)}"
    if not size.whole:
        student, words = forward + 2 * layers, f"{_giga(forward)} + 2 x {_giga(layers)} of {size.layers} layers"
    if s.checkpointing:
        student, words = student + layers, f"{words} + {_giga(layers)} again, for checkpointing"
    views = f"{GLOBALS} x {data.global_size} and {data.local_crops} x {data.local_size} px"
    patches = f"(3 x {size.patches} patches, and {size.global_patches} of the teacher)"
    wires = comparators(s.network, size.aligned)
    each = f"{COMPARATOR} x {wires} comparators + 6 x {s.head_width}"
    sorts = f"{size.pairs} pairs x {size.aligned} patches x {size.aligned} references x ({each})"
    return (
        Amount("student", student, f"{words}, {views}"),
        Amount("teacher", size.teacher_forward, f"{GLOBALS} x {_giga(size.views[0][1].flops)}, forward"),
        Amount("heads", size.head_flops, f"{size.head_patch / 1e6:.2f} MFLOP x {patches}"),
        Amount("sorts and similarities", size.loss_flops, sorts),
    )


def _memory(size: NecoSize, micro: int, ranks: int) -> list[Amount]:
    """The kernels' scratch is needed for one pair at a time, the rest for all pairs until the backward pass."""
    s, pairs, n = size.settings, size.pairs, size.aligned
    images = micro if s.references == "queue" else micro * ranks
    vector = 4.0 * pairs * n * s.head_width  # bytes of an image's patches in all pairs
    words = f"{pairs} pairs x 4 x {n} x {s.head_width}"
    scratch = scratch_bytes(s.network, micro * n, n)
    loss = f"{pairs} pairs x 2 x 4 b N^2 = {8 * pairs} x {micro} x {n}^2, and {scratch / 1e6:.1f} MB to sort a pair"
    return [
        *_teacher(size),
        Amount("queue", _queue_bytes(size), f"2 x 4 queue D = 8 x {s.queue} x {s.head_width}"),
        Amount("patches of pairs", micro * vector, f"{words} x b = {micro}"),
        Amount("references", images * vector, f"{words} x {images} images"),
        Amount("loss", 8.0 * pairs * micro * n * n + scratch, loss),
    ]


def _teacher(size: NecoSize) -> list[Amount]:
    if not size.settings.teacher:
        return []
    parameters = size.model + size.head
    return [Amount("teacher's weights", 4.0 * parameters, f"4 x {millions(parameters)}, model and head")]


def _kept(size: NecoSize) -> Amount:
    parts = [*(part.formula for part in _teacher(size)), f"a queue of {_queue_bytes(size) / 1e6:.1f} MB"]
    value = sum(part.value for part in _teacher(size)) + _queue_bytes(size)
    return Amount("teacher and queue", value, " + ".join(parts))


def _queue_bytes(size: NecoSize) -> int:
    return GLOBALS * 4 * size.settings.queue * size.settings.head_width


def _gathered(size: NecoSize) -> Amount:
    """Teacher patches for the queue of all ranks, or all of a batch where references are drawn from it."""
    s, width = size.settings, size.settings.head_width
    if s.references == "queue":
        return Amount("patches a node", 4.0 * GLOBALS * s.pushed * width, f"2 crops x {s.pushed} B D 4, D = {width}")
    each = 4.0 * size.pairs * size.aligned * width
    return Amount("patches a node", each, f"{size.pairs} pairs x {size.aligned} B D 4, D = {width}")


def core_seconds(data: MultiCropSettings) -> float:
    """Seconds of one core to decode a photo of 500 x 375 and make its views: a line through MEASURED.

    A fixed part for the photo, and as much for every pixel of a view.
    """
    fixed, pixel = _core_line()
    return fixed + pixel * _pixels(data)


def _core_formula(data: MultiCropSettings) -> str:
    fixed, pixel = _core_line()
    return f"{1e3 * fixed:.2f} ms + {_pixels(data)} pixels x {1e9 * pixel:.1f} ns, a line through 2 measurements"


def _core_line() -> tuple[float, float]:
    (few, short), (many, long) = MEASURED
    pixel = (long - short) / (many - few)
    return short - pixel * few, pixel


def _pixels(data: MultiCropSettings) -> int:
    return GLOBALS * data.global_size**2 + data.local_crops * data.local_size**2


def _giga(flops: float) -> str:
    return f"{flops / 1e9:.2f} GFLOP"
