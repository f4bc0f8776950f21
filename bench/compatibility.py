"""Networks of torchvision and timm, fused and with masks: do they compute the same? No GPU needed.

    scotoma bench compatibility [options]

Every classifier of torchvision, and architectures of timm from many families, with random weights:
nothing is downloaded. Each is compared with itself after 'scotoma.kernels.fuse'; and, with the same
masks put on its batch norms by hooks, after 'scotoma.defective.convert', and fused after that: two
steps of training and one in evaluation, with outputs, loss, every gradient (also that of the
images), running statistics and counters. Some are compiled, exported, and run by the kernels in
Triton's interpreter, too. What a step of training launches and moves is counted.

Rows of results are appended to a file of JSON lines, and a page, docs/compatibility.md, is made of
the newest row of each network in it.

    scotoma bench compatibility --networks torchvision:resnet50 timm:regnety_016

Exit status: 0; 1 if a network computes something else; 75 if --resume has left cases for the next
call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..defective import convert, mask_sites
from ..defective.errors import UserError, counted
from ..defective.models.foreign import LIBRARIES, factory
from ..kernels import backends, batch_norm, fuse
from ..kernels.fuse import Fusion
from ..train.pages import Page, code, strong, write_files
from . import harness
from .operands import OpShape, minimum_bytes
from .options import add_resume, add_time_limit, make_parser

TIMM = """
resnet18 resnet26t resnet50 resnet50d resnetaa50 resnetblur50 resnetrs50 wide_resnet50_2
resnext50_32x4d seresnet50 ecaresnet50t skresnet18 skresnext50_32x4d resnest26d res2net50_26w_4s
res2next50 resnetv2_50 legacy_seresnet18 gcresnet50t bat_resnext26ts eca_resnet33ts test_resnet
regnetx_016 regnety_016 regnetz_b16 regnetv_040 vgg16_bn densenet121 densenetblur121d dpn68b dpn92
hrnet_w18_small dla34 dla60x dla60_res2net inception_v3 inception_v4 inception_resnet_v2
legacy_xception xception41 cspresnet50 cspdarknet53 darknet53 cs3darknet_m vovnet39a
ese_vovnet19b_dw eca_vovnet39b repvgg_a0 mobileone_s0 gernet_s test_byobnet selecsls42b tresnet_m
nasnetalarge pnasnet5large efficientnet_b0 tf_efficientnetv2_s test_efficientnet mobilenetv2_100
mobilenetv3_small_100 mnasnet_100 ghostnet_100 lcnet_050 rexnet_100 hardcorenas_a hgnetv2_b0
repghostnet_050 repvit_m0_9 fasternet_t0 starnet_s1 convmixer_768_32 efficientvit_b0 mobilevit_s
botnet26t_256 coatnet_bn_0_rw_224 visformer_tiny levit_128 eca_nfnet_l0 resnetv2_50x1_bit
convnext_atto vit_tiny_patch16_224 swin_tiny_patch4_window7_224 mixer_s16_224
"""
"""Architectures, the last ones without batch norms of images."""
FURTHER = (
    *("torchvision:resnet18", "torchvision:densenet121", "torchvision:mobilenet_v3_small"),
    *("timm:dla34", "timm:regnetx_016", "timm:test_resnet"),
)
"""Networks that are compiled and exported, too."""
INTERPRETED = (
    *("torchvision:resnet18", "timm:test_resnet", "timm:test_byobnet", "timm:test_efficientnet"),
)
"""Networks that are run by the kernels, in Triton's interpreter, too: a second a launch."""
PAGE = Path("docs", "compatibility.md")
BATCH = 2
SIZES = (64, 128, 224)
"""Sides of images, in pixels; a network gets the first that it takes, or its usual one."""
INTERPRETED_BATCH, INTERPRETED_SIZE = 4, 48
"""Statistics of very few values would magnify float32's rounding."""
TRAINING, EVALUATION = ("training, step 1", "training, step 2"), "evaluation"
LARGE = 10_000_000
"""Parameters from which on a network is compared in float32, for memory and time."""
CALLED_OTHERWISE = "it is called with other arguments than it was recorded with, and runs as it was"
COUNTED_BATCH, ITEM = 64, 2
"""Images of a counted step, and bytes of an activation: bfloat16, in channels_last."""
OURS = 3 + 3 + 1
"""Kernels that an operator launches: forward, backward, and to count batches."""


