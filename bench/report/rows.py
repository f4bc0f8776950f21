"""Rows of results: JSON lines to the newest row of every case, and who competes with whom."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from ...defective.errors import UserError

OURS, REFERENCE = "ours", "reference"
FLOAT16_RIVAL = "eager-fp16"
"""Beside the reference the contestant with a number format of its own: it stands in every group."""
ORDER = (
    *(OURS, REFERENCE, "eager", "compile", "max-autotune"),
    *("eager-graph", "compile-graph", "max-autotune-graph"),
    *("fused", "fused-compile", "fused-graph", "fused-compile-graph", FLOAT16_RIVAL),
)
PASSES = ("forward", "backward", "both")
VERSIONS = ("torch", "triton", "driver", "cuda", "cudnn")
WORKS = ("train", "evaluate", "pgd")
_RECIPE = ("recipe", "width", "epochs", "batch_size", "precision", "lr", "train_limit")
"""Settings of a training run that make it another case."""


def moment(value: str) -> datetime:
    """An ISO time, which counts as UTC without a zone. Raises ValueError."""
    found = datetime.fromisoformat(value)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


# What a row must hold: a check, fields, {str: of every value}, [of every item] or (alternatives).


def _number(value) -> bool:
    """Finite, and small enough to compute with."""
    return type(value) in (int, float) and abs(value) < 1e100


def _positive(value) -> bool:
    return _number(value) and value > 0


def _text(value) -> bool:
    return isinstance(value, str)


def _time(value) -> bool:
    try:
        return bool(moment(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _all(check, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), check)


_some = (None, _number)
_spread = _all(_positive, "median_us p10_us p90_us")
_times = ({}, _spread)
_network = _all(_text, "arch defects contestant dtype") | {
    "width": _some,
    "image_size": _number,
    "batch_size": _positive,
}
_HEAD = {
    "time": _time,
    "machine": {
        "device": _text,
        "kind": lambda kind: kind in ("cuda", "cpu"),
        "commit": (None, _text),
    },
    "settings": (None, lambda value: isinstance(value, dict)),
    "problems": [_text],
    "clocks": (None, {str: (None, _text)}),
}
_found = _all(_some, "median_l2 forwards backwards equal_pixels equal_predictions")
FIELDS: dict[str, dict[str, Any]] = {
    "layers": _all(_text, "contestant dtype")
    | {"site": _all(_text, "name users"), "bytes": _all(_positive, "forward backward both")}
    | {"times": {str: {str: {str: _spread | {"copy_percent": _number}}}}}
    | {"copy_gb_per_s": _positive, "saved_bytes": _some, "peak_bytes": _some},
    "step": _network
    | {"work": _text, "times": _times, "in_turns": (None, lambda value: isinstance(value, bool))}
    | _all(_some, "images_per_s peak_bytes prepare_s mask_overhead_percent"),
    "attacks": _network
    | _all(_text, "attack peer dataset")
    | {"times": _times, "results": ({}, {"success": _number} | _found)}
    | {"images_per_s": _some},
    "convergence": _all(_text, "arch defects dataset contestant")
    | _all(_number, "seed target")
    | _all(_some, "accuracy prepare_s train_s seconds_to_target epochs_to_target epochs")
    | {"history": [_all(_number, "epoch seconds accuracy")]},
    "roofline": _all(_text, "operator kind pass backend dtype")
    | {"shape": [_number], "detail": (None, _text), "bytes": _number, "flops": _number}
    | {"times": _times, "gb_per_s": _some, "tflop_per_s": _some, "attained_percent": _some}
    | {"ceilings": {"copy_gb_per_s": _positive, "matmul_tflop_per_s": {str: _positive}}},
    "profile": _network
    | {"work": (None, _text), "trace": (None, _text)}
    | _all(_some, "step_ms profiled_step_ms busy_percent busy_percent_profiled")
    | _all(_some, "host_wait_ms host_launches")
    | {"families": {str: _all(_number, "ms percent launches")}},
}
_NETWORK = ("arch", "defects", "width", "image_size", "batch_size", "dtype")
CASE = {
    "layers": ("place", "dtype"),
    "step": ("work", *_NETWORK),
    "attacks": ("attack", "dataset", *_NETWORK),
    "convergence": ("dataset", "arch", "defects", "target", "recipe", "seed"),
    "roofline": ("operator", "kind", "pass", "place", "dtype", "detail"),
    "profile": ("work", *_NETWORK),
}
"""What tells cases of a benchmark apart, beside device and contestant."""


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


def prepared(row: dict, folder: str = "") -> dict:
    """A row with None where a field may be missing, and with what follows from the others.

    That is: ``device``, and whether it is a ``gpu``; ``versions`` of what is in ``VERSIONS``;
    ``folder`` of its file; ``place``, a site's name or an operator's shape; ``recipe``,
    how a network was trained; ``case``, what is measured, in words, without contestant and seed;
    ``contestant``, and whether it is ``ours``; the ``median`` of its times in microseconds;
    ``moment`` in UTC and ``commit`` at which it was measured; ``run``, equal in rows that one
    command measured side by side: clocks and temperatures drift between two.
    """
    text = json.dumps(row, sort_keys=True)
    row = dict.fromkeys(_HEAD | FIELDS[row["benchmark"]]) | row
    name = row["backend"] if row["benchmark"] == "roofline" else row["contestant"]
    settings = {key: (row["settings"] or {}).get(key) for key in _RECIPE}
    said = (f"{k.replace('_', ' ')} {v}" for k, v in settings.items() if v is not None)
    place = row["site"]["name"] if "site" in row else "x".join(map(str, row.get("shape", ())))
    machine = row["machine"]
    row |= {
        "text": text,
        "folder": folder,
        "device": machine["device"],
        "gpu": machine["kind"] == "cuda",
        "versions": tuple(str(machine.get(part) or "-") for part in VERSIONS),
        "place": place,
        "recipe": ", ".join(said),
        "contestant": name,
        "ours": name in (OURS, "triton") or name.startswith("fused"),
        "median": row.get("times", {}).get("median_us"),
        "moment": moment(row["time"]),
        "commit": machine.get("commit") or "unknown",
        "run": json.dumps([row["time"], machine], sort_keys=True),
    }
    return row | {"case": _words(row)}


def _words(row: dict) -> str:
    match row["benchmark"]:
        case "layers":
            return f"{row['place']}, {row['dtype']}"
        case "roofline":
            return ", ".join(row[name] for name in CASE["roofline"] if row[name])
        case "convergence":
            return f"{row['arch']} {row['defects']}, {row['dataset']} to {row['target']:.1%}"
    work = row.get("work") or row.get("attack") or "train"
    width = "" if row["width"] is None else f"width {row['width']}, "
    size = f"{width}{row['image_size']} pixels, batch {row['batch_size']}"
    return f"{row['arch']} {row['defects']}, {work}, {row['dtype']}, {size}"


@dataclass
class Loaded:
    """What the files hold.

    Attributes:
        files: those that were read, with the number of rows used and of damaged lines.
        unknown: rows of benchmarks that the page does not know, by benchmark.
        rows: the newest of every case, in the order of the files, each with ``"before"``, the
            newest at the commit before (None if there is none), and ``"older"``, how many it
            supersedes.
    """

    files: dict[Path, tuple[int, int]] = field(default_factory=dict)
    unknown: Counter = field(default_factory=Counter)
    rows: list[dict] = field(default_factory=list)

    def digest(self) -> str:
        """Of all rows that a page may show, whatever folder they are in."""
        shown = (each["text"] for row in self.rows for each in (row["before"], row) if each)
        return hashlib.sha256("\n".join(shown).encode()).hexdigest()


def load(paths: Iterable[Path]) -> Loaded:
    """Read result files, and all ``*.jsonl`` below folders.

    Lines that are no JSON objects, such as half-written ones, are counted.

    Raises:
        UserError: a path does not exist, a folder or file has no results, a file is no JSON lines,
            a row lacks a field of its benchmark.
    """
    loaded = Loaded()
    cases: dict[tuple, list[dict]] = {}
    for path in _result_files(paths):
        lines = list(_lines(path))
        objects = [(number, row) for number, row in lines if row is not None]
        if not objects:
            what = "is no file of JSON lines" if lines else "is empty"
            raise UserError(
                f"{path} {what}; give a file that 'scotoma bench layers' or another measurement "
                "wrote"
            )
        used = 0
        for number, row in objects:
            name = row.get("benchmark")
            name = name if isinstance(name, str) else "(none named)"
            if name not in FIELDS:
                loaded.unknown[name] += 1
                continue
            if fault := wrong(row, _HEAD | FIELDS[name]):
                raise UserError(
                    f"{path}:{number}: this row of {name} has no {fault}, or another value than "
                    f"'scotoma bench {name}' writes; remove the line or measure again"
                )
            used += 1
            row = prepared(row, str(path.parent))
            case = tuple(row[key] for key in ("gpu", "device", "contestant", *CASE[name]))
            cases.setdefault((name, *case), []).append(row)
        loaded.files[path] = used, len(lines) - len(objects)
    loaded.rows = [_newest(rows) for rows in cases.values()]
    return loaded


def _newest(rows: Sequence[dict]) -> dict:
    """Of rows of the same second, the one that was read last counts as the newer."""
    by_commit: dict[str, dict] = {}
    for row in sorted(rows, key=lambda row: row["moment"]):
        by_commit.pop(row["commit"], None)
        by_commit[row["commit"]] = row
    *before, newest = by_commit.values()
    return newest | {"before": before[-1] if before else None, "older": len(rows) - 1}


def _result_files(paths: Iterable[Path]) -> list[Path]:
    """Every file once, those of a folder by name. Raises UserError."""
    found: dict[Path, Path] = {}
    for path in paths:
        files = sorted(p for p in path.rglob("*.jsonl") if p.is_file()) if path.is_dir() else [path]
        if not files or not path.exists():
            fault = "does not exist" if files else "holds no results (no *.jsonl below it)"
            raise UserError(
                f"{path} {fault}; give JSON-lines files of 'scotoma bench', or folders that "
                "measurements wrote to, such as bench/results"
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _lines(path: Path) -> Iterator[tuple[int, dict | None]]:
    """(number, the object there; None for a line that holds none), blank lines left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; give a JSON-lines file of 'scotoma bench'"
        ) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else None


