"""What the machine can do at best: copy memory, and multiply large square matrices."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from ...kernels import backends
from .. import harness

SIZE = {"cuda": 8192, "cpu": 1024}
REPEATS = {"cuda": 10, "cpu": 3}


@dataclass(frozen=True)
class Ceilings:
    """Both roofs.

    Attributes:
        copy: bytes a second of a large copy, those read and those written counted.
        matmul: operations a second of a large matrix product, by name of its arithmetic.
    """

    copy: float
    matmul: dict[str, float]

    def seconds(self, moved: int, flops: int, arithmetic: str) -> float:
        """The least time in which the machine moves so many bytes and does so many operations."""
        return max(moved / self.copy, flops / self.matmul[arithmetic])

    def attained_percent(self, seconds: float, moved: int, flops: int, arithmetic: str) -> float:
        """Percent of the lower roof at this intensity that a measured time attains."""
        return 100 * self.seconds(moved, flops, arithmetic) / seconds

    def as_row(self) -> dict:
        return {
            "copy_gb_per_s": round(self.copy / 1e9, 1),
            "matmul_tflop_per_s": {n: round(f / 1e12, 4) for n, f in self.matmul.items()},
        }


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Both roofs of a device, for operators on ``dtype`` and on float32."""
    matmul = {name(dtype): matmul_rate(dtype, device)}
    if device.type == "cuda":
        for other in (torch.bfloat16, torch.float16):
            matmul.setdefault(name(other), matmul_rate(other, device))
        with backends.tf32_allowed(convolutions=True, products=True):
            matmul["tf32"] = matmul_rate(torch.float32, device)
    with backends.tf32_allowed(convolutions=False, products=False):
        matmul["float32"] = matmul_rate(torch.float32, device)
    return Ceilings(harness.copy_bandwidth(device), matmul)


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a product of two large square matrices."""
    size = SIZE[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=out)

    on_gpu = device.type == "cuda"
    clock = harness.device_seconds if on_gpu else lambda work: harness.wall_seconds(work, device)
    seconds = harness.interleaved({"matmul": multiply}, clock, REPEATS[device.type])["matmul"]
    return 2 * size**3 / statistics.median(seconds)


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def convolution_arithmetic(dtype: torch.dtype, device: torch.device) -> str:
    """Whose ceiling holds for a convolution: cuDNN takes TF32 for float32 where it may."""
    return _arithmetic(dtype, device, backends.convolutions_may_use_tf32())


def linear_arithmetic(dtype: torch.dtype, device: torch.device) -> str:
    """The same for a matrix product."""
    return _arithmetic(dtype, device, backends.products_may_use_tf32())


def _arithmetic(dtype: torch.dtype, device: torch.device, tf32: bool) -> str:
    return "tf32" if dtype == torch.float32 and device.type == "cuda" and tf32 else name(dtype)
