"""How a page's numbers came about: data, trainings, attacks, images, machines, the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....defective.attacks import parse_attack
from ....defective.errors import UserError
from ...report.document import Block, Bullets, Code, Heading, Inline, Paragraph, Strong, Table
from ..claims import claims_of
from ..experiment import Made
from ..graph.attacking import AdversarialImages, Sample
from ..graph.data import Data
from ..graph.protocol_results import BoundaryScore
from ..graph.results import Result, WhiteBox
from ..graph.training import Training
from ..judge import RULES
from .again import command
from .facts import Facts
from .trainings import training_table
from .wording import count, duration

_NAMED = 6
"""Networks that are named; more are counted."""


def settings_blocks(made: Made, facts: Facts, commit: str | None, when: str) -> list[Block]:
    """Everything below the pictures."""
    experiment = made.experiment
    names, lines = attack_names(experiment.settings)
    blocks: list[Block] = [Heading(2, "Settings"), *_bullets(lines)]
    blocks += [Heading(3, "Data and images"), *_bullets([*_data(made, facts), *_samples(facts)])]
    trainings = facts.of(Training)
    if trainings:
        seeds = ", ".join(map(str, made.setup.seeds))
        line = f"{count(len(trainings), 'network')}. Seeds of the repetitions: {seeds}."
        blocks += [Heading(3, "Training"), Paragraph(line), training_table(trainings)]
    attacks = _attacks(facts, names)
    if attacks:
        table = Table(["attack", "settings", "on", "images"], attacks, left=3)
        blocks += [Heading(3, "Attacks"), table]
        blocks += [Paragraph(_rounding(facts))] if facts.of(AdversarialImages) else []
    blocks += [Heading(3, "Where and when"), *_bullets(_machines(made, facts, commit, when))]
    if facts.warnings:
        blocks += [Heading(3, "Warnings"), Bullets(facts.warnings)]
    differing = [*experiment.notes, *_cuts(made, facts)]
    if differing:
        blocks += [Heading(2, "Where it differs from the paper"), Bullets(differing)]
    if claims_of(made.definition.name):
        blocks += [Heading(2, "How verdicts are reached"), Bullets(RULES)]
    blocks += [Heading(2, "Make it again"), Paragraph(Code(command(made)))]
    return blocks


def _bullets(items: Sequence[Inline]) -> list[Block]:
    return [Bullets(items)] if items else []


def _data(made: Made, facts: Facts) -> list[Inline]:
    """A line for each data set that the page's networks were trained on.

    Two of the paper's may be one of ours: their networks are then the same, and of one role.
    """
    lines: list[Inline] = []
    for role in made.definition.roles:
        data: Data = made.setup.data[role]
        of_role = [t for t in facts.of(Training) if t.data.settings() == data.settings()]
        if not of_role:
            continue
        where = data.location(made.context.store)
        told = [facts.told[t.key] for t in of_role if t.key in facts.told]
        parts = ["" if where == role else f" is {where}"]
        for what in ("train", "test"):
            numbers = {each.get(f"{what}_images") for each in told} - {None}
            if len(numbers) == 1:
                parts.append(f"{numbers.pop():,} {what}ing images".replace("testing", "test"))
        if data.image_size:
            parts.append(f"{data.image_size} pixels a side")
        first, *rest = parts
        lines.append((Strong(role), first + (": " if rest else "") + ", ".join(rest)))
    return lines


def _samples(facts: Facts) -> list[Inline]:
    """A line for each choice of test images; equal lines once."""
    return list(dict.fromkeys(_sample(each, facts) for each in facts.of(Sample)))


def _sample(sample: Sample, facts: Facts) -> str:
    found = facts.told.get(sample.key, {}).get("found")
    number = f"{sample.count:,}" if found is None else f"{found:,} of {sample.count:,} wanted"
    names = [model.name for model in sample.models]
    if len(names) > _NAMED:
        names = [*names[:_NAMED], f"{len(names) - _NAMED} more"]
    right = ""
    if names:
        right = f" that {_and(names)} {'classifies' if len(names) == 1 else 'all classify'} right"
    return (
        f"{number} test images of {sample.data.label}: the first of a shuffle "
        f"(seed {sample.seed}){right}."
    )


def attack_names(lines: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({full text: name in the table}, the other lines), from lines such as "PGD16: pgd:..."."""
    names, others = {}, []
    for line in lines:
        name, _, text = line.partition(": ")
        try:
            names[str(parse_attack(text))] = name
        except UserError:
            others.append(line)
    return names, others


