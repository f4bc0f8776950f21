"""The ``scotoma`` command: finds a verb by name and hands over.

Verbs are imported only when they are used, so that ``scotoma train --help`` loads no attack and
no benchmark. Bad input ends in one line on stderr and status 2.
"""

from __future__ import annotations

import importlib
import os
import sys

from ..defective.errors import RankError, UserError, lacking, nearest

VERBS = {
    "train": ("scotoma.train.commands.train", "train a network and leave a run folder"),
    "models": ("scotoma.train.commands.models", "list the architectures, their sizes and sites"),
    "info": ("scotoma.train.commands.info", "describe a checkpoint"),
    "masks": ("scotoma.train.commands.masks", "draw the masks of a network or a checkpoint"),
    "attack": ("scotoma.train.commands.attack", "make adversarial images from networks"),
    "evaluate": ("scotoma.train.commands.evaluate", "measure how robust networks are"),
    "paper": ("scotoma.bench.paper.command", "make the paper's tables and figures"),
    "doctor": ("scotoma.bench.doctor.command", "say what works here, and how to mend the rest"),
    "profile": ("scotoma.bench.profiling.command", "show where a step's time goes"),
    "bench": ("scotoma.bench.commands", "measure: layers, whole steps, and more"),
}

BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from .. import __version__

        print(f"scotoma {__version__}")
        return 0
    verb, rest = argv[0], argv[1:]
    try:
        if verb not in VERBS:
            raise UserError(
                f"unknown command {verb!r}; expected one of {', '.join(VERBS)}."
                f"{nearest(verb, VERBS)}"
            )
        return importlib.import_module(VERBS[verb][0]).main(rest) or 0
    except (UserError, OSError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError):
            error = lacking(error)
        # Under torchrun what is wrong for all is said once; a RankError is one rank's own.
        if os.environ.get("RANK", "0") == "0" or isinstance(error, RankError):
            print(f"scotoma {verb}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"scotoma {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED


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