def main(argv: list[str]) -> int:
    """Compare, write the page, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    if options.list:
        print("\n".join(options.networks))
        return 0
    settings = {library: harness.version(library) for library in LIBRARIES}
    run = harness.Run("compatibility", options, torch.device("cpu"), settings)
    run.announce(counted(len(options.networks), "network"))
    run.measure(options.networks, measure, brief)
    if options.page is not None:
        write_files(page(newest(run.path), options.page).files(options.page))
        run.console.print(f"wrote {options.page}", soft_wrap=True)
    return run.finish(lambda row: row["case"])


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("bench compatibility", __doc__)
    add = parser.add_argument
    text = "torchvision:NAME or timm:NAME (all of torchvision, and many of timm)"
    add("--networks", nargs="+", metavar="NAME", help=text)
    text = f"the page to write ({PAGE}; none with --networks)"
    add("--page", type=Path, metavar="FILE", help=text)
    add_time_limit(parser, 7200)
    out = "file to append to (bench/results/DEVICE/compatibility.jsonl)"
    add("--out", type=Path, metavar="FILE", help=out)
    add_resume(parser)
    add("--list", action="store_true", help="print the networks and stop")
    options = parser.parse_args(argv)
    if options.networks is None:
        options.page = options.page or PAGE
        options.networks = all_networks()
    for name in options.networks:
        factory(name)
    return options


def all_networks() -> list[str]:
    """Of torchvision whatever it has, and some of timm."""
    from torchvision import models

    listed = models.list_models(module=models)
    return [f"torchvision:{n}" for n in listed] + [f"timm:{n}" for n in TIMM.split()]


def measure(name: str) -> list[dict]:
    """Compare one network: its row."""
    row = {"network": name, "unsupported": None, "differences": {}, "problems": []}
    with harness.noting(row), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how a library will draw weights in future
        _measure(name, row)
    gc.collect()
    return [row]


def _measure(name: str, row: dict) -> None:
    model, usual = network(name)
    large = sum(p.numel() for p in model.parameters()) > LARGE
    dtype = torch.float32 if large else torch.float64
    randomise(model.to(dtype))
    try:
        fused, fusion = fused_twin(model)
    except ValueError as error:
        row["unsupported"] = str(error)
        return
    row |= {"fused": fusion.fused, "norms": len(fusion.sites), "reasons": reasons(fusion)}
    with harness.noting(row):
        ran, costs = counted_step(fused, usual)
        row["counted"] = {"size": usual, **costs}
        if ran < fusion.fused:
            row["reasons"][CALLED_OTHERWISE] = fusion.fused - ran
            row["fused"] = ran
    row["size"] = accepted_size(model, usual)
    data = images(row["size"], dtype)

    def compare(what: str, difference: Callable[[], Difference], dtype=dtype) -> None:
        with harness.noting(row):
            value, where = difference()
            row["differences"][what] = [value, where, str(dtype).removeprefix("torch.")]
            if value is None or value > tolerance(dtype):
                row["problems"].append(f"{what}: {where} differs by {figure(value)}")

    expected = dict(passes(twin(model), data))
    compare("fused", lambda: compared(passes(fused, data), expected))
    del expected  # as large as the network, for each step
    try:
        converted = convert(twin(model), data[EVALUATION], where=lambda *_: True, verbose=False)
    except UserError as error:
        row["not_converted"] = str(error)
        return
    masks = mask_sites(converted)
    row |= {"masks": len(masks), "stages": len(converted.spec.stages)}
    both, _ = fused_twin(converted)
    expected = dict(passes(masked(model, masks), data))
    compare("converted", lambda: compared(passes(twin(converted), data), expected))
    compare("both", lambda: compared(passes(twin(both), data), expected))
    if name in FURTHER:
        x = data[EVALUATION]
        compare("compiled", lambda: compiled(twin(both), data, expected))
        compare("exported", lambda: exported(twin(both), masked(model, masks), x))
    if name in INTERPRETED:
        compare("interpreted", lambda: in_interpreter(name), torch.float32)


def tolerance(dtype: torch.dtype) -> float:
    """Of relative differences: half of the digits. Rounding in another order grows from layer to
    layer, by statistics of few values most; what is wrong is wrong in the first digits."""
    return torch.finfo(dtype).eps ** 0.5


# Networks that are compared


def network(name: str) -> tuple[nn.Module, int]:
    """A network with random weights, and the usual side of its images."""
    torch.manual_seed(0)
    make = factory(name)
    if "aux_logits" in make.keywords:  # left out for training, but batch norms as well
        make = partial(make, aux_logits=True)
    model = make()
    if name.startswith("timm:"):
        return model, model.pretrained_cfg["input_size"][-1]
    from torchvision.models import get_model_weights

    weights = get_model_weights(name.partition(":")[2]).DEFAULT
    return model, weights.transforms().crop_size[0]


def twin(model: nn.Module) -> nn.Module:
    """A copy that shares the parameters."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def fused_twin(model: nn.Module) -> tuple[nn.Module, Fusion]:
    made = twin(model)
    return made, fuse(made)


