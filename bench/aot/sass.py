"""Machine code, counted: the tools that Triton's wheel carries print it, this reads it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from triton import knobs

INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
LOADS, STORES = ("LDG", "LDGSTS"), ("STG",)
SPILLS = ("LDL", "STL")
# Tensor memory accelerator: copies of whole tiles.
BULK = ("UTMALDG", "UTMASTG", "UBLKCP", "UTMAREDG")
MATRIX = re.compile(r"^(HMMA|IMMA|DMMA|QMMA|OMMA|\w*GMMA|UTC\w*MMA)$")
# Hopper and later reserve the first kilobyte of each block's shared memory for the system.
RESERVED, RESERVING_SINCE = 1024, 90


class Code(NamedTuple):
    registers: int
    spilled: int  # bytes of stack and local memory of a thread
    static_shared: int
    instructions: int
    loads: dict[int, int]  # width in bytes: number of instructions
    stores: dict[int, int]
    bulk: int
    matrix: dict[str, int]
    shared_accesses: int
    barriers: int
    shuffles: int


def disassemble(cubin: bytes, arch: int) -> Code:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _output(knobs.nvidia.cuobjdump.path, "-res-usage", path)
        code = _output(knobs.nvidia.nvdisasm.path, "-c", "-ndf", path)
    return count(usage, code, arch)


def count(usage: str, code: str, arch: int) -> Code:
    """Args: what ``cuobjdump -res-usage`` and ``nvdisasm -c`` print."""
    registers, stack, shared, local = map(int, USAGE.search(usage).groups())
    # Trap loops and padding behind the end of the kernel are no code of ours.
    names = [name for name in INSTRUCTION.findall(code) if name != "NOP"]
    heads = [name.split(".")[0] for name in names]
    spills = sum(head in SPILLS for head in heads)
    return Code(
        registers=registers,
        # Older assemblers may report a stack of 0 beside spills.
        spilled=max(stack + local, 4 * spills),
        static_shared=max(0, shared - RESERVED) if arch >= RESERVING_SINCE else shared,
        instructions=len(names),
        loads=_widths(n for n, head in zip(names, heads, strict=True) if head in LOADS),
        stores=_widths(n for n, head in zip(names, heads, strict=True) if head in STORES),
        bulk=sum(head in BULK for head in heads),
        matrix=dict(Counter(head for head in heads if MATRIX.match(head))),
        shared_accesses=sum(head in ("LDS", "STS", "LDSM", "STSM") for head in heads),
        barriers=heads.count("BAR"),
        shuffles=heads.count("SHFL"),
    )


def width(name: str) -> int:
    """Bytes of one thread's access: ``LDG.E.128`` has 16."""
    parts = name.split(".")
    for part in parts[1:]:
        if part in ("U8", "S8"):
            return 1
        if part in ("U16", "S16"):
            return 2
        if part in ("64", "128", "256"):
            return int(part) // 8
    return 4


def _widths(names) -> dict[int, int]:
    return dict(sorted(Counter(map(width, names)).items()))


def _output(*command) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout
