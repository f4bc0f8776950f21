"""What all measurements share: rows of results, the machine, clocks, checks, the loop.

A verb of ``scotoma bench`` parses its options (:mod:`.options`), chooses cases, and hands them to a
:class:`Run`, which keeps every row as soon as it is there::

    options.add_run_options(parser, "layers", 3600)    # --time-limit --out --resume --cpu --list
    run = Run("layers", options, chosen_device(options.cpu), settings)
    run.measure(cases, measure, brief)
    return run.finish(label)

``measure(case)`` gives a row for each **variant**, one of several ways to compute the same thing,
and every row has a list ``problems``. First each variant's result is checked (:func:`noting`),
since a time of a wrong result is worth nothing; then those without problems are timed in turns
(:func:`interleaved`, :func:`time_in_turns`) and :func:`spread` makes figures of the seconds.
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
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..defective.errors import UserError
from ..train.screen import make_console, show
from .options import UNFINISHED
from .report.rows import grouped

INTERRUPTED = 130


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
    Raises UserError if the file cannot be written.
    """
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if text and file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = b"\n" + text
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"out is {str(path)!r}, which cannot be written: {error.strerror}; give another file"
        ) from error


def check_writable(path: Path) -> None:
    """Raise UserError if results cannot be kept, before anything is measured; change no file."""
    new = not path.exists()
    append_rows(path, ())
    if new:
        path.unlink()


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a file, half-written lines left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


# The machine: device, driver, versions, commit, clocks.


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
    fields = "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu"
    return nvidia_smi(device, fields) if device.type == "cuda" else None


def nvidia_smi(device: torch.device, fields: tuple[str, ...]) -> dict:
    """Fields of nvidia-smi for a device; empty where it cannot tell."""
    # torch may number devices in another order than nvidia-smi; the UUID is the same for both.
    uuid = getattr(properties(device), "uuid", None)
    number = device.index or 0 if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"
    query = [f"--id={number}", f"--query-gpu={','.join(fields)}"]
    values = output_of(["nvidia-smi", *query, "--format=csv,noheader,nounits"])
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


def chosen_device(cpu: bool) -> torch.device:
    """The first GPU, or the CPU if asked for. Raises UserError if there is no GPU."""
    if cpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("no NVIDIA GPU on this machine; --cpu measures small shapes on the CPU")
    return torch.device("cuda", 0)


def compiling_process(verb: str, argv: list[str]) -> int | None:
    """Run ``scotoma bench VERB`` in a process in which Triton compiles: its exit status, or None if
    this one will do. Raises UserError if Triton is not installed.

    Under the interpreter @triton.jit makes functions that cannot be compiled, from the moment that
    Triton is imported.
    """
    if importlib.util.find_spec("triton") is None:
        raise UserError(
            "Triton is not installed, and this compiles its kernels; on Linux: pip install triton"
        )
    environment = dict(os.environ)
    if environment.pop("TRITON_INTERPRET", None) is None:
        return None
    command = [sys.executable, "-m", "scotoma.train.cli", "bench", verb, *argv]
    return subprocess.run(command, env=environment).returncode


# Clocks: the host's, the GPU's, the GPU's under graph replay; variants in turns; quantiles.

# GPU cycles to wait before a timed stretch, so that the host has queued all of it in the meantime.
HEAD_START = 500_000
COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}


def wall_seconds(work: Callable[[], object], device: torch.device) -> float:
    """By the host's clock, until the device has finished."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_seconds(work: Callable[[], object], device: torch.device) -> float:
    """By the GPU's clock, without the time that the host takes to queue the work; by the host's
    where there is no GPU."""
    if device.type != "cuda":
        return wall_seconds(work, device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def interleaved(works: dict, clock: Callable[[Any], Any], repeats: int) -> dict[Hashable, list]:
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


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median by the device's clock, after one call to warm up."""
    seconds = interleaved({"": work}, partial(device_seconds, device=device), repeats)
    return statistics.median(seconds[""])


def copy_bandwidth(device: torch.device) -> float:
    """GB per second of a large copy, bytes read and written counted."""
    count = COPY_BYTES[device.type] // 2
    source = torch.empty(count, dtype=torch.bfloat16, device=device).normal_()
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, repeats=20)
    return round(2 * source.nbytes / seconds / 1e9, 6)


def spread(seconds: list[float], calls: int) -> dict[str, float]:
    """Median and the 10 % and 90 % quantiles of one call, in microseconds."""
    ordered = sorted(1e6 * s / calls for s in seconds)
    low, high = (ordered[round(part * (len(ordered) - 1))] for part in (0.1, 0.9))
    figures = {"median_us": statistics.median(ordered), "p10_us": low, "p90_us": high}
    return {name: round(value, 3) for name, value in figures.items()}


def graph_replays(works: dict, rows: dict, what: str = "") -> dict[Hashable, Callable[[], None]]:
    """Replays of CUDA graphs of works, captured on a stream of :func:`use_capturing_stream`; a work
    that cannot be captured is a problem of its row."""
    replays = {}
    for name, work in works.items():
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                work()
        except Exception as error:
            of = f" of {what}" if what else ""
            rows[name]["problems"].append(f"no CUDA graph{of}: {named(error)}")
        else:
            replays[name] = graph.replay
    return replays


