"""Which family a kernel or an operator belongs to: an ordered list of rules, the first one wins.

A rule looks at the kernel's name, at the operators that launched it, or at both. Names come first
where they say what the kernel does; most elementwise kernels are shared by many operators, and
there the operators decide. Kernels of a CUDA graph have no operators (a replay launches them all),
so that the last rules judge by the name what is usual in a step of these networks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

CONVOLUTION, EPILOGUE, POOLING = "convolution", "BN and epilogue", "pooling"
MATMUL, LOSS, OPTIMISER, DATA = "matrix products", "loss and metrics", "optimiser", "data"
CASTS, MEMSET, OTHER, GAPS = "casts", "memset", "other", "gaps"
COLOURS = {
    CONVOLUTION: "#0072B2",
    EPILOGUE: "#D55E00",
    POOLING: "#8C510A",
    MATMUL: "#56B4E9",
    LOSS: "#E6C700",
    OPTIMISER: "#009E73",
    DATA: "#CC79A7",
    CASTS: "#000000",
    MEMSET: "#999999",
    OTHER: "#5E3C99",
}
"""After Okabe and Ito: told apart with any kind of colour blindness, and mostly in grey."""
FAMILIES = (*COLOURS, GAPS)
OURS = (
    *("partial_statistics", "merge_statistics", "apply_forward"),
    *("partial_gradients", "merge_gradients", "apply_backward", "multiply_mask"),
)
"""The kernels in ``kernels/device`` that are no convolution."""
CONVOLVE = "convolve"
BETWEEN = " > "

_INDUCTOR = r"^triton_(poi|red|per|for|unk|mix)_fused\w*"
_TEMPLATE = r"^triton_(tem_fused_(\w*_)?)?(add)?(b?mm)(_|$)"
_CONVOLUTIONS = (
    r"(?i)fprop|dgrad|wgrad|implicit_|winograd|conv(olution|\dd|_depthwise|olve)|cudnn::.*conv"
)
_LAYOUTS = r"nchwToNhwc|nhwcToNchw|nhwcAddPadding|im2col|col2im|cudnn::ops|cudnn::cnn"
_BATCHES = (
    r"aten::(index|select|slice|arange|where|rsub|sub|div_?|contiguous|clone|permute|pad"
    r"|constant_pad_nd|randperm|random_|randint|rand|lt|full|full_like|cat|stack|pin_memory"
    r"|sign|clamp_?|narrow)( > |$)|SubBackward|DataLoader"
)
_MASKS = (
    r"aten::(mul_?|add_?|relu_?|clamp_min_?|threshold_backward|var_mean|lerp_?)( > |$)"
    r"|(Mul|Add|Relu)Backward"
)
_FILLS = r"aten::(fill_|zero_|zeros|ones|zeros_like|ones_like)( > |$)"

RULES: tuple[tuple[str, str, str], ...] = (
    # (family, what is found in the kernel's name, what is found in the launching operators,
    # outermost first and joined by BETWEEN); both must be found.
    # Names that nothing else has.
    (MEMSET, r"^Memset", ""),
    (DATA, r"^Memcpy", ""),  # batches, and a graph's inputs
    (EPILOGUE, rf"^({'|'.join(OURS)})(_\d\w*)?$", ""),
    (CONVOLUTION, rf"^{CONVOLVE}(_\d\w*)?$", ""),
    (CASTS, r"multi_tensor_apply_kernel.*\bCopy", ""),  # of all weights at once
    (OPTIMISER, r"multi_tensor_apply_kernel", ""),
    (OPTIMISER, r"amp_update_scale", ""),
    # Inductor names a kernel after the operators fused into it, and after their consumers too:
    # the most telling one is asked for first.
    (LOSS, _INDUCTOR + r"(log_softmax|nll_loss|cross_entropy|argmax)", ""),
    (MATMUL, _TEMPLATE, ""),
    (CONVOLUTION, r"^triton_tem_\w*conv", ""),
    (CONVOLUTION, r"^triton_convolution", ""),
    (EPILOGUE, _INDUCTOR + r"(batch_norm|batchnorm|relu|threshold|bn_mask_add)", ""),
    (POOLING, _INDUCTOR + r"(_pool\dd|_mean(_|$))", ""),
    (DATA, _INDUCTOR + r"(div_sub|sub_div)", ""),  # pixels are normalised
    (EPILOGUE, _INDUCTOR + r"_(mul|add)(_|$)", ""),  # masks and sums
    (CONVOLUTION, _INDUCTOR + r"convolution", ""),  # operands laid out anew
    (CASTS, _INDUCTOR + r"_to_copy", ""),
    # On a CPU its C++ kernels have no names; convolutions and matrix products are not among them.
    (EPILOGUE, r"^$", r"CompiledFxGraph \w+ ##$"),
    # Operators that leave no doubt, whatever they launch.
    (CASTS, "", r"_Cast(Backward)?( > |$)"),  # of all weights at once
    (OPTIMISER, "", r"Optimizer\.(step|zero_grad)#"),
    (OPTIMISER, "", r"aten::_(fused_sgd|amp|foreach)_"),
    (OPTIMISER, "", r"aten::linalg_vector_norm"),  # for clipping
    (CONVOLUTION, "", r"_ConvWithStatistics|scotoma::conv"),
    (EPILOGUE, "", r"_BNMaskAddReLU|_ApplyMask|scotoma::"),
    # Autocast's casts happen inside the operator that wants them, so they are asked for first.
    (CASTS, "", r"aten::(to|_to_copy|type_as)( > |$)|ToCopyB"),
    (EPILOGUE, "", r"batch_norm|BatchNormBackward"),
    (CONVOLUTION, "", r"aten::\w*conv(olution|\dd)|ConvolutionBackward"),
    (MATMUL, "", r"aten::(linear|matmul|addmm|mm|bmm)( > |$)|Addmm|MmBackward"),
    (LOSS, "", r"cross_entropy|log_softmax|nll_loss|LogSoftmax|NllLoss"),
    (POOLING, "", r"_pool\dd|Pool\w*Backward|aten::mean|MeanBackward"),
    # Names of libraries: cuDNN, CUTLASS, ATen, cuBLAS.
    (EPILOGUE, r"(?i)batch_?norm|\bbn_(fw|bw)|welford|nhwc_bn", ""),
    (CONVOLUTION, _CONVOLUTIONS, ""),
    (CONVOLUTION, _LAYOUTS, ""),  # of a convolution's operands
    (LOSS, r"(?i)softmax|nll_loss|ArgMaxOps", ""),
    (POOLING, r"(?i)pool|MeanOps", ""),
    (MATMUL, r"(?i)nvjet|gemm|gemv|cublas|splitKreduce|cutlass", ""),
    (DATA, r"index_elementwise|gpu_index|gather|index_select", ""),
    (DATA, r"sign_kernel", ""),  # an attack's step
    (EPILOGUE, r"threshold_kernel_impl", ""),  # backward of ReLU
    # Elementwise operators.
    (LOSS, r"UnaryFunctor", r"(^|> )aten::(div|mul)$"),  # a number scales
    (LOSS, "", r"(^|> )aten::(argmax|eq|sum)( > |$)"),  # right answers counted
    (LOSS, "", r"DivBackward"),  # the mean over the batch
    (DATA, "", _BATCHES),  # gathered and laid out, pixels normalised; an attack's step
    (EPILOGUE, "", _MASKS),  # residual sums, ReLU, statistics
    (OPTIMISER, "", r"AccumulateGrad"),
    # What is left of elementwise kernels, most of them in graphs.
    (MEMSET, r"FillFunctor", ""),
    (MEMSET, "", _FILLS),
    (CASTS, r"b?float(16|8\w*)_copy_kernel", ""),
    (CASTS, r"direct_copy.*(LoadWithCast|StoreWithCast)", ""),
    (DATA, r"direct_copy_kernel|CatArray", ""),
    (DATA, "", r"aten::copy_( > |$)"),
    (DATA, r"DivFunctor|CUDAFunctor_sub|arange", ""),  # pixels are normalised
    # Usually a mask, a residual sum or ReLU.
    (EPILOGUE, r"MulFunctor|CUDAFunctor(OnSelf)?_add|launch_clamp_scalar|clamp_min", ""),
)


@lru_cache(maxsize=65536)
def rule_for(kernel: str, ops: str) -> tuple[str, str, str] | None:
    """The first rule that fits; None if none does."""
    fit = (rule for rule in RULES if re.search(rule[1], kernel) and re.search(rule[2], ops))
    return next(fit, None)


def classify(kernel: str, ops: Sequence[str] = ()) -> str:
    """The family of a kernel, copy or operator.

    Args:
        kernel: name as the profiler gives it; empty for an operator on the CPU.
        ops: operators and ranges around the launch, outermost first; for an operator on the CPU it
            is the last of them.
    """
    found = rule_for(kernel, BETWEEN.join(ops))
    return found[0] if found else OTHER


# Rows of results side by side, on a terminal and on a page.

_TOTALS = {
    "step, ms": ("step_ms", 3),
    "step, profiled, ms": ("profiled_step_ms", 3),
    "device busy, %": ("busy_percent", 1),
    "device busy, profiled, %": ("busy_percent_profiled", 1),
    "waits for the host, profiled, ms": ("host_wait_ms", 3),
    "launches by the host": ("host_launches", 0),
}
Lines = list[list[str]]


def side_by_side(rows: Sequence[dict]) -> tuple[list[str], Lines, Lines]:
    """Headings, a line for each family, and lines of totals: of each row milliseconds, share and
    launches in a step. A dash where a row has no figure."""
    gpu = rows[0]["machine"]["kind"] == "cuda"
    units = "ms", "%", "launches" if gpu else "calls"
    headings = ["family", *(f"{row['contestant']}\n{unit}" for row in rows for unit in units)]
    found = dict.fromkeys(name for row in rows for name in row["families"])
    # Those that another version may have had stand before the gaps.
    order = *COLOURS, *(name for name in found if name not in FAMILIES), GAPS
    lines, totals = [], []
    for name in (name for name in order if name in found):
        cells = []
        for part in (row["families"].get(name) for row in rows):
            cells += (
                [f"{part['ms']:.3f}", f"{part['percent']:.1f}", f"{part['launches']:g}"]
                if part
                else ["-"] * 3
            )
        lines.append([name if gpu or name != GAPS else "outside operators", *cells])
    for name, (field, digits) in _TOTALS.items():
        values = [row.get(field) for row in rows]
        if any(value is not None for value in values):
            shown = ("-" if value is None else f"{value:.{digits}f}" for value in values)
            totals.append([name, *(cell for figure in shown for cell in (figure, "", ""))])
    return headings, lines, totals
