"""A step of device work as one CUDA graph: one launch where there were hundreds.

On a fast GPU a step on 128 small images takes less time than the host needs to launch its kernels
one by one, and the GPU waits. A graph holds all launches of a step and is launched as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import UserError

WARM_UP = 3
"""Steps that are run as they are, in which libraries choose algorithms and take workspaces."""

Step = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class GraphedStep:
    """Runs a step as it is for the first few batches, then from a graph.

    A capture computes nothing and is followed by a replay, so every batch is worked on once and
    the results are those of the same kernels launched one by one. All batches have one shape.

    Args:
        step: from images and labels on the device to tensors there. It must not wait for the
            device, and what changes from step to step it reads from tensors: a graph repeats
            addresses and numbers.
        device: where all this happens.
        capture: makes a function that repeats what its argument, called once, does on the device.
    """

    def __init__(
        self,
        step: Step,
        device: torch.device,
        capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ):
        self.step = step
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._capture = capture or self._cuda_graph
        self._calls = 0
        self._replay: Callable[[], None] | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """What ``step`` returns; from the graph, in tensors that the next call overwrites."""
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._as_it_is(images, labels)
        if self._replay is None:
            self._record(images, labels)
        for static, new in zip(self._inputs, (images, labels), strict=True):
            static.copy_(new)
        self._replay()
        return self._outputs

    def _as_it_is(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        if self._stream is None:
            return self.step(images, labels)
        # On the stream of the capture, where autograd's work for a graph has to begin.
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            outputs = self.step(images, labels)
        outside.wait_stream(self._stream)
        return outputs

    def _record(self, images: Tensor, labels: Tensor) -> None:
        self._inputs = torch.empty_like(images), torch.empty_like(labels)

        def work() -> None:
            self._outputs = self.step(*self._inputs)

        try:
            self._replay = self._capture(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"the step cannot become a CUDA graph ({reason}); do without, by --no-cuda-graph, "
                "in Python by cuda_graph=False"
            ) from error

    def _cuda_graph(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Loader threads may pin memory in the meantime; that is no part of the step.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay
