"""``scotoma bench report``: one page from result files: tables, pictures, targets, losses.

    scotoma bench report [FILE or FOLDER ...] [options]

Reads JSON lines that the measurements appended, and writes a Markdown page with its pictures beside
it, and an HTML page that holds all in one file. The same rows always give the same page, which says
what rows it was made from, so that --check can tell whether it is up to date; it writes nothing.

Exit status: 0; 1 if --check found a file that is missing or stale.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...defective.errors import UserError
from ...train.pages import Page, code, strong, write_files
from ..options import add_picture_format, make_parser
from . import tables, verdicts
from .rows import VERSIONS, Loaded, grouped, load, of
from .tables import NONE, Columns, fixed, listed, table

RESULTS = Path("bench", "results")
OUT = Path("docs", "performance.md")
TITLE = "Measured performance"

HOW = (
    "Contestants do the same work on the same data in turns, another one first in each round, "
    "after compilation, capture and warm-up; only those of one run are compared. A time is the "
    "median over all rounds; ranges and whiskers go from the 10 % to the 90 % quantile. Every "
    "figure comes from a row of results that names its device, versions, commit and clocks, and "
    "cases that we lose are listed first."
)
TO_MEASURE = (
    ("whether the kernels are right: tests, sanitizer", "make gpu-check"),
    ("all of the following, in calls of ten minutes", "make gpu-bench"),
    ("whole steps: images per second, cost of masks, memory", "scotoma bench step"),
    ("the operator at every site of the six networks", "scotoma bench layers"),
    ("operators against bandwidth and matrix ceilings", "scotoma bench roofline"),
    ("where a step's time goes, by family of kernels", "scotoma profile resnet18"),
    ("seconds until a network reaches an accuracy", "scotoma bench convergence"),
    ("attacks beside foolbox's, at equal results", "scotoma bench attacks"),
    ("this page again, from what was measured", "scotoma bench report"),
)
GLOSSARY = (
    ("eager", "PyTorch as it comes, one kernel an operation"),
    ("compile", "the same network through torch.compile"),
    ("max-autotune", "torch.compile with mode max-autotune, which tries more kernels"),
    ("eager-fp16", "eager in float16, where PyTorch takes cuDNN's batch norm"),
    ("released", "the layer of the paper's release under autocast, whose masks are float32"),
    ("fused", "batch norm, mask, addition and ReLU by our Triton kernels; ours, in other tables"),
    ("fused-conv", "fused, with convolutions of ours where those measured faster"),
    ("fused-compile", "our kernels inside a network that torch.compile compiled"),
    ("-graph", "the whole step captured in a CUDA graph and replayed"),
    ("reference", "plain float32 PyTorch, as the paper's release does it, images from workers"),
    ("training step", "batch, augmentation, forward, backward, update, as scotoma train does it"),
    ("PGD step", "one step of an attack: the gradient for the images, and their update"),
    ("standard, 0.3-Bottom", "no masks; masks that keep 30 % in the network's bottom layers"),
    ("cold, hot", "operands come from device memory; the same operands again and again"),
    ("graph, wall", "the GPU's clock under graph replay; the host's clock, launches included"),
    ("% of copy", "bytes that must move, over the time, of the bandwidth of a large copy"),
    ("peak, saved", "most memory allocated in a step; bytes kept from forward for backward"),
    ("1.30x", "times faster; above 1 the contestant named in the column is the slower one"),
)


def main(argv: list[str]) -> int:
    """Write or check the page, and return the exit status. Raises UserError for bad input."""
    options = parse(argv)
    page = build(_loaded(options.files, options.cpu), options.cpu, options.out)
    if not options.check:
        files = page.files(options.out, options.html, options.picture_format)
        write_files(files)
        for path in files:
            print(f"wrote {path}")
        return 0
    found = stale(page, options)
    for path, why in found:
        print(f"{path} {why}")
    if found:
        print("run 'scotoma bench report' with the same options, without --check, to mend that")
        return 1
    print(f"{options.out} is up to date")
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """``out`` becomes the Markdown file. Raises UserError."""
    description = __doc__.partition(": ")[2].replace("one page", "One page", 1)
    parser = make_parser("bench report", description)
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help=f"files or folders ({RESULTS})")
    add("--out", type=Path, default=OUT, help=f"Markdown file, or folder for one ({OUT})")
    add("--html", type=Path, metavar="FILE", help="a page in one file as well")
    add("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    add("--cpu", action="store_true", help="with figures of CPUs, in a part of their own")
    add_picture_format(parser, "also write the pictures in this format (png)")
    options = parser.parse_args(argv)
    out, html = options.out, options.html
    if out.suffix.lower() != ".md" or out.is_dir():
        if out.exists() and not out.is_dir():
            raise UserError(
                f"--out {out} is a file that is no Markdown; give a folder, or a name that ends in "
                ".md"
            )
        options.out = out / OUT.name
    if html is not None and (html.is_dir() or html.suffix.lower() not in (".html", ".htm")):
        what = "is a folder" if html.is_dir() else "is no HTML file"
        raise UserError(f"--html {html} {what}; give a name that ends in .html")
    return options


def _loaded(files: list[Path], cpu: bool) -> Loaded:
    """Results named on the command line must exist; the usual place may still be empty.

    What a CPU left there is nobody else's business: without it, the page is the same everywhere.
    """
    if files:
        return load(files)
    # Folders are named by scotoma.bench.harness.default_path.
    found = [p for p in sorted(RESULTS.glob("*")) if cpu or not p.name.startswith("cpu-")]
    return load(path for path in found if path.suffix == ".jsonl" or any(path.rglob("*.jsonl")))


def stale(page: Page, options: argparse.Namespace) -> list[tuple[Path, str]]:
    """Files that are missing or made from other rows, and which of the two.

    Another version of matplotlib draws the same rows with other pixels, which makes no page stale.
    """
    formats = dict.fromkeys(("png", options.picture_format))
    needed = {page.folder / f"{name}.{format}": "" for name in page.pictures for format in formats}
    needed[options.out] = page.markdown()
    if options.html is not None:
        needed[options.html] = page.digest()
    found = []
    for path, words in needed.items():
        if not path.is_file():
            found.append((path, "is missing"))
        elif words:
            text = path.read_text(encoding="utf-8", errors="replace")
            if text != words if path == options.out else words not in text:
                found.append((path, "is stale"))
    return found


def build(loaded: Loaded, cpu: bool = False, out: Path = OUT) -> Page:
    """The page of what the files hold.

    Args:
        cpu: with a part for figures of a CPU, which are left out otherwise. out: where it will lie.
    """
    page = Page(TITLE, out.parent, f"images/{out.stem}")
    page.paragraph(
        "How fast scotoma's kernels are beside PyTorch's own. ",
        code("scotoma bench report"),
        " writes this page from rows of results: edit nothing here.",
    )
    page.paragraph(HOW)
    devices = grouped(loaded.rows, "gpu", "device")
    kinds = {gpu for gpu, _ in devices}
    if True not in kinds:
        page.heading("No figure yet")
        words = strong("No figure exists yet: there are no results of a GPU.")
        page.paragraph(words, " On a machine with an NVIDIA GPU these commands make them:")
        lines = [(what, code(command)) for what, command in TO_MEASURE]
        page.table((["what is measured", "command"], lines), words=2)
        verdicts.targets(page, [])
    for gpu, device in sorted(devices, key=lambda key: (not key[0], key[1])):
        rows = devices[gpu, device]
        if gpu:
            page.heading(device)
            environment(page, rows)
            verdicts.targets(page, rows)
            _parts(page, rows)
        elif cpu:
            page.heading(f"{device} (no GPU)")
            words = "Figures of a CPU show only that the commands work. They say nothing about the "
            page.paragraph(strong(f"{words}kernels or about any GPU."))
            environment(page, rows)
            _parts(page, rows)
    if cpu and False not in kinds:
        page.heading("CPU")
        page.paragraph("There are no results of a CPU.")
    page.heading("What the words mean")
    lines = [(code(word), meaning) for word, meaning in GLOSSARY]
    page.table((["word", "meaning"], lines), words=2)
    page.heading("Sources")
    unused = 0 if cpu else sum(not row["gpu"] for row in loaded.rows)
    if unused:
        page.paragraph(
            f"{unused:,} cases measured on a CPU are left out; the option --cpu shows them."
        )
    if loaded.unknown:
        names = listed(f"{name} ({count:,})" for name, count in loaded.unknown.items())
        page.paragraph(f"Left out, rows of benchmarks that this page does not know: {names}.")
    if not loaded.files:
        page.paragraph("There are no files of results.")
        return page
    columns: Columns = {
        "file": lambda line: code(line[0].as_posix()),
        "rows": lambda line: f"{line[1][0]:,}",
        "damaged lines": lambda line: f"{line[1][1]:,} not a JSON object" if line[1][1] else "none",
    }
    table(page, loaded.files.items(), columns)
    page.blocks.append(f"<!-- rows {loaded.digest()} -->")
    return page


PARTS = {
    "step": tables.steps,
    "attacks": tables.attacks,
    "profile": tables.profile,
    "convergence": tables.convergence,
    "layers": tables.layers,
    "roofline": tables.roofline,
}


def _parts(page: Page, rows: Sequence[dict]) -> None:
    verdicts.slower_cases(page, rows)
    for name, part in PARTS.items():
        if own := of(rows, name):
            part(page, own)
    verdicts.headroom(page, of(rows, "layers"))
    verdicts.changes(page, rows)


def environment(page: Page, rows: Sequence[dict]) -> None:
    """Commits, versions, clocks, dates."""
    groups = grouped(rows, "commit", "versions")
    newest_first = sorted(
        groups.items(), key=lambda g: (max(row["moment"] for row in g[1]), g[0]), reverse=True
    )
    words = (
        f"{len(rows):,} rows are shown, the newest of each case; "
        f"{sum(row['older'] for row in rows):,} older rows of the same cases were superseded."
    )
    if len(groups) > 1:
        words += (
            " They come from several commits or versions, so that contestants which stand side by "
            "side may have been measured in different runs."
        )
    page.heading("Conditions", 3)
    page.paragraph(words)

    def days(group: tuple) -> str:
        """The first and the last day on which rows were measured."""
        found = [row["moment"].date().isoformat() for row in group[1]]
        return " to ".join(dict.fromkeys((min(found), max(found))))

    columns: Columns = {
        "commit": lambda g: g[0][0],
        "measured (UTC)": days,
        "benchmarks": lambda g: listed(row["benchmark"] for row in g[1]),
    }
    for number, name in enumerate(VERSIONS):
        columns[name] = lambda g, number=number: g[0][1][number]
    columns |= {
        "rows": lambda g: f"{len(g[1]):,}",
        "SM clock (MHz)": lambda g: _clock(g[1], "clocks.sm"),
        "highest (MHz)": lambda g: _clock(g[1], "clocks.max.sm"),
        "GPU (°C)": lambda g: _clock(g[1], "temperature.gpu"),
    }
    table(page, newest_first, columns, words=8)


def _clock(rows: Sequence[dict], name: str) -> str:
    """The least and the greatest of what nvidia-smi said, which may be "[N/A]"."""
    values = []
    for row in rows:
        with suppress(TypeError, ValueError):
            values.append(float((row["clocks"] or {}).get(name)))
    values = [value for value in values if abs(value) < 1e9]
    ends = [fixed(min(values), 0), fixed(max(values), 0)] if values else []
    return " to ".join(dict.fromkeys(ends)) or NONE
