"""What a call of the fused operator costs the host: checks, dispatch, autograd and launches.

    scotoma bench overhead [options]
    scotoma bench overhead --loop [options of 'scotoma train']

Ours beside eager's operators (batch norm, a product with the mask, addition, ReLU) on the same
tensors, in turns, on one thread. No GPU is needed: our kernels are compiled for one, and Triton's
launch path and our launchers run for real, on CPU tensors, but the driver's launch does nothing.
Tensors are so small that eager's arithmetic, which the CPU does have to do, hardly counts.

Rows of results are appended to a file of JSON lines; a table of microseconds a call follows.

--loop measures how much of a training step is the loop's own: data, augmentation, metrics, logging.
Epochs of the real training loop and the same number of bare steps (forward, backward, update) on
one fixed batch are timed in turns, and the medians printed as one JSON line. Without options that
is ResNet-18 0.3-Bottom at width 64, batch 128, on random images of CIFAR-10's shape, since the
content of the pixels does not matter.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..defective.models import CIFAR10_STATISTICS
from ..kernels import Projection, backends, bn_mask_add_relu
from ..train.config import TrainConfig
from ..train.data import DataSet, Split
from ..train.distributed import World, choose_device, device_name
from ..train.engine import Engine
from ..train.loop import StopRequest, Trainer
from ..train.runfolder import RunFolder
from ..train.screen import Report, make_console, show
from ..train.setup import build_model, resolve
from . import harness
from .harness import compiling_process
from .options import DTYPES, Names, make_parser, positive

FORMS = ("plain", "residual", "projection")
MODES = {
    "train": "batch statistics, gradients of everything",
    "attack": "running statistics, gradients of activations",
    "infer": "running statistics, no gradients",
}
SHAPE = (2, 16, 4, 4)
MOMENTUM, EPS = 0.1, 1e-5
LOOP = ["--defects", "0.3-Bottom", "--width", "64", "--batch-size", "128"]
LOOP += ["--augment", "crop-flip", "--name", "overhead"]
"""Usual options of training where its loop is measured."""
LOOP_ROUNDS = 5


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    if "--loop" in argv and not {"-h", "--help"} & set(argv):
        return loop([word for word in argv if word != "--loop"])
    options = parse(argv)
    status = compiling_process("overhead", argv)
    if status is not None:
        return status
    device = torch.device("cpu")
    path = options.out or harness.default_path(harness.device_name(device), "overhead")
    harness.check_writable(path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = {"arch": options.arch, "rounds": options.rounds, "calls": options.calls}
        head = harness.row_head("overhead", device, settings | {"shape": SHAPE})
        console = make_console()
        console.print(f"kernels for sm_{options.arch}, {options.dtype} -> {path}", highlight=False)
        rows = [head | row for row in measure(options, console)]
    finally:
        torch.set_num_threads(before)
    harness.append_rows(path, rows)
    show(console, table(rows))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("bench overhead", __doc__, {"modes": MODES})
    add = parser.add_argument
    add("--loop", action="store_true", help="the training loop's own share of a step instead")
    some = {"action": Names, "nargs": "+"}
    text = f"of the operator: some of {', '.join(FORMS)} (all)"
    add("--forms", "--variants", **some, known=FORMS, default=FORMS, help=text)
    text = f"some of {', '.join(MODES)} (all)"
    add("--modes", **some, known=MODES, default=tuple(MODES), help=text)
    add("--dtype", choices=DTYPES, default="float32", help="of activations (float32)")
    add("--arch", type=int, default=90, metavar="N", help="compile for this capability (90)")
    add("--rounds", type=positive, default=15, help="timed stretches of each variant (15)")
    add("--calls", type=positive, default=300, help="in one stretch (300)")
    add("--out", type=Path, help="file to append to (bench/results/DEVICE/overhead.jsonl)")
    return parser.parse_args(argv)


class Work(NamedTuple):
    """A call, and the tensors whose gradients its backward pass computes."""

    forward: Callable[[], Tensor]
    inputs: tuple[Tensor, ...]


def works(form: str, mode: str, dtype: torch.dtype) -> dict[str, Work]:
    """Both variants of one form of the operator, on the same tensors."""
    training, parameters = mode == "train", mode == "train"

    def activation() -> Tensor:
        x = torch.randn(SHAPE).to(dtype, memory_format=torch.channels_last)
        return x.requires_grad_(mode != "infer")

    def branch() -> Projection:
        c, h, w = SHAPE[1:]
        affine = [v.requires_grad_(parameters) for v in (torch.ones(c), torch.zeros(c))]
        mask = (torch.rand(h, w, c) < 0.5).permute(2, 0, 1)
        return Projection(activation(), *affine, torch.zeros(c), torch.ones(c), mask)

    main, other, residual = branch(), None, None
    if form == "projection":
        other = branch()
    elif form == "residual":
        residual = activation()
    # Eager multiplies by a mask of the activations' dtype, which spares a conversion in each call.
    factors = [None if b is None else b.mask.to(dtype) for b in (main, other)]

    def ours() -> Tensor:
        return bn_mask_add_relu(
            *main[:5],
            mask=main.mask,
            residual=residual,
            projection=other,
            training=training,
            momentum=MOMENTUM,
            eps=EPS,
            backend="triton",
        )

    def normalised(b: Projection, factor: Tensor) -> Tensor:
        x, weight, bias, mean, var, _ = b
        return F.batch_norm(x, mean, var, weight, bias, training, MOMENTUM, EPS) * factor

    def eager() -> Tensor:
        out = normalised(main, factors[0])
        if residual is not None:
            out = out + residual
        if other is not None:
            out = out + normalised(other, factors[1])
        return torch.relu(out)

    tensors = [t for b in (main, other) if b for t in b[:3]] + [residual]
    inputs = tuple(t for t in tensors if t is not None and t.requires_grad)
    return {"ours": Work(ours, inputs), "eager": Work(eager, inputs)}


def measure(options: argparse.Namespace, console: Console) -> Iterator[dict]:
    """Rows of all forms: one for each variant."""
    forms = list(itertools.product(options.modes, options.forms))
    dtype = getattr(torch, options.dtype)
    with launches_that_do_nothing(options.arch) as gpu:
        for number, (mode, form) in enumerate(forms, 1):
            with (
                console.status(f"{form} {mode} ({number} of {len(forms)})"),
                torch.set_grad_enabled(mode != "infer"),
            ):
                variants = works(form, mode, dtype)
                launches = {n: launches_of(work, gpu) for n, work in variants.items()}
                seconds = harness.interleaved(
                    variants, lambda work: clocked(work, options.calls), options.rounds
                )
            for name, samples in seconds.items():
                yield {
                    "case": f"{form} {mode} {options.dtype}",
                    "variant": form,
                    "mode": mode,
                    "dtype": options.dtype,
                    "contestant": name,
                    "launches": launches[name] if name == "ours" else None,
                    "times": times(samples, options.calls),
                }


@contextmanager
def launches_that_do_nothing(arch: int) -> Iterator:
    """Kernels accept CPU tensors, are compiled for ``arch``, and never run."""
    from .aot.record import claimed_gpu  # imports Triton

    accepted = mock.patch.object(backends, "device_refusal", lambda device: None)
    with claimed_gpu(arch) as gpu, accepted:
        yield gpu


def launches_of(work: Work, gpu) -> dict[str, int]:
    """Launches of one call, forward and backward, once everything is compiled."""
    counts = []
    for _ in range(2):
        start = gpu.launches
        out = work.forward()
        middle = gpu.launches
        if work.inputs:
            torch.autograd.grad(out, work.inputs, torch.ones_like(out))
        counts = [middle - start, gpu.launches - middle]
    return {"forward": counts[0], "backward": counts[1]}


def clocked(work: Work, calls: int) -> tuple[float, float]:
    """Seconds that ``calls`` calls take forward and backward."""
    forward, inputs = work
    grad, clock = torch.autograd.grad, time.perf_counter_ns
    grad_out = torch.ones(SHAPE, dtype=forward().dtype).to(memory_format=torch.channels_last)
    first = second = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(calls):
            start = clock()
            out = forward()
            middle = clock()
            if inputs:
                grad(out, inputs, grad_out)
            del out
            end = clock()
            first += middle - start
            second += end - middle
    finally:
        if collecting:
            gc.enable()
    return first / 1e9, second / 1e9


def times(samples: list[tuple[float, float]], calls: int) -> dict[str, dict[str, float]]:
    """Microseconds of a call by pass: median, quantiles, and the best round."""
    forward, backward = zip(*samples, strict=True)
    passes = {"forward": forward, "backward": backward, "both": [f + b for f, b in samples]}
    return {
        name: harness.spread(found, calls) | {"best_us": round(1e6 * min(found) / calls, 3)}
        for name, found in passes.items()
    }


def table(rows: list[dict]) -> Table:
    """A line for each form: ours, eager's, and how many times longer eager's call takes."""
    view = Table(
        title=f"microseconds a call costs the host, {rows[0]['dtype']}",
        caption="medians, best round in brackets; the driver's launch does nothing",
        title_justify="left",
    )
    view.add_column("form", no_wrap=True)
    passes = "forward", "backward", "both"
    ours, eager = ([f"{side} {name}" for name in passes] for side in ("ours", "eager"))
    for name in (*ours, "launches", *eager, "x"):
        view.add_column(name, justify="right")

    def cells(row: dict) -> list[str]:
        forward, backward, both = (row["times"][name] for name in passes)
        total = f"{both['median_us']:.1f} ({both['best_us']:.1f})"
        if row["mode"] == "infer":
            return ["-", "-", total]
        return [f"{forward['median_us']:.1f}", f"{backward['median_us']:.1f}", total]

    for ours, eager in zip(rows[::2], rows[1::2], strict=True):
        counts = ours["launches"]
        ratio = eager["times"]["both"]["median_us"] / ours["times"]["both"]["median_us"]
        launches = f"{counts['forward']} + {counts['backward']}"
        form = f"{ours['variant']} {ours['mode']}"
        view.add_row(form, *cells(ours), launches, *cells(eager), f"{ratio:.2f}")
    return view


def loop(argv: list[str]) -> int:
    """Measure the training loop's own share of a step, and print it. argv: options of training."""
    from ..train.settings import parse as parse_training  # imports jsonargparse

    config, _ = parse_training([*LOOP, *argv])
    device = choose_device(config.device, World())
    print(json.dumps(measure_loop(resolve(config, device), device)))
    return 0


