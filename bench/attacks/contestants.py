"""Who runs an attack: this package in several ways, and its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...defective.attacks import Attack, Oracle
from ...defective.attacks.boundary import Boundary
from .case import FOOLBOX, TORCHATTACKS, Case, Setup
from .peers import foolbox_attack, torchattacks_attack
from .target import Target

Run = Callable[[], Tensor]
"""Attacks the target's images once and returns the adversarial ones."""


@dataclass(frozen=True)
class Contestant:
    """How an attack is run.

    Attributes:
        text: for people. library: None for this package.
        fused: the network runs its fused kernels, where they run at all; otherwise plain PyTorch.
        graph: gradients from a CUDA graph. dtype: of autocast.
        gpu: needs one.
    """

    text: str
    library: str | None = None
    fused: bool = True
    graph: bool = False
    dtype: torch.dtype | None = None
    gpu: bool = False

    def takes(self, setup: Setup) -> bool:
        """Whether it has something to run for this attack."""
        if self.library is not None:
            return self.library == setup.peer
        return setup.graph or not self.graph


CONTESTANTS = {
    "scotoma": Contestant("scotoma's attack, fused kernels where there is a GPU"),
    "scotoma-graph": Contestant("the same, gradients from a CUDA graph", graph=True, gpu=True),
    "scotoma-bfloat16": Contestant(
        "scotoma, the attack's passes in bfloat16", dtype=torch.bfloat16, gpu=True
    ),
    "scotoma-bfloat16-graph": Contestant(
        "both of these", graph=True, dtype=torch.bfloat16, gpu=True
    ),
    "foolbox": Contestant("foolbox on the network in plain PyTorch", FOOLBOX, fused=False),
    "foolbox-fused": Contestant("foolbox on the network with fused kernels", FOOLBOX, gpu=True),
    "torchattacks": Contestant(
        "torchattacks on the network in plain PyTorch (mifgsm only)", TORCHATTACKS, fused=False
    ),
}
PEERS = (FOOLBOX, TORCHATTACKS)
"""Those that the others are compared with."""


def make_run(name: str, case: Case, attack: Attack, target: Target) -> tuple[Run, Oracle | None]:
    """A contestant at work on a target.

    Returns:
        What to time; and for this package's contestants the oracle, whose counters then hold the
        passes of the last run.
    """
    who = CONTESTANTS[name]
    model = target.fused if who.fused else target.eager
    images, labels = target.images[: case.batch_size], target.labels[: case.batch_size]
    starts = target.starts(case.batch_size) if isinstance(attack, Boundary) else None
    if who.library == FOOLBOX:
        return foolbox_attack(case.attack, attack, model, images, labels, starts), None
    if who.library == TORCHATTACKS:
        return torchattacks_attack(attack, model, images, labels), None
    oracle = Oracle(model, who.dtype, who.graph)
    if starts is not None:
        attack = attack.starting_from(starts)
    return lambda: attack.images(oracle, images, labels), oracle


def explained() -> str:
    """Contestants, for the end of a help text."""
    return "\n".join(f"  {name:24} {who.text}" for name, who in CONTESTANTS.items())
