"""The training loop: epochs, checkpoints, stopping and going on."""

from __future__ import annotations

import math
import platform
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..defective.errors import UserError
from .batches import steps_per_epoch
from .config import TrainConfig
from .datasets import DataSet
from .distributed import World
from .engine import Engine
from .report import Report
from .runfolder import RunFolder
from .schedule import learning_rate
from .setup import make_batches

REPORT_SECONDS = 1.0
"""How often a loss is fetched from the device, for the bar and to notice a broken run."""
AGREE_STEPS = 20
"""How often several ranks ask each other whether one was told to stop."""


class NonFiniteLoss(UserError):
    """Training diverged. The message says where and what to try."""


@dataclass
class Outcome:
    """How a run ended: its summary, or the signal that interrupted it."""

    summary: dict[str, Any] | None
    stopped_by: int | None = None


class StopRequest:
    """Notes Ctrl-C and SIGTERM instead of dying; a second Ctrl-C dies at once."""

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> StopRequest:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class Trainer:
    """Trains one network on one data set, from wherever its run folder says it is.

    The state after every epoch is on disk before the next begins, and batches, augmentation and
    learning rate are functions of (seed, epoch, step). So a run that was killed and resumed ends
    with the same weights as one that never was.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: DataSet,
        engine: Engine,
        folder: RunFolder,
        world: World,
    ):
        self.config, self.data, self.engine = config, data, engine
        self.folder, self.world, self.device = folder, world, engine.device
        self.batches = make_batches(config, data, data.train, self.device, training=True)
        self.evaluated = "val" if data.validation is not None else "test"
        held = data.test if data.validation is None else data.validation
        self.held = make_batches(config, data, held, self.device, training=False)
        self.steps = steps_per_epoch(len(data.train), config.batch_size, world.size)
        if self.steps == 0:
            raise UserError(
                f"{data.name}: {len(data.train)} training images are too few for a step"
            )
        self.epoch = self.first_step = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"epoch": 0, "acc1": -1.0}
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.losses = torch.zeros(self.steps, device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)

    # The loop

    def run(self) -> Outcome:
        """Train to the end, or until a signal. Raises NonFiniteLoss or UserError."""
        state = self.folder.load_state()
        if state is not None:
            self._restore(state)
        total = self.config.epochs * self.steps
        with StopRequest() as stop, Report(self.config.epochs, total, self.world.is_main) as report:
            while self.epoch < self.config.epochs:
                started, first = time.perf_counter(), self.first_step
                if not self._train_epoch(report, stop):
                    self._save_state()
                    return Outcome(None, stop.signal or signal.SIGINT)
                record = self._finish_epoch(time.perf_counter() - started, self.steps - first)
                report.epoch(record, self.evaluated)
        return Outcome(self._summarise())

    def _train_epoch(self, report: Report, stop: StopRequest) -> bool:
        """The rest of this epoch; False if it was interrupted."""
        config, world = self.config, self.world
        count, batch_size = len(self.data.train), config.batch_size
        shown_at, shown_step = time.perf_counter(), self.first_step
        batches = self.batches.epoch(
            config.seed, self.epoch, batch_size, self.first_step, world.rank, world.size
        )
        for step, batch in enumerate(batches, self.first_step):
            number = self.epoch * self.steps + step
            lr = learning_rate(config, number, self.steps)
            global_size = min(batch_size, count - step * batch_size)
            loss, correct = self.engine.step(batch, number, lr, global_size)
            self.losses[step] = loss
            self.correct += correct
            self.first_step = step + 1
            now = time.perf_counter()
            if now - shown_at > REPORT_SECONDS:
                if world.size == 1:  # several ranks have to look at the same step: at the end
                    self._check_losses()
                speed = (step - shown_step) * batch_size / (now - shown_at)
                report.step(self.epoch, number, speed, float(loss) * world.size)
                shown_at, shown_step = now, step
            if self._told_to_stop(stop, step) and self.first_step < self.steps:
                self._check_losses()
                return False
        return True

    def _told_to_stop(self, stop: StopRequest, step: int) -> bool:
        told = stop.signal is not None
        if self.world.size == 1:
            return told
        return step % AGREE_STEPS == 0 and self.world.any(told, self.device)

    def _check_losses(self) -> None:
        """Raise if any loss of this epoch is not finite. Waits for the device."""
        losses = self.world.sum(self.losses[: self.first_step].clone())
        if math.isfinite(float(losses.sum())):
            return
        step = int((~losses.isfinite()).nonzero()[0, 0])
        lr = learning_rate(self.config, self.epoch * self.steps + step, self.steps)
        raise NonFiniteLoss(
            f"the loss is {float(losses[step])} at step {step + 1} of epoch {self.epoch + 1}, "
            f"learning rate {lr:.4g}; try a lower --lr, --clip-norm 1, "
            + ("--precision bfloat16, " if self.config.precision == "float16" else "")
            + f"or a longer --warmup. {self._kept()}"
        )

    def _kept(self) -> str:
        if not self.history:
            return "No epoch was finished, so no checkpoint was written"
        return f"The checkpoint of epoch {len(self.history)} is kept in {self.folder.path}"

    def _finish_epoch(self, seconds: float, steps: int) -> dict[str, Any]:
        """Evaluate, record, save; everything of an epoch but its steps."""
        config, images = self.config, len(self.data.train)
        self._check_losses()
        used = min(images, self.steps * config.batch_size)
        sizes = torch.full_like(self.losses, config.batch_size)
        sizes[-1] = used - (self.steps - 1) * config.batch_size
        totals = torch.stack([(self.losses * sizes).sum().double(), self.correct.double()])
        train_loss, correct = self.world.sum(totals).tolist()
        last_step = (self.epoch + 1) * self.steps - 1
        record = {
            "epoch": self.epoch + 1,
            "lr": learning_rate(config, last_step, self.steps),
            "train/loss": train_loss / used,
            "train/acc1": correct / used,
            "epoch_s": seconds,
            "img_per_s": steps * config.batch_size / seconds,
        }
        loss, accuracy = self._evaluate(self.held)
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the {self.evaluated} loss is {loss} after epoch {self.epoch + 1}, learning rate "
                f"{record['lr']:.4g}: the weights diverged; try a lower --lr or --clip-norm 1. "
                + self._kept()
            )
        record |= {f"{self.evaluated}/loss": loss, f"{self.evaluated}/acc1": accuracy}
        self.history.append(record)
        improved = accuracy > self.best["acc1"]
        if improved:
            self.best = {"epoch": self.epoch + 1, "acc1": accuracy, "on": self.evaluated}
        self.epoch, self.first_step = self.epoch + 1, 0
        self._start_epoch()
        if self.world.is_main:
            details = {"dataset": self.data.name, "classes": list(self.data.classes), **record}
            if improved:
                self.folder.save_model("best.safetensors", self.engine.result, details)
            self.folder.save_model("last.safetensors", self.engine.result, details)
            self.folder.write_history(self.history, self.config.name)
            self.folder.write_events(record)
        self._save_state()
        return record

    def _evaluate(self, batches) -> tuple[float, float]:
        size = max(self.config.batch_size, 250)
        return self.engine.evaluate(batches.in_order(size, self.world.rank, self.world.size))

    # Saving and going on

    def _save_state(self) -> None:
        """Everything that :meth:`_restore` needs; partial sums count when an epoch is cut."""
        losses = self.world.sum(self.losses.clone())
        correct = self.world.sum(self.correct.clone())
        if self.world.is_main:
            self.folder.save_state(
                {
                    "engine": self.engine.state_dict(),
                    "epoch": self.epoch,
                    "step": self.first_step,
                    "losses": losses,
                    "correct": correct,
                    "history": self.history,
                    "best": self.best,
                }
            )
        self.world.barrier()

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.engine.load_state_dict(state["engine"])
            self.epoch, self.first_step = state["epoch"], state["step"]
            self.history, self.best = state["history"], state["best"]
            if self.world.is_main:  # the sums are of all ranks
                self.losses.copy_(state["losses"])
                self.correct.copy_(state["correct"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.folder.path}: the saved state does not fit this run's settings "
                f"({str(error).splitlines()[0]}); was its config.yaml edited?"
            ) from None

    def _summarise(self) -> dict[str, Any]:
        """The run's result: the last epoch, and the best as a labelled extra (spec 7.17)."""
        last, config = self.history[-1], self.config
        test_loss, test_accuracy = last.get("test/loss"), last.get("test/acc1")
        if self.data.validation is not None:
            test = make_batches(config, self.data, self.data.test, self.device, training=False)
            test_loss, test_accuracy = self._evaluate(test)
        speeds = sorted(record["img_per_s"] for record in self.history)
        summary = {
            "name": config.name,
            "dataset": self.data.name,
            "arch": config.arch,
            "defects": config.defects,
            "recipe": config.recipe,
            "seed": config.seed,
            "parameters": sum(p.numel() for p in self.engine.model.parameters()),
            "train_images": len(self.data.train),
            "test_images": len(self.data.test),
            "epochs": len(self.history),
            "test/loss": test_loss,
            "test/acc1": test_accuracy,
            "best": self.best,
            "train/acc1": last["train/acc1"],
            "train_s": sum(record["epoch_s"] for record in self.history),
            "img_per_s_median": speeds[len(speeds) // 2],
            "precision": config.precision,
            "device": device_name(self.device),
            "processes": self.world.size,
            "versions": {
                "scotoma": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "checkpoint": "last.safetensors",
        }
        if self.world.is_main:
            self.folder.write_summary(summary)
            self.folder.close()
        return summary


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def resume_hint(path: Path) -> str:
    return f"scotoma train --resume {path}"
