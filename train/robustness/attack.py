"""``scotoma attack``: make adversarial images from networks, once, for use against any target."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ...defective.attacks import Attack, attack_class, attack_names, parse_attack
from ...defective.errors import UserError, counted
from ...defective.robustness import AdversarialSet
from ...defective.robustness.rates import fooled_source
from ..config import setting
from ..distributed import World, choose_device, device_name
from ..screen import Progress, make_console, show, wrapped
from ..settings import add_settings, make_parser
from ..store import disk_advice, writable
from .images import ImagesConfig, Sample, TestImages, choose_images
from .models import check_precision, load_named, memory_advice
from .protocols import count_statuses
from .sets import Pixels, SetRequest, Source, make_set, set_name, told_settings
from .tables import interval, written

AttackPrecision = Literal["float32", "bfloat16", "float16"]

_KEPT = "finished sets and batches are kept, and the same command goes on with the others"
_DESCRIPTION = """\
Make adversarial images from networks, and keep them in files that 'scotoma evaluate' reads.
For example: scotoma attack runs/standard --attack fgsm:eps=8/255 --attack
pgd:eps=16/255,step=1/255,steps=20. Distances are of pixels in [0,1]."""


@dataclass
class AttackConfig(ImagesConfig):
    """What to attack, with what. Raises UserError for a number out of range, or a bad attack."""

    attack: Sequence[str | Attack] = setting(
        [],
        "attack",
        "an attack and its settings, from every source; may be repeated",
        "NAME[:KEY=VALUE,...]",
        action="append",
    )
    pixels: Pixels = setting(
        "float",
        "attack",
        "float, or uint8, which rounds to the nearest of 256 levels as an image file would",
    )
    precision: AttackPrecision = setting(
        "float32",
        "attack",
        "of the passes in attacks: float32, bfloat16 or float16; verdicts are always in float32",
    )
    cuda_graph: bool = setting(
        True,
        "attack",
        "on a GPU, launch a whole gradient at once in attacks that keep a batch together",
    )
    samples: int = setting(
        1000,
        "images",
        "test images to attack, or all that there are; 1000 keep the 95 %% interval of a rate "
        "within 3.1 points, 5000 (the paper's number) within 1.4",
    )
    correct_for: Sequence[str] = setting(
        [],
        "images",
        "networks beside the sources that must get every image right, usually the targets",
        "RUN",
        nargs="+",
    )
    out: str = setting("adversarial", "run", "folder for the sets")

    def __post_init__(self) -> None:
        if not self.attack:
            raise UserError(
                "no --attack is given; expected for example --attack "
                "pgd:eps=16/255,step=1/255,steps=20 (see: scotoma attack --list)"
            )
        attacks = [parse_attack(a) if isinstance(a, str) else a for a in self.attack]
        for number, attack in enumerate(attacks):
            if attack in attacks[:number]:
                raise UserError(f"--attack {attack}: the same attack is given twice")
        self.attack = attacks
        super().__post_init__()


def main(argv: list[str]) -> int:
    parser = make_parser("attack", _DESCRIPTION)
    add_settings(parser, AttackConfig)
    parser.add_argument("--list", action="store_true", help="list attacks and settings, and stop")
    asked = vars(parser.parse_args(argv))
    if asked.pop("list"):
        print(attack_list())
    else:
        attack(AttackConfig(**asked))
    return 0


def attack(config: AttackConfig) -> list[Path]:
    """Make all sets that are asked for. Returns their files.

    Raises:
        UserError: bad settings, before any work; or a set that could not be made, after all
            others are.
    """
    device = choose_device(config.device, World())
    check_precision(config.precision, device)
    sources = config.networks(device)
    known = {source.digest for source in sources}
    judges = load_named(list(config.correct_for), None, device) if config.correct_for else []
    models = [*sources, *(judge for judge in judges if judge.digest not in known)]
    images = config.images(models, device)
    out, size = writable(Path(config.out)), config.batch_size
    made: list[tuple[Path, list[str]]] = []
    failed: list[str] = []  # which ends no long run
    with Progress() as screen:
        screen.begin("choosing images")
        with memory_advice(device, size):
            sample = choose_images(
                models, images, config.samples, config.sample_seed, size, screen.advance
            )
        for line in plan(sample, images, config):
            screen.line(line)
        requests: dict[Path, SetRequest] = {}
        for model in sources:
            for each in config.attack:
                path = out / set_name(model, each, config.pixels)
                if path in requests:  # names that differ in signs which files' names cannot have
                    path = path.with_name(f"{model.digest[:8]}-{path.name}")
                which = (sample.indices, path, config.pixels, config.precision)
                requests[path] = SetRequest(model, each, images, *which)
        for request in requests.values():
            request.check()
        source: Source | None = None
        with disk_advice(out, _KEPT):
            for number, request in enumerate(requests.values(), 1):
                if source is None or source.model is not request.model:
                    source = Source(request.model, config.precision, config.cuda_graph)
                screen.line(f"[{number}/{len(requests)}] {request.model.name}, {request.attack}")
                screen.begin(f"[{number}/{len(requests)}] {request.attack.name}")
                try:
                    made.append((request.path, _made(request, source, sample, config, screen)))
                except UserError as error:
                    failed.append(str(error))
                    if len(requests) > 1:
                        screen.line(f"  failed: {error}")
                except KeyboardInterrupt:
                    screen.line(
                        f"  stopped; finished batches are kept in {request.folder}, and the same "
                        "command goes on with the others"
                    )
                    raise
    if made:
        _show_sets(made)
    if failed:
        more = f"{len(failed)} of {len(requests)} sets could not be made; the first: "
        raise UserError(more * (len(requests) > 1) + failed[0])
    return [path for path, _ in made]


def _made(
    request: SetRequest, source: Source, sample: Sample, config: AttackConfig, screen: Progress
) -> list[str]:
    """Make a set. Returns its row of the table at the end."""
    found = make_set(
        source,
        request.attack,
        request.images,
        request.indices,
        request.path,
        batch_size=config.batch_size,
        pixels=config.pixels,
        sampling=sample.describe(),
        say=lambda text: screen.line(f"  {text}"),
        advance=screen.advance,
    )
    rate = fooled_source(
        labels=found.labels,
        source_clean_predictions=found.clean_predictions,
        source_adversarial_predictions=found.predictions,
    )
    fooled = "no image left N 0"
    if rate["n"]:
        fooled = f"{100 * rate['rate']:.2f}\n{interval(rate)}\nN {rate['n']:,}"
    sizes = ["-", "-"]
    if bool(found.fooled.any()):
        turned = found.subset(found.fooled)
        euclidean, largest = _distances(turned, request.images, config.batch_size)
        sizes = [f"{float(euclidean.median()):.4f}", f"{255 * float(largest.median()):.2f}"]
    passes = [f"{float(t.double().mean()):,.1f}" for t in (found.forwards, found.backwards)]
    return [
        found.details["source"]["name"],
        "\n".join([request.attack.name, *told_settings(request.attack).split(",")]).strip(),
        fooled,
        "\n".join(f"{name} {n:,}" for name, n in count_statuses(found.status).items()),
        *sizes,
        " + ".join(passes),
        f"{found.details['seconds']:,.1f}",
    ]


def plan(sample: Sample, images: TestImages, config: AttackConfig) -> list[str]:
    """Everything that the numbers depend on, so that no default stays unseen."""
    names = ", ".join(model.name for model in sample.correct_for)
    every = "is" if len(sample.correct_for) == 1 else "all are"
    lines = [
        f"{len(sample):,} of the {counted(len(images), 'test image')} of {images.data.name}: the "
        f"first of a shuffle (seed {sample.seed}) on which {names} {every} right"
    ]
    if len(sample) < sample.asked:
        lines.append(
            f"  {sample.asked:,} were asked for, but there are only {len(sample):,}: all are taken"
        )
    pixels, precision = "float, not rounded", "float32 without TF32"
    if config.pixels == "uint8":
        pixels = "rounded to the nearest of 256 levels; the source is asked again after it"
    if config.precision != "float32":
        precision = f"{config.precision} autocast in attacks; verdicts are in {precision}"
    lines += [
        f"  pixels    {pixels}",
        f"  precision {precision}",
        f"  device    {device_name(images.device)}, batches of {config.batch_size}",
        *(f"  attack    {attack}" for attack in config.attack),
    ]
    near = dict.fromkeys(a.name for a in config.attack if a.name in ("cw-l2", "boundary"))
    if config.pixels == "uint8" and near:
        lines.append(
            f"  hint      {' and '.join(near)} may end just past the boundary, and rounding may "
            "carry images back: compare fooled with the statuses, which are before rounding; "
            "--pixels float keeps them, for cw-l2 a confidence does too"
        )
    paths: dict[str, set[str]] = {}
    for member in (member for model in sample.correct_for for member in model.members):
        paths.setdefault(member.digest, set()).add(member.path)
    lines += [
        f"warning: {' and '.join(sorted(same))} hold the same weights: they are one network"
        for same in paths.values()
        if len(same) > 1
    ]
    return lines


def attack_list() -> str:
    """All attacks with their settings, defaults and what they mean."""
    blocks, width = [], shutil.get_terminal_size().columns
    for name in attack_names():
        kind = attack_class(name)
        purpose = (kind.__doc__ or "").strip().splitlines()[0]
        lines = [wrapped(f"{name}: {purpose}", width)]
        _, usual = written(str(kind()))
        for item in fields(kind):
            default = usual.get(item.name, "none")
            told = item.metadata.get("help", "")
            lines.append(wrapped(f"  {item.name:16} {default:9} {told}", width, 29))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _distances(found: AdversarialSet, images: TestImages, size: int) -> tuple[Tensor, Tensor]:
    """Euclidean and largest distance [N] of each image from its original, pixels in [0,1]."""
    euclidean, largest = [], []
    for number, (indices, originals, _) in enumerate(images.batches(found.indices, size)):
        start = number * size
        delta = found.pixels(slice(start, start + len(indices))).to(originals.device) - originals
        euclidean.append(delta.flatten(1).norm(dim=1).cpu())
        largest.append(delta.flatten(1).abs().amax(1).cpu())
    return torch.cat(euclidean), torch.cat(largest)


def _show_sets(made: Sequence[tuple[Path, list[str]]]) -> None:
    """The table of files and their rows; long names are folded, files whole below."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("set")
    table.add_column("source", max_width=24)
    table.add_column("attack")
    for head in ("fooled %", "status", "L2", "Linf x255", "passes", "seconds"):
        table.add_column(head, justify="right")
    for number, (_, row) in enumerate(made, 1):
        table.add_row(*map(Text, [str(number), *row]))
    files = (f"{number}  {path}" for number, (path, _) in enumerate(made, 1))
    show(make_console(), table, _NOTE, *files)


_NOTE = (
    "fooled: of the images that the source gets right, with the 95 % interval; status before any "
    "rounding; L2 and Linf: medians of the fooled, pixels in [0,1] (Linf in levels of 255); "
    "passes: forward and backward, means of an image"
)
