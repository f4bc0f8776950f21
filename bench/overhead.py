"""What a call of the fused operator costs the host: checks, dispatch, autograd and launches.

    scotoma bench overhead [options]

Ours beside eager's operators (batch norm, a product with the mask, addition, ReLU) on the same
tensors, in turns, on one thread. No GPU is needed: our kernels are compiled for one, and Triton's
launch path and our launchers run for real, on CPU tensors, but the driver's launch does nothing.
Tensors are so small that eager's arithmetic, which the CPU does have to do, hardly counts.

Rows of results are appended to a file of JSON lines; a table of microseconds a call follows.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..kernels import Projection, backends, bn_mask_add_relu
from ..train.screen import make_console, show
from ..train.settings import HelpFormatter
from . import machine, results, timing
from .options import check_names, compiling_process, positive

VARIANTS = ("plain", "residual", "projection")
MODES = {
    "train": "batch statistics, gradients of everything",
    "attack": "running statistics, gradients of activations",
    "infer": "running statistics, no gradients",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHAPE = (2, 16, 4, 4)
MOMENTUM, EPS = 0.1, 1e-5


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    status = compiling_process("overhead", argv)
    if status is not None:
        return status
    device = torch.device("cpu")
    path = options.out or results.default_path(machine.device_name(device), "overhead")
    results.check_writable(path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = {"arch": options.arch, "rounds": options.rounds, "calls": options.calls}
        head = results.head("overhead", device, settings | {"shape": SHAPE})
        console = make_console()
        console.print(f"kernels for sm_{options.arch}, {options.dtype} -> {path}", highlight=False)
        rows = [head | row for row in measure(options, console)]
    finally:
        torch.set_num_threads(before)
    results.append(path, rows)
    show(console, table(rows))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scotoma bench overhead",
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog="modes:\n" + "\n".join(f"  {name:8} {text}" for name, text in MODES.items()),
    )
    add = parser.add_argument
    add("--variants", nargs="+", metavar="NAME", help=f"some of {', '.join(VARIANTS)} (all)")
    add("--modes", nargs="+", metavar="NAME", help=f"some of {', '.join(MODES)} (all)")
    add("--dtype", choices=DTYPES, default="float32", help="of activations (float32)")
    add("--arch", type=int, default=90, metavar="N", help="compile for this capability (90)")
    add("--rounds", type=positive, default=15, help="timed stretches of each contestant (15)")
    add("--calls", type=positive, default=300, help="in one stretch (300)")
    add("--out", type=Path, help="file to append to (bench/results/DEVICE/overhead.jsonl)")
    options = parser.parse_args(argv)
    options.variants = check_names("variants", options.variants or VARIANTS, VARIANTS)
    options.modes = check_names("modes", options.modes or MODES, MODES)
    return options


class Work(NamedTuple):
    """A call, and the tensors whose gradients its backward pass computes."""

    forward: Callable[[], Tensor]
    inputs: tuple[Tensor, ...]


def works(variant: str, mode: str, dtype: torch.dtype) -> dict[str, Work]:
    """The contestants of one form of the operator, on the same tensors."""
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
    if variant == "projection":
        other = branch()
    elif variant == "residual":
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
    """Rows of all forms: one for each contestant."""
    forms = list(itertools.product(options.modes, options.variants))
    dtype = DTYPES[options.dtype]
    with launches_that_do_nothing(options.arch) as gpu:
        for number, (mode, variant) in enumerate(forms, 1):
            with (
                console.status(f"{variant} {mode} ({number} of {len(forms)})"),
                torch.set_grad_enabled(mode != "infer"),
            ):
                contestants = works(variant, mode, dtype)
                launches = {n: launches_of(work, gpu) for n, work in contestants.items()}
                seconds = timing.interleaved(
                    contestants, lambda work: clocked(work, options.calls), options.rounds
                )
            for name, samples in seconds.items():
                yield {
                    "case": f"{variant} {mode} {options.dtype}",
                    "variant": variant,
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
    passes = {
        "forward": [f for f, _ in samples],
        "backward": [b for _, b in samples],
        "both": [f + b for f, b in samples],
    }
    return {
        name: timing.spread(found, calls) | {"best_us": round(1e6 * min(found) / calls, 3)}
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
    for name in (*(f"ours {p}" for p in passes), "launches", *(f"eager {p}" for p in passes), "x"):
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
        view.add_row(
            f"{ours['variant']} {ours['mode']}",
            *cells(ours),
            launches,
            *cells(eager),
            f"{ratio:.2f}",
        )
    return view
