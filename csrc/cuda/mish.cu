// Mish on CUDA: flat loops over dense storage with 16-byte accesses. The formula is in math/mish.h.
// Memory-bound: forward moves 2 times and backward 3 times the tensor's bytes.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/layout.h"
#include "../math/mish.h"
#include "launch.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

// One pack of 16 bytes per thread; the tail of less than a pack goes element by element. If a pointer is not 16-byte
// aligned (a view with an odd offset), packed is 0 and all elements take the scalar loop.
template <class T>
__global__ void __launch_bounds__(kThreads, 4) mish_kernel(const T* x, T* y, int64_t n, int64_t packed) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = thread; i < packed; i += stride) {
    Pack<T> pack = load_pack(x + i * Pack<T>::size);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      pack.values[k] = from_opmath<T>(mish_forward<MathsOf<T>>(to_opmath(pack.values[k])));
    }
    store_pack(y + i * Pack<T>::size, pack);
  }
  for (int64_t i = packed * Pack<T>::size + thread; i < n; i += stride) {
    y[i] = from_opmath<T>(mish_forward<MathsOf<T>>(to_opmath(x[i])));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    mish_backward_kernel(const T* grad, const T* x, T* grad_x, int64_t n, int64_t packed) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = thread; i < packed; i += stride) {
    Pack<T> g = load_pack(grad + i * Pack<T>::size);
    const Pack<T> v = load_pack(x + i * Pack<T>::size);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      g.values[k] = from_opmath<T>(mish_backward<MathsOf<T>>(to_opmath(g.values[k]), to_opmath(v.values[k])));
    }
    store_pack(grad_x + i * Pack<T>::size, g);
  }
  for (int64_t i = packed * Pack<T>::size + thread; i < n; i += stride) {
    grad_x[i] = from_opmath<T>(mish_backward<MathsOf<T>>(to_opmath(grad[i]), to_opmath(x[i])));
  }
}

template <class T>
void launch_mish(const CudaScope& scope, const Tensor& x, const Tensor& y) {
  const T* source = data<T>(x);
  T* target = mutable_data<T>(y);
  const int64_t n = x.numel();
  const int64_t packed = is_aligned16(source) && is_aligned16(target) ? n / Pack<T>::size : 0;
  const unsigned grid = grid_for(packed ? packed : n, kThreads);
  launch(mish_kernel<T>, grid, kThreads, 0, scope, source, target, n, packed);
}

template <class T>
void launch_mish_backward(const CudaScope& scope, const Tensor& grad, const Tensor& x, const Tensor& grad_x) {
  const T* g = data<T>(grad);
  const T* v = data<T>(x);
  T* out = mutable_data<T>(grad_x);
  const int64_t n = x.numel();
  const int64_t packed = is_aligned16(g) && is_aligned16(v) && is_aligned16(out) ? n / Pack<T>::size : 0;
  const unsigned grid = grid_for(packed ? packed : n, kThreads);
  launch(mish_backward_kernel<T>, grid, kThreads, 0, scope, g, v, out, n, packed);
}

Tensor mish_cuda(const Tensor& x) {
  const DType dtype = dtype_index("mish", "x", x);
  const CudaScope scope(x);
  const Tensor source = dense(x);
  Tensor y = torch::stable::empty_like(source);
  if (source.numel() == 0) return y;
  dispatch_dtype(dtype, [&]<class T>() { launch_mish<T>(scope, source, y); });
  return y;
}

void mish_cuda_(Tensor x) {
  const DType dtype = dtype_index("mish_", "x", x);
  const CudaScope scope(x);
  if (x.numel() == 0) return;
  const bool in_place = is_dense(x);
  const Tensor source = in_place ? x : dense(x);
  dispatch_dtype(dtype, [&]<class T>() { launch_mish<T>(scope, source, source); });
  if (!in_place) torch::stable::copy_(x, source);
}

Tensor mish_backward_cuda(const Tensor& grad, const Tensor& x) {
  const DType dtype = dtype_index("mish_backward", "x", x);
  check_same_dtype("mish_backward", "grad", grad, "x", x);
  check_same_shape("mish_backward", "grad", grad, "x", x);
  check_same_device("mish_backward", "grad", grad, "x", x);
  const CudaScope scope(x);
  const Tensor input = dense(x);
  const Tensor upstream = laid_out_like(grad, input);
  Tensor grad_x = torch::stable::empty_like(input);
  if (input.numel() == 0) return grad_x;
  dispatch_dtype(dtype, [&]<class T>() { launch_mish_backward<T>(scope, upstream, input, grad_x); });
  return grad_x;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  m.impl("mish", TORCH_BOX(&fastops::mish_cuda));
  m.impl("mish_", TORCH_BOX(&fastops::mish_cuda_));
  m.impl("mish_backward", TORCH_BOX(&fastops::mish_backward_cuda));
}
