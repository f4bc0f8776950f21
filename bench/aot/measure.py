"""Compile a recorded launch and say what became of it."""

from __future__ import annotations

from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import ptx, sass
from .record import Launch

# A multiprocessor of sm_80, sm_90 and sm_100 alike.
REGISTERS, THREADS, BLOCKS = 65536, 2048, 32
SHARED = {80: 164, 90: 228, 100: 228}  # KiB, of which each block takes one more than it asks for


@dataclass(frozen=True)
class Measurement:
    kernel: str
    case: str
    arch: int
    warps: int
    shared: int  # bytes of a block, static and dynamic
    conversions: int  # changes of layout in Triton's own code; most go through shared memory
    code: sass.Code
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
    def occupancy(self) -> float:
        """Share of a multiprocessor's threads that can be resident at once."""
        threads = 32 * self.warps
        registers = -(-self.code.registers // 8) * 8 * threads
        shared = self.shared + sass.RESERVED
        blocks = min(
            REGISTERS // registers, SHARED[self.arch] * 1024 // shared, THREADS // threads, BLOCKS
        )
        return blocks * threads / THREADS


def measure(launch: Launch, case: str) -> Measurement:
    """Compile for ``launch.arch`` and read the result. Triton's cache on disk is used."""
    source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
    target = GPUTarget("cuda", launch.arch, 32)
    compiled = triton.compile(source, target=target, options=dict(launch.options))
    code = sass.disassemble(compiled.asm["cubin"], launch.arch)
    return Measurement(
        kernel=launch.kernel,
        case=case,
        arch=launch.arch,
        warps=compiled.metadata.num_warps,
        shared=compiled.metadata.shared + code.static_shared,
        conversions=compiled.asm["ttgir"].count("ttg.convert_layout"),
        code=code,
        widths=argument_widths(compiled.asm["ptx"], launch.parameters),
        wanted=launch.widths,
    )


def argument_widths(code: str, parameters: list[str]) -> dict[str, tuple[int, ...]]:
    """Widths in bytes of the accesses through each argument. Scratch space has no name here."""
    widths: dict[str, set[int]] = {}
    for access in ptx.global_accesses(code):
        if access.parameter < len(parameters):
            widths.setdefault(parameters[access.parameter], set()).add(access.width)
    return {name: tuple(sorted(found)) for name, found in widths.items()}
