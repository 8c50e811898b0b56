// A pointwise op and its backward on the CPU: checks, layouts and threads around the kernels of csrc/simd/<op>.cpp.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "../common/layout.h"
#include "../simd/pointwise.h"
#include "capability.h"

namespace fastops {

// Minimum of elements per thread. It was measured for mish (cpu/mish.cpp), whose formula has a medium cost.
constexpr int64_t kPointwiseGrain = 16384;

inline Tensor pointwise_cpu(const char* op, const PointwiseKernels& kernels, const Tensor& x) {
  const DType dtype = dtype_index(op, "x", x);
  const Tensor source = dense(x);
  Tensor y = torch::stable::empty_like(source);
  const int64_t bytes = static_cast<int64_t>(x.element_size());
  const char* in = static_cast<const char*>(source.const_data_ptr());
  char* out = static_cast<char*>(y.mutable_data_ptr());
  torch::stable::parallel_for(0, source.numel(), kPointwiseGrain, [&](int64_t begin, int64_t end) {
    kernels.forward[dtype](in + begin * bytes, out + begin * bytes, end - begin);
  });
  return y;
}

inline Tensor pointwise_backward_cpu(const char* op, const PointwiseKernels& kernels, const Tensor& grad,
                                     const Tensor& x) {
  const DType dtype = dtype_index(op, "x", x);
  check_same_dtype(op, "grad", grad, "x", x);
  check_same_device(op, "grad", grad, "x", x);
  check_same_shape(op, "grad", grad, "x", x);
  const Tensor source = dense(x);
  const Tensor upstream = laid_out_like(grad, source);
  Tensor grad_x = torch::stable::empty_like(source);
  const int64_t bytes = static_cast<int64_t>(x.element_size());
  const char* g = static_cast<const char*>(upstream.const_data_ptr());
  const char* in = static_cast<const char*>(source.const_data_ptr());
  char* out = static_cast<char*>(grad_x.mutable_data_ptr());
  torch::stable::parallel_for(0, source.numel(), kPointwiseGrain, [&](int64_t begin, int64_t end) {
    kernels.backward[dtype](g + begin * bytes, in + begin * bytes, out + begin * bytes, end - begin);
  });
  return grad_x;
}

}  // namespace fastops

// Registers the op `name` and `name`_backward, whose kernels are in the table `name`_kernels.
#define FASTOPS_POINTWISE_CPU(name)                                                           \
  FASTOPS_DECLARE_TABLE(PointwiseKernels, name##_kernels)                                     \
  namespace fastops {                                                                         \
  namespace {                                                                                 \
  Tensor name##_cpu(const Tensor& x) {                                                        \
    return pointwise_cpu(#name, FASTOPS_TABLE(name##_kernels), x);                            \
  }                                                                                           \
  Tensor name##_backward_cpu(const Tensor& grad, const Tensor& x) {                           \
    return pointwise_backward_cpu(#name "_backward", FASTOPS_TABLE(name##_kernels), grad, x); \
  }                                                                                           \
  }                                                                                           \
  }                                                                                           \
  STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {                                                \
    m.impl(#name, TORCH_BOX(&fastops::name##_cpu));                                           \
    m.impl(#name "_backward", TORCH_BOX(&fastops::name##_backward_cpu));                      \
  }
