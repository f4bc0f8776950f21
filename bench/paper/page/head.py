"""A page's beginning: its title, what the budget can show, and a verdict on every claim."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...report.document import (
    Badge,
    Block,
    Break,
    Bullets,
    Heading,
    Inline,
    Paragraph,
    Soft,
    Strong,
)
from ..experiment import Definition
from ..judge import NOT_DECIDABLE, NOT_SUPPORTED, SUPPORTED, Verdict
from ..setup import Setup
from .wording import count

BANNERS = {
    "smoke": "shows that the machinery works, on other data: decides nothing about the paper.",
    "quick": "not the paper's recipe.",
}
TONES = {SUPPORTED: "good", NOT_SUPPORTED: "bad", NOT_DECIDABLE: "open"}


def title(definition: Definition) -> str:
    """ "Table 4: transfer between five architectures on CIFAR-10"."""
    return f"{numbered(definition.name)}: {definition.title}"


def numbered(name: str) -> str:
    """ "Table 4" of "table4"."""
    word, number = re.fullmatch(r"(\D*)(\d*)", name).groups()
    return f"{word.capitalize()} {number}".strip()


def banner(definition: Definition, setup: Setup) -> Block:
    """What the numbers below are good for, in a line."""
    budget = setup.budget
    told = " ".join([BANNERS.get(budget.name, ""), sentence(budget.description)]).strip()
    if not budget.decides:
        told = BANNERS["smoke"]
    where = f"Section {definition.section} of the paper."
    return Paragraph((Strong(f"Budget {budget.name}:"), f" {told} {where}"))


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def verdict_blocks(verdicts: Sequence[Verdict]) -> list[Block]:
    """A line for each claim; one sentence where there is none."""
    if not verdicts:
        return [Paragraph(tally(verdicts))]
    return [
        Heading(2, "Claims"),
        Paragraph(tally(verdicts)),
        Bullets([_line(each) for each in verdicts]),
    ]


def tally(verdicts: Sequence[Verdict]) -> str:
    """ "3 claims: 2 supported, 1 not supported." """
    if not verdicts:
        return "No claim of the paper rests on these numbers alone."
    counts = [
        f"{sum(each.verdict == word for each in verdicts)} {word}"
        for word in dict.fromkeys([*TONES, *(each.verdict for each in verdicts)])
        if any(each.verdict == word for each in verdicts)
    ]
    return f"{count(len(verdicts), 'claim')}: {', '.join(counts)}."


def _line(found: Verdict) -> Inline:
    origin = f"(section {found.section}"
    if found.ours:
        origin += "; the paper has no such runs)"
    else:
        origin += ")" if found.stated else "; its tables show it, its text does not say so)"
    return (
        Badge(found.verdict, TONES.get(found.verdict, "open")),
        " ",
        Strong(found.claim),
        " ",
        Soft(origin),
        Break(),
        Soft(found.evidence),
    )
