// A pointwise op and its backward on CUDA: flat loops over dense storage with 16-byte accesses. The class Formula in
// csrc/math/<op>.h has `forward(x)` and `backward(grad, x)`.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/layout.h"
#include "launch.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

// One pack of 16 bytes per thread; the tail of less than a pack goes element by element. If a pointer is not 16-byte
// aligned (a view with an odd offset), packed is 0 and all elements go one by one.
template <class Formula, class T>
__global__ void __launch_bounds__(kThreads) pointwise_kernel(const T* x, T* y, int64_t n, int64_t packed) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = thread; i < packed; i += stride) {
    Pack<T> pack = load_pack(x + i * Pack<T>::size);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      pack.values[k] = from_opmath<T>(Formula::forward(to_opmath(pack.values[k])));
    }
    store_pack(y + i * Pack<T>::size, pack);
  }
  for (int64_t i = packed * Pack<T>::size + thread; i < n; i += stride) {
    y[i] = from_opmath<T>(Formula::forward(to_opmath(x[i])));
  }
}

template <class Formula, class T>
__global__ void __launch_bounds__(kThreads)
    pointwise_backward_kernel(const T* grad, const T* x, T* grad_x, int64_t n, int64_t packed) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = thread; i < packed; i += stride) {
    Pack<T> g = load_pack(grad + i * Pack<T>::size);
    const Pack<T> v = load_pack(x + i * Pack<T>::size);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      g.values[k] = from_opmath<T>(Formula::backward(to_opmath(g.values[k]), to_opmath(v.values[k])));
    }
    store_pack(grad_x + i * Pack<T>::size, g);
  }
  for (int64_t i = packed * Pack<T>::size + thread; i < n; i += stride) {
    grad_x[i] = from_opmath<T>(Formula::backward(to_opmath(grad[i]), to_opmath(x[i])));
  }
}

template <class Formula>
Tensor pointwise_cuda(const char* op, const Tensor& x) {
  const DType dtype = dtype_index(op, "x", x);
  const CudaScope scope(x);
  const Tensor source = dense(x);
  Tensor y = torch::stable::empty_like(source);
  const int64_t n = source.numel();
  if (n == 0) return y;
  dispatch_dtype(dtype, [&]<class T>() {
    const T* in = static_cast<const T*>(source.const_data_ptr());
    T* out = static_cast<T*>(y.mutable_data_ptr());
    const int64_t packed = is_aligned16(in) && is_aligned16(out) ? n / Pack<T>::size : 0;
    launch(pointwise_kernel<Formula, T>, grid_for(packed ? packed : n, kThreads), kThreads, 0, scope, in, out, n,
           packed);
  });
  return y;
}

template <class Formula>
Tensor pointwise_backward_cuda(const char* op, const Tensor& grad, const Tensor& x) {
  const DType dtype = dtype_index(op, "x", x);
  check_same_dtype(op, "grad", grad, "x", x);
  check_same_device(op, "grad", grad, "x", x);
  check_same_shape(op, "grad", grad, "x", x);
  const CudaScope scope(x);
  const Tensor source = dense(x);
  const Tensor upstream = laid_out_like(grad, source);
  Tensor grad_x = torch::stable::empty_like(source);
  const int64_t n = source.numel();
  if (n == 0) return grad_x;
  dispatch_dtype(dtype, [&]<class T>() {
    const T* g = static_cast<const T*>(upstream.const_data_ptr());
    const T* in = static_cast<const T*>(source.const_data_ptr());
    T* out = static_cast<T*>(grad_x.mutable_data_ptr());
    const bool aligned = is_aligned16(g) && is_aligned16(in) && is_aligned16(out);
    const int64_t packed = aligned ? n / Pack<T>::size : 0;
    launch(pointwise_backward_kernel<Formula, T>, grid_for(packed ? packed : n, kThreads), kThreads, 0, scope, g, in,
           out, n, packed);
  });
  return grad_x;
}

}  // namespace
}  // namespace fastops

// Registers the op `name` and `name`_backward.
#define FASTOPS_POINTWISE_CUDA(name, Formula)                                       \
  namespace fastops {                                                               \
  namespace {                                                                       \
  Tensor name##_cuda(const Tensor& x) { return pointwise_cuda<Formula>(#name, x); } \
  Tensor name##_backward_cuda(const Tensor& grad, const Tensor& x) {                \
    return pointwise_backward_cuda<Formula>(#name "_backward", grad, x);            \
  }                                                                                 \
  }                                                                                 \
  }                                                                                 \
  STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {                                     \
    m.impl(#name, TORCH_BOX(&fastops::name##_cuda));                                \
    m.impl(#name "_backward", TORCH_BOX(&fastops::name##_backward_cuda));           \
  }
