"""Batch norm modules by the fused operator: our own, and what stands in for torch's."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .backends import transformed
from .masking import apply_mask
from .operator import FLOATS, bn_mask_add_relu
from .reference import Projection


class Masked(nn.Module):
    """A module with a place for a mask.

    Attributes:
        mask: bool buffer [C,H,W], True where a neuron is kept; None for no mask. A persistent
            buffer: it follows ``.to()``, its memory format included, and is saved in checkpoints.
        backend: as in :func:`scotoma.kernels.bn_mask_add_relu`.
    """

    mask: Tensor | None
    backend: str | None = None

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self.mask is not None:
            # ``.to(memory_format=...)`` means tensors of four dimensions: the mask is one image,
            # and kernels read it fastest in the order of the activations. (unsqueeze would give
            # the new dimension a stride that torch takes for no format at all.)
            mask = self.mask
            image = mask.as_strided((1, *mask.shape), (mask.numel(), *mask.stride()))
            self.mask = fn(image).squeeze(0)
        return self

    def _mask_text(self) -> str:
        """For ``extra_repr``: the share of neurons that the mask keeps."""
        if self.mask is None or self.mask.is_meta:
            return ""
        return f", keeps {float(self.mask.float().mean()):.4g} of {list(self.mask.shape)}"


class NotConverted:
    """Stops ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` at a layer that it would cripple.

    It makes a SyncBatchNorm of every kind of BatchNorm2d, by the attributes that it knows of, and
    asks for ``qconfig`` last. Others who ask find none, until they have set one.
    """

    def __get__(self, layer, owner):
        if sys._getframe(1).f_code.co_name == "convert_sync_batchnorm":
            raise ValueError(
                f"convert_sync_batchnorm would replace {owner.__name__} by a batch norm without "
                "its mask; call it before scotoma.defective.convert, or, for a network of "
                "create_model, call scotoma.defective.synchronise_statistics(model) instead, once "
                "there is a process group"
            )
        raise AttributeError("qconfig")


class BNMaskAddReLU(nn.BatchNorm2d, Masked):
    """``relu(mask * BN(x) + residual)`` as one operator, in place of torch.nn.BatchNorm2d.

    Parameters, buffers, their names and their meaning are those of BatchNorm2d, so that its state
    dict fits; a mask is one buffer more.

    Args:
        num_features: C of the input. Further options of BatchNorm2d: eps, momentum (None for a
            cumulative average), affine, track_running_stats, device, dtype.
        mask: fixed 0/1 mask [C,H,W], bool or uint8, the same for every image; None for no mask.
        relu: apply ReLU at the end.
        process_group: over whose ranks batch statistics are synchronised; None for local ones.
        backend: as in :func:`scotoma.kernels.bn_mask_add_relu`.
    """

    qconfig = NotConverted()

    def __init__(
        self,
        num_features: int,
        *batch_norm_arguments,
        mask: Tensor | None = None,
        relu: bool = True,
        process_group: dist.ProcessGroup | None = None,
        backend: str | None = None,
        **batch_norm_options,
    ):
        super().__init__(num_features, *batch_norm_arguments, **batch_norm_options)
        self.register_buffer("mask", mask)
        self.relu, self.process_group, self.backend = relu, process_group, backend

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[N,C,H,W], and a residual of the same shape or None -> [N,C,H,W].

        Raises:
            ValueError: as :func:`scotoma.kernels.bn_mask_add_relu`.
        """
        return _call(self, x, residual, None, self.relu)

    def extra_repr(self) -> str:
        relu = "" if self.relu else ", relu=False"
        return super().extra_repr() + relu + self._mask_text()


class MaskedBatchNorm2d(nn.BatchNorm2d, Masked):
    """``mask * BN(x)``: what a BatchNorm2d becomes that gets a mask."""

    qconfig = NotConverted()

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,H,W]."""
        return batch_norm_add_relu(self, x, relu=False)

    def extra_repr(self) -> str:
        return super().extra_repr() + self._mask_text()


class MaskedSyncBatchNorm(nn.SyncBatchNorm, Masked):
    """``mask * BN(x)``: what a SyncBatchNorm becomes that gets a mask."""

    qconfig = NotConverted()
    forward = MaskedBatchNorm2d.forward
    extra_repr = MaskedBatchNorm2d.extra_repr


class NeuronMask(Masked):
    """``mask * x`` as a module, for a place between others."""

    def __init__(self, mask: Tensor | None = None):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,H,W]. Raises ValueError as :func:`scotoma.kernels.apply_mask`."""
        return apply_mask(x, self.mask, backend=self.backend)

    def named_children(self):
        # What convert_sync_batchnorm asks the parts of a batch norm for that it has just replaced,
        # and does not run any more. Timm's function of that name keeps them.
        caller = sys._getframe(1)
        torchs = caller.f_globals["__name__"].startswith("torch.")
        if torchs and caller.f_code.co_name == "convert_sync_batchnorm":
            raise ValueError(
                "torch's convert_sync_batchnorm would leave out the mask and the activation of "
                "timm's BatchNormAct2d; call timm.layers.convert_sync_batchnorm(model)"
            )
        return super().named_children()

    def extra_repr(self) -> str:
        return self._mask_text().removeprefix(", ")


def mask_of(norm: nn.Module) -> Tensor | None:
    """The mask of a batch norm's output; of timm's BatchNormAct2d, of what its activation gets."""
    drop = norm._modules.get("drop") if norm._modules else None
    return drop.mask if isinstance(drop, NeuronMask) else getattr(norm, "mask", None)


def batch_norm_add_relu(
    norm: nn.BatchNorm2d | nn.SyncBatchNorm,
    x: Tensor,
    residual: Tensor | None = None,
    second: nn.BatchNorm2d | nn.SyncBatchNorm | None = None,
    relu: bool = True,
    in_place: bool = False,
) -> Tensor:
    """``relu(norm(x) + residual)`` by one call of the operator, where that is the same.

    Args:
        norm: a batch norm of images, which counts and updates as if it were called.
        x, residual: [N,C,H,W]. second: the batch norm that ``residual`` has to go through first.
        in_place: the sum is written into ``norm(x)``.

    A mask of the batch norm is applied to its result.
    """
    if second is not None and not _together(norm, second, x, residual):
        residual, second = batch_norm_add_relu(second, residual, relu=False), None
    if _takes(norm, x) and (residual is None or second is not None or _alike(x, residual)):
        return _call(norm, x, residual, second, relu)
    if second is not None:
        residual = batch_norm_add_relu(second, residual, relu=False)
    synchronised = isinstance(norm, nn.SyncBatchNorm)
    out = (nn.SyncBatchNorm if synchronised else nn.BatchNorm2d).forward(norm, x)
    out = apply_mask(out, mask_of(norm), backend=getattr(norm, "backend", None))
    if residual is not None:
        out = out.add_(residual) if in_place else out + residual
    return F.relu(out) if relu else out


def _takes(norm, x: Tensor) -> bool:
    """Whether the operator takes a call; torch says what is wrong with the others."""
    momentum = norm.momentum
    return (
        x.dim() == 4
        and x.layout is torch.strided
        and x.dtype in FLOATS
        and x.shape[1] == norm.num_features > 0
        and norm.eps > 0
        and (momentum is None or (isinstance(momentum, (int, float)) and 0 <= momentum <= 1))
        and (norm.running_mean is None) == (norm.running_var is None)
    )


def _alike(x: Tensor, residual) -> bool:
    """Whether the sum has the shape and dtype of ``x``, as the operator's has."""
    return (
        isinstance(residual, Tensor)
        and (residual.shape, residual.dtype, residual.device) == (x.shape, x.dtype, x.device)
        and residual.layout is torch.strided
    )


def _call(norm, x: Tensor, residual: Tensor | None, second, relu: bool) -> Tensor:
    averages = norm.training and norm.track_running_stats
    if averages:
        counts = [norm.num_batches_tracked, None if second is None else second.num_batches_tracked]
        counts = [count for count in counts if count is not None]
        if transformed(x):
            for count in counts:
                count.add_(1)
        elif counts:
            torch._foreach_add_(counts, 1)
    momentum = norm.momentum
    if momentum is None:  # a cumulative average; on the device, so that nobody waits for the count
        count = norm.num_batches_tracked
        momentum = 1.0 / count if averages and count is not None else 0.0
    vectors = _vectors(norm)
    projection = None
    if second is not None:
        projection = Projection(residual, *_vectors(second), mask_of(second))
        residual = None
    return bn_mask_add_relu(
        x,
        *vectors,
        mask=mask_of(norm),
        residual=residual,
        projection=projection,
        relu=relu,
        training=bool(norm.training) or vectors[2] is None,
        momentum=momentum,
        eps=norm.eps,
        group=_group(norm),
        backend=getattr(norm, "backend", None),
    )


def _vectors(norm) -> tuple[Tensor | None, ...]:
    """Affine parameters, and running statistics where batch norm would pass them on."""
    tracked = not norm.training or norm.track_running_stats
    running = (norm.running_mean, norm.running_var) if tracked else (None, None)
    return norm.weight, norm.bias, *running


def _group(norm) -> dist.ProcessGroup | None:
    """Over whose ranks a batch norm synchronises now."""
    group = getattr(norm, "process_group", None)
    if group is None and isinstance(norm, nn.SyncBatchNorm):
        ready = norm.training and dist.is_available() and dist.is_initialized()
        group = dist.group.WORLD if ready else None
    return group


def _together(first, second, x: Tensor, other: Tensor) -> bool:
    """Whether one call can normalise both branches: of equal settings, shapes and dtypes."""
    if first.momentum is None:  # each averages over its own count
        return False

    def settings(norm):
        statistics = norm.training, norm.track_running_stats, norm.running_mean is None
        return norm.eps, norm.momentum, *statistics, _group(norm), getattr(norm, "backend", None)

    takes = _takes(first, x) and _takes(second, other) and _alike(x, other)
    return takes and settings(first) == settings(second)
