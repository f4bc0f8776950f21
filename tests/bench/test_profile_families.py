"""Which family a kernel belongs to, by names written as profiles have them."""

import pytest
import torch
from kernel_names import (
    ADD,
    ATEN,
    AUTOGRAD,
    CAST,
    CAST_COPY,
    CASTS,
    CONV,
    COPY,
    CUDNN,
    DATA,
    DIVIDE,
    ELEMENTWISE,
    FILL,
    FOREACH_COPY,
    FPROP,
    LOSS,
    MEMSET,
    MUL,
    NORM,
    OTHER,
    POOL,
    PRODUCT,
    RELU,
    RELU_BACKWARD,
    SCALE,
    SGD,
    SGDS,
    SUM,
    TAIL,
)
from scotoma.bench.profiling import families
from scotoma.bench.profiling.families import OURS, RULES, classify, rule_for
from scotoma.kernels import backends, launch

EXAMPLES = [
    (MEMSET, "Memset (Device)", ("aten::convolution_backward",)),
    (DATA, "Memcpy DtoD (Device -> Device)", ("aten::to", "aten::_to_copy", "aten::copy_")),
    (NORM, "apply_forward", ("_BNMaskAddReLU",)),
    (CONV, "convolve", ()),
    (CASTS, FOREACH_COPY, ()),
    (SGDS, SGD, ()),
    (SGDS, "at::native::amp_update_scale_cuda_kernel(float*, int*, float const*)", ()),
    (LOSS, "triton_per_fused__log_softmax__to_copy_mul_2", ()),
    (PRODUCT, "triton_tem_fused__to_copy_addmm_t_41", ()),
    (CONV, "triton_tem_fused_convolution_7", ()),
    (CONV, "triton_convolution2d_3", ()),
    (NORM, "triton_red_fused__native_batch_norm_legit_functional_3", ()),
    (NORM, "triton_poi_fused_convolution_backward_native_batch_norm_backward_threshold_5", ()),
    (POOL, "triton_per_fused__to_copy_mean_12", ()),
    (DATA, "triton_poi_fused__to_copy_convolution_div_sub_0", ()),
    (NORM, "triton_poi_fused_mul_3", ()),
    (NORM, "triton_poi_fused_add_convolution_backward_9", ()),
    (CONV, "triton_poi_fused__to_copy_convolution_1", ()),
    (CASTS, "triton_poi_fused__to_copy_5", ()),
    (NORM, "", ("CompiledFunction", "## Call CompiledFxGraph fw3f6p3xuqrwsv5c ##")),
    (CASTS, COPY, (AUTOGRAD + "_CastBackward", "_CastBackward", "aten::_foreach_copy_")),
    (SGDS, MUL, ("Optimizer.step#SGD.step", "aten::mul_")),
    (SGDS, FILL, ("aten::_foreach_norm",)),
    (SGDS, SUM, ("aten::linalg_vector_norm",)),
    (CONV, COPY, ("_ConvWithStatistics", "aten::contiguous", "aten::copy_")),
    (NORM, COPY, ("_BNMaskAddReLUBackward", "aten::contiguous", "aten::copy_")),
    (CASTS, CAST, ("aten::conv2d", "aten::to", "aten::_to_copy", "aten::copy_")),
    (NORM, ADD, ("aten::batch_norm", "aten::native_batch_norm", "aten::add_")),
    (CONV, SUM, (AUTOGRAD + "ConvolutionBackward0", "aten::convolution_backward", "aten::sum")),
    (PRODUCT, SUM, (AUTOGRAD + "AddmmBackward0", "aten::sum")),
    (LOSS, SUM, ("aten::cross_entropy_loss", "aten::nll_loss_forward")),
    (POOL, DIVIDE, (AUTOGRAD + "MeanBackward1", "MeanBackward1", "aten::div")),
    (NORM, "void cudnn::batchnorm_bwtr_nhwc_semiPersist<__half, __half, float>", ()),
    (NORM, "void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1, true>", ()),
    (NORM, ATEN + "batch_norm_transform_input_channels_last_kernel<float, float, 4>", ()),
    (CONV, FPROP, ()),
    (CONV, CUDNN, ()),
    (CONV, "sm80_xmma_wgrad_implicit_gemm_indexed_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", ()),
    (CONV, "void cudnn::winograd_nonfused::winogradForwardOutput4x4<float, float>", ()),
    (CONV, "void cudnn::engines_precompiled::nchwToNhwcKernel<float, float, float>", ()),
    (LOSS, ATEN + "(anonymous namespace)::softmax_warp_forward<float, float, float, 4>", ()),
    (POOL, ATEN + "(anonymous namespace)::max_pool_forward_nhwc<c10::BFloat16, int>", ()),
    (PRODUCT, "nvjet_tst_64x8_64x16_4x1_v_bz_splitK_TNN", ()),
    (PRODUCT, "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", ()),
    (PRODUCT, "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16>", ()),
    (DATA, ATEN + "index_elementwise_kernel<128, 4, at::native::gpu_index_kernel<>>", ()),
    (DATA, ELEMENTWISE + "sign_kernel_cuda(at::TensorIteratorBase&)" + TAIL, ()),
    (NORM, RELU_BACKWARD, (AUTOGRAD + "ReluBackward0", "aten::threshold_backward")),
    (LOSS, SCALE, ("aten::div",)),
    (DATA, DIVIDE, ("aten::div",)),
    (LOSS, SUM, ("aten::sum",)),
    (LOSS, "", (AUTOGRAD + "DivBackward0",)),
    (DATA, COPY, ("aten::contiguous", "aten::clone", "aten::copy_")),
    (NORM, MUL, ("aten::mul",)),
    (NORM, ADD, (AUTOGRAD + "AddBackward0", "aten::add_")),
    (NORM, RELU, ("aten::relu", "aten::clamp_min")),
    (SGDS, "", (AUTOGRAD + "torch::autograd::AccumulateGrad",)),
    (MEMSET, FILL, ()),
    (MEMSET, "", ("aten::ones_like", "aten::fill_")),
    (CASTS, CAST, ()),
    (CASTS, CAST_COPY, ()),
    (DATA, COPY, ()),
    (DATA, "", ("aten::copy_",)),
    (DATA, DIVIDE, ()),
    (NORM, RELU, ()),
    (OTHER, "some_kernel_of_the_future", ("aten::new",)),
]


@pytest.mark.parametrize(("family", "kernel", "ops"), EXAMPLES)
def test_family_of_a_name(family, kernel, ops):
    assert classify(kernel, ops) == family


def test_every_rule_decides_something():
    """None is hidden behind an earlier one, or never fits."""
    used = [rule_for(kernel, families.BETWEEN.join(ops)) for _, kernel, ops in EXAMPLES]
    assert [rule for rule in RULES if rule not in used] == []


@pytest.mark.skipif(not backends.interpreting() and not torch.cuda.is_available(), reason="Triton")
def test_our_kernels_are_known():
    assert {*OURS, families.CONVOLVE} == set(vars(launch.device_kernels()))
