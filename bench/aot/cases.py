"""Which configurations are compiled: calls of the operators on meta tensors, one function each.

To add an operator, write a generator of cases and add it to ``OPERATORS``. A case's name becomes
part of the keys of ``budget.json``. Launches that an earlier case has made are compiled once and
carry that case's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...kernels import convolution, fused, masking
from ...kernels.convolution import CONV_TILES, ConvTile, Window
from ...kernels.reference import Branch

SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
LAYOUTS = {torch.channels_last: "nhwc", torch.contiguous_format: "nchw"}
VARIANTS = ("plain", "residual", "projection")
Shape = tuple[int, int, int, int]


class Case(NamedTuple):
    name: str
    run: Callable[[], None]


def activation(shape: Shape, dtype: torch.dtype, layout=torch.channels_last) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def mask_for(shape: Shape, layout: torch.memory_format) -> Tensor:
    """A mask [C,H,W] in the memory order of an activation's image."""
    _, channels, height, width = shape
    if layout == torch.channels_last:
        last = torch.empty(height, width, channels, dtype=torch.bool, device="meta")
        return last.permute(2, 0, 1)
    return torch.empty(channels, height, width, dtype=torch.bool, device="meta")


def vectors(channels: int) -> list[Tensor]:
    """Weight, bias, running mean and running variance."""
    return [torch.empty(channels, device="meta") for _ in range(4)]


@dataclass(frozen=True)
class Epilogue:
    """One call of ``bn_mask_add_relu`` and its backward pass."""

    variant: str = "plain"
    mode: str = "train"  # "attack": gradients of a network in evaluation; "infer": none
    dtype: torch.dtype = torch.bfloat16
    shape: Shape = (128, 128, 16, 16)
    layout: torch.memory_format = torch.channels_last
    mask: str = "mask"  # "other-mask": in the memory order of the other layout; "no-mask"

    @property
    def name(self) -> str:
        images, channels, height, width = self.shape
        words = [SHORT[self.dtype], LAYOUTS[self.layout], f"C{channels}", f"{height}x{width}"]
        words += ["2^31 rows"] if images * height * width >= 2**31 else []
        return " ".join([*words, self.variant, self.mode, self.mask])

    def run(self) -> None:
        main = self._branch()
        other = self._branch() if self.variant == "projection" else None
        residual = self._activation() if self.variant == "residual" else None
        settings = fused.Settings(True, self.mode == "train", 0.1, 1e-5)
        save_bits = residual is not None and self.mode != "infer"
        result = fused.forward(main, other, residual, settings, save_bits=save_bits)
        if self.mode == "infer":
            return
        parameters, second = self.mode == "train", other is not None
        wanted = fused.Gradients(
            x=True,
            weight=parameters,
            bias=parameters,
            residual=residual is not None,
            x2=second,
            weight2=second and parameters,
            bias2=second and parameters,
        )
        grad_out = self._activation()
        fused.backward(grad_out, result.main, result.other, result.bits, settings, wanted)

    def _branch(self) -> Branch:
        return Branch(self._activation(), *vectors(self.shape[1]), self._mask())

    def _activation(self) -> Tensor:
        return activation(self.shape, self.dtype, self.layout)

    def _mask(self) -> Tensor | None:
        if self.mask == "no-mask":
            return None
        other = next(layout for layout in LAYOUTS if layout != self.layout)
        return mask_for(self.shape, self.layout if self.mask == "mask" else other)


