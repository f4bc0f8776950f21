"""Time whole steps of the networks: training, evaluation and PGD.

    scotoma bench step [options]

Standard and defective networks, at several batch sizes, run in several variants: plain PyTorch,
torch.compile, the fused operators, and each of them as one CUDA graph. All variants of a case are
built first, their losses compared, and then timed in turns, by Python's clock over windows of many
steps. Rows of results, with the device, versions, commit and clocks, are appended to a file of JSON
lines; a table of each case follows, and the cases in which a rival is the fastest.

--model measures a network of your own instead. In the fused variants its batch norms are
fused, with an addition and ReLU after them; what cannot be fused stays as it is, and is said.

    scotoma bench step --model torchvision:resnet50 --batch 64

Exit status: 0; 1 if a variant failed or computed something else; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Sequence
from functools import partial
from itertools import product

import torch
from rich.table import Table

from ..defective.graph import WARM_UP
from ..defective.models import model_names
from ..kernels import backends
from ..train.data import ResidentBatches
from ..train.screen import show
from . import harness
from .harness import figure
from .model import Model, chosen_model, refuse_ours
from .options import Names, add_run_options, add_windows, fill_in, make_parser, positive
from .report.rows import grouped
from .variants import (
    ON_CPU,
    ON_GPU,
    VARIANTS,
    WORKS,
    Case,
    NetworkRun,
    add_network_options,
    checked_networks,
    chosen_variants,
    random_images,
)

STANDARD = "standard"
BASE = "eager"
FIRST = 2
"""Steps before memory is measured: they compile and try out algorithms."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}
"""Of the relative difference in loss to the first variant, over a few steps of training."""


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    model = chosen_model(options)
    cases = chosen_cases(options, model)
    if options.list:
        for case in cases:
            print(f"{case} ({', '.join(case.defects)})")
        return 0
    device = harness.chosen_device(options.cpu)
    usual = ON_GPU if device.type == "cuda" else ON_CPU
    names = chosen_variants(options.variants, usual, device, model)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        backends.allow_tf32(convolutions=True, products=True)
    settings = {"windows": options.windows, "window_seconds": options.window_seconds}
    settings |= {"contestants": list(names), "defects": list(options.defects)}
    run = harness.Run("step", options, device, settings)
    if model is not None:
        show(run.console, f"{model.name}: {model.text}")
    run.announce(", ".join(names))
    how = {"names": names, "device": device, "options": options}
    rows = run.measure(cases, partial(measure, **how), brief)
    for (case,), found in grouped(rows, "case").items():
        show(run.console, table(case, found))
    slower = harness.slower_cases(rows, "fused", "defects")
    return run.finish(lambda row: f"{row['case']} {row['defects']}: {row['contestant']}", slower)


def chosen_cases(options, model: Model | None) -> list[Case]:
    """Cases in the order in which they matter: training first, then by batch size as given."""
    networks = options.networks if model is None else [model.name]
    size = options.image_size if model is None else model.image_size
    how = options.dtype, size, options.width, model
    return [
        Case(arch, options.defects, batch, work, *how)
        for work, batch, arch in product(options.work, options.batch, networks)
    ]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("bench step", __doc__, {"works": WORKS, "variants": VARIANTS})
    add = parser.add_argument
    names = {"action": Names, "nargs": "+"}
    add("--networks", **names, known=model_names(), help="default: all six")
    add("--defects", nargs="+", metavar="SPEC", help="of each network (standard 0.3-Bottom)")
    add("--batch", nargs="+", type=positive, metavar="N", help="batch sizes (512 128 1024)")
    works = {"metavar": "WORK", "default": tuple(WORKS), "help": "default: all three"}
    add("--work", **names, known=WORKS, **works)
    add_network_options(parser, ON_GPU)
    add_windows(parser, "9; 3 with --cpu")
    add_run_options(parser, "step", 3600)
    options = parser.parse_args(argv)
    fill_in(options, dtype=("float32", "bfloat16"), windows=(3, 9))
    if options.model is not None:
        refuse_ours(options, "networks", "defects", "width")
        fill_in(options, batch=([4], [128, 64]))
        options.defects = (STANDARD,)
        return options
    fill_in(options, batch=([16], [512, 128, 1024]))
    options.networks = options.networks or model_names()
    defects = options.defects or [STANDARD, "0.3-Bottom"]
    options.defects = checked_networks(options, options.networks, defects)
    return options


def measure(
    case: Case, names: Sequence[str], device: torch.device, options: argparse.Namespace
) -> list[dict]:
    """Rows of some variants and all defects; the first is what the others are compared with.

    All are kept in memory at once, so that they can be timed in turns; where that is too much,
    one variant after the other, with all its defects in turns.
    """
    from torch._dynamo import config as dynamo_config

    data = random_images(case, device)
    # One entry of the compiler's cache for each variant, defects and mode.
    with dynamo_config.patch(recompile_limit=64):
        try:
            return _measure(case, names, device, options, data, in_turns=True)
        except torch.OutOfMemoryError:
            _release(device)
        rows = []
        for name in names:
            try:
                rows += _measure(case, [name], device, options, data, in_turns=False)
            except torch.OutOfMemoryError as error:
                found = [_row(case, name, defects) for defects in case.defects]
                rows += [row | {"problems": [harness.named(error)]} for row in found]
                _release(device)
    _compare(rows, case)
    return _with_overheads(rows)


