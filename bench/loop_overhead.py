"""How much of a training step is the loop's own: data, augmentation, metrics, logging.

    python -m scotoma.bench.loop_overhead [any options of 'scotoma train']

Times epochs of the real training loop against the same number of bare steps (forward, backward,
update) on one fixed batch, in turns, and prints the medians as one JSON line. The difference is the
loop's. Without options it measures ResNet-18 0.3-Bottom at width 64 on random images of CIFAR-10's
shape, batch 128, since the content of the pixels does not matter.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..defective.models import CIFAR10_STATISTICS
from ..train.config import TrainConfig
from ..train.dataset import DataSet, Split
from ..train.distributed import World, choose_device
from ..train.engine import Engine
from ..train.loop import Trainer
from ..train.runfolder import RunFolder
from ..train.screen import Report
from ..train.setup import build_model, resolve
from ..train.stop import StopRequest
from ..train.summary import device_name
from .machine import commit
from .options import run_module

DEFAULTS = ["--defects", "0.3-Bottom", "--width", "64", "--batch-size", "128"]
DEFAULTS += ["--augment", "crop-flip", "--name", "overhead"]
REPEATS = 5


def main(argv: list[str]) -> None:
    from ..train.settings import parse  # imports jsonargparse

    config, _ = parse([*DEFAULTS, *argv])
    device = choose_device(config.device, World())
    print(json.dumps(measure(resolve(config, device), device)))


def measure(config: TrainConfig, device: torch.device, steps: int | None = None) -> dict:
    """Median milliseconds of a step in the loop and of a bare one, and their relative difference.

    Args:
        config: resolved settings. steps: in each timed window; by default 100 on a GPU, else 5.
    """
    steps = steps or (100 if device.type == "cuda" else 5)
    data = random_images(steps * config.batch_size)
    engine = Engine(build_model(config, data), config, device, World())
    # An epoch is one window; there are more than will be run.
    config = replace(config, epochs=10 * REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, data, engine, RunFolder(Path(folder)), World())
        batch = next(iter(trainer.batches.epoch(0, 0, config.batch_size)))
        windows = {
            "bare_step_ms": lambda: bare_steps(engine, batch, steps),
            "loop_step_ms": lambda: one_epoch(trainer),
            "data_step_ms": lambda: data_only(trainer),
        }
        times: dict[str, list[float]] = {name: [] for name in windows}
        for repeat in range(REPEATS + 1):
            for name, run in windows.items():
                elapsed = timed(run, device)
                if repeat:  # the first round warms up
                    times[name].append(1000 * elapsed / steps)
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    share = 1 - medians["bare_step_ms"] / medians["loop_step_ms"]
    return {
        "benchmark": "loop_overhead",
        **medians,
        "loop_share": round(share, 4),
        "arch": config.arch,
        "defects": config.defects,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "steps": steps,
        "repeats": REPEATS,
        "device": device_name(device),
        "torch": torch.__version__,
        "commit": commit(),
    }


def random_images(count: int) -> DataSet:
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
    split = Split(torch.randint(0, 10, (count,)), images)
    classes = tuple("0123456789")
    return DataSet(
        "random", classes, split, split.subset(torch.arange(10)), 32, 3, *CIFAR10_STATISTICS
    )


def bare_steps(engine: Engine, batch, steps: int) -> None:
    for number in range(steps):
        engine.step(batch, number, 0.01, len(batch[1]))


def one_epoch(trainer: Trainer) -> None:
    """The training part of an epoch, as :meth:`Trainer.run` has it."""
    trainer.first_step = 0
    with Report(trainer.config.epochs, trainer.steps) as report:
        trainer.train_epoch(report, StopRequest())


def data_only(trainer: Trainer) -> None:
    for _ in trainer.batches.epoch(0, 0, trainer.config.batch_size):
        pass


def timed(run, device: torch.device) -> float:
    """Seconds, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    run_module("scotoma.bench.loop_overhead", main)
