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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
# Tensor memory accelerator: copies of whole tiles.
BULK = ("UTMALDG", "UTMASTG", "UBLKCP", "UTMAREDG")
MATRIX = re.compile(r"^(HMMA|IMMA|DMMA|QMMA|OMMA|\w*GMMA|UTC\w*MMA)$")
SASS_REGISTER = re.compile(r"\bR(\d+)\b")
TARGET = re.compile(r"\((\.L_\w+)\)")
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}

PTX = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)\s+(.*?);", re.MULTILINE)
PARAMETER = re.compile(r"\w+_param_(\d+)")
PTX_REGISTER = re.compile(r"%rd\d+")
ACCESS = re.compile(r"^(?:ld|st|red|atom)\.(?:[\w:]+\.)*?global\b")
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
    code: dict[str, Any]  # machine code, counted
    # Argument: widths of its accesses in bytes, narrowest first.
    widths: dict[str, tuple[int, ...]]
    wanted: dict[str, int]  # argument: width that its layout allows

    @property
    def key(self) -> str:
        return f"{self.kernel}: {self.case}"

    @property
    def narrow(self) -> dict[str, int]:
        """Activations accessed in smaller pieces than their layout allows, and the narrowest."""
        least = self._least
        return {name: width for name, width in least.items() if width < self.wanted[name]}

    @property
    def _least(self) -> dict[str, int]:
        """Bytes of the narrowest access to each activation."""
        return {name: self.widths[name][0] for name in self.wanted if name in self.widths}

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor holds at once."""
        threads = 32 * self.warps
        registers = -(-self.code["registers"] // 8) * 8 * threads
        shared = SHARED[self.arch] * 1024 // (self.shared + RESERVED)
        return min(REGISTERS // registers, shared, THREADS // threads, BLOCKS)

    @property
    def occupancy(self) -> float:
        """Share of a multiprocessor's threads that can be resident at once."""
        return self.blocks * 32 * self.warps / THREADS

    @property
    def in_flight(self) -> int:
        """Bytes of loads that a multiprocessor can have under way at once: an estimate."""
        return self.code["in_flight"] * 32 * self.warps * self.blocks

    @property
    def figures(self) -> dict[str, Any]:
        """What tables and budgets tell."""
        return self.code | {
            "shared": self.shared,
            "blocks": self.blocks,
            "in_flight": self.in_flight,
            "narrow": len(self.narrow),
            "narrowest": min(self._least.values(), default=None),
            "LDS/STS": self.code["shared_accesses"],
            "conversions": self.conversions,
            "matrix": "+".join(sorted(self.code["matrix"])),
        }


def compiled(launch: Launch, arch: int) -> CompiledKernel:
    """Compiled for an architecture, such as 90. Triton's cache on disk is used."""
    source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
    target = GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options=dict(launch.options))


def measure(launch: Launch, arch: int, case: str) -> Measurement:
    """Compile for an architecture and read the result."""
    try:
        kernel = compiled(launch, arch)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.cubin"
            path.write_bytes(kernel.asm["cubin"])
            usage = _output(knobs.nvidia.cuobjdump.path, "-res-usage", path)
            code = count(usage, _output(knobs.nvidia.nvdisasm.path, "-c", "-ndf", path), arch)
        return Measurement(
            kernel=launch.kernel,
            case=case,
            arch=arch,
            warps=kernel.metadata.num_warps,
            shared=kernel.metadata.shared + code["static_shared"],
            conversions=kernel.asm["ttgir"].count("ttg.convert_layout"),
            code=code,
            widths=argument_widths(kernel.asm["ptx"], launch.parameters),
            wanted=launch.widths,
        )
    except Exception as error:
        error.add_note(f"while compiling {launch.kernel} for sm_{arch}: {case}")
        raise


def _output(*command) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout


