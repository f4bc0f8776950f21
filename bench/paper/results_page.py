"""One page of what several tables and figures say of the paper's claims, and the commands of it.

``scotoma paper table4 table5 --results FOLDER`` keeps a results file there with its page, and makes
nothing again that FOLDER has. ``scotoma paper page FOLDER`` writes the page anew, from the file
alone: rates are checked against the images that they count, and every verdict is reached again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...defective.errors import UserError, counted
from ...train.pages import Inline, Page, badge, code, joined, soft, strong, write_files
from ...train.runfolder import alone_in
from ...train.screen import Progress, make_console, show
from ...train.settings import make_parser
from ..harness import commit
from .artefacts import Context
from .claims import claims_of
from .experiment import Definition, Experiment, Made
from .judge import Verdict
from .page import BANNERS, TONES, read_grid, tally, tell_numbers, title
from .pictures import of_page
from .provenance import command, duration, read_origin, tell_settings
from .reproduce import judged
from .results import FILE, KINDS, Results, read_results
from .setup import Setup
from .work import Store

if TYPE_CHECKING:
    from .cost import Cost
    from .provenance import Origin


_WORK = "another command with these --results"


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
        with alone_in(self.folder, _WORK, wait=True), self._writing():
            found = self.read()
            found.estimate |= {each.key: round(cost.seconds[each.key], 1) for each in told}
            found.write(self.folder)

    def keep(self, context: Context) -> None:
        """Write the file, with whatever is there, and its page, and say where.

        Raises:
            UserError: a damaged file of an artefact, or a folder that cannot be written to.
        """
        with alone_in(self.folder, _WORK, wait=True):  # several commands may end at the same time
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
            told += f"; {len(both):,} of them {duration(those)}, estimated at {duration(guess)}"
        lines.append(f"{told}.")
    if guessed:
        lines.append(
            f"What a dry run estimates at {duration(guessed)} took {duration(took)}, one after "
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
