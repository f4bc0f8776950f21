"""Everything that determines a network, as plain values: the checkpoint's model description."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from .errors import UserError, nearest
from .notation import Defects

Sites = Literal["release", "paper"]
Regularizer = Literal["none", "spatial-dropout", "dropblock"]
Stem = Literal["3x3", "7x7"]

LARGE_IMAGE = 128
"""Images of so many pixels a side, and more, get a stem of stride 2 and a max-pool."""


@dataclass(frozen=True)
class ModelSpec:
    """What :func:`scotoma.defective.create_model` builds. Fields as its arguments.

    ``defects`` is in the paper's notation. ``mask_seed`` is None where the masks are not those
    that a seed draws; they are in the checkpoint then, and nowhere else. ``mean`` and ``std`` are
    per-channel, in pixel units of [0,1]; a network with ``thermometer`` encoding keeps them and
    does not use them. ``width`` is None for networks of other libraries; ``where`` names the sites
    of their masks, or is None where ``defects`` do.
    """

    name: str
    defects: str
    num_classes: int
    in_channels: int
    image_size: int
    width: int | None
    mask_seed: int | None
    sites: Sites
    exact_masks: bool
    regularizer: Regularizer
    stem: Stem
    mean: tuple[float, ...]
    std: tuple[float, ...]
    thermometer: int = 0
    where: tuple[str, ...] | None = None

    def __post_init__(self):
        # Lists come from JSON; the notation is kept in its one canonical form.
        for name in ("mean", "std"):
            try:
                object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
            except (TypeError, ValueError):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}; expected a number for each channel"
                ) from None
        object.__setattr__(self, "defects", str(Defects.parse(self.defects)))
        written = Defects.parse(self.defects).sites
        if written not in (None, self.sites):
            raise UserError(
                f"defects {self.defects!r} ask for the {written} placement, but sites is "
                f"{self.sites!r}"
            )
        counts = {"num_classes": 1, "in_channels": 1, "width": 1, "image_size": 8, "thermometer": 0}
        counts["mask_seed"] = 0
        if self.where is not None:
            object.__setattr__(self, "where", _names("where", self.where))
        for name, least in counts.items():
            if getattr(self, name) is None and name in ("mask_seed", "width"):
                continue
            check_integer(name, getattr(self, name), least)
        _check_bool("exact_masks", self.exact_masks)
        if self.thermometer == 1:
            raise UserError(
                "thermometer is 1; expected 0 for none, or at least 2 levels: one level is the "
                "same for every pixel"
            )
        for name, choices in (("sites", Sites), ("regularizer", Regularizer), ("stem", Stem)):
            _check_choice(name, getattr(self, name), get_args(choices))
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.in_channels or not all(map(math.isfinite, values)):
                raise UserError(
                    f"{name} is {list(values)}; expected one finite number for each of "
                    f"in_channels = {self.in_channels} channels"
                )
        if self.stem == "7x7" and self.image_size < LARGE_IMAGE and ":" not in self.name:
            raise UserError(
                f"stem is '7x7' with image_size {self.image_size}; it is the ImageNet stem, for "
                "images of 128 pixels and more: use stem='3x3'"
            )
        if min(self.std) <= 0:
            raise UserError(f"std is {list(self.std)}; expected positive numbers")

    @property
    def stem_kernel(self) -> int:
        return 7 if self.stem == "7x7" else 3

    @property
    def stem_stride(self) -> int:
        return 2 if self.image_size >= LARGE_IMAGE else 1

    @property
    def input_channels(self) -> int:
        """Channels that the first convolution takes: those of the images, or of their code."""
        return self.in_channels * max(1, self.thermometer)

    def with_mask_seed(self, seed: int | None) -> ModelSpec:
        """The same network with other masks; None for masks of no seed."""
        return replace(self, mask_seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for files and hashes.

        ``thermometer`` and ``where`` are left out where they are off: a network without them is
        described, and its results are found again, as before there were any.
        """
        off = {"thermometer": 0, "where": None}
        return {k: v for k, v in asdict(self).items() if k not in off or v != off[k]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        """Raises UserError if a field without a default is missing, or one is unknown."""
        return _from_dict(cls, values)


@dataclass(frozen=True)
class Conversion:
    """What :func:`scotoma.defective.convert` made of somebody else's network.

    Attributes:
        name: "torchvision:NAME" or "timm:NAME", or the network's class. defects: in the paper's
            notation. input_shape: (C, H, W) of the images. num_classes: of the logits; None if the
            network gives something else. mask_seed: None where the masks are not those of a seed.
        stages: numbers of the network's stages, from the input. where: names of the masked sites,
            or None where ``defects`` say it.
    """

    name: str
    defects: str
    input_shape: tuple[int, int, int]
    num_classes: int | None
    mask_seed: int | None
    exact_masks: bool
    stages: tuple[int, ...]
    where: tuple[str, ...] | None = None

    sites = "release"
    has_width_variants = False

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise UserError(f"name is {self.name!r}; expected text")
        object.__setattr__(self, "defects", str(Defects.parse(self.defects)))
        for name in ("input_shape", "stages"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)):
                raise UserError(f"{name} is {values!r}; expected whole numbers")
            for value in values:
                check_integer(name, value, 0 if name == "stages" else 1)
            object.__setattr__(self, name, tuple(values))
        if len(self.input_shape) != 3:
            raise UserError(f"input_shape is {list(self.input_shape)}; expected (C, H, W)")
        for name, least in (("num_classes", 1), ("mask_seed", 0)):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), least)
        _check_bool("exact_masks", self.exact_masks)
        if self.where is not None:
            object.__setattr__(self, "where", _names("where", self.where))

    @property
    def in_channels(self) -> int:
        return self.input_shape[0]

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Side of the images in pixels; (H, W) of those that are not square."""
        _, height, width = self.input_shape
        return height if height == width else (height, width)

    @property
    def bottom(self) -> dict[str, tuple[int, ...]]:
        return {self.sites: thirds(self.stages)[0]}

    @property
    def top(self) -> tuple[int, ...]:
        return thirds(self.stages)[1]

    def with_mask_seed(self, seed: int | None) -> Conversion:
        """The same network with other masks; None for masks of no seed."""
        return replace(self, mask_seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for files and hashes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Conversion:
        """Raises UserError as :meth:`ModelSpec.from_dict`."""
        return _from_dict(cls, values)


def thirds(stages: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first and the last third of a network's stages, rounded, and at least one each."""
    count = max(1, round(len(stages) / 3))
    return stages[:count], stages[-count:]


def _from_dict(cls, values: dict[str, Any]):
    names = {field.name for field in fields(cls)}
    needed = {field.name for field in fields(cls) if field.default is MISSING}
    if missing := needed - set(values):
        raise UserError(f"model specification lacks {', '.join(sorted(missing))}")
    if unknown := set(values) - names:
        raise UserError(f"model specification has unknown {', '.join(sorted(unknown))}")
    return cls(**values)


def _names(name: str, values) -> tuple[str, ...]:
    named = isinstance(values, (tuple, list)) and all(isinstance(v, str) for v in values)
    if not named or not values:
        raise UserError(f"{name} is {values!r}; expected a list of names of modules")
    return tuple(values)


def check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        square = " (images are square: one side, in pixels)" if name == "image_size" else ""
        raise UserError(f"{name} is {value!r}; expected an integer of at least {least}{square}")


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}; expected True or False")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = nearest(str(value), choices)
        raise UserError(f"{name} is {value!r}; expected one of {', '.join(choices)}.{hint}")
