"""TF32 by either of torch's two APIs: each reader and writer of ours works whichever was used.

torch's older switches (``cudnn.allow_tf32``, ``get_float32_matmul_precision``) raise once a newer
``fp32_precision`` says something else, and what was said last for the whole process.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAID = {  # and whether convolutions and matrix products may then be of TF32
    "pass": (True, False),
    "cudnn.allow_tf32 = False": (False, False),
    "cudnn.allow_tf32 = True": (True, False),
    "cudnn.conv.fp32_precision = 'ieee'": (False, False),
    "cudnn.conv.fp32_precision = 'tf32'": (True, False),
    "cudnn.allow_tf32 = False; cudnn.conv.fp32_precision = 'tf32'": (True, False),
    "cudnn.conv.fp32_precision = 'none'; cudnn.fp32_precision = 'ieee'": (False, False),
    "torch.backends.fp32_precision = 'tf32'": (True, True),
    "torch.backends.fp32_precision = 'tf32'; cudnn.allow_tf32 = False": (True, True),
    "torch.set_float32_matmul_precision('high')": (True, True),
    "torch.set_float32_matmul_precision('medium')": (True, True),
    "matmul.fp32_precision = 'tf32'": (True, True),
    "matmul.allow_tf32 = True; matmul.fp32_precision = 'ieee'": (True, False),
}
SCRIPT = """
import os, sys
import torch
from torch.backends import cudnn
from scotoma.bench import sanitize
from scotoma.bench.doctor.kernels import Trial
from scotoma.bench import harness, roofline
from scotoma.bench.operators import Layer, layer_case
from scotoma.kernels import backends
from scotoma.train.robustness.models import full_precision

matmul, cuda = torch.backends.cuda.matmul, torch.device("cuda")
layer, linear = (Layer((2, 3, 1, 1), 4, linear=linear) for linear in (False, True))

def read():
    "What our readers answer, and torch's newer API, which never raises."
    operators = cudnn.conv, cudnn.rnn, cudnn, matmul, torch.backends.mkldnn.matmul, torch.backends
    return (
        backends.convolutions_may_use_tf32(),
        backends.products_may_use_tf32(),
        layer_case(layer, torch.float32, cuda).arithmetic == "tf32",
        layer_case(linear, torch.float32, cuda).arithmetic == "tf32",
        *(operator.fp32_precision for operator in operators),
    )

def older():
    try:
        return cudnn.allow_tf32, torch.get_float32_matmul_precision(), matmul.allow_tf32
    except RuntimeError:
        return "raises"

def check(said, convolutions, products):
    exec(said)
    before, before_older = read(), older()
    assert before[:4] == (convolutions, products) * 2, before
    with full_precision():
        assert read()[:4] == (False,) * 4
        # Other people's code, torch's compiler before all, reads the older API.
        assert not cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
        with cudnn.flags(enabled=False):
            pass
    assert read() == before, (before, read())
    assert before_older in ("raises", older()), (before_older, older())
    with backends.tf32_allowed(convolutions=True, products=False):
        assert read()[:4] == (True, False) * 2 and cudnn.allow_tf32
    case = next(sanitize.cases(torch.device("cpu"), torch.float32))
    assert not Trial(case, torch.device("cpu"), "eager").problem
    assert read() == before
    roofline.PRODUCT_SIZE["cpu"] = 8
    harness.COPY_BYTES["cpu"] = 8
    roofline.measure_ceilings(torch.device("cpu"), torch.float32)
    assert read() == before
    for allowed in (False, True, False):
        backends.allow_tf32(convolutions=allowed, products=allowed)
        assert read()[:4] == (allowed,) * 4
        assert older() == (allowed, "high" if allowed else "highest", allowed)

for said, *answers in SAID:
    child = os.fork()  # each from torch's own beginning
    if not child:
        try:
            check(said, *answers)
        except BaseException as error:
            print(f"{said}: {type(error).__name__} {error} {sys.exc_info()[2].tb_next.tb_lineno}")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
print("done")
"""


FEW = ("pass", "cudnn.allow_tf32 = False; cudnn.conv.fp32_precision = 'tf32'")
FEW += ("torch.backends.fp32_precision = 'tf32'", "torch.set_float32_matmul_precision('high')")


@pytest.mark.parametrize(
    "asked", [FEW, pytest.param(tuple(SAID), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_every_reader_and_writer_with_every_api(asked):
    said = [(text, *SAID[text]) for text in asked]
    result = subprocess.run(
        [sys.executable, "-c", f"SAID = {said!r}\n{SCRIPT}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert result.stdout == "done\n"


SWITCHES = {"allow_tf32", "fp32_precision"}
SWITCHES |= {"get_float32_matmul_precision", "set_float32_matmul_precision"}


def test_nobody_else_reads_or_writes_the_switches():
    """``kernels.backends`` knows the pitfalls; a second reader would not."""
    for floor in ("kernels", "defective", "train", "bench"):
        for path in (ROOT / floor).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if path == ROOT / "kernels" / "backends.py" or not any(map(text.count, SWITCHES)):
                continue
            for node in ast.walk(ast.parse(text)):
                used = isinstance(node, ast.Attribute) and node.attr in SWITCHES
                ours = used and getattr(node.value, "id", "") == "backends"
                assert not used or ours, f"{path.relative_to(ROOT)}:{node.lineno}: {node.attr}"
