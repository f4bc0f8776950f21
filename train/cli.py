"""The ``scotoma`` command: finds a verb by name and hands over.

Verbs are imported only when they are used, so that ``scotoma train --help`` loads no attack and
no benchmark. Bad input ends in one line on stderr and status 2.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from ..defective.errors import RankError, Terminated, UserError, lacking, nearest

VERBS = {
    "train": ("scotoma.train.run", "train a network and leave a run folder"),
    "models": ("scotoma.train.inspect:models", "list the architectures, their sizes and sites"),
    "info": ("scotoma.train.inspect:info", "describe a checkpoint"),
    "masks": ("scotoma.train.inspect:masks", "draw the masks of a network or a checkpoint"),
    "attack": ("scotoma.train.robustness.attack", "make adversarial images from networks"),
    "evaluate": ("scotoma.train.robustness.evaluate", "measure how robust networks are"),
    "paper": ("scotoma.bench.paper.cli", "make the paper's tables and figures"),
    "doctor": ("scotoma.bench.doctor.cli", "say what works here, and how to mend the rest"),
    "profile": ("scotoma.bench.profiling.cli", "show where a step's time goes"),
    "bench": ("scotoma.bench.cli", "measure: layers, whole steps, and more"),
}

BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    if argv is None:
        argv = sys.argv[1:]
        _own_process(argv[:1] == ["train"])
    try:
        return _run(argv)
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where an error is still one line


class _Output(io.FileIO):
    """Standard output that may go away: a pipe's reader ends, or a disk is full.

    Training goes on without it; any other command has nobody to work for.
    """

    goes_on = False

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for what buffers still hold
            os.close(null)
            broken = isinstance(error, BrokenPipeError)
            if not broken:
                then = "; training goes on" if self.goes_on else ""
                line = f"scotoma: error: cannot write the output: {error.strerror}{then}"
                print(line, file=sys.stderr)
            if self.goes_on:
                return len(data)
            raise SystemExit(128 + signal.SIGPIPE if broken else BAD_INPUT) from None


def _own_process(training: bool) -> None:
    """What a process may set that is nobody else's."""
    os.environ["MPLBACKEND"] = "agg"  # pictures are files; a notebook's backend is not there
    # Said wherever a toolkit is installed and no GPU is.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    if sys.stdout is not None:
        output = _Output(sys.stdout.fileno(), "w", closefd=False)
        output.goes_on = training
        # Names of files need not be text in this locale, or in any.
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(output),
            sys.stdout.encoding,
            "backslashreplace",
            line_buffering=sys.stdout.line_buffering,
            write_through=sys.stdout.write_through,
        )


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from .. import __version__

        print(f"scotoma {__version__}")
        return 0
    verb, rest = argv[0], argv[1:]
    try:
        for text in argv:
            _check_text(text)
        if verb not in VERBS:
            raise UserError(
                f"unknown command {verb!r}; expected one of {', '.join(VERBS)}."
                f"{nearest(verb, VERBS)}"
            )
        module, _, function = VERBS[verb][0].partition(":")
        # Training has handlers of its own, and saves.
        with nullcontext() if verb == "train" else _termination_as_interrupt():
            return getattr(importlib.import_module(module), function or "main")(rest) or 0
    except (UserError, OSError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError):
            error = lacking(error)
        # Under torchrun what is wrong for all is said once; a RankError is one rank's own.
        if os.environ.get("RANK", "0") == "0" or isinstance(error, RankError):
            print(f"scotoma {verb}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except Terminated:
        print(f"scotoma {verb}: terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print(f"scotoma {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Stop at SIGTERM as at Ctrl-C: at once, since what is finished is in files."""

    def stop(_number, _frame) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # others may not set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_text(text: str) -> None:
    """Refuse what TensorBoard and safetensors, who want UTF-8, would look for under another name.

    Raises:
        UserError: the locale is not UTF-8, or the bytes of ``text`` are not.
    """
    try:
        if os.fsencode(text) == text.encode():
            return
    except UnicodeEncodeError:
        pass
    raise UserError(
        f"{text!a} is not text in UTF-8, which names of files have to be; use another name, or "
        f"set LC_ALL=C.UTF-8 (this locale has {sys.getfilesystemencoding()})"
    )


def _usage() -> str:
    verbs = "\n".join(f"  {name:8} {text}" for name, (_, text) in VERBS.items())
    return (
        "usage: scotoma COMMAND [options]\n\n"
        "Train defective convolutional networks, and measure how robust they are.\n\n"
        f"{verbs}\n\n"
        "'scotoma COMMAND --help' explains a command. Start with: scotoma train"
    )


if __name__ == "__main__":
    sys.exit(main())
