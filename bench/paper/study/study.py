"""``scotoma paper study``: pairs of adversarial images, and the page that asks people about them.

Appendix B of the paper. The page is one HTML file that loads nothing, asks, and saves answers as a
file, which :mod:`.score` reads.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....defective import Defects
from ....defective.attacks import parse_attack
from ....defective.errors import UserError, counted
from ....defective.robustness import load_set
from ....train.distributed import World, choose_device
from ....train.pages import clean, write_files
from ....train.screen import Progress
from ....train.settings import Parser, make_parser
from .. import reproduce
from ..artefacts import AdversarialImages, Context
from ..data import Data
from ..pictures import WORDS, class_names
from ..reproduce import add_run_options, add_setup_options, run_options
from ..setup import Setup, mifgsm, read_setup
from ..work import Plan, Store
from . import FORMAT, ROLES

QUESTION = "Which of the two looks more like what its label says?"
"""The paper: "which one of the pair is better aligned with the predicted label" (appendix B)."""
LONGEST_NAME = 40
"""Characters of a person's name."""
_TEXT = """\
Write one web page that asks people which of two adversarial images looks more like the class that
its network sees in it: one is made against a defective network, the other against a standard one.
It needs no network connection; people save a file at the end, and 'scotoma paper study-score FILES
--page PAGE' evaluates those files."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two adversarial images of the same original.

    Attributes:
        number: of the pair in its study.
        dataset, true_class: where the original is from, and what it shows.
        images: two uint8 arrays [H,W,C] of one shape, C 1 or 3: first the defective source's, then
            the standard source's.
        predicted: what each source takes its own image for; neither is the true class.

    Raises:
        UserError: an attribute is none of that.
    """

    number: int
    dataset: str
    true_class: str
    images: tuple[np.ndarray, np.ndarray]
    predicted: tuple[str, str]

    def __post_init__(self) -> None:
        where = f"pair {self.number}"
        kinds = [
            (str(getattr(image, "dtype", type(image).__name__)), np.shape(image))
            for image in self.images
        ]
        shape = kinds[0][1] if kinds else ()
        fits = len(shape) == 3 and shape[2] in (1, 3) and 0 not in shape
        if kinds != 2 * [("uint8", shape)] or not fits:
            told = ", ".join(f"{kind} {list(shape)}" for kind, shape in kinds)
            raise UserError(
                f"{where}: images are {told}; expected two of one shape, uint8 [H,W,1] or [H,W,3]: "
                "the defective source's and the standard one's"
            )
        names = self.true_class, *self.predicted
        if len(names) != 3 or not all(isinstance(n, str) and clean(n) for n in names):
            raise UserError(
                f"{where}: classes are {self.true_class!r}, taken for {self.predicted!r}; expected "
                "one, taken for two, each with a name that can be seen"
            )
        if self.true_class in self.predicted:
            raise UserError(
                f"{where}: a source takes its image for the true class, {self.true_class!r}; keep "
                "only originals whose adversarial images fool both sources"
            )

    @property
    def labels(self) -> tuple[str, str]:
        """The predicted classes as a page shows them: one line, no invisible characters."""
        first, second = map(clean, self.predicted)
        return first, second


