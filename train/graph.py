"""Whether a run's settings allow CUDA graphs of its steps."""

from __future__ import annotations

import torch

from ..defective.errors import UserError
from .config import TrainConfig


def check_graph(config: TrainConfig, device: torch.device, processes: int) -> None:
    """Whether these settings allow ``--cuda-graph``, if they ask for it.

    Raises:
        UserError: they do not; says which to change.
    """
    if not config.cuda_graph:
        return
    if device.type != "cuda":
        raise UserError(f"--cuda-graph needs an NVIDIA GPU; the device is {device}: leave it out")
    if processes > 1:
        raise UserError(
            f"--cuda-graph is for one process, and there are {processes}: leave it out, or start "
            "without torchrun"
        )
    if config.compile in ("reduce-overhead", "max-autotune"):
        raise UserError(
            f"--compile {config.compile} makes CUDA graphs of its own; with --cuda-graph take "
            "--compile default or max-autotune-no-cudagraphs"
        )