# Rows side by side.


def grouped(rows: Iterable[dict], *names: str) -> dict[tuple, list[dict]]:
    """Rows that share these fields, in the order in which they first appear."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def by_contestant(rows: Iterable[dict]) -> dict[str, dict]:
    return {row["contestant"]: row for row in rows}


def of(rows: Iterable[dict], benchmark: str) -> list[dict]:
    return [row for row in rows if row["benchmark"] == benchmark]


def ordered(names: Iterable[str]) -> list[str]:
    """Distinct names of contestants: known ones in their order, the others by the alphabet."""
    return sorted(set(names), key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))


def sound(row: dict) -> bool:
    """Measured, and without problems."""
    return bool(row["times"]) and not row["problems"]


def best(rows: Iterable[dict], fit: Callable[[dict], Any] = sound) -> dict:
    """The fastest of our rows that are fit for it; empty if there is none."""
    ours = (row for row in rows if row["ours"] and fit(row))
    return min(ours, key=lambda row: row["median"], default={})


def rate(row: dict, quantile: str = "median_us") -> float | None:
    """Images per second of a step row, at a quantile of its times."""
    if not row or not row["times"]:
        return None
    if row["images_per_s"] is None:
        return row["batch_size"] * 1e6 / row["times"][quantile]
    return row["images_per_s"] * row["median"] / row["times"][quantile]


def speedup(row: dict, rival: dict | None) -> float | None:
    """How many times faster ``row`` is than ``rival``; None unless one run measured both."""
    if not row or not rival or row["run"] != rival["run"]:
        return None
    return rival["median"] / row["median"] if rival["median"] and row["median"] else None


def by_dtype(rows: Sequence[dict], guest: str, *place: str) -> dict[tuple, list[dict]]:
    """(dtype, *place) -> rows; a guest has a dtype of its own, and stands in every group of its
    place."""
    hosts = (row for row in rows if row["contestant"] != guest)
    groups = grouped(hosts, "dtype", *place)
    guests = (row for row in rows if row["contestant"] == guest)
    for own, joining in grouped(guests, "dtype", *place).items():
        for key in [key for key in groups if key[1:] == own[1:]] or [own]:
            groups.setdefault(key, []).extend(joining)
    return groups


def step_groups(rows: Iterable[dict]) -> dict[tuple, list[dict]]:
    """(dtype, work, width, image size) -> rows, the reference in every group of its sizes."""
    groups = by_dtype(of(rows, "step"), REFERENCE, "work", "width", "image_size")

    def place(key: tuple) -> tuple:
        work = WORKS.index(key[1]) if key[1] in WORKS else len(WORKS)
        return work, key[1], key[0], *map(str, key[2:])

    return {key: groups[key] for key in sorted(groups, key=place)}


def step_cases(rows: Iterable[dict]) -> dict[tuple, dict[str, dict]]:
    """(architecture, defects, batch) -> contestant -> row, of one group; smaller batches first."""
    found = grouped(rows, "arch", "defects", "batch_size")
    cases = sorted(found, key=lambda case: (case[0], case[1] != "standard", *case[1:]))
    return {case: by_contestant(found[case]) for case in cases}


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

    def rank(row: dict) -> tuple:
        # Eager float16 may be there without a run of this group's format.
        name = row["contestant"]
        return name == OURS, name != FLOAT16_RIVAL, row["time"]

    groups: dict[str, list[dict]] = {}
    for (dtype, _), site in by_dtype(of(rows, "layers"), FLOAT16_RIVAL, "place").items():
        run = max(reversed(site), key=rank)["run"]
        groups.setdefault(dtype, []).extend(row for row in site if row["run"] == run)
    return dict(sorted(groups.items()))


def layer_clock(rows: Iterable[dict]) -> str:
    """Graph replay, where any row has it."""
    return "graph" if any("graph" in r["times"].get("cold", {}) for r in rows) else "wall"


def layer_time(row: dict | None, cache: str, clock: str, step: str) -> dict:
    """Quantiles of a call in microseconds; empty where it was not measured."""
    return row["times"].get(cache, {}).get(clock, {}).get(step, {}) if row else {}


def slower_sites(rows: Iterable[dict]) -> tuple[int, list[str]]:
    """How many pairs of times were compared, and a line for each site and rival that we lose to."""
    compared, lines = 0, []
    ways = list(product(("cold", "hot"), ("graph", "wall"), PASSES))
    for site, found in by_site(rows).items():
        for name in (name for name in found if name != OURS):
            slower = []
            for way in ways:
                own, other = (layer_time(found.get(each), *way) for each in (OURS, name))
                if own and other:
                    compared += 1
                    times = own["median_us"] / other["median_us"]
                    slower += [f"{' '.join(way)} {times:.2f}x"] if times > 1 else []
            if slower:
                lines.append(f"{site}: slower than {name}: {', '.join(slower)}")
    return compared, lines


def convergence_cases(rows: Iterable[dict]) -> dict[tuple, dict[str, list[dict]]]:
    """(data set, architecture, defects, target, recipe) -> contestant -> a row for each seed."""
    by_seed = sorted(of(rows, "convergence"), key=lambda row: row["seed"])
    cases = grouped(by_seed, *CASE["convergence"][:-1])
    return {
        case: {name: runs for (name,), runs in grouped(found, "contestant").items()}
        for case, found in cases.items()
    }


def seconds(rows: Sequence[dict], name: str = "seconds_to_target") -> float | None:
    """The mean over seeds; None if one missed the target, or there are none."""
    values = [row[name] for row in rows]
    return None if not values or None in values else statistics.fmean(values)


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
