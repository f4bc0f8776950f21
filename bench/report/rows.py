"""Rows of results: JSON lines to the newest row of every case, and who competes with whom."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...defective.errors import UserError

OURS, REFERENCE = "ours", "reference"
FLOAT16_RIVAL = "eager-fp16"
"""Beside the reference the contestant with a number format of its own: it stands in every group."""
STEP_ORDER = (
    *("reference", "eager", "compile", "max-autotune"),
    *("eager-graph", "compile-graph", "max-autotune-graph"),
    *("fused", "fused-compile", "fused-graph", "fused-compile-graph"),
)
PASSES = ("forward", "backward", "both")
_RECIPE = ("recipe", "width", "epochs", "batch_size", "precision", "lr", "train_limit")
"""Settings of a training run that make it another case."""


def number(value) -> bool:
    """Finite, and small enough to compute with."""
    return type(value) in (int, float) and abs(value) < 1e100


def positive(value) -> bool:
    return number(value) and value > 0


def text(value) -> bool:
    return isinstance(value, str)


def _time(value) -> bool:
    try:
        return bool(moment(value))
    except (TypeError, ValueError, OverflowError):
        return False


# What a row must hold: a check, fields, {str: of every value}, [of every item] or (alternatives).
_some = (None, number)
_spread = dict.fromkeys(("median_us", "p10_us", "p90_us"), positive)
_times = ({}, _spread)


def _all(check, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), check)


_network = _all(text, "arch defects contestant dtype") | {
    "width": _some,
    "image_size": number,
    "batch_size": positive,
}
_HEAD = {
    "time": _time,
    "machine": {"device": text, "kind": lambda kind: kind in ("cuda", "cpu")},
    "settings": (None, lambda value: isinstance(value, dict)),
    "problems": [text],
    "clocks": (None, {str: (None, text)}),
}
_found = _all(_some, "median_l2 forwards backwards equal_pixels equal_predictions")
FIELDS: dict[str, dict[str, Any]] = {
    "layers": _all(text, "contestant dtype")
    | {"site": _all(text, "name users"), "bytes": _all(positive, "forward backward both")}
    | {"times": {str: {str: {str: _spread | {"copy_percent": number}}}}}
    | {"copy_gb_per_s": positive, "saved_bytes": _some, "peak_bytes": _some},
    "step": _network
    | {"work": text, "times": _times, "in_turns": (None, lambda value: isinstance(value, bool))}
    | _all(_some, "images_per_s peak_bytes prepare_s mask_overhead_percent"),
    "attacks": _network
    | _all(text, "attack peer dataset")
    | {"times": _times, "results": ({}, {"success": number} | _found)}
    | _all(_some, "images_per_s times_faster"),
    "convergence": _all(text, "arch defects dataset contestant")
    | _all(number, "seed target")
    | _all(_some, "accuracy prepare_s train_s seconds_to_target epochs_to_target epochs")
    | {"history": [_all(number, "epoch seconds accuracy")]},
    "roofline": _all(text, "operator kind pass backend dtype")
    | {"shape": [number], "detail": (None, text), "bytes": number, "flops": number}
    | {"times": _times, "gb_per_s": _some, "tflop_per_s": _some, "attained_percent": _some}
    | {"ceilings": {"copy_gb_per_s": positive, "matmul_tflop_per_s": {str: positive}}},
    "profile": _network
    | {"work": (None, text), "step_ms": _some, "busy_percent": _some, "trace": (None, text)}
    | {"families": {str: _all(number, "ms percent launches")}},
}
_NETWORK_KEYS = ("arch", "defects", "width", "image_size", "batch_size", "contestant", "dtype")
KEYS = {
    "layers": ("contestant", "dtype"),
    "step": ("work", *_NETWORK_KEYS),
    "attacks": ("attack", "dataset", *_NETWORK_KEYS),
    "convergence": ("arch", "defects", "dataset", "seed", "contestant", "target"),
    "roofline": ("operator", "kind", "pass", "backend", "detail", "dtype"),
    "profile": ("work", *_NETWORK_KEYS),
}
"""What tells cases of a benchmark apart, beside the device and the site or shape."""


def wrong(value, pattern, name: str = "") -> str | None:
    """The name of the first field that is missing or no ``pattern``; None if all is well."""
    if isinstance(pattern, tuple):
        found = [wrong(value, each, name) for each in pattern]
        return None if None in found else max(found, key=len)
    if isinstance(pattern, list) and isinstance(value, list):
        return next(filter(None, (wrong(item, pattern[0], name) for item in value)), None)
    if isinstance(pattern, dict) and pattern and isinstance(value, dict):
        inside = dict.fromkeys(value, pattern[str]) if str in pattern else pattern
        found = (wrong(value.get(k), p, f"{name}.{k}".strip(".")) for k, p in inside.items())
        return next(filter(None, found), None)
    fits = pattern(value) if callable(pattern) else value == pattern
    return None if fits else name


@dataclass
class Loaded:
    """What the files hold.

    Attributes:
        files: those that were read, with the number of rows used and of damaged lines.
        unknown: rows of benchmarks that the page does not know, by benchmark.
        cases: (kind, device, ...): all rows of the case, in the order of the files.
    """

    files: dict[Path, tuple[int, int]] = field(default_factory=dict)
    unknown: Counter = field(default_factory=Counter)
    cases: dict[tuple, list[dict]] = field(default_factory=dict)

    def devices(self, kind: str) -> list[str]:
        return sorted({case[1] for case in self.cases if case[0] == kind})

    def of(self, kind: str, device: str) -> list[list[dict]]:
        """The rows of each case of a device."""
        return [rows for case, rows in self.cases.items() if case[:2] == (kind, device)]

    def rows(self, kind: str, device: str) -> list[dict]:
        """The newest row of every case of a device, in the order of the files."""
        return [_latest(rows)[-1] for rows in self.of(kind, device)]

    def pairs(self, kind: str, device: str) -> list[tuple[dict, dict]]:
        """(row at the commit before, newest row) of the cases that two commits measured."""
        found = map(_latest, self.of(kind, device))
        return [(rows[-2], rows[-1]) for rows in found if len(rows) > 1]

    def digest(self) -> str:
        """Of all rows that a page may show, whatever folder they are in."""
        shown = [row | {"folder": ""} for rows in self.cases.values() for row in _latest(rows)[-2:]]
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def _latest(rows: Sequence[dict]) -> list[dict]:
    """The newest row of each commit, the commit measured last at the end.

    Of rows of the same second, the one that was read last counts as the newer.
    """
    found: dict[str, dict] = {}
    for row in sorted(rows, key=lambda row: moment(row["time"])):
        found.pop(commit(row), None)
        found[commit(row)] = row
    return list(found.values())


def load(paths: Iterable[Path]) -> Loaded:
    """Read result files, and all ``*.jsonl`` below folders.

    Lines that are no JSON objects, such as half-written ones, are counted. Each row gets
    ``"folder"``, where its file lies, and None where a field may be missing.

    Raises:
        UserError: a path does not exist, a folder or file has no results, a file is no JSON lines,
            a row lacks a field of its benchmark.
    """
    loaded = Loaded()
    for path in _result_files(paths):
        used = objects = damaged = 0
        for place, row in _objects(path):
            if row is None:
                damaged += 1
                continue
            objects += 1
            name = row.get("benchmark")
            name = name if isinstance(name, str) else "(none named)"
            if name not in FIELDS:
                loaded.unknown[name] += 1
                continue
            fault = wrong(row, _HEAD | FIELDS[name])
            if fault:
                raise UserError(
                    f"{place}: this row of {name} has no {fault}, or another value than 'scotoma "
                    f"bench {name}' writes; remove the line or measure again"
                )
            used += 1
            row = dict.fromkeys(_HEAD | FIELDS[name]) | row | {"folder": str(path.parent)}
            loaded.cases.setdefault(_case(row), []).append(row)
        if not objects:
            what = "is no file of JSON lines" if damaged else "is empty"
            raise UserError(
                f"{path} {what}; give a file that 'scotoma bench layers' or another measurement "
                "wrote"
            )
        loaded.files[path] = used, damaged
    return loaded


def _result_files(paths: Iterable[Path]) -> list[Path]:
    """Every file once, those of a folder by name. Raises UserError."""
    found: dict[Path, Path] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.rglob("*.jsonl") if p.is_file())
            if not files:
                raise UserError(
                    f"{path} holds no results (no file named *.jsonl below it); give the folder "
                    "that a measurement wrote to, such as bench/results"
                )
        elif not path.exists():
            raise UserError(
                f"{path} does not exist; give JSON-lines files of 'scotoma bench', or folders of "
                "them"
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _objects(path: Path) -> Iterator[tuple[str, dict | None]]:
    """("file:line", the object there, None for a line that holds none), blank lines left out."""
    try:
        with path.open("rb") as file:
            for line, words in enumerate(file, 1):
                if not words.strip():
                    continue
                try:
                    row = json.loads(words)
                except (ValueError, RecursionError):
                    row = None
                yield f"{path}:{line}", row if isinstance(row, dict) else None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; give a JSON-lines file of 'scotoma bench'"
        ) from error


def _case(row: dict) -> tuple:
    """What was measured, on which device: rows that share it measure the same thing again."""
    machine = row["machine"]
    keys = tuple(row.get(key) for key in KEYS[row["benchmark"]])
    place = row["site"]["name"] if row["benchmark"] == "layers" else tuple(row.get("shape") or ())
    more = recipe(row) if row["benchmark"] == "convergence" else ""
    return machine["kind"], machine["device"], row["benchmark"], place, *keys, more


def moment(value: str) -> datetime:
    """An ISO time, which counts as UTC without a zone. Raises ValueError."""
    found = datetime.fromisoformat(value)
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found.astimezone(UTC)


def recipe(row: dict) -> str:
    """How a network was trained, in words."""
    settings = row.get("settings") or {}
    found = {name: settings.get(name) for name in _RECIPE}
    return ", ".join(f"{n.replace('_', ' ')} {v}" for n, v in found.items() if v is not None)


def commit(row: dict) -> str:
    """The commit that a row was measured at."""
    found = row["machine"].get("commit")
    return found if isinstance(found, str) and found else "unknown"


# Rows side by side.


def of(rows: Iterable[dict], benchmark: str) -> list[dict]:
    return [row for row in rows if row["benchmark"] == benchmark]


def grouped(rows: Iterable[dict], *names: str) -> dict[tuple, list[dict]]:
    """Rows that share these fields, in the order in which they first appear."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        key = tuple(tuple(v) if isinstance(v := row[name], list) else v for name in names)
        found.setdefault(key, []).append(row)
    return found


