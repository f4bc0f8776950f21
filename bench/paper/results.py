"""Results that are kept and passed on: all numbers of several tables and figures in one small file,
from which anybody can check a rate against its images, and go on (``results_page.py``).

``results.json`` has a line for each artefact: of an evaluation its cells as they are, of a choice
of images their numbers, of a network or an adversarial set what its own file tells of its making.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...defective.errors import UserError
from ...defective.serialization import atomic_path, check_seal, seal
from ...train.datasets import DATASETS
from ...train.pages import clean
from ...train.store import write_record
from .artefacts import Result, Sample
from .budgets import BUDGETS
from .data import Data
from .experiment import Definition, Experiment, only_rows
from .provenance import read_records
from .setup import Setup
from .tables import definition
from .work import Artefact, Store, closure

FILE, FORMAT = "results.json", 1
_DATA = ("dataset", "content", "image_size", "train_limit", "lossy")
"""What is kept of data: no place on somebody's disk."""
_TOLD = ("seconds", "device", "versions", "warnings", "precision", "train_images", "test_images")
"""What is kept of the records of networks and sets, where it is there."""
_LARGEST = 2**53
"""Up to which floats hold every whole number."""
KINDS = {"train": "training", "set": "adversarial set", "result": "evaluation"}
"""Of artefacts whose files tell how long they took."""


@dataclass
class Results:
    """What a results file says.

    Attributes:
        setup: of everything in it; None before anything is.
        tables: {name: patterns of the rows that were chosen; none for all}.
        entries: {key of an artefact: what is kept of it}.
        estimate: {key: seconds} by dry runs, before it was made.
        commits: of the source trees that wrote it, the last at the end. when: it was written last.
    """

    setup: Setup | None = None
    tables: dict[str, list[str]] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    estimate: dict[str, float] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    when: str = ""

    @property
    def told(self) -> dict[str, dict[str, Any]]:
        """{key: record} of networks and sets, as :class:`Store` takes it."""
        return {key: entry["told"] for key, entry in self.entries.items() if "told" in entry}

    def built(self) -> list[tuple[Definition, Experiment]]:
        """Its tables and figures. Raises UserError if there is no such table, or row."""
        found = []
        for name, patterns in self.tables.items():
            each = definition(name)
            experiment = each.build(self.setup)
            found.append((each, only_rows(experiment, patterns, name) if patterns else experiment))
        return found

    def artefacts(self) -> list[Artefact]:
        """All that its tables and figures need, inputs first. Raises UserError as :meth:`built`."""
        return closure(each for _, experiment in self.built() for each in experiment.wanted())

    def restore(self, artefacts: Iterable[Artefact], store: Store) -> None:
        """Write the files of evaluations and choices of images that it has, and the store has not;
        tell the store of the others. Raises UserError if an entry is damaged."""
        store.told = {**store.told, **self.told}
        for each in artefacts:
            content = self.entries.get(each.key, {}).get("content")
            if content is None or each.is_done(store):
                continue
            path = each.path(store)
            if isinstance(each, Sample):
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(path) as temporary:
                    temporary.write_text(json.dumps(content) + "\n")
            else:
                write_record(path, {"key": each.key, **content})
            try:
                each.read(store)  # checks it
            except UserError:
                path.unlink()
                raise UserError(
                    f"{FILE}: its entry of {each.label} ({each.key}) is damaged"
                ) from None

    def collect(self, store: Store) -> None:
        """Take what the store has of its tables, and leave out what none of them needs any more.
        Raises UserError on a damaged file, which it names."""
        entries = {}
        artefacts = self.artefacts()
        for each in artefacts:
            entry = _entry(each, store) if each.is_done(store) else self.entries.get(each.key)
            if entry is not None:
                entries[each.key] = entry
        self.entries = entries
        known = {each.key for each in artefacts}
        self.estimate = {key: s for key, s in self.estimate.items() if key in known}

    def made_anew(self) -> dict[str, list[str]]:
        """{label of an adversarial set: labels of the evaluations} where these have not all met the
        same images: a source that is trained again elsewhere, and its set, differ a little."""
        met: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for each in self.artefacts():
            if isinstance(each, Result) and each.protocol == "transfer":
                for cell in self.entries.get(each.key, {}).get("content", {}).get("cells", ()):
                    content = cell["identity"]["set"]["content"]
                    met[each.images.label][content].append(each.label)
        return {
            label: [name for names in several.values() for name in names]
            for label, several in met.items()
            if len(several) > 1
        }

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all: a line for each artefact. Raises OSError."""
        setup = self.setup
        data = {
            role: {name: getattr(each, name) for name in _DATA} for role, each in setup.data.items()
        }
        for each in data.values():
            each["dataset"] = _without_place(each["dataset"])
        record = seal(
            {
                "format": FORMAT,
                "budget": setup.budget.name,
                "seeds": list(setup.seeds),
                "images": setup.images,
                "data": data,
                "tables": self.tables,
                "estimate": self.estimate,
                "commits": self.commits,
                "when": self.when,
                "artefacts": self.entries,
            }
        )
        lines = [f" {_dumps(name)}: {_dumps(value)}" for name, value in record.items()]
        inside = ",\n".join(f"  {_dumps(k)}: {_dumps(e)}" for k, e in self.entries.items())
        lines[list(record).index("artefacts")] = f' "artefacts": {{\n{inside}\n }}'
        with atomic_path(folder / FILE) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _without_place(dataset: str) -> str:
    """A folder's own name. One named like a data set stays a folder: that has another key."""
    if dataset in DATASETS or not dataset:
        return dataset
    name = Path(dataset).name or "folder"  # "/" has none
    return f"./{name}" if name in DATASETS else name


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(", ", ": "))


