"""``scotoma bench``: measurements, one sub-verb each, imported only when it is used."""

from __future__ import annotations

import importlib
import shutil

from ..defective.errors import UserError, nearest
from ..train.screen import wrapped

BENCHMARKS = {
    "step": (
        "scotoma.bench.step",
        "whole steps: training, evaluation, PGD; six networks, many ways",
    ),
    "layers": (
        "scotoma.bench.layers",
        "the fused operators, layer by layer, against eager and torch.compile",
    ),
    "roofline": (
        "scotoma.bench.roofline",
        "every operator against bandwidth and matrix ceilings",
    ),
    "attacks": (
        "scotoma.bench.attacks",
        "attacks beside those of foolbox: their speed, and that results agree",
    ),
    "convergence": (
        "scotoma.bench.convergence",
        "seconds of training until a stated accuracy, over several seeds",
    ),
    "overhead": (
        "scotoma.bench.overhead",
        "what a call costs the host beside eager's operators; no GPU",
    ),
    "compatibility": (
        "scotoma.bench.compatibility",
        "networks of torchvision and timm: the same when fused? no GPU",
    ),
    "report": (
        "scotoma.bench.report.page",
        "all results on one page, with tables and pictures",
    ),
    "aot": (
        "scotoma.bench.aot.cli",
        "what every kernel compiles to: registers, spills, widths; no GPU",
    ),
}


def main(argv: list[str]) -> int:
    """Run one measurement. Returns the exit status.

    Raises:
        UserError: no measurement, or none of this name.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0)
    known = ", ".join(BENCHMARKS)
    if not argv:
        raise UserError(
            f"which measurement? Expected one of {known}; 'scotoma bench --help' explains them"
        )
    name, rest = argv[0], argv[1:]
    if name not in BENCHMARKS:
        raise UserError(
            f"unknown measurement {name!r}; expected one of {known}.{nearest(name, BENCHMARKS)}"
        )
    return importlib.import_module(BENCHMARKS[name][0]).main(rest) or 0


def usage() -> str:
    width = shutil.get_terminal_size().columns
    lines = "\n".join(
        wrapped(f"  {name:14} {text}", width) for name, (_, text) in BENCHMARKS.items()
    )
    return (
        "usage: scotoma bench MEASUREMENT [options]\n\n"
        f"{lines}\n\n"
        "'scotoma bench MEASUREMENT --help' explains one."
    )
