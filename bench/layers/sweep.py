"""One operator many times over: cold and hot caches, forward, backward and both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .operands import Call

# Cold: between two uses of a byte, at least so many times the L2 cache is read and written.
COLD_L2_SIZES = 3
COLD_SETS = (3, 256)
# Hot: the same operands so many times in a row.
HOT_CALLS = 16
# A timed sweep has at least so many calls, so that what starts and ends it costs little.
COLD_CALLS = 12
CPU_CALLS = 2


class Sweep:
    """One contestant's forward and backward over a number of calls.

    Cold, every call has operands of its own and its results stay alive until it is made again, so
    that inputs and outputs alike come from and go to device memory; in ``both``, all forwards go
    before all backwards, as in a network. Hot, all calls share one set of operands.

    Not in ``training``, ``forward`` is what evaluation does, without gradients, and ``both`` what
    an attack does.
    """

    def __init__(
        self,
        run,
        sets: Sequence[Call],
        *,
        hot: bool,
        calls: int | None = None,
        training: bool = True,
    ):
        self.run, self.training = run, training
        # A backward refuses running statistics that another contestant has updated in between.
        self.sets = [call.with_own_statistics() for call in (sets[:1] if hot else sets)]
        rounds = math.ceil(COLD_CALLS / len(self.sets))
        self.calls = calls or (HOT_CALLS if hot else rounds * len(self.sets))
        self.inputs = [call.inputs() for call in self.sets]
        self.forget()

    def forget(self) -> None:
        """Let go of all results."""
        self.outs: list = [None] * len(self.sets)
        self.kept, self.grads = list(self.outs), list(self.outs)

    def prepare(self) -> None:
        """Forwards whose graphs every ``backward`` uses again."""
        self.outs = [self.run(*call.operands) for call in self.sets]

    def forward(self) -> None:
        with torch.set_grad_enabled(self.training):
            for number in range(self.calls):
                at = number % len(self.sets)
                self.kept[at] = self.run(*self.sets[at].operands)

    def backward(self) -> None:
        for number in range(self.calls):
            self._differentiate(self.outs, number % len(self.sets))

    def both(self) -> None:
        for _ in range(0, self.calls, len(self.sets)):
            for at, call in enumerate(self.sets):
                self.kept[at] = self.run(*call.operands)
            for at in range(len(self.sets)):
                self._differentiate(self.kept, at)

    def _differentiate(self, outs, at: int) -> None:
        self.grads[at] = torch.autograd.grad(
            outs[at], self.inputs[at], self.sets[at].grad_out, retain_graph=True
        )


def cold_sets(forward_bytes: int, l2_bytes: int | None) -> int:
    """Sets of operands to go round, each touching ``forward_bytes`` of distinct memory."""
    if l2_bytes is None:
        return CPU_CALLS
    fewest, most = COLD_SETS
    return max(fewest, min(most, math.ceil(COLD_L2_SIZES * l2_bytes / forward_bytes)))