def by_contestant(rows: Iterable[dict]) -> dict[str, dict]:
    return {contestant(row): row for row in rows}


def contestant(row: dict) -> str:
    return row["backend"] if row["benchmark"] == "roofline" else row["contestant"]


def is_ours(name: str) -> bool:
    """Whether a contestant uses the fused kernels."""
    return name in (OURS, "triton") or name.startswith("fused")


def ordered(names: Iterable[str], order: Sequence[str] = STEP_ORDER) -> list[str]:
    """Distinct names: known ones in their order, then the others by the alphabet."""
    return sorted(set(names), key=lambda n: (order.index(n) if n in order else len(order), n))


def sound(row: dict) -> bool:
    """Measured, and without problems."""
    return bool(row["times"]) and not row["problems"]


def median(row: dict | None) -> float | None:
    """Microseconds, of a row with one time; None where it was not measured."""
    return row["times"].get("median_us") if row else None


def rate(row: dict | None, quantile: str = "median_us") -> float | None:
    """Images per second of a step row, at a quantile of its times."""
    if not row or not row["times"]:
        return None
    if row["images_per_s"] is None:
        return row["batch_size"] * 1e6 / row["times"][quantile]
    return row["images_per_s"] * row["times"]["median_us"] / row["times"][quantile]


def same_run(row: dict, rival: dict) -> bool:
    """Whether one command measured both, side by side: clocks and temperatures drift between two.

    All rows of a run begin with the same head, its time included.
    """
    return all(row[key] == rival[key] for key in ("time", "machine"))


