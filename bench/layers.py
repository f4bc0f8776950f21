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
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from ..defective import create_model
from ..defective.errors import UserError
from ..defective.layers import BNMaskReLU
from ..defective.models import ARCHITECTURES, model_names
from ..train.screen import show
from . import harness, operands
from .harness import figure
from .operands import KINDS, MODES, PASSES, Call, OpShape, Sweep, dtype_name
from .options import DTYPES, Names, add_run_options, add_variants, make_parser, positive
from .report.rows import by_contestant, by_site, layer_clock, layer_time, slower_sites

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
    from torch._functorch import config as compiler_config

    options = parse(argv)
    if options.list:
        for op in chosen_ops(options):
            print(f"{op}  ({op.users})")
        return 0
    device = harness.chosen_device(options.cpu)
    names = chosen_variants(options, device)
    harness.use_capturing_stream(device)
    settings = {"repeats": options.repeats, "cold_l2_sizes": operands.COLD_L2_SIZES}
    settings |= {"dtype": options.dtype, "contestants": list(names)}
    run = harness.Run("layers", options, device, settings)
    copy = run.head["copy_gb_per_s"] = harness.copy_bandwidth(device)
    run.announce(f"copies at {copy:.1f} GB/s")
    # A backward is timed many times over one forward, which donated buffers forbid.
    with compiler_config.patch(donated_buffer=False):
        rows = run.measure(chosen_ops(options), partial(measure, names=names, call=run), brief)
    if rows:
        show(run.console, table(rows))
    slower = slower_sites(rows)[1]
    status = run.finish(lambda row: f"{row['site']['name']}: {row['contestant']}", slower)
    if not slower and any(row["contestant"] == OURS and row["times"] for row in rows):
        run.console.print("no slower case")
    return status


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("bench layers", __doc__)
    add = parser.add_argument
    add("--sites", choices=SITES, help="default: all; headline with --cpu")
    shapes = "this one instead; may be repeated"
    add("--shape", action="append", type=_shape, metavar="NxCxHxW", help=shapes)
    add("--mode", choices=(*MODES, "both"), default="training", help="default: training")
    networks = {"known": model_names(), "default": model_names()}
    add("--networks", action=Names, **networks, nargs="+", help="default: all six")
    batches = f"of the networks' sites ({BATCH}; {IMAGENET_BATCH} imagenet)"
    add("--batch", type=positive, help=batches)
    sizes = "of the networks' images, not imagenet (32)"
    add("--image-size", type=positive, default=32, help=sizes)
    add("--max-sites", type=positive, help="measure the first so many alone, in each mode")
    dtypes = "of activations (bfloat16; float32 with --cpu)"
    add("--dtype", choices=DTYPES, help=dtypes)
    add_variants(parser, VARIANTS, ", ".join(VARIANTS))
    add("--repeats", type=positive, default=20, help="rounds of each timing (20)")
    add_run_options(parser, "layers", 3600)
    options = parser.parse_args(argv)
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    if options.shape:
        if options.sites:
            raise UserError("shape is measured instead of sites; leave one of the two out")
        options.sites = "shape"
    options.sites = options.sites or ("headline" if options.cpu else "all")
    return options


def _shape(text: str) -> tuple[int, ...]:
    """An argparse type."""
    if not re.fullmatch(r"0*[1-9]\d*(x0*[1-9]\d*){3}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not batch, channels, height and width, each at least 1, such as "
            "64x256x56x56"
        )
    return tuple(map(int, text.split("x")))


def chosen_variants(options, device: torch.device) -> tuple[str, ...]:
    """The names asked for, or the usual ones that can run here."""
    names = options.variants or ("eager", "compile")
    if not options.variants and device.type == "cuda":
        # Which eager is already: in float32 there is nothing to cast.
        same = {"float16": "eager-fp16", "float32": "released"}.get(options.dtype)
        names = [name for name in VARIANTS if name != same]
    if OURS in names:
        operands.check_kernels_run("variants", OURS, device)
    return tuple(dict.fromkeys(names))


# Sites


