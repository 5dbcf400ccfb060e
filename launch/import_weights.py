"""pineco weights import timm:NAME FILE OUT: published weights as safetensors that recipes start from.

FILE is a .pth, .pt, .bin or .safetensors: of DINO, DINOv2, SynCLR, timm, or a CLIP of OpenAI or open_clip, of which the
image tower is taken. Only tensors are read; a file that holds code is refused. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pineco.data_pipeline.files import user_path


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pineco weights import",
        description="Convert published weights to safetensors that recipes start from. Only tensors are read; a file "
        "that holds code is refused. Nothing is downloaded.",
    )
    parser.add_argument("model", metavar="timm:NAME", help="the model, such as timm:vit_small_patch14_reg4_dinov2")
    parser.add_argument("file", type=user_path, metavar="FILE", help="the published file, on this machine")
    parser.add_argument(
        "out", type=user_path, metavar="OUT", help="*.safetensors, or a folder that stock timm loads too"
    )
    parser.add_argument(
        "--pixels",
        choices=("imagenet", "clip", "inception"),
        help="how pixels are normalised, for a folder (default: as timm says of NAME; SynCLR's files want clip)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for what the user can mend."""
    options = parse_arguments(arguments)
    from pineco.pretrain.models.import_weights import (  # imports torch, which --help does not need
        describe,
        import_weights,
    )

    found = import_weights(options.model, options.file, options.out, options.pixels)
    print("\n".join(describe(options.model, options.file, options.out, found)))
    return 0