def time_in_turns(
    runs: dict, calls: dict, device: torch.device, windows: int
) -> dict[Hashable, list[float]]:
    """Seconds of ``windows`` stretches of each run, so many calls long, by the host's clock."""

    def window(key: Hashable) -> None:
        for _ in range(calls[key]):
            runs[key]()

    works = {key: partial(window, key) for key in runs}
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


# Checks


def named(error: Exception) -> str:
    """An error as a row's problem."""
    return f"{type(error).__name__}: {error}"[:500]


@contextmanager
def noting(*rows: dict, but: type[Exception] | tuple = ()) -> Iterator[None]:
    """What goes wrong inside, ``but`` for some errors, is a problem of the rows; others go on."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        for row in rows:
            row["problems"].append(named(error))


# For the terminal


def console_table(
    title: str, rows: Iterable[Any], columns: dict[str, Callable[[Any], str]], words: int = 1
) -> Table:
    """A line for each row. columns: a heading, and what stands below it; the first ``words`` of
    them hold words, the others figures."""
    view = Table(title=title)
    for number, heading in enumerate(columns):
        view.add_column(heading, justify="left" if number < words else "right")
    for row in rows:
        view.add_row(*(cell(row) for cell in columns.values()))
    return view


def figure(value: float | None, form: str, factor: float = 1.0) -> str:
    """A number in a form of Python's, or a dash for None."""
    return "-" if value is None else format(factor * value, form)


def slower_cases(rows: Iterable[dict], ours: str, *more: str) -> list[str]:
    """A line for each case (and ``more`` columns) in which the best rival is faster than the best
    variant of ours, whose names begin with ``ours``."""
    lines = []
    for case, found in grouped(rows, "case", *more).items():
        best: dict[bool, tuple[float, str]] = {}
        for row in found:
            name, time = row["contestant"], row["times"].get("median_us")
            if time is not None:
                own = name.startswith(ours)
                best[own] = min(best.get(own, (time, name)), (time, name))
        if len(best) == 2 and best[True][0] > best[False][0]:
            (own, name), (other, rival) = best[True], best[False]
            lines.append(f"{' '.join(case)}: {rival} is {own / other:.2f}x as fast as {name}")
    return lines


class Run:
    """One call of a verb: what its rows begin with, where they go, and what came of it.

    Raises UserError if the file, ``options.out`` or the device's own, cannot be written.

    Attributes:
        head: what every row begins with. path: JSON lines file to append to.
        rows: of this call, in the order of the cases.
        left: cases that were not measured, for lack of time or by interruption.
    """

    def __init__(
        self, benchmark: str, options: argparse.Namespace, device: torch.device, settings: dict
    ):
        self.options, self.device, self.console = options, device, make_console()
        self.path = options.out or default_path(device_name(device), benchmark)
        check_writable(self.path)
        self.head = row_head(benchmark, device, settings)
        self.rows: list[dict] = []
        self.left: list[Any] = []
        self.interrupted = False

    def announce(self, text: str) -> None:
        """Say what is measured, and where."""
        device = self.head["machine"]["device"]
        self.console.print(f"{device}: {text} -> {self.path}", soft_wrap=True)

    def kept(self) -> list[dict]:
        """The rows that the file has from the same machine, versions and settings."""
        keys = ("benchmark", "machine", "settings")
        rows = read_rows(self.path) if self.path.is_file() else ()
        return [row for row in rows if all(row.get(key) == self.head[key] for key in keys)]

    def measure(
        self,
        cases: Sequence[Any],
        measure: Callable[[Any], list[dict]],
        brief: Callable[[list[dict]], str],
    ) -> list[dict]:
        """Measure cases until all are done or the time is up: their rows.

        No case is started that would end after ``time_limit`` seconds if it took as long as the
        longest; with ``resume`` those are left out that are :meth:`kept`.

        Args:
            cases: their ``str`` is for people. measure: a case's rows. brief: these in one line.
        """
        known = {row.get("case") for row in self.kept()} if self.options.resume else ()
        self.left = [case for case in cases if str(case) not in known]
        end, longest = time.monotonic() + self.options.time_limit, 0.0
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as bar:
            task = bar.add_task("", total=len(self.left))
            while self.left:
                case, start = self.left[0], time.monotonic()
                if self.rows and start + longest > end:
                    break
                bar.update(task, description=str(case))
                try:
                    found = measure(case)
                except KeyboardInterrupt:
                    self.interrupted = True
                    break
                head = self.head | {"case": str(case), "clocks": clocks(self.device)}
                new = [head | row for row in found]
                append_rows(self.path, new)
                self.rows += new
                self.left.pop(0)
                bar.advance(task)
                seconds = time.monotonic() - start
                longest = max(longest, seconds)
                show(self.console, f"{case}: {brief(new)} ({seconds:.0f} s)")
        return self.rows

    def finish(
        self, label: Callable[[dict], str], slower: Sequence = (), title: str = "slower cases"
    ) -> int:
        """Say what failed, where we are slower, and what was not measured; the exit status.

        label: a row's case and variant, in words.
        """
        failed = [f"{label(row)}: {text}" for row in self.rows for text in row["problems"]]
        lists = {"failures": failed, title: slower, "not measured": self.left}
        for heading, lines in lists.items():
            if lines:
                self.console.print(f"{heading}:")
                for line in lines:
                    show(self.console, f"  {line}")
        if self.interrupted:
            return INTERRUPTED
        return 1 if failed else UNFINISHED if self.left and self.options.resume else 0
