"""What all measurements share: rows of results, the machine, clocks, the loop.

A verb of ``scotoma bench`` parses its options (:mod:`.options`), chooses cases, and hands both to
:func:`measure_all`, which keeps every row as soon as it is there::

    options.add_run_options(parser, "layers", 3600)    # --time-limit --out --resume --cpu --list
    device = chosen_device(parsed.cpu)
    head = row_head("layers", device, settings)        # what was measured, when, on what, and how
    outcome = measure_all(cases, measure, head, path, parsed, console, brief)
    return outcome.status(failures(outcome.rows, label))

``measure(case)`` gives a row for each **variant**, one of several ways to compute the same thing,
and every row has a list ``problems``. First each variant's result is checked (:func:`noting`,
:func:`compare`), since a time of a wrong result is worth nothing; then those without problems are
timed in turns (:func:`interleaved`, :func:`time_in_turns`) and :func:`spread` makes figures of the
seconds.

Groups below: rows (:func:`default_path`, :func:`row_head`, :func:`append_rows`,
:func:`read_rows`, :func:`measured_rows`, :func:`check_writable`), the machine
(:func:`describe_machine`, :func:`clocks`, :func:`commit`), clocks, checks, the loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..defective.errors import UserError
from ..train.screen import show
from .options import UNFINISHED

INTERRUPTED = 130
INTERPRETER = "TRITON_INTERPRET"

Key = TypeVar("Key", bound=Hashable)
Work, Reading = TypeVar("Work"), TypeVar("Reading")


# Rows: JSON lines, appended whole, so that a file is good at any moment.
def default_path(device_name: str, benchmark: str) -> Path:
    """Where results of a device go: devices are never mixed in one file."""
    folder = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")
    return Path("bench") / "results" / folder / f"{benchmark}.jsonl"


def row_head(benchmark: str, device: torch.device, settings: dict) -> dict:
    """What every row of a run begins with: what was measured, when, on what, and how."""
    return {
        "benchmark": benchmark,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(device),
        "settings": settings,
    }


def append_rows(path: Path, rows: Iterable[dict]) -> None:
    """Add rows to the end of a file, in one write that has reached the disk on return.

    A line that an interrupted writer left half done is closed first, so that it spoils no other.

    Raises:
        UserError: the file cannot be written.
    """
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with _opened(path) as file:
        if file.tell() and not _ends_a_line(file):
            text = "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def check_writable(path: Path) -> None:
    """Find out before anything is measured whether results can be kept; changes no file.

    Raises:
        UserError: the file cannot be written.
    """
    new = not path.exists()
    with _opened(path):
        pass
    if new:
        path.unlink()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"out is {str(path)!r}, which cannot be written: {error.strerror}; give another file"
        ) from error


def measured_rows(path: Path, head: dict) -> list[dict]:
    """The rows that a file has from the machine, the versions and the settings of ``head``."""
    keys = ("benchmark", "machine", "settings")
    rows = read_rows(path) if path.is_file() else ()
    return [row for row in rows if all(row.get(key) == head[key] for key in keys)]


def _ends_a_line(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a file, half-written lines left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


# The machine: device, driver, versions, commit, clocks.
CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu")


def describe_machine(device: torch.device) -> dict:
    """Device, driver, library versions and commit, for every row of results."""
    on_gpu = device.type == "cuda"
    return {
        "device": device_name(device),
        "kind": device.type,
        "driver": nvidia_smi(device, ("driver_version",)).get("driver_version") if on_gpu else None,
        "multiprocessors": properties(device).multi_processor_count if on_gpu else None,
        "l2_bytes": l2_bytes(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "threads": None if on_gpu else torch.get_num_threads(),
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}"


def properties(device: torch.device):
    return torch.cuda.get_device_properties(device)


def l2_bytes(device: torch.device) -> int | None:
    """Size of the GPU's L2 cache; None on a CPU."""
    return properties(device).L2_cache_size if device.type == "cuda" else None


def clocks(device: torch.device) -> dict | None:
    """Clocks (MHz), power (W) and temperature (degrees C) now; None on a CPU."""
    return nvidia_smi(device, CLOCKS) if device.type == "cuda" else None


def nvidia_smi(device: torch.device, fields: tuple[str, ...]) -> dict:
    """Fields of nvidia-smi for a device; empty where it cannot tell."""
    # torch may number devices in another order than nvidia-smi; the UUID is the same for both.
    uuid = getattr(properties(device), "uuid", None)
    number = device.index or 0 if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"
    command = [
        "nvidia-smi",
        f"--id={number}",
        f"--query-gpu={','.join(fields)}",
        "--format=csv,noheader,nounits",
    ]
    values = output_of(command)
    if values is None:
        return {}
    return dict(zip(fields, (v.strip() for v in values.split(",")), strict=False))


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the source tree, where it is a checkout; SCOTOMA_COMMIT where its history was
    left behind."""
    if named := os.environ.get("SCOTOMA_COMMIT"):
        return named
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parent)]
    found = output_of([*git, "describe", "--always"])
    # Rows of results that were committed, and are appended to, are no change of the source.
    status = [*git, "status", "--porcelain", "--untracked-files=no", "--"]
    changed = found and output_of([*status, ":(top)", ":(top,exclude)bench/results"])
    return f"{found}-dirty" if changed else found


def output_of(command: list[str]) -> str | None:
    """What a command prints; None if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