@dataclass(frozen=True, eq=False)
class Study:
    """What is asked.

    Attributes:
        title: stands above every page; it must not tell which source is which.
        pairs: of which each person gets ``per_person``, drawn without replacement.
        groups: what "a" and "b" are, in the order of a pair's images, for the report; people do not
            see it.
        settings: JSON values that say how the images were made.
        seed: that the pairs were drawn with.

    Raises:
        UserError: an attribute is none of that, two pairs share a number, there are fewer pairs
            than a person gets.
    """

    title: str
    pairs: Sequence[Pair]
    groups: Mapping[str, str]
    settings: Mapping[str, Any]
    seed: int
    per_person: int = 50

    def __post_init__(self) -> None:
        if set(self.groups) != {"a", "b"}:
            raise UserError(f"groups is {self.groups!r}; expected what 'a' and what 'b' is")
        try:  # as a file gives them back: lists for tuples, words for keys
            settings = json.loads(json.dumps(dict(self.settings), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UserError(f"settings are no names and JSON values ({error})") from None
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "groups", dict(self.groups))
        numbers = Counter(pair.number for pair in self.pairs)
        if twice := [number for number, count in numbers.items() if count > 1]:
            raise UserError(f"several pairs have the number {twice[0]}; number them differently")
        if not 1 <= self.per_person <= len(self.pairs):
            raise UserError(
                f"{len(self.pairs)} pairs for {self.per_person} a person; give more pairs, or a "
                "smaller per_person"
            )

    @property
    def head(self) -> dict[str, Any]:
        """What each result says of the study, beside its digest."""
        names = ("title", "groups", "settings", "seed", "per_person")
        return {"format": FORMAT} | {name: getattr(self, name) for name in names}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that people see and all that results say of the study, 64 hex digits."""
        pairs = [
            [p.number, p.dataset, p.true_class, *p.predicted, *p.images[0].shape]
            for p in self.pairs
        ]
        said = self.head | {"question": QUESTION, "pairs": pairs}
        hashed = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for pair in self.pairs:
            for image in pair.images:
                hashed.update(np.ascontiguousarray(image).tobytes())
        return hashed.hexdigest()


# The page.


def write_page(study: Study, path: str | os.PathLike) -> Path:
    """Write the page, whole or not at all; equal for equal studies.

    It works from a disk, without a network, on telephones too. Answers stay in the browser until
    the person saves them as ``study-DIGEST-PERSON.json``.

    Args:
        path: of the HTML file; folders above it are made.

    Raises:
        UserError: ``path`` does not end in .html or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UserError(f"{path} is no name for a page; give a file that ends in .html")
    write_files({path: page(study).encode()})
    return path


def page(study: Study) -> str:
    """The text of the HTML file."""
    here = Path(__file__).parent
    files = {
        name: (here / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js")
    }
    style, script = files["page.css"], f'"use strict";\n(() => {{\n{files["page.js"]}}})();'
    # Nothing may be loaded, sent or run but these very scripts and styles, whatever the names of
    # classes hold.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(clean(study.title)),
        "longest": str(LONGEST_NAME),
        "style": style,
        "script": script,
        "study": _data(study),
    }
    # All at once: what is put in is not searched for further places.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], files["page.html"])


def _data(study: Study) -> str:
    """What the script reads, as JSON that no HTML parser takes for markup."""
    pairs = [
        {
            "number": pair.number,
            "labels": pair.labels,
            "width": pair.images[0].shape[1],
            "height": pair.images[0].shape[0],
            "images": [f"data:image/png;base64,{_png(image)}" for image in pair.images],
        }
        for pair in study.pairs
    ]
    data = {"digest": study.digest, "question": QUESTION, "head": study.head, "pairs": pairs}
    # ASCII only, so that U+2028 and its like are escaped already.
    text = json.dumps(data, allow_nan=False, ensure_ascii=True)
    return re.sub("[<>&]", lambda sign: f"\\u{ord(sign[0]):04x}", text)


def _png(image: np.ndarray) -> str:
    """A uint8 array [H,W,C] as a PNG file in base64."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _digest(text: str) -> str:
    """How a content security policy names a text that may be used."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# The verb.


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


Sets = tuple[AdversarialImages, AdversarialImages]
"""Adversarial images of a defective and a standard network, of the same originals."""


def main(argv: list[str]) -> int:
    """Train and attack what is missing, and write the page.

    Raises:
        UserError: bad arguments, or classes without names, before any work; an artefact that could
            not be made; or too few images that fool both sources.
    """
    arguments = make_study_parser().parse_args(argv)
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
    plan = Plan.of([each for both in sets.values() for each in both], store)
    with Progress() as screen:
        context = Context(store, device, screen, arguments.batch_size, arguments.workers)
        reproduce.introduce(["the user study"], setup, plan, context, options.ray, tables=False)
        for data in setup.data.values():
            if data.made_by is None:  # else there is nothing to read yet
                names_of(data, context)
        reproduce.fail(reproduce.make_missing(plan, context, options), plan)
        pairs = pairs_of(sets, context)[: setup.budget.study_pairs]
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
            "keys": {role: [each.key for each in both] for role, both in sets.items()},
        },
        seed=setup.seeds[0],
        per_person=min(arguments.per_person, len(pairs)),
    )
    path = write_page(study, store.folder / f"pages/study-{setup.budget.name}/index.html")
    print(
        f"{counted(len(pairs), 'pair')}, of which each person judges {study.per_person}: {path}\n"
        "Open it in a browser, or send it to people; then: scotoma paper study-score FILES "
        f"--page {path}"
    )
    return 0


def _sets(setup: Setup, role: str, defects: str, attack: str) -> Sets:
    seed = setup.seeds[0]
    defective = setup.target(defects, "resnet18", defects, seed=seed, role=role)
    standard = setup.target("standard", "resnet18", seed=seed, role=role)
    # Twice as many as pairs are wanted: not every image fools both.
    sample = setup.sample(role, (defective, standard), 2 * setup.budget.study_pairs)
    return tuple(setup.adversarial(source, attack, sample) for source in (defective, standard))


def pairs_of(sets: Mapping[str, Sets], context: Context) -> list[Pair]:
    """Of all data sets in turns, so that a cut at the end leaves as many of each."""
    by_role = [list(_pairs(role, both, context)) for role, both in sets.items()]
    found = [each for turn in zip_longest(*by_role) for each in turn if each is not None]
    return [Pair(number, *each) for number, each in enumerate(found)]


def _pairs(role: str, both: Sets, context: Context) -> Iterator[tuple]:
    first, second = (load_set(each.path(context.store)) for each in both)
    if not torch.equal(first.indices, second.indices):
        raise UserError("the two sets are of different images; remove them and make them again")
    names = names_of(both[0].sample.data, context)
    for row in (first.fooled & second.fooled).nonzero().flatten().tolist():
        label = names[int(first.labels[row])]
        predicted = tuple(names[int(s.predictions[row])] for s in (first, second))
        # Two classes may share a name, such as WordNet's two "crane"s: a label that people read as
        # the true one asks nothing.
        if label not in predicted:
            images = (s.images[row].permute(1, 2, 0).contiguous() for s in (first, second))
            yield role, label, tuple(image.numpy() for image in images), predicted


def names_of(data: Data, context: Context) -> tuple[str, ...]:
    """Of the classes, as people see them. Raises UserError if one has none, or a mere number."""
    names = tuple(map(clean, class_names(data, context)))
    for name in names:
        if not name or re.fullmatch(r"n\d{8}", name):
            fix = f"put back {WORDS}, which has the names; or " * (data.dataset == "tiny-imagenet")
            raise UserError(
                f"{data.label}: {name or 'a class without a name'} says nothing to people; {fix}"
                "give --data an image folder whose classes are called in words"
            )
    return names
