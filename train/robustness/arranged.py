"""Cells of an evaluation as rows and columns: which targets there are, and which attacks."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...defective.errors import UserError
from .labels import flat, names, natural, paper_order, short_attacks, told_apart

Cell = dict[str, Any]

RATES = {
    "clean": ("accuracy",),
    "transfer": ("defence", "defence_all"),
    "white-box": ("robust_accuracy", "defence"),
    "noise": ("accuracy",),
    "shuffle": ("accuracy",),
    "stylized": ("accuracy",),
}
"""The rates that a cell of a kind must have."""
RIGHT_FOR_ALL = ("boundary", "noise", "shuffle", "stylized")
"""Kinds whose images are chosen among those that all targets classify right."""
_FURTHER = {
    "transfer": ("relation",),
    "white-box": ("median_l2", "median_linf"),
    "boundary": ("score_median", "score_mean", "n", "statuses"),
    "noise": ("epsilon",),
    "shuffle": ("grid",),
}
_LABELS = {"clean": "clean accuracy", "stylized": "accuracy"}
# How the keys begin that say which images a cell is about.
_IMAGES = ("indices", "images", "fingerprint")


@dataclass(frozen=True)
class Column:
    """What one thing done to the images (an attack from a source, a noise) did to each target.

    Attributes:
        label: short, unique among the columns of its kind. source: name, or "" where there is
            none. attack: its short name. settings: everything that determines it but the target,
            plain values. cells: by the target's name.
    """

    label: str
    source: str
    attack: str
    settings: dict[str, Any]
    cells: dict[str, Cell]

    def settings_text(self) -> dict[str, str]:
        """Settings of all the cells by name, several values of one joined; the attack's apart."""
        found: dict[str, dict[str, None]] = {}
        for cell in self.cells.values():
            settings = settings_of(cell)
            for part in (settings, settings.get("set")):
                if isinstance(part, dict):
                    part.pop("attack", None)
            for key, value in flat(settings).items():
                found.setdefault(key.removeprefix("set."), {})[value] = None
        return {key: ", ".join(values) for key, values in found.items()}

    @property
    def results(self) -> dict[str, Any]:
        """Of the first target: what holds for all of them is the same in each."""
        return next(iter(self.cells.values()))["results"]


