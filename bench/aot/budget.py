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
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...defective.errors import UserError
from ...defective.serialization import atomic_path

if TYPE_CHECKING:
    from .code import Measurement

FILE = Path(__file__).with_name("budget.json")
# The hardware hands out registers in eights.
REGISTER_STEP = 8
SLACK = 1.1  # of instructions, and of bytes under way

# Of each figure: whether it is over what is allowed, and both in words.
LIMITS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "registers": (
        lambda now, allowed: now > -(-allowed // REGISTER_STEP) * REGISTER_STEP,
        "{} registers, budget {}",
    ),
    "shared": (operator.gt, "{} bytes of shared memory, budget {}"),
    "blocks": (operator.lt, "{} blocks a multiprocessor, budget {}"),
    "in_flight": (
        lambda now, allowed: SLACK * now < allowed,
        "{} bytes under way a multiprocessor, budget {}",
    ),
    "instructions": (lambda now, allowed: now > SLACK * allowed, "{} instructions, budget {}"),
    "narrowest": (
        lambda now, allowed: (now or 0) < (allowed or 0),
        "accesses activations {} bytes at a time, budget {}",
    ),
    "matrix": (operator.ne, "matrix instructions {}, budget {}"),
}


@dataclass
class Budget:
    """``kernels``: key of a measurement, then "sm_90", then the figures of ``LIMITS``.

    launches: form of a call, then launches forward and backward.
    """

    triton: str
    kernels: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    launches: dict[str, list[int]] = field(default_factory=dict)

    def entry(self, m: Measurement) -> dict[str, Any] | None:
        values = self.kernels.get(m.key, {}).get(f"sm_{m.arch}")
        return None if values is None else dict(zip(LIMITS, values, strict=True))

    def set(self, m: Measurement) -> None:
        self.kernels.setdefault(m.key, {})[f"sm_{m.arch}"] = [m.figures[name] for name in LIMITS]


def check(
    measurements: list[Measurement],
    launches: dict[str, list[int]],
    budget: Budget,
    complete: bool = False,
) -> list[str]:
    """Everything that breaks a rule or exceeds the budget, in a line each.

    Args:
        launches: form of a call: launches forward and backward.
        complete: all configurations were measured, so that others in the budget are out of date.
    """
    findings = []
    for m in measurements:
        texts = broken_rules(m) + overruns(m, budget)
        findings += [f"sm_{m.arch} {m.key}: {text}" for text in texts]
    for form, counts in launches.items():
        allowed = budget.launches.get(form)
        if allowed is None:
            findings.append(f"{form}: not in the budget")
        elif any(map(operator.gt, counts, allowed)):
            now, then = (" + ".join(map(str, each)) for each in (counts, allowed))
            findings.append(f"{form}: launches {now}, budget {then}")
    if complete:
        seen = {(m.key, f"sm_{m.arch}") for m in measurements}
        gone = [(k, a) for k, rows in budget.kernels.items() for a in rows if (k, a) not in seen]
        places = [f"{arch} {key}" for key, arch in gone]
        places += [form for form in budget.launches if form not in launches]
        findings += [f"{place}: in the budget, but no longer launched" for place in places]
    return findings


def broken_rules(m: Measurement) -> list[str]:
    spilled = m.code["spilled"]
    texts = [f"spills {spilled} bytes a thread"] if spilled else []
    for name, width in m.narrow.items():
        wanted = f"where its channels allow {m.wanted[name]}"
        texts.append(f"accesses {name} {width} bytes at a time, {wanted}")
    return texts


def overruns(m: Measurement, budget: Budget) -> list[str]:
    allowed = budget.entry(m)
    if allowed is None:
        return ["not in the budget"]
    texts = []
    for name, (exceeded, words) in LIMITS.items():
        now, then = m.figures[name], allowed[name]
        if exceeded(now, then):
            texts.append(words.format(*("none" if x == "" else x for x in (now, then))))
    return texts


def load(path: Path = FILE) -> Budget:
    """Raises: UserError: there is no budget at ``path``, or it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["fields"] != list(LIMITS):
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
        f'"fields": {json.dumps(list(LIMITS))},\n"kernels": {block(budget.kernels)}\n}}\n'
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
