// bias_activation on CUDA; the formulas are in math/activation.h.
//
// Memory-bound: x is read and y written once. Of values: a thread keeps the bias of its channels and goes from pixel to
// pixel. Of windows: a thread a window, as in mish_max_pool2d.cu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/bias_activation.h"
#include "channel_layout.cuh"
#include "launch.cuh"
#include "pool_windows.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

// The bias of a vector of channels: by 16 bytes where it has as many.
template <int kVector, class L>
__device__ __forceinline__ void load_bias(const L* p, opmath_t<L> (&values)[kVector]) {
  constexpr int kSize = kVector % Pack<L>::size == 0 ? Pack<L>::size : 1;
#pragma unroll
  for (int i = 0; i < kVector; i += kSize) {
    const auto pack = load_pack<L, kSize>(p + i);
#pragma unroll
    for (int k = 0; k < kSize; ++k) values[i + k] = to_opmath(pack.values[k]);
  }
}

// f is the same for all threads: one branch a vector.
template <class Out, int kVector, class Function>
__device__ __forceinline__ Pack<Out, kVector> mapped(Activation f, const Function& value) {
  Pack<Out, kVector> out;
  const auto fill = [&]<class F>(F) {
#pragma unroll
    for (int k = 0; k < kVector; ++k) out.values[k] = from_opmath<Out>(value.template operator()<F>(k));
  };
  if (f == Activation::mish) {
    fill(Mish{});
  } else if (f == Activation::relu) {
    fill(Relu{});
  } else {
    fill(Identity{});
  }
  return out;
}

template <class T, class L>
struct BiasArgs {
  const T* x;
  const L* bias;  // L: T or opmath
  Activation activation;
  int64_t channels, pixels, tiles, span;
};

// Block: blockDim.x vectors of kVector channels, blockDim.y pixels at a time of `span` consecutive ones.
template <class T, class Out, class L, int kVector>
__global__ void __launch_bounds__(kThreads) bias_activation_kernel(BiasArgs<T, L> a, Out* y) {
  const int64_t items = (a.pixels + a.span - 1) / a.span * a.tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t part = item / a.tiles, c = ((item - part * a.tiles) * blockDim.x + threadIdx.x) * kVector;
    if (c >= a.channels) continue;
    const int64_t begin = part * a.span, end = begin + a.span < a.pixels ? begin + a.span : a.pixels;
    opmath_t<T> bias[kVector];
    load_bias<kVector>(a.bias + c, bias);
    const auto write = [&](int64_t i, const Pack<T, kVector>& x) {
      store_pack(y + i, mapped<Out, kVector>(a.activation, [&]<class F>(int k) {
                   return F::template of<MathsOf<Out>>(to_opmath(x.values[k]) + bias[k]);
                 }));
    };
    // Two loads are under way at a time.
    const int64_t step = int64_t(blockDim.y) * a.channels, last = end * a.channels;
    for (int64_t i = (begin + threadIdx.y) * a.channels + c; i < last; i += 2 * step) {
      const auto x = load_pack<T, kVector>(a.x + i);
      const bool second = i + step < last;
      const auto next = second ? load_pack<T, kVector>(a.x + i + step) : x;
      write(i, x);
      if (second) write(i + step, next);
    }
  }
}

// Four blocks an SM: where the compiler aims at five it spills.
template <class T, class Out, class L, int kVector>
__global__ void __launch_bounds__(kThreads, 4)
    bias_activation_windows_kernel(const T* x, const L* bias_of, Out* y, Activation f, PoolLayout l, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    const Position p = position<kVector>(i, l.s.out_height, l.s.out_width, l.depth);
    const Extremes<T, kVector, false> e(x, l, p);
    opmath_t<T> bias[kVector];
    load_bias<kVector>(bias_of + p.channel, bias);
    store_pack(y + i * kVector, mapped<Out, kVector>(f, [&]<class F>(int k) {
                 return F::template of_window<MathsOf<Out>>(e.low[k] + bias[k], e.high[k] + bias[k]);
               }));
  }
}

template <class T, class Out, class L>
void launch_bias_activation(const CudaScope& scope, const BiasActivationTensors& t, const PoolShape& s, Activation f) {
  const PoolLayout l{s, s.batch, s.channels};
  const bool aligned = is_aligned16(t.x.const_data_ptr()) && is_aligned16(t.bias.const_data_ptr());
  const L* bias = data<L>(t.bias);
  Out* y = mutable_data<Out>(t.y);
  with_vector<T>(l, aligned, [&]<int kVector>() {
    if (s.kernel_h != 1 || s.kernel_w != 1 || s.stride_h != 1 || s.stride_w != 1) {
      const int64_t n = t.y.numel() / kVector;
      return launch(bias_activation_windows_kernel<T, Out, L, kVector>, grid_for(n, kThreads), kThreads, 0, scope,
                    data<T>(t.x), bias, y, f, l, n);
    }
    const int64_t pixels = s.batch * s.height * s.width;
    const PixelBlock plan(s.channels, kVector, pixels);
    const int64_t span = plan.map_span(pixels), items = ceil_div(pixels, span) * plan.tiles;
    launch(bias_activation_kernel<T, Out, L, kVector>, grid_for(items, 1), plan.block, 0, scope,
           BiasArgs<T, L>{data<T>(t.x), bias, f, s.channels, pixels, plan.tiles, span}, y);
  });
}

Tensor bias_activation_cuda(const Tensor& x, const Tensor& bias, std::string activation, const Pair& kernel_size,
                            const Pair& stride, bool float_output) {
  const char* op = "bias_activation";
  const PoolShape s = check_bias_activation(op, x, bias, kernel_size, stride);
  const Activation f = parse_activation(op, activation);
  const CudaScope scope(x);
  const BiasActivationTensors t(x, bias, s, float_output);
  if (t.y.numel() == 0) return t.result();
  dispatch_dtype(dtype_index(op, "x", x), [&]<class T>() {
    with_parameters<T>(t.bias, [&]<class L>() {
      float_output ? launch_bias_activation<T, opmath_t<T>, L>(scope, t, s, f)
                   : launch_bias_activation<T, T, L>(scope, t, s, f);
    });
  });
  return t.result();
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) { m.impl("bias_activation", TORCH_BOX(&fastops::bias_activation_cuda)); }
