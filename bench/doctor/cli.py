"""``scotoma doctor``: what works on this machine, and how to mend what does not.

Looks at Python and libraries, GPUs, dtypes, kernels, torch.compile, caches, data sets and tools.
Each line has a verdict: ok; warning (works, but worse than it could); failed; not here (which may
be as it should). What is not ok comes with its fix.

Exit status: 0; 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.markup import escape

from .. import harness
from ..options import make_parser
from . import checks, gpus
from .checks import ABSENT, FAILED, OK, VERDICTS, WARNING, CheckResult, Context, Run, examine


class Check(NamedTuple):
    topic: str
    run: Run
    slow: bool = False  # left out by --quick


def _kernels(name: str) -> Run:
    """A check of ``kernels``, which imports all that is measured."""

    def run(context: Context) -> Iterator[CheckResult]:
        from . import kernels

        yield from getattr(kernels, name)(context)

    run.__name__ = name  # what a result is called if it breaks down
    return run


# To add a check: a function of a context that yields results, and a line here.
CHECKS = (
    Check("Python and libraries", checks.libraries),
    Check("Devices", gpus.gpus),
    Check("Precision and backend", checks.dtypes),
    Check("Precision and backend", checks.backend),
    Check("Kernels", _kernels("kernels"), slow=True),
    Check("Compilers", _kernels("compilers")),
    Check("Compilers", _kernels("compiles"), slow=True),
    Check("Caches and disk", checks.caches),
    Check("Caches and disk", checks.disk),
    Check("Data sets", checks.data_sets),
    Check("Tools", checks.tools),
)

STYLES = {OK: "green", WARNING: "yellow", FAILED: "bold red", ABSENT: "dim", "": "none"}
WIDTH = 100
SUBJECT = 22  # columns of a line's subject


def main(argv: list[str]) -> int:
    """Examine, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    out = Console(highlight=False, markup=False, emoji=False)
    out.width = min(out.width, WIDTH) if out.is_terminal else WIDTH
    found: list[tuple[str, CheckResult]] = []
    topic = None
    for check in CHECKS:
        if options.quick and check.slow:
            continue
        new = watched(check, options.data_root)
        found += [(check.topic, line) for line in new]
        if options.json:
            continue
        if check.topic != topic:
            out.print(f"\n{check.topic}" if topic else check.topic, style="bold")
            topic = check.topic
        for text, verdict in rows(new, out.width):
            out.print(text, style=STYLES[verdict], soft_wrap=True)
    if options.json:
        print(json.dumps(report(found, options.quick), indent=1, allow_nan=False))
    else:
        out.print()
        out.print(summary([line for _, line in found], options.quick))
    return 1 if any(line.verdict == FAILED for _, line in found) else 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser(
        "doctor", "Say what of scotoma works on this machine, and how to mend what does not."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="leave out what takes long: kernels, torch.compile")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    add("--data-root", type=Path, help="folder of the data sets; $SCOTOMA_DATA or the default")
    return parser.parse_args(argv)


def watched(check: Check, data_root: Path | None) -> list[CheckResult]:
    """The lines of a check; a terminal shows meanwhile what it is about."""
    with Console(stderr=True).status(check.topic) as status:

        def progress(words: str) -> None:
            status.update(f"{check.topic}: {escape(words)}")

        return list(examine(check.run, Context(data_root, progress)))


def rows(lines: list[CheckResult], width: int) -> Iterator[tuple[str, str]]:
    """Lines of text and their verdicts: verdict, subject and finding, and below them the fix.

    Neighbours that share a fix have it once, below the last of them.
    """
    verdicts = max(map(len, VERDICTS))
    subjects = max([SUBJECT, *(len(line.what) for line in lines)])
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        first = f"  {line.verdict:<{verdicts}}  {line.what:<{subjects}}  "
        yield wrapped(first, line.detail, len(first), width), line.verdict
        if line.fix and (following is None or following.fix != line.fix):
            # Not below the finding: a command should fit on a line.
            yield wrapped(" " * (verdicts + 4) + "-> ", line.fix, verdicts + 7, width), ""


def wrapped(first: str, text: str, indent: int, width: int) -> str:
    """Text behind a beginning, broken at spaces only: what is copied must stay whole."""
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def summary(lines: list[CheckResult], quick: bool) -> str:
    counts = Counter(line.verdict for line in lines)
    named = {WARNING: "warnings" if counts[WARNING] > 1 else WARNING}
    text = ", ".join(f"{counts[v]} {named.get(v, v)}" for v in VERDICTS if counts[v])
    if quick:
        text += "; kernels and torch.compile were left out"
    failed = [line.what for line in lines if line.verdict == FAILED]
    if failed:
        return f"{text}\nFailed: {', '.join(failed)}. Mend the first of them first."
    return f"{text}\nNothing failed. Start with: scotoma train"


def report(found: list[tuple[str, CheckResult]], quick: bool) -> dict:
    """Everything as one JSON object."""
    counts = Counter(line.verdict for _, line in found)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        described = harness.describe_machine(device)
    except Exception as error:
        described = {"problem": str(error)}
    return {
        "status": FAILED if counts[FAILED] else OK,
        "quick": quick,
        "counts": {verdict: counts[verdict] for verdict in VERDICTS},
        "machine": described,
        "python": sys.executable,
        "lines": [{"topic": topic} | asdict(line) for topic, line in found],
    }
