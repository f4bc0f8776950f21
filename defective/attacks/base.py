"""What all attacks share: settings in the constructor, data in the call, one form of result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from .draws import content_keys
from .oracle import Oracle


class Status(IntEnum):
    """How an attack on one image ended."""

    FOOLED = 0
    """The model is right on the image and wrong on the result."""
    RESISTED = 1
    """The model is right on both."""
    MISCLASSIFIED = 2
    """The model was wrong before the attack."""
    NO_START = 3
    """A decision-based attack found no adversarial image to start from."""
    BAD_START = 4
    """The image given to start from is not adversarial."""


@dataclass(frozen=True)
class AttackResult:
    """What became of a batch. All tensors are on the images' device.

    Attributes:
        images: adversarial images [N,C,H,W], pixels in [0,1].
        predictions: int64 [N], the model's classes for them, without autocast.
        clean_predictions: int64 [N], its classes for the original images.
        status: uint8 [N] of :class:`Status`.
        forwards, backwards: int64 [N], passes that the attack spent on each image; the two
            forward passes for the predictions here are not among them.
    """

    images: Tensor
    predictions: Tensor
    clean_predictions: Tensor
    status: Tensor
    forwards: Tensor
    backwards: Tensor

    @property
    def fooled(self) -> Tensor:
        """bool [N]: right before, wrong after."""
        return self.status == Status.FOOLED


def parameter(default: Any, help: str) -> Any:
    """A setting of an attack, with the line that ``scotoma attack --list`` prints."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack with its settings.

    A new attack is one file here: a frozen dataclass with a ``name``, its settings as fields made
    by :func:`parameter`, checks in ``__post_init__``, and :meth:`perturb`.

    Untargeted; pixels in [0,1], and so is eps. The model is deterministic and in evaluation mode.
    An image's result depends on no other image: random numbers come from (seed, key of the image).
    """

    name: ClassVar[str] = ""

    def perturb(
        self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The attack itself, on checked arguments, inside :meth:`Oracle.attacking`.

        Args:
            images: [N,C,H,W], detached; not to be changed. labels, keys: int64 [N].

        Returns:
            Adversarial images, and uint8 [N] of :class:`Status` where NO_START and BAD_START
            count (any other value leaves it to the verdict), or None.
        """
        raise NotImplementedError

    def __call__(
        self,
        model: nn.Module | Oracle,
        images: Tensor,
        labels: Tensor,
        keys: Tensor | None = None,
    ) -> AttackResult:
        """Attack a batch and judge it.

        Args:
            model: pixels in [0,1] -> logits, in evaluation mode; or an :class:`Oracle` of one.
            images: float [N,C,H,W], pixels in [0,1]. labels: int64 [N], true classes.
            keys: int64 [N], of the images' random numbers (their numbers in the data set, say);
                None to make them from the pixels.

        Raises:
            UserError: arguments that do not fit, a model in training mode, a model that returns
                anything but finite logits.
        """
        oracle = model if isinstance(model, Oracle) else Oracle(model)
        images, labels, keys = check_batch(images, labels, keys)
        with oracle.attacking(images, labels), torch.no_grad():
            clean = oracle.verdict(images)
            found, special = self.perturb(oracle, images, labels, keys)
            predictions = oracle.verdict(found)
        status = torch.where(predictions == labels, Status.RESISTED, Status.FOOLED)
        status = status.masked_fill_(clean != labels, Status.MISCLASSIFIED).to(torch.uint8)
        if special is not None:
            started = special < Status.NO_START
            status = torch.where(started | (clean != labels), status, special)
        return AttackResult(
            found, predictions, clean, status, oracle.forwards.clone(), oracle.backwards.clone()
        )

    def images(self, model, images: Tensor, labels: Tensor, keys: Tensor | None = None) -> Tensor:
        """As calling, for the adversarial images alone: two forward passes less."""
        oracle = model if isinstance(model, Oracle) else Oracle(model)
        images, labels, keys = check_batch(images, labels, keys)
        with oracle.attacking(images, labels), torch.no_grad():
            return self.perturb(oracle, images, labels, keys)[0]

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the attack, as plain values for a file."""
        return {"attack": self.name, **asdict(self)}

    def __str__(self) -> str:
        """``pgd:eps=16/255,step=1/255,steps=20``, which :func:`parse_attack` reads."""
        settings = ",".join(f"{k}={_text(v)}" for k, v in asdict(self).items() if v is not None)
        return f"{self.name}:{settings}" if settings else self.name


def answer(
    attack: Attack, details: bool, model, images: Tensor, labels: Tensor, keys: Tensor | None
) -> Tensor | tuple[Tensor, AttackResult]:
    """What the functions return: adversarial images, and with ``details`` the result beside."""
    if not details:
        return attack.images(model, images, labels, keys)
    result = attack(model, images, labels, keys)
    return result.images, result


def check_pixels(images: Tensor) -> Tensor:
    """The images, detached. Raises UserError if they are no batch of pixels in [0,1]."""
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else images
        raise UserError(f"images is {got}; expected a floating tensor [N,C,H,W] of pixels in [0,1]")
    if len(images) == 0:
        raise UserError("images is an empty batch; expected at least one image")
    least, most = (float(v) for v in images.detach().aminmax())
    if not (least >= 0 and most <= 1):
        hint = "divide by 255" if most > 2 else "attack in pixel space, normalise inside the model"
        raise UserError(f"images has pixels from {least:.4g} to {most:.4g}; expected [0,1]: {hint}")
    return images.detach()


def check_batch(
    images: Tensor, labels: Tensor, keys: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The batch as attacks take it. Raises UserError."""
    images = check_pixels(images)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise UserError(f"labels is {got}; expected an int64 tensor [N]")
    keys = content_keys(images) if keys is None else keys.to(images.device)
    for name, values in (("labels", labels), ("keys", keys)):
        if values.shape != (len(images),):
            raise UserError(
                f"{name} has shape {tuple(values.shape)}; expected one for each of "
                f"{len(images)} images"
            )
    if labels.device != images.device:
        raise UserError(f"labels are on {labels.device} and images on {images.device}: move one")
    return images, labels, keys


def check_size(name: str, value: float, most: float = 1.0) -> None:
    """A distance in pixels of [0,1]. Raises UserError."""
    if not 0 < value <= most:
        raise UserError(
            f"{name} is {value}; expected 0 < {name} <= {most:g}, in units of pixels in [0,1] (for "
            f"eight levels of 255 write 8/255)"
        )


def check_count(name: str, value: int, least: int = 1) -> None:
    """A whole number. Raises UserError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} is {value!r}; expected a whole number of at least {least}")


def _text(value: Any) -> str:
    """Distances of whole levels as n/255, the way people write them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        levels = value * 255
        if value and abs(levels - round(levels)) < 1e-6 and 0 < round(levels) < 255:
            return f"{round(levels)}/255"
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