def count(usage: str, code: str, arch: int) -> dict[str, Any]:
    """Machine code, as ``cuobjdump -res-usage`` and ``nvdisasm -c`` print it, counted."""
    registers, stack, shared, local = map(int, USAGE.search(usage).groups())
    # Trap loops and padding behind the end of the kernel are no code of ours.
    names = [name for name, _, _ in SASS.findall(code) if name not in ("", "NOP")]
    heads = Counter(map(head, names))

    def total(*wanted: str) -> int:
        return sum(heads[name] for name in wanted)

    def widths(*wanted: str) -> dict[int, int]:
        """Bytes of an access: number of instructions."""
        return dict(sorted(Counter(width(n) for n in names if head(n) in wanted).items()))

    return {
        "registers": registers,
        # Bytes of a thread. Older assemblers may report a stack of 0 beside spills.
        "spilled": max(stack + local, 4 * total("LDL", "STL")),
        "static_shared": max(0, shared - RESERVED) if arch >= RESERVING_SINCE else shared,
        "instructions": len(names),
        "loads": widths("LDG", "LDGSTS"),
        "stores": widths("STG"),
        "bulk": total(*BULK),
        "matrix": {name: number for name, number in heads.items() if MATRIX.match(name)},
        "shared_accesses": total("LDS", "STS", "LDSM", "STSM"),
        "barriers": heads["BAR"],
        "shuffles": heads["SHFL"],
        "in_flight": bytes_in_flight(code),
    }


def head(opcode: str) -> str:
    return opcode.partition(".")[0]


def width(opcode: str) -> int:
    """Bytes of one thread's access: ``LDG.E.128`` has 16."""
    return next((WIDTHS[part] for part in opcode.split(".") if part in WIDTHS), 4)


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
    in_loops = max((_most_under_way(body * 4) for body in loops), default=0)
    return in_loops or _most_under_way(instructions)


def _most_under_way(instructions: list[tuple[str, str]]) -> int:
    under_way: dict[int, int] = {}  # loads by number: bytes
    owners: dict[int, int] = {}  # register: the load that will fill it
    copies = [0]  # to shared memory, in bytes: groups in order, the last one still open
    most = 0
    for number, (opcode, operands) in enumerate(instructions):
        registers = list(map(int, SASS_REGISTER.findall(operands)))
        # Whatever touches a register waits for the load that fills it.
        for register in registers:
            under_way.pop(owners.pop(register, None), None)
        if head(opcode) == "LDG":
            under_way[number] = width(opcode)
            last = registers[0] + max(1, width(opcode) // 4)
            owners |= dict.fromkeys(range(registers[0], last), number)
        elif head(opcode) == "LDGSTS":
            copies[-1] += width(opcode)
        elif head(opcode) == "LDGDEPBAR":
            copies.append(0)
        elif opcode.startswith("DEPBAR.LE"):
            copies = copies[-1 - int(operands.split(",")[1], 0) :]
        most = max(most, sum(under_way.values()) + sum(copies))
    return most


def argument_widths(ptx: str, parameters: list[str]) -> dict[str, tuple[int, ...]]:
    """Widths in bytes of the accesses through each argument. Scratch space has no name here."""
    widths: dict[str, set[int]] = defaultdict(set)
    for parameter, bytes_ in global_accesses(ptx):
        if parameter < len(parameters):
            widths[parameters[parameter]].add(bytes_)
    return {name: tuple(sorted(found)) for name, found in widths.items()}


def global_accesses(ptx: str) -> Iterator[tuple[int, int]]:
    """An argument's number and the bytes of one thread's access, for every access to global memory
    in the code, in order, and for each argument that it may go through."""
    instructions = PTX.findall(ptx)
    owners = _owners(instructions)
    for opcode, operands in instructions:
        width = _global_width(opcode, operands)
        if width is None:
            continue
        # A copy to shared memory names its destination first: take the 64-bit address.
        addresses = PTX_REGISTER.findall(" ".join(re.findall(r"\[([^\]]*)\]", operands)))
        parameters = set().union(*(owners[register] for register in addresses))
        if not parameters:
            raise RuntimeError(f"no argument found behind the address of: {opcode} {operands}")
        for parameter in sorted(parameters):
            yield parameter, width


def _global_width(opcode: str, operands: str) -> int | None:
    """Of an instruction that accesses global memory; None of any other."""
    if opcode.startswith("cp.async.bulk"):
        waits = any(word in opcode for word in ("commit", "wait", "prefetch"))
        return None if waits else BULK_WIDTH
    if opcode.startswith("cp.async.c") and ".shared.global" in opcode:
        return int(operands.split("],")[-1].split(",")[0].strip(), 0)
    if not ACCESS.match(opcode):
        return None
    count, bits = VECTOR_TYPE.search(opcode).groups()
    return int(count or 1) * int(bits) // 8


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
