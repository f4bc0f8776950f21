"""``scotoma bench``: measurements, one sub-verb each, imported only when it is used."""

from __future__ import annotations

import importlib

from ..defective.errors import UserError, nearest

BENCHMARKS = {
    "aot": (
        "scotoma.bench.aot.command",
        "compile every kernel, report registers and widths; no GPU",
    ),
    "step": (
        "scotoma.bench.step.command",
        "time whole steps: training, evaluation, PGD; six networks, many ways",
    ),
    "roofline": (
        "scotoma.bench.roofline.command",
        "time every operator against bandwidth and matrix ceilings",
    ),
    "convergence": (
        "scotoma.bench.convergence.command",
        "seconds of training until a stated accuracy, over several seeds",
    ),
    "layers": (
        "scotoma.bench.layers.command",
        "time the fused operators against eager and torch.compile",
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
    lines = "\n".join(f"  {name:8} {text}" for name, (_, text) in BENCHMARKS.items())
    return (
        "usage: scotoma bench MEASUREMENT [options]\n\n"
        f"{lines}\n\n"
        "'scotoma bench MEASUREMENT --help' explains one."
    )