def chosen_ops(options) -> list[OpShape]:
    """Each form once, in the first group that has it; all in training before any in evaluation."""

    def of_networks(batch: int, image_size: int) -> list[OpShape]:
        return network_ops(options.networks, options.batch or batch, image_size)

    groups = {
        "shape": lambda: headline_ops(options.shape, "--shape"),
        "headline": lambda: headline_ops(SMALL_SHAPES if options.cpu else HEADLINE_SHAPES),
        "networks": lambda: of_networks(BATCH, options.image_size),
        "imagenet": lambda: of_networks(IMAGENET_BATCH, IMAGENET_SIZE),
    }
    found: dict[tuple, OpShape] = {}
    for group in SITES[1:] if options.sites == "all" else (options.sites,):
        for op in groups[group]():
            found.setdefault(op.form, op)
    ops = list(found.values())[: options.max_sites]
    modes = MODES if options.mode == "both" else (options.mode,)
    return [replace(op, mode=mode) for mode in modes for op in ops]


def headline_ops(shapes, users: str = "headline") -> list[OpShape]:
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
        calls = _calls(name, "none", image_size)
        if ARCHITECTURES[name].regularized_blocks:
            # SpatialDropout parts batch norm from its ReLU; the other sites are there once more.
            calls += [c for c in _calls(name, "spatial-dropout", image_size) if not c[0][1]]
        for form, maskable in calls:
            counts.setdefault(form, Counter())[name] += 1
            masked |= {form} if maskable else set()
    largest = sorted(counts, key=lambda form: -counts[form].total() * prod(form[2]))
    return [
        OpShape(
            kind=form[0],
            relu=form[1],
            shape=(batch, *form[2]),
            masked=form in masked,
            users=operands.users_text(counts[form]),
        )
        for form in largest
    ]


def _calls(name: str, regularizer: str, image_size: int) -> list[tuple]:
    """((kind, relu, (C, H, W)), whether a placement can mask it) of every call in a network."""
    found = []

    def look(module: BNMaskReLU, args, kwargs, out) -> None:
        given = dict(zip(("x", "residual", "projection", "relu"), args, strict=False)) | kwargs
        kind, maskable = "none", module.block is not None
        if given.get("residual") is not None:
            kind = "residual"
        elif given.get("projection") is not None:
            kind = "projection"
            maskable = maskable or given["projection"][1].block is not None
        found.append(((kind, given.get("relu", True), tuple(out.shape[1:])), maskable))

    with torch.device("meta"):
        model = create_model(name, image_size=image_size, regularizer=regularizer)
        for module in model.modules():
            if isinstance(module, BNMaskReLU):
                module.register_forward_hook(look, with_kwargs=True)
        model.train()(torch.empty(2, 3, image_size, image_size))
    return found


# Measuring


class Variant(NamedTuple):
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

    def own(self, call: Call) -> Call:
        """The values of a call in memory of its own, in the dtypes that this variant gets."""
        copied = call.copy(self.dtype)
        return copied if self.adapt is None else self.adapt(copied)


def variant(name: str, op: OpShape, dtype: torch.dtype) -> Variant:
    """One of ``VARIANTS`` of an operator."""
    if name == "released":
        return Variant(name, operands.released(op), dtype, operands.as_released(op))
    run = operands.operator(op, "triton" if name == OURS else "eager")
    modes = {"compile": None, "max-autotune": "max-autotune-no-cudagraphs"}
    if name in modes:
        run = torch.compile(run, fullgraph=True, dynamic=False, mode=modes[name])
    return Variant(name, run, torch.float16 if name == "eager-fp16" else dtype)


def measure(op: OpShape, names: Sequence[str], call: harness.Run) -> list[dict]:
    """Rows of some variants. One that fails or computes something else gets no times."""
    torch.compiler.reset()
    dtype = getattr(torch, call.options.dtype)
    variants = [variant(name, op, dtype) for name in names]
    site = {"name": str(op), "kind": op.kind, "relu": op.relu, "masked": op.masked}
    site |= {"shape": list(op.shape), "users": op.users}
    rows = {
        one.name: {
            "site": site,
            "mode": op.mode,
            "contestant": one.name,
            "dtype": dtype_name(one.dtype),
            "bytes": operands.minimum_bytes(op, one.dtype.itemsize),
            "tolerance": operands.tolerance(one.dtype),
            "problems": [],
            "times": {},
        }
        for one in variants
    }
    with harness.noting(*rows.values()):  # the next one may fit into memory
        first = operands.draw(op, dtype, call.device)
        _check(op, variants, first, rows)
        sound = [one for one in variants if not rows[one.name]["problems"]]
        for cache in ("cold", "hot") if sound else ():
            _time(op, sound, first, rows, cache, call)
    harness.release(call.device)
    return list(rows.values())


