"""What the six networks share: pixels in, logits out."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..layers import BNMaskReLU, ConvBNMaskReLU, Counting, count_batch
from ..masks import mask_sites
from ..spec import ModelSpec
from ..thermometer import encode


class Network(nn.Module):
    """Base of all architectures: normalisation, features, global average pooling, one Linear.

    With thermometer encoding the pixels' code takes the place of the normalised pixels.

    An architecture sets the class attributes and builds its layers in ``__init__``, in forward
    order, ``head`` last.

    Attributes:
        spec: everything that determines the network (:class:`scotoma.defective.spec.ModelSpec`).
        mean, std: buffers [C,1,1], in units of pixels in [0,1].
    """

    name: ClassVar[str]
    default_width: ClassVar[int] = 64
    bottom: ClassVar[dict[str, tuple[int, ...]]]
    """Blocks that "Bottom" means, for each placement."""
    top: ClassVar[tuple[int, ...]] = (3, 4)
    has_width_variants: ClassVar[bool] = False
    """DC and xN, which change the widths of blocks."""
    regularized_blocks: ClassVar[tuple[int, ...]] = ()
    """Blocks in which SpatialDropout and DropBlock work; empty where the paper has none."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1))
        self._counting, self._counted = Counting(), []

    def count_for_all(self) -> None:
        """Count the batches of all layers here, by one operator: to be called once all are made."""
        self._counted = [m for m in self.modules() if isinstance(m, BNMaskReLU)]
        for norm in self._counted:
            norm.counting = self._counting

    @classmethod
    def block_widths(cls, width: int) -> dict[int, int]:
        """Channels of each block, before DC or xN: those of the ResNets."""
        return {0: width, 1: width, 2: 2 * width, 3: 4 * width, 4: 8 * width}

    def regularizer_of(self, number: int) -> str:
        """The regulariser of a block."""
        return self.spec.regularizer if number in self.regularized_blocks else "none"

    def features(self, x: Tensor) -> Tensor:
        """Normalised images [N,C,H,W], or their code [N,C*L,H,W] -> feature maps [N,F,h,w]."""
        for name, part in self.named_children():
            if name != "head":
                x = part(x)
        return x

    def forward(self, pixels: Tensor) -> Tensor:
        """Images [N,C,H,W], float, pixels in [0,1] -> logits [N,num_classes].

        Raises:
            ValueError: the images are of another shape than the network was made for, not
                floating, or of a wider type than its weights. A network without masks takes larger
                images, too.
        """
        self._check_input("pixels", pixels, self.spec.in_channels)
        if not pixels.is_floating_point():
            raise ValueError(
                f"pixels has dtype {pixels.dtype}; expected floating pixels in [0,1]: "
                "write pixels.float() / 255"
            )
        own = self.mean.dtype
        wider = pixels.dtype != own and torch.promote_types(pixels.dtype, own) != own
        # Autocast narrows all but float64.
        if wider and not (
            pixels.dtype != torch.float64 and torch.is_autocast_enabled(pixels.device.type)
        ):
            raise ValueError(
                f"pixels has dtype {pixels.dtype}, and the network's weights {own}: write "
                f"pixels.to({own})"
            )
        if self.spec.thermometer:
            return self.forward_encoded(encode(pixels, self.spec.thermometer))
        return self._classify((pixels - self.mean) / self.std)

    def forward_encoded(self, code: Tensor) -> Tensor:
        """Thermometer code [N,C*L,H,W], floating, also a soft one -> logits [N,num_classes].

        What ``forward`` does after encoding, for attacks on the code
        (:class:`scotoma.defective.attacks.lspga.LSPGA`). Differentiable in the code.

        Raises:
            UserError: the network has no thermometer encoding.
            ValueError: the code is of another shape than the network's images have.
        """
        if not self.spec.thermometer:
            raise UserError(
                f"this {self.spec.name} has no thermometer encoding; call it on pixels, or create "
                "one with thermometer=16"
            )
        self._check_input("code", code, self.spec.input_channels)
        return self._classify(code)

    def _check_input(self, name: str, x: Tensor, channels: int) -> None:
        """Raises ValueError if ``x`` is not of a shape that the network takes."""
        size = self.spec.image_size
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} is a {type(x).__name__}; expected a tensor [N,C,H,W]")
        reason = None
        if x.dim() != 4:
            reason = "a batch has four dimensions" + (
                f", so write {name}[None] for one image" if x.dim() == 3 else ""
            )
        elif x.shape[1] != channels:
            reason = f"the network was created for in_channels={self.spec.in_channels}"
            if name == "code":
                levels = self.spec.thermometer
                reason = f"{levels} levels for each of {self.spec.in_channels} channels"
        elif x.shape[2:] != (size, size):
            if self._is_masked():
                reason = "masks fit one image size, so create the network for this one"
            elif min(x.shape[2:]) < size:
                reason = (
                    "smaller images may be pooled to nothing, so enlarge them or create the "
                    "network for this size"
                )
        if reason:
            raise ValueError(
                f"{name} has shape {list(x.shape)}; expected [N,{channels},{size},{size}]: {reason}"
            )

    def _is_masked(self) -> bool:
        return bool(mask_sites(self))

    def _classify(self, x: Tensor) -> Tensor:
        count_batch(self._counted)
        self._counting.active = True
        try:
            x = self.features(x)
        finally:
            self._counting.active = False
        return self.head(x.mean((2, 3)))

    def extra_repr(self) -> str:
        spec = self.spec
        text = f"{spec.name}, defects={spec.defects}, "
        text += f"width={spec.width}, " * (spec.width is not None)
        text += f"image_size={spec.image_size}, mask_seed={spec.mask_seed}"
        return text + (f", thermometer={spec.thermometer}" if spec.thermometer else "")


class Stem(ConvBNMaskReLU):
    """Block 0: one 3x3 convolution, BN, mask, ReLU.

    Images of 128 pixels and more get stride 2 and a 3x3 max-pool of stride 2 after the mask, as
    in the release's ImageNet ResNet-18. ``stem="7x7"`` is torchvision's, for that size only.
    """

    def __init__(self, spec: ModelSpec, channels: int, block: int | None = 0):
        kernel, stride = spec.stem_kernel, spec.stem_stride
        super().__init__(
            spec.input_channels, channels, kernel, stride=stride, padding=kernel // 2, block=block
        )
        self.pool = stem_pool(spec)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(super().forward(x))


def stem_pool(spec: ModelSpec) -> nn.Module:
    """The max-pool after a stem of stride 2; nothing for small images."""
    return nn.MaxPool2d(3, stride=2, padding=1) if spec.stem_stride == 2 else nn.Identity()
