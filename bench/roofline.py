"""Time every operator, and hold it against what the machine can do at best.

    scotoma bench roofline [options]

The machine's roofs are measured first: the bandwidth of a large copy, and large matrix products in
each arithmetic. Then the fused operators and the eager ones, the fused convolution beside the
separate one in evaluation, the convolutions of ResNet-18 and ResNet-50 with both gradients, and
their linear layers: with cold caches, under CUDA graph replay (by the wall's clock on a CPU), in
turns. Each result is first compared with float64. Rows of results are appended to a file of JSON
lines; a table follows, those farthest below the roof first, and a picture, roofline.png, beside the
file.

Bytes are the fewest that an operator must move, the same for all of its backends: for a convolution
its input, weight and output once. FLOP count a multiply-add as two.

Exit status: 0; 1 if something failed or computed something else; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table

from ..defective.errors import UserError
from ..kernels import backends
from ..train.config import PictureFormat
from ..train.screen import make_console, show
from . import harness, operands
from .operands import Call
from .operators import OPERATORS, Case, Pass, Variant, cases, computed, dtype_name
from .options import DTYPES, add_picture_format, add_run_options, check_names, make_parser, positive
from .report.rows import flop_unit

BACKENDS = {
    "triton": "the fused kernels",
    "eager": "the eager definition",
    "separate": "a convolution of torch's, then the operator",
    "library": "cuDNN and cuBLAS",
}
LIBRARIES = ("cudnn", "cublas", "torch")
PRODUCT_SIZE = {"cuda": 8192, "cpu": 1024}
PRODUCT_REPEATS = {"cuda": 10, "cpu": 3}


class Ceilings(NamedTuple):
    """What the machine can do at best: copy memory, and multiply large square matrices.

    Attributes:
        copy: bytes a second of a large copy, those read and those written counted.
        matmul: operations a second of a large matrix product, by name of its arithmetic.
    """

    copy: float
    matmul: dict[str, float]

    def attained_percent(self, seconds: float, moved: int, flops: int, arithmetic: str) -> float:
        """Percent of the lower roof at this intensity that a measured time attains."""
        return 100 * max(moved / self.copy, flops / self.matmul[arithmetic]) / seconds

    def as_row(self) -> dict:
        return {
            "copy_gb_per_s": round(self.copy / 1e9, 1),
            "matmul_tflop_per_s": {n: round(f / 1e12, 4) for n, f in self.matmul.items()},
        }


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Both roofs of a device, for operators on ``dtype`` and on float32."""
    matmul = {dtype_name(dtype): matmul_rate(dtype, device)}
    if device.type == "cuda":
        for other in (torch.bfloat16, torch.float16):
            matmul.setdefault(dtype_name(other), matmul_rate(other, device))
        with backends.tf32_allowed(convolutions=True, products=True):
            matmul["tf32"] = matmul_rate(torch.float32, device)
    with backends.tf32_allowed(convolutions=False, products=False):
        matmul["float32"] = matmul_rate(torch.float32, device)
    return Ceilings(harness.copy_bandwidth(device), matmul)


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a product of two large square matrices."""
    size = PRODUCT_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=out)

    repeats = PRODUCT_REPEATS[device.type]
    seconds = harness.interleaved({"matmul": multiply}, _clock(device), repeats)["matmul"]
    return 2 * size**3 / statistics.median(seconds)


def _clock(device: torch.device) -> Callable[[Callable[[], None]], float]:
    if device.type == "cuda":
        return harness.device_seconds
    return lambda work: harness.wall_seconds(work, device)


class Plan(NamedTuple):
    """How every case of a run is measured. without: backends that are not."""

    dtype: torch.dtype
    device: torch.device
    repeats: int
    ceilings: Ceilings
    without: tuple[str, ...] = ()


def measure_case(case: Case, plan: Plan) -> list[dict]:
    """Rows of all passes and variants: each checked, then timed in turns. One that fails or
    computes something else gets no times."""
    rows: list[dict] = []
    for step in case.passes:
        found = [variant for variant in case.variants if variant.backend not in plan.without]
        new = [_empty_row(case, step, variant, plan) for variant in found]
        with harness.noting(*new):  # the next pass may fit into memory
            _fill(case, step, plan, list(zip(found, new, strict=True)))
        rows += fastest(new)
        harness.release(plan.device)
    now = harness.clocks(plan.device)
    return [row | {"clocks": now} for row in rows]


def _empty_row(case: Case, step: Pass, variant: Variant, plan: Plan) -> dict:
    return {
        "operator": case.operator,
        "kind": case.kind,
        "pass": step.name,
        "backend": variant.backend,
        "shape": list(case.shape),
        "detail": ", ".join(text for text in (case.detail, step.note) if text),
        "users": case.users,
        "tile": variant.tile,
        "dtype": dtype_name(plan.dtype),
        "arithmetic": case.arithmetic,
        "bytes": step.moved,
        "flops": step.flops,
        "times": {},
        "gb_per_s": None,
        "tflop_per_s": None,
        "attained_percent": None,
        "problems": [],
    }


def fastest(rows: list[dict]) -> list[dict]:
    """One row a backend: that of its fastest tile, with the times and problems of all tiles."""
    by_backend: dict[str, list[dict]] = {}
    for row in rows:
        by_backend.setdefault(row["backend"], []).append(row)
    return [_merged(tiles) for tiles in by_backend.values()]


def _merged(tiles: list[dict]) -> dict:
    if len(tiles) == 1:
        return tiles[0]
    best = min(tiles, key=lambda row: row["times"].get("median_us", float("inf")))
    medians = {row["tile"]: row["times"].get("median_us") for row in tiles}
    problems = [f"tile {row['tile']}: {text}" for row in tiles for text in row["problems"]]
    return best | {"tiles_us": medians, "problems": problems}


def _fill(case: Case, step: Pass, plan: Plan, variants: list[tuple[Variant, dict]]) -> None:
    first = case.draw()
    for operand, tensor in first.operands._asdict().items():
        if tensor is not None and tensor.is_floating_point():
            tensor.requires_grad_(operand in step.wanted)
    expected = case.expected(first)
    # TF32 has the unit of float16.
    unit = torch.float16 if case.arithmetic == "tf32" else plan.dtype
    for variant, row in variants:
        with harness.noting(row):
            errors = operands.errors(computed(variant.run, first.copy(plan.dtype)), expected)
            row["tolerance"] = operands.tolerance(unit)
            harness.compare(row, errors)
    del expected
    sound = [(variant, row) for variant, row in variants if not row["problems"]]
    if sound:
        _time(case, step, plan, sound, first)


def _time(
    case: Case, step: Pass, plan: Plan, variants: list[tuple[Variant, dict]], first: Call
) -> None:
    """Cold caches; by graph replay on a GPU, by the wall's clock on a CPU."""
    on_gpu = plan.device.type == "cuda"
    touched = plan.dtype.itemsize * case.elements
    count = operands.cold_sets(touched, harness.l2_bytes(plan.device))
    sets = [first.copy(plan.dtype) for _ in range(count)]
    options = {"hot": False, "calls": None if on_gpu else operands.CPU_CALLS}
    sweeps, works = [], {}
    for number, (variant, _) in enumerate(variants):
        one = operands.Sweep(variant.run, sets, training=step.name != "evaluation", **options)
        sweeps.append(one)
        if step.name == "backward":
            one.prepare()
        work = one.backward if step.name == "backward" else one.forward
        work()  # whatever is done once, such as choosing a kernel
        works[number] = work
    if on_gpu:
        works = harness.graph_replays(works, dict(enumerate(row for _, row in variants)))
    for number, seconds in harness.interleaved(works, _clock(plan.device), plan.repeats).items():
        row, calls = variants[number][1], sweeps[number].calls
        row["times"] = harness.spread(seconds, calls)
        row["calls"] = [len(sets), calls]
        median = row["times"]["median_us"] * 1e-6
        least = step.moved, step.flops, case.arithmetic
        row["gb_per_s"] = round(step.moved / median / 1e9, 3)
        row["tflop_per_s"] = round(step.flops / median / 1e12, 6)
        row["attained_percent"] = round(plan.ceilings.attained_percent(median, *least), 2)


