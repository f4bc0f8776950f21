"""``scotoma evaluate``: measure how robust networks are, and keep every result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...defective.attacks import Attack, parse_attack
from ...defective.attacks.registry import read_number
from ...defective.errors import UserError, counted
from ...defective.robustness import load_set
from ...defective.robustness.sanity import sanity_flags
from ...defective.robustness.shuffle import PAPER_GRIDS
from ...defective.serialization import atomic_path
from ..config import PictureFormat, setting
from ..distributed import World, choose_device, device_name
from ..runfolder import CONFIG, WEIGHTS
from ..screen import Progress, make_console, show
from ..settings import add_settings, make_parser
from ..store import Store, disk_advice, writable
from .boundary import evaluate_boundary
from .images import ImagesConfig, choose_images, sample_of_all
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
        attacks = (parse_attack(a) if isinstance(a, str) else a for a in self.attack)
        self.attack = list(dict.fromkeys(attacks))
        if isinstance(self.boundary, str):
            self.boundary = parse_attack(f"boundary:{self.boundary}")
        if self.noise is not None:
            self.noise = list(dict.fromkeys(map(_epsilon, self.noise))) or list(PAPER_EPSILONS)
        if self.shuffle is not None:
            self.shuffle = list(dict.fromkeys(map(_grid, self.shuffle)))

    def grids_for(self, side: int) -> list[int]:
        """Patches along a side of images of ``side`` pixels: what was asked for, or the paper's.

        Raises UserError if a number that was asked for does not divide it, or none of the paper's.
        """
        if self.shuffle is None:
            return []
        asked = list(self.shuffle or PAPER_GRIDS)
        fitting = [k for k in asked if side % k == 0]
        if not fitting or (self.shuffle and fitting != asked):
            wrong = ", ".join(str(k) for k in asked if side % k)
            raise UserError(
                f"--shuffle {wrong}: the images' side of {side} pixels is no multiple of it; give "
                "a divisor"
            )
        return fitting


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
    evaluate(EvaluateConfig(**vars(parser.parse_args(argv))))
    return 0


def evaluate(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Make all results that are asked for, and tables and pictures of them. Returns the cells.

    Raises:
        UserError: bad settings, before any work; or a result that could not be made, after all
            others are.
    """
    evaluation = Evaluation(config)
    out, store = evaluation.out, evaluation.store
    with (
        evaluation.screen as screen,
        memory_advice(evaluation.images.device, config.batch_size, f"; {_KEPT}"),
        disk_advice(out, _KEPT),
    ):
        try:
            evaluation.prepare()
            evaluation.run()
        except KeyboardInterrupt:
            done = store.computed + store.reused
            screen.line(f"stopped; {done} {_KEPT}" if done else "stopped before the first result")
            raise
    with disk_advice(out, _KEPT):
        evaluation.show()
    if failures := evaluation.failures:
        more = f"{len(failures)} results could not be made; the first: " if failures[1:] else ""
        raise UserError(more + failures[0])
    return evaluation.results


