"""What is measured: an operator on a shape, its passes, and the ways to compute it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..layers import accuracy
from ..layers.operands import Call


class Pass(NamedTuple):
    """One thing to time.

    Attributes:
        name: "forward", "backward", or "evaluation": a forward without gradients.
        moved, flops: the fewest bytes, and the operations.
        wanted: the operands that need a gradient.
        note: for people.
    """

    name: str
    moved: int
    flops: int
    wanted: tuple[str, ...] = ()
    note: str = ""


class Way(NamedTuple):
    """One way to compute an operator: its backend, and the function of the operands.

    Of several tiles of one backend the fastest counts.
    """

    backend: str
    run: Callable[..., Tensor]
    tile: str = ""


class Case(ABC):
    """An operator on a shape.

    Attributes:
        operator, kind, shape, detail: as in a row of results; a batch's worth, N first.
        users: where the shape comes from, for people.
    """

    operator: ClassVar[str]
    kind: str = ""
    detail: str = ""
    users: str = "headline"
    shape: tuple[int, int, int, int]

    @abstractmethod
    def passes(self, itemsize: int) -> list[Pass]:
        """What is timed, for activations of ``itemsize`` bytes."""

    @abstractmethod
    def ways(self, dtype: torch.dtype, device: torch.device) -> list[Way]:
        """Who competes; all are called with the operands that :meth:`draw` gives."""

    @abstractmethod
    def draw(self, dtype: torch.dtype, device: torch.device) -> Call:
        """Random operands, the same each time, and the gradient that comes back."""

    @abstractmethod
    def footprint(self, itemsize: int) -> int:
        """Bytes of distinct memory that a forward touches."""

    def arithmetic(self, dtype: torch.dtype, device: torch.device) -> str:
        """Whose ceiling holds. Around batch norm it is float32, whatever the activations are."""
        return "float32"

    def exact(self, call: Call) -> dict[str, Tensor]:
        """Results in float64. May change ``call.grad_out`` where rounding alone would decide."""
        run = next(w.run for w in self.ways(torch.float64, call.grad_out.device) if exact_in(w))
        return results(run, call.double())

    def __str__(self) -> str:
        words = self.operator, self.kind, "x".join(map(str, self.shape)), self.detail
        return " ".join(word for word in words if word)


def exact_in(way: Way) -> bool:
    """Whether a way knows float64, which Triton's kernels do not."""
    return way.backend != "triton"


def results(run: Callable[..., Tensor], call: Call) -> dict[str, Tensor]:
    """Output and gradients by name."""
    if call.inputs():
        return accuracy.results(run, call)
    with torch.no_grad():
        return {"out": run(*call.operands)}
