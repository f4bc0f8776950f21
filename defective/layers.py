"""Defective layers: parameters, a mask buffer, and one call of ``scotoma.kernels``."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import Projection, apply_mask, bn_mask_add_relu, conv_bn_mask_add_relu
from ..kernels.autotune import active as convolutions_may_fuse
from ..kernels.backends import NAMES as BACKENDS
from ..kernels.batch_norm import (
    BNMaskAddReLU,
    Masked,
    MaskedBatchNorm2d,
    MaskedSyncBatchNorm,
    NeuronMask,
    NotConverted,
)
from .errors import UserError


class MaskSite(Masked):
    """A place where a mask may sit.

    Attributes:
        block: the paper's number of the block it belongs to, or None if no placement masks it.
        mask: as of :class:`scotoma.kernels.batch_norm.Masked`; None where nothing is defective.
        backend: as in :func:`scotoma.kernels.bn_mask_add_relu`; see :func:`use_backend`.
    """

    block: int | None

    def place(self, block: int | None) -> None:
        self.block = block
        self.register_buffer("mask", None)


class Counting:
    """Whether a network is just counting its batch for all its batch norms at once.

    Otherwise each layer would launch a kernel for one number.
    """

    active = False


class BNMaskReLU(nn.BatchNorm2d, MaskSite):
    """``relu(mask * BN(x) + residual)``: batch norm with a place for a mask.

    Args:
        channels: C of the input.
        block: see :class:`MaskSite`.
        process_group (attribute): over whose ranks batch statistics are synchronised; None for
            local ones. See :func:`synchronise_statistics`.

    ``momentum=None`` (cumulative average), ``track_running_stats=False`` and the count of batches
    (``num_batches_tracked``, int64) are as in ``torch.nn.BatchNorm2d``; nobody waits for the count.
    """

    qconfig = NotConverted()
    counting = Counting()

    def __init__(self, channels: int, block: int | None = None, **batch_norm_options):
        super().__init__(channels, **batch_norm_options)
        self.place(block)
        self.process_group = None

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        projection: tuple[Tensor, BNMaskReLU] | None = None,
        relu: bool = True,
        conv: nn.Conv2d | None = None,
    ) -> Tensor:
        """Args are those of :func:`scotoma.kernels.bn_mask_add_relu`; all tensors [N,C,H,W].

        ``projection`` is a pair (convolution output, its batch norm), added before ReLU. It is
        normalised with this layer's eps, momentum and process group. ``conv`` is the convolution
        in front, to be computed here: ``x`` is then its input, and both are one kernel where that
        was measured to be faster (:func:`scotoma.kernels.measure_convolutions`).
        """
        if self.training and not self.counting.active:
            count_batch([self] if projection is None else [self, projection[1]])
        if projection is not None:
            branch, norm = projection
            projection = Projection(branch, *norm._vectors(), norm.mask)
        options = dict(
            mask=self.mask,
            residual=residual,
            projection=projection,
            relu=relu,
            training=self.training or self.running_mean is None,
            momentum=self._momentum(),
            eps=self.eps,
            group=self.process_group,
            backend=self.backend,
        )
        fused = self.backend is None and conv is not None and convolutions_may_fuse()
        if fused and conv.padding_mode == "zeros":
            options |= {k: getattr(conv, k) for k in ("stride", "padding", "dilation", "groups")}
            return conv_bn_mask_add_relu(x, conv.weight, conv.bias, *self._vectors(), **options)
        # The module, not its function, so that hooks on it run.
        return bn_mask_add_relu(x if conv is None else conv(x), *self._vectors(), **options)

    def extra_repr(self) -> str:
        return super().extra_repr() + self._mask_text()

    def _vectors(self):
        return self.weight, self.bias, self.running_mean, self.running_var

    def _momentum(self) -> float | Tensor:
        """The weight of this batch."""
        if self.momentum is not None:
            return self.momentum
        if self.training and self.num_batches_tracked is not None:
            return 1.0 / self.num_batches_tracked  # on the device: nobody waits for it
        return 0.0


def count_batch(norms: list[BNMaskReLU]) -> None:
    """One batch more for each of these layers that is in training, by one operator."""
    counters = [norm.num_batches_tracked for norm in norms if norm.training]
    counters = [counter for counter in counters if counter is not None]
    if counters:
        torch._foreach_add_(counters, 1)


class ConvMask(nn.Conv2d, MaskSite):
    """Convolution with the mask on its bare output: the paper's placement in pre-activation nets.

    Args:
        in_channels, out_channels, kernel_size: as ``torch.nn.Conv2d``.
        block: see :class:`MaskSite`.
        options: further ``torch.nn.Conv2d`` options.
    """

    def __init__(self, in_channels, out_channels, kernel_size, *, block=None, **options):
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.place(block)

    def forward(self, x: Tensor) -> Tensor:
        """[N,in_channels,H,W] -> [N,out_channels,H',W']."""
        return apply_mask(super().forward(x), self.mask, backend=self.backend)

    def extra_repr(self) -> str:
        return super().extra_repr() + self._mask_text()


class ConvBNMaskReLU(nn.Module):
    """The paper's defective convolutional layer: ``relu(mask * BN(conv(x)))``.

    Args:
        in_channels, out_channels, kernel_size: as ``torch.nn.Conv2d``.
        block: see :class:`MaskSite`.
        conv_options: stride, padding, bias, ...; ``bias`` is off unless asked for.
    """

    def __init__(self, in_channels, out_channels, kernel_size, *, block=None, **conv_options):
        super().__init__()
        conv_options.setdefault("bias", False)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, **conv_options)
        self.bn = BNMaskReLU(out_channels, block)

    def forward(self, x: Tensor, relu: bool = True) -> Tensor:
        """[N,in_channels,H,W] -> [N,out_channels,H',W']."""
        return self.bn(x, conv=self.conv, relu=relu)


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution that on a CPU reads only the pixels its stride keeps. The result is equal.

    oneDNN 3.12's weight gradient (in torch 2.14.1) writes beyond its memory for a stride over 1,
    channels_last (as which images of one channel count in any case) and fewer channels than a
    vector register holds floats: 8 with AVX2, 16 with AVX-512. A segmentation fault, or worse.

    Args:
        in_channels, out_channels, stride: as ``torch.nn.Conv2d``; there is no bias.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and self.stride != (1, 1):
            down, across = self.stride
            x = x[..., ::down, ::across]
            return F.conv2d(x, self.weight, None, (1, 1), self.padding, self.dilation, self.groups)
        return super().forward(x)


class ProjectionShortcut(nn.Module):
    """1x1 convolution and batch norm of a shortcut whose shape changes.

    Its output is not computed here: ``branch(x)`` is the pair that :class:`BNMaskReLU` takes as
    ``projection``, so that both branches end in one operator.
    """

    def __init__(self, in_channels, out_channels, *, stride=1, block=None):
        super().__init__()
        self.conv = PointwiseConv2d(in_channels, out_channels, stride)
        self.bn = BNMaskReLU(out_channels, block)

    def branch(self, x: Tensor) -> tuple[Tensor, BNMaskReLU]:
        return self.conv(x), self.bn


def use_backend(model: nn.Module, backend: str | None) -> None:
    """Choose the backend of all defective layers and fused batch norms of a model, in place.

    Args:
        model: any module. backend: "eager" for plain PyTorch, "triton" for the fused kernels or an
            error where they cannot run, None for whichever runs.

    Raises:
        UserError: there is no such backend.
    """
    if backend not in (None, *BACKENDS):
        raise UserError(f"backend is {backend!r}; expected None, 'eager' or 'triton'")
    for module in model.modules():
        if isinstance(module, (Masked, nn.BatchNorm2d, nn.SyncBatchNorm)):
            module.backend = backend


def synchronise_statistics(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Let every defective batch norm of a model use the statistics of all ranks' batches, in place.

    What ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` is for plain ones, which know no mask. Of
    another library's network by :func:`create_model`: every batch norm. Before :func:`convert`,
    call torch's.

    Args:
        model: any module. group: over whose ranks; None for all of them.

    Raises:
        UserError: there is no process group yet; or another library's network has a batch norm
            that cannot be synchronised (timm's BatchNormAct2d, but in a network of create_model).
    """
    group = group or dist.group.WORLD
    if group is None:
        raise UserError(
            "there is no process group to synchronise statistics over; start with torchrun, and "
            "call torch.distributed.init_process_group() before"
        )
    for module in model.modules():
        if isinstance(module, (BNMaskReLU, BNMaskAddReLU, MaskedBatchNorm2d, MaskedSyncBatchNorm)):
            module.process_group = group
        elif hasattr(module, "synchronise_others"):
            module.synchronise_others(group)
    for name, module in model.named_modules():
        masked = isinstance(getattr(module, "drop", None), NeuronMask)
        if masked and getattr(module, "process_group", None) is not group:
            raise UserError(
                f"{name} is a {type(module).__name__}, which cannot be synchronised over processes "
                "here; make the network by create_model('timm:NAME', ...)"
            )