def epilogues() -> Iterator[Epilogue]:
    """Everything at the commonest shape; elsewhere training, which has the most kernels."""
    training = [Epilogue(variant) for variant in VARIANTS]
    yield from training
    yield from (Epilogue(v, mode) for mode in ("attack", "infer") for v in VARIANTS)
    yield from (replace(e, dtype=torch.float32) for e in training)
    yield Epilogue("projection", dtype=torch.float16)  # differs in conversions only
    yield from (replace(e, mask="no-mask") for e in training)
    yield from (replace(e, mask="other-mask") for e in training)
    for channels in (96, 20, 3):  # these differ in the widths of tiles and of accesses
        yield from (replace(e, shape=(128, channels, 32, 32)) for e in training)
    for channels in (48, 24):
        yield Epilogue("projection", shape=(128, channels, 32, 32))
    # 80 bytes a row: float32 has accesses of 16 bytes where half precision has not.
    yield from (replace(e, shape=(128, 20, 32, 32), dtype=torch.float32) for e in training)
    for shape in ((32, 512, 7, 7), (128, 512, 1, 1), (2**21, 16, 32, 32)):
        yield Epilogue("residual", shape=shape)
    contiguous = [replace(e, layout=torch.contiguous_format) for e in training]
    for dtype in (torch.bfloat16, torch.float32):
        yield from (replace(e, dtype=dtype, shape=(128, 64, 32, 32)) for e in contiguous)
    for shape in ((32, 64, 7, 7), (128, 3, 32, 32)):
        yield replace(contiguous[0], shape=shape)


def epilogue_cases() -> Iterator[Case]:
    for epilogue in epilogues():
        yield Case(epilogue.name, epilogue.run)


def mask_cases() -> Iterator[Case]:
    """``apply_mask``, whose backward pass is the same launch."""
    for dtype, layout, channels in (
        (torch.bfloat16, torch.channels_last, 128),
        (torch.float32, torch.channels_last, 128),
        (torch.bfloat16, torch.channels_last, 12),  # DenseNet grows by 12 channels a layer
        (torch.bfloat16, torch.contiguous_format, 128),
    ):
        shape = (128, channels, 32, 32)

        def run(shape=shape, dtype=dtype, layout=layout) -> None:
            masking._launch(activation(shape, dtype, layout), mask_for(shape, layout))

        yield Case(f"{SHORT[dtype]} {LAYOUTS[layout]} C{channels} 32x32", run)


@dataclass(frozen=True)
class Convolution:
    """One fused convolution; in training with statistics, in evaluation with all the rest."""

    tile: ConvTile
    training: bool
    dtype: torch.dtype = torch.bfloat16
    channels: tuple[int, int] = (128, 128)  # in, out
    kernel: int = 3

    @property
    def name(self) -> str:
        words = [SHORT[self.dtype], f"C{self.channels[0]}-{self.channels[1]}"]
        words += [f"{self.kernel}x{self.kernel}", self.tile.name]
        return " ".join([*words, "train" if self.training else "infer"])

    def run(self) -> None:
        inner, outer = self.channels
        x = activation((128, inner, 16, 16), self.dtype)
        kernel = activation((outer, inner, self.kernel, self.kernel), self.dtype)
        window = Window(1, self.kernel // 2)
        epilogue = {}
        if not self.training:
            shape = convolution.output_shape(x, kernel, window)
            branch = Branch(None, *vectors(outer), mask_for(shape, torch.channels_last))
            residual = activation(shape, self.dtype)
            epilogue = {"branch": branch, "residual": residual, "relu": True, "eps": 1e-5}
        convolution.convolve(x, kernel, None, window, self.tile, **epilogue)


def convolutions() -> Iterator[Convolution]:
    for training in (True, False):
        for dtype in (torch.bfloat16, torch.float32):
            yield from (Convolution(tile, training, dtype) for tile in CONV_TILES)
        first = Convolution(CONV_TILES[0], training)
        yield replace(first, dtype=torch.float16)
        yield replace(first, kernel=1)
        yield replace(first, channels=(3, 64))
        yield replace(first, channels=(36, 12))


def convolution_cases() -> Iterator[Case]:
    for case in convolutions():
        yield Case(case.name, case.run)


OPERATORS: tuple[Callable[[], Iterator[Case]], ...] = (
    epilogue_cases,
    mask_cases,
    convolution_cases,
)


def all_cases() -> list[Case]:
    return [case for operator in OPERATORS for case in operator()]