def _check(op: OpShape, variants: list[Variant], first: Call, rows: dict[str, dict]) -> None:
    """Compare results, which also compiles; note what right ones cost in memory."""
    expected = operands.exact_results(op, first)
    for one in variants:
        row = rows[one.name]
        # A rival that cannot run here is a result too; the others go on.
        with harness.noting(row):
            given = one.own(first)
            if one.name.startswith(("eager", "released")):
                row["batch_norm"] = batch_norm_library(given, op.training)
            operands.check(row, one.run, given, expected, without_gradients=not op.training)
    del expected
    for one in variants:
        row = rows[one.name]
        if not row["problems"]:
            given = one.own(first)
            row["saved_bytes"] = operands.saved_bytes(one.run, given)
            row["saved_bytes_per_element"] = round(row["saved_bytes"] / op.elements, 3)
            row["peak_bytes"] = operands.peak_bytes(one.run, given)


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


def _time(
    op: OpShape, variants: list[Variant], first: Call, rows: dict, cache: str, call: harness.Run
) -> None:
    hot, device = cache == "hot", call.device
    sets, sweeps = {}, {}
    for one in variants:
        data = one.dtype, one.adapt  # variants of equal ones are called on the same operands
        if data not in sets:
            # The residual or second branch is read, the output written.
            touched = (2 + (op.kind != "none")) * op.elements * one.dtype.itemsize
            count = 1 if hot else operands.cold_sets(touched, harness.l2_bytes(device))
            sets[data] = [one.own(first) for _ in range(count)]
        sweeps[one.name] = Sweep(one.run, sets[data], hot=hot, training=op.training)
    clocks = ("wall", "graph") if device.type == "cuda" else ("wall",)
    for step in PASSES:
        for clock, name, found in operands.timings(
            sweeps, step, clocks, device, call.options.repeats, rows, f"{cache} {step}"
        ):
            rate = rows[name]["bytes"][step] / (found["median_us"] * 1e-6) / 1e9
            found["gb_per_s"] = round(rate, 1)
            found["copy_percent"] = round(100 * rate / call.head["copy_gb_per_s"], 1)
            times = rows[name]["times"].setdefault(cache, {})
            times.setdefault(clock, {})[step] = found
    for name, sweep in sweeps.items():
        rows[name].setdefault("calls", {})[cache] = [len(sweep.sets), sweep.calls]


# What is shown


def brief(rows: list[dict]) -> str:
    """Forward and backward of each variant, cold, in microseconds."""
    parts = []
    for row in rows:
        times = [layer_time(row, "cold", layer_clock([row]), step) for step in PASSES[:2]]
        text = "+".join(f"{time['median_us']:.1f}" for time in times) if all(times) else "failed"
        parts.append(f"{row['contestant']} {text}")
    return ", ".join(parts)


def table(rows: Sequence[dict]) -> Table:
    """One line a site: the leader's times and how many times longer the others take.

    Ours leads; where it was not measured (on a CPU), the first variant does.
    """
    names = list(by_contestant(rows))
    leader = OURS if OURS in names else names[0]
    cold = "cold", layer_clock(rows)

    def time(site: tuple, name: str, step: str, what: str = "median_us") -> float | None:
        return layer_time(site[1].get(name), *cold, step).get(what)

    def own(site: tuple, step: str, what: str, form: str) -> str:
        return figure(time(site, leader, step, what), form)

    def ratios(site: tuple, name: str) -> str:
        pairs = [(time(site, name, step), time(site, leader, step)) for step in PASSES]
        return " ".join(figure(a / b if a and b else None, ".2f") for a, b in pairs)

    columns = {"site": lambda site: site[0]}
    for step in PASSES[:2]:
        columns[f"{step}\nus"] = partial(own, step=step, what="median_us", form=".1f")
        columns[f"{step}\n% of copy"] = partial(own, step=step, what="copy_percent", form=".0f")
    for name in names:
        if name != leader:
            columns[f"{name}\nfwd, bwd, both"] = partial(ratios, name=name)
    title = f"cold caches, {cold[1]} times of {leader}; others in multiples of it"
    return harness.console_table(title, by_site(rows).items(), columns)
