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
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from ...train.screen import make_console, wrapped
from .. import harness
from ..options import make_parser
from . import checks, gpus, kernels
from .checks import ABSENT, FAILED, OK, VERDICTS, WARNING, CheckResult, Context, Run, examine


class Check(NamedTuple):
    topic: str
    run: Run
    slow: bool = False  # left out by --quick


# To add a check: a function of a context that yields results, and a line here.
CHECKS = (
    Check("Python and libraries", checks.libraries),
    Check("Devices", gpus.gpus),
    Check("Precision and backend", checks.dtypes),
    Check("Precision and backend", checks.backend),
    Check("Kernels", kernels.kernels, slow=True),
    Check("Compilers", kernels.compilers),
    Check("Compilers", kernels.compiles, slow=True),
    Check("Caches and disk", checks.caches),
    Check("Caches and disk", checks.disk),
    Check("Data sets", checks.data_sets),
    Check("Tools", checks.tools),
)

STYLES = {OK: "green", WARNING: "yellow", FAILED: "bold red", ABSENT: "dim"}
WIDTH = 100
SUBJECT = 22  # columns of a result's subject


def main(argv: list[str]) -> int:
    """Examine, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    out = make_console()
    out.width = min(out.width, WIDTH) if out.is_terminal else WIDTH
    found: list[tuple[str, CheckResult]] = []
    for check in CHECKS:
        if options.quick and check.slow:
            continue
        results = watched(check, options.data_root)
        if not options.json:
            if check.topic not in [topic for topic, _ in found]:
                out.print(f"\n{check.topic}" if found else check.topic, style="bold")
            for text, style in lines(results, out.width):
                out.print(text, style=style, soft_wrap=True)
        found += [(check.topic, result) for result in results]
    counts = Counter(result.verdict for _, result in found)
    if options.json:
        report = {
            "status": FAILED if counts[FAILED] else OK,
            "quick": options.quick,
            "counts": {verdict: counts[verdict] for verdict in VERDICTS},
            "machine": _machine(),
            "python": sys.executable,
            "lines": [{"topic": topic} | asdict(result) for topic, result in found],
        }
        print(json.dumps(report, indent=1, allow_nan=False))
        return int(bool(counts[FAILED]))
    named = {WARNING: "warnings" if counts[WARNING] > 1 else WARNING}
    text = ", ".join(f"{counts[v]} {named.get(v, v)}" for v in VERDICTS if counts[v])
    out.print("\n" + text + "; kernels and torch.compile were left out" * options.quick)
    if failed := [result.what for _, result in found if result.verdict == FAILED]:
        out.print(f"Failed: {', '.join(failed)}. Mend the first of them first.")
    else:
        out.print("Nothing failed. Start with: scotoma train")
    return int(bool(failed))


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
    """The results of a check; a terminal shows meanwhile what it is about."""
    with Console(stderr=True).status(check.topic) as status:

        def progress(words: str) -> None:
            status.update(f"{check.topic}: {escape(words)}")

        return list(examine(check.run, Context(data_root, progress)))


def lines(results: list[CheckResult], width: int) -> Iterator[tuple[str, str]]:
    """Text and its style: verdict, subject and finding, and below them the fix.

    Neighbours that share a fix have it once, below the last of them.
    """
    indent = 2 + max(map(len, VERDICTS)) + 2
    subjects = max([SUBJECT, *(len(result.what) for result in results)])
    fixes = [*(result.fix for result in results[1:]), ""]
    for result, following in zip(results, fixes, strict=False):
        text = f"{'  ' + result.verdict:{indent}}{result.what:{subjects}}  {result.detail}"
        yield wrapped(text, width, indent + subjects + 2), STYLES[result.verdict]
        if result.fix and result.fix != following:
            # Not below the finding: a command should fit on a line.
            yield wrapped(f"{'':{indent}}-> {result.fix}", width), "none"


def _machine() -> dict:
    try:
        return harness.describe_machine(checks.first_device())
    except Exception as error:
        return {"problem": str(error)}