# Clocks: the host's, the GPU's, the GPU's under graph replay; variants in turns; quantiles.

# GPU cycles to wait before a timed stretch, so that the host has queued all of it in the meantime.
HEAD_START = 500_000
COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}


def wall_seconds(work: Callable[[], None], device: torch.device) -> float:
    """By the host's clock, until the device has finished."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def device_seconds(work: Callable[[], None]) -> float:
    """By the GPU's clock, without the time that the host takes to queue the work."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of ``work``, on the current stream, which must not be the default one."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        work()
    return graph


def interleaved(
    works: dict[Key, Work], clock: Callable[[Work], Reading], repeats: int
) -> dict[Key, list[Reading]]:
    """The clock's reading of each work, such as seconds, all in turn, another one first in each
    round; one round warms up."""
    names, samples = list(works), {name: [] for name in works}
    for number in range(repeats + 1):
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            seconds = clock(works[name])
            if number:
                samples[name].append(seconds)
    return samples


def spread(seconds: list[float], calls: int) -> dict[str, float]:
    """Median and the 10 % and 90 % quantiles of one call, in microseconds."""
    ordered = sorted(1e6 * s / calls for s in seconds)

    def quantile(part: float) -> float:
        return ordered[round(part * (len(ordered) - 1))]

    return {
        "median_us": round(statistics.median(ordered), 3),
        "p10_us": round(quantile(0.1), 3),
        "p90_us": round(quantile(0.9), 3),
    }


def copy_bandwidth(device: torch.device, repeats: int = 20) -> float:
    """Bytes per second of a large copy, those read and those written counted."""
    count = COPY_BYTES[device.type] // 2
    source = torch.empty(count, dtype=torch.bfloat16, device=device).normal_()
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    if device.type == "cuda":
        seconds = interleaved({"copy": copy}, device_seconds, repeats)
    else:
        seconds = interleaved({"copy": copy}, lambda work: wall_seconds(work, device), repeats)
    return 2 * source.nbytes / statistics.median(seconds["copy"])


def graph_replays(
    works: dict[Key, Callable[[], None]], rows: dict[Key, dict], what: str = ""
) -> dict[Key, Callable[[], None]]:
    """Replays of captured works; a work that cannot be captured is a problem of its row."""
    replays = {}
    for name, work in works.items():
        try:
            replays[name] = captured(work).replay
        except Exception as error:
            of = f" of {what}" if what else ""
            rows[name]["problems"].append(f"no CUDA graph{of}: {named(error)}")
    return replays


def time_in_turns(
    runs: dict[Key, Callable[[], object]], calls: dict[Key, int], device: torch.device, windows: int
) -> dict[Key, list[float]]:
    """Seconds of ``windows`` stretches of each run, so many calls long, by the host's clock."""

    def window(key: Key) -> Callable[[], None]:
        def work() -> None:
            for _ in range(calls[key]):
                runs[key]()

        return work

    works = {key: window(key) for key in runs}
    return interleaved(works, lambda work: wall_seconds(work, device), windows)


def calls_in(
    run: Callable[[], object], device: torch.device, window_seconds: float, least: int = 1
) -> int:
    """Calls that take about the time of a window."""
    seconds = max(wall_seconds(run, device), 1e-6)
    return max(least, min(500, round(window_seconds / seconds)))


def release(device: torch.device) -> None:
    """Give back the device's memory that nobody uses."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def use_capturing_stream(device: torch.device) -> None:
    """Graphs are captured on a stream that is not the default one."""
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Checks

WORST = 500
"""Letters of a problem."""


def named(error: Exception) -> str:
    """An error as a row's problem."""
    return f"{type(error).__name__}: {error}"[:WORST]


@contextmanager
def noting(*rows: dict, but: type[Exception] | tuple = ()) -> Iterator[None]:
    """What goes wrong inside is a problem of the rows; the other variants go on.

    but: errors that are passed on.
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        for row in rows:
            row["problems"].append(named(error))


def compare(row: dict, errors: dict[str, float]) -> None:
    """Note relative errors by a tensor's name; one above ``row["tolerance"]`` is a problem."""
    row["errors"] = {name: value if isfinite(value) else None for name, value in errors.items()}
    for name, value in errors.items():
        if value > row["tolerance"]:
            row["problems"].append(
                f"{name} is wrong: relative error {value:.2g}, allowed {row['tolerance']:.2g}"
            )


