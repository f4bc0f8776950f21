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
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.table import Table

from ..defective.errors import UserError
from ..kernels import backends
from ..train.config import PictureFormat
from ..train.screen import show
from . import harness, operands
from .operands import dtype_name
from .operators import OPERATORS, Case, Pass, cases
from .options import DTYPES, Names, add_picture_format, add_run_options, make_parser, positive
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
    chosen = []
    for case in cases(options.operators, dtype, device)[: options.max_cases]:
        variants = [variant for variant in case.variants if variant.backend not in without]
        chosen += [replace(case, variants=variants)] if variants else []
    if not chosen:
        raise UserError(
            f"backends {', '.join(options.backends)} compute none of the operators "
            f"{', '.join(options.operators)}; leave one of the two options out"
        )
    harness.use_capturing_stream(device)
    # cuDNN measures its algorithms once for each shape, as in training.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    settings = {
        "repeats": options.repeats,
        "cold_l2_sizes": operands.COLD_L2_SIZES,
        "dtype": options.dtype,
        "left_out": list(without),
        "clock": "graph" if device.type == "cuda" else "wall",
    }
    run = harness.Run("roofline", options, device, settings)
    ceilings = run.head["ceilings"] = measure_ceilings(device, dtype)
    unit, factor = flop_unit(run.head)
    rates = ceilings["matmul_tflop_per_s"].items()
    products = ", ".join(f"{name} at {factor * rate:,.1f} {unit}" for name, rate in rates)
    run.announce(f"copies at {ceilings['copy_gb_per_s']:.1f} GB/s, products in {products}")
    how = {"dtype": dtype, "device": device, "repeats": options.repeats, "ceilings": ceilings}
    rows = run.measure(chosen, partial(measure_case, **how), brief)
    timed = by_distance(rows)
    if timed:
        show(run.console, table(timed))
    status = run.finish(
        lambda row: words(row, "operator", "kind", "shape", "detail", "pass", "backend")
    )
    if timed:
        stem = run.path.with_name("roofline")
        said = draw(run.kept() if options.resume else rows, stem, options.picture_format)
        run.console.print(said, soft_wrap=True)
    return status


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("bench roofline", __doc__)
    add = parser.add_argument
    operators = {"known": OPERATORS, "default": OPERATORS, "help": ", ".join(OPERATORS)}
    add("--operators", action=Names, nargs="+", **operators)
    backends = ", ".join(f"{name} ({text})" for name, text in BACKENDS.items())
    backends += "; default: what runs here"
    add("--backends", action=Names, known=BACKENDS, nargs="+", help=backends)
    add("--max-cases", type=positive, help="measure the first so many alone")
    add("--dtype", choices=DTYPES, help="of activations (bfloat16; float32 with --cpu)")
    add("--repeats", type=positive, default=20, help="rounds of each timing (20)")
    add_run_options(parser, "roofline", 1800)
    add_picture_format(parser)
    options = parser.parse_args(argv)
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    return options


def left_out(options, device: torch.device) -> tuple[str, ...]:
    """Names of backends, as in rows, that are not measured."""
    names = options.backends
    if names is None:
        names = [n for n in BACKENDS if n != "triton" or device.type == "cuda"]
    if "triton" in names:
        operands.check_kernels_run("backends", "triton", device)
    without = [name for name in BACKENDS if name not in names]
    return tuple(n for name in without for n in (LIBRARIES if name == "library" else (name,)))


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> dict:
    """What a device can do at best, for operators on ``dtype`` and on float32.

    Returns:
        copy_gb_per_s: of a large copy, bytes read and written counted.
        matmul_tflop_per_s: of a product of two large square matrices, by name of its arithmetic.
    """

    def rate(dtype: torch.dtype) -> float:
        size = PRODUCT_SIZE[device.type]
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        multiply = partial(torch.mm, left, right, out=torch.empty_like(left))
        seconds = harness.median_seconds(multiply, device, PRODUCT_REPEATS[device.type])
        return round(2 * size**3 / seconds / 1e12, 6)

    matmul = {dtype_name(dtype): rate(dtype)}
    if device.type == "cuda":
        for other in (torch.bfloat16, torch.float16):
            matmul.setdefault(dtype_name(other), rate(other))
        with backends.tf32_allowed(convolutions=True, products=True):
            matmul["tf32"] = rate(torch.float32)
    with backends.tf32_allowed(convolutions=False, products=False):
        matmul["float32"] = rate(torch.float32)
    return {"copy_gb_per_s": harness.copy_bandwidth(device), "matmul_tflop_per_s": matmul}


