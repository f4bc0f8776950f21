"""Rows of results that nobody measured, of devices that do not exist."""

import copy
import json
import re
from functools import partial
from pathlib import Path

from scotoma.bench.report.rows import load

HOSTILE = (
    "$\\bad{$ a|b <script>alert(1)</script> **c** `d` [e](http://f) \\| "
    "\x1b[2J\u202e\ud800\n# h & i"
)
OLD, NEW = "2026-01-02T03:04:05+00:00", "2026-02-03T04:05:06+00:00"
PART = {"ms": 1.0, "percent": 50.0, "launches": 4}
USUAL = json.loads(Path(__file__).with_suffix(".json").read_text())
"""Fields of each benchmark's rows."""


def row(benchmark, *, device="Test GPU", gpu=True, commit="aaa1111", time=OLD, **values):
    machine = {"device": device, "kind": "cuda" if gpu else "cpu", "commit": commit}
    machine |= {"torch": "2.0-test", "triton": "3.0-test", "driver": "1.0-test"}
    head = {"benchmark": benchmark, "time": time, "machine": machine, "settings": {"repeats": 3}}
    clocks = {"clocks.sm": "1234", "temperature.gpu": "[N/A]"}
    usual = copy.deepcopy(USUAL.get(benchmark, {}))
    return head | {"problems": [], "clocks": clocks} | usual | values


def spread(median):
    if not median:
        return {}
    return {"median_us": median, "p10_us": median * 0.99, "p90_us": median * 1.01}


def timed(benchmark, contestant, median, **values):
    """Of images in batches."""
    batch = values.get("batch_size", USUAL[benchmark]["batch_size"])
    rate = {"images_per_s": batch * 1e6 / median if median else None}
    times = {"contestant": contestant, "times": spread(median)}
    return row(benchmark, **rate | times | values)


step, attack = partial(timed, "step"), partial(timed, "attacks")


def layer(contestant, median, **values):
    times = {
        name: spread(median * bytes / 1e6) | {"copy_percent": 50.0}
        for name, bytes in USUAL["layers"]["bytes"].items()
    }
    times = {"cold": {"graph": times, "wall": times}, "hot": {"graph": times}}
    return row("layers", **{"contestant": contestant, "times": times} | values)


def operator(backend, median, **values):
    return row("roofline", **{"backend": backend, "times": spread(median)} | values)


def convergence(contestant, seed, seconds, **values):
    values = {"contestant": contestant, "seed": seed, "seconds_to_target": seconds} | values
    return row("convergence", **values)


def profile(contestant, **values):
    return row("profile", contestant=contestant, **values)


def one_of_each():
    return [
        *(step("eager", 200.0), step("fused", 100.0), step("compile", 90.0)),
        *(step("reference", 900.0, dtype="float32"), step("fused-graph", None, problems=["bad"])),
        *(layer("ours", 3.0), layer("eager", 6.0), layer("eager-fp16", 2.0, dtype="float16")),
        *(operator("triton", 2.0), operator("eager", 5.0)),
        *(attack("foolbox", 200.0), attack("scotoma", 100.0)),
        *(convergence("eager", 0, 30.0), convergence("fused", 0, 20.0)),
        *(profile("eager"), profile("fused")),
    ]


def golden():
    """The rows of ``report_page.md``."""
    sites = [{"name": f"S{n}", "users": "headline"} for n in range(5)]
    cpu, before = {"gpu": False}, {"commit": "old", "time": "2025-01-01"}  # of the same name
    ceilings = {"copy_gb_per_s": 10.0, "matmul_tflop_per_s": {"float32": 0.0912}}
    families = {"convolution": PART | {"ms": 20.0}, "gaps": PART | {"ms": 5.5, "launches": 0}}
    steps = {"step_ms": 18.5, "profiled_step_ms": 25.5, "busy_percent": None}
    steps |= dict.fromkeys(("busy_percent_profiled", "host_wait_ms", "host_launches"))
    return [
        *one_of_each(),
        *(step("max-autotune", 80.0), step("fused-compile", 70.0)),
        # At another commit: one within noise, one beyond.
        *(step("fused", 99.0, **before), step("eager", 190.0, **before)),
        step("fused", 50.0, defects="0.3-Bottom", mask_overhead_percent=1.25),
        step("fused", 300.0, device="Other Test GPU"),
        *(layer("ours", 2.0 + n, site=site) for n, site in enumerate(sites)),
        layer("ours", 99.0, site={"name": "S9", "users": ""}, problems=["wrong"]),
        *(operator("cudnn", 1.0), convergence("compile", 0, 5.0)),
        *(convergence("fused", 1, 24.0), convergence("eager", 1, None)),
        *(convergence("fused", 0, None, target=0.9), convergence("eager", 0, 40.0, target=0.9)),
        convergence("fused", 0, 9.0, settings={"recipe": "fast", "batch_size": 64}),
        *(step("eager", 50_000.0, **cpu), profile("eager", families=families, **steps, **cpu)),
        operator("eager", 100.0, tflop_per_s=0.00012, ceilings=ceilings, **cpu),
        row("new_benchmark"),
    ]


def written(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def loaded(tmp_path, rows):
    return load([written(tmp_path / "rows.jsonl", rows)])


def cells(page, first):
    """The rows of the tables that have this first heading, as plain text."""
    tables = (block.splitlines() for block in page.blocks if block.startswith("| "))
    found = [lines[2:] for lines in tables if lines[0].startswith(f"| {first} |")]
    return [
        [re.sub(r"\\(.)|\*\*|`", r"\1", cell) for cell in re.split(r" \| ", line[2:-2])]
        for lines in found
        for line in lines
    ]
