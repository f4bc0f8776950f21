"""What a person sees of a run: a header, one line an epoch, a live bar on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .messages import make_console


class Report:
    """Prints on rank 0 and is silent on the others.

    The bar shows images/s, the loss and the time left, and only on a terminal; a pipe or a log
    file gets the header and one plain line an epoch.
    """

    def __init__(self, total_epochs: int, total_steps: int, enabled: bool = True):
        self.console = make_console(quiet=not enabled)
        self.total_epochs = total_epochs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (enabled and self.console.is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task("", total=total_steps, status="")
        self._columns: list[str] = []

    def __enter__(self) -> Report:
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def step(self, epoch: int, step: int, speed: float, loss: float) -> None:
        """``step`` counts from the start of the run, ``speed`` is in images/s."""
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {epoch + 1}/{self.total_epochs}",
            status=f"{speed:.0f} img/s  loss {loss:.3f}",
        )

    def epoch(self, record: Mapping[str, Any], evaluated: str) -> None:
        total = str(self.total_epochs)
        cells = {
            "epoch": f"{record['epoch']:>{len(total)}}/{total}",
            "lr": f"{record['lr']:.4f}",
            "train loss": f"{record['train/loss']:.4f}",
            "train %": f"{100 * record['train/acc1']:.2f}",
            f"{evaluated} loss": f"{record[f'{evaluated}/loss']:.4f}",
            f"{evaluated} %": f"{100 * record[f'{evaluated}/acc1']:.2f}",
            **self._robust(record, evaluated),
            **({"skipped": f"{record['skipped_steps']}"} if "skipped_steps" in record else {}),
            "img/s": f"{record['img_per_s']:.0f}",
            "sec": f"{record['epoch_s']:.1f}",
        }
        if not self._columns:
            self._columns = [f"{name:>{max(len(name), len(cell))}}" for name, cell in cells.items()]
            self.line("  ".join(self._columns))
        widths = map(len, self._columns)
        self.line("  ".join(f"{c:>{w}}" for c, w in zip(cells.values(), widths, strict=True)))

    def _robust(self, record: Mapping[str, Any], evaluated: str) -> dict[str, str]:
        """The column of adversarial training."""
        accuracy = record.get(f"{evaluated}/robust_acc1")
        return {} if accuracy is None else {"robust %": f"{100 * accuracy:.2f}"}
