"""What all measurements ask on the command line, and how they end."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import torch

from ..defective.errors import UserError, lacking, nearest

UNFINISHED, INTERRUPTED = 75, 130
INTERPRETER = "TRITON_INTERPRET"


def run_module(name: str, main: Callable[[list[str]], int]) -> None:
    """Run a measurement as ``python -m``, with errors for people."""
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError):
            error = lacking(error)
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def compiling_process(verb: str, argv: list[str]) -> int | None:
    """Run ``scotoma bench VERB`` in a process in which Triton compiles: its exit status, or None if
    this one will do.

    Under the interpreter @triton.jit makes functions that cannot be compiled, from the moment that
    Triton is imported.

    Raises:
        UserError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise UserError(
            "Triton is not installed, and this compiles its kernels; on Linux: pip install triton"
        )
    if INTERPRETER not in os.environ:
        return None
    environment = {k: v for k, v in os.environ.items() if k != INTERPRETER}
    command = [sys.executable, "-m", "scotoma.train.cli", "bench", verb, *argv]
    return subprocess.run(command, env=environment).returncode


def chosen_device(cpu: bool) -> torch.device:
    """The first GPU, or the CPU if asked for.

    Raises:
        UserError: there is no GPU.
    """
    if cpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("no NVIDIA GPU on this machine; --cpu measures small shapes on the CPU")
    return torch.device("cuda", 0)


def check_names(option: str, names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Names without repetition.

    Raises:
        UserError: a name is not among the known ones.
    """
    known = tuple(known)
    for name in names:
        if name not in known:
            raise UserError(
                f"{option} has {name!r}; expected some of {', '.join(known)}.{nearest(name, known)}"
            )
    return tuple(dict.fromkeys(names))


def add_run_options(parser: argparse.ArgumentParser, benchmark: str, budget: int) -> None:
    """What every measurement of many cases asks. budget: seconds, by default."""
    add = parser.add_argument
    add(
        "--budget-seconds",
        type=positive,
        default=budget,
        help=f"start no case that would end later ({budget})",
    )
    add("--out", type=Path, help=f"file to append to (bench/results/DEVICE/{benchmark}.jsonl)")
    add_resume(parser)
    add("--cpu", action="store_true", help="small shapes on the CPU: a test of this command")
    add("--list", action="store_true", help="print the cases and stop")


def add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        action="store_true",
        help="leave out cases that the file has from the same machine, commit and settings; the "
        f"exit status is {UNFINISHED} as long as some are left",
    )


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


@contextmanager
def terminated_like_interrupted():
    """A polite end of the process (as by 'timeout') still prints what was measured."""

    def stop(number, frame):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
