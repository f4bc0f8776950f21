"""A model as attacks see it: logits and input gradients, counted and checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ensemble import as_module
from ..errors import UserError
from ..graph import GraphedStep
from .norms import TINY, at_least_float

FLOAT16_SCALE = 512.0
"""Factor on the loss under float16, against underflow; a power of two changes no digit."""


class Oracle:
    """A model whose forward and backward passes are counted for each image of a batch.

    Attacks make one for themselves. Make one yourself to attack many batches with CUDA graphs,
    which it keeps, or in another precision, and give it to attacks instead of the model. Attacks
    then leave :meth:`warn_of_flatness` to you.

    Args:
        model: pixels in [0,1] [N,C,H,W] -> logits [N,K], in evaluation mode; an nn.Module or any
            function.
        dtype: torch.bfloat16 or torch.float16 for autocast in the attack's passes; None for none.
            Verdicts are never under autocast.
        cuda_graph: capture the gradient of the cross entropy, once for each shape of a batch. The
            model must not move or be rebuilt in the meantime.

    Attributes:
        forwards, backwards: int64 [N], passes since :meth:`attacking` began.
        targeted: whether labels are the classes that the attack aims at, not the true ones.

    Raises:
        UserError: the model is in training mode, or cannot be called; another dtype.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype | None = None, cuda_graph: bool = False
    ):
        if dtype not in (None, torch.bfloat16, torch.float16):
            raise UserError(f"dtype is {dtype!r}; expected torch.bfloat16, torch.float16 or None")
        self.model, self.dtype, self.targeted = as_module(model), dtype, False
        check_evaluation_mode(self.model)
        self.scale = FLOAT16_SCALE if dtype == torch.float16 else 1.0
        self.forwards = self.backwards = torch.zeros(0, dtype=torch.int64)
        self._graphs: dict[tuple, GraphedStep] | None = {} if cuda_graph else None
        self._labels: Tensor | None = None
        self._classes: int | None = None

    @contextmanager
    def attacking(self, images: Tensor, labels: Tensor, targeted: bool = False) -> Iterator[None]:
        """Count from zero, and take no gradients of parameters, while a batch is attacked.

        Raises:
            UserError: the model is in training mode, on another device, or its outputs are not
                finite logits of these labels; a gradient or a logit was not finite.
        """
        check_evaluation_mode(self.model)
        tensor = next(chain(self.model.parameters(), self.model.buffers()), images)
        if tensor.device != images.device:
            raise UserError(
                f"images are on {images.device} and the model is on {tensor.device}; move one with "
                ".to()"
            )
        self.forwards = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.backwards = self.forwards.clone()
        self._unchecked, self._labels, self.targeted = True, labels, targeted
        if self._classes is not None:  # a captured loss would not look
            check_labels(labels, self._classes)
        self._finite = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self._steepest = torch.zeros(len(images), device=images.device)
        learning = [p for p in self.model.parameters() if p.requires_grad and not p.is_inference()]
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
            if not bool(self._finite.all()):
                bad = (~self._finite).nonzero().flatten().tolist()
                raise UserError(
                    f"the gradient, a logit or a pixel was not finite for {len(bad)} of "
                    f"{len(images)} images, first number {bad[0]}: the model's weights diverged, "
                    "or float16 overflowed (use float32)"
                )
        finally:
            for parameter in learning:
                parameter.requires_grad_()

    def __call__(self, pixels: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits [n,K], at least float32; differentiable where grad mode is on.

        Args:
            pixels: [n,C,H,W]. rows: int64 [n], which images of the batch these are; None for all.
        """
        self._count(self.forwards, rows)
        with autocast(pixels.device, self.dtype):
            logits = at_least_float(logits_of(self.model, pixels))
        self._check(logits)
        self.note_finite(logits.detach().isfinite().all(1), rows)
        return logits

    def won(self, logits: Tensor, labels: Tensor) -> Tensor:
        """bool [n]: the class is not the label; of a targeted attack, it is."""
        return (logits.argmax(1) == labels) == self.targeted

    def gradient(self, total: Tensor, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        """d total / d inputs, for a sum over images that this oracle's logits went into."""
        self._count(self.backwards, rows)
        gradient = _gradient(total * self.scale, inputs) / self.scale
        self._watch(gradient, rows)
        return gradient

    def loss_gradient(
        self, pixels: Tensor, labels: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [n,K], and the gradient that an attack goes up, for the pixels [n,C,H,W].

        Of the cross entropy, and if targeted of its negative. It is summed over the images, so that
        none depends on its batch. From a CUDA graph both are overwritten by the next call.
        """
        self._count(self.forwards, rows)
        self._count(self.backwards, rows)
        pixels = pixels.detach()
        step = self._loss_gradient
        if self._graphs is not None and pixels.is_cuda:
            layout = pixels.is_contiguous(memory_format=torch.channels_last)
            key = (tuple(pixels.shape), pixels.dtype, layout)
            step = self._graphs.get(key) or GraphedStep(step, pixels.device)
            self._graphs[key] = step
        logits, gradient = step(pixels, labels)
        self._check(logits)  # of a step that was just captured, or replayed
        self._watch(gradient, rows)
        return logits, -gradient if self.targeted else gradient

    def _loss_gradient(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return loss_gradient(self.model, pixels, labels, self.scale, self.dtype, self._check)

    @torch.no_grad()
    def verdict(self, pixels: Tensor) -> Tensor:
        """Predicted classes int64 [n], without autocast and not counted.

        Raises:
            UserError: a logit is not finite, of which a class would be made of nothing.
        """
        logits = logits_of(self.model, pixels)
        self._check(logits)
        check_finite(logits)
        return logits.argmax(1)

    def warn_of_flatness(self) -> None:
        """Warn (UserWarning) of images without a slope in any pass since :meth:`attacking` began.

        Waits for the device.
        """
        flat = int(((self.backwards > 0) & (self._steepest < TINY)).sum())
        if flat:
            warnings.warn(
                f"the gradient for the pixels was 0, or below {TINY:g} in all of them, for {flat} "
                f"of {len(self.backwards)} images: gradient attacks learn little there and "
                "robustness may be overstated; look for saturated logits or flat steps, and "
                "attack with cw_l2 or boundary too",
                stacklevel=4,
            )

    def _count(self, counter: Tensor, rows: Tensor | None) -> None:
        if rows is None:
            counter += 1
        else:
            counter[rows] += 1

    def _watch(self, gradient: Tensor, rows: Tensor | None) -> None:
        """Remember whose gradients are not finite, and how large they get; waits for no device."""
        # In one pass, and what is not finite comes through.
        peak = torch.linalg.vector_norm(gradient.flatten(1), torch.inf, dim=1)
        self.note_finite(peak.isfinite(), rows)
        rows = slice(None) if rows is None else rows
        self._steepest[rows] = self._steepest[rows].maximum(peak.float())

    def note_finite(self, finite: Tensor, rows: Tensor | None = None) -> None:
        """finite: bool, one for each of these rows; of another number it is about all of them."""
        rows = slice(None) if rows is None else rows
        some = self._finite[rows]
        self._finite[rows] = some & (finite if len(finite) == len(some) else finite.all())

    def _check(self, logits: Tensor) -> None:
        capturing = logits.is_cuda and torch.cuda.is_current_stream_capturing()
        if self._labels is not None and self._unchecked and not capturing:
            self._unchecked = False
            check_logits(logits.detach(), self._labels)
            self._classes = logits.shape[1]


def loss_gradient(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
    check: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [N,K] and d sum(cross entropy) / d pixels; for loops, so that nothing is checked.

    Args:
        scale: factor on the loss on its way back. dtype: of autocast; None for the surrounding one.
        check: looks at the logits before the loss does, which on a GPU fails without a word.
    """
    pixels = pixels.detach().requires_grad_()
    with torch.enable_grad(), autocast(pixels.device, dtype):
        logits = at_least_float(logits_of(model, pixels))
        if check is not None:
            check(logits)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradient = _gradient(loss * scale, pixels)
    return logits.detach(), gradient / scale


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Autocast to ``dtype``; for None whatever surrounds."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def logits_of(model: nn.Module, pixels: Tensor) -> Tensor:
    """What the model makes of the pixels [n,C,H,W]: floating [n,K]; waits for no device.

    Raises:
        UserError: outputs of another form, or a model of another dtype than the pixels.
    """
    try:
        logits = model(pixels)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, (UserError, torch.OutOfMemoryError)):
            raise
        if isinstance(model, nn.Module):
            _explain(error, model, pixels)
        raise
    if not isinstance(logits, Tensor):
        raise UserError(
            f"the model returns a {type(logits).__name__}; expected a tensor of logits [N,K]: pick "
            "it by a function, such as lambda pixels: model(pixels)[0]"
        )
    if logits.dim() != 2 or len(logits) != len(pixels) or logits.shape[1] < 2:
        raise UserError(
            f"the model returns {tuple(logits.shape)} for {len(pixels)} images; expected logits "
            "[N,K] of two or more classes"
        )
    if not logits.is_floating_point() or logits.device != pixels.device:
        raise UserError(
            f"the model returns {logits.dtype} on {logits.device}; expected floating logits on "
            f"{pixels.device}, where the images are"
        )
    return logits


def _explain(error: Exception, model: nn.Module, pixels: Tensor) -> None:
    """Raises UserError if tensors of the model explain why it fails on the pixels."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    for tensor in filter(Tensor.is_floating_point, chain(model.parameters(), model.buffers())):
        if tensor.dtype != pixels.dtype:
            raise UserError(
                f"images are {pixels.dtype} and the model has {tensor.dtype}; convert one of them, "
                f"such as images.to({tensor.dtype}) ({reason})"
            ) from error
        if tensor.is_inference():
            raise UserError(
                "the model was made in torch.inference_mode, so that it has no gradients: make or "
                "load it outside, or attack with boundary, which needs none"
            ) from error


def _gradient(total: Tensor, inputs: Tensor) -> Tensor:
    """Raises UserError where the total does not depend on the inputs."""
    check_gradient(total.requires_grad)
    (found,) = torch.autograd.grad(total, inputs, allow_unused=True)
    check_gradient(found is not None)
    return found


def check_gradient(there: bool) -> None:
    """Raises UserError if nothing leads from the logits back to the pixels."""
    if not there:
        raise UserError(
            "the logits have no gradient for the pixels: they are constant, or were detached, made "
            "under torch.no_grad or by another library; attack with boundary, which needs none"
        )


def check_evaluation_mode(model: nn.Module) -> None:
    """Raises UserError if any part of the model is in training mode."""
    for name, module in model.named_modules():
        if module.training:
            where = f"its part {name!r}" if name else "it"
            raise UserError(
                f"the model is attacked in evaluation mode, but {where} is in training mode: call "
                "model.eval()"
            )


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Whether a model's outputs are logits of these labels' classes. Raises UserError."""
    check_labels(labels, logits.shape[1])
    check_finite(logits)
    if looks_like_probabilities(logits):
        raise UserError(
            "the model returns probabilities (not negative, of sum 1); attacks need logits, or "
            "gradients vanish and robustness is overstated: leave the softmax out"
        )


def check_finite(logits: Tensor) -> None:
    """Raises UserError for NaN and infinity."""
    if not bool(logits.isfinite().all()):
        raise UserError(
            "the model's logits are not finite: its weights diverged, or float16 overflowed (use "
            "float32)"
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises UserError if a label is of no class."""
    least, most = (int(v) for v in labels.aminmax())
    if least < 0 or most >= classes:
        raise UserError(
            f"labels has {least if least < 0 else most}; the model has {classes} classes, 0 to "
            f"{classes - 1}"
        )


def looks_like_probabilities(outputs: Tensor) -> bool:
    """Whether all rows of [N,K] are not negative and sum to 1."""
    sums = outputs.double().sum(1)
    return bool((outputs >= 0).all() and ((sums - 1).abs() < 1e-3).all())
