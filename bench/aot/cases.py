"""Which configurations are compiled: calls of the operators on meta tensors, each made of its name.

To add an operator, write the names of its calls, a class that makes a call of a name, and a line in
``all_cases``. A name becomes part of the keys of ``budget.json``. Calls of one ``form`` make
equally many launches; ``run`` yields between forward and backward, if it has both. Launches that
an earlier call has made are compiled once and carry its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from ...kernels import Projection, apply_mask, autotune, bn_mask_add_relu, conv_bn_mask_add_relu
from ...kernels.convolution import CONV_TILES

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LAYOUTS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}
AFFINE, RUNNING = ("weight", "bias"), ("running_mean", "running_var")

# Everything at the commonest shape; elsewhere training, which has the most kernels.
EPILOGUES = """
bf16 nhwc C128 16x16 {plain,residual,projection} train mask
bf16 nhwc C128 16x16 {plain,residual,projection} attack mask
bf16 nhwc C128 16x16 {plain,residual,projection} infer mask
fp32 nhwc C128 16x16 {plain,residual,projection} train mask
fp16 nhwc C128 16x16 projection train mask # differs in conversions only
bf16 nhwc C128 16x16 {plain,residual,projection} train no-mask
bf16 nhwc C128 16x16 {plain,residual,projection} train other-mask
# Every argument left out, by itself somewhere.
bf16 nhwc C128 16x16 plain train mask no-{weight,bias}
bf16 nhwc C128 16x16 {plain,residual,projection} train mask no-weight no-bias
bf16 nhwc C128 16x16 {plain,residual,projection} {attack,infer} mask no-weight no-bias
bf16 nhwc C128 16x16 {plain,projection} train mask no-running_mean no-running_var
bf16 nhwc C128 16x16 {plain,residual,projection} train mask no-gradients
bf16 nhwc C128 16x16 residual {train,attack} mask no-gradient
bf16 nhwc C128 16x16 {plain,residual,projection} train mask no-relu
bf16 nhwc C128 16x16 plain infer mask no-relu
# These differ in the widths of tiles and of accesses.
bf16 nhwc C{96,20,3} 32x32 {plain,residual,projection} train mask
bf16 nhwc C{48,24} 32x32 projection train mask
# 80 bytes a row: float32 has accesses of 16 bytes where half precision has not.
fp32 nhwc C20 32x32 {plain,residual,projection} train mask
bf16 nhwc C512 {7x7,1x1} residual train mask
{bf16,fp32} nchw C64 32x32 {plain,residual,projection} train mask
bf16 nchw C64 7x7 plain train mask
bf16 nchw C3 32x32 plain train mask
"""
MASKS = """
{bf16,fp32} nhwc C128 32x32
bf16 nhwc C12 32x32 # DenseNet grows by 12 channels a layer
bf16 nchw C128 32x32
"""
# In training with statistics, in evaluation with all the rest.
CONVOLUTIONS = """
{bf16,fp32} C128-128 3x3 {TILES} train
fp16 C128-128 3x3 TILE train
bf16 C128-128 {1x1,3x3 stride 2} TILE train
bf16 C{3-64,36-12} 3x3 TILE train
bf16 C128-128 3x3 TILE train conv_bias
{bf16,fp32} C128-128 3x3 {TILES} infer
fp16 C128-128 3x3 TILE infer
bf16 C128-128 {1x1,3x3 stride 2} TILE infer
bf16 C{3-64,36-12} 3x3 TILE infer
bf16 C128-128 3x3 TILE infer conv_bias
bf16 C128-128 3x3 TILE projection train
bf16 C128-128 3x3 TILE train no-running_mean no-running_var
bf16 C128-128 3x3 TILE infer {no-weight no-bias,no-mask,no-residual,no-relu}
""".replace("TILES", ",".join(tile.name for tile in CONV_TILES)).replace("TILE", CONV_TILES[0].name)


def names(text: str) -> Iterator[str]:
    """Of each line: ``a{b,c}`` is ab and ac, and of several braces the first varies slowest."""
    for line in text.splitlines():
        yield from filter(None, _expanded(line.partition("#")[0].strip()))


def _expanded(pattern: str) -> list[str]:
    before, _, rest = pattern.partition("{")
    words, brace, after = rest.partition("}")
    if not brace:
        return [pattern]
    return [before + word + end for word in words.split(",") for end in _expanded(after)]


def activation(shape, dtype: torch.dtype, layout=torch.channels_last) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def mask_for(shape, layout=torch.channels_last) -> Tensor:
    """A mask [C,H,W] in the memory order of an activation's image."""
    return activation((1, *shape[1:]), torch.bool, layout)[0]


