"""Compile a recorded launch, and count what became of it, in PTX and in machine code.

The tools that Triton's wheel carries print the machine code. It does not tell which argument an
access goes through: pointers sit in registers. PTX does: a 64-bit register computed from a pointer
argument keeps belonging to it through additions, selections and loop variables. Values that were
loaded are no pointers, so that the chain ends at a load.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from .record import Launch

# A multiprocessor of sm_80, sm_90 and sm_100 alike.
REGISTERS, THREADS, BLOCKS = 65536, 2048, 32
SHARED = {80: 164, 90: 228, 100: 228}  # KiB
# Every block takes a kilobyte of shared memory more than it asks for, which Hopper and later count
# among the block's own.
RESERVED, RESERVING_SINCE = 1024, 90

SASS = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);|^(\.L_\w+):", re.MULTILINE
)
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
LOADS, STORES = ("LDG", "LDGSTS"), ("STG",)
SPILLS = ("LDL", "STL")
# Tensor memory accelerator: copies of whole tiles.
BULK = ("UTMALDG", "UTMASTG", "UBLKCP", "UTMAREDG")
MATRIX = re.compile(r"^(HMMA|IMMA|DMMA|QMMA|OMMA|\w*GMMA|UTC\w*MMA)$")
SASS_REGISTER = re.compile(r"\bR(\d+)\b")
TARGET = re.compile(r"\((\.L_\w+)\)")

PTX = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)\s+(.*?);", re.MULTILINE)
PARAMETER = re.compile(r"\w+_param_(\d+)")
PTX_REGISTER = re.compile(r"%rd\d+")
ACCESS = re.compile(r"^(ld|st|red|atom)\.(?:[\w:]+\.)*?global\b")
VECTOR_TYPE = re.compile(r"(?:\.v([248]))?\.[bsuf](8|16|32|64|128)$")
BULK_WIDTH = 128  # what we call the width of a copy of a whole tile


@dataclass(frozen=True)
class Measurement:
    kernel: str
    case: str
    arch: int
    warps: int
    shared: int  # bytes of a block, static and dynamic
    conversions: int  # changes of layout in Triton's own code; most go through shared memory
    code: Code
    # Argument: widths of its accesses in bytes, narrowest first.
    widths: dict[str, tuple[int, ...]]
    wanted: dict[str, int]  # argument: width that its layout allows

    @property
    def key(self) -> str:
        return f"{self.kernel}: {self.case}"

    @property
    def narrowest(self) -> int | None:
        """Of all accesses to activations, in bytes; None without any."""
        return min(
            (self.widths[name][0] for name in self.wanted if name in self.widths), default=None
        )

    @property
    def narrow(self) -> dict[str, int]:
        """Activations accessed in smaller pieces than their layout allows, and the narrowest."""
        return {
            name: self.widths[name][0]
            for name, wanted in self.wanted.items()
            if name in self.widths and self.widths[name][0] < wanted
        }

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor holds at once."""
        threads = 32 * self.warps
        registers = -(-self.code.registers // 8) * 8 * threads
        shared = self.shared + RESERVED
        return min(
            REGISTERS // registers, SHARED[self.arch] * 1024 // shared, THREADS // threads, BLOCKS
        )

    @property
    def occupancy(self) -> float:
        """Share of a multiprocessor's threads that can be resident at once."""
        return self.blocks * 32 * self.warps / THREADS

    @property
    def in_flight(self) -> int:
        """Bytes of loads that a multiprocessor can have under way at once: an estimate."""
        return self.code.in_flight * 32 * self.warps * self.blocks


def compiled(launch: Launch, arch: int) -> CompiledKernel:
    """Compiled for an architecture, such as 90. Triton's cache on disk is used."""
    source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
    target = GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options=dict(launch.options))


def measure(launch: Launch, arch: int, case: str) -> Measurement:
    """Compile for an architecture and read the result."""
    kernel = compiled(launch, arch)
    code = disassemble(kernel.asm["cubin"], arch)
    return Measurement(
        kernel=launch.kernel,
        case=case,
        arch=arch,
        warps=kernel.metadata.num_warps,
        shared=kernel.metadata.shared + code.static_shared,
        conversions=kernel.asm["ttgir"].count("ttg.convert_layout"),
        code=code,
        widths=argument_widths(kernel.asm["ptx"], launch.parameters),
        wanted=launch.widths,
    )


class Code(NamedTuple):
    """Machine code, counted."""

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
    in_flight: int  # bytes of loads that a thread has under way at most


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
    names = [name for name, _, _ in SASS.findall(code) if name not in ("", "NOP")]
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
        in_flight=bytes_in_flight(code),
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


