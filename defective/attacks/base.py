"""What all attacks share: settings in the constructor, data in the call, one form of result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from inspect import Parameter, Signature
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from .draws import content_keys
from .oracle import Oracle


class Status(IntEnum):
    """How an attack on one image ended."""

    FOOLED = 0
    """The model is right on the image and wrong on the result; of a targeted attack, it takes the
    result for the goal and the image for another class."""
    RESISTED = 1
    """The model is right on both; of a targeted attack, it takes neither for the goal."""
    MISCLASSIFIED = 2
    """The model was wrong before the attack; never of a targeted attack."""
    NO_START = 3
    """A decision-based attack found no adversarial image to start from."""
    BAD_START = 4
    """The image given to start from is not adversarial."""
    AT_GOAL = 5
    """The model takes the image itself for the goal of a targeted attack."""


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
        """bool [N]: right before, wrong after; of a targeted attack, at the goal only after."""
        return self.status == Status.FOOLED


def parameter(default: Any, help: str) -> Any:
    """A setting of an attack, with the line that ``scotoma attack --list`` prints."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack with its settings.

    A new attack is one file here: a frozen dataclass with a ``name``, its settings as fields made
    by :func:`parameter`, checks in ``__post_init__`` after those here, and :meth:`perturb`.

    Pixels in [0,1], and so is eps. The model is deterministic and in evaluation mode. An image's
    result depends on no other image: random numbers come from (seed, key of the image).
    """

    name: ClassVar[str] = ""
    can_target: ClassVar[bool] = False
    """Whether it can aim at classes, that is judges by :meth:`Oracle.won` alone."""

    def __post_init__(self):
        """Types of settings; numbers of numpy become Python's. Ranges are up to the attacks.

        Raises:
            UserError: a setting that is no number, or not True or False.
        """
        for item in fields(self):
            value, kind = getattr(self, item.name), type(item.default)
            if kind is bool and not isinstance(value, bool):
                raise UserError(f"{item.name} is {value!r}; expected True or False")
            if kind is float:
                check_number(item.name, value)
            if isinstance(value, Real) and not isinstance(value, (bool, int, float)):
                plain = int(value) if isinstance(value, Integral) else float(value)
                object.__setattr__(self, item.name, plain)

    def perturb(
        self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The attack itself, on checked arguments, inside :meth:`Oracle.attacking`.

        Args:
            images: [N,C,H,W], detached; not to be changed. labels, keys: int64 [N]; labels are
                goals if ``oracle.targeted``, which needs ``can_target``.

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
        *,
        targeted: bool = False,
    ) -> AttackResult:
        """Attack a batch and judge it.

        Args:
            model: pixels in [0,1] -> logits, in evaluation mode, an nn.Module or any function; or
                an :class:`Oracle` of one.
            images: float [N,C,H,W], pixels in [0,1]; of the model's dtype. labels: int64 [N], true
                classes.
            keys: int64 [N], of the images' random numbers (their numbers in the data set, say);
                None to make them from the pixels.
            targeted: labels are goals, the classes that the images are to be taken for.

        Raises:
            UserError: arguments that do not fit, a model in training mode, a model that returns
                anything but finite logits, an attack that cannot be targeted.

        Warns:
            UserWarning: images without a gradient, unless ``model`` is an :class:`Oracle`.
        """
        oracle, result = self._run(model, images, labels, keys, targeted, judged=True)
        clean, found, special, predictions = result
        status = torch.where((predictions == labels) == targeted, Status.FOOLED, Status.RESISTED)
        nothing_to_do = (clean == labels) == targeted
        before = Status.AT_GOAL if targeted else Status.MISCLASSIFIED
        status = status.masked_fill_(nothing_to_do, before).to(torch.uint8)
        if special is not None:
            started = (special != Status.NO_START) & (special != Status.BAD_START)
            status = torch.where(started | nothing_to_do, status, special)
        return AttackResult(
            found, predictions, clean, status, oracle.forwards.clone(), oracle.backwards.clone()
        )

    def images(
        self,
        model,
        images: Tensor,
        labels: Tensor,
        keys: Tensor | None = None,
        *,
        targeted: bool = False,
    ) -> Tensor:
        """As calling, for the adversarial images alone: two forward passes less."""
        return self._run(model, images, labels, keys, targeted, judged=False)[1][1]

    def _run(self, model, images, labels, keys, targeted: bool, judged: bool):
        """The oracle, and classes before, images, their special states, and classes after."""
        if not isinstance(targeted, bool):
            raise UserError("targeted is True or False; the goals are given as labels")
        if targeted and not self.can_target:
            raise UserError(
                f"{self.name} cannot be targeted; use fgsm, pgd, mifgsm, cw_l2, boundary"
            )
        oracle = model if isinstance(model, Oracle) else Oracle(model)
        # Tensors of inference mode have no gradients, their copies outside of it do.
        with torch.inference_mode(False), torch.no_grad():
            images, labels, keys = check_batch(images, labels, keys)
            with oracle.attacking(images, labels, targeted):
                clean = oracle.verdict(images) if judged else None
                found, special = self.perturb(oracle, images, labels, keys)
                oracle.note_finite(found.flatten(1).isfinite().all(1))
                predictions = oracle.verdict(found) if judged else None
            if oracle is not model:
                oracle.warn_of_flatness()
        return oracle, (clean, found, special, predictions)

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the attack, as plain values for a file."""
        return {"attack": self.name, **asdict(self)}

    def __str__(self) -> str:
        """``pgd:eps=16/255,step=1/255,steps=20``, which :func:`parse_attack` reads."""
        settings = ",".join(f"{k}={_text(v)}" for k, v in asdict(self).items() if v is not None)
        return f"{self.name}:{settings}" if settings else self.name