def measure_loop(config: TrainConfig, device: torch.device) -> dict:
    """Median milliseconds of a step in the loop and of a bare one, and their relative difference.

    config: resolved settings of training.
    """
    steps = 100 if device.type == "cuda" else 5
    data = random_images(steps * config.batch_size)
    engine = Engine(build_model(config, data), config, device, World())
    # An epoch is one window; there are more than will be run.
    config = replace(config, epochs=10 * LOOP_ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, data, engine, RunFolder(Path(folder)), World())
        batch = next(iter(trainer.batches.epoch(0, 0, config.batch_size)))

        def bare_steps() -> None:
            for number in range(steps):
                engine.step(batch, number, 0.01, len(batch[1]))

        def one_epoch() -> None:
            """The training part of an epoch, as :meth:`Trainer.run` has it."""
            trainer.first_step = 0
            with Report(config.epochs, trainer.steps) as report:
                trainer.train_epoch(report, StopRequest())

        def data_only() -> None:
            for _ in trainer.batches.epoch(0, 0, config.batch_size):
                pass

        windows = {"bare_step_ms": bare_steps, "loop_step_ms": one_epoch, "data_step_ms": data_only}
        samples = harness.interleaved(
            windows, lambda work: harness.wall_seconds(work, device), LOOP_ROUNDS
        )
    medians = {
        name: round(1000 * statistics.median(seconds) / steps, 4)
        for name, seconds in samples.items()
    }
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
        "repeats": LOOP_ROUNDS,
        "device": device_name(device),
        "torch": torch.__version__,
        "commit": harness.commit(),
    }


def random_images(count: int) -> DataSet:
    """A data set of ``count`` random images in CIFAR-10's shape."""
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
    split = Split(torch.randint(0, 10, (count,)), images)
    held = split.subset(torch.arange(10))
    return DataSet("random", tuple("0123456789"), split, held, 32, 3, *CIFAR10_STATISTICS)