class Arranged:
    """Cells in an order that depends on nothing but what is in them.

    Args:
        cells: of :class:`scotoma.train.robustness.cells.Cells`, in any order.

    Raises:
        UserError: a cell without a result that its kind must have.

    Attributes:
        targets: names in the order of the paper's tables: by architecture, the standard network
            first, then the more of it is kept. Of two networks of one name each is called by its
            digest too.
    """

    def __init__(self, cells: Iterable[Cell]):
        self._cells = sorted(cells, key=lambda cell: json.dumps(cell, sort_keys=True))
        for cell in self._cells:
            _check(cell)
        self._names = names((_key(c, "target"), c["results"]["shown"]["target"]) for c in self)
        self._sources = names(
            (_key(c, "source"), c["results"]["shown"]["source"])
            for c in self
            if c["results"]["shown"].get("source")
        )
        order = {self.target(cell): paper_order(cell["results"]["shown"]) for cell in self}
        self.targets = sorted(order, key=lambda name: (order[name], natural(name)))

    def __iter__(self):
        return iter(self._cells)

    def target(self, cell: Cell) -> str:
        """The target's name, unique among all targets."""
        return self._names[_key(cell, "target")]

    def common(self) -> list[tuple[list[str], list[Column]]]:
        """(targets, columns) for each group of targets that was measured together, on the images
        of a set that all of them classify right."""
        groups: dict[str, list[Cell]] = {}
        for cell in self:
            if "defence_common" in cell["results"]:
                together = cell["identity"].get("images_common", "")
                groups.setdefault(together, []).append(cell)
        found = []
        for cells in groups.values():
            names = {self.target(cell) for cell in cells}
            ordered = [name for name in self.targets if name in names]
            found.append((ordered, self.columns("transfer", cells)))
        return sorted(found, key=lambda pair: (-len(pair[0]), pair[0]))

    def columns(self, kind: str, among: Iterable[Cell] | None = None) -> list[Column]:
        """Of one kind, sorted by source and attack, each with its targets in order."""
        cells = self if among is None else among
        groups = self._groups([cell for cell in cells if cell["kind"] == kind])
        found = [group[0] for group in groups]
        attacks = short_attacks([c["results"]["shown"].get("attack", "") for c in found])
        sources = [self._sources.get(_key(c, "source"), "") for c in found]
        pairs = zip(sources, attacks, strict=True)
        labels = [
            f"{a} from {s}" if s and a else s or a or _LABELS.get(kind, kind) for s, a in pairs
        ]
        labels = told_apart(labels, [settings_of(cell) for cell in found])
        columns = []
        for label, source, attack, group in zip(labels, sources, attacks, groups, strict=True):
            by_target = {self.target(cell): cell for cell in group}
            ordered = {name: by_target[name] for name in self.targets if name in by_target}
            columns.append(Column(label, source, attack, settings_of(group[0]), ordered))
        return sorted(columns, key=lambda c: (natural(c.source), natural(c.label)))

    def _groups(self, cells: list[Cell]) -> list[list[Cell]]:
        """Cells of equal settings. Where each target was attacked on images of its own, the choice
        of images does not part them; rates of images that all targets get right never mix."""
        strict: dict[str, list[Cell]] = {}
        loose: dict[str, list[Cell]] = {}
        for cell in cells:
            settings = settings_of(cell)
            strict.setdefault(json.dumps(settings, sort_keys=True), []).append(cell)
            rest = {k: v for k, v in settings.items() if not k.startswith(_IMAGES)}
            loose.setdefault(json.dumps(rest, sort_keys=True), []).append(cell)
        targets = [Counter(map(self.target, group)) for group in loose.values()]
        once = all(max(counts.values()) == 1 for counts in targets)
        once = once and not any(cell["kind"] in RIGHT_FOR_ALL for cell in cells)
        return list((loose if once else strict).values())

    def by(self, kind: str, result: str, setting: str) -> list[tuple[dict, dict]]:
        """Columns that differ in one setting alone, together: (other settings, {value: column}).

        Args:
            result: key of the results that holds the value to sort by. setting: its key in the
                identity.
        """
        groups: dict[str, dict[Any, Column]] = {}
        for column in self.columns(kind):
            rest = {k: v for k, v in column.settings.items() if k not in (setting, result)}
            group = groups.setdefault(json.dumps(rest, sort_keys=True), {})
            group[column.results[result]] = column
        return [
            (json.loads(rest), {value: group[value] for value in sorted(group)})
            for rest, group in sorted(groups.items())
        ]


def settings_of(cell: Cell) -> dict[str, Any]:
    """What determines a cell, but for the targets: its own, and those that it is compared with."""
    identity = copy.deepcopy(cell["identity"])
    return {k: v for k, v in identity.items() if not k.startswith(("target", "images_common"))}


def _required(kind: str) -> tuple[str, ...]:
    return ("shown", *RATES.get(kind, ()), *_FURTHER.get(kind, ()))


def _check(cell: Cell) -> None:
    kind, results = cell["kind"], cell["results"]
    missing = [k for k in _required(kind) if k not in results]
    if not missing and "target" not in results["shown"]:
        missing = ["shown.target"]
    for name, value in results.items():
        if isinstance(value, dict) and "rate" in value:
            missing += [f"{name}.{k}" for k in ("k", "n", "low", "high") if k not in value]
    missing += [k for k in RATES.get(kind, ()) if k in results and "rate" not in results[k]]
    if missing:
        raise UserError(
            f"cell {cell.get('label', '')!r} ({kind}): its results lack {missing[0]!r}; remove its "
            "file and evaluate again"
        )


def _key(cell: Cell, role: str) -> str:
    """The digest of a cell's target or source; its name where the identity has none."""
    identity = cell["identity"]
    if isinstance(identity.get("set"), dict) and role == "source":
        identity = identity["set"]
    found = {k: v for k, v in identity.items() if k.startswith(role)}
    name = cell["results"]["shown"].get(role, "")
    return "".join(map(str, found.values())) if found else str(name)