def _entry(artefact: Artefact, store: Store) -> dict[str, Any] | None:
    """What is kept of an artefact whose file is there; None of those that are made of nothing."""
    entry: dict[str, Any] = {"kind": artefact.kind, "label": artefact.label}
    if artefact.kind == "sample":
        indices, details = artefact.read(store)
        return entry | {"content": {"indices": indices.tolist(), "details": details}}
    if artefact.kind == "result":
        artefact.read(store)  # checks it
        cells = json.loads(artefact.path(store).read_text())["cells"]
        kept = [{name: cell[name] for name in ("identity", "results", "made")} for cell in cells]
        return entry | {"content": {"cells": kept}}
    if artefact.kind in KINDS:
        (record,) = read_records(artefact, store)
        return entry | {"told": {name: record[name] for name in _TOLD if name in record}}
    return None


def read_results(folder: Path) -> Results:
    """What a folder's file says; nothing yet where there is none.

    Raises:
        UserError: it cannot be read, is no results file of this version, or was edited.
    """
    path = folder / FILE
    if not path.exists():
        return Results()
    try:
        text = path.read_text(encoding="utf-8")
        read = {"parse_int": _number, "parse_float": _number, "parse_constant": _number}
        record = json.loads(text, **read)
        check_seal(record, path, "take it from where it came from again")
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}; this version reads {FORMAT}")
        data = {role: _read_data(role, found) for role, found in record["data"].items()}
        seeds = tuple(int(seed) for seed in record["seeds"])
        if record["images"] not in ("common", "source"):
            raise ValueError(f"images is {record['images']!r}")
        setup = Setup(BUDGETS[record["budget"]], data, seeds, record["images"])
        tables = {name: [str(p) for p in found] for name, found in record["tables"].items()}
        entries = {key: _read_entry(entry) for key, entry in record["artefacts"].items()}
        commits = [str(each) for each in record["commits"]]
        if not tables:
            raise ValueError("it has no tables")
        estimate = {key: _seconds(found) for key, found in record["estimate"].items()}
        found = Results(setup, tables, entries, estimate, commits, str(record["when"]))
        known = {each.key for each in found.artefacts()}
        found.made_anew()  # fails where an identity is missing
        if strange := [key for key in entries if key not in known]:
            raise UserError(
                f"{len(strange)} of {len(entries)} entries are of other settings than this version "
                f"of scotoma has for its tables; use that of commit {(commits or ['unknown'])[-1]}"
            )
        return found
    except UserError as error:  # which may name what somebody else wrote there
        raise UserError(f"{path}: {clean(str(error))}") from None
    except (
        *(OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
        RecursionError,
    ) as error:
        reason = clean(f"{type(error).__name__}: {error}")[:200]
        raise UserError(f"{path}: no results of 'scotoma paper' ({reason})") from None


def _number(text: str) -> int | float:
    """A number as JSON has it, or its NaN. Raises ValueError if none of ours can be so large."""
    found = float(text)
    if not abs(found) < _LARGEST:
        raise ValueError(f"a number is {text[:20]}")
    return int(text) if text.lstrip("-").isdigit() else found


def _read_data(role: str, found: Mapping[str, Any]) -> Data:
    """Raises ValueError, TypeError or KeyError unless it is what :meth:`Results.write` keeps."""
    kinds = {"dataset": str, "content": str, "lossy": bool}
    if set(found) != set(_DATA):
        raise ValueError(f"data of {role} have {sorted(found)}")
    for name, value in found.items():
        if not isinstance(value, kinds.get(name, int | None)):
            raise ValueError(f"{name} of {role} is {value!r}")
    return Data(role, **found)


def _read_entry(found: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValueError, TypeError or KeyError as :func:`_read_data`."""
    entry = dict(found)
    if "content" in entry:
        entry["content"] = dict(entry["content"])
    if "told" in entry:
        told = {name: entry["told"][name] for name in _TOLD if name in entry["told"]}
        for name in ("train_images", "test_images"):
            if not isinstance(told.get(name), int | None):
                raise ValueError(f"{name} is {told[name]!r}")
        entry["told"] = told | {
            "seconds": _seconds(told["seconds"]),
            "warnings": [str(each) for each in told["warnings"]],
        }
    return entry


def _seconds(found: Any) -> float:
    if (seconds := float(found)) < 0:
        raise ValueError(f"seconds are {found!r}")
    return seconds
