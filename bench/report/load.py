"""Result files, read line by line: the newest row of every case, and the newest before it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ...defective.errors import UserError
from . import schema

LONGEST_LINE = 2**24
"""Bytes; a longer line is no row, and is not held in memory."""


@dataclass
class Loaded:
    """What the files hold.

    Attributes:
        files: those that were read, with the number of rows used from each.
        damaged: per file, lines that are no JSON objects or lack a field of their benchmark.
        unknown: rows of benchmarks that the page does not know, by benchmark.
        cases: case -> its newest row of each of the two commits that measured it last, newest
            first.
        superseded: rows that are not the newest of their case, by (kind, device).
    """

    files: dict[Path, int] = field(default_factory=dict)
    damaged: dict[Path, Counter] = field(default_factory=dict)
    unknown: Counter = field(default_factory=Counter)
    cases: dict[tuple, list[Entry]] = field(default_factory=dict)
    superseded: Counter = field(default_factory=Counter)

    def devices(self, kind: str) -> list[str]:
        return sorted({case[1] for case in self.cases if case[0] == kind})

    def rows(self, kind: str, device: str) -> list[dict]:
        """The newest row of every case of a device, in the order of the files."""
        return [e[0].row for case, e in self.cases.items() if case[:2] == (kind, device)]

    def pairs(self, kind: str, device: str) -> list[tuple[dict, dict]]:
        """(row at the commit before, newest row) of the cases that two commits measured."""
        return [
            (e[1].row, e[0].row)
            for case, e in self.cases.items()
            if case[:2] == (kind, device) and len(e) > 1
        ]


@dataclass
class Entry:
    commit: str
    time: datetime
    row: dict
    path: Path


def load(paths: Iterable[Path]) -> Loaded:
    """Read result files, and all ``*.jsonl`` below folders.

    Each row gets ``"folder"``, where its file lies.

    Raises:
        UserError: a path does not exist, a folder or file has no results, a file is no JSON lines.
    """
    loaded = Loaded()
    for path in result_files(paths):
        _read(path, loaded)
    return loaded


def result_files(paths: Iterable[Path]) -> list[Path]:
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


def _read(path: Path, loaded: Loaded) -> None:
    loaded.files[path] = 0
    damaged, objects, lines = Counter(), 0, 0
    try:
        for line in _lines(path):
            lines += 1
            row = _parsed(line)
            if row is None:
                damaged["not a JSON object"] += 1
                continue
            objects += 1
            name = row.get("benchmark")
            name = name if isinstance(name, str) else "(none named)"
            if name not in schema.BENCHMARKS:
                loaded.unknown[name] += 1
                continue
            wrong = schema.fault(row)
            if wrong:
                damaged[f"{name} row whose field {wrong} is missing or wrong"] += 1
                continue
            loaded.files[path] += 1
            row = dict.fromkeys(schema.BENCHMARKS[name]) | row  # None where a field may be missing
            _keep(row | {"folder": str(path.parent)}, path, loaded)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; give a JSON-lines file of 'scotoma bench'"
        ) from error
    if not objects:
        what = "is no file of JSON lines" if lines else "is empty"
        raise UserError(
            f"{path} {what}; give a file that 'scotoma bench layers' or another measurement wrote"
        )
    if damaged:
        loaded.damaged[path] = damaged


def _lines(path: Path) -> Iterator[bytes | None]:
    """Lines that are not blank; None for one that is too long."""
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            if line.endswith(b"\n") or len(line) < LONGEST_LINE:
                if line.strip():
                    yield line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
            yield None


def _parsed(line: bytes | None) -> dict | None:
    def refuse(constant: str):
        raise ValueError(f"{constant} is no JSON")

    try:
        row = json.loads(line or b"", parse_constant=refuse, parse_float=schema.finite)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _keep(row: dict, path: Path, loaded: Loaded) -> None:
    case = schema.case(row)
    entry = Entry(schema.commit(row), schema.moment(row["time"]), row, path)
    entries = loaded.cases.setdefault(case, [])
    if entries:
        loaded.superseded[case[:2]] += 1
    same = next((e for e in entries if e.commit == entry.commit), None)
    if same is not None:
        if entry.time < same.time:
            return
        entries.remove(same)
    # Of rows of the same second, the one that was read last counts as the newer.
    entries.insert(0, entry)
    entries.sort(key=lambda e: e.time, reverse=True)
    del entries[2:]
