"""Whether a run's settings allow CUDA graphs of its steps."""

from __future__ import annotations

import torch

from ..defective.errors import UserError
from .config import TrainConfig


def graph_refusal(
    config: TrainConfig, device: torch.device, processes: int
) -> tuple[str, str] | None:
    """Why a step of these settings cannot be a CUDA graph, and what to do; None if it can."""
    if device.type != "cuda":
        return f"it needs an NVIDIA GPU, and the device is {device}", "leave it out"
    if processes > 1:
        return (
            f"it is for one process, and there are {processes}",
            "leave it out, or start without torchrun",
        )
    if config.compile in ("reduce-overhead", "max-autotune"):
        return (
            f"--compile {config.compile} makes graphs of its own",
            "leave it out, or take --compile default or max-autotune-no-cudagraphs",
        )
    return None


def check_graph(config: TrainConfig, device: torch.device, processes: int) -> None:
    """Whether these settings allow ``--cuda-graph``, if they ask for it.

    Raises:
        UserError: they do not; says which to change.
    """
    refusal = graph_refusal(config, device, processes)
    if config.cuda_graph and refusal is not None:
        raise UserError("--cuda-graph: " + "; ".join(refusal))


def graph_line(config: TrainConfig, device: torch.device, processes: int) -> str:
    """How steps are launched, for people, of resolved settings; empty where there is no GPU."""
    if device.type != "cuda":
        return ""
    if config.cuda_graph:
        return "each step is one CUDA graph"
    refusal = graph_refusal(config, device, processes)
    return f"no CUDA graph: {'it is switched off' if refusal is None else refusal[0]}"