def masked(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy whose modules' outputs are multiplied by masks, without any code of scotoma's."""
    made = twin(model)
    for name, mask in masks.items():
        made.get_submodule(name).register_forward_hook(lambda _m, _x, out, mask=mask: out * mask)
    return made


def reasons(fusion: Fusion) -> dict[str, int]:
    """Why batch norms were left alone, without names of modules, and how many."""
    found = (site.reason for site in fusion.sites if site.operator is None)
    return dict(Counter(re.sub(r"^the forward of .*? cannot be", "it cannot be", r) for r in found))


def randomise(model: nn.Module) -> None:
    """Affine parameters and statistics as after training: networks are often built with branches
    whose last weights are zero, in which nothing could be wrong."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for values in (module.weight, module.running_var):
                if values is not None:
                    nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                if values is not None:
                    nn.init.uniform_(values, -0.5, 0.5)


def accepted_size(model: nn.Module, usual: int) -> int:
    """The smallest side of images that a network takes. Raises what it raises at its usual one."""
    dtype = next(model.parameters()).dtype
    for size in (*(size for size in SIZES if size < usual), usual):
        try:
            with torch.no_grad():
                twin(model).train()(torch.zeros(BATCH, 3, size, size, dtype=dtype))
            return size
        except Exception:  # anybody's forward may raise anything; a larger size may do
            if size == usual:
                raise


def images(size: int, dtype: torch.dtype, batch: int = BATCH) -> dict[str, Tensor]:
    """Of each step."""
    generator = torch.Generator().manual_seed(0)
    steps = *TRAINING, EVALUATION
    drawn = torch.randn(len(steps), batch, 3, size, size, generator=generator)
    return dict(zip(steps, drawn.to(dtype), strict=True))


# What they compute

Difference = tuple[float | None, str]
"""The largest relative difference in the maximum norm, None if it is not finite, and where."""


def passes(model: nn.Module, data: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Outputs, loss, gradients and buffers of each step, by name."""
    for number, (step, batch) in enumerate(data.items()):
        model.train(step != EVALUATION)
        x = batch.clone().requires_grad_()
        torch.manual_seed(number)  # of dropout
        out = model(x)
        outputs = [out] if isinstance(out, Tensor) else [y for y in out if y is not None]
        loss = sum(F.cross_entropy(y, torch.arange(len(y))) for y in outputs)
        leaves = {"the images": x, **dict(model.named_parameters())}
        grads = torch.autograd.grad(loss, [*leaves.values()], materialize_grads=True)
        found = {f"output {at}": y.detach() for at, y in enumerate(outputs)}
        found |= {f"gradient of {name}": g for name, g in zip(leaves, grads, strict=True)}
        found |= {name: buffer.clone() for name, buffer in model.named_buffers()}
        yield step, found | {"loss": loss.detach()}


def compared(
    found: Iterable[tuple[str, dict[str, Tensor]]], expected: dict[str, dict[str, Tensor]]
) -> Difference:
    """As the page says it; see HOW."""
    worst = 0.0, "nothing"
    for step, ours in found:
        right = expected[step]
        scales = {name: _largest(value) for name, value in right.items()}
        largest = max((name for name in right if "gradient" in name), key=scales.get)
        floor = tolerance(right[largest].dtype) * scales[largest]
        for name, value in right.items():
            scale = max(scales[name], floor * ("gradient" in name))
            difference = _largest(ours[name] - value)
            relative = difference / scale if scale else difference
            if not math.isfinite(relative):
                return None, f"{name} ({step})"
            if relative > worst[0]:
                worst = relative, f"{name} ({step})"
    return worst


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def compiled(model: nn.Module, data: dict[str, Tensor], expected: dict) -> Difference:
    """Under torch.compile."""
    torch.compiler.reset()
    try:
        model.compile(backend="aot_eager")
        return compared(passes(model, data), expected)
    finally:
        torch.compiler.reset()


def exported(model: nn.Module, original: nn.Module, x: Tensor) -> Difference:
    """Of the output, in evaluation; exported with other images."""
    program = torch.export.export(model.eval(), (torch.zeros_like(x),)).module()
    with torch.no_grad():
        found, expected = program(x), original.eval()(x)
    return _largest(found - expected) / _largest(expected), f"output 0 ({EVALUATION})"


def in_interpreter(name: str) -> Difference:
    """:func:`interpreted`, in a process in which Triton interprets."""
    if backends.interpreting():
        return interpreted(name)
    program = f"import json, {__name__} as own; print(json.dumps(own.interpreted({name!r})))"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"in the interpreter: {done.stderr.strip().splitlines()[-1]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def interpreted(name: str) -> Difference:
    """By the kernels, in float32, with masks at the bottom: a step of training, and evaluation."""
    model, _ = network(name)
    randomise(model)
    data = images(INTERPRETED_SIZE, torch.float32, INTERPRETED_BATCH)
    del data[TRAINING[1]]
    converted = convert(twin(model), data[EVALUATION], verbose=False)
    fused, fusion = fused_twin(converted)
    for site in fusion.sites:
        fused.get_submodule(site.name).backend = "triton"  # or an error
    original = masked(model, mask_sites(converted))
    return compared(passes(fused, data), dict(passes(original, data)))


# Launches and bytes


def counted_step(fused: nn.Module, size: int) -> tuple[int, dict[str, list[int]]]:
    """How many batch norms run as operators in a step of training; its launches and bytes, of batch
    norms and of the additions and ReLUs that are part of operators: eager and fused.

    Of the network nothing but its shapes is used.

    Raises:
        RuntimeError: fewer run as operators in evaluation.
    """
    calls: list[tuple[OpShape, bool]] = []
    alone = F.batch_norm

    def noted_operator(norm, x, residual, second, relu):
        kind = "projection" if second else "none" if residual is None else "residual"
        calls.append((OpShape(kind, tuple(x.shape), relu, masked=False), True))
        return torch.empty_like(x)

    def noted_alone(x, *arguments, **options):
        if x.dim() == 4:
            calls.append((OpShape("none", tuple(x.shape), relu=False, masked=False), False))
        return alone(x, *arguments, **options)

    x = torch.empty(COUNTED_BATCH, 3, size, size, device="meta", dtype=torch.bfloat16)
    operators = mock.patch.object(batch_norm, "_call", noted_operator)
    with torch.no_grad(), operators, mock.patch.object(F, "batch_norm", noted_alone):
        on_meta(fused).eval()(x.to(memory_format=torch.channels_last))
        evaluated = sum(not ours for _, ours in calls)
        calls.clear()
        on_meta(fused).train()(x.to(memory_format=torch.channels_last))
    left = sum(not ours for _, ours in calls)
    if evaluated > left:
        raise RuntimeError(f"{left} batch norms run unfused in training, {evaluated} in evaluation")
    eager = [eager_cost(op) for op, _ in calls]
    after = [(OURS, minimum_bytes(op, ITEM)["both"]) for op, ours in calls if ours]
    after += [eager_cost(op) for op, ours in calls if not ours]
    costs = ("eager", eager), ("fused", after)
    ran = sum(norms_of(op) for op, ours in calls if ours)
    return ran, {name: [sum(x) for x in zip(*found, strict=True)] for name, found in costs}


def norms_of(op: OpShape) -> int:
    return 2 if op.kind == "projection" else 1


def eager_cost(op: OpShape) -> tuple[int, int]:
    """Launches and bytes of what an operator stands for; see HOW."""
    norms, additions, relus = norms_of(op), int(op.kind != "none"), int(op.relu)
    moved = (3 + 5) * norms + 3 * additions + (2 + 3) * relus
    return (3 + 2 + 1) * norms + additions + 2 * relus, moved * op.elements * ITEM


def on_meta(model: nn.Module) -> nn.Module:
    """A copy in bfloat16 that has shapes alone."""
    tensors = {}
    for value in (*model.parameters(), *model.buffers()):
        dtype = torch.bfloat16 if value.is_floating_point() else value.dtype
        empty = torch.empty_like(value, device="meta", dtype=dtype)
        tensors[id(value)] = nn.Parameter(empty) if isinstance(value, nn.Parameter) else empty
    return copy.deepcopy(model, tensors)


# What people see


def brief(rows: list[dict]) -> str:
    (row,) = rows
    if row["unsupported"]:
        return f"unsupported: {row['unsupported']}"
    found = [f"{what} {figure(value)}" for what, (value, *_) in row["differences"].items()]
    return ", ".join([f"{row.get('fused')} of {row.get('norms')} batch norms fused", *found])


def figure(difference: float | None) -> str:
    return "not finite" if difference is None else f"{difference:.0e}" if difference else "0"


def newest(path: Path) -> list[dict]:
    """The last row of each network in a file, by name."""
    rows = [row for row in harness.read_rows(path) if row["benchmark"] == "compatibility"]
    return sorted({row["network"]: row for row in rows}.values(), key=lambda row: row["network"])


def difference(row: dict, what: str) -> str | None:
    return figure(row["differences"][what][0]) if what in row["differences"] else None


def change(row: dict, at: int, factor: float, form: str) -> str | None:
    counts = row.get("counted")
    words = [format(counts[name][at] * factor, form) for name in ("eager", "fused") if counts]
    return " → ".join(words) or None


COLUMNS: dict[str, Callable[[dict], Any]] = {
    "network": lambda row: code(row["network"].partition(":")[2]),
    "fused": lambda row: f"{row['fused']} of {row['norms']}",
    "masks": lambda row: row.get("masks"),
    "stages": lambda row: row.get("stages"),
    "pixels": lambda row: row.get("size"),
    "Δ fused": lambda row: difference(row, "fused"),
    "Δ converted": lambda row: difference(row, "converted"),
    "Δ both": lambda row: difference(row, "both"),
    "launches": lambda row: change(row, 0, 1, ",d"),
    "GB": lambda row: change(row, 1, 1e-9, ".2f"),
}
WAYS = ("compiled", "exported", "interpreted")
WORDS = f"""
fused: batch norms of images that run as operators, of all that there are

masks: batch norms that convert put masks on, which is wherever it can; each keeps 0.3

stages: resolutions that convert found; Bottom is the first third of them

Δ: the largest relative difference, in the maximum norm, among outputs, loss, every gradient (that
of the images, too), running statistics and counters of two steps of training and one in evaluation,
with {BATCH} images of so many pixels a side; 0 means that no bit differs

Δ fused: the fused network against the network as it came

Δ converted: the converted network against the network with the same masks in forward hooks

Δ both: the network converted, then fused, against the same

compiled, exported: converted, fused, and then under torch.compile with the backend aot_eager, or
exported by torch.export and run in evaluation; against the same

interpreted: converted with masks at the bottom, fused, and run by the Triton kernels in Triton's
interpreter, in float32: one step of training and one in evaluation, {INTERPRETED_BATCH} images of
{INTERPRETED_SIZE} pixels

launches, GB: counted, not measured: kernels, and 10^9 bytes that they move, of a training step's
batch norms and of the additions and ReLUs that become part of operators, eager → fused, without
masks, for {COUNTED_BATCH} images of the network's usual size in bfloat16 and channels_last
"""
HOW = f"""
Weights are drawn at random and nothing is downloaded. So are affine parameters and statistics of
batch norms, since many networks are made with branches whose last weights are zero.

In float64; networks of more than {LARGE:,} parameters in float32. A Δ over the root of the dtype's
epsilon is a failure. A gradient is held against its largest value, or against this root times the
network's largest gradient if that is more: some are zero but for rounding, such as that of a bias
before a batch norm.

Outside of the interpreter the operators are their definition in plain torch: what is compared is
how the network was rewritten.

Bytes: an eager batch norm moves 3 activations forward (statistics, then the result) and 5 backward,
an addition 3 and none, a ReLU 2 and 3; vectors of channels are left out. What an operator moves is
in docs/kernels.md.

Launches: torch has 3 kernels forward and 2 backward for such a batch norm, and one for its counter;
an addition has 1 and none, a ReLU 1 and 1. An operator has 3 and 3, and one for its counters.
"""


def page(rows: list[dict], path: Path) -> Page:
    """What rows say. path: of the page."""
    made = Page("Compatibility", path.parent)
    there = [row for row in rows if not row["unsupported"]]
    sound = [row for row in there if not row["problems"]]
    converted = [row for row in there if "not_converted" not in row]
    fused, norms = (sum(row.get(name, 0) for row in there) for name in ("fused", "norms"))
    made.paragraph(
        "Networks of other libraries, as they come, and after ",
        *(code("scotoma.kernels.fuse"), " and ", code("scotoma.defective.convert"), ": "),
        strong(f"{len(sound)} of {len(there)} networks compute the same"),
        f". {fused:,} of their {norms:,} batch norms are fused, and {len(converted)} of them take "
        f"masks; {counted(len(rows) - len(there), 'network')} more without batch norms of images "
        "are refused.",
    )
    fewer = sum(
        r["counted"]["fused"][0] < r["counted"]["eager"][0] for r in there if "counted" in r
    )
    made.paragraph(
        f"Counted, a step of training launches less in {fewer} of them. In the others most batch "
        "norms go into something else than an addition or a ReLU (SiLU, ReLU6): there an "
        "operator moves what eager moves and launches one kernel more."
    )
    made.paragraph(code("scotoma bench compatibility"), " writes this page: edit nothing here.")
    wrong = [(code(row["network"]), text) for row in rows for text in row["problems"]]
    listed(made, "Failures", ("network", "what is wrong"), wrong)
    for library in LIBRARIES:
        own = [row for row in there if row["network"].startswith(f"{library}:")]
        lines = [[cell(row) for cell in COLUMNS.values()] for row in own if "fused" in row]
        listed(made, library, COLUMNS, lines, words=1)
    further = [row for row in there if row["differences"].keys() & set(WAYS)]
    lines = [(code(row["network"]), *(difference(row, way) for way in WAYS)) for row in further]
    listed(made, "In other ways", ("network", *WAYS), lines, words=1)
    alone: dict[str, list[str]] = {}
    for row in there:
        for reason, count in row.get("reasons", {}).items():
            alone.setdefault(reason, []).append(f"{row['network']} ({count})")
    lines = [(reason, ", ".join(found)) for reason, found in alone.items()]
    listed(made, "Batch norms that are not fused", ("why", "networks"), lines)
    lines = [(code(r["network"]), r["not_converted"]) for r in there if "not_converted" in r]
    listed(made, "No masks", ("network", "why"), lines)
    lines = [(code(row["network"]), row["unsupported"]) for row in rows if row["unsupported"]]
    listed(made, "Refused", ("network", "why"), lines)
    words = [part.strip().partition(": ")[::2] for part in WORDS.split("\n\n")]
    listed(made, "What the words mean", ("word", "meaning"), words)
    made.heading("How")
    made.bullets([*sorted(set(map(machine, rows))), *HOW.split("\n\n")])
    return made


def listed(made: Page, title: str, columns: Iterable[str], lines: list, words: int = 2) -> None:
    """A part of the page; nothing without lines."""
    if lines:
        made.heading(title)
        made.table((list(columns), lines), words=words)


def machine(row: dict) -> str:
    there, names = row["machine"], ("python", "torch", "triton")
    versions = {name: there[name] for name in names} | row["settings"]
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{there['device']}, {counted(there['threads'], 'thread')}, {words}; {there['commit']}"
