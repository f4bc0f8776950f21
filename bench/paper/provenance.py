"""How a page's numbers came about: data, trainings, attacks, images, machines, the command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from ...defective.attacks import parse_attack
from ...defective.errors import UserError, counted
from ...train.config import FREE, TrainConfig
from ...train.pages import Inline, Page, code, joined, strong
from ...train.runfolder import SUMMARY
from .experiment import Made
from .judge import RULES
from .work import Artefact, Store, closure

if TYPE_CHECKING:
    import pandas as pd

    from .artefacts import Training

LOSSLESS = ("cifar10", "mnist")
"""Roles whose images are not compressed, or without loss."""
_LISTED = 6
"""Networks, variants and seeds that are named; of more, some."""


class Origin(NamedTuple):
    """What the files of a page's artefacts tell, also of what was made for another page.

    ``artefacts`` are all of them, inputs first. ``told`` has, by key, the records of the file of
    each that is there: of a result one for each cell.
    """

    artefacts: Sequence[Artefact]
    told: Mapping[str, Sequence[Mapping[str, Any]]]

    def of(self, kind: str) -> list:
        return [artefact for artefact in self.artefacts if artefact.kind == kind]

    def tells(self, artefact: Artefact, name: str) -> Any:
        """A value of its file, or None."""
        records = self.told.get(artefact.key)
        return records[0].get(name) if records else None

    def attacked(self) -> list[tuple[str, str, int]]:
        """(attack, whom, how many images) of each set, and of attacks on the targets themselves."""
        found = []
        for each in self.artefacts:
            if each.kind == "set":
                counts = [each.sample.count, self.tells(each.sample, "found"), each.most]
                count = min(count for count in counts if count is not None)
                found.append((each.attack, each.source.name, count))
            elif getattr(each, "attack", ""):
                found.append((each.attack, "each network itself", each.sample.count))
        return found

    @property
    def records(self) -> list[Mapping[str, Any]]:
        return [record for records in self.told.values() for record in records]


def read_origin(made: Made) -> Origin:
    """Raises UserError on a damaged file, which it names."""
    store = made.context.store
    artefacts = closure(made.experiment.wanted())
    there = (each for each in artefacts if each.is_done(store) or each.key in store.told)
    return Origin(artefacts, {each.key: read_records(each, store) for each in there})


def read_records(artefact: Artefact, store: Store) -> list[dict[str, Any]]:
    """What an artefact's file tells, or a results file in its place, with ``seconds`` and, as text,
    ``versions`` and ``warnings``. Raises UserError on a damaged file, which it names."""
    path = artefact.path(store)
    if not artefact.is_done(store):
        return [dict(store.told[artefact.key])]
    try:
        return _records(artefact, path, store)
    except UserError:
        raise
    except (
        *(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError),
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged ({reason}); remove it to make it again") from None


def _records(artefact: Artefact, path: Path, store: Store) -> list[dict[str, Any]]:
    if artefact.kind == "train":
        summary = json.loads((path / SUMMARY).read_text())
        found = [{**summary, "seconds": summary.get("train_s")}]
    elif artefact.kind == "set":
        found = [_set_details(path)]
    elif artefact.kind == "sample":
        found = [artefact.read(store)[1]]
    elif artefact.kind == "result":
        found = []
        for cell in json.loads(path.read_text())["cells"]:
            versions = dict(cell.get("made") or {})
            seconds = versions.pop("seconds", 0)
            warnings = cell["results"].get("warnings")
            found.append({"seconds": seconds, "versions": versions, "warnings": warnings})
    else:
        found = []
    for record in found:
        versions = (record.get("versions") or {}).items()
        record["versions"] = ", ".join(f"{name} {number}" for name, number in versions)
        record["seconds"] = float(record.get("seconds") or 0)
        record["warnings"] = [str(each) for each in record.get("warnings") or ()]
    return found


def _set_details(path: Path) -> dict[str, Any]:
    """The details of an adversarial set, without its images."""
    with safe_open(str(path), framework="pt") as file:
        records = list((file.metadata() or {}).values())
    if len(records) != 1:
        raise ValueError("no adversarial set")
    return dict(json.loads(records[0])["details"])


def tell_settings(
    page: Page,
    made: Made,
    origin: Origin,
    written: Iterable[Inline],
    again: str,
    has_claims: bool,
) -> None:
    """Everything below the pictures.

    Args:
        written: lines about the page itself. again: the command that makes it. has_claims: whether
            verdicts stand on it.
    """
    if made.experiment.settings:
        page.heading("Settings")
        page.bullets(made.experiment.settings)
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
        names = {text: name for name, text in made.experiment.attacks.items()}
        rows = (
            [names.get(text, parse_attack(text).name), code(text), ", ".join(whom), f"{count:,}"]
            for (text, count), whom in found.items()
        )
        page.heading("Attacks", 3)
        page.table(frame(["attack", "settings", "on", "images"], rows), words=3)
    if origin.of("set"):
        page.paragraph("Pixels uint8: adversarial images are rounded to the nearest of 256 levels.")
    page.heading("Where and when", 3)
    page.bullets([*_machines(made, origin), *written])
    if warnings := dict.fromkeys(w for record in origin.records for w in record["warnings"]):
        page.heading("Warnings", 3)
        page.bullets(warnings)
    if differing := [*made.experiment.notes, *_cuts(made, origin)]:
        page.heading("Where it differs from the paper")
        page.bullets(differing)
    if has_claims:
        page.heading("How verdicts are reached")
        page.bullets(RULES)
    page.heading("Make it again")
    page.paragraph(code(again))


def _data(made: Made, origin: Origin) -> list[Inline]:
    """A line for each data set that the page's networks were trained on.

    Two of the paper's may be one of ours: their networks are then the same, and of one role.
    """
    lines: list[Inline] = []
    for role in made.definition.roles:
        data = made.setup.data[role]
        trained = [t for t in origin.of("train") if t.data.settings() == data.settings()]
        if not trained:
            continue
        where = data.location(made.context.store)
        parts: list[str] = []
        for what, words in (("train", "training images"), ("test", "test images")):
            numbers = {origin.tells(each, f"{what}_images") for each in trained} - {None}
            if len(numbers) == 1:
                parts.append(f"{numbers.pop():,} {words}")
        if data.image_size:
            parts.append(f"{data.image_size} pixels a side")
        if data.lossy and role in LOSSLESS:
            parts.append("JPEG files, which have lost some of the originals' fine texture")
        first = "" if where == role else f" is {where}"
        lines.append((strong(role), first + (": " if parts else "") + ", ".join(parts)))
    return lines


def _sample(sample: Artefact, origin: Origin) -> str:
    """A choice of test images."""
    found = origin.tells(sample, "found")
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
    usual = asdict(TrainConfig())
    rows = []
    for configs in groups.values():
        config = configs[0]
        further = [f"augment {config.augment}"]
        for name, value in asdict(config).items():
            if name not in apart | shown and value != usual[name]:
                told = f"{value:.4g}" if isinstance(value, float) else str(value)
                further.append(f"{name.replace('_', '-')} {told}")
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


def _machines(made: Made, origin: Origin) -> list[Inline]:
    precisions = dict.fromkeys(
        str(told) for each in origin.of("train") if (told := origin.tells(each, "precision"))
    )
    devices, versions = (
        "; ".join(dict.fromkeys(str(told) for each in origin.records if (told := each.get(name))))
        for name in ("device", "versions")
    )
    seconds = sum(record["seconds"] for record in origin.records)
    lines: list[Inline] = []
    # A page of images alone has neither networks nor results, and so no machine to speak of.
    if origin.of("train") or origin.of("result"):
        lines += [
            f"Devices of trainings and attacks: {devices or 'unknown'}.",
            f"Precision of trainings: {', '.join(precisions) or 'unknown'}.",
            f"Versions: {versions or 'unknown'}.",
        ]
        if batch := made.context.batch_size:
            lines.append(f"Batches of {batch} images in attacks and evaluations.")
        lines.append(
            f"Measured time of all trainings, attacks and evaluations, also where they were made "
            f"for another page: {duration(seconds)}."
        )
    return lines


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
    return lines + [f"Budget {budget.name}: {note}" for note in budget.notes]


def command(made: Made) -> str:
    """What makes the page again, with every option that decides numbers; where things lie decides
    none."""
    setup = made.setup
    words = ["scotoma", "paper", *made.definition.name.split(), "--budget", setup.budget.name]
    words += ["--seeds", str(len(setup.seeds)), "--images", setup.images]
    if setup.seeds[0]:
        words += ["--first-seed", str(setup.seeds[0])]
    for role, data in setup.data.items():
        usual = setup.budget.data[role].dataset
        if role in made.definition.roles and data.made_by is None and data.dataset != usual:
            words += ["--data", f"{role}={data.dataset}"]
    stylized = [data.stylized for data in setup.data.values() if data.stylized]
    if made.definition.stylized and stylized:
        words += ["--stylized", stylized[0]]
    if made.experiment.only:
        words += ["--rows", *made.experiment.only]
    return shlex.join(words)


def frame(names: Sequence[str], rows: Iterable[Sequence[Inline]]) -> pd.DataFrame:
    """What :meth:`scotoma.train.pages.Page.table` takes."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(names), dtype=object)
