"""Results that are kept and passed on: all numbers of several tables and figures in one small file,
and one page of what they say of the paper's claims.

``scotoma paper table4 table5 --results FOLDER`` writes them, and makes nothing again that FOLDER
has. ``scotoma paper page FOLDER`` writes the page anew, from the file alone: rates are checked
against the images that they count, and every verdict is reached again.

``results.json`` has a line for each artefact: of an evaluation its cells as they are, of a choice
of images their numbers, of a network or an adversarial set what its own file tells of its making.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...defective.errors import UserError, counted
from ...defective.serialization import atomic_path, check_seal, seal
from ...train.datasets import DATASETS
from ...train.pages import Inline, Page, badge, clean, code, joined, soft, strong, write_files
from ...train.screen import Progress, make_console, show
from ...train.settings import make_parser
from ...train.store import write_record
from ..harness import commit
from .artefacts import Context, Result, Sample
from .budgets import BUDGETS
from .claims import claims_of
from .data import Data
from .experiment import Definition, Experiment, Made, only_rows
from .judge import Verdict
from .page import BANNERS, TONES, read_grid, tally, tell_numbers, title
from .pictures import of_page
from .provenance import command, duration, read_origin, read_records, tell_settings
from .reproduce import judged
from .setup import Setup
from .tables import definition
from .work import Artefact, Store, closure

if TYPE_CHECKING:
    from .cost import Cost
    from .provenance import Origin

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


class Keeper:
    """``--results`` of a command that makes tables.

    Args:
        folder: of the results file and its page. setup: what the command makes them with.
        experiments: {name: what is made}.

    Raises:
        UserError: before any work: the file is damaged or of another setup; or the experiments are
            made of images, which no such file has.
    """

    def __init__(self, folder: Path, setup: Setup, experiments: Mapping[str, Experiment]):
        for name, each in experiments.items():
            if each.attached or "imagenet" in setup.data:
                raise UserError(
                    f"--results {folder}: the file keeps numbers, and not the images that {name} "
                    "shows or cuts up; make it by a command of its own, without --results"
                )
        self.folder, self.setup = folder, setup
        self.tables = {name: list(each.only) for name, each in experiments.items()}
        self.read()
        with self._writing():  # hours later it would be too late
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass

    def read(self) -> Results:
        """What the file says now, with what the command makes beside it. Raises UserError."""
        found = read_results(self.folder)
        if found.setup is not None:
            _check_alike(self.folder, found.setup, self.setup)
        former = {} if found.setup is None else found.setup.data
        setup = replace(self.setup, data={**former, **self.setup.data})
        tables = dict(found.tables)
        for name, patterns in self.tables.items():  # none means all, and nothing is to be lost
            both = [*tables.get(name, patterns), *patterns]
            tables[name] = list(dict.fromkeys(both)) if patterns and tables.get(name, True) else []
        return replace(found, setup=setup, tables=tables)

    def estimated(self, cost: Cost) -> None:
        """Keep what a dry run measured of what is left to make, if anything is. Raises UserError if
        the folder cannot be written to."""
        if cost.seconds is None or not cost.plan.missing:
            return
        told = [each for each in cost.plan.to_make() if each.kind in KINDS]
        found = self.read()
        found.estimate |= {each.key: round(cost.seconds[each.key], 1) for each in told}
        with self._writing():
            found.write(self.folder)

    def keep(self, context: Context) -> None:
        """Write the file, with whatever is there, and its page, and say where.

        Raises:
            UserError: a damaged file of an artefact, or a folder that cannot be written to.
        """
        with context.store.alone("results"):  # several commands may end at the same time
            found = self.read()
            found.collect(context.store)
            source = commit() or "unknown"
            found.commits = [*(each for each in found.commits if each != source), source]
            found.when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
            with self._writing():
                found.write(self.folder)
            there = read_results(self.folder)  # as whoever gets it
            page, *_ = write_page(self.folder, there, context.screen)
        context.screen.line(f"results     {page}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"--results {self.folder}: cannot be written to ({reason}); give another"
            ) from None


def _check_alike(folder: Path, former: Setup, setup: Setup) -> None:
    """Raises UserError unless numbers of both can stand on one page."""
    apart = [
        (name, was, now)
        for name, was, now in (
            ("--budget", former.budget.name, setup.budget.name),
            ("--images", former.images, setup.images),
            ("--seeds", list(former.seeds), list(setup.seeds)),
            *(
                (f"--data {role}", former.data[role].settings(), data.settings())
                for role, data in setup.data.items()
                if role in former.data
            ),
        )
        if was != now
    ]
    for name, was, now in apart:
        raise UserError(
            f"--results {folder}: what it has was made with {name} {was}, not {now}; give another "
            "folder, or the same option"
        )


# The page.


def write_page(folder: Path, results: Results, screen: Progress) -> list[Path]:
    """Write ``index.md`` and its pictures from a results file alone. Returns the files, the page
    first.

    Raises:
        UserError: a damaged entry, which it names, or a file that cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        results.restore(results.artefacts(), store)
        # No batch size: commands that wrote the file may have had several.
        context = Context(store, torch.device("cpu"), screen, batch_size=0)
        page = build_page(folder, results, context)
        files = page.files(folder / "index.md")
    write_files(files)
    return list(reversed(files))


