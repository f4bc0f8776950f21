"""How a page's numbers came about: data, trainings, attacks, images, machines, the command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ...defective.attacks import parse_attack
from ...defective.errors import UserError, counted
from ...train.config import FREE, TrainConfig
from ...train.pages import Inline, Page, code, joined, strong
from ...train.runfolder import SUMMARY
from .claims import claims_of
from .experiment import Made
from .judge import RULES
from .work import Artefact, closure

if TYPE_CHECKING:
    import pandas as pd

    from .artefacts import Training

_LISTED = 6
"""Networks, variants and seeds that are named; of more, some."""


@dataclass
class Origin:
    """What the files of a page's artefacts tell, also of what was made for another page.

    Attributes:
        artefacts: all of them, inputs first. told: what each one's file says of its making, by
            key; only of those that are there. seconds: measured, over all files.
        devices, versions, warnings: each once, in the order of the artefacts.
    """

    artefacts: Sequence[Artefact]
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    devices: dict[str, None] = field(default_factory=dict)
    versions: dict[str, None] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)

    def of(self, kind: str) -> list:
        return [artefact for artefact in self.artefacts if artefact.kind == kind]

    def attacked(self) -> list[tuple[str, str, int]]:
        """(attack, whom, how many images) of each set, and of attacks on the targets themselves."""
        found = []
        for each in self.artefacts:
            if each.kind == "set":
                count = self.told.get(each.sample.key, {}).get("found", each.sample.count)
                counts = [each.sample.count, count, *([] if each.most is None else [each.most])]
                found.append((each.attack, each.source.name, min(counts)))
            elif getattr(each, "attack", ""):
                found.append((each.attack, "each network itself", each.sample.count))
        return found

    def _add(self, seconds: Any, versions: Any, device: Any = None, warnings: Any = ()) -> None:
        self.seconds += float(seconds or 0)
        if versions:
            self.versions[", ".join(f"{name} {number}" for name, number in versions.items())] = None
        if device:
            self.devices[str(device)] = None
        self.warnings |= {str(each): None for each in warnings or ()}

    def read(self, artefact: Artefact, path: Path, made: Made) -> None:
        """Read one file."""
        told: Mapping[str, Any] = {}
        if artefact.kind == "train":
            told = json.loads((path / SUMMARY).read_text())
            self._add(told.get("train_s"), told.get("versions"), told.get("device"))
        elif artefact.kind == "set":
            told = _set_details(path)
            self._add(*(told.get(key) for key in ("seconds", "versions", "device", "warnings")))
        elif artefact.kind == "sample":
            told = artefact.read(made.context.store)[1]
        elif artefact.kind == "result":
            for cell in json.loads(path.read_text())["cells"]:
                by = dict(cell.get("made") or {})
                self._add(by.pop("seconds", 0), by, None, cell["results"].get("warnings"))
        self.told[artefact.key] = told


def read_origin(made: Made) -> Origin:
    """Raises UserError on a damaged file, which it names."""
    store = made.context.store
    found = Origin(closure(made.experiment.wanted()))
    for artefact in found.artefacts:
        if not artefact.is_done(store):
            continue
        path = artefact.path(store)
        try:
            found.read(artefact, path, made)
        except UserError:
            raise
        except (
            *(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError),
            SafetensorError,
        ) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: damaged ({reason}); remove it to make it again") from None
    return found


def _set_details(path: Path) -> dict[str, Any]:
    """The details of an adversarial set, without its images."""
    with safe_open(str(path), framework="pt") as file:
        records = list((file.metadata() or {}).values())
    if len(records) != 1:
        raise ValueError("no adversarial set")
    return dict(json.loads(records[0])["details"])


def tell_settings(page: Page, made: Made, origin: Origin, commit: str | None, when: str) -> None:
    """Everything below the pictures."""
    names, lines = attack_names(made.experiment.settings)
    page.heading("Settings")
    page.bullets(lines)
    page.heading("Data and images", 3)
    samples = dict.fromkeys(_sample(each, origin) for each in origin.of("sample"))
    page.bullets([*_data(made, origin), *samples])
    if trainings := origin.of("train"):
        seeds = ", ".join(map(str, made.setup.seeds))
        page.heading("Training", 3)
        told = f"{counted(len(trainings), 'network')}. Seeds of the repetitions: {seeds}."
        page.paragraph(told)
        page.table(_training_table(trainings), words=8)
    if attacks := origin.attacked():
        found: dict[tuple[str, int], dict[str, None]] = {}
        for text, whom, count in attacks:
            found.setdefault((str(parse_attack(text)), count), {})[whom] = None
        rows = (
            [names.get(text, parse_attack(text).name), code(text), ", ".join(whom), f"{count:,}"]
            for (text, count), whom in found.items()
        )
        page.heading("Attacks", 3)
        page.table(frame(["attack", "settings", "on", "images"], rows), words=3)
    if kinds := {each.pixels for each in origin.of("set")}:
        told = f"Pixels of adversarial images: {' and '.join(sorted(kinds))}."
        if kinds == {"uint8"}:
            told = "Pixels uint8: adversarial images are rounded to the nearest of 256 levels."
        page.paragraph(told)
    page.heading("Where and when", 3)
    page.bullets(_machines(made, origin, commit, when))
    if origin.warnings:
        page.heading("Warnings", 3)
        page.bullets(origin.warnings)
    if differing := [*made.experiment.notes, *_cuts(made, origin)]:
        page.heading("Where it differs from the paper")
        page.bullets(differing)
    if claims_of(made.definition.name):
        page.heading("How verdicts are reached")
        page.bullets(RULES)
    page.heading("Make it again")
    page.paragraph(code(command(made)))


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


def _data(made: Made, origin: Origin) -> list[Inline]:
    """A line for each data set that the page's networks were trained on.

    Two of the paper's may be one of ours: their networks are then the same, and of one role.
    """
    lines: list[Inline] = []
    for role in made.definition.roles:
        data = made.setup.data[role]
        keys = {t.key for t in origin.of("train") if t.data.settings() == data.settings()}
        if not keys:
            continue
        where = data.location(made.context.store)
        told = [found for key, found in origin.told.items() if key in keys]
        parts = []
        for what, words in (("train", "training images"), ("test", "test images")):
            numbers = {each.get(f"{what}_images") for each in told} - {None}
            if len(numbers) == 1:
                parts.append(f"{numbers.pop():,} {words}")
        if data.image_size:
            parts.append(f"{data.image_size} pixels a side")
        first = "" if where == role else f" is {where}"
        lines.append((strong(role), first + (": " if parts else "") + ", ".join(parts)))
    return lines


def _sample(sample: Artefact, origin: Origin) -> str:
    """A choice of test images."""
    found = origin.told.get(sample.key, {}).get("found")
    number = f"{sample.count:,}" if found is None else f"{found:,} of {sample.count:,} wanted"
    names = [model.name for model in sample.models]
    right = ""
    if names:
        verb = "classifies" if len(names) == 1 else "all classify"
        if len(names) > _LISTED:
            names = [*names[:_LISTED], f"{len(names) - _LISTED} more"]
        last = [", ".join(names[:-1]), names[-1]] if len(names) > 1 else names
        right = f" that {' and '.join(last)} {verb} right"
    return (
        f"{number} test images of {sample.data.label}: the first of a shuffle "
        f"(seed {sample.seed}){right}."
    )


def _training_table(trainings: Sequence[Training]) -> pd.DataFrame:
    """Those alike but for network, masks and seed are one row."""
    apart = {"arch", "width", "defects", "seed", "mask_seed", *FREE}
    apart |= {"dataset", "image_size", "train_limit"}
    shown = {"recipe", "epochs", "batch_size", "lr", "schedule", "milestones", "warmup", "augment"}
    groups: dict[str, list[TrainConfig]] = {}
    for training in trainings:
        alike = {k: v for k, v in asdict(training.config).items() if k not in apart}
        key = repr([training.data.label, sorted(alike.items())])
        groups.setdefault(key, []).append(training.config)
    rows = []
    for configs in groups.values():
        config = configs[0]
        further = [f"augment {config.augment}"]
        for item in fields(TrainConfig):
            usual = item.default if item.default_factory is MISSING else item.default_factory()
            value = getattr(config, item.name)
            if item.name not in apart | shown and value != usual:
                told = f"{value:.4g}" if isinstance(value, float) else str(value)
                further.append(f"{item.name.replace('_', '-')} {told}")
        rate = [f"{config.lr:g}", config.schedule]
        if config.schedule == "step":
            rate[1] = f"divided by 10 after {', '.join(map(str, config.milestones))}"
        elif config.schedule == "one-cycle":
            rate = [
                f"{config.lr:g} at its peak",
                f"one-cycle, rising for {100 * config.warmup:g} %",
            ]
        rows.append(
            [
                joined(dict.fromkeys(each.arch for each in configs)),
                _some([each.defects for each in configs], "variant"),
                _some([str(seed) for seed in sorted({each.seed for each in configs})], "seed"),
                config.recipe,
                str(config.epochs),
                str(config.batch_size),
                joined(rate),
                joined(further),
            ]
        )
    names = ["networks", "variants", "seeds", "recipe"]
    return frame([*names, "epochs", "batch", "learning rate", "further settings"], rows)


def _some(names: Sequence[str], noun: str) -> str:
    names = list(dict.fromkeys(names))
    if len(names) <= _LISTED:
        return ", ".join(names)
    few = ", ".join(names[: _LISTED - 2])
    return f"{few}, ..., {names[-1]} ({counted(len(names), noun)})"


def _machines(made: Made, origin: Origin, commit: str | None, when: str) -> list[Inline]:
    told = [origin.told[each.key] for each in origin.of("train") if each.key in origin.told]
    precisions = dict.fromkeys(str(each["precision"]) for each in told if "precision" in each)
    lines: list[Inline] = []
    # A page of images alone has neither networks nor results, and so no machine to speak of.
    if origin.of("train") or origin.of("result"):
        lines += [
            f"Devices of trainings and attacks: {'; '.join(origin.devices) or 'unknown'}.",
            f"Precision of trainings: {', '.join(precisions) or 'unknown'}.",
            f"Versions: {'; '.join(origin.versions) or 'unknown'}.",
            f"Batches of {made.context.batch_size} images in attacks and evaluations.",
            f"Measured time of all trainings, attacks and evaluations, also where they were made "
            f"for another page: {duration(origin.seconds)}.",
        ]
    written = f"; this page was written on {when}."
    files = (code("cells.json"), " and ", code("cells.csv"), " beside this page.")
    return [
        *lines,
        ("Commit ", code(commit or "unknown"), written),
        ("Every number, for programs: ", *files),
    ]


def duration(seconds: float) -> str:
    """ "47 s", "12.3 min", "5.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _cuts(made: Made, origin: Origin) -> list[str]:
    """What the budget cuts short, as far as this page has it."""
    budget = made.setup.budget
    used = {parse_attack(text).name for text, _, _ in origin.attacked()}
    lines = []
    for name, cuts in budget.shortened.items():
        if name in used:
            most = {k: f"{v:g}" if isinstance(v, int | float) else v for k, v in cuts.items()}
            told = ", ".join(f"{key} at most {value}" for key, value in most.items())
            lines.append(f"Budget {budget.name}: {name} is cut short ({told}).")
    narrow = {t.config.arch: t.config.width for t in origin.of("train") if t.config.width}
    if narrow:
        told = ", ".join(f"{arch} {width}" for arch, width in narrow.items())
        lines.append(f"Budget {budget.name}: networks are narrower than the paper's ({told}).")
    return lines


def command(made: Made) -> str:
    """What makes the page again, with every option that decides numbers; where things lie decides
    none."""
    definition, setup = made.definition, made.setup
    words = ["scotoma", "paper", definition.name, "--budget", setup.budget.name]
    words += ["--seeds", str(len(setup.seeds)), "--images", setup.images]
    if setup.seeds[0]:
        words += ["--first-seed", str(setup.seeds[0])]
    for role, data in setup.data.items():
        usual = setup.budget.data[role].dataset
        if role in definition.roles and data.made_by is None and data.dataset != usual:
            words += ["--data", f"{role}={data.dataset}"]
    stylized = [data.stylized for data in setup.data.values() if data.stylized]
    if definition.stylized and stylized:
        words += ["--stylized", stylized[0]]
    if made.experiment.only:
        words += ["--rows", *made.experiment.only]
    return shlex.join(words)


def frame(names: Sequence[str], rows: Iterable[Sequence[Inline]]) -> pd.DataFrame:
    """What :meth:`scotoma.train.pages.Page.table` takes."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(names), dtype=object)
