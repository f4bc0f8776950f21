"""Which argument of a kernel each access to global memory goes through, and how wide it is.

Machine code does not tell: pointers sit in registers. PTX does: a 64-bit register computed from a
pointer argument keeps belonging to it through additions, selections and loop variables. Values
that were loaded are no pointers, so that the chain ends at a load.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)\s+(.*?);", re.MULTILINE)
PARAMETER = re.compile(r"\w+_param_(\d+)")
REGISTER = re.compile(r"%rd\d+")
ACCESS = re.compile(r"^(ld|st|red|atom)\.(?:[\w:]+\.)*?global\b")
VECTOR_TYPE = re.compile(r"(?:\.v([248]))?\.[bsuf](8|16|32|64|128)$")
BULK = 128  # what we call the width of a copy of a whole tile


class Access(NamedTuple):
    operation: str  # "load", "store" or "reduction"
    parameter: int
    width: int  # bytes of one thread's access


def global_accesses(ptx: str) -> list[Access]:
    """Every access to global memory in the code, in order; one entry for each argument it may
    go through."""
    instructions = INSTRUCTION.findall(ptx)
    owners = _owners(instructions)
    found = []
    for opcode, operands in instructions:
        operation, width = _classify(opcode, operands)
        if operation is None:
            continue
        # A copy to shared memory names its destination first: take the 64-bit address.
        addresses = [r for a in re.findall(r"\[([^\]]*)\]", operands) for r in REGISTER.findall(a)]
        parameters = set().union(*(owners[r] for r in addresses))
        if not parameters:
            raise RuntimeError(f"no argument found behind the address of: {opcode} {operands}")
        found += [Access(operation, p, width) for p in sorted(parameters)]
    return found


def _classify(opcode: str, operands: str) -> tuple[str | None, int]:
    if opcode.startswith("cp.async.bulk"):
        if "commit" in opcode or "wait" in opcode or "prefetch" in opcode:
            return None, 0
        return ("store" if ".global.shared" in opcode else "load"), BULK
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
        registers = REGISTER.findall(destination)
        if len(registers) != 1 or "[" in destination or opcode.startswith(("ld.global", "atom")):
            continue
        # Either a load of the argument, or its place, where the code chooses between arguments.
        owners[registers[0]].update(map(int, PARAMETER.findall(sources)))
        flows.append((registers[0], REGISTER.findall(sources)))
    changed = True
    while changed:  # once more than the longest chain through loop variables
        changed = False
        for destination, sources in flows:
            new = set().union(*(owners[s] for s in sources)) - owners[destination]
            owners[destination] |= new
            changed = changed or bool(new)
    return owners