def failures(rows: Iterable[dict], label: Callable[[dict], str]) -> list[str]:
    """What could not be measured, or computed something else. label: a row's case and variant."""
    return [f"{label(row)}: {problem}" for row in rows for problem in row["problems"]]


# For the terminal


def console_table(
    title: str, rows: Iterable[Any], columns: dict[str, Callable[[Any], str]], words: int = 1
) -> Table:
    """A line for each row.

    columns: a heading, and what stands below it. words: how many of them, on the left, hold words;
    the others hold figures.
    """
    view = Table(title=title)
    for number, heading in enumerate(columns):
        view.add_column(heading, justify="left" if number < words else "right")
    for row in rows:
        view.add_row(*(cell(row) for cell in columns.values()))
    return view


def figure(value: float | None, form: str, factor: float = 1.0) -> str:
    """A number in a form of Python's, or a dash for None."""
    return "-" if value is None else format(factor * value, form)


def by_case(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Rows of each case together, in their order."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["case"], []).append(row)
    return found


def slower_cases(rows: Iterable[dict], ours: str, also: str | None = None) -> list[str]:
    """A line for each case in which the best rival is faster than the best variant of ours.

    ours: what the names of our variants begin with. also: a column that parts a case.
    """
    cases: dict[str, list[dict]] = {}
    for row in rows:
        name = row["case"] if also is None else f"{row['case']} {row[also]}"
        if row["times"]:
            cases.setdefault(name, []).append(row)
    lines = []
    for name, timed in cases.items():
        own = [row for row in timed if row["contestant"].startswith(ours)]
        rivals = [row for row in timed if not row["contestant"].startswith(ours)]
        if not own or not rivals:
            continue
        best, rival = (min(g, key=lambda row: row["times"]["median_us"]) for g in (own, rivals))
        ratio = best["times"]["median_us"] / rival["times"]["median_us"]
        if ratio > 1:
            words = f"{rival['contestant']} is {ratio:.2f}x as fast as {best['contestant']}"
            lines.append(f"{name}: {words}")
    return lines


# The loop


@dataclass
class Outcome:
    """What was measured, and what was not.

    Attributes:
        rows: in the order of the cases.
        left: cases that were not measured, for lack of time or by interruption.
        interrupted: by Ctrl-C or a polite end of the process.
        resumed: the next call of the same command goes on, so that what is left is no loss.
    """

    rows: list[dict] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)
    interrupted: bool = False
    resumed: bool = False

    def status(self, failures: Sequence[str]) -> int:
        """The command's exit status."""
        if self.interrupted:
            return INTERRUPTED
        if failures:
            return 1
        return UNFINISHED if self.resumed and self.left else 0

    def print_lists(self, console: Console, lists: dict[str, Sequence[str]]) -> None:
        """Titles with a line for each of their items, empty ones left out; at last what is left."""
        for title, lines in (lists | {"not measured": list(map(str, self.left))}).items():
            if lines:
                console.print(f"{title}:")
                for line in lines:
                    show(console, f"  {line}")


def measure_all(
    cases: Sequence[Any],
    measure: Callable[[Any], list[dict]],
    head: dict,
    path: Path,
    options: argparse.Namespace,
    console: Console,
    brief: Callable[[list[dict]], str],
) -> Outcome:
    """Measure cases until all are done or the time is up.

    Args:
        cases: their ``str`` is for people. measure: a case's rows.
        head: what every row begins with. path: JSON lines file to append to.
        options: time_limit: no case is started that would end later, in seconds, if it took as long
            as the longest; resume: leave out cases that the file has from the same machine, commit
            and settings.
        brief: a case's rows in one line.

    Raises:
        UserError: the file cannot be written; before anything is measured.
    """
    check_writable(path)
    known = {row.get("case") for row in measured_rows(path, head)} if options.resume else set()
    cases = [case for case in cases if str(case) not in known]
    outcome = Outcome(left=list(cases), resumed=options.resume)
    end, longest = time.monotonic() + options.time_limit, 0.0
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=len(cases))
        for case in cases:
            start = time.monotonic()
            if outcome.rows and start + longest > end:
                break
            bar.update(task, description=str(case))
            try:
                new = [head | {"case": str(case)} | row for row in measure(case)]
            except KeyboardInterrupt:
                outcome.interrupted = True
                break
            append_rows(path, new)
            outcome.rows += new
            outcome.left.pop(0)
            bar.advance(task)
            seconds = time.monotonic() - start
            longest = max(longest, seconds)
            show(console, f"{case}: {brief(new)} ({seconds:.0f} s)")
    return outcome


# Where and how a measurement runs


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
