"""``scotoma attack``: make adversarial images from networks, once, for use against any target."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...defective.attacks import Attack, parse_attack
from ...defective.errors import UserError
from ..distributed import World, choose_device
from ..robustness.arithmetic import check_precision, disk_advice, memory_advice
from ..robustness.attack_plan import attack_list, plan
from ..robustness.attack_report import figures, show_sets
from ..robustness.attacking import Source, make_set
from ..robustness.images import TestImages
from ..robustness.models import NamedModel, load_named
from ..robustness.sampling import Sample, choose_images
from ..robustness.set_request import SetRequest, set_name
from ..robustness.termination import run_until_terminated
from ..screen import Progress
from ..store import writable
from .attack_options import make_attack_parser
from .robustness_options import check_numbers, images_from, networks_from

_KEPT = "finished sets and batches are kept, and the same command goes on with the others"


def main(argv: list[str]) -> int:
    arguments = make_attack_parser().parse_intermixed_args(argv)
    if arguments.list:
        print(attack_list())
        return 0
    return run_until_terminated("attack", lambda: attack(arguments))


def attack(arguments: argparse.Namespace) -> list[Path]:
    """Make all sets that are asked for. Returns their files.

    Raises:
        UserError: bad arguments, before any work; or a set that could not be made, after all
            others are.
    """
    attacks = _attacks(getattr(arguments, "attack", []))
    check_numbers(arguments)
    device = choose_device(arguments.device, World())
    check_precision(arguments.precision, device)
    sources = networks_from(arguments, device)
    known = {source.digest for source in sources}
    judges = getattr(arguments, "correct_for", [])
    others = (
        [m for m in load_named(judges, None, device) if m.digest not in known] if judges else []
    )
    images = images_from(arguments, [*sources, *others], device)
    out = writable(Path(arguments.out))
    size = arguments.batch_size
    with Progress() as screen:
        screen.begin("choosing images")
        with memory_advice(device, size):
            sample = choose_images(
                [*sources, *others],
                images,
                arguments.samples,
                arguments.sample_seed,
                size,
                screen.advance,
            )
        for line in plan(sample, images, attacks, arguments.pixels, arguments.precision, size):
            screen.line(line)
        requests = _requests(sources, attacks, images, sample, out, arguments)
        with disk_advice(out, _KEPT):
            made, failed = _make(requests, sample, arguments, screen)
    if made:
        show_sets(made)
    if failed:
        raise UserError(
            failed[0]
            if len(requests) == 1
            else f"{len(failed)} of {len(requests)} sets could not be made; the first: {failed[0]}"
        )
    return [path for path, _ in made]


def _attacks(texts: list[str]) -> list[Attack]:
    if not texts:
        raise UserError(
            "no --attack is given; expected for example --attack pgd:eps=16/255,step=1/255,steps=20"
            " (see: scotoma attack --list)"
        )
    found: list[Attack] = []
    for text in texts:
        attack = parse_attack(text)
        if attack in found:
            raise UserError(f"--attack {text}: the same attack is given twice")
        found.append(attack)
    return found


def _requests(
    sources: list[NamedModel],
    attacks: list[Attack],
    images: TestImages,
    sample: Sample,
    out: Path,
    arguments: argparse.Namespace,
) -> list[SetRequest]:
    """Raises UserError if a set's file, or what is half made of it, is of another request."""
    requests: dict[Path, SetRequest] = {}
    for source in sources:
        for each in attacks:
            path = out / set_name(source, each, arguments.pixels)
            if path in requests:  # names that differ in signs which files' names cannot have
                path = path.with_name(f"{source.digest[:8]}-{path.name}")
            requests[path] = SetRequest(
                source, each, images, sample.indices, path, arguments.pixels, arguments.precision
            )
    for request in requests.values():
        request.check()
    return list(requests.values())


def _make(
    requests: list[SetRequest], sample: Sample, arguments: argparse.Namespace, screen: Progress
) -> tuple[list[tuple[Path, list[str]]], list[str]]:
    """(files and their rows of the table, messages of sets that failed, which end no long run)."""
    made: list[tuple[Path, list[str]]] = []
    failed: list[str] = []
    source: Source | None = None
    for number, request in enumerate(requests, 1):
        if source is None or source.model is not request.model:
            source = Source(request.model, request.precision, arguments.cuda_graph)
        screen.line(f"[{number}/{len(requests)}] {request.model.name}, {request.attack}")
        screen.begin(f"[{number}/{len(requests)}] {request.attack.name}")
        try:
            found = make_set(
                source,
                request.attack,
                request.images,
                request.indices,
                request.path,
                batch_size=arguments.batch_size,
                pixels=request.pixels,
                precision=request.precision,
                sampling=sample.describe(),
                say=lambda text: screen.line(f"  {text}"),
                advance=screen.advance,
            )
            row = figures(request.attack, found, request.images, arguments.batch_size)
            made.append((request.path, row))
        except UserError as error:
            failed.append(str(error))
            if len(requests) > 1:
                screen.line(f"  failed: {error}")
        except KeyboardInterrupt:
            screen.line(
                f"  stopped; finished batches are kept in {request.path}.parts, and the same "
                "command goes on with the others"
            )
            raise
    return made, failed
