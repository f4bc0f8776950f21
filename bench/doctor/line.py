"""What a check says, and how a check that breaks down is kept from breaking the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK, WARNING, FAILED, ABSENT = "ok", "warning", "failed", "not here"
VERDICTS = (OK, WARNING, FAILED, ABSENT)


@dataclass(frozen=True)
class Line:
    """One fact about this machine.

    Attributes:
        what: its subject, in a word or two.
        verdict: "failed" if something that scotoma needs does not work; "warning" if it works, but
            worse than it could; "not here" for what a machine may well lack.
        detail: what was found.
        fix: the command or setting that makes it "ok"; empty where it is.
        values: the same for programs: strings, numbers, lists and None.
    """

    what: str
    verdict: str
    detail: str
    fix: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Examination:
    """What all checks may want to know.

    Attributes:
        data_root: folder of the data sets; None for the default.
        progress: told what is being done, in a few words.
    """

    data_root: Path | None = None
    progress: Callable[[str], None] = lambda words: None


Run = Callable[[Examination], Iterable[Line]]


def examine(run: Run, examination: Examination) -> Iterator[Line]:
    """The lines of a check, and a failed one in place of what an exception left unsaid."""
    with warnings.catch_warnings():
        # What matters of them is asked for by name.
        warnings.simplefilter("ignore")
        try:
            yield from run(examination)
        except Exception as error:
            what = run.__name__.replace("_", " ").strip()
            yield Line(what, FAILED, brief(error), known_fix(error) or UNKNOWN)


UNKNOWN = "unknown; 'scotoma doctor --json' has what a report about it needs"
"""The fix of what should not happen."""

# Part of a message: what to do.
_KNOWN = {
    "failed to find c compiler": "sudo apt install gcc  (or set CC to a C compiler)",
    "python.h": "sudo apt install python3-dev  (the headers of this Python)",
    "out of memory": "free the GPU's memory: nvidia-smi shows who holds it",
    "no space left": "free some disk space",
    "cannot find -lcuda": "sudo ldconfig  (so that the linker finds the driver's libcuda.so)",
    "libcuda.so cannot found": "sudo ldconfig  (so that the driver's libcuda.so is found)",
}


def known_fix(error: BaseException | str) -> str:
    """What helps against an error that is no bug of ours; empty if it is not known."""
    text = str(error).lower()
    return next((fix for part, fix in _KNOWN.items() if part in text), "")


def brief(error: BaseException) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if len(text) > 300:
        text = f"{text[:300]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
