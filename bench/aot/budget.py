"""What the kernels may cost, committed beside this file, and what breaks the rules.

Two rules need no budget: no register is spilled, and every access to a channels_last activation
is as wide as its number of channels allows, up to 16 bytes. The budget holds registers, shared
memory, instructions, the narrowest access to an activation, and the kind of matrix instruction.
It belongs to one version of Triton; with another, findings are told but fail nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ...defective.errors import UserError
from ...defective.serialization import atomic_path
from .measure import Measurement

FILE = Path(__file__).with_name("budget.json")
FIELDS = ("registers", "shared", "instructions", "narrowest", "matrix")
# The hardware hands out registers in eights.
REGISTER_STEP = 8
INSTRUCTION_SLACK = 1.1


class Finding(NamedTuple):
    key: str
    arch: int
    text: str

    def __str__(self) -> str:
        return f"sm_{self.arch} {self.key}: {self.text}"


@dataclass
class Budget:
    """``kernels``: key of a measurement, then "sm_90", then the values of ``FIELDS``."""

    triton: str
    kernels: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def entry(self, m: Measurement) -> dict[str, Any] | None:
        values = self.kernels.get(m.key, {}).get(f"sm_{m.arch}")
        return None if values is None else dict(zip(FIELDS, values, strict=True))

    def set(self, m: Measurement) -> None:
        row = cost(m)
        self.kernels.setdefault(m.key, {})[f"sm_{m.arch}"] = [row[name] for name in FIELDS]


def cost(m: Measurement) -> dict[str, Any]:
    return {
        "registers": m.code.registers,
        "shared": m.shared,
        "instructions": m.code.instructions,
        "narrowest": m.narrowest,
        "matrix": "+".join(sorted(m.code.matrix)),
    }


def check(measurements: list[Measurement], budget: Budget, complete: bool = False) -> list[Finding]:
    """Everything that breaks a rule or exceeds the budget.

    Args:
        complete: all configurations were measured, so that others in the budget are out of date.
    """
    findings = []
    for m in measurements:
        texts = broken_rules(m)
        allowed = budget.entry(m)
        texts += ["not in the budget"] if allowed is None else overruns(m, allowed)
        findings += [Finding(m.key, m.arch, text) for text in texts]
    if complete:
        seen = {(m.key, m.arch) for m in measurements}
        for key, rows in budget.kernels.items():
            archs = [int(name.removeprefix("sm_")) for name in rows]
            text = "in the budget, but no longer launched"
            findings += [Finding(key, a, text) for a in archs if (key, a) not in seen]
    return findings


def broken_rules(m: Measurement) -> list[str]:
    texts = []
    if m.code.spilled:
        texts.append(f"spills {m.code.spilled} bytes a thread")
    for name, width in m.narrow.items():
        texts.append(
            f"accesses {name} {width} bytes at a time, where its channels allow {m.wanted[name]}"
        )
    return texts


def overruns(m: Measurement, allowed: dict[str, Any]) -> list[str]:
    now, texts = cost(m), []
    if _steps(now["registers"]) > _steps(allowed["registers"]):
        texts.append(f"{now['registers']} registers, budget {allowed['registers']}")
    if now["shared"] > allowed["shared"]:
        texts.append(f"{now['shared']} bytes of shared memory, budget {allowed['shared']}")
    if now["instructions"] > INSTRUCTION_SLACK * allowed["instructions"]:
        texts.append(f"{now['instructions']} instructions, budget {allowed['instructions']}")
    if (now["narrowest"] or 0) < (allowed["narrowest"] or 0):
        texts.append(
            f"accesses activations {now['narrowest']} bytes at a time, budget "
            f"{allowed['narrowest']}"
        )
    if now["matrix"] != allowed["matrix"]:
        texts.append(
            f"matrix instructions {now['matrix'] or 'none'}, budget {allowed['matrix'] or 'none'}"
        )
    return texts


def _steps(registers: int) -> int:
    return -(-registers // REGISTER_STEP)


def load(path: Path = FILE) -> Budget:
    """Raises: UserError: there is no budget at ``path``, or it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["fields"] != list(FIELDS):
            raise ValueError(f"its fields are {content['fields']}")
        return Budget(content["triton"], content["kernels"])
    except FileNotFoundError:
        raise UserError(f"there is no budget {path}; write one with --update-budget") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no budget of this version ({error}); write it anew with --update-budget"
        ) from None


def save(budget: Budget, path: Path = FILE) -> None:
    """One line for each configuration, so that a change is a line in a diff."""
    lines = [
        f"  {json.dumps(key)}: {json.dumps(rows)}" for key, rows in sorted(budget.kernels.items())
    ]
    text = (
        f'{{\n"triton": {json.dumps(budget.triton)},\n"fields": {json.dumps(FIELDS)},\n'
        '"kernels": {\n' + ",\n".join(lines) + "\n}\n}\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