def build_page(folder: Path, results: Results, context: Context) -> Page:
    """Claims first, then each table and figure, then how all of it was made."""
    setup, budget = results.setup, results.setup.budget
    page = Page(f"Results at the budget {budget.name}", folder)
    found = [(each, *judged(each, setup, what, context)) for each, what in results.built()]
    page.paragraph(
        strong(f"Budget {budget.name}:"),
        f" {BANNERS.get(budget.name, '')}",
        f" {budget.description[:1].upper()}{budget.description[1:]}.",
    )
    page.heading("Claims")
    everything = _distinct([(each, verdict) for each, _, vs in found for verdict in vs])
    page.paragraph(tally([verdict for _, verdict in everything]))
    page.table((_CLAIMS, [_claim(*each) for each in everything]), words=2)
    page.paragraph(_ABOUT_CLAIMS)
    for label, names in results.made_anew().items():
        page.paragraph(
            strong("Not all on the same images:"),
            f" the adversarial images {label} were made more than once, on machines that round "
            f"otherwise, and these evaluations have met different ones: {', '.join(names)}.",
        )
    for each, made, verdicts in found:
        page.heading(title(each))
        page.paragraph(soft(each.where), " ", tally(verdicts))
        grid = read_grid(made, ())
        tell_numbers(page, grid, len(setup.seeds))
        for picture in of_page(made, grid, title(each)):
            page.picture(*picture)
        with page.folded("Settings, and the evidence for each verdict"):
            page.bullets(made.experiment.settings)
            page.bullets((strong(v.verdict), f": {v.claim} ", soft(v.evidence)) for v in verdicts)
    page.heading("How it was made")
    whole = _together([made for _, made, _ in found])
    origin = read_origin(whole)
    again = f"{command(whole)} --results FOLDER"
    tell_settings(page, whole, origin, _written(results, origin), again, bool(everything))
    return page


_CLAIMS = (
    "claim",
    "verdict",
    "comparisons",
    "mean effect",
    "weakest effect",
    "N",
    "seeds",
    "where",
)
_ABOUT_CLAIMS = (
    "A claim is a number of comparisons, and supported if all of them hold. The weakest effect is "
    "that of the comparison which stands worst: reversed before open, open before holding, then "
    "the least in favour of the claim; with its 95 % interval. N is the number of images behind "
    "it, seeds the number of trainings of each network. How verdicts are reached stands at the end."
)


def _distinct(found: Sequence[tuple[Definition, Verdict]]) -> list[tuple[Definition, Verdict]]:
    """Without what is said again: a claim about two tables stands on the page of each."""
    kept: list[tuple[Definition, Verdict]] = []
    for each, verdict in found:
        twice = {
            name for c in claims_of(each.name) if c.text == verdict.claim for name in c.elsewhere
        }
        if not any(v.claim == verdict.claim and one.name in twice for one, v in kept):
            kept.append((each, verdict))
    return kept


