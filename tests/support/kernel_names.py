"""Names of kernels as torch's profiler gives them, and families as they are called."""

ATEN = "void at::native::"
ELEMENTWISE = ATEN + "vectorized_elementwise_kernel<4, at::native::"
TAIL = ", std::array<char*, 3ul> >(int, std::array<char*, 3ul>)"
FPROP = (
    "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64"
    "_warpgroupsize1x1x1_g1_execute_segment_k_off_kernel__5x_cudnn"
)
CUDNN = (
    "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816fprop_optimized_bf16"
    "_256x64_32x4_nhwc_align8>(cutlass_tensorop_bf16_s16816fprop_optimized_bf16::Params)"
)
MUL = ELEMENTWISE + (
    "BinaryFunctor<c10::BFloat16, c10::BFloat16, c10::BFloat16, "
    "at::native::binary_internal::MulFunctor<float> >" + TAIL
)
SCALE = ELEMENTWISE + (
    "AUnaryFunctor<float, float, float, at::native::binary_internal::MulFunctor<float> >" + TAIL
)
DIVIDE = ELEMENTWISE + (
    "BinaryFunctor<float, float, float, at::native::binary_internal::DivFunctor<float> >" + TAIL
)
ADD = ELEMENTWISE + "CUDAFunctor_add<c10::BFloat16>" + TAIL
RELU = ELEMENTWISE + (
    "(anonymous namespace)::launch_clamp_scalar(at::TensorIteratorBase&, c10::Scalar, "
    "c10::Scalar, at::native::detail::ClampLimits)::{lambda()#1}::operator()() const" + TAIL
)
RELU_BACKWARD = ELEMENTWISE + (
    "BinaryFunctor<float, float, float, at::native::(anonymous namespace)::"
    "threshold_kernel_impl<float>(at::TensorIteratorBase&, float, float)::{lambda()#1}>" + TAIL
)
CAST = ELEMENTWISE + (
    "bfloat16_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda(float)#1}" + TAIL
)
COPY = ATEN + (
    "elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<"
    "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}>"
)
CAST_COPY = ATEN + (
    "unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)"
    "::{lambda()#3}, at::native::memory::LoadWithCast<1>, at::native::memory::StoreWithCast<1> >"
)
FILL = ELEMENTWISE + "FillFunctor<float>, std::array<char*, 1ul> >"
SUM = ATEN + (
    "reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::func_wrapper_t<float, "
    "at::native::sum_functor<float, float, float> > > >"
)
SGD = ATEN + (
    "(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
    "TensorListMetadata<3>, at::native::(anonymous namespace)::FusedSgdMathFunctor<float, 3> >"
)
FOREACH_COPY = ATEN + (
    "(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
    "TensorListMetadata<2>, at::native::(anonymous namespace)::CopyFunctor<c10::BFloat16, float, "
    "2, 1, 1>, at::native::Copy<c10::BFloat16, float> >"
)
CONV, NORM, POOL = "convolution", "BN and epilogue", "pooling"
PRODUCT, LOSS, SGDS = "matrix products", "loss and metrics", "optimiser"
DATA, CASTS, MEMSET, OTHER = "data", "casts", "memset", "other"
AUTOGRAD = "autograd::engine::evaluate_function: "
