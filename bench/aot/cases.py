"""Which configurations are compiled: calls of the operators on meta tensors, a class each.

To add an operator, write a class of calls and a generator of them, and add that to ``all_cases``.
A call has a ``name``, which becomes part of the keys of ``budget.json``; a ``form``, and calls of
one form make equally many launches; and ``run``, which yields between forward and backward, if it
has both. Launches that an earlier call has made are compiled once and carry its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from unittest import mock

import torch
from torch import Tensor

from ...kernels import Projection, apply_mask, autotune, bn_mask_add_relu, conv_bn_mask_add_relu
from ...kernels.convolution import CONV_TILES, ConvTile

SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
LAYOUTS = {torch.channels_last: "nhwc", torch.contiguous_format: "nchw"}
VARIANTS = ("plain", "residual", "projection")
AFFINE, RUNNING = ("weight", "bias"), ("running_mean", "running_var")
Shape = tuple[int, int, int, int]


def activation(shape: Shape, dtype: torch.dtype, layout=torch.channels_last) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def mask_for(shape: Shape, layout: torch.memory_format) -> Tensor:
    """A mask [C,H,W] in the memory order of an activation's image."""
    return activation((1, *shape[1:]), torch.bool, layout)[0]


def vectors(channels: int, without: tuple[str, ...] = ()) -> dict[str, Tensor | None]:
    """Weight, bias, running mean and running variance, some of them left out."""
    names = AFFINE + RUNNING
    return {n: None if n in without else torch.empty(channels, device="meta") for n in names}


@dataclass(frozen=True)
class Epilogue:
    """One call of ``bn_mask_add_relu`` and its backward pass.

    without: arguments that are left out, "relu", "gradients" of the parameters, or the "gradient"
        of ``x``.
    """

    variant: str = "plain"
    mode: str = "train"  # "attack": gradients of a network in evaluation; "infer": none
    dtype: torch.dtype = torch.bfloat16
    shape: Shape = (128, 128, 16, 16)
    layout: torch.memory_format = torch.channels_last
    mask: str = "mask"  # "other-mask": in the memory order of the other layout; "no-mask"
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        _, channels, height, width = self.shape
        words = [SHORT[self.dtype], LAYOUTS[self.layout], f"C{channels}", f"{height}x{width}"]
        return " ".join([*words, self.form, self.mask, *(f"no-{name}" for name in self.without)])

    @property
    def form(self) -> str:
        return f"{self.variant} {self.mode}"

    def run(self) -> Iterator[None]:
        main = self._branch()
        other = self._branch() if self.variant == "projection" else None
        residual = self._activation() if self.variant == "residual" else None
        if "gradient" in self.without:
            main.x.requires_grad_(False)
        tensors = [*main[:3], residual, *(other or ())[:3]]
        inputs = [t for t in tensors if t is not None and t.requires_grad]
        with torch.set_grad_enabled(self.mode != "infer"):
            out = bn_mask_add_relu(
                *main[:5],
                mask=main.mask,
                residual=residual,
                projection=other,
                relu="relu" not in self.without,
                training=self.mode == "train",
                backend="triton",
            )
        if inputs:
            yield
            torch.autograd.grad(out, inputs, self._activation().detach())

    def _branch(self) -> Projection:
        given = vectors(self.shape[1], self.without)
        for name in AFFINE:
            if given[name] is not None and self.mode == "train":
                given[name].requires_grad_("gradients" not in self.without)
        other = next(layout for layout in LAYOUTS if layout != self.layout)
        layouts = {"mask": self.layout, "other-mask": other}
        mask = None if self.mask == "no-mask" else mask_for(self.shape, layouts[self.mask])
        return Projection(self._activation(), mask=mask, **given)

    def _activation(self) -> Tensor:
        x = activation(self.shape, self.dtype, self.layout)
        return x.requires_grad_(self.mode != "infer")


def epilogues() -> Iterator[Epilogue]:
    """Everything at the commonest shape; elsewhere training, which has the most kernels."""
    training = [Epilogue(variant) for variant in VARIANTS]
    yield from training
    yield from (Epilogue(v, mode) for mode in ("attack", "infer") for v in VARIANTS)
    yield from (replace(e, dtype=torch.float32) for e in training)
    yield Epilogue("projection", dtype=torch.float16)  # differs in conversions only
    yield from (replace(e, mask="no-mask") for e in training)
    yield from (replace(e, mask="other-mask") for e in training)
    # Every argument left out, by itself somewhere.
    plain, _, projection = training
    yield from (replace(plain, without=(name,)) for name in AFFINE)
    yield from (replace(e, without=AFFINE) for e in training)
    yield from (Epilogue(v, mode, without=AFFINE) for v in VARIANTS for mode in ("attack", "infer"))
    yield from (replace(e, without=RUNNING) for e in (plain, projection))
    yield from (replace(e, without=("gradients",)) for e in training)
    yield from (Epilogue("residual", mode, without=("gradient",)) for mode in ("train", "attack"))
    yield from (replace(e, without=("relu",)) for e in training)
    yield Epilogue("plain", "infer", without=("relu",))
    for channels in (96, 20, 3):  # these differ in the widths of tiles and of accesses
        yield from (replace(e, shape=(128, channels, 32, 32)) for e in training)
    for channels in (48, 24):
        yield Epilogue("projection", shape=(128, channels, 32, 32))
    # 80 bytes a row: float32 has accesses of 16 bytes where half precision has not.
    yield from (replace(e, shape=(128, 20, 32, 32), dtype=torch.float32) for e in training)
    for shape in ((32, 512, 7, 7), (128, 512, 1, 1)):
        yield Epilogue("residual", shape=shape)
    contiguous = [replace(e, layout=torch.contiguous_format) for e in training]
    for dtype in (torch.bfloat16, torch.float32):
        yield from (replace(e, dtype=dtype, shape=(128, 64, 32, 32)) for e in contiguous)
    for shape in ((32, 64, 7, 7), (128, 3, 32, 32)):
        yield replace(contiguous[0], shape=shape)


