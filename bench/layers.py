"""Time the operator ``relu(mask * BN(x) + residual)`` where the six networks use it.

    scotoma bench layers [options]

The fused kernels against eager (in bfloat16, and in float16 with cuDNN's batch norm),
torch.compile and the reference as it was released, under naive autocast: forward, backward and
both, with cold and hot caches, by Python's clock and under CUDA graph replay, in turns. Each result
is first compared with float64. Rows of results, with the device, versions, commit and clocks, are
appended to a file of JSON lines; a table follows, and the cases in which the fused kernels are the
slower ones.

Sites are four shapes to compare by (headline), those of the networks at 32 pixels (networks) and at
224 (imagenet), or any that --shape names, such as those of a network of your own. In evaluation,
backward goes to the inputs alone, as an attack needs it, and "both" is forward and backward of an
attack; in training it reaches the parameters too.

Exit status: 0; 1 if a variant failed or computed something else; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..defective import create_model
from ..defective.errors import UserError
from ..defective.layers import BNMaskReLU
from ..defective.models import ARCHITECTURES, model_names
from ..kernels import backends
from ..train.screen import make_console, show
from . import harness, operands
from .harness import Outcome, figure
from .operands import CPU_CALLS, KINDS, MODES, PASSES, Call, OpShape, Sweep
from .options import DTYPES, add_run_options, add_variants, check_names, make_parser, positive
from .report.rows import by_site

OURS = "ours"
VARIANTS = {
    "ours": "the fused Triton kernels",
    "eager": "the eager definition",
    "eager-fp16": "the eager definition in float16, where torch takes cuDNN's batch norm",
    "compile": "torch.compile of the eager definition",
    "max-autotune": "torch.compile(mode='max-autotune-no-cudagraphs') of the eager definition",
    "released": "the reference's layer under naive autocast, whose masks are float32",
}
SITES = ("all", "headline", "networks", "imagenet")
BATCH, IMAGENET_BATCH, IMAGENET_SIZE = 128, 64, 224
HEADLINE_SHAPES = ((128, 64, 32, 32), (512, 64, 32, 32), (128, 128, 16, 16), (64, 256, 56, 56))
SMALL_SHAPES = ((4, 16, 8, 8), (2, 12, 7, 7))
"""What a CPU can do in a moment."""


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    if options.list:
        for op in chosen_ops(options):
            print(f"{op}  ({op.users})")
        return 0
    device = harness.chosen_device(options.cpu)
    names = chosen_variants(options, device)
    ops = chosen_ops(options)
    harness.use_capturing_stream(device)
    console = make_console()
    outcome = run(options, names, ops, device, console)
    failures = harness.failures(
        outcome.rows, lambda row: f"{row['site']['name']}: {row['contestant']}"
    )
    report(outcome, failures, console)
    return outcome.status(failures)


def run(options, names, ops: list[OpShape], device: torch.device, console: Console) -> Outcome:
    """Measure the operators, keeping every row."""
    from torch._functorch import config as compiler_config

    path = options.out or harness.default_path(harness.device_name(device), "layers")
    copy = harness.copy_bandwidth(device)
    settings = {"repeats": options.repeats, "cold_l2_sizes": operands.COLD_L2_SIZES}
    settings |= {"dtype": options.dtype, "contestants": list(names)}
    head = harness.row_head("layers", device, settings) | {"copy_gb_per_s": round(copy / 1e9, 1)}
    plan = Plan(names, getattr(torch, options.dtype), device, options.repeats, copy)
    console.print(f"{head['machine']['device']}, copies at {head['copy_gb_per_s']} GB/s -> {path}")
    # A backward is timed many times over one forward, which donated buffers forbid.
    with compiler_config.patch(donated_buffer=False):
        return harness.measure_all(
            ops,
            lambda op: measure(op, plan),
            head,
            path,
            options,
            console,
            brief,
        )


def brief(rows: list[dict]) -> str:
    """Forward and backward of each variant, cold, in microseconds."""
    parts = []
    for row in rows:
        clock = "graph" if "graph" in row["times"].get("cold", {}) else "wall"
        times = [median(row, "cold", clock, step) for step in ("forward", "backward")]
        text = "failed" if None in times else f"{times[0]:.1f}+{times[1]:.1f}"
        parts.append(f"{row['contestant']} {text}")
    return ", ".join(parts)


def report(outcome: Outcome, failures: list[str], console: Console) -> None:
    rows = outcome.rows
    if rows:
        show(console, table(rows))
    slower = slower_cases(rows)
    outcome.print_lists(console, {"failures": failures, "slower cases": slower})
    if not slower and any(row["contestant"] == OURS and row["times"] for row in rows):
        console.print("no slower case")


def chosen_ops(options) -> list[OpShape]:
    """Each form once, in the first group that has it; all in training before any in evaluation."""
    groups = SITES[1:] if options.sites == "all" else (options.sites,)
    found: dict[tuple, OpShape] = {}
    for group in groups:
        for op in _group(group, options):
            found.setdefault(op.form, op)
    ops = list(found.values())[: options.max_sites]
    modes = MODES if options.mode == "both" else (options.mode,)
    return [replace(op, mode=mode) for mode in modes for op in ops]


def _group(name: str, options) -> list[OpShape]:
    if name == "shape":
        return headline_ops(options.shape, "--shape")
    if name == "headline":
        return headline_ops(SMALL_SHAPES if options.cpu else HEADLINE_SHAPES)
    if name == "networks":
        return network_ops(options.networks, options.batch or BATCH, options.image_size)
    return network_ops(options.networks, options.batch or IMAGENET_BATCH, IMAGENET_SIZE)


def chosen_variants(options, device: torch.device) -> tuple[str, ...]:
    """The names asked for, or the usual ones that can run here."""
    names = options.variants
    can_run = device.type == "cuda" or backends.interpreting()
    if names is None:
        names = ["eager", "compile"]
        if device.type == "cuda":
            names = list(VARIANTS)
            if options.dtype == "float16":
                names.remove("eager-fp16")  # which eager is already
            if options.dtype == "float32":
                names.remove("released")  # which is eager, with nothing to cast
    if "ours" in names and not can_run:
        raise UserError(
            "variants has 'ours', whose kernels run on a GPU; leave it out with --cpu, or set "
            "TRITON_INTERPRET=1 (which times the interpreter, not the kernels)"
        )
    return tuple(dict.fromkeys(names))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("bench layers", __doc__)
    add = parser.add_argument
    add("--sites", choices=SITES, help="default: all; headline with --cpu")
    add("--shape", action="append", metavar="NxCxHxW", help="this one instead; may be repeated")
    add("--mode", choices=(*MODES, "both"), default="training", help="default: training")
    add("--networks", nargs="+", metavar="NAME", default=model_names(), help="default: all six")
    add(
        "--batch",
        type=positive,
        help=f"of the networks' sites ({BATCH}; {IMAGENET_BATCH} imagenet)",
    )
    add(
        "--image-size", type=positive, default=32, help="of the networks' images, not imagenet (32)"
    )
    add("--max-sites", type=positive, help="measure the first so many alone, in each mode")
    dtypes = "of activations (bfloat16; float32 with --cpu)"
    add("--dtype", choices=DTYPES, help=dtypes)
    add_variants(parser, ", ".join(VARIANTS))
    add("--repeats", type=positive, default=20, help="rounds of each timing (20)")
    add_run_options(parser, "layers", 3600)
    options = parser.parse_args(argv)
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    if options.shape:
        if options.sites:
            raise UserError("shape is measured instead of sites; leave one of the two out")
        options.shape = [parse_shape(text) for text in options.shape]
        options.sites = "shape"
    options.sites = options.sites or ("headline" if options.cpu else "all")
    check_names("networks", options.networks, model_names())
    check_names("variants", options.variants or (), VARIANTS)
    return options


def parse_shape(text: str) -> tuple[int, int, int, int]:
    """A shape from the command line. Raises UserError."""
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)", text)
    shape = tuple(map(int, found.groups())) if found else ()
    if not shape or 0 in shape:
        raise UserError(
            f"shape is {text!r}; expected batch, channels, height and width, each at least 1, such "
            "as 64x256x56x56"
        )
    return shape


def headline_ops(shapes=HEADLINE_SHAPES, users: str = "headline") -> list[OpShape]:
    """The operator on some shapes, with nothing, a residual or a projection added."""
    return [OpShape(kind, shape, users=users) for shape in shapes for kind in KINDS]


def network_ops(networks, batch: int, image_size: int) -> list[OpShape]:
    """The distinct operators of some networks, those first that hold most of their activations.

    Found by a run on the meta device, which computes nothing. One counts as masked if some
    placement masks it in some network.
    """
    counts: dict[tuple, Counter] = {}
    masked: set[tuple] = set()

    for name in networks:
        for regularizer, at_all in (
            ("none", True),
            # SpatialDropout parts batch norm from its ReLU.
            ("spatial-dropout", bool(ARCHITECTURES[name].regularized_blocks)),
        ):
            if not at_all:
                continue
            for form, maskable in _forms(name, regularizer, image_size):
                # Regularised, a network has its other sites once more.
                if regularizer == "none" or not form[1]:
                    counts.setdefault(form, Counter())[name] += 1
                if maskable:
                    masked.add(form)

    def activations(form) -> int:
        return -sum(counts[form].values()) * form[2] * form[3] * form[4]

    return [
        OpShape(
            kind=form[0],
            relu=form[1],
            masked=form in masked,
            shape=(batch, *form[2:]),
            users=", ".join(f"{name} x{count}" for name, count in counts[form].items()),
        )
        for form in sorted(counts, key=activations)
    ]


def _forms(name: str, regularizer: str, image_size: int) -> list[tuple[tuple, bool]]:
    """(kind, relu, C, H, W) of every call in a network, and whether a placement can mask it."""
    found = []

    def look(module: BNMaskReLU, args, kwargs, out) -> None:
        given = dict(zip(("x", "residual", "projection", "relu"), args, strict=False)) | kwargs
        kind, maskable = "none", module.block is not None
        if given.get("residual") is not None:
            kind = "residual"
        elif given.get("projection") is not None:
            kind = "projection"
            maskable = maskable or given["projection"][1].block is not None
        found.append(((kind, given.get("relu", True), *out.shape[1:]), maskable))

    with torch.device("meta"):
        model = create_model(name, image_size=image_size, regularizer=regularizer)
        for module in model.modules():
            if isinstance(module, BNMaskReLU):
                module.register_forward_hook(look, with_kwargs=True)
        model.train()(torch.empty(2, 3, image_size, image_size))
    return found


@dataclass
class Variant:
    """One way to compute the operator.

    Attributes:
        run: the operator, called with the operands of a :class:`Call` in their order.
        dtype: of activations.
        adapt: gives operands the dtypes that they have in its network, where those differ.
    """

    name: str
    run: Callable[..., Tensor]
    dtype: torch.dtype
    adapt: Callable[[Call], Call] | None = None

    @property
    def data(self) -> Hashable:
        """Equal for variants that can be called on the same operands."""
        return self.dtype, self.adapt

    def own(self, call: Call) -> Call:
        """The values of a call in memory of its own, in the dtypes that this variant gets."""
        copied = call.copy(self.dtype)
        return copied if self.adapt is None else self.adapt(copied)


def variant(name: str, op: OpShape, dtype: torch.dtype) -> Variant:
    """One of ``VARIANTS`` of an operator."""
    if name == "released":
        return Variant(name, operands.released(op), dtype, operands.as_released(op))
    run = operands.operator(op, "triton" if name == "ours" else "eager")
    modes = {"compile": None, "max-autotune": "max-autotune-no-cudagraphs"}
    if name in modes:
        run = torch.compile(run, fullgraph=True, dynamic=False, mode=modes[name])
    return Variant(name, run, torch.float16 if name == "eager-fp16" else dtype)


def batch_norm_library(call: Call, training: bool) -> str:
    """Whose batch norm torch takes for these operands: "native" or "cudnn"."""
    o = call.operands
    running = (None, None) if training else (o.running_mean, o.running_var)
    enabled = torch.backends.cudnn.enabled
    with torch.no_grad():
        index = torch._batch_norm_impl_index(
            o.x[:2], o.weight, o.bias, *running, training, 0.0, 1e-5, enabled
        )[4]
    return {0: "native", 1: "cudnn", 2: "miopen"}.get(int(index), "unknown")


@dataclass(frozen=True)
class Plan:
    """How every operator of a run is measured."""

    names: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    repeats: int
    copy_bytes_per_second: float


def measure(op: OpShape, plan: Plan) -> list[dict]:
    """Rows of all variants. One that fails or computes something else gets no times."""
    torch.compiler.reset()
    variants = [variant(name, op, plan.dtype) for name in plan.names]
    rows = {one.name: _empty_row(op, one) for one in variants}
    with harness.noting(*rows.values()):  # the next one may fit into memory
        _fill(op, plan, variants, rows)
    harness.release(plan.device)
    now = harness.clocks(plan.device)
    return [row | {"clocks": now} for row in rows.values()]


def _empty_row(op: OpShape, one: Variant) -> dict:
    return {
        "site": {
            "name": str(op),
            "kind": op.kind,
            "relu": op.relu,
            "masked": op.masked,
            "shape": list(op.shape),
            "users": op.users,
        },
        "mode": op.mode,
        "contestant": one.name,
        "dtype": str(one.dtype).removeprefix("torch."),
        "bytes": operands.minimum_bytes(op, one.dtype.itemsize),
        "tolerance": operands.tolerance(one.dtype),
        "problems": [],
        "times": {},
    }


def _fill(op: OpShape, plan: Plan, variants: list[Variant], rows: dict) -> None:
    first = operands.draw(op, plan.dtype, plan.device)
    expected = operands.exact_results(op, first)
    for one in variants:
        # A rival that cannot run here is a result too; the others go on.
        with harness.noting(rows[one.name]):
            _check(one, op, first, expected, rows[one.name])
    del expected
    sound = [one for one in variants if not rows[one.name]["problems"]]
    for one in sound:
        call, row = one.own(first), rows[one.name]
        row["saved_bytes"] = operands.saved_bytes(one.run, call)
        row["saved_bytes_per_element"] = round(row["saved_bytes"] / op.elements, 3)
        row["peak_bytes"] = operands.peak_bytes(one.run, call)
    if sound:
        for cache in ("cold", "hot"):
            _time(op, plan, sound, first, rows, cache)


def _check(one: Variant, op: OpShape, first: Call, expected: dict, row: dict) -> None:
    """Compare one variant's results, which also compiles it."""
    call = one.own(first)
    if one.name.startswith(("eager", "released")):
        row["batch_norm"] = batch_norm_library(call, op.training)
    found = operands.results(one.run, call, without_gradients=not op.training)
    harness.compare(row, operands.errors(found, expected))


