"""The training loop: epochs, checkpoints, stopping and going on."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from ..defective.errors import RankError, UserError
from .config import TrainConfig, deciding, differing, learning_rate
from .data import DataSet, Split, steps_per_epoch
from .distributed import World, device_name
from .engine import Engine
from .plots import draw_curves
from .runfolder import CONFIG, STATE, WEIGHTS, RunFolder
from .screen import Report
from .setup import make_batches
from .store import versions


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


REPORT_SECONDS = 1.0
"""How often a loss is fetched from the device, for the bar and to notice a broken run."""
LEAST_SCALE = 1e-4
"""Of the gradient scaler: it begins with 65536, and halves in each step without an update."""
AGREE_STEPS = 50
"""How often several ranks look at their losses together, and ask whether one was told to stop."""


class NonFiniteLoss(UserError):
    """Training diverged. The message says where and what to try."""


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        summary: of a finished run; None if it was interrupted. stopped_by: the signal that told it
            to stop. Both, if the signal came after the last step, when little was left to do.
    """

    summary: dict[str, Any] | None
    stopped_by: int | None = None


class Trainer:
    """Trains one network on one data set, from wherever its run folder says it is.

    Batches, augmentation and learning rate are functions of (seed, epoch, step), so a run that was
    killed and resumed from an earlier state ends with the same weights as one that never was.

    Args:
        moved: settings that may be others than the run folder's state was saved under, beside the
            free ones.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: DataSet,
        engine: Engine,
        folder: RunFolder,
        world: World,
        moved: Collection[str] = (),
    ):
        self.config, self.data, self.engine, self.moved = config, data, engine, moved
        self.folder, self.world, self.device = folder, world, engine.device
        self.batches = make_batches(config, data, data.train, self.device, training=True)
        self.evaluated = "val" if data.validation is not None else "test"
        held = data.test if data.validation is None else data.validation
        self.held = self._held(held)
        self.attacked = self._attacked(held)
        self.steps = steps_per_epoch(len(data.train), config.batch_size, world.size)
        if self.steps == 0 or config.batch_size < 2 * world.size:
            raise UserError(
                f"{data.name}: {len(data.train)} training images and --batch-size "
                f"{config.batch_size} are too few: each of {world.size} processes needs two images "
                "in a step"
            )
        self.epoch = self.first_step = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"epoch": 0, "acc1": -1.0}
        self._unsaved_best: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None
        self._saved_at, self._saved_epoch = -math.inf, 0
        self._start_epoch()

    def _held(self, split: Split):
        """Batches to evaluate on."""
        return make_batches(self.config, self.data, split, self.device, training=False)

    def _attacked(self, split: Split):
        """Batches on which robust accuracy is measured, or None."""
        config = self.config
        if config.adversarial_eps == 0 or config.adversarial_test_images == 0:
            return None
        return self._held(split.sample(config.adversarial_test_images, config.seed))

    def _start_epoch(self) -> None:
        self.losses = torch.zeros(self.steps, device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.seconds = 0.0
        self.engine.skipped.zero_()

    # The loop

    def run(self, stop: StopRequest | None = None) -> Outcome:
        """Train to the end, or until a signal.

        Args:
            stop: notes the signal; somebody else's tells them of it even if there is an error.

        Raises:
            UserError: files that cannot be read or written. NonFiniteLoss: training diverged.
        """
        config, main = self.config, self.world.is_main
        state = self.world.from_main(self.folder.load_state)
        if state is not None:
            self._restore(state)
            if any(state["settings"].get(name) != getattr(config, name) for name in self.moved):
                self._save_state()  # under the new ones, so that the folder alone is enough
        if main and self.epoch < config.epochs:
            self.folder.withdraw_summary()  # or it would stand beside weights of a few epochs
        total = config.epochs * self.steps
        with stop or StopRequest() as stop, Report(config.epochs, total, main) as report:
            while self.epoch < config.epochs:
                if self._told_to_stop(stop) or not self._train_or_save(report, stop):
                    self._save_state()
                    return Outcome(None, stop.signal or signal.SIGINT)
                report.epoch(self._finish_epoch(), self.evaluated)
            # Of a run that was finished before somebody may have taken the weights away.
            lost = main and not (self.folder.path / WEIGHTS).is_file()
            if self.world.any(lost, self.device):
                self._save_state()
            return Outcome(self._finish(), stop.signal)

    def _finish(self) -> dict[str, Any]:
        """Write and return the summary: the last epoch is the result, the best a labelled extra.

        With validation, this is where the test set is used.
        """
        config, data, last = self.config, self.data, self.history[-1]
        test = last.get("test/loss"), last.get("test/acc1")
        robust = last.get("test/robust_acc1")
        if data.validation is not None:
            test = self._evaluate(self._held(data.test))
            attacked = self._attacked(data.test)
            robust = None if attacked is None else self._robust(attacked)
        summary = {
            "name": config.name,
            "dataset": data.name,
            **{key: getattr(config, key) for key in ("arch", "defects", "recipe", "seed")},
            "parameters": sum(p.numel() for p in self.engine.model.parameters()),
            "train_images": len(data.train),
            "test_images": len(data.test),
            "epochs": len(self.history),
            "test/loss": test[0],
            "test/acc1": test[1],
            **({} if robust is None else {"test/robust_acc1": robust}),
            "best": self.best,
            "train/acc1": last["train/acc1"],
            "train_s": sum(record["epoch_s"] for record in self.history),
            "img_per_s_median": median(record["img_per_s"] for record in self.history),
            "precision": config.precision,
            "device": device_name(self.device),
            "processes": self.world.size,
            "versions": versions(),
            "checkpoint": WEIGHTS,
        }
        if self.world.is_main:
            self.folder.write_summary(summary)
        return summary

    def _train_or_save(self, report: Report, stop: StopRequest) -> bool:
        """:meth:`train_epoch`; a file or a worker that ends it between two steps loses none."""
        try:
            return self.train_epoch(report, stop)
        except RankError as error:
            if self.world.size > 1:
                raise  # the others are in the middle of a step
            self._check_losses()
            self._save_state()
            raise RankError(
                f"{error}. All steps before are saved; 'workers' may be changed in "
                f"{self.folder.path / CONFIG}. Continue with: "
                f"{self.world.command(self.folder.path)}"
            ) from None

    def train_epoch(self, report: Report, stop: StopRequest) -> bool:
        """The rest of this epoch; False if it was interrupted. Waits for the device at the end."""
        config, world = self.config, self.world
        count, batch_size = len(self.data.train), config.batch_size
        self.engine.model.train()
        started = shown_at = time.perf_counter()
        shown_step, cut = self.first_step, False
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
            if world.is_main and now - shown_at > REPORT_SECONDS:
                speed = (step - shown_step) * batch_size / (now - shown_at)
                report.step(self.epoch, number, speed, float(loss) * world.size)
                shown_at, shown_step = now, step
                if world.size == 1:
                    self._check_losses()
            if world.size > 1 and number % AGREE_STEPS == 0:
                self._check_losses()
            if world.size == 1 or number % AGREE_STEPS == 0:
                cut = self.first_step < self.steps and self._told_to_stop(stop)
                if cut:
                    break
        self._check_losses()
        self.seconds += time.perf_counter() - started
        return not cut

    def _told_to_stop(self, stop: StopRequest) -> bool:
        """Whether any rank was; all ranks ask at the same steps."""
        return self.world.any(stop.signal is not None, self.device)

    def _check_losses(self) -> None:
        """Raise if any loss of this epoch is not finite. Waits for the device."""
        losses = self.world.sum(self.losses[: self.first_step].clone())
        if math.isfinite(float(losses.sum())):
            self._check_scale()
            return
        step = int((~losses.isfinite()).nonzero()[0, 0])
        lr = learning_rate(self.config, self.epoch * self.steps + step, self.steps)
        raise NonFiniteLoss(
            f"the loss is {float(losses[step])} at step {step + 1} of epoch {self.epoch + 1}, "
            f"learning rate {lr:.4g}; try a lower --lr, --clip-norm 1, "
            + ("--precision bfloat16, " if self.config.precision == "float16" else "")
            + f"or a longer --warmup. {self._kept()}"
        )

    def _check_scale(self) -> None:
        """Raise if gradients in float16 overflow at any scale. Waits for the device."""
        scaler = self.engine.scaler
        if not scaler.is_enabled() or scaler.get_scale() > LEAST_SCALE:
            return
        raise NonFiniteLoss(
            f"gradients in float16 overflow in every step (epoch {self.epoch + 1}, step "
            f"{self.first_step}; the gradient scaler is at {scaler.get_scale():.2g}), and nothing "
            "is learnt; try --precision bfloat16 or float32, a lower --lr or --clip-norm 1. "
            + self._kept()
        )

    def _kept(self) -> str:
        if self._saved_epoch == 0:
            return "No epoch was finished, so no checkpoint was written"
        return f"The checkpoint of epoch {self._saved_epoch} is kept in {self.folder.path}"

    def _finish_epoch(self) -> dict[str, Any]:
        """Evaluate, record, save; everything of an epoch but its steps."""
        config, images = self.config, len(self.data.train)
        if not self.data.resident:
            self._save_state()  # a long epoch is not to be lost to a bad file among the held-out
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
            "epoch_s": self.seconds,
            "img_per_s": used / self.seconds,
        }
        if self.engine.scaler.is_enabled():
            record["skipped_steps"] = int(self.engine.skipped)
        loss, accuracy = self._evaluate(self.held)
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the {self.evaluated} loss is {loss} after epoch {self.epoch + 1}, learning rate "
                f"{record['lr']:.4g}: the weights diverged; try a lower --lr or --clip-norm 1. "
                + self._kept()
            )
        record |= {f"{self.evaluated}/loss": loss, f"{self.evaluated}/acc1": accuracy}
        if self.attacked is not None:
            record[f"{self.evaluated}/robust_acc1"] = self._robust(self.attacked)
        self.history.append(record)
        improved = accuracy > self.best["acc1"]
        if improved:
            self.best = {"epoch": self.epoch + 1, "acc1": accuracy, "on": self.evaluated}
        self.epoch, self.first_step = self.epoch + 1, 0
        self._start_epoch()
        if self.world.is_main:
            self._keep(record, improved)
        # A killed run repeats the epochs since its last state, with the same result.
        due = time.perf_counter() - self._saved_at >= config.save_seconds
        if self.world.any(due, self.device) or self.epoch == config.epochs:
            self._save_state()
        return record

    def _keep(self, record: dict[str, Any], improved: bool) -> None:
        """Write this epoch's line at once; its weights wait in memory for :meth:`_save_state`."""
        if improved:
            tensors = {k: v.clone() for k, v in self.engine.result.state_dict().items()}
            self._unsaved_best = tensors, self._details(record)
        self.folder.write_metrics(self.history)
        self.folder.write_events(record)

    def _details(self, record: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint says of itself, beside the network."""
        data = {"dataset": self.data.name, "classes": list(self.data.classes)}
        taken = {} if self.data.test_share is None else {"test_share": self.data.test_share}
        run = {name: getattr(self.config, name) for name in ("recipe", "seed", "precision")}
        return data | taken | run | record | {"best_epoch": self.best["epoch"]}

    def _evaluate(self, batches) -> tuple[float, float]:
        return self.engine.evaluate(self._in_order(batches))

    def _robust(self, batches) -> float:
        return self.engine.robust_accuracy(self._in_order(batches))

    def _in_order(self, batches):
        size = max(self.config.batch_size, 250)
        return batches.in_order(size, self.world.rank, self.world.size)

    # Saving and going on

    def _save_state(self) -> None:
        """Weights and curves for people, and everything that :meth:`_restore` needs.

        The state comes last: whatever is older than it is made again after a crash. Partial sums
        count when an epoch is cut.
        """
        losses = self.world.sum(self.losses.clone())
        correct = self.world.sum(self.correct.clone())
        if self.world.is_main:
            spec = self.engine.model.spec
            if self._unsaved_best is not None:
                self.folder.save_model("best.safetensors", spec, *self._unsaved_best)
                self._unsaved_best = None
            if self.history and self.first_step == 0:
                tensors, details = self.engine.result.state_dict(), self._details(self.history[-1])
                self.folder.save_model(WEIGHTS, spec, tensors, details)
                figure = draw_curves(self.history, self.config, self.steps, self.data.name)
                self.folder.write_curves(figure, self.config.picture_format)
            self.folder.save_state(
                {
                    "settings": deciding(self.config),  # a state goes on under the same ones only
                    "classes": list(self.data.classes),
                    "engine": self.engine.state_dict(),
                    "epoch": self.epoch,
                    "step": self.first_step,
                    "losses": losses,
                    "correct": correct,
                    "skipped": int(self.engine.skipped),
                    "seconds": self.seconds,
                    "history": self.history,
                    "best": self.best,
                }
            )
        self._saved_at, self._saved_epoch = time.perf_counter(), self.epoch
        self.world.barrier()

    def _restore(self, state: dict[str, Any]) -> None:
        where = self.folder.path / STATE
        try:
            # A setting that an older version did not have was what is the default now.
            saved, now = deciding(TrainConfig()) | state["settings"], deciding(self.config)
            key = differing(saved, now, self.moved)
            if key is not None:
                raise UserError(
                    f"{where}: saved under {key} = {saved.get(key)!r}, but config.yaml says "
                    f"{now.get(key)!r}; change it back, or start a new run"
                )
            self.data.check_names(state.get("classes"), where)
            self.engine.load_state_dict(state["engine"])
            self.epoch, self.first_step = int(state["epoch"]), int(state["step"])
            self.history, self.best = list(state["history"]), dict(state["best"])
            self.seconds = float(state["seconds"])
            self.engine.skipped.fill_(int(state.get("skipped", 0)))
            self._check_history()
            if not (0 <= self.first_step <= self.steps and len(self.history) == self.epoch):
                raise ValueError(f"step {self.first_step} of epoch {self.epoch}")
            if state["losses"].shape != self.losses.shape:
                raise ValueError(f"{len(state['losses'])} losses of {self.steps} steps")
            self._saved_epoch = self.epoch
            if self.world.is_main:  # the sums are of all ranks
                self.losses.copy_(state["losses"])
                self.correct.copy_(state["correct"])
        except UserError:
            raise
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{where}: damaged, or of another version ({reason})") from None

    def _check_history(self) -> None:
        """Raises ValueError, LookupError or TypeError if it is not one of this run."""
        held = (f"{self.evaluated}/loss", f"{self.evaluated}/acc1")
        keys = ("lr", "train/loss", "train/acc1", *held, "epoch_s", "img_per_s")
        for number, record in enumerate(self.history, 1):
            if record["epoch"] != number or not all(math.isfinite(record[key]) for key in keys):
                raise ValueError(f"line {number} of the history")
        if not (0 <= self.best["epoch"] <= self.epoch and -1 <= self.best["acc1"] <= 1):
            raise ValueError("best epoch")