def _attacks(facts: Facts, named: Mapping[str, str]) -> list[list[Inline]]:
    """(name, full text, what is attacked, how many images) of each attack; equal ones once."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for each in facts.artefacts:
        if isinstance(each, AdversarialImages):
            names = each.source.name
            most = each.sample.count if each.most is None else min(each.most, each.sample.count)
            told = facts.told.get(each.sample.key, {}).get("found")
            most = most if told is None else min(most, told)
        elif isinstance(each, WhiteBox | BoundaryScore):
            names, most = "each network itself", each.sample.count
        else:
            continue
        key = str(parse_attack(each.attack)), f"{most:,}"
        found.setdefault(key, {})[names] = None
    return [
        [named.get(text, parse_attack(text).name), Code(text), ", ".join(names), number]
        for (text, number), names in found.items()
    ]


def _rounding(facts: Facts) -> str:
    kinds = {each.pixels for each in facts.of(AdversarialImages)}
    if kinds == {"uint8"}:
        return "Pixels uint8: adversarial images are rounded to the nearest of 256 levels."
    return f"Pixels of adversarial images: {' and '.join(sorted(kinds))}."


def _machines(made: Made, facts: Facts, commit: str | None, when: str) -> list[Inline]:
    trainings = [facts.told[t.key] for t in facts.of(Training) if t.key in facts.told]
    precisions = dict.fromkeys(str(told["precision"]) for told in trainings if "precision" in told)
    lines: list[Inline] = []
    # A page of images alone has neither networks nor results, and so no machine to speak of.
    if facts.of(Training) or facts.of(Result):
        lines += [
            f"Devices of trainings and attacks: {'; '.join(facts.devices) or 'unknown'}.",
            f"Precision of trainings: {', '.join(precisions) or 'unknown'}.",
            f"Versions: {'; '.join(facts.versions) or 'unknown'}.",
            f"Batches of {made.context.batch_size} images in attacks and evaluations.",
            f"Measured time of all trainings, attacks and evaluations, also where they were made "
            f"for another page: {duration(facts.seconds)}.",
        ]
    return [
        *lines,
        ("Commit ", Code(commit or "unknown"), f"; this page was written on {when}."),
        (
            "Every number, for programs: ",
            Code("cells.json"),
            " and ",
            Code("cells.csv"),
            " beside this page.",
        ),
    ]


def _cuts(made: Made, facts: Facts) -> list[Inline]:
    """What the budget cuts short, as far as this page has it."""
    budget = made.setup.budget
    used = {
        parse_attack(each.attack).name
        for each in facts.artefacts
        if isinstance(each, AdversarialImages | WhiteBox | BoundaryScore)
    }
    lines: list[Inline] = []
    for name, cuts in budget.shortened.items():
        if name in used:
            told = ", ".join(f"{key} at most {_number(most)}" for key, most in cuts.items())
            lines.append(f"Budget {budget.name}: {name} is cut short ({told}).")
    narrow = {t.config.arch: t.config.width for t in facts.of(Training) if t.config.width}
    if narrow:
        told = ", ".join(f"{arch} {width}" for arch, width in narrow.items())
        lines.append(f"Budget {budget.name}: networks are narrower than the paper's ({told}).")
    return lines


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
