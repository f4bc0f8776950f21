"""``scotoma evaluate``: measure how robust networks are, and keep every result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...defective.attacks import Attack, parse_attack
from ...defective.attacks.registry import read_number
from ...defective.errors import UserError, counted
from ...defective.robustness import AdversarialSet, load_set
from ...defective.robustness.sanity import sanity_flags
from ...defective.robustness.shuffle import PAPER_GRIDS
from ..config import PictureFormat, setting
from ..distributed import World, choose_device, device_name
from ..runfolder import CONFIG, WEIGHTS
from ..screen import Progress, make_console, show
from ..settings import add_settings, make_parser
from ..store import Store, disk_advice, writable
from .boundary import evaluate_boundary
from .images import (
    ImagesConfig,
    TestImages,
    choose_images,
    sample_of_all,
)
from .models import NamedModel, full_precision, memory_advice
from .protocols import (
    PAPER_EPSILONS,
    PRECISION,
    CleanPredictions,
    evaluate_clean,
    evaluate_noise,
    evaluate_shuffle,
    evaluate_white_box,
    shown_target,
)
from .sets import Source
from .stylized import evaluate_stylized, find_stylized
from .tables import grid_text, levels
from .transfer import check_set, content_digest, evaluate_transfer

SAMPLES, BOUNDARY_SAMPLES = 1000, 500
"""Test images for attacks and noise, and (the paper's number) for the decision-based score."""
SANITY_IMAGES = 32
_KEPT = "finished results are kept, and the same command goes on with the others"
_DESCRIPTION = """\
Measure how robust networks are: their accuracy on the test images, and whatever is asked for below.
Results are kept one by one, so that the same command goes on where it was stopped. For example:
scotoma evaluate runs/standard runs/defective --against adversarial. Distances are of pixels in
[0,1]."""
_ASKED = "what to measure"


@dataclass
class EvaluateConfig(ImagesConfig):
    """What to measure beside the accuracy on clean images; what is empty or None is not asked for.

    After construction ``against`` are files, ``attack`` and ``boundary`` attacks, and ``noise`` and
    ``shuffle`` numbers, each once. Raises UserError for a value out of range, or a set or folder
    that is not there.
    """

    against: Sequence[str | Path] = setting(
        [],
        _ASKED,
        "adversarial sets of 'scotoma attack', files or folders of them",
        "SET",
        nargs="+",
        action="extend",
    )
    attack: Sequence[str | Attack] = setting(
        [],
        _ASKED,
        "white-box: attack every target itself; may be repeated",
        "NAME[:KEY=VALUE,...]",
        action="append",
    )
    boundary: str | Attack | None = setting(
        None,
        _ASKED,
        "decision-based score of the boundary attack, with its settings",
        "KEY=VALUE,...",
        nargs="?",
        const="",
    )
    noise: Sequence[str | float] | None = setting(
        None,
        _ASKED,
        "accuracy under Gaussian noise of sigma = eps/2; without values the paper's, 2/255 to "
        "64/255",
        "EPS",
        nargs="*",
    )
    shuffle: Sequence[str | int] | None = setting(
        None,
        _ASKED,
        "accuracy on images of K x K shuffled patches; without values those of 2, 4 and 8 that "
        "divide the images",
        "K",
        nargs="*",
    )
    stylized: str | None = setting(
        None, _ASKED, "accuracy on a folder of stylised images, FOLDER/<class>/*", "FOLDER"
    )
    samples: int | None = setting(
        None,
        "images",
        f"test images to attack, disturb or shuffle; default: {SAMPLES}, and {BOUNDARY_SAMPLES} "
        "for --boundary. Sets bring their own",
    )
    out: str = setting("evaluation", "run", "folder for results, tables and pictures")
    picture_format: PictureFormat = setting("png", "run", "of the pictures: png, pdf or svg")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stylized is not None and not Path(self.stylized).is_dir():
            raise UserError(
                f"--stylized {self.stylized}: no such folder; expected FOLDER/<class>/*"
            )
        self.against = _set_files(self.against)
        self.attack = list(dict.fromkeys(_attack(each) for each in self.attack))
        if isinstance(self.boundary, str):
            self.boundary = parse_attack(f"boundary:{self.boundary}")
        if self.noise is not None:
            self.noise = list(dict.fromkeys(map(_epsilon, self.noise))) or list(PAPER_EPSILONS)
        if self.shuffle is not None:
            self.shuffle = list(dict.fromkeys(map(_grid, self.shuffle)))

    def grids_for(self, side: int) -> list[int]:
        """Patches along a side of images of ``side`` pixels: what was asked for, or the paper's.

        Raises:
            UserError: a number that was asked for does not divide it, or none of the paper's does.
        """
        for k in self.shuffle or ():
            if side % k:
                raise UserError(
                    f"--shuffle {k}: the images' side of {side} pixels is no multiple of it; give "
                    "a divisor"
                )
        if self.shuffle or self.shuffle is None:
            return list(self.shuffle or ())
        found = [k for k in PAPER_GRIDS if side % k == 0]
        if not found:
            usual = ", ".join(map(str, PAPER_GRIDS))
            raise UserError(f"--shuffle: none of {usual} divides {side} pixels; give a divisor")
        return found


def _set_files(given: Sequence[str | Path]) -> list[Path]:
    """Set files, those of folders in the order of their names, each once."""
    found: dict[Path, Path] = {}
    for path in map(Path, given):
        of_run = path.is_dir() or path.name in (WEIGHTS, "best.safetensors")
        if of_run and ((path if path.is_dir() else path.parent) / CONFIG).is_file():
            raise UserError(
                f"--against {path}: that is a run, not a set; make sets from it with: scotoma "
                f"attack {path} --attack pgd"
            )
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"--against {path}: no *.safetensors there; make sets: scotoma attack")
        for file in files:
            if not file.is_file():
                raise UserError(f"--against {file}: no such set; make it with: scotoma attack")
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _attack(given: str | Attack) -> Attack:
    return parse_attack(given) if isinstance(given, str) else given