@dataclass(frozen=True)
class MaskCall:
    """One call of ``apply_mask``, whose backward pass is the same launch."""

    channels: int = 128
    dtype: torch.dtype = torch.bfloat16
    layout: torch.memory_format = torch.channels_last
    form = "mask"

    @property
    def name(self) -> str:
        return f"{SHORT[self.dtype]} {LAYOUTS[self.layout]} C{self.channels} 32x32"

    def run(self) -> Iterator[None]:
        x = activation((128, self.channels, 32, 32), self.dtype, self.layout).requires_grad_()
        out = apply_mask(x, mask_for(x.shape, self.layout), backend="triton")
        yield
        torch.autograd.grad(out, x, torch.empty_like(out))


@dataclass(frozen=True)
class Convolution:
    """One fused convolution; in training with statistics, in evaluation with all the rest.

    without: arguments that are left out.
    """

    tile: ConvTile
    training: bool
    dtype: torch.dtype = torch.bfloat16
    channels: tuple[int, int] = (128, 128)  # in, out
    kernel: int = 3
    stride: int = 1
    projection: bool = False
    without: tuple[str, ...] = ("conv_bias",)

    @property
    def name(self) -> str:
        inner, outer = self.channels
        words = [SHORT[self.dtype], f"C{inner}-{outer}", f"{self.kernel}x{self.kernel}"]
        words += [f"stride {self.stride}"] if self.stride > 1 else []
        words += [self.tile.name, *self.form.split()[1:]]
        words += [f"no-{name}" for name in self.without if name != "conv_bias"]
        return " ".join(words + ["conv_bias"] * ("conv_bias" not in self.without))

    @property
    def form(self) -> str:
        added = "projection " if self.projection else ""
        return f"convolution {added}{'train' if self.training else 'infer'}"

    def run(self) -> Iterator[None]:
        inner, outer = self.channels
        x = activation((128, inner, 16, 16), self.dtype).requires_grad_(self.training)
        weight = activation((outer, inner, self.kernel, self.kernel), self.dtype)
        side = (16 + self.stride - 1) // self.stride
        out_shape = (128, outer, side, side)
        given = vectors(outer, self.without)
        optional = {
            "conv_bias": torch.empty(outer, dtype=self.dtype, device="meta"),
            "mask": mask_for(out_shape, torch.channels_last),
            "residual": None if self.training else activation(out_shape, self.dtype),
        }
        optional |= {name: None for name in optional if name in self.without}
        if self.projection:
            other = activation(out_shape, self.dtype)
            optional["projection"] = Projection(other, mask=optional["mask"], **given)
        # Which tile takes part is otherwise chosen by measurement.
        with (
            mock.patch.object(autotune, "choose", lambda *_: self.tile.name),
            torch.set_grad_enabled(self.training),
        ):
            out = conv_bn_mask_add_relu(
                x,
                weight,
                optional.pop("conv_bias"),
                *given.values(),
                **optional,
                stride=self.stride,
                padding=self.kernel // 2,
                relu="relu" not in self.without,
                training=self.training,
                backend="triton",
            )
        if self.training:
            yield
            torch.autograd.grad(out, x, torch.empty_like(out))


def convolutions() -> Iterator[Convolution]:
    for training in (True, False):
        for dtype in (torch.bfloat16, torch.float32):
            yield from (Convolution(tile, training, dtype) for tile in CONV_TILES)
        first = Convolution(CONV_TILES[0], training)
        yield replace(first, dtype=torch.float16)
        yield replace(first, kernel=1)
        yield replace(first, stride=2)
        yield replace(first, channels=(3, 64))
        yield replace(first, channels=(36, 12))
        yield replace(first, without=())
    train, infer = (Convolution(CONV_TILES[0], training) for training in (True, False))
    yield replace(train, projection=True)
    yield replace(train, without=("conv_bias", *RUNNING))
    for without in (AFFINE, ("mask",), ("residual",), ("relu",)):
        yield replace(infer, without=("conv_bias", *without))


def all_cases() -> list[Epilogue | MaskCall | Convolution]:
    masks = (
        MaskCall(),
        MaskCall(dtype=torch.float32),
        MaskCall(12),  # DenseNet grows by 12 channels a layer
        MaskCall(layout=torch.contiguous_format),
    )
    return [*epilogues(), *masks, *convolutions()]
