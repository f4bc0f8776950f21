"""The convolutions and linear layers of networks, found by a run on the meta device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...defective import create_model


@dataclass(frozen=True)
class Convolution:
    """A square convolution without groups, dilation or bias.

    Attributes:
        shape: N, C, H, W of its input.
        users: where it comes from, for people.
    """

    shape: tuple[int, int, int, int]
    out_channels: int
    kernel: int
    stride: int
    padding: int
    users: str = field(default="", compare=False)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        def size(n: int) -> int:
            return (n + 2 * self.padding - self.kernel) // self.stride + 1

        n, _, height, width = self.shape
        return n, self.out_channels, size(height), size(width)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.shape[1], self.kernel, self.kernel

    def __str__(self) -> str:
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{stride} -> {self.out_channels}"


@dataclass(frozen=True)
class Linear:
    """A linear layer on ``batch`` rows."""

    batch: int
    in_features: int
    out_features: int
    users: str = field(default="", compare=False)


def network_layers(
    networks, batch: int, image_size: int, width: int | None = None
) -> tuple[list[Convolution], list[Linear]]:
    """The distinct 1x1 and 3x3 convolutions of some networks, and their linear layers.

    width: channels of the first block; None for the networks' own.
    """
    convolutions, linears = Counter(), Counter()
    users: dict[object, Counter] = {}
    for network in networks:
        for layer in _layers(network, batch, image_size, width):
            found = convolutions if isinstance(layer, Convolution) else linears
            found[layer] += 1
            users.setdefault(layer, Counter())[network] += 1

    def named(layer):
        text = ", ".join(f"{network} x{count}" for network, count in users[layer].items())
        return type(layer)(**{**vars(layer), "users": text})

    return [named(c) for c in convolutions], [named(c) for c in linears]


def _layers(network: str, batch: int, image_size: int, width: int | None) -> list:
    options = {} if width is None else {"width": width}
    with torch.device("meta"):
        model = create_model(network, image_size=image_size, **options)
        images = torch.empty(batch, 3, image_size, image_size)
        with _Calls() as calls, torch.no_grad():
            model.train()(images)
    return calls.found


class _Calls(TorchDispatchMode):
    """Records convolutions and linear layers, whoever calls them."""

    def __init__(self):
        super().__init__()
        self.found: list = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self._convolution(*args)
        elif function is torch.ops.aten.addmm.default:
            _, x, weight = args[:3]
            self.found.append(Linear(*x.shape, weight.shape[1]))
        return function(*args, **(kwargs or {}))

    def _convolution(self, x, weight, _, stride, padding, dilation, transposed, __, groups):
        kernel = tuple(weight.shape[2:])
        plain = not transposed and groups == 1 and set(dilation) == {1}
        if plain and kernel in ((1, 1), (3, 3)) and len(set(stride)) == len(set(padding)) == 1:
            shape = tuple(x.shape)
            found = Convolution(shape, weight.shape[0], kernel[0], stride[0], padding[0])
            self.found.append(found)
