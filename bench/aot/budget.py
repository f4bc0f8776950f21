"""What the kernels may cost, committed beside this file, and what breaks the rules.

Two rules need no budget: no register is spilled, and every access to a channels_last activation
is as wide as its number of channels allows, up to 16 bytes. The budget holds registers, shared
memory, the blocks that a multiprocessor holds, the bytes of loads that it can have under way,
instructions, the narrowest access to an activation, and the kind of matrix instruction; and how
often a call of each form launches. It belongs to one version of Triton; with another, findings are
told but fail nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ...defective.errors import UserError
from ...defective.serialization import atomic_path
from .code import Measurement

FILE = Path(__file__).with_name("budget.json")
FIELDS = ("registers", "shared", "blocks", "in_flight", "instructions", "narrowest", "matrix")
# The hardware hands out registers in eights.
REGISTER_STEP = 8
SLACK = 1.1  # of instructions, and of bytes under way


class Finding(NamedTuple):
    place: str  # "sm_90 kernel: case", or the form of a call
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass
class Budget:
    """``kernels``: key of a measurement, then "sm_90", then the values of ``FIELDS``.

    launches: form of a call, then launches forward and backward.
    """

    triton: str
    kernels: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    launches: dict[str, list[int]] = field(default_factory=dict)

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
        "blocks": m.blocks,
        "in_flight": m.in_flight,
        "instructions": m.code.instructions,
        "narrowest": m.narrowest,
        "matrix": "+".join(sorted(m.code.matrix)),
    }


def check(
    measurements: list[Measurement],
    launches: dict[str, list[int]],
    budget: Budget,
    complete: bool = False,
) -> list[Finding]:
    """Everything that breaks a rule or exceeds the budget.

    Args:
        launches: form of a call: launches forward and backward.
        complete: all configurations were measured, so that others in the budget are out of date.
    """
    findings = []
    for m in measurements:
        texts = broken_rules(m)
        allowed = budget.entry(m)
        texts += ["not in the budget"] if allowed is None else overruns(m, allowed)
        findings += [Finding(f"sm_{m.arch} {m.key}", text) for text in texts]
    for form, counts in launches.items():
        allowed = budget.launches.get(form)
        if allowed is None:
            findings.append(Finding(form, "not in the budget"))
        elif any(now > then for now, then in zip(counts, allowed, strict=True)):
            findings.append(Finding(form, f"launches {_sum(counts)}, budget {_sum(allowed)}"))
    if complete:
        seen = {(m.key, f"sm_{m.arch}") for m in measurements}
        gone = [(k, a) for k, rows in budget.kernels.items() for a in rows if (k, a) not in seen]
        places = [f"{arch} {key}" for key, arch in gone]
        places += [form for form in budget.launches if form not in launches]
        findings += [Finding(place, "in the budget, but no longer launched") for place in places]
    return findings


def _sum(counts: list[int]) -> str:
    return " + ".join(map(str, counts))


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
    if now["blocks"] < allowed["blocks"]:
        texts.append(f"{now['blocks']} blocks a multiprocessor, budget {allowed['blocks']}")
    if SLACK * now["in_flight"] < allowed["in_flight"]:
        texts.append(
            f"{now['in_flight']} bytes under way a multiprocessor, budget {allowed['in_flight']}"
        )
    if now["instructions"] > SLACK * allowed["instructions"]:
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
        return Budget(content["triton"], content["kernels"], content["launches"])
    except FileNotFoundError:
        raise UserError(f"there is no budget {path}; write one with --update-budget") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no budget of this version ({error}); write it anew with --update-budget"
        ) from None


def save(budget: Budget, path: Path = FILE) -> None:
    """One line for each configuration, so that a change is a line in a diff."""

    def block(rows: dict[str, Any]) -> str:
        lines = [f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(rows.items())]
        return "{\n" + ",\n".join(lines) + "\n}"

    text = (
        f'{{\n"triton": {json.dumps(budget.triton)},\n"launches": {block(budget.launches)},\n'
        f'"fields": {json.dumps(FIELDS)},\n"kernels": {block(budget.kernels)}\n}}\n'
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