def roofs(row: dict, ceilings: dict) -> dict[str, float]:
    """The least seconds for a row's bytes ("memory") and for its operations (their arithmetic)."""
    rate = ceilings["matmul_tflop_per_s"][row["arithmetic"]]
    return {
        "memory": row["bytes"] / (ceilings["copy_gb_per_s"] * 1e9),
        row["arithmetic"]: row["flops"] / (rate * 1e12),
    }


def measure_case(
    case: Case, dtype: torch.dtype, device: torch.device, repeats: int, ceilings: dict
) -> list[dict]:
    """Rows of all passes and variants: each checked, then timed in turns. One that fails or
    computes something else gets no times."""
    rows: list[dict] = []
    for step in case.passes:
        new = [
            {
                "operator": case.operator,
                "kind": case.kind,
                "pass": step.name,
                "backend": variant.backend,
                "shape": list(case.shape),
                "detail": ", ".join(text for text in (case.detail, step.note) if text),
                "users": case.users,
                "tile": variant.tile,
                "dtype": dtype_name(dtype),
                "arithmetic": case.arithmetic,
                "bytes": step.moved,
                "flops": step.flops,
                "times": {},
                "gb_per_s": None,
                "tflop_per_s": None,
                "attained_percent": None,
                "problems": [],
            }
            for variant in case.variants
        ]
        with harness.noting(*new):  # the next pass may fit into memory
            _fill(case, step, new, dtype, device, repeats)
        for row in new:
            if row["times"]:
                seconds = row["times"]["median_us"] * 1e-6
                row["gb_per_s"] = round(step.moved / seconds / 1e9, 3)
                row["tflop_per_s"] = round(step.flops / seconds / 1e12, 6)
                least = max(roofs(row, ceilings).values())
                row["attained_percent"] = round(100 * least / seconds, 2)
        rows += fastest(new)
        harness.release(device)
    return rows


def fastest(rows: list[dict]) -> list[dict]:
    """One row a backend: that of its fastest tile, with the times and problems of all tiles."""
    by_backend: dict[str, list[dict]] = {}
    for row in rows:
        by_backend.setdefault(row["backend"], []).append(row)
    found = []
    for tiles in by_backend.values():
        best = min(tiles, key=lambda row: row["times"].get("median_us", float("inf")))
        if len(tiles) > 1:
            medians = {row["tile"]: row["times"].get("median_us") for row in tiles}
            problems = [f"tile {row['tile']}: {text}" for row in tiles for text in row["problems"]]
            best = best | {"tiles_us": medians, "problems": problems}
        found.append(best)
    return found


def _fill(
    case: Case,
    step: Pass,
    rows: list[dict],
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
) -> None:
    """Check all variants; time those that are right, with cold caches, by graph replay on a GPU, by
    the wall's clock on a CPU."""
    first = case.draw()
    for name, tensor in first.named().items():
        if tensor.is_floating_point():
            tensor.requires_grad_(name in step.wanted)
    expected = case.exact(first)
    # TF32 has the unit of float16.
    allowed = operands.tolerance(torch.float16 if case.arithmetic == "tf32" else dtype)
    for variant, row in zip(case.variants, rows, strict=True):
        with harness.noting(row):
            row["tolerance"] = allowed
            operands.check(row, variant.run, first.copy(dtype), expected)
    del expected
    count = operands.cold_sets(dtype.itemsize * case.elements, harness.l2_bytes(device))
    sets = [first.copy(dtype) for _ in range(count)]
    training = step.name != "evaluation"
    sweeps = {
        number: operands.Sweep(variant.run, sets, training=training)
        for number, variant in enumerate(case.variants)
        if not rows[number]["problems"]
    }
    each = "backward" if step.name == "backward" else "forward"
    clocks = ["graph" if device.type == "cuda" else "wall"]
    found = operands.timings(sweeps, each, clocks, device, repeats, dict(enumerate(rows)))
    for _, number, times in found:
        rows[number] |= {"times": times, "calls": [len(sets), sweeps[number].calls]}


def by_distance(rows: Iterable[dict]) -> list[dict]:
    """Rows that were timed, those farthest below their roof first."""
    timed = [row for row in rows if row["attained_percent"] is not None]
    return sorted(timed, key=lambda row: row["attained_percent"])


def roof_of(row: dict) -> str:
    """Which of the two roofs is the lower one at a row's intensity."""
    found = roofs(row, row["ceilings"])
    return max(found, key=found.get)


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


def words(row: dict, *names: str) -> str:
    """Some columns of a row, empty ones left out."""
    shown = row | {"shape": "x".join(map(str, row["shape"]))}
    return " ".join(shown[name] for name in names if shown[name])


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
