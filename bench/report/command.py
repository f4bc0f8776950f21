"""One page from result files: tables, pictures, targets, losses.

    scotoma bench report [FILE or FOLDER ...] [options]

Reads JSON lines that the measurements appended, and writes a Markdown page with its pictures beside
it, and an HTML page that holds all in one file. The same rows always give the same bytes, so that
--check can tell whether a page is up to date; it writes nothing.

Exit status: 0; 1 if --check found a file that is missing or stale.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...train.settings import HelpFormatter, add_picture_format
from . import page
from .document import Document
from .load import Loaded, load
from .output import Place, stale, write

RESULTS = Path("bench", "results")
OUT = Path("docs", "performance.md")


def main(argv: list[str]) -> int:
    """Write or check the page, and return the exit status. Raises UserError for bad input."""
    options = parse(argv)
    place = Place.of(options.out, options.html, options.picture_format)
    document = page.build(_loaded(options.files, options.cpu), options.cpu)
    if options.check:
        return _check(document, place)
    for path in write(document, place):
        print(f"wrote {path}")
    return 0


def _loaded(files: list[Path], cpu: bool) -> Loaded:
    """Results named on the command line must exist; the usual place may still be empty.

    What a CPU left there is nobody else's business: without it, the page is the same everywhere.
    """
    if files:
        return load(files)
    folders = [path for path in sorted(RESULTS.glob("*")) if cpu or not _of_cpu(path)]
    return load(path for path in folders if path.suffix == ".jsonl" or any(path.rglob("*.jsonl")))


def _of_cpu(folder: Path) -> bool:
    """Whether a folder is named as :func:`scotoma.bench.harness.default_path` names a CPU's."""
    return folder.name.startswith("cpu-")


def _check(document: Document, place: Place) -> int:
    found = stale(document, place)
    for path, why in found:
        print(f"{path} {why}")
    if found:
        print("run 'scotoma bench report' with the same options, without --check, to mend that")
        return 1
    print(f"{place.page} is up to date")
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scotoma bench report",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help=f"files or folders ({RESULTS})")
    add("--out", type=Path, default=OUT, help=f"Markdown file, or folder for one ({OUT})")
    add("--html", type=Path, metavar="FILE", help="a page in one file as well")
    add("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    add("--cpu", action="store_true", help="with figures of CPUs, in a part of their own")
    add_picture_format(parser, "also write the pictures in this format (png)")
    return parser.parse_args(argv)
