"""How numbers are computed while attacks and verdicts run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ...defective.errors import UserError
from ...kernels.backends import tf32_allowed

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of precisions, and the autocast that each means."""


@contextmanager
def full_precision(benchmark: bool = False) -> Iterator[None]:
    """Float32 without TF32 for a while: TF32's ten bits flip the signs of small gradients.

    Args:
        benchmark: let cuDNN try its algorithms on each new shape; of use where shapes stay.
    """
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, benchmark
    try:
        with tf32_allowed(convolutions=False, products=False):
            yield
    finally:
        cudnn.benchmark = before


@contextmanager
def memory_advice(device: torch.device, batch_size: int, kept: str = "") -> Iterator[None]:
    """Turn "out of memory" into a UserError that names --batch-size.

    Args:
        kept: what to say about the work that is done, or "".
    """
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator has no exception of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(
            f"{device} is out of memory; try a --batch-size below {batch_size}{kept}"
        ) from None


@contextmanager
def disk_advice(out: Path, kept: str) -> Iterator[None]:
    """Errors of writing to ``out`` as UserErrors that say what is left of the work.

    Args:
        kept: what to say about the work that is done.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if not out.is_dir():
            text = f"{out} was removed meanwhile, with all it held; the same command begins anew"
        elif error.errno == errno.ENOENT and str(error.filename).startswith(str(out)):
            text = f"a folder in {out} was removed meanwhile; {kept}"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "space" in reason:
            text = f"{out} cannot be written to ({reason}): free some space; {kept}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            text = f"{out} cannot be written to ({reason}): make it writable; {kept}"
        else:
            raise
        raise UserError(text) from None


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UserError if there is no such precision, or the device does not have it."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "bfloat16" and device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(False):
                raise UserError(
                    f"--precision bfloat16: {torch.cuda.get_device_name(device)} does not compute "
                    "in it; use float32 or float16"
                )
