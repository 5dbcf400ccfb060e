"""One image-text pair: KEY.jpg|png|webp, KEY.txt, KEY.json."""

from __future__ import annotations

from collections.abc import Mapping

from pineco.data_pipeline.prepare.outcome import Kept
from pineco.data_pipeline.prepare.samples.images import ImageRules, check_image

SOURCE = "source_path"  # field of the json: shard and key, or path, that a sample was made from


def make_pair(image: bytes, caption: str, metadata: Mapping[str, object], source: str, rules: ImageRules) -> Kept:
    """source: where it came from, which the json keeps. Raises RejectError for an image that cannot be used."""
    checked = check_image(image, rules)
    fields = {SOURCE: source} | dict(metadata) | {SOURCE: source}
    if checked.size is not None:
        fields |= dict(zip(("width", "height"), checked.size, strict=True))
    return Kept({checked.extension: checked.data, "txt": caption.encode()}, fields)
