"""The places where a network ends a layer in ``bn_mask_add_relu``, and the shapes found there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from ...defective import create_model
from ...defective.layers import BNMaskReLU
from ...defective.models import ARCHITECTURES

KINDS = ("none", "residual", "projection")
MODES = ("training", "evaluation")
HEADLINE_SHAPES = ((128, 64, 32, 32), (512, 64, 32, 32), (128, 128, 16, 16), (64, 256, 56, 56))
SMALL_SHAPES = ((4, 16, 8, 8), (2, 12, 7, 7))
"""What a CPU can do in a moment."""


@dataclass(frozen=True)
class Site:
    """One form of the operator on one shape.

    Attributes:
        kind: what is added: nothing, a tensor ("residual") or a second masked branch
            ("projection").
        shape: N, C, H, W.
        mode: "training", by batch statistics; or "evaluation", by running ones.
        users: where it comes from, for people.
    """

    kind: str
    shape: tuple[int, int, int, int]
    relu: bool = True
    masked: bool = True
    mode: str = "training"
    users: str = "headline"

    @property
    def elements(self) -> int:
        n, c, h, w = self.shape
        return n * c * h * w

    @property
    def training(self) -> bool:
        return self.mode == "training"

    @property
    def form(self) -> tuple:
        """What is measured once, whoever uses it."""
        return self.kind, self.relu, self.shape

    def __str__(self) -> str:
        notes = ("" if self.relu else ", no ReLU") + ("" if self.masked else ", no mask")
        notes += "" if self.training else ", evaluation"
        return f"{'x'.join(map(str, self.shape))} {self.kind}{notes}"


def headline_sites(shapes=HEADLINE_SHAPES) -> list[Site]:
    return [Site(kind, shape) for shape in shapes for kind in KINDS]


def network_sites(networks, batch: int, image_size: int) -> list[Site]:
    """The distinct sites of some networks, those first that hold most of their activations.

    Found by a run on the meta device, which computes nothing. A site counts as masked if some
    placement masks it in some network.
    """
    counts: dict[tuple, Counter] = {}
    masked: set[tuple] = set()

    for name in networks:
        for regularizer, at_all in (
            ("none", True),
            # SpatialDropout parts batch norm from its ReLU.
            ("spatial-dropout", bool(ARCHITECTURES[name].regularized_blocks)),
        ):
            if not at_all:
                continue
            for form, maskable in _forms(name, regularizer, image_size):
                # Regularised, a network has its other sites once more.
                if regularizer == "none" or not form[1]:
                    counts.setdefault(form, Counter())[name] += 1
                if maskable:
                    masked.add(form)

    def activations(form) -> int:
        return -sum(counts[form].values()) * form[2] * form[3] * form[4]

    return [
        Site(
            kind=form[0],
            relu=form[1],
            masked=form in masked,
            shape=(batch, *form[2:]),
            users=", ".join(f"{name} x{count}" for name, count in counts[form].items()),
        )
        for form in sorted(counts, key=activations)
    ]


def _forms(name: str, regularizer: str, image_size: int) -> list[tuple[tuple, bool]]:
    """(kind, relu, C, H, W) of every call in a network, and whether a placement can mask it."""
    found = []

    def look(module: BNMaskReLU, args, kwargs, out) -> None:
        given = dict(zip(("x", "residual", "projection", "relu"), args, strict=False)) | kwargs
        kind, maskable = "none", module.block is not None
        if given.get("residual") is not None:
            kind = "residual"
        elif given.get("projection") is not None:
            kind = "projection"
            maskable = maskable or given["projection"][1].block is not None
        found.append(((kind, given.get("relu", True), *out.shape[1:]), maskable))

    with torch.device("meta"):
        model = create_model(name, image_size=image_size, regularizer=regularizer)
        for module in model.modules():
            if isinstance(module, BNMaskReLU):
                module.register_forward_hook(look, with_kwargs=True)
        model.train()(torch.empty(2, 3, image_size, image_size))
    return found
