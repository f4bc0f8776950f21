"""``scotoma paper study``: make the page of the user study (the paper's appendix B)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...defective import Defects
from ...defective.attacks import parse_attack
from ...defective.errors import UserError, counted
from ...defective.robustness import AdversarialSet, load_set
from ...train.distributed import World, choose_device
from ...train.robustness.termination import run_until_terminated
from ...train.screen import Progress
from ...train.settings import Parser, make_parser
from ..report.document import clean
from . import reproduce
from .artefacts import AdversarialImages, Context
from .asked import read_setup
from .data import Data
from .options import add_run_options, add_setup_options, run_options
from .pictures import WORDS, class_names
from .setup import Setup, mifgsm
from .study.origin import ROLES
from .study.page import write_page
from .study.pairs import Pair, Study
from .work import Plan, Store

_TEXT = """\
Write one web page that asks people which of two adversarial images looks more like the class that
its network sees in it: one is made against a defective network, the other against a standard one.
It needs no network connection; people save a file at the end, and 'scotoma paper study-score FILES
--page PAGE' evaluates those files."""
_WORDNET = re.compile(r"n\d{8}")


def make_study_parser() -> Parser:
    parser = make_parser("paper study", _TEXT)
    add_setup_options(parser, tables=False)
    add_run_options(parser)
    parser.add_argument(
        "--of",
        nargs="+",
        choices=ROLES,
        metavar="DATA",
        default=["cifar10"],
        help=f"data sets of the images, some of {', '.join(ROLES)}; the paper's study has both",
    )
    parser.add_argument(
        "--defects", default="0.1-{1,2}", help="of the defective source, in the paper's notation"
    )
    parser.add_argument(
        "--attack",
        default=mifgsm(1, 40, 32),
        metavar="NAME[:KEY=VALUE,...]",
        help="that makes the images; see 'scotoma attack --list'",
    )
    parser.add_argument("--per-person", type=int, default=50, help="pairs that each person judges")
    return parser


def main(argv: list[str]) -> int:
    """Make the page. Raises UserError as :func:`make_study`."""
    arguments = make_study_parser().parse_args(argv)

    def work() -> None:
        path, study = make_study(arguments)
        print(
            f"{counted(len(study.pairs), 'pair')}, of which each person judges "
            f"{study.per_person}: {path}\n"
            "Open it in a browser, or send it to people; then: scotoma paper study-score FILES "
            f"--page {path}"
        )

    return run_until_terminated("paper study", work)


def make_study(arguments: argparse.Namespace) -> tuple[Path, Study]:
    """Train and attack what is missing, and write the page.

    Raises:
        UserError: bad arguments, or classes without names, before any work; an artefact that could
            not be made; or too few images that fool both sources.
    """
    if arguments.per_person < 1:
        raise UserError(f"--per-person is {arguments.per_person}; expected 1 or more")
    attack = parse_attack(arguments.attack)
    defects = str(Defects.parse(arguments.defects))
    if defects == "standard":
        raise UserError("--defects is standard; the other source of each pair is that already")
    options = run_options(arguments)
    setup = read_setup(arguments, arguments.of)
    sets = {role: _sets(setup, role, defects, str(attack)) for role in dict.fromkeys(arguments.of)}
    store = Store(Path(arguments.out))
    store.prepare()
    device = choose_device(arguments.device, World())
    plan = Plan.of([each for pair in sets.values() for each in pair.both()], store)
    with Progress() as screen:
        context = Context(store, device, screen, arguments.batch_size, arguments.workers)
        reproduce.introduce(["the user study"], setup, plan, context, options.ray, tables=False)
        for data in setup.data.values():
            if data.made_by is None:  # else there is nothing to read yet
                _names(data, context)
        reproduce.fail(reproduce.make_missing(plan, context, options), plan)
        pairs = list(_pairs(sets, context))[: setup.budget.study_pairs]
    if len(pairs) < min(arguments.per_person, setup.budget.study_pairs):
        raise UserError(
            f"only {len(pairs)} images fool both networks, and --per-person is "
            f"{arguments.per_person}; give fewer, or a stronger --attack"
        )
    study = Study(
        title="Which image looks more like its label?",
        pairs=pairs,
        groups={"a": f"{defects} source", "b": "standard source"},
        settings={
            "attack": setup.budget.attack(str(attack)),
            "budget": setup.budget.name,
            "data": {role: data.label for role, data in setup.data.items()},
            "keys": {role: [each.key for each in pair.both()] for role, pair in sets.items()},
        },
        seed=setup.seeds[0],
        per_person=min(arguments.per_person, len(pairs)),
    )
    folder = store.folder / "pages" / f"study-{setup.budget.name}"
    folder.mkdir(parents=True, exist_ok=True)
    return write_page(study, folder / "index.html"), study


@dataclass(frozen=True)
class _Sets:
    """Adversarial images of a defective and a standard network, of the same originals."""

    defective: AdversarialImages
    standard: AdversarialImages

    def both(self) -> tuple[AdversarialImages, AdversarialImages]:
        return self.defective, self.standard


def _sets(setup: Setup, role: str, defects: str, attack: str) -> _Sets:
    seed = setup.seeds[0]
    defective = setup.target(defects, "resnet18", defects, seed=seed, role=role)
    standard = setup.target("standard", "resnet18", seed=seed, role=role)
    # Twice as many as pairs are wanted: not every image fools both.
    sample = setup.sample(role, (defective, standard), 2 * setup.budget.study_pairs)
    return _Sets(*(setup.adversarial(source, attack, sample) for source in (defective, standard)))


def _pairs(sets: dict[str, _Sets], context: Context) -> Iterator[Pair]:
    """Of all data sets in turns, so that a cut at the end leaves as many of each."""
    by_role = [list(_pairs_of(role, each, context)) for role, each in sets.items()]
    number = 0
    for place in range(max(map(len, by_role))):
        for found in by_role:
            if place < len(found):
                yield Pair(number, *found[place])
                number += 1


def _pairs_of(role: str, sets: _Sets, context: Context) -> Iterator[tuple]:
    first, second = (load_set(each.path(context.store)) for each in sets.both())
    if not torch.equal(first.indices, second.indices):
        raise UserError("the two sets are of different images; remove them and make them again")
    names = _names(sets.defective.sample.data, context)
    both = (first.fooled & second.fooled).nonzero().flatten().tolist()
    for row in both:
        label = names[int(first.labels[row])]
        predicted = tuple(names[int(s.predictions[row])] for s in (first, second))
        # Two classes may share a name, such as WordNet's two "crane"s: a label that people read as
        # the true one asks nothing.
        if label not in predicted:
            yield role, label, tuple(_image(s, row) for s in (first, second)), predicted


def _names(data: Data, context: Context) -> tuple[str, ...]:
    """Of the classes, as people see them. Raises UserError if one has none, or a mere number."""
    names = tuple(map(clean, class_names(data, context)))
    for name in names:
        if not name or _WORDNET.fullmatch(name):
            fix = f"put back {WORDS}, which has the names; or " * (data.dataset == "tiny-imagenet")
            raise UserError(
                f"{data.label}: {name or 'a class without a name'} says nothing to people; {fix}"
                "give --data an image folder whose classes are called in words"
            )
    return names


def _image(found: AdversarialSet, row: int):
    """uint8 [H,W,C]."""
    return found.images[row].permute(1, 2, 0).contiguous().numpy()