def _measure(
    case: Case, names: Sequence[str], device, options, data: ResidentBatches, in_turns: bool
) -> list[dict]:
    torch.compiler.reset()
    runs: dict[tuple[str, str], NetworkRun] = {}
    rows = {key: _row(case, *key) for key in product(names, case.defects)}
    try:
        for key, row in rows.items():
            row["in_turns"] = in_turns
            # A rival that cannot run here is a result too; the others go on.
            with harness.noting(row, but=torch.OutOfMemoryError):
                runs[key] = _prepared(*key, case, data, device, row)
        if in_turns:
            _compare(list(rows.values()), case)
        sound = {key: one.run for key, one in runs.items() if not rows[key]["problems"]}
        steps = {
            key: harness.calls_in(run, device, options.window_seconds, least=2)
            for key, run in sound.items()
        }
        samples = harness.time_in_turns(sound, steps, device, options.windows)
        for key, seconds in samples.items():
            times = harness.spread(seconds, steps[key] * runs[key].units)
            speed = round(case.batch_size / times["median_us"] * 1e6, 1)
            rows[key] |= {"times": times, "images_per_s": speed}
    finally:
        for one in runs.values():
            one.close()
        runs.clear()
        _release(device)
    now = harness.clocks(device)
    return _with_overheads([row | {"clocks": now} for row in rows.values()])


def _row(case: Case, name: str, defects: str) -> dict:
    later = dict.fromkeys(("images_per_s", "peak_bytes", "prepare_s", "mask_overhead_percent"))
    return case.as_row(name, defects) | {"losses": [], "times": {}, "problems": []} | later


def _prepared(
    name: str, defects: str, case: Case, data: ResidentBatches, device: torch.device, row: dict
) -> NetworkRun:
    """A variant ready to be timed; its losses, memory and preparation time go to ``row``."""
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    start = time.perf_counter()
    one = NetworkRun(name, case, defects, data, device)
    losses = one.warm_up(FIRST)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    losses += one.warm_up(WARM_UP)
    row["prepare_s"] = round(time.perf_counter() - start, 3)
    row["losses"] = [loss if math.isfinite(loss) else None for loss in losses]
    if on_gpu:
        row["peak_bytes"] = torch.cuda.max_memory_allocated(device) - before
    return one


def _compare(rows: list[dict], case: Case) -> None:
    """A time of a wrong result is worth nothing: losses must be those of the first variant."""
    allowed, first = TOLERANCE[case.dtype], {}
    for row in rows:
        losses = row["losses"]
        if None in losses:
            row["problems"].append("the loss is not finite")
        # The loader's workers draw their own order and crops.
        elif losses and not VARIANTS[row["contestant"]].released:
            pairs = zip(losses, first.setdefault(row["defects"], losses), strict=True)
            worst = max(abs(a - b) / max(abs(b), 0.1) for a, b in pairs)
            if worst > allowed:
                row["problems"].append(
                    f"losses differ from the first variant's by {worst:.2g}, allowed {allowed:.2g}"
                )
                row |= {"times": {}, "images_per_s": None}


def _with_overheads(rows: list[dict]) -> list[dict]:
    """How much longer a step takes with masks than without, in the same variant."""
    plain = {r["contestant"]: r["times"].get("median_us") for r in rows if r["defects"] == STANDARD}
    for row in rows:
        base, own = plain.get(row["contestant"]), row["times"].get("median_us")
        if row["defects"] != STANDARD and base and own:
            row["mask_overhead_percent"] = round(100 * (own / base - 1), 2)
    return rows


def _release(device: torch.device) -> None:
    torch.compiler.reset()
    gc.collect()
    harness.release(device)


def brief(rows: list[dict]) -> str:
    """Milliseconds of each variant, its defects side by side."""
    parts: dict[str, list[str]] = {}
    for row in rows:
        median = row["times"].get("median_us")
        text = "failed" if median is None else f"{median / 1e3:.2f}"
        parts.setdefault(row["contestant"], []).append(text)
    return ", ".join(f"{name} {' '.join(times)}" for name, times in parts.items()) + " ms"


def table(case: str, rows: Sequence[dict]) -> Table:
    """Every variant of a case and its defects, with its speed relative to one of them."""
    # On a CPU variants are compared with torch's defaults.
    first = rows[0]["contestant"]
    against = first if first == "contiguous" else BASE
    base = {r["defects"]: r["times"].get("median_us") for r in rows if r["contestant"] == against}

    def faster(row: dict) -> str:
        own, other = row["times"].get("median_us"), base.get(row["defects"])
        return f"{other / own:.2f}" if own and other else "-"

    def milliseconds(row: dict, *names: str) -> str:
        return "-".join(f"{row['times'][name] / 1e3:.3f}" for name in names)

    columns = {
        "variant": lambda row: row["contestant"],
        "defects": lambda row: row["defects"],
        "step ms": lambda row: milliseconds(row, "median_us") if row["times"] else "failed",
        "p10-p90": lambda row: milliseconds(row, "p10_us", "p90_us") if row["times"] else "",
        "images/s": lambda row: figure(row["images_per_s"], ",.0f"),
        f"x {against}": faster,
        "masks cost %": lambda row: figure(row["mask_overhead_percent"], "+.1f"),
        "peak GiB": lambda row: figure(row["peak_bytes"], ".2f", 2**-30),
    }
    return harness.console_table(f"{case}, {rows[0]['machine']['device']}", rows, columns, words=2)