def _time(op: OpShape, plan: Plan, variants, first: Call, rows: dict, cache: str) -> None:
    hot = cache == "hot"
    on_gpu = plan.device.type == "cuda"
    sets = {}
    for one in {v.data: v for v in variants}.values():
        # The residual or second branch is read, the output written.
        tensors = 2 + (op.kind != "none")
        touched = tensors * op.elements * one.dtype.itemsize
        count = 1 if hot else operands.cold_sets(touched, harness.l2_bytes(plan.device))
        sets[one.data] = [one.own(first) for _ in range(count)]
    options = {"hot": hot, "calls": None if on_gpu else CPU_CALLS, "training": op.training}
    sweeps = {one.name: Sweep(one.run, sets[one.data], **options) for one in variants}
    clocks = {"wall": lambda work: harness.wall_seconds(work, plan.device)}
    if on_gpu:
        clocks["graph"] = harness.device_seconds
    for step in PASSES:
        for sweep in sweeps.values():
            if step == "backward":
                sweep.prepare()
            getattr(sweep, step)()  # whatever is done once, such as choosing a kernel
        for clock, seconds_of in clocks.items():
            works = {name: getattr(sweep, step) for name, sweep in sweeps.items()}
            if clock == "graph":
                works = harness.graph_replays(works, rows, f"{cache} {step}")
            samples = harness.interleaved(works, seconds_of, plan.repeats)
            for name, seconds in samples.items():
                row = rows[name]
                found = harness.spread(seconds, sweeps[name].calls)
                _rate(found, row["bytes"][step], plan.copy_bytes_per_second)
                row["times"].setdefault(cache, {}).setdefault(clock, {})[step] = found
            del works
        for sweep in sweeps.values():
            sweep.forget()
    for name, sweep in sweeps.items():
        rows[name].setdefault("calls", {})[cache] = [len(sweep.sets), sweep.calls]


