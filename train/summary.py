"""The result of a run in one mapping: what summary.json holds."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch

from .. import __version__
from ..defective.errors import counted
from ..defective.models.base import Network
from .config import TrainConfig
from .dataset import DataSet


def summarise(
    config: TrainConfig,
    data: DataSet,
    model: Network,
    history: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    test_loss: float,
    test_accuracy: float,
    *,
    test_robust_accuracy: float | None = None,
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    """The last epoch is the result; the best is a labelled extra.

    Args:
        history: the lines of metrics.jsonl. best: epoch, accuracy and what it was chosen on.
        test_loss, test_accuracy: of the last epoch's weights; accuracies are fractions.
        test_robust_accuracy: under the attack of adversarial training, or None without one.
    """
    return {
        "name": config.name,
        "dataset": data.name,
        "arch": config.arch,
        "defects": config.defects,
        "recipe": config.recipe,
        "seed": config.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_images": len(data.train),
        "test_images": len(data.test),
        "epochs": len(history),
        "test/loss": test_loss,
        "test/acc1": test_accuracy,
        **({} if test_robust_accuracy is None else {"test/robust_acc1": test_robust_accuracy}),
        "best": best,
        "train/acc1": history[-1]["train/acc1"],
        "train_s": sum(record["epoch_s"] for record in history),
        "img_per_s_median": median(record["img_per_s"] for record in history),
        "precision": config.precision,
        "device": device_name(device),
        "processes": processes,
        "versions": {
            "scotoma": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "checkpoint": "last.safetensors",
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {counted(torch.get_num_threads(), 'thread')}"
