"""python -m tests.bench.record [RUN OUT.json]: a finished run as a record in results/, and the README's table of them.

With two arguments writes the record; always renders the block between the `results` marks of README.md anew, so that
no figure there is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.recipe.load import load_recipe

README, RESULTS, MARK = Path("README.md"), Path("results"), "<!-- results -->"


def record_run(run: Path) -> dict[str, Any]:
    """What a run directory says of itself: command, init, minutes from its first start to its last line, figures."""
    try:
        starts = [json.loads(line) for line in (run / "code.jsonl").read_text().splitlines()]
        reports = json.loads((run / "report.json").read_text())
        last = (run / "run.log").read_text().splitlines()[-1][:19]
    except (OSError, IndexError) as error:
        raise InputError(f"{run}: no finished run with a report ({error})") from None
    recipe = load_recipe(str(run / "recipe.yaml"))
    seconds = (datetime.fromisoformat(last + "+00:00") - datetime.fromisoformat(starts[0]["started"])).total_seconds()
    return {
        "recipe": recipe.name,
        "init": recipe.init,
        "command": " ".join(["pineco train", *starts[0]["command"][1:]]),
        "started": starts[0]["started"],
        "starts": len(starts),
        "minutes": round(seconds / 60, 1),
        "ranks": starts[0]["ranks"],
        "device": starts[0]["device"],
        "commit": starts[0]["commit"],
        "versions": starts[0]["versions"],
        "reports": reports,
    }


def results_table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row a run and benchmark, the last checkpoint's main metric with chance beside it."""
    lines = [
        "| recipe | init | benchmark | metric | value | chance | minutes | device | commit |",
        "|---|---|---|---|--:|--:|--:|---|---|",
    ]
    for record in records:
        for result in record["reports"][-1]["results"]:
            metric = result["main_metric"]
            value, chance = (f"{100 * result[of][metric]:.1f} %" for of in ("metrics", "chance"))
            cells = [record["recipe"], record["init"], result["task"], metric, value, chance]
            cells += [f"{record['minutes']:.1f}", record["device"], record["commit"][:10]]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def engine_line(record: dict[str, Any]) -> str:
    ratio = {kind: figure["median"] for kind, figure in record["ratio"].items()}
    return (
        f"A step through the trainer takes {ratio['deepspeed']:.2f} × a bare PyTorch loop with DeepSpeed, "
        f"{ratio['local']:.2f} × with the local engine (median of {record['rounds']} rounds, {record['hardware']}, "
        f"CPU fp32, commit {record['commit'][:10]}, `make bench-engine`)."
    )


def render(readme: str, results: Path) -> str:
    """The README with its results block made anew from the records."""
    before, _, after = readme.split(MARK)
    runs = [json.loads(path.read_text()) for path in sorted((results / "runs").glob("*.json"))]
    overhead = json.loads((results / "engine" / "overhead.json").read_text())
    return f"{before}{MARK}\n{results_table(runs)}\n\n{engine_line(overhead)}\n{MARK}{after}"


def main(arguments: Sequence[str]) -> int:
    try:
        if arguments:
            run, out = (Path(argument) for argument in arguments)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(record_run(run), indent=1) + "\n")
        README.write_text(render(README.read_text(), RESULTS))
    except InputError as error:
        print(f"pineco: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