class Evaluation:
    """All that is asked for, one after the other, each result kept as a cell.

    Attributes:
        targets: distinct networks. grids: patches along a side, to be shuffled.
        results: the cells, in the order in which they were made.
        failures: messages of results that could not be made; they end no long run.
        plan: lines on everything that the numbers depend on, so that no default stays unseen.
    """

    def __init__(self, config: EvaluateConfig):
        """Raises UserError for whatever does not fit together, before any work."""
        device = choose_device(config.device, World())
        loaded = config.networks(device)
        distinct: dict[str, NamedModel] = {}
        for target in loaded:
            distinct.setdefault(target.digest, target)
        self.config, self.targets = config, list(distinct.values())
        self.images = config.images(self.targets, device)
        data = self.images.data
        self.grids = config.grids_for(data.image_size)
        if config.stylized is not None:
            find_stylized(Path(config.stylized), data)
        self.plan = [
            f"evaluating {', '.join(target.name for target in self.targets)}",
            f"  data      {data.name}: {counted(len(self.images), 'test image')}{data.test_note}",
            f"  device    {device_name(device)}, float32 without TF32, batches of "
            f"{config.batch_size}",
        ]
        self.plan += [
            f"warning: {model.name} is the same network as {distinct[model.digest].name}: it is "
            "left out"
            for model in loaded
            if model is not distinct[model.digest]
        ]
        self.plan += map(self._set_line, config.against)
        self.plan += [f"  white-box {attack}" for attack in config.attack]
        if config.boundary:
            self.plan.append(f"  score     {config.boundary}")
        if config.noise:
            self.plan.append(f"  noise     eps {', '.join(map(levels, config.noise))} of 255")
        if self.grids:
            self.plan.append(f"  shuffle   {', '.join(map(grid_text, self.grids))} patches")
        if config.stylized is not None:
            self.plan.append(f"  stylised  {config.stylized}")
        self.out = writable(Path(config.out), "cells")
        self.store, self.screen = Store(self.out / "cells"), Progress()
        self.store.all()  # a damaged one is told of before any work
        self.clean = CleanPredictions(self.images, config.batch_size)
        self.results: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._right = torch.zeros(0, dtype=torch.int64)

    def _set_line(self, path: Path) -> str:
        """What a set is, once it is known to fit. Only one is in memory at once."""
        found = load_set(path)
        check_set(found, self.images, self.targets, str(path))
        details = found.details
        return (
            f"  set       {path}: {details['attack_text']} from {details['source']['name']}, "
            f"{counted(len(found), 'image')}, {details['pixels']}, {details['precision']}"
        )

    def prepare(self) -> None:
        """Warn of targets that attacks cannot get hold of, and choose images.

        Raises UserError if none is classified right by all targets, and some protocol needs one.
        """
        for line in self.plan:
            self.screen.line(line)
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
        clean, size = {"clean": self.clean}, {"batch_size": config.batch_size}
        for target in self.targets:
            about = f"{target.name}, clean images"
            self._make(about, evaluate_clean, target, images, store, **clean)
        common = self.targets if len(self.targets) > 1 else ()
        for path in config.against:
            found = load_set(path)
            more = {"common": common, "content": content_digest(found), **clean, **size}
            for target in self.targets:
                about = f"{target.name} against {path.name}"
                cells = self._make(about, evaluate_transfer, target, found, images, store, **more)
                for warning in cells[0]["results"].get("warnings", ()) if cells else ():
                    self.screen.line(f"warning: {about}: {warning}")
        indices = sample_of_all(images, config.samples or SAMPLES, config.sample_seed)
        for target in self.targets if config.attack else ():
            source = Source(target, PRECISION, cuda_graph=True)
            for attack in config.attack:
                about = f"{target.name}, white-box {attack.name}"
                on = source, attack, images, indices, store
                self._make(about, evaluate_white_box, *on, **size)
        right = self.targets, images, self._right, store
        if config.noise:
            self._make("noise", evaluate_noise, *right, epsilons=config.noise, **size)
        if self.grids:
            more = {"grids": self.grids, "seed": config.sample_seed, **size}
            self._make("shuffled patches", evaluate_shuffle, *right, **more)
        if config.stylized is not None:
            on = self.targets, images, Path(config.stylized), store
            self._make("stylised images", evaluate_stylized, *on, **clean, **size)
        if config.boundary:
            on = self.targets, images, self._right[: config.samples or BOUNDARY_SAMPLES], store
            more = {"attack": config.boundary, **size}
            self._make("decision-based score", evaluate_boundary, *on, **more)

    def _make(self, text: str, evaluate: Callable[..., Any], *on: Any, **options: Any) -> list:
        """The cell or cells; none if they could not be made."""
        self.screen.begin(text)
        try:
            with memory_advice(self.images.device, self.config.batch_size, f"; {_KEPT}"):
                made = evaluate(*on, progress=self.screen.advance, **options)
        except UserError as error:
            self.failures.append(str(error))
            self.screen.line(f"failed: {text}: {error}")
            return []
        made = [made] if isinstance(made, dict) else made
        self.results += made
        return made

    def everything(self) -> list[dict[str, Any]]:
        """The cells of the folder, those of earlier commands too, under the names of today."""

        def key(cell: dict[str, Any]) -> str:
            return json.dumps([cell["kind"], cell["identity"]], sort_keys=True)

        today = {key(cell): cell for cell in self.results}
        names = {target.digest: shown_target(target) for target in self.targets}
        found = self.store.all()
        for cell in found:
            cell["results"].get("shown", {}).update(names.get(cell["identity"].get("target"), {}))
        return [today.get(key(cell), cell) for cell in found]

    def picture_samples(self) -> dict[str, Any]:
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

    def show(self) -> None:
        """Tables on the screen and in a file, pictures, and where they are."""
        # Here, since matplotlib takes a second that an error in the arguments need not cost.
        from .pictures import draw_all
        from .tables import console_tables, markdown

        console, out, reused = make_console(), self.out, self.store.reused
        console.print()
        show(console, *console_tables(self.results))
        everything, samples = self.everything(), self.picture_samples()
        with atomic_path(out / "table.md") as temporary:
            temporary.write_text(markdown(everything), encoding="utf-8")
        format = self.config.picture_format
        pictures = draw_all(everything, out, samples=samples, format=format)
        files = ", ".join(["table.md", *(path.name for path in pictures)])
        show(console, f"results in {out}: {files}, cells/*.json")
        if older := len(everything) - len(self.results):
            older = counted(older, "result")
            console.print(f"table and pictures also show {older} of earlier commands")
        if reused:
            total = counted(reused + self.store.computed, "result")
            console.print(f"{reused} of {total} {'was' if reused == 1 else 'were'} there")