def answer(
    attack: Attack, details: bool, model, images, labels, keys, targeted: bool = False
) -> Tensor | tuple[Tensor, AttackResult]:
    """What the functions return: adversarial images, and with ``details`` the result beside."""
    if not details:
        return attack.images(model, images, labels, keys, targeted=targeted)
    result = attack(model, images, labels, keys, targeted=targeted)
    return result.images, result


def function_of(kind: type[Attack], *positional: str) -> Callable:
    """An attack as a function for a single call.

    Its settings are keywords with the defaults of the class; the ``positional`` ones may also
    follow the labels.
    """
    defaults = {item.name: item.default for item in fields(kind)}
    calls = {"keys": None, "details": False} | ({"targeted": False} if kind.can_target else {})
    rest = calls | {name: value for name, value in defaults.items() if name not in positional}
    either, keyword = Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY
    signature = Signature(
        [Parameter(name, either) for name in ("model", "images", "labels")]
        + [Parameter(name, either, default=defaults[name]) for name in positional]
        + [Parameter(name, keyword, default=value) for name, value in rest.items()]
    )

    def function(*args, **options):
        given = signature.bind(*args, **options)
        given.apply_defaults()
        settings = {name: given.arguments.pop(name) for name in defaults}
        return answer(kind(**settings), **given.arguments)

    function.__signature__ = signature
    function.__name__ = function.__qualname__ = kind.name.replace("-", "_")
    function.__doc__ = f"""{kind.__name__} in a single call; the settings are those of the class.

    Args:
        model, images, labels, keys, targeted: as :class:`scotoma.defective.attacks.Attack` takes
            them; with ``targeted`` labels are the classes to reach.
        details: return the :class:`AttackResult` beside the images.

    Returns:
        Adversarial images like ``images``; with ``details`` (images, result).

    Raises:
        UserError: a setting out of range, or bad arguments.
    """
    return function


def check_pixels(images: Tensor, name: str = "images") -> Tensor:
    """The images, detached. Raises UserError if they are no batch of pixels in [0,1]."""
    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if not isinstance(images, Tensor) or images.dim() != 4 or images.dtype not in known:
        tensor = isinstance(images, Tensor)
        got = f"{tuple(images.shape)} {images.dtype}" if tensor else type(images).__name__
        raise UserError(f"{name} is {got}; expected a floating tensor [N,C,H,W] of pixels in [0,1]")
    if len(images) == 0:
        raise UserError(f"{name} is an empty batch; expected at least one image")
    least, most = (float(v) for v in images.detach().aminmax())
    if not (least >= 0 and most <= 1):
        hint = "divide by 255" if most > 2 else "attack in pixel space, normalise inside the model"
        raise UserError(f"{name} has pixels from {least:.4g} to {most:.4g}; expected [0,1]: {hint}")
    return _outside(images)


def _outside(values: Tensor) -> Tensor:
    """Detached, and no tensor of inference mode."""
    return values.detach().clone() if values.is_inference() else values.detach()


def check_batch(
    images: Tensor, labels: Tensor, keys: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The batch as attacks take it. Raises UserError."""
    images = check_pixels(images)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise UserError(f"labels is {got}; expected an int64 tensor [N]")
    if labels.shape != (len(images),):
        raise UserError(
            f"labels has shape {tuple(labels.shape)}; expected one for each of {len(images)} images"
        )
    if labels.device != images.device:
        raise UserError(f"labels are on {labels.device} and images on {images.device}: move one")
    return images, _outside(labels), check_keys(images, keys)


def check_keys(images: Tensor, keys: Tensor | None) -> Tensor:
    """Keys on the images' device, made from the pixels where there are none. Raises UserError."""
    if keys is None:
        return content_keys(images)
    if not isinstance(keys, Tensor) or keys.is_floating_point() or keys.shape != (len(images),):
        tensor = isinstance(keys, Tensor)
        got = f"{tuple(keys.shape)} {keys.dtype}" if tensor else type(keys).__name__
        raise UserError(f"keys is {got}; expected int64, one for each of {len(images)} images")
    return _outside(keys).to(images.device)


def check_number(name: str, value: float) -> None:
    """Raises UserError if it is none, or a tensor or text of one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"{name} is {value!r}; expected a number, such as 8/255")


def check_size(name: str, value: float, most: float = 1.0) -> None:
    """A distance in pixels of [0,1]. Raises UserError."""
    check_number(name, value)
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
