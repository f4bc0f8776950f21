"""Which family a kernel or an operator belongs to: an ordered list of rules, the first one wins.

A rule looks at the kernel's name, at the operators that launched it, or at both. Names come first
where they say what the kernel does; most elementwise kernels are shared by many operators, and
there the operators decide. Kernels of a CUDA graph have no operators (a replay launches them all),
so that the last rules judge by the name what is usual in a step of these networks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

CONVOLUTION, EPILOGUE, POOLING = "convolution", "BN and epilogue", "pooling"
MATMUL, LOSS, OPTIMISER, DATA = "matrix products", "loss and metrics", "optimiser", "data"
CASTS, MEMSET, OTHER, GAPS = "casts", "memset", "other", "gaps"
FAMILIES = (
    CONVOLUTION,
    EPILOGUE,
    POOLING,
    MATMUL,
    LOSS,
    OPTIMISER,
    DATA,
    CASTS,
    MEMSET,
    OTHER,
    GAPS,
)
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
OURS = (
    "partial_statistics",
    "merge_statistics",
    "apply_forward",
    "partial_gradients",
    "merge_gradients",
    "apply_backward",
    "multiply_mask",
)
"""The kernels in ``kernels/device`` that are no convolution."""
CONVOLVE = "convolve"
BETWEEN = " > "


@dataclass(frozen=True)
class Rule:
    """What belongs to a family, and why.

    Attributes:
        family: one of ``FAMILIES``. reason: for people.
        kernel: found in the kernel's name. ops: found in the launching operators, outermost first,
            joined by ``BETWEEN``. Where both are given, both must be found.
    """

    family: str
    reason: str
    kernel: str | None = None
    ops: str | None = None

    def fits(self, kernel: str, ops: str) -> bool:
        return all(
            pattern is None or re.search(pattern, text)
            for pattern, text in ((self.kernel, kernel), (self.ops, ops))
        )


INDUCTOR = r"^triton_(poi|red|per|for|unk|mix)_fused\w*"

RULES = (
    # Names that nothing else has.
    Rule(MEMSET, "the runtime's own", kernel=r"^Memset"),
    Rule(DATA, "copies by the runtime: batches, and a graph's inputs", kernel=r"^Memcpy"),
    Rule(EPILOGUE, "our kernels", kernel=rf"^({'|'.join(OURS)})(_\d\w*)?$"),
    Rule(CONVOLUTION, "our kernel", kernel=rf"^{CONVOLVE}(_\d\w*)?$"),
    Rule(CASTS, "of all weights at once", kernel=r"multi_tensor_apply_kernel.*\bCopy"),
    Rule(OPTIMISER, "many tensors in one kernel", kernel=r"multi_tensor_apply_kernel"),
    Rule(OPTIMISER, "the gradient scaler", kernel=r"amp_update_scale"),
    # Inductor names a kernel after the operators fused into it, and after their consumers too:
    # the most telling one is asked for first.
    Rule(LOSS, "Inductor", kernel=INDUCTOR + r"(log_softmax|nll_loss|cross_entropy|argmax)"),
    Rule(MATMUL, "Inductor's template", kernel=r"^triton_(tem_fused_(\w*_)?)?(add)?(b?mm)(_|$)"),
    Rule(CONVOLUTION, "Inductor's template", kernel=r"^triton_tem_\w*conv"),
    Rule(CONVOLUTION, "Inductor's template", kernel=r"^triton_convolution"),
    Rule(
        EPILOGUE, "Inductor", kernel=INDUCTOR + r"(batch_norm|batchnorm|relu|threshold|bn_mask_add)"
    ),
    Rule(POOLING, "Inductor", kernel=INDUCTOR + r"(_pool\dd|_mean(_|$))"),
    Rule(DATA, "Inductor: pixels are normalised", kernel=INDUCTOR + r"(div_sub|sub_div)"),
    Rule(EPILOGUE, "Inductor: masks and sums", kernel=INDUCTOR + r"_(mul|add)(_|$)"),
    Rule(CONVOLUTION, "Inductor: operands laid out anew", kernel=INDUCTOR + r"convolution"),
    Rule(CASTS, "Inductor", kernel=INDUCTOR + r"_to_copy"),
    # On a CPU its C++ kernels have no names; convolutions and matrix products are not among them.
    Rule(
        EPILOGUE,
        "Inductor on a CPU: nearly all of what a compiled graph computes itself",
        kernel=r"^$",
        ops=r"CompiledFxGraph \w+ ##$",
    ),
    # Operators that leave no doubt, whatever they launch.
    Rule(CASTS, "of all weights at once", ops=r"_Cast(Backward)?( > |$)"),
    Rule(OPTIMISER, "its own range", ops=r"Optimizer\.(step|zero_grad)#"),
    Rule(
        OPTIMISER, "fused step, gradient scaler, clipping", ops=r"aten::_(fused_sgd|amp|foreach)_"
    ),
    Rule(OPTIMISER, "norm for clipping", ops=r"aten::linalg_vector_norm"),
    Rule(CONVOLUTION, "ours, with statistics", ops=r"_ConvWithStatistics|scotoma::conv"),
    Rule(EPILOGUE, "our operators", ops=r"_BNMaskAddReLU|_ApplyMask|scotoma::"),
    # Autocast's casts happen inside the operator that wants them, so they are asked for first.
    Rule(CASTS, "autocast, and explicit ones", ops=r"aten::(to|_to_copy|type_as)( > |$)|ToCopyB"),
    Rule(EPILOGUE, "all of batch norm", ops=r"batch_norm|BatchNormBackward"),
    Rule(CONVOLUTION, "all of it", ops=r"aten::\w*conv(olution|\dd)|ConvolutionBackward"),
    Rule(MATMUL, "all of it", ops=r"aten::(linear|matmul|addmm|mm|bmm)( > |$)|Addmm|MmBackward"),
    Rule(LOSS, "all of it", ops=r"cross_entropy|log_softmax|nll_loss|LogSoftmax|NllLoss"),
    Rule(POOLING, "all of it", ops=r"_pool\dd|Pool\w*Backward|aten::mean|MeanBackward"),
    # Names of libraries.
    Rule(
        EPILOGUE,
        "cuDNN's and ATen's batch norm",
        kernel=r"(?i)batch_?norm|\bbn_(fw|bw)|welford|nhwc_bn",
    ),
    Rule(
        CONVOLUTION,
        "cuDNN, CUTLASS",
        kernel=r"(?i)fprop|dgrad|wgrad|implicit_|winograd|conv(olution|\dd|_depthwise|olve)"
        r"|cudnn::.*conv",
    ),
    Rule(
        CONVOLUTION,
        "cuDNN lays out a convolution's operands anew",
        kernel=r"nchwToNhwc|nhwcToNchw|nhwcAddPadding|im2col|col2im|cudnn::ops|cudnn::cnn",
    ),
    Rule(LOSS, "ATen", kernel=r"(?i)softmax|nll_loss|ArgMaxOps"),
    Rule(POOLING, "ATen, cuDNN", kernel=r"(?i)pool|MeanOps"),
    Rule(MATMUL, "cuBLAS, CUTLASS", kernel=r"(?i)nvjet|gemm|gemv|cublas|splitKreduce|cutlass"),
    Rule(DATA, "a batch is gathered", kernel=r"index_elementwise|gpu_index|gather|index_select"),
    Rule(DATA, "an attack's step", kernel=r"sign_kernel"),
    Rule(EPILOGUE, "backward of ReLU", kernel=r"threshold_kernel_impl"),
    # Elementwise operators.
    Rule(LOSS, "a number scales", kernel=r"UnaryFunctor", ops=r"(^|> )aten::(div|mul)$"),
    Rule(LOSS, "right answers counted", ops=r"(^|> )aten::(argmax|eq|sum)( > |$)"),
    Rule(LOSS, "the mean over the batch", ops=r"DivBackward"),
    Rule(
        DATA,
        "batches gathered and laid out, pixels normalised, an attack's step",
        ops=r"aten::(index|select|slice|arange|where|rsub|sub|div_?|contiguous|clone|permute|pad"
        r"|constant_pad_nd|randperm|random_|randint|rand|lt|full|full_like|cat|stack|pin_memory"
        r"|sign|clamp_?|narrow)( > |$)|SubBackward|DataLoader",
    ),
    Rule(
        EPILOGUE,
        "masks, residual sums, ReLU, statistics",
        ops=r"aten::(mul_?|add_?|relu_?|clamp_min_?|threshold_backward|var_mean|lerp_?)( > |$)"
        r"|(Mul|Add|Relu)Backward",
    ),
    Rule(OPTIMISER, "gradients reach their parameters", ops=r"AccumulateGrad"),
    # What is left of elementwise kernels, most of them in graphs.
    Rule(MEMSET, "a fill", kernel=r"FillFunctor"),
    Rule(MEMSET, "a fill", ops=r"aten::(fill_|zero_|zeros|ones|zeros_like|ones_like)( > |$)"),
    Rule(CASTS, "to a narrower type", kernel=r"b?float(16|8\w*)_copy_kernel"),
    Rule(CASTS, "a copy with another type", kernel=r"direct_copy.*(LoadWithCast|StoreWithCast)"),
    Rule(DATA, "a copy", kernel=r"direct_copy_kernel|CatArray"),
    Rule(DATA, "a copy", ops=r"aten::copy_( > |$)"),
    Rule(DATA, "pixels are normalised", kernel=r"DivFunctor|CUDAFunctor_sub|arange"),
    Rule(
        EPILOGUE,
        "usually a mask, a residual sum or ReLU",
        kernel=r"MulFunctor|CUDAFunctor(OnSelf)?_add|launch_clamp_scalar|clamp_min",
    ),
)


@lru_cache(maxsize=65536)
def rule_for(kernel: str, ops: str) -> Rule | None:
    """The first rule that fits; None if none does."""
    return next((rule for rule in RULES if rule.fits(kernel, ops)), None)


def classify(kernel: str, ops: Sequence[str] = ()) -> str:
    """The family of a kernel, copy or operator.

    Args:
        kernel: name as the profiler gives it; empty for an operator on the CPU.
        ops: operators and ranges around the launch, outermost first; for an operator on the CPU it
            is the last of them.
    """
    found = rule_for(kernel, BETWEEN.join(ops))
    return OTHER if found is None else found.family