def bytes_in_flight(code: str) -> int:
    """Bytes of loads that a thread has issued and not yet waited for, at most.

    In loops, once they run: what comes before, such as per-channel vectors, is read once. Where no
    loop loads anything, in all of the code. Instructions are taken in their order, as if no branch
    were taken.
    """
    instructions: list[tuple[str, str]] = []
    labels, loops = {}, []
    for opcode, operands, label in SASS.findall(code):
        if label:
            labels[label] = len(instructions)
            continue
        target = TARGET.search(operands)
        if opcode.startswith("BRA") and target and target[1] in labels:
            loops.append(instructions[labels[target[1]] :])
        instructions.append((opcode, operands))
    # As often as it takes to fill a pipeline of several stages.
    return max((_most_under_way(body * 4) for body in loops), default=0) or _most_under_way(
        instructions
    )


def _most_under_way(instructions: list[tuple[str, str]]) -> int:
    under_way: dict[int, int] = {}  # loads by number: bytes
    owners: dict[int, int] = {}  # register: the load that will fill it
    copies = [0]  # to shared memory, in bytes: groups in order, the last one still open
    most = 0
    for number, (opcode, operands) in enumerate(instructions):
        head = opcode.split(".")[0]
        registers = list(map(int, SASS_REGISTER.findall(operands)))
        # Whatever touches a register waits for the load that fills it.
        for register in registers:
            under_way.pop(owners.pop(register, None), None)
        if head == "LDG":
            under_way[number] = width(opcode)
            last = registers[0] + max(1, width(opcode) // 4)
            owners |= dict.fromkeys(range(registers[0], last), number)
        elif head == "LDGSTS":
            copies[-1] += width(opcode)
        elif head == "LDGDEPBAR":
            copies.append(0)
        elif head == "DEPBAR" and opcode.startswith("DEPBAR.LE"):
            copies = copies[-1 - int(operands.split(",")[1], 0) :]
        most = max(most, sum(under_way.values()) + sum(copies))
    return most


def _output(*command) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout


def argument_widths(code: str, parameters: list[str]) -> dict[str, tuple[int, ...]]:
    """Widths in bytes of the accesses through each argument. Scratch space has no name here."""
    widths: dict[str, set[int]] = {}
    for access in global_accesses(code):
        if access.parameter < len(parameters):
            widths.setdefault(parameters[access.parameter], set()).add(access.width)
    return {name: tuple(sorted(found)) for name, found in widths.items()}


class Access(NamedTuple):
    operation: str  # "load", "store" or "reduction"
    parameter: int
    width: int  # bytes of one thread's access


def global_accesses(ptx: str) -> list[Access]:
    """Every access to global memory in the code, in order; one entry for each argument it may
    go through."""
    instructions = PTX.findall(ptx)
    owners = _owners(instructions)
    found = []
    for opcode, operands in instructions:
        operation, width = _classify(opcode, operands)
        if operation is None:
            continue
        # A copy to shared memory names its destination first: take the 64-bit address.
        addresses = [
            r for a in re.findall(r"\[([^\]]*)\]", operands) for r in PTX_REGISTER.findall(a)
        ]
        parameters = set().union(*(owners[r] for r in addresses))
        if not parameters:
            raise RuntimeError(f"no argument found behind the address of: {opcode} {operands}")
        found += [Access(operation, p, width) for p in sorted(parameters)]
    return found


def _classify(opcode: str, operands: str) -> tuple[str | None, int]:
    if opcode.startswith("cp.async.bulk"):
        if "commit" in opcode or "wait" in opcode or "prefetch" in opcode:
            return None, 0
        return ("store" if ".global.shared" in opcode else "load"), BULK_WIDTH
    if opcode.startswith("cp.async.c") and ".shared.global" in opcode:
        return "load", int(operands.split("],")[-1].split(",")[0].strip(), 0)
    access = ACCESS.match(opcode)
    if not access:
        return None, 0
    count, bits = VECTOR_TYPE.search(opcode).groups()
    operation = {"ld": "load", "st": "store"}.get(access[1], "reduction")
    return operation, int(count or 1) * int(bits) // 8


def _owners(instructions: list[tuple[str, str]]) -> dict[str, set[int]]:
    """Of each 64-bit register, the numbers of the arguments that its value is computed from."""
    owners: dict[str, set[int]] = defaultdict(set)
    flows = []
    for opcode, operands in instructions:
        destination, _, sources = operands.partition(",")
        registers = PTX_REGISTER.findall(destination)
        if len(registers) != 1 or "[" in destination or opcode.startswith(("ld.global", "atom")):
            continue
        # Either a load of the argument, or its place, where the code chooses between arguments.
        owners[registers[0]].update(map(int, PARAMETER.findall(sources)))
        flows.append((registers[0], PTX_REGISTER.findall(sources)))
    changed = True
    while changed:  # once more than the longest chain through loop variables
        changed = False
        for destination, sources in flows:
            new = set().union(*(owners[s] for s in sources)) - owners[destination]
            owners[destination] |= new
            changed = changed or bool(new)
    return owners
