"""A page from what was made: verdicts, tables, pictures, settings, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...report.document import Block, Document, Heading, Paragraph
from ..experiment import Made
from ..graph.artefact import closure
from ..graph.plan import Failure
from ..judge import Verdict
from ..published import Published
from .drawings import pictures
from .facts import read_facts
from .grid import read_grid
from .head import banner, title, verdict_blocks
from .record import record
from .settings import settings_blocks
from .tables import table_blocks


@dataclass(frozen=True)
class Page:
    """A page of a table or figure.

    Attributes:
        document: for people. record: every number, plain values (:func:`.record.record`).
    """

    document: Document
    record: Mapping[str, Any]


def build_page(
    made: Made,
    published: Published | None,
    verdicts: Sequence[Verdict],
    failures: Sequence[Failure],
    commit: str | None,
    when: str,
) -> Page:
    """The page; equal for equal arguments, files and versions of matplotlib.

    Args:
        published: the paper's numbers, or None where it prints none. failures: of the whole
            command; those that do not concern this table are left out.
        commit: of the source tree. when: the page was made, for people.

    Raises:
        UserError: a damaged file of an artefact, which it names.
    """
    needed = {artefact.key for artefact in closure(made.experiment.wanted())}
    failures = [failure for failure in failures if failure.artefact.key in needed]
    grid = read_grid(made, published, failures)
    facts = read_facts(made)
    blocks: list[Block] = [banner(made.definition, made.setup), *verdict_blocks(verdicts)]
    tables = table_blocks(grid, len(made.setup.seeds), failures)
    blocks += [Heading(2, "Numbers"), *tables] if tables else []
    drawn = pictures(made, grid)
    if drawn:
        blocks += [Heading(2, "Pictures"), *drawn]
    elif not tables:
        blocks.append(Paragraph("Nothing that this page could show has been made."))
    blocks += settings_blocks(made, facts, commit, when)
    document = Document(title(made.definition), blocks)
    return Page(document, record(made, grid, verdicts, failures, commit, when))
