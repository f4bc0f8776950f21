"""Which rows the page can show: what each benchmark's rows must hold, and what tells cases apart.

Rows come from files that anybody may have written, so that nothing else in this package has to
doubt a row's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

Check = Callable[[object], bool]


def number(value) -> bool:
    """Finite, and small enough to compute with."""
    return type(value) in (int, float) and abs(value) < 1e100


def positive(value) -> bool:
    return number(value) and value > 0


def text(value) -> bool:
    return isinstance(value, str)


def boolean(value) -> bool:
    return isinstance(value, bool)


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def many(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def mapping(check: Check) -> Check:
    return lambda value: (
        isinstance(value, dict) and all(map(text, value)) and all(map(check, value.values()))
    )


def fields(**checks: Check) -> Check:
    """A mapping in which every named field is there and right; others are ignored."""
    return lambda value: (
        isinstance(value, dict) and all(check(value.get(name)) for name, check in checks.items())
    )


def either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def empty(value) -> bool:
    return value == {}


def moment(value) -> datetime | None:
    """An ISO time; None if it is none. Without a zone it counts as UTC."""
    try:
        found = datetime.fromisoformat(value)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return found.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


SPREAD = {"median_us": positive, "p10_us": positive, "p90_us": positive}
PASSES = ("forward", "backward", "both")
_passes = {name: positive for name in PASSES}
_name = {"arch": text, "defects": text}
_network = {**_name, "width": optional(number), "image_size": number, "batch_size": positive}

BENCHMARKS: dict[str, dict[str, Check]] = {
    "layers": {
        "copy_gb_per_s": positive,
        "site": fields(name=text, users=text),
        "contestant": text,
        "dtype": text,
        "bytes": fields(**_passes),
        "times": mapping(mapping(mapping(fields(**SPREAD, copy_percent=number)))),
        "saved_bytes": optional(number),
        "peak_bytes": optional(number),
    },
    "step": {
        **_network,
        "work": text,
        "contestant": text,
        "dtype": text,
        "times": either(empty, fields(**SPREAD)),
        "images_per_s": optional(number),
        "peak_bytes": optional(number),
        "mask_overhead_percent": optional(number),
        "in_turns": optional(boolean),
        "prepare_s": optional(number),
    },
    "attacks": {
        **_network,
        "attack": text,
        "contestant": text,
        "peer": text,
        "dtype": text,
        "dataset": text,
        "results": either(
            empty,
            fields(
                success=number,
                median_l2=optional(number),
                equal_pixels=optional(number),
                equal_predictions=optional(number),
                forwards=optional(number),
                backwards=optional(number),
            ),
        ),
        "times": either(empty, fields(**SPREAD)),
        "images_per_s": optional(number),
        "times_faster": optional(number),
    },
    "convergence": {
        **_name,
        "dataset": text,
        "seed": number,
        "contestant": text,
        "target": number,
        "seconds_to_target": optional(number),
        "epochs_to_target": optional(number),
        "prepare_s": optional(number),
        "train_s": optional(number),
        "epochs": optional(number),
        "accuracy": optional(number),
        "history": many(fields(epoch=number, seconds=number, accuracy=number)),
    },
    "roofline": {
        "operator": text,
        "kind": text,
        "pass": text,
        "backend": text,
        "shape": many(number),
        "detail": optional(text),
        "dtype": text,
        "bytes": number,
        "flops": number,
        "times": either(empty, fields(**SPREAD)),
        "gb_per_s": optional(number),
        "tflop_per_s": optional(number),
        "attained_percent": optional(number),
        "ceilings": fields(copy_gb_per_s=positive, matmul_tflop_per_s=mapping(positive)),
    },
    "profile": {
        **_network,
        "work": optional(text),
        "dtype": text,
        "contestant": text,
        "steps": optional(number),
        "step_ms": optional(number),
        "busy_percent": optional(number),
        "families": mapping(fields(ms=number, percent=number, launches=number)),
        "trace": optional(text),
    },
}
HEAD: dict[str, Check] = {
    "time": lambda value: moment(value) is not None,
    "machine": fields(device=text, kind=lambda kind: kind in ("cuda", "cpu")),
    "settings": optional(lambda value: isinstance(value, dict)),
    "problems": many(text),
    "clocks": optional(mapping(optional(text))),
}
KEYS = {
    "layers": ("contestant", "dtype"),
    "step": ("arch", "defects", "width", "image_size", "batch_size", "work", "contestant", "dtype"),
    "attacks": (
        "attack",
        "arch",
        "defects",
        "width",
        "image_size",
        "batch_size",
        "dataset",
        "contestant",
        "dtype",
    ),
    "convergence": ("arch", "defects", "dataset", "seed", "contestant", "target"),
    "roofline": ("operator", "kind", "pass", "backend", "detail", "dtype"),
    "profile": (
        "arch",
        "defects",
        "width",
        "image_size",
        "batch_size",
        "work",
        "dtype",
        "contestant",
    ),
}


RECIPE = ("recipe", "width", "epochs", "batch_size", "precision", "lr", "train_limit")
"""Settings of a training run that make it another case."""


def fault(row: dict) -> str | None:
    """The name of the first field that is missing or wrong, of a known benchmark's row."""
    for name, check in (HEAD | BENCHMARKS[row["benchmark"]]).items():
        if not check(row.get(name)):
            return name
    return None


def case(row: dict) -> tuple:
    """What was measured, on which device: rows that share it measure the same thing again."""
    machine = row["machine"]
    keys = tuple(row.get(key) for key in KEYS[row["benchmark"]])
    place = row["site"]["name"] if row["benchmark"] == "layers" else tuple(row.get("shape", ()))
    more = (recipe(row),) if row["benchmark"] == "convergence" else ()
    return machine["kind"], machine["device"], row["benchmark"], place, *keys, *more


def recipe(row: dict) -> str:
    """How a network was trained, in words."""
    settings = row.get("settings") or {}
    found = {name: settings.get(name) for name in RECIPE}
    return ", ".join(f"{n.replace('_', ' ')} {v}" for n, v in found.items() if v is not None)


def commit(row: dict) -> str:
    """The commit that a row was measured at."""
    found = row["machine"].get("commit")
    return found if isinstance(found, str) and found else "unknown"


def finite(value: str) -> float:
    """For json: a number beyond float's range is an error rather than infinity."""
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{value} is no finite number")
    return found
