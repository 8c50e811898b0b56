// mish_max_pool2d on CUDA; the formulas are in math/mish_max_pool2d.h.
//
// Forward: one thread per window. The overlap of windows comes from the first-level cache. Memory-bound: x is read and
// y written once. Backward: the first kernel writes the winner of each window and its gradient to scratch memory. In
// the second, each value of grad_x adds the gradients of the windows that it won, in order. There are no atomics, and
// every window is processed twice whatever its overlaps.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/mish_max_pool2d.h"
#include "launch.cuh"
#include "pool_windows.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) mish_max_pool2d_kernel(const T* x, T* y, PoolLayout l, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    const Extremes<T, kVector, false> e(x, l, position<kVector>(i, l.s.out_height, l.s.out_width, l.depth));
    Pack<T, kVector> out;
#pragma unroll
    for (int k = 0; k < kVector; ++k) out.values[k] = from_opmath<T>(mish_of_extremes<MathsOf<T>>(e.low[k], e.high[k]));
    store_pack(y + i * kVector, out);
  }
}

// wins is g f'(winner), at is the winner's position in the window. Both have the layout of y.
template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    mish_max_pool2d_winners_kernel(const T* grad, const T* x, opmath_t<T>* wins, int* at, PoolLayout l, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    const Extremes<T, kVector, true> e(x, l, position<kVector>(i, l.s.out_height, l.s.out_width, l.depth));
    const auto g = load_pack<T, kVector>(grad + i * kVector);
    Pack<opmath_t<T>, kVector> win;
    Pack<int, kVector> position;
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      const bool at_low = is_at_low(e.low[k], e.high[k], e.low_at[k], e.high_at[k]);
      win.values[k] = mish_backward<MathsOf<T>>(to_opmath(g.values[k]), at_low ? e.low[k] : e.high[k]);
      position.values[k] = at_low ? e.low_at[k] : e.high_at[k];
    }
    store_pack(wins + i * kVector, win);
    store_pack(at + i * kVector, position);
  }
}

// The windows [begin, end) along a dimension that contain a position.
struct WindowRange {
  int64_t begin, end;
  __device__ WindowRange(int64_t position, int64_t kernel, int64_t stride, int64_t pad, int64_t count) {
    int64_t rest;
    const int64_t from = position + pad - kernel + 1;
    begin = from <= 0 ? 0 : divide(from + stride - 1, stride, rest);
    end = divide(position + pad, stride, rest) + 1;
    end = end < count ? end : count;
  }
};

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    mish_max_pool2d_backward_kernel(const opmath_t<T>* wins, const int* at, T* grad_x, PoolLayout l, int64_t n) {
  const PoolShape& s = l.s;
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    const Position p = position<kVector>(i, s.height, s.width, l.depth);
    const WindowRange rows(p.row, s.kernel_h, s.stride_h, s.pad_h, s.out_height);
    const WindowRange columns(p.column, s.kernel_w, s.stride_w, s.pad_w, s.out_width);
    opmath_t<T> sums[kVector] = {};
    for (int64_t u = rows.begin; u < rows.end; ++u) {
      for (int64_t v = columns.begin; v < columns.end; ++v) {
        const int64_t window = ((p.item * s.out_height + u) * s.out_width + v) * l.depth + p.channel;
        const int self = int((p.row + s.pad_h - u * s.stride_h) * s.kernel_w + p.column + s.pad_w - v * s.stride_w);
        const auto position = load_pack<int, kVector>(at + window);
        const auto win = load_pack<opmath_t<T>, kVector>(wins + window);
#pragma unroll
        for (int k = 0; k < kVector; ++k) sums[k] += position.values[k] == self ? win.values[k] : opmath_t<T>(0);
      }
    }
    Pack<T, kVector> out;
#pragma unroll
    for (int k = 0; k < kVector; ++k) out.values[k] = from_opmath<T>(sums[k]);
    store_pack(grad_x + i * kVector, out);
  }
}

PoolLayout layout_of(const PoolShape& s, const Tensor& x) {
  if (is_channels_last(x)) return {s, s.batch, s.channels};
  return {s, s.batch * s.channels, 1};
}

Tensor mish_max_pool2d_cuda(const Tensor& x_, const Pair& kernel_size, const Pair& stride, const Pair& padding) {
  const char* op = "mish_max_pool2d";
  const PoolShape s = check_mish_max_pool2d(op, x_, kernel_size, stride, padding);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_);
  Tensor y = empty_pooled(x, s);
  if (y.numel() == 0) return y;
  const PoolLayout l = layout_of(s, x);
  const bool aligned = is_aligned16(x.const_data_ptr()) && is_aligned16(y.const_data_ptr());
  dispatch_dtype(dtype_index(op, "x", x), [&]<class T>() {
    with_vector<T>(l, aligned, [&]<int kVector>() {
      const int64_t n = y.numel() / kVector;
      launch(mish_max_pool2d_kernel<T, kVector>, grid_for(n, kThreads), kThreads, 0, scope, data<T>(x),
             mutable_data<T>(y), l, n);
    });
  });
  return y;
}

Tensor mish_max_pool2d_backward_cuda(const Tensor& grad_, const Tensor& x_, const Pair& kernel_size, const Pair& stride,
                                     const Pair& padding) {
  const char* op = "mish_max_pool2d_backward";
  const PoolShape s = check_mish_max_pool2d(op, x_, kernel_size, stride, padding);
  check_mish_max_pool2d_grad(op, grad_, x_, s);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_), grad = pooled_layout(grad_, x);
  Tensor grad_x = torch::stable::empty_like(x);
  if (x.numel() == 0) return grad_x;
  const PoolLayout l = layout_of(s, x);
  const bool aligned = is_aligned16(x.const_data_ptr()) && is_aligned16(grad.const_data_ptr());
  const ScalarType opmath = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor wins = torch::stable::new_empty(x, {grad.numel()}, opmath);
  const Tensor at = torch::stable::new_empty(x, {grad.numel()}, ScalarType::Int);
  dispatch_dtype(dtype_index(op, "x", x), [&]<class T>() {
    with_vector<T>(l, aligned, [&]<int kVector>() {
      const int64_t windows = grad.numel() / kVector, values = x.numel() / kVector;
      launch(mish_max_pool2d_winners_kernel<T, kVector>, grid_for(windows, kThreads), kThreads, 0, scope, data<T>(grad),
             data<T>(x), mutable_data<opmath_t<T>>(wins), mutable_data<int>(at), l, windows);
      launch(mish_max_pool2d_backward_kernel<T, kVector>, grid_for(values, kThreads), kThreads, 0, scope,
             data<opmath_t<T>>(wins), data<int>(at), mutable_data<T>(grad_x), l, values);
    });
  });
  return grad_x;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  m.impl("mish_max_pool2d", TORCH_BOX(&fastops::mish_max_pool2d_cuda));
  m.impl("mish_max_pool2d_backward", TORCH_BOX(&fastops::mish_max_pool2d_backward_cuda));
}