def _claim(each: Definition, found: Verdict) -> list[Inline]:
    effect = found.effect
    counts = [f"{found.holds} hold", f"{found.open} open", f"{found.reversed} reversed"]
    if found.missing:
        counts.append(f"{counted(len(found.missing), 'number')} missing")
    word = badge(found.verdict, TONES.get(found.verdict.rpartition(": ")[2], "open"))
    name = title(each).partition(":")[0] + " (not in the paper)" * each.ours
    if effect is None:
        return [found.claim, word, joined(counts), "", "", "", "", name]
    shown = (
        joined([f"{e.told} {e.interval}".strip(), soft(e.where)]) for e in (found.mean, effect)
    )
    n = f"{effect.n:,}" if effect.n else "-"
    return [found.claim, word, joined(counts), *shown, n, str(effect.seeds), name]


def _written(results: Results, origin: Origin) -> list[Inline]:
    """Hours, beside those of the dry run, and where the page comes from."""
    lines: list[Inline] = []
    took, guessed = 0.0, 0.0
    for kind, word in KINDS.items():
        seconds = {
            each.key: sum(record["seconds"] for record in origin.told[each.key])
            for each in origin.of(kind)
            if each.key in origin.told
        }
        told = f"{counted(len(seconds), word)} took {duration(sum(seconds.values()))}"
        if both := seconds.keys() & results.estimate.keys():
            took += (those := sum(seconds[key] for key in both))
            guessed += (guess := sum(results.estimate[key] for key in both))
            told += f"; {len(both):,} of them {duration(those)}, estimated before {duration(guess)}"
        lines.append(f"{told}.")
    if guessed:
        lines.append(
            f"What a dry run had estimated at {duration(guessed)} took {duration(took)}, one after "
            "the other."
        )
    if left := sum(s for key, s in results.estimate.items() if key not in origin.told):
        lines.append(f"What is not made yet was estimated at {duration(left)}.")
    commits = joined((code(each) for each in results.commits), ", ")
    if results.when:  # a dry run has written no numbers
        whose = f" by the source tree of commit{'s' * (len(results.commits) > 1)} "
        lines.append(("Written on ", results.when, whose, commits, "."))
    lines.append(
        (
            "Every number is in ",
            code(FILE),
            " beside this page, from which ",
            _AGAIN,
            " writes it anew.",
        )
    )
    return lines


_AGAIN = code("scotoma paper page FOLDER")


def _together(several: Sequence[Made]) -> Made:
    """Tables and figures as one, for what is said of all of them: how they were made."""
    first = several[0]
    experiments = [each.experiment for each in several]
    definitions = [each.definition for each in several]

    def union(lines: Iterable[Iterable[str]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line for found in lines for line in found))

    attacks: dict[str, str] = {}
    for each in experiments:
        for name, text in each.attacks.items():
            attacks.setdefault(name, text)
    return replace(
        first,
        definition=replace(
            first.definition,
            name=" ".join(each.name for each in definitions),
            roles=union(each.roles for each in definitions),
            stylized=any(each.stylized for each in definitions),
        ),
        experiment=Experiment(
            rows=(),
            columns=(),
            cells={
                (each.definition.name, str(place)): measures
                for each in several
                for places in (each.experiment.cells, each.experiment.asides)
                for place, measures in places.items()
            },
            notes=union(each.notes for each in experiments),
            only=tuple(
                f"{each.definition.name}:{pattern}"
                for each in several
                for pattern in each.experiment.only
            ),
            attacks=attacks,
        ),
    )


def main(argv: list[str]) -> int:
    """``scotoma paper page``. Returns the exit status. Raises UserError as :func:`write_page`."""
    parser = make_parser("paper page", _TEXT)
    parser.add_argument(
        "folder", metavar="FOLDER", help="that --results was given, with results.json"
    )
    folder = Path(parser.parse_args(argv).folder)
    results = read_results(folder)
    if results.setup is None:
        raise UserError(f"{folder}: no {FILE} in it; expected a folder that --results was given")
    with Progress() as screen:
        page, *_ = write_page(folder, results, screen)
    show(make_console(), f"page  {page}")
    return 0


_TEXT = """\
Write the page of a folder of results (scotoma paper NAME --results FOLDER) anew, from its
results.json alone: no network, no image."""