def _rate(found: dict, least: int, copy_bytes_per_second: float) -> None:
    rate = least / (found["median_us"] * 1e-6)
    found["gb_per_s"] = round(rate / 1e9, 1)
    found["copy_percent"] = round(100 * rate / copy_bytes_per_second, 1)


def median(
    row: dict | None, cache: str, clock: str, step: str, name: str = "median_us"
) -> float | None:
    """Microseconds of a call, or another figure of it; None where it was not measured."""
    try:
        return row["times"][cache][clock][step][name]
    except (KeyError, TypeError):
        return None


def table(rows: Sequence[dict]) -> Table:
    """One line a site: the leader's times and how many times longer the others take.

    Ours leads; where it was not measured (on a CPU), the first variant does. Times are those of
    cold caches, under graph replay where there is one.
    """
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    leader = OURS if OURS in names else names[0]
    clock = "graph" if any("graph" in r.get("times", {}).get("cold", {}) for r in rows) else "wall"

    def time(site: tuple, step: str) -> str:
        return figure(median(site[1].get(leader), "cold", clock, step), ".1f")

    def copy_percent(site: tuple, step: str) -> str:
        return figure(median(site[1].get(leader), "cold", clock, step, "copy_percent"), ".0f")

    def ratios(site: tuple, name: str) -> str:
        found = (_ratio(site[1], name, leader, "cold", clock, step) for step in PASSES)
        return " ".join(figure(ratio, ".2f") for ratio in found)

    columns = {"site": lambda site: site[0]}
    for step in PASSES[:2]:
        columns[f"{step}\nus"] = partial(time, step=step)
        columns[f"{step}\n% of copy"] = partial(copy_percent, step=step)
    for name in names:
        if name != leader:
            columns[f"{name}\nfwd, bwd, both"] = partial(ratios, name=name)
    title = f"cold caches, {clock} times of {leader}; others in multiples of it"
    return harness.console_table(title, by_site(rows).items(), columns, words=1)


def _ratio(found, name: str, base: str, cache: str, clock: str, step: str) -> float | None:
    other = median(found.get(name), cache, clock, step)
    own = median(found.get(base), cache, clock, step)
    return None if other is None or own is None else other / own


def slower_cases(rows: Iterable[dict]) -> list[str]:
    """A line for each site and rival that is faster than ours in some way of measuring."""
    lines = []
    for site, found in by_site(rows).items():
        for name in found:
            cases = []
            for how in product(("cold", "hot"), ("graph", "wall"), PASSES):
                ratio = _ratio(found, name, OURS, *how)
                if name != OURS and ratio is not None and ratio < 1:
                    cases.append(f"{' '.join(how)} {1 / ratio:.2f}x")
            if cases:
                lines.append(f"{site}: slower than {name}: {', '.join(cases)}")
    return lines