def by_distance(rows: Iterable[dict]) -> list[dict]:
    """Rows that were timed, those farthest below their roof first."""
    timed = [row for row in rows if row["attained_percent"] is not None]
    return sorted(timed, key=lambda row: row["attained_percent"])


def roof_of(row: dict) -> str:
    """Which of the two roofs is the lower one at a row's intensity."""
    ceilings = row["ceilings"]
    memory = row["bytes"] / (ceilings["copy_gb_per_s"] * 1e9)
    product = row["flops"] / (ceilings["matmul_tflop_per_s"][row["arithmetic"]] * 1e12)
    return "memory" if memory >= product else row["arithmetic"]


def table(rows: Sequence[dict]) -> Table:
    """One line a row: its time, its rates, and what percentage of its roof that is.

    The last column is the time above that of the roof: what a perfect kernel would save.
    """
    unit, factor = flop_unit(rows[0])

    def above(row: dict) -> str:
        return f"{row['times']['median_us'] * (1 - row['attained_percent'] / 100):.1f}"

    columns = {
        "operator": lambda row: words(row, "operator", "kind"),
        "pass": lambda row: row["pass"],
        "backend": lambda row: row["backend"],
        "shape": lambda row: words(row, "shape", "detail"),
        "us": lambda row: f"{row['times']['median_us']:.1f}",
        "GB/s": lambda row: f"{row['gb_per_s']:.0f}",
        unit: lambda row: f"{factor * row['tflop_per_s']:,.2f}",
        "roof": roof_of,
        "% of roof": lambda row: f"{row['attained_percent']:.0f}",
        "us above it": above,
    }
    title = "farthest below the roof first; cold caches"
    return harness.console_table(title, by_distance(rows), columns, words=4)


def label(row: dict) -> str:
    """A row's case in words."""
    return words(row, "operator", "kind", "shape", "detail", "pass", "backend")


