"""python -m pineco.kernels.aot: compile every kernel without a GPU, and refuse what would spill or not fit.

Each launch that a kernels/<op>/kernel.py names is compiled for every architecture of SHARED_LIMIT. The gate fails on
local memory, which is where registers spill to, and on more shared memory than a block gets. Writes
results/kernels/aot.json.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from pineco.kernels.launches import Launch
from pineco.kernels.provenance import provenance

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block can have, by compute capability: CUDA programming guide
RESULT = Path("results/kernels/aot.json")


@dataclass(frozen=True)
class Compiled:
    """What the compiler says about one launch on one architecture."""

    op: str
    launch: str
    arch: int  # compute capability times 10
    registers: int  # a thread
    local: int  # bytes a thread of local memory: spilled registers, arrays that are indexed at run time
    spills: int  # loads from and stores to local memory in the machine code
    shared: int  # bytes a block
    instructions: int  # of machine code

    @property
    def complaint(self) -> str | None:
        """Why the gate refuses it, with a way out; None if it does not."""
        where = f"{self.op} {self.launch} on sm_{self.arch}"
        if self.local or self.spills:
            return (
                f"{where}: {self.local} bytes of local memory, {self.spills} spills; use smaller blocks or more warps"
            )
        limit = SHARED_LIMIT[self.arch]
        if self.shared > limit:
            return f"{where}: {self.shared} bytes of shared memory (limit {limit}); use smaller blocks or fewer stages"
        return None


def main() -> int:
    rows = compile_all(modules())
    print(table(rows))
    complaints = [row.complaint for row in rows if row.complaint]
    for complaint in complaints:
        print(f"pineco: {complaint}", file=sys.stderr)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    record = provenance() | {"launches": [asdict(row) for row in rows]}
    RESULT.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{len(rows)} compiled, {len(complaints)} refused; {RESULT}")
    return 1 if complaints else 0


def modules() -> list[str]:
    """Import names of the kernel.py of every op."""
    return [f"pineco.kernels.{path.parent.name}.kernel" for path in sorted(Path(__file__).parent.glob("*/kernel.py"))]


def compile_all(names: Iterable[str]) -> list[Compiled]:
    """Every launch of these modules on every architecture, sorted; in fresh processes, one for each core."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=fresh, initializer=_compile_for_real) as pool:
        todo = [(name, i, arch) for name, n in _counts(pool, names) for i in range(n) for arch in SHARED_LIMIT]
        rows = pool.map(_compile_one, *zip(*todo, strict=True)) if todo else ()
        return sorted(rows, key=lambda row: (row.op, row.launch, row.arch))


def _counts(pool: ProcessPoolExecutor, names: Iterable[str]) -> list[tuple[str, int]]:
    names = list(names)
    return list(zip(names, pool.map(_count, names), strict=True))


def _compile_for_real() -> None:
    """Before a worker imports a kernel: interpreted kernels cannot be compiled."""
    os.environ.pop("TRITON_INTERPRET", None)


def _count(module: str) -> int:
    return len(_launches(module))


def _launches(module: str) -> Sequence[Launch]:
    return importlib.import_module(module).launches()


def _compile_one(module: str, number: int, arch: int) -> Compiled:
    return compile_launch(_launches(module)[number], arch, op=module.split(".")[-2])


def compile_launch(launch: Launch, arch: int, op: str) -> Compiled:
    """Compile one launch for one architecture. Needs a process without TRITON_INTERPRET."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature = {name: "constexpr" if name in launch.constexprs else launch.signature[name] for name in names}
    aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or name in launch.aligned]
    source = ASTSource(
        launch.kernel,
        signature,
        {(names.index(name),): value for name, value in launch.constexprs.items()},
        {(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    done = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return Compiled(op, launch.name, arch, shared=done.metadata.shared, **_machine_code(done.asm["cubin"]))


def _machine_code(cubin: bytes) -> dict[str, int]:
    """Registers, local bytes, spills and instructions of a compiled kernel, as cuobjdump reports them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = _cuobjdump("-res-usage", file.name), _cuobjdump("-sass", file.name)
    used = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    operations = re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*)", code)
    return {
        "registers": used["REG"],
        "local": used["STACK"] + used["LOCAL"],
        "spills": sum(operation.split(".")[0] in ("LDL", "STL") for operation in operations),
        "instructions": len(operations),
    }


def _cuobjdump(*arguments: str) -> str:
    from triton import knobs

    command = [knobs.nvidia.cuobjdump.path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S603


def table(rows: Sequence[Compiled]) -> str:
    """One line a launch and architecture, for the terminal."""
    head = ("op", "launch", "arch", "registers", "local B", "spills", "shared B", "SASS")
    body = [
        (r.op, r.launch, f"sm_{r.arch}", r.registers, r.local, r.spills, r.shared, r.instructions) for r in rows
    ]  # fmt: skip
    widths = [max(len(str(line[i])) for line in (head, *body)) for i in range(len(head))]
    return "\n".join(
        "  ".join(str(x).ljust(w) for x, w in zip(line, widths, strict=True)).rstrip() for line in (head, *body)
    )


if __name__ == "__main__":
    sys.exit(main())
