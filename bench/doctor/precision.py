"""Which numbers networks and kernels can compute with, and which backend runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ...kernels import backends
from ...train.setup import automatic_precision, slow_precision
from .line import ABSENT, FAILED, OK, WARNING, Examination, Line, brief, known_fix


def dtypes(examination: Examination) -> Iterator[Line]:
    """What the first device computes with: others of the machine are hardly ever older."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    for dtype in backends.DTYPES:
        yield dtype_line(device, dtype)


def dtype_line(device: torch.device, dtype: torch.dtype) -> Line:
    name = str(dtype).removeprefix("torch.")
    try:
        ones = torch.ones(1, 8, 4, 4, device=device, dtype=dtype)
        F.conv2d(ones, ones).sum().item()
    except RuntimeError as error:
        fix = known_fix(error) or "--precision float32"
        return Line(name, WARNING, f"{device.type} cannot convolve it: {brief(error)}", fix)
    refusal = backends.device_refusal(device)
    fused = refusal is None and device.type == "cuda"
    values = {"device": device.type, "fused": fused}
    words = ["fused kernels, eager definition" if fused else "eager definition"]
    if device.type == "cuda":
        tensor_cores = torch.cuda.get_device_capability(device) >= backends.CAPABILITY
        if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(False):
            detail = "only emulated by this GPU, slowly"
            return Line(name, ABSENT, detail, "--precision float16 (auto takes it)", values)
        if dtype == torch.float32 and tensor_cores:
            words.append("TF32 for matrix products unless --no-tf32")
            values["tf32"] = True
    if device.type == "cpu" and slow_precision(name, device):
        words.append("no matrix units (AMX): likely slower than float32")
    if name == automatic_precision(device):
        words.append("what --precision auto takes")
    return Line(name, OK, "; ".join(words), values=values)


def backend(examination: Examination) -> Iterator[Line]:
    """What SCOTOMA_BACKEND and TRITON_INTERPRET make of all this."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    refusal = backends.device_refusal(device)
    yield _backend(on_gpu, refusal)
    if backends.interpreting():
        if on_gpu:
            detail = "set: kernels run in Triton's interpreter, slower by orders of magnitude"
            yield Line("TRITON_INTERPRET", WARNING, detail, "unset TRITON_INTERPRET")
        else:
            detail = "set: backend='triton' runs kernels on the CPU, slowly, for tests"
            yield Line("TRITON_INTERPRET", OK, detail)


def _backend(on_gpu: bool, refusal: str | None) -> Line:
    what, unset = "backend", f"unset {backends.VARIABLE}"
    given = os.environ.get(backends.VARIABLE) or None
    values = {backends.VARIABLE: given}
    try:
        chosen = backends.checked(None)  # read at import, and what counts
    except ValueError as error:
        return Line(what, FAILED, str(error), unset, values)
    by = f"by {backends.VARIABLE}={chosen}"
    if chosen == "triton":
        if refusal is not None:
            detail = f"eager definition: fused kernels are preferred {by}, but {refusal}"
            return Line(what, WARNING, detail, unset, values)
        return Line(what, OK, f"fused kernels wherever they can run, {by}", values=values)
    if chosen == "eager":
        if on_gpu and refusal is None:
            detail = f"eager definition, {by}, though this GPU runs the fused kernels"
            return Line(what, WARNING, detail, unset, values)
        return Line(what, OK, f"eager definition, {by}", values=values)
    if on_gpu and refusal is None:
        return Line(what, OK, "fused kernels on the GPU", values=values)
    return Line(what, OK, "eager definition", values=values)