def speedup(row: dict | None, rival: dict | None) -> float | None:
    """How many times faster ``row`` is than ``rival``; None unless one run measured both."""
    own, other = median(row), median(rival)
    return other / own if own and other and same_run(row, rival) else None


def attack_speed(row: dict, rows: Sequence[dict]) -> float | None:
    """How many times faster than its peer in the same run; None where either has no time."""
    names = "attack", "arch", "defects", "width", "image_size", "batch_size", "dataset"
    for other in rows:
        alike = all(row[name] == other[name] for name in names) and same_run(row, other)
        if alike and other["contestant"] == row["peer"]:
            own, theirs = median(row), median(other)
            return theirs / own if own and theirs else None
    return None


def best(found: dict[str, dict], ours: bool = True, fit=sound) -> dict | None:
    """The fastest of our contestants' rows (or of the others') that are fit for it."""
    rows = [row for name, row in found.items() if is_ours(name) == ours and fit(row)]
    return min(rows, key=median, default=None)


def step_groups(rows: Iterable[dict]) -> dict[tuple, list[dict]]:
    """Step rows by (work, dtype, width, image size), the reference in every group of its sizes."""
    rows = of(rows, "step")
    names = "work", "dtype", "width", "image_size"
    groups = grouped((row for row in rows if row["contestant"] != REFERENCE), *names)
    for key, references in grouped(
        (row for row in rows if row["contestant"] == REFERENCE), *names
    ).items():
        joined = [k for k in groups if (k[0], *k[2:]) == (key[0], *key[2:])]
        for each in joined or [key]:
            groups.setdefault(each, []).extend(references)
    works = ["train", "evaluate", "pgd"]
    keys = sorted(groups, key=lambda key: tuple(map(str, key)))
    keys.sort(key=lambda key: works.index(key[0]) if key[0] in works else len(works))
    return {key: groups[key] for key in keys}


