"""python -m tests.bench.bare_forward: images and prompts of evaluation sets through stock open_clip, nothing else.

Images are decoded and texts made into tokens before a clock runs. Prints one line of JSON; `tests.bench.evals` starts
it as a process, so that importing and loading cost what they cost everyone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import open_clip
import torch
from torch import Tensor

from pineco.evals.data.datasets import Folder, decode, read_examples, resolve_tasks
from pineco.evals.models.short_text import ShortText


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    local = options.model.startswith("local-dir:")
    name, weights = (options.model, "") if local else options.model.split(":", 1)
    model, _, transform = open_clip.create_model_and_transforms(name, weights or None)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    loading = {"wall": time.time() - options.started, "cpu": time.process_time()}
    folders = [folder for _, folder in resolve_tasks(options.data, options.tasks)]
    images = [batch for folder in folders for batch in _images(folder, transform, options.batch_size)]
    texts = [batch for group in _texts(folders) for batch in _tokens(group, tokenizer, options.batch_size)]
    short = ShortText(model)
    found = {
        "loading": loading,
        "counts": {"images": sum(map(len, images)), "texts": sum(map(len, texts))},
        "image_tower": _seconds(model.encode_image, images),
        "short_texts": _seconds(short.encode, texts),
        "padded_texts": _seconds(model.encode_text, texts) if options.stock_texts else None,
    }
    print(json.dumps(found))
    return 0


def _images(folder: Folder, transform: Callable[..., Tensor], batch_size: int) -> Iterator[Tensor]:
    """Batches as the evaluation makes them: of one set each, the last one shorter."""
    pixels = [transform(decode(example)) for example in read_examples(folder)]
    for first in range(0, len(pixels), batch_size):
        yield torch.stack(pixels[first : first + batch_size])


def _texts(folders: Sequence[Folder]) -> Iterator[list[str]]:
    """Unique prompts of all sets together, then the unique captions of each; short ones first, as in the evaluation."""
    prompts = [text for folder in folders for of_class in folder.class_prompts() for text in of_class]
    yield sorted(dict.fromkeys(prompts), key=len)
    for folder in folders:
        captions = [text for example in read_examples(folder) for text in example.captions]
        yield sorted(dict.fromkeys(captions), key=len)


def _tokens(texts: list[str], tokenizer: Callable[[list[str]], Tensor], batch_size: int) -> Iterator[Tensor]:
    for first in range(0, len(texts), batch_size):
        yield tokenizer(texts[first : first + batch_size])


def _seconds(tower: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> dict[str, float]:
    """By the clock, and of all threads' computing."""
    started, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        for batch in batches:
            tower(batch)
    return {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bare_forward", description="Times the towers alone.")
    parser.add_argument("--model", required=True, help="NAME:FILE of weights, or local-dir:DIR")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--started", type=float, required=True, help="time at which the process was started")
    parser.add_argument("--stock-texts", action="store_true", help="also time texts with all of their padding")
    return parser


if __name__ == "__main__":
    sys.exit(main())
