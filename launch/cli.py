"""pineco COMMAND ...: the one command line. Each command is imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pineco import __version__
from pineco.data_pipeline.hints import did_you_mean
from pineco.launch.exits import BAD_INPUT, exit_code


class Command(NamedTuple):
    """`main` is "module:function" below `pineco`; the function takes the words after the command's name."""

    main: str
    help: str


COMMANDS = {
    "train": Command("launch.train.run:main", "train a recipe on this machine, evaluate its checkpoints, report"),
    "submit": Command("launch.submit.submit:main", "train a recipe on a SLURM cluster"),
    "sweep": Command("launch.submit.sweep:main", "submit an array of runs, one per combination of settings"),
    "plan": Command("launch.plan.plan:main", "memory, speed, hours and cost of a run before it is submitted"),
    "status": Command("launch.status.command:main", "list runs with state, step, loss and time left"),
    "logs": Command("launch.status.logs:main", "follow the log of a run"),
    "stop": Command("launch.submit.control:stop_main", "save a run on a cluster and end it"),
    "resume": Command("launch.submit.control:resume_main", "submit a run again from its newest checkpoint"),
    "eval zeroshot": Command("launch.evaluate.zeroshot:main", "zero-shot classification and retrieval of a model"),
    "eval segmentation": Command(
        "launch.evaluate.segmentation:main", "in-context or linear segmentation with its patches"
    ),
    "eval triplets": Command("launch.evaluate.triplets:main", "agreement with human similarity judgements (2AFC)"),
    "eval probe": Command("launch.evaluate.probe:main", "compare the features of several models (CKA, RSA)"),
    "compare": Command("launch.evaluate.compare:main", "compare runs or reports image by image"),
    "data prepare": Command("data_pipeline.prepare.command:main", "turn a data set into indexed webdataset shards"),
    "data index": Command("data_pipeline.index.command:main", "index webdataset shards, or check them"),
    "data toy": Command("data_pipeline.prepare.toy_command:main", "write the toy world"),
    "weights import": Command("launch.import_weights:main", "convert published weights to safetensors"),
    "recipes": Command("launch.recipes:main", "list the recipes, or explain every setting of one"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(f"pineco {__version__}")
        return 0
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    if name is not None:
        return exit_code(lambda: _load(COMMANDS[name])(words[len(name.split()) :]))
    if len(words) > 1 and words[1] in ("-h", "--help") and _members(words[0]):
        print(usage(_members(words[0])))
        return 0
    print(f"pineco: {_unknown(words)}", file=sys.stderr)
    return BAD_INPUT


def usage(names: Sequence[str] = tuple(COMMANDS)) -> str:
    """Return the list of commands with one line each."""
    width = max(len(name) for name in names)
    lines = [f"  {name:{width}}  {COMMANDS[name].help}" for name in names]
    return "\n".join(
        [
            "usage: pineco COMMAND ...",
            "",
            "Pretrain vision encoders that see as people do.",
            "",
            *lines,
            "",
            "pineco COMMAND --help explains a command, pineco recipes NAME the settings of a recipe.",
            "pineco --version prints the version.",
        ]
    )


def _load(command: Command) -> Callable[[Sequence[str]], int]:
    module, function = command.main.split(":")
    loaded: Callable[[Sequence[str]], int] = getattr(importlib.import_module(f"pineco.{module}"), function)
    return loaded


def _members(group: str) -> list[str]:
    return [name for name in COMMANDS if name.split()[0] == group]


def _unknown(words: Sequence[str]) -> str:
    if members := [name.split()[1] for name in _members(words[0])]:
        hint = did_you_mean(words[1], members) if len(words) > 1 else ""
        return f"{words[0]} needs one of: {', '.join(members)}{hint or ';'} see pineco {words[0]} --help"
    hint = did_you_mean(words[0], [name.split()[0] for name in COMMANDS])
    return f"no command {words[0]!r}{hint or ';'} see pineco --help"