def step_cases(rows: Iterable[dict]) -> dict[tuple, dict[str, dict]]:
    """(architecture, defects, batch) -> contestant -> row, of one group; smaller batches first."""
    found = grouped(rows, "arch", "defects", "batch_size")
    ordered = sorted(found, key=lambda k: (k[0], k[1] != "standard", k[1], k[2]))
    return {case: by_contestant(found[case]) for case in ordered}


def by_site(rows: Iterable[dict]) -> dict[str, dict[str, dict]]:
    """Site -> contestant -> row, in the order of the rows."""
    found: dict[str, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(row["site"]["name"], {})[row["contestant"]] = row
    return found


def layer_groups(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Layer rows by the number format of the run; eager float16 stands in every group.

    Of each site only the contestants that were measured in the same run as ours (or, without ours,
    as the site's last row).
    """
    rows = of(rows, "layers")
    groups: dict[str, list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["contestant"] == FLOAT16_RIVAL):
        joined = [row["dtype"]]
        if row["contestant"] == FLOAT16_RIVAL:
            site = row["site"]["name"]
            joined = [k for k, g in groups.items() if site in by_site(g)] or joined
        for key in joined:
            groups.setdefault(key, []).append(row)
    return {key: _one_run_each(group) for key, group in sorted(groups.items())}


def _one_run_each(rows: list[dict]) -> list[dict]:
    anchors: dict[str, tuple] = {}
    for row in rows:
        site = row["site"]["name"]
        # Eager float16 may be there without a run of this group's format.
        rank = row["contestant"] == OURS, row["contestant"] != FLOAT16_RIVAL, row["time"]
        if site not in anchors or rank >= anchors[site][0]:
            anchors[site] = rank, row
    return [row for row in rows if same_run(row, anchors[row["site"]["name"]][1])]


def layer_clock(rows: Iterable[dict]) -> str:
    """Graph replay, where any row has it."""
    return "graph" if any("graph" in r["times"].get("cold", {}) for r in rows) else "wall"


def layer_time(row: dict | None, cache: str, clock: str, step: str) -> dict:
    """Quantiles of a call in microseconds; empty where it was not measured."""
    return row["times"].get(cache, {}).get(clock, {}).get(step, {}) if row else {}


def roofline_cases(rows: Iterable[dict]) -> list[dict[str, dict]]:
    """Backend -> row, of each operator, form, shape and number format."""
    names = "operator", "kind", "pass", "shape", "dtype", "detail"
    return [by_contestant(group) for group in grouped(of(rows, "roofline"), *names).values()]


def convergence_cases(rows: Iterable[dict]) -> dict[tuple, dict[str, list[dict]]]:
    """(data set, architecture, defects, target, recipe) -> contestant -> a row for each seed."""
    cases: dict[tuple, dict[str, list[dict]]] = {}
    for row in of(rows, "convergence"):
        case = row["dataset"], row["arch"], row["defects"], row["target"], recipe(row)
        cases.setdefault(case, {}).setdefault(row["contestant"], []).append(row)
    return cases


def seconds(rows: Sequence[dict], name: str = "seconds_to_target") -> float | None:
    """The mean over seeds; None if one missed the target, or there are none."""
    values = [row[name] for row in rows]
    return None if not values or None in values else statistics.fmean(values)


def standard_error(rows: Sequence[dict]) -> float | None:
    """Of the mean over seeds; None for fewer than two, or if one missed the target."""
    if len(rows) < 2 or seconds(rows) is None:
        return None
    return statistics.stdev(row["seconds_to_target"] for row in rows) / math.sqrt(len(rows))


def flop_unit(row: dict) -> tuple[str, float]:
    """The unit in which rates of a row's machine read well, and how many there are in a TFLOP/s."""
    return ("GFLOP/s", 1e3) if row["machine"]["kind"] == "cpu" else ("TFLOP/s", 1.0)


def beside(row: dict, name: str) -> Path | None:
    """A file of a profile: beside the results, or in the folder of its case."""
    case = f"{row['arch']}-{row['defects']}-b{row['batch_size']}-{row['work'] or 'train'}"
    for parts in ((name,), ("profile", case, name)):
        # Only plain names: a row must not point anywhere else on this machine.
        if all(part and Path(part).name == part and not set(part) & set("\\\0") for part in parts):
            path = Path(row["folder"], *parts)
            try:
                if path.is_file():
                    return path
            except (OSError, ValueError):  # such as a name that is too long
                continue
    return None