def words(row: dict, *names: str) -> str:
    """Some columns of a row, empty ones left out."""
    shown = row | {"shape": "x".join(map(str, row["shape"]))}
    return " ".join(shown[name] for name in names if shown[name])


def main(argv: list[str]) -> int:
    """Measure, print, draw, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    dtype = getattr(torch, options.dtype)
    if options.list:
        device = torch.device("cpu" if options.cpu else "cuda")
        for case in cases(options.operators, dtype, device)[: options.max_cases]:
            print(f"{case}  ({case.users})")
        return 0
    device = harness.chosen_device(options.cpu)
    without = left_out(options, device)
    chosen = cases(options.operators, dtype, device)[: options.max_cases]
    chosen = [case for case in chosen if any(v.backend not in without for v in case.variants)]
    if not chosen:
        raise UserError(
            f"backends {', '.join(options.backends)} compute none of the operators "
            f"{', '.join(options.operators)}; leave one of the two options out"
        )
    harness.use_capturing_stream(device)
    # cuDNN measures its algorithms once for each shape, as in training.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    console = make_console()
    path = options.out or harness.default_path(harness.device_name(device), "roofline")
    harness.check_writable(path)
    roofs = measure_ceilings(device, dtype)
    settings = {
        "repeats": options.repeats,
        "cold_l2_sizes": operands.COLD_L2_SIZES,
        "dtype": options.dtype,
        "left_out": list(without),
        "clock": "graph" if device.type == "cuda" else "wall",
    }
    head = harness.row_head("roofline", device, settings) | {"ceilings": roofs.as_row()}
    rates, (unit, factor) = head["ceilings"]["matmul_tflop_per_s"], flop_unit(head)
    products = ", ".join(f"{name} at {factor * rate:,.1f} {unit}" for name, rate in rates.items())
    console.print(
        f"{head['machine']['device']}, copies at {head['ceilings']['copy_gb_per_s']} GB/s, "
        f"products in {products} -> {path}",
        highlight=False,
        soft_wrap=True,
    )
    plan = Plan(dtype, device, options.repeats, roofs, without)
    outcome = harness.measure_all(
        chosen,
        lambda case: measure_case(case, plan),
        head,
        path,
        options,
        console,
        brief,
    )
    failures, timed = harness.failures(outcome.rows, label), by_distance(outcome.rows)
    if timed:
        show(console, table(timed))
    outcome.print_lists(console, {"failures": failures})
    if timed:
        rows = harness.measured_rows(path, head) if options.resume else outcome.rows
        said = draw(rows, path.with_name("roofline"), options.picture_format)
        console.print(said, highlight=False, soft_wrap=True)
    return outcome.status(failures)


def brief(rows: list[dict]) -> str:
    """Time and percentage of the roof of each row."""
    parts = []
    for row in rows:
        text = "failed"
        if row["times"]:
            text = f"{row['times']['median_us']:.1f} us ({row['attained_percent']:.0f} %)"
        note = " to the weight" if row["detail"].endswith("to the weight") else ""
        parts.append(f"{row['backend']} {row['pass']}{note} {text}")
    return ", ".join(parts)


def draw(rows: list[dict], stem: Path, picture_format: PictureFormat) -> str:
    """Draw the rows that were timed. Returns what to say of it."""
    try:
        from ..train.plots import save_as
        from .report.plots import draw_roofline
    except ImportError as error:
        return f"no picture: {error}"
    figure = draw_roofline([row for row in rows if row["times"]])
    return f"picture: {save_as(figure, stem, picture_format)}"


def left_out(options, device: torch.device) -> tuple[str, ...]:
    """Names of backends, as in rows, that are not measured."""
    names = options.backends
    if names is None:
        names = [n for n in BACKENDS if n != "triton" or device.type == "cuda"]
    if "triton" in names and device.type == "cpu" and not backends.interpreting():
        raise UserError(
            "backends has 'triton', whose kernels run on a GPU; leave it out with --cpu, or set "
            "TRITON_INTERPRET=1 (which times the interpreter, not the kernels)"
        )
    without = [name for name in BACKENDS if name not in names]
    return tuple(n for name in without for n in (LIBRARIES if name == "library" else (name,)))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("bench roofline", __doc__)
    add = parser.add_argument
    operator_help = ", ".join(OPERATORS)
    add("--operators", nargs="+", metavar="NAME", default=OPERATORS, help=operator_help)
    backend_help = ", ".join(f"{name} ({text})" for name, text in BACKENDS.items())
    add("--backends", nargs="+", metavar="NAME", help=f"{backend_help}; default: what runs here")
    add("--max-cases", type=positive, help="measure the first so many alone")
    add("--dtype", choices=DTYPES, help="of activations (bfloat16; float32 with --cpu)")
    add("--repeats", type=positive, default=20, help="rounds of each timing (20)")
    add_run_options(parser, "roofline", 1800)
    add_picture_format(parser)
    options = parser.parse_args(argv)
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    check_names("operators", options.operators, OPERATORS)
    check_names("backends", options.backends or (), BACKENDS)
    return options
