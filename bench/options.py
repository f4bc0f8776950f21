"""What all measurements ask on the command line, and how they end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager

import torch

from ..defective.errors import UserError, nearest

INTERRUPTED = 130


def run_module(name: str, main: Callable[[list[str]], int]) -> None:
    """Run a measurement as ``python -m``, with errors for people."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


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
