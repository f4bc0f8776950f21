"""Where an operator runs in a test: a backend on a device, with the dtypes it has there."""

from dataclasses import dataclass

import pytest
import torch
from scotoma.kernels import backends

FLOAT64, FLOAT32 = torch.float64, torch.float32
FLOAT16, BFLOAT16 = torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Target:
    backend: str
    device: str
    dtypes: tuple

    def __str__(self):
        return f"{self.backend}-{self.device}"

    @property
    def interpreted(self):
        return self.backend == "triton" and self.device == "cpu"

    @property
    def half(self):
        """The half-precision dtype that is used most here."""
        return FLOAT16 if self.interpreted else BFLOAT16


EAGER = Target("eager", "cpu", (FLOAT32, FLOAT64, BFLOAT16, FLOAT16))
# The interpreter computes with numpy, which knows no bfloat16.
INTERPRETER = Target("triton", "cpu", (FLOAT32, FLOAT16))
GPU = Target("triton", "cuda", (FLOAT32, FLOAT16, BFLOAT16))

_INTERPRETER = pytest.param(
    INTERPRETER,
    id=str(INTERPRETER),
    marks=pytest.mark.skipif(
        not backends.interpreting(),
        reason="kernels are compiled here; TRITON_INTERPRET=1 runs them in the interpreter",
    ),
)
_GPU = pytest.param(GPU, id=str(GPU), marks=pytest.mark.gpu)

on_triton = pytest.mark.parametrize("target", [_INTERPRETER, _GPU])
everywhere = pytest.mark.parametrize(
    "target", [pytest.param(EAGER, id=str(EAGER)), _INTERPRETER, _GPU]
)
