"""One training run against the clock; compilation and evaluation are not on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

import torch

from ...defective.graph import WARM_UP
from ...train.batches import steps_per_epoch
from ...train.config import TrainConfig
from ...train.dataset import DataSet
from ...train.distributed import World
from ...train.engine import Engine
from ...train.schedule import learning_rate
from ...train.setup import build_model, make_batches
from .. import harness
from ..step.ways import WAYS


@dataclass(frozen=True)
class Run:
    """One contestant with one seed."""

    contestant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.contestant} seed {self.seed}"


def configured(config: TrainConfig, run: Run) -> TrainConfig:
    """The settings of a run: its seed, and how its contestant computes."""
    way = WAYS[run.contestant]
    return replace(
        config,
        seed=run.seed,
        mask_seed=run.seed,
        backend=way.backend,
        compile=way.compile,
        cuda_graph=way.graph,
    )


def measure_run(
    run: Run,
    config: TrainConfig,
    data: DataSet,
    device: torch.device,
    target: float,
    show: Callable[[str], None] = lambda text: None,
) -> dict:
    """Train to the end and evaluate after every epoch.

    Args:
        run: what. config: resolved settings of all runs. data: what to train on.
        target: accuracy to reach, a fraction. show: told what happens, for people.

    Returns:
        The row: training seconds until the first epoch that ended at ``target`` or above (None if
        none did), and of the whole run; the accuracy after each epoch.
    """
    config = configured(config, run)
    torch.compiler.reset()
    start = time.perf_counter()
    engine = Engine(build_model(config, data), config, device, World())
    batches = make_batches(config, data, data.train, device, training=True)
    held = make_batches(config, data, data.test, device, training=False)
    steps = steps_per_epoch(len(data.train), config.batch_size)
    _prepare(engine, batches, held, config)
    prepared = _now(device) - start
    history, seconds = [], 0.0
    for epoch in range(config.epochs):
        engine.model.train()
        start = _now(device)
        for step, batch in enumerate(batches.epoch(config.seed, epoch, config.batch_size)):
            number = epoch * steps + step
            engine.step(batch, number, learning_rate(config, number, steps), len(batch[1]))
        seconds += _now(device) - start
        loss, accuracy = engine.evaluate(held.in_order(max(config.batch_size, 250)))
        entry = {"epoch": epoch + 1, "seconds": round(seconds, 4), "accuracy": accuracy}
        history.append(entry | {"loss": loss if math.isfinite(loss) else None})
        show(f"{run}: epoch {epoch + 1}/{config.epochs}, {accuracy:.2%} after {seconds:.1f} s")
        if not math.isfinite(loss):
            break
    reached = next((entry for entry in history if entry["accuracy"] >= target), None)
    return {
        "arch": config.arch,
        "defects": config.defects,
        "dataset": data.name,
        "seed": run.seed,
        "contestant": run.contestant,
        "target": target,
        "seconds_to_target": reached and reached["seconds"],
        "epochs_to_target": reached and reached["epoch"],
        "train_s": round(seconds, 4),
        "prepare_s": round(prepared, 3),
        "epochs": config.epochs,
        "accuracy": history[-1]["accuracy"],
        "history": history,
        "clocks": harness.clocks(device),
        "problems": [] if math.isfinite(loss) else ["training diverged"],
    }


def _prepare(engine: Engine, batches, held, config: TrainConfig) -> None:
    """Everything that is done once, then the initial weights again.

    Written back in place: a CUDA graph goes on using the same memory.
    """
    tensors = engine.model.state_dict()
    before = {name: value.clone() for name, value in tensors.items()}
    size = config.batch_size
    last = steps_per_epoch(len(batches), size) - 1
    for batch in islice(batches.epoch(config.seed, 0, size), WARM_UP + 2):
        engine.step(batch, 0, config.lr, len(batch[1]))
    for batch in batches.epoch(config.seed, 0, size, last):  # which may be a smaller one
        engine.step(batch, 0, config.lr, len(batch[1]))
    engine.evaluate(held.in_order(max(size, 250)))
    with torch.no_grad():
        for name, value in tensors.items():
            value.copy_(before[name])
        for state in engine.optimizer.state.values():
            if "momentum_buffer" in state:
                state["momentum_buffer"].zero_()
        if engine.average is not None:
            engine.average.steps = 0  # the next update copies the weights


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
