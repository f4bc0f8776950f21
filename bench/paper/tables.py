"""The paper's tables and figures, found by their names, and those that are no transfer of attacks:
Tables 1, 6, 12 and 13, and Figures 1, 3, 4, 6, 7 and 14. What each is, and what its page says about
how it is made, is in ``tables.yaml``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from ...defective.errors import UserError, nearest
from ...defective.robustness.shuffle import PAPER_GRIDS
from ...train.robustness.protocols import PAPER_EPSILONS
from ...train.robustness.tables import levels
from .artefacts import Result
from .data import fitting_grids
from .experiment import Content, Definition, Measure, Places
from .published import facts
from .setup import ARCHITECTURES, Setup, fgsm, mifgsm, pgd
from .transfer_tables import ADVERSARIAL, DROPPED, TRANSFERS
from .work import Artefact

# Tables 1 and 13, and Figure 1: shape and texture.

STYLIZED = "IN->SIN"
SHOWN = 4
"""Images of Figure 1; the paper has one."""
FIRST_PAIR = {"resnet18": ("Standard CNN", "Defective CNN")}
ALL_PAIRS = {arch: (name, f"{name} 0.1-Bottom") for arch, name in ARCHITECTURES.items()}
"""{architecture: (row of the standard network, row of the defective one)}"""


def fill_shapes(setup: Setup, seed: int, pairs: Mapping[str, tuple[str, str]]) -> Content:
    """Pairs of networks on images whose shapes, or textures, are not what they were."""
    data = setup.data["imagenet"]
    grids = fitting_grids(data)
    has_stylized = bool(data.stylized) or data.made_by is not None
    cells: Places = {}
    for arch, (standard, defective) in pairs.items():
        pair = (
            setup.target(standard, arch, seed=seed, role="imagenet"),
            setup.target(defective, arch, "0.1-Bottom", seed=seed, role="imagenet"),
        )
        sample = setup.sample("imagenet", pair)
        for number, model in enumerate(pair):
            result = Result.shuffled(model, sample, grids)
            for index, grid in enumerate(grids):
                cells[model.name, f"{grid}x{grid}"] = Measure(result, "accuracy", index)
            if has_stylized:
                cells[model.name, STYLIZED] = Measure(Result.stylized(pair), "accuracy", number)
    notes = []
    if left_out := [f"{grid}x{grid}" for grid in PAPER_GRIDS if grid not in grids]:
        missing = ", ".join(left_out)
        notes.append(f"{missing}: not measured, for the images' side is not divided by it.")
    if not has_stylized:
        notes.append(f"{STYLIZED}: not measured, for there are no stylised images (--stylized).")
    columns = [*(f"{grid}x{grid}" for grid in PAPER_GRIDS), STYLIZED]
    return Content([row for names in pairs.values() for row in names], columns, cells, notes=notes)


def fill_figure1(setup: Setup, seed: int) -> Content:
    """A few test images, to be shuffled as Table 1 does it."""
    return Content(attached={"images": setup.sample("imagenet", (), SHOWN)})


# Table 6: the decision-based boundary attack.

BOUNDARY_ROWS: dict[str, dict[str, Any]] = DROPPED | {
    "Standard CNN + LS": {"label_smoothing": 0.1},
    "Defective CNN": {"defects": "0.1-Bottom"},
}
"""{row: settings of its ResNet-18} (section A.1.1)."""


def fill_boundary(setup: Setup, seed: int) -> Content:
    """Five networks on the images that all of them classify right."""
    models = tuple(
        setup.target(name, "resnet18", seed=seed, **how) for name, how in BOUNDARY_ROWS.items()
    )
    sample = setup.sample("cifar10", models, setup.budget.boundary_samples)
    cells, means = {}, {}
    for model in models:
        result = Result.boundary(model, setup.budget.attack("boundary"), sample)
        cells[model.name, "S(M)"] = Measure(result, "score_median")
        means[f"{model.name}, mean", "S(M)"] = Measure(result, "score_mean")
    return Content(BOUNDARY_ROWS, ["S(M)"], cells, means)


# Table 12: white-box attacks, and the adversarial training that section A.7 tells of.

WHITE_BOX_ATTACKS = {
    "FGSM1": fgsm(1),
    "FGSM2": fgsm(2),
    "FGSM4": fgsm(4),
    "PGD2": pgd(1, 4, 2),
    "PGD4": pgd(1, 6, 4),
    "PGD8": pgd(1, 10, 8),
}
WHITE_BOX_ROWS = {"ResNet-18": "standard", "0.5-Bottom": "0.5-Bottom", "0.3-Bottom": "0.3-Bottom"}
TRAINED = {
    "ResNet-18 + Adv. Training": "standard",
    "0.5-Bottom + Adv. Training": "0.5-Bottom",
}
"""Rows that Table 12 has not: the paper gives their numbers in its text."""
TRAINED_COLUMN = "PGD (2,7,8)"
TRAINED_ATTACK = pgd(2, 7, 8) + ",random_start=true"
"""As in training (Madry et al., 2018)."""


def fill_white_box(setup: Setup, seed: int) -> Content:
    """Each network attacked itself."""
    sample = setup.sample("cifar10", ())

    def attacked(model, attack: str) -> Measure:
        return Measure(Result.white_box(model, setup.budget.attack(attack), sample), "defence")

    cells = {}
    for name, defects in WHITE_BOX_ROWS.items():
        model = setup.target(name, "resnet18", defects, seed=seed)
        for column, attack in WHITE_BOX_ATTACKS.items():
            cells[name, column] = attacked(model, attack)
        cells[name, "Test Accuracy"] = Measure(Result.clean(model), "accuracy")
    for name, defects in TRAINED.items():
        model = setup.target(name, "resnet18", defects, seed=seed, **ADVERSARIAL)
        cells[name, TRAINED_COLUMN] = attacked(model, TRAINED_ATTACK)
    columns = (*WHITE_BOX_ATTACKS, "Test Accuracy", TRAINED_COLUMN)
    return Content((*WHITE_BOX_ROWS, *TRAINED), columns, cells)


# Figure 4: accuracy under Gaussian noise.

NOISE_ROWS = {"ResNet-18": "standard"} | {
    f"{keep}-Bottom": f"{keep}-Bottom" for keep in (0.5, 0.3, 0.1)
}


def fill_noise(setup: Setup, seed: int) -> Content:
    """Four networks on the images that all of them classify right. Columns are 2 sigma."""
    columns = [levels(epsilon) for epsilon in PAPER_EPSILONS]
    models = tuple(
        setup.target(name, "resnet18", defects, seed=seed) for name, defects in NOISE_ROWS.items()
    )
    sample = setup.sample("cifar10", models)
    cells = {}
    for model in models:
        result = Result.noise(model, sample, PAPER_EPSILONS, setup.budget.draws)
        for index, column in enumerate(columns):
            cells[model.name, column] = Measure(result, "accuracy", index)
    return Content(NOISE_ROWS, columns, cells)


# Figures 3, 6 and 7: adversarial images to look at; and Figure 14: curves of training.

MOST = 100
"""Images that are attacked, so that enough of them fool every network of a picture."""
SMALL, MIDDLE, LARGE = mifgsm(1, 20, 16), mifgsm(1, 40, 32), mifgsm(1, 80, 64)


def fill_examples(
    setup: Setup, seed: int, networks: Mapping[str, tuple[str, ...]], attacks: tuple[str, ...]
) -> Content:
    """Adversarial images that each network is the source of.

    Args:
        networks: {role: defects of the ResNet-18s}.
    """
    attached: dict[str, Artefact] = {}
    for role, several in networks.items():
        # Of no network's choice, so that another figure's networks have the same sets.
        sample = setup.sample(role, (), min(MOST, setup.budget.samples))
        for attack in attacks:
            for defects in several:
                name = "ResNet-18" if defects == "standard" else defects
                model = setup.target(name, "resnet18", defects, seed=seed, role=role)
                attached[f"{role} {attack} {name}"] = setup.adversarial(model, attack, sample)
    return Content(attached=attached)


def fill_curves(setup: Setup, seed: int) -> Content:
    """Two networks on two data sets, a curve for each of all seeds."""
    attached: dict[str, Artefact] = {
        f"{role} {defects} {each}": setup.training("resnet18", defects, seed=each, role=role)
        for role in ("cifar10", "mnist")
        for defects in ("standard", "0.1-Bottom")
        for each in setup.seeds
    }
    return Content(attached=attached)


# All of them, by their names.

_PLAIN = ("0.1-{1,2}", "standard")
FILLED: dict[str, Callable[[Setup, int], Content]] = {
    **{name: table.fill for name, table in TRANSFERS.items()},
    "table1": partial(fill_shapes, pairs=FIRST_PAIR),
    "table13": partial(fill_shapes, pairs=ALL_PAIRS),
    "table6": fill_boundary,
    "table12": fill_white_box,
    "figure1": fill_figure1,
    "figure3": partial(
        fill_examples,
        networks={"cifar10": _PLAIN, "tiny-imagenet": _PLAIN},
        attacks=(SMALL, MIDDLE),
    ),
    "figure4": fill_noise,
    "figure6": partial(
        fill_examples, networks={"cifar10": ("0.2-Bottom", *_PLAIN)}, attacks=(SMALL, MIDDLE)
    ),
    "figure7": partial(fill_examples, networks={"tiny-imagenet": _PLAIN}, attacks=(MIDDLE, LARGE)),
    "figure14": fill_curves,
}


@cache
def definitions() -> dict[str, Definition]:
    """{name: definition}: tables by number, figures by number, then those of ours."""
    return {name: Definition(name, fill=FILLED[name], **told) for name, told in facts().items()}


def definition(name: str) -> Definition:
    """Raises UserError if there is no such table or figure."""
    known = definitions()
    short = re.sub(r"[\s_-]+", "", name.lower())
    long = {"t": "table", "f": "figure"}
    short = re.sub(r"^(t|tab|fig|f)(\d+)$", lambda m: long[m[1][0]] + m[2], short)
    if short not in known:
        raise UserError(
            f"{name!r} is no table or figure that scotoma makes; expected one of "
            f"{', '.join(known)}.{nearest(short, known)}"
        )
    return known[short]