def vectors(channels: int, without: list[str]) -> dict[str, Tensor | None]:
    """Weight, bias, running mean and running variance, some of them left out."""
    given = (name for name in AFFINE + RUNNING if f"no-{name}" not in without)
    return dict.fromkeys(AFFINE + RUNNING) | {
        n: torch.empty(channels, device="meta") for n in given
    }


@dataclass(frozen=True)
class Epilogue:
    """One call of ``bn_mask_add_relu`` and its backward pass.

    Its name has the dtype, the layout, the shape, what is added, the mode ("attack": gradients of a
    network in evaluation; "infer": none), the mask ("other-mask": in the memory order of the other
    layout), and what is left out: arguments, "relu", "gradients" of the parameters, or the
    "gradient" of ``x``.
    """

    name: str

    @property
    def form(self) -> str:
        return " ".join(self.name.split()[4:6])

    def run(self) -> Iterator[None]:
        dtype, layout, channels, size, variant, mode, mask, *without = self.name.split()
        shape = (32 if size == "7x7" else 128, int(channels[1:]), *map(int, size.split("x")))
        other_layout = next(other for other in LAYOUTS if other != layout)
        mask_layout = LAYOUTS[other_layout if mask == "other-mask" else layout]

        def image() -> Tensor:
            x = activation(shape, DTYPES[dtype], LAYOUTS[layout])
            return x.requires_grad_(mode != "infer")

        def branch() -> Projection:
            given = vectors(shape[1], without)
            for name in AFFINE:
                if given[name] is not None:
                    given[name].requires_grad_(mode == "train" and "no-gradients" not in without)
            given["mask"] = None if mask == "no-mask" else mask_for(shape, mask_layout)
            return Projection(image(), **given)

        main = branch()
        other = branch() if variant == "projection" else None
        residual = image() if variant == "residual" else None
        if "no-gradient" in without:
            main.x.requires_grad_(False)
        tensors = [*main[:3], residual, *(other or ())[:3]]
        inputs = [t for t in tensors if t is not None and t.requires_grad]
        with torch.set_grad_enabled(mode != "infer"):
            out = bn_mask_add_relu(
                *main[:5],
                mask=main.mask,
                residual=residual,
                projection=other,
                relu="no-relu" not in without,
                training=mode == "train",
                backend="triton",
            )
        if inputs:
            yield
            torch.autograd.grad(out, inputs, image().detach())


@dataclass(frozen=True)
class MaskCall:
    """One call of ``apply_mask``, whose backward pass is the same launch."""

    name: str
    form = "mask"

    def run(self) -> Iterator[None]:
        dtype, layout, channels, _ = self.name.split()
        shape = (128, int(channels[1:]), 32, 32)
        x = activation(shape, DTYPES[dtype], LAYOUTS[layout]).requires_grad_()
        out = apply_mask(x, mask_for(shape, LAYOUTS[layout]), backend="triton")
        yield
        torch.autograd.grad(out, x, torch.empty_like(out))


@dataclass(frozen=True)
class Convolution:
    """One fused convolution, without a bias of its own unless its name says so."""

    name: str

    @property
    def form(self) -> str:
        kinds = [word for word in self.name.split() if word in ("projection", "train", "infer")]
        return " ".join(["convolution", *kinds])

    def run(self) -> Iterator[None]:
        short, channels, kernel, *words = self.name.split()
        dtype, training, taps = DTYPES[short], "train" in words, int(kernel[0])
        inner, outer = map(int, channels[1:].split("-"))
        stride = 2 if "stride" in words else 1
        x = activation((128, inner, 16, 16), dtype).requires_grad_(training)
        weight = activation((outer, inner, taps, taps), dtype)
        shape = (128, outer, 16 // stride, 16 // stride)
        bias = torch.empty(outer, dtype=dtype, device="meta") if "conv_bias" in words else None
        given = vectors(outer, words)
        mask = None if "no-mask" in words else mask_for(shape)
        added = not training and "no-residual" not in words
        other = Projection(activation(shape, dtype), mask=mask, **given)
        # Which tile takes part is otherwise chosen by measurement.
        tile = next(tile.name for tile in CONV_TILES if tile.name in words)
        with (
            mock.patch.object(autotune, "choose", lambda *_: tile),
            torch.set_grad_enabled(training),
        ):
            out = conv_bn_mask_add_relu(
                x,
                weight,
                bias,
                *given.values(),
                mask=mask,
                residual=activation(shape, dtype) if added else None,
                projection=other if "projection" in words else None,
                stride=stride,
                padding=taps // 2,
                relu="no-relu" not in words,
                training=training,
                backend="triton",
            )
        if training:
            yield
            torch.autograd.grad(out, x, torch.empty_like(out))


def all_cases() -> list[Epilogue | MaskCall | Convolution]:
    calls = {Epilogue: EPILOGUES, MaskCall: MASKS, Convolution: CONVOLUTIONS}
    return [call(name) for call, text in calls.items() for name in names(text)]
