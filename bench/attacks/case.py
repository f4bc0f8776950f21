"""What is measured: attacks with settings that both sides understand, networks, batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...defective.attacks import Attack, make_attack

FOOLBOX, TORCHATTACKS = "foolbox", "torchattacks"


@dataclass(frozen=True)
class Setup:
    """An attack and whom it is compared with.

    Attributes:
        text: for people. name: of the attack in scotoma. settings: its settings, on any device.
        peer: the library whose attack of equal settings runs beside it.
        minimal: the attack looks for the nearest adversarial image, so that success and distance
            count; otherwise for the worst one of a ball, so that pixels and predictions do.
        graph: its passes can be captured in a CUDA graph.
    """

    text: str
    name: str
    settings: dict[str, Any]
    peer: str = FOOLBOX
    minimal: bool = False
    graph: bool = False


EPS, STEP = 8 / 255, 2 / 255
SETUPS = {
    "fgsm": Setup("FGSM, eps 8/255", "fgsm", {"eps": EPS}, graph=True),
    "pgd20": Setup(
        "PGD of 20 steps of 2/255, eps 8/255, from the image",
        "pgd",
        {"eps": EPS, "step": STEP, "steps": 20},
        graph=True,
    ),
    "mifgsm": Setup(
        "MI-FGSM of 20 steps, otherwise as pgd20; beside torchattacks, as foolbox's is another",
        "mifgsm",
        {"eps": EPS, "step": STEP, "steps": 20, "decay": 1.0},
        TORCHATTACKS,
        graph=True,
    ),
    "cw-l2": Setup(
        "Carlini-Wagner in L2, confidence 0, all steps on both sides",
        "cw-l2",
        {"confidence": 0.0, "lr": 0.01, "stop_early": False},
        minimal=True,
    ),
    "cw-l2-stop": Setup(
        "the same with early stop: foolbox stops a batch as a whole, ours each image by itself",
        "cw-l2",
        {"confidence": 0.0, "lr": 0.01, "stop_early": True},
        minimal=True,
    ),
    "boundary": Setup(
        "the boundary attack, from images of other classes", "boundary", {}, minimal=True
    ),
}


@dataclass(frozen=True)
class Budgets:
    """Steps of the two attacks that search for the nearest image.

    Attributes:
        cw_constants, cw_steps: constants that CW-L2 tries, and its steps for each.
        cw_initial: the first constant. boundary_steps: most steps of the boundary attack.
    """

    cw_constants: int
    cw_steps: int
    cw_initial: float
    boundary_steps: int


@dataclass(frozen=True)
class Case:
    """One attack on one network and batch.

    Attributes:
        attack: a key of ``SETUPS``. network: which, for people and files. batch_size: images.
        defects: the network's variant, in the paper's notation.
    """

    attack: str
    network: str
    defects: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.attack} {self.network} batch {self.batch_size}"

    @property
    def setup(self) -> Setup:
        return SETUPS[self.attack]


def our_attack(case: Case, budgets: Budgets) -> Attack:
    """The attack of a case with all its settings."""
    more: dict[str, Any] = {}
    if case.setup.name == "cw-l2":
        more = {"search_steps": budgets.cw_constants, "steps": budgets.cw_steps}
        more["initial_const"] = budgets.cw_initial
    if case.attack == "boundary":
        more = {"steps": budgets.boundary_steps}
    return make_attack(case.setup.name, case.setup.settings | more)