def _epsilon(given: str | float) -> float:
    try:
        value = read_number(given) if isinstance(given, str) else given
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not 0 < value <= 1:
        raise UserError(
            f"--noise {given}: expected 0 < eps <= 1, in units of pixels in [0,1] (for eight "
            "levels of 255 write 8/255)"
        )
    return value


def _grid(given: str | int) -> int:
    if not str(given).isdecimal() or int(given) < 1:
        raise UserError(f"--shuffle {given}: expected a number of patches along a side, 1 or more")
    return int(given)


def main(argv: list[str]) -> int:
    parser = make_parser("evaluate", _DESCRIPTION)
    add_settings(parser, EvaluateConfig)
    asked = vars(parser.parse_args(argv))
    evaluate(EvaluateConfig(**asked))
    return 0


def evaluate(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Make all results that are asked for, and tables and pictures of them. Returns the cells.

    Raises:
        UserError: bad settings, before any work; or a result that could not be made, after all
            others are.
    """
    device = choose_device(config.device, World())
    loaded = config.networks(device)
    distinct: dict[str, NamedModel] = {}
    for target in loaded:
        distinct.setdefault(target.digest, target)
    targets = list(distinct.values())
    images = config.images(targets, device)
    grids = config.grids_for(images.data.image_size)
    if config.stylized is not None:
        find_stylized(Path(config.stylized), images.data)
    # Only one set is in memory at once.
    sets = [_set_line(path, load_set(path), images, targets) for path in config.against]
    out = writable(Path(config.out), "cells")
    store = Store(out / "cells")
    store.all()  # a damaged one is told of before any work
    evaluation = Evaluation(config, targets, images, grids, store)
    with (
        evaluation.screen as screen,
        memory_advice(device, config.batch_size, f"; {_KEPT}"),
        disk_advice(out, _KEPT),
    ):
        for line in _plan(config, images, loaded, targets, sets, grids):
            screen.line(line)
        try:
            evaluation.prepare()
            evaluation.run()
        except KeyboardInterrupt:
            done = store.computed + store.reused
            screen.line(f"stopped; {done} {_KEPT}" if done else "stopped before the first result")
            raise
    with disk_advice(out, _KEPT):
        _show(evaluation, out)
    if failures := evaluation.failures:
        raise UserError(
            failures[0]
            if len(failures) == 1
            else f"{len(failures)} results could not be made; the first: {failures[0]}"
        )
    return evaluation.results


def _set_line(
    path: Path, found: AdversarialSet, images: TestImages, targets: list[NamedModel]
) -> str:
    """What a set is, once it is known to fit. Raises UserError."""
    check_set(found, images, targets, str(path))
    details = found.details
    return (
        f"  set       {path}: {details['attack_text']} from {details['source']['name']}, "
        f"{counted(len(found), 'image')}, {details['pixels']}, {details['precision']}"
    )


def _plan(
    config: EvaluateConfig,
    images: TestImages,
    loaded: list[NamedModel],
    targets: list[NamedModel],
    sets: list[str],
    grids: list[int],
) -> list[str]:
    """Everything that the numbers depend on, so that no default stays unseen."""
    data = images.data
    lines = [
        f"evaluating {', '.join(target.name for target in targets)}",
        f"  data      {data.name}: {counted(len(images), 'test image')}{data.test_note}",
        f"  device    {device_name(images.device)}, float32 without TF32, batches of "
        f"{config.batch_size}",
    ]
    known = {target.digest: target.name for target in targets}
    lines += [
        f"warning: {model.name} is the same network as {known[model.digest]}: it is left out"
        for model in loaded
        if known[model.digest] != model.name
    ]
    lines += sets
    lines += [f"  white-box {attack}" for attack in config.attack]
    if config.boundary:
        lines.append(f"  score     {config.boundary}")
    if config.noise:
        lines.append(f"  noise     eps {', '.join(map(levels, config.noise))} of 255")
    if grids:
        lines.append(f"  shuffle   {', '.join(map(grid_text, grids))} patches")
    if config.stylized is not None:
        lines.append(f"  stylised  {config.stylized}")
    return lines


class Evaluation:
    """All that is asked for, one after the other, each result kept as a cell.

    Args:
        targets: distinct networks. grids: patches along a side, to be shuffled.

    Attributes:
        results: the cells, in the order in which they were made.
        failures: messages of results that could not be made; they end no long run.
        screen: gets lines and progress for people.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        targets: list[NamedModel],
        images: TestImages,
        grids: list[int],
        store: Store,
    ):
        self.config, self.targets, self.images = config, targets, images
        self.grids, self.store, self.screen = grids, store, Progress()
        self.clean = CleanPredictions(images, config.batch_size)
        self.results: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._right = torch.zeros(0, dtype=torch.int64)
        self._told = ""

    def prepare(self) -> None:
        """Warn of targets that attacks cannot get hold of, and choose images.

        Raises:
            UserError: no test image is classified right by all targets, and some protocol needs
                one.
        """
        config, seed = self.config, self.config.sample_seed
        few = sample_of_all(self.images, SANITY_IMAGES, seed)
        with full_precision():
            _, pixels, labels = next(self.images.batches(few, len(few)))
            for target in self.targets:
                for flag in sanity_flags(target.model, pixels, labels):
                    self.screen.line(f"warning: {target.name}: {flag}")
        if not (config.noise or self.grids or config.boundary):
            return
        self.screen.begin("choosing images")
        usual = SAMPLES if config.noise or self.grids else BOUNDARY_SAMPLES
        sample = choose_images(
            self.targets,
            self.images,
            config.samples or usual,
            seed,
            config.batch_size,
            self.screen.advance,
        )
        self._right = sample.indices
        self.screen.line(
            f"{counted(len(sample), 'test image')} that every target classifies right (first of a "
            f"shuffle, seed {sample.seed}): noise, shuffled patches and scores are of these, and "
            "with another target of others"
        )

    def run(self) -> None:
        """Every protocol that is asked for. Finished cells are read, not made again."""
        config, images, store = self.config, self.images, self.store
        one = {"batch_size": config.batch_size, "advance": self.screen.advance}
        several = {"batch_size": config.batch_size, "progress": self._progress}
        every = images.fingerprint(torch.arange(len(images)))
        for target in self.targets:
            self._make(
                f"{target.name}, clean images",
                partial(evaluate_clean, target, images, store, clean=self.clean, fingerprint=every),
                advance=self.screen.advance,
            )
        for path in config.against:
            self._transfer(path, one)
        indices = sample_of_all(images, config.samples or SAMPLES, config.sample_seed)
        for target in self.targets if config.attack else ():
            source = Source(target, PRECISION, cuda_graph=True)
            for attack in config.attack:
                self._make(
                    f"{target.name}, white-box {attack.name}",
                    partial(evaluate_white_box, source, attack, images, indices, store),
                    **one,
                )
        right = self.targets, images, self._right, store
        if config.noise:
            self._make("noise", partial(evaluate_noise, *right, epsilons=config.noise), **several)
        if self.grids:
            shuffle = partial(evaluate_shuffle, *right, grids=self.grids, seed=config.sample_seed)
            self._make("shuffled patches", shuffle, **several)
        if config.stylized is not None:
            folder = Path(config.stylized)
            stylized = partial(evaluate_stylized, self.targets, images, folder, store)
            self._make("stylised images", stylized, clean=self.clean, **several)
        if config.boundary:
            few = self._right[: config.samples or BOUNDARY_SAMPLES]
            boundary = partial(evaluate_boundary, self.targets, images, few, store)
            self._make("decision-based score", boundary, attack=config.boundary, **several)

    def _transfer(self, path: Path, options: dict[str, Any]) -> None:
        found = load_set(path)
        content = content_digest(found)
        common = self.targets if len(self.targets) > 1 else ()
        for target in self.targets:
            about = f"{target.name} against {path.name}"
            cells = self._make(
                about,
                partial(evaluate_transfer, target, found, self.images, self.store),
                clean=self.clean,
                common=common,
                content=content,
                **options,
            )
            for warning in cells[0]["results"].get("warnings", ()) if cells else ():
                self.screen.line(f"warning: {about}: {warning}")

    def _make(self, text: str, evaluate: Callable[..., Any], **options: Any) -> list[dict]:
        """The cell or cells; none if they could not be made."""
        self.screen.begin(text)
        try:
            with memory_advice(self.images.device, self.config.batch_size, f"; {_KEPT}"):
                made = evaluate(**options)
        except UserError as error:
            self.failures.append(str(error))
            self.screen.line(f"failed: {text}: {error}")
            return []
        made = [made] if isinstance(made, dict) else made
        self.results += made
        return made

    def _progress(self, done: int, total: int, text: str) -> None:
        """As protocols of several targets tell it."""
        if text != self._told:
            self._told = text
            self.screen.begin(text)
        self.screen.advance(done, total)

    def everything(self) -> list[dict[str, Any]]:
        """The cells of the folder, those of earlier commands too, under the names of today.

        Raises:
            UserError: a file that is no cell.
        """

        def key(cell: dict[str, Any]) -> str:
            return json.dumps([cell["kind"], cell["identity"]], sort_keys=True)

        today = {key(cell): cell for cell in self.results}
        names = {target.digest: shown_target(target) for target in self.targets}
        found = self.store.all()
        for cell in found:
            shown = cell["results"].get("shown", {})
            shown |= names.get(cell["identity"].get("target"), {})
        return [today.get(key(cell), cell) for cell in found]

    def picture_samples(self) -> dict[str, Any]:
        """What :func:`scotoma.train.robustness.pictures.draw_all` takes as samples."""
        from .pictures import example_samples, shuffled_samples

        samples: dict[str, Any] = {}
        sets = self.config.against
        for number, path in enumerate(sets, 1):
            samples = example_samples(load_set(path), self.images, self.targets, self.clean)
            if samples:
                samples["set"] = number, len(sets)
                break
        if self.grids:
            # The same images in both pictures, for they share their labels.
            indices = samples.get("indices", self._right)
            samples |= shuffled_samples(self.images, indices, self.grids, self.config.sample_seed)
        return samples


def _show(evaluation: Evaluation, out: Path) -> None:
    """Tables on the screen and in a file, pictures, and where they are."""
    # Here, since matplotlib takes a second that an error in the arguments need not cost.
    from .pictures import draw_all
    from .tables import console_tables, write_tables

    console, store = make_console(), evaluation.store
    console.print()
    show(console, *console_tables(evaluation.results))
    everything, samples = evaluation.everything(), evaluation.picture_samples()
    write_tables(everything, out)
    format = evaluation.config.picture_format
    pictures = draw_all(everything, out, samples=samples, format=format)
    files = ", ".join(["table.md", *(path.name for path in pictures)])
    show(console, f"results in {out}: {files}, cells/*.json")
    if older := len(everything) - len(evaluation.results):
        older = counted(older, "result")
        console.print(f"table and pictures also show {older} of earlier commands")
    if store.reused:
        total = counted(store.reused + store.computed, "result")
        console.print(f"{store.reused} of {total} {'was' if store.reused == 1 else 'were'} there")
