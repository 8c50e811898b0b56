// Adaptive activations on CUDA; the formulas are in math/adaptive.h.
//
// Memory-bound: forward moves 2 times and backward 3 times the tensor's bytes. The backward's first kernel writes
// grad_x and the sums of each piece of work. The second kernel adds the sums in order. Results do not depend on the
// grid.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <string>
#include <tuple>

#include "../common/adaptive.h"
#include "../common/macros.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

// Storage [outer, channels, inner], as in AdaptiveShape. An item of work is a channel (rows) or a tile of channels
// (pixels) in one of `parts` parts of the images. Rows with more than `span` values are divided into pieces, and a part
// is then a piece of one image. Otherwise a part is `part` images.
template <class T>
struct PassArgs {
  const T* grad;                   // backward
  const T* x;                      //
  const T *a, *b, *c, *d;          // [C], or one value with C = 1
  T* out;                          // y, or grad_x
  opmath_t<T>* partial;            // [4, C, parts], backward
  int64_t outer, channels, inner;  //
  int64_t pieces, span;            // rows
  int64_t tiles;                   // pixels
  int64_t parts, part;             //
  bool packed;                     // 16-byte accesses: aligned, and with inner = 1 C is a multiple of a pack

  __device__ AdaptiveParameters<opmath_t<T>> parameters(int64_t channel) const {
    return {to_opmath(a[channel]), to_opmath(b[channel]), to_opmath(c[channel]), to_opmath(d[channel])};
  }
};

// The sums for a, b, c, d of kChannels channels.
template <class T, int kChannels>
struct Sums {
  opmath_t<T> values[4][kChannels] = {};
};

// Adds kVector values from i on, of one channel (kChannels = 1) or each of its own channel.
template <class F, bool kBackward, int kVector, int kChannels, class T>
__device__ __forceinline__ void visit(const PassArgs<T>& args, int64_t i,
                                      const AdaptiveParameters<opmath_t<T>> (&parameters)[kChannels],
                                      Sums<T, kChannels>& sums) {
  auto pack = load_pack<T, kVector>(args.x + i);
  if constexpr (kBackward) {
    const auto grad = load_pack<T, kVector>(args.grad + i);
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      const int c = kChannels == 1 ? 0 : k;
      const auto terms = F::backward(to_opmath(grad.values[k]), to_opmath(pack.values[k]), parameters[c]);
      pack.values[k] = from_opmath<T>(terms.grad_x);
      sums.values[0][c] += terms.a;
      sums.values[1][c] += terms.b;
      sums.values[2][c] += terms.c;
      sums.values[3][c] += terms.d;
    }
  } else {
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      pack.values[k] = from_opmath<T>(F::forward(to_opmath(pack.values[k]), parameters[kChannels == 1 ? 0 : k]));
    }
  }
  store_pack(args.out + i, pack);
}

// blockDim.x threads (4 ... 32 lanes, or the whole block) process an item, and a block has blockDim.y items. Without
// the launch bounds, here and below, ptxas spills one or two registers to allow more warps than are needed.
template <class F, bool kBackward, class T>
__global__ void __launch_bounds__(kThreads, 3) adaptive_rows_kernel(PassArgs<T> args) {
  constexpr int kSize = Pack<T>::size;
  const int64_t items = args.parts * args.channels;
  for (int64_t base = int64_t(blockIdx.x) * blockDim.y; base < items; base += int64_t(gridDim.x) * blockDim.y) {
    const int64_t item = base + threadIdx.y;
    const bool active = item < items;  // inactive threads stay for the warp's sums
    const int64_t index = active ? item / args.channels : 0, channel = active ? item % args.channels : 0;
    const int64_t first = index * args.part;
    const int64_t left = args.outer * args.pieces - first;
    const int64_t images = !active ? 0 : left < args.part ? left : args.part;
    const int64_t from = first % args.pieces * args.span;
    const int64_t length = args.inner - from < args.span ? args.inner - from : args.span;
    const AdaptiveParameters<opmath_t<T>> parameters[1] = {args.parameters(channel)};
    Sums<T, 1> sums;
    int64_t begin = (first / args.pieces * args.channels + channel) * args.inner + from;
    for (int64_t n = 0; n < images; ++n, begin += args.channels * args.inner) {
      // Packs, and the single values before the first and after the last 16-byte boundary.
      const int64_t end = begin + length, first_pack = (begin + kSize - 1) / kSize, last_pack = end / kSize;
      const bool packed = args.packed && first_pack < last_pack;
      const int64_t head_end = packed ? first_pack * kSize : end, tail = packed ? last_pack * kSize : end;
      for (int64_t i = begin + threadIdx.x; i < end - (tail - head_end); i += blockDim.x) {
        visit<F, kBackward, 1>(args, i < head_end ? i : i + (tail - head_end), parameters, sums);
      }
      for (int64_t i = head_end + threadIdx.x * kSize; i < tail; i += blockDim.x * kSize) {
        visit<F, kBackward, kSize>(args, i, parameters, sums);
      }
    }
    if constexpr (kBackward) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const auto sum = blockDim.x > 32 ? block_sum(sums.values[k][0]) : group_sum(sums.values[k][0], blockDim.x);
        if (active && threadIdx.x == 0) args.partial[(k * args.channels + channel) * args.parts + index] = sum;
      }
    }
  }
}

// A block has blockDim.x vectors of kVector channels and takes blockDim.y pixels of one part at a time.
template <class F, bool kBackward, int kVector, class T>
__global__ void __launch_bounds__(kThreads, 2) adaptive_pixels_kernel(PassArgs<T> args) {
  const int64_t items = args.parts * args.tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t index = item / args.tiles, channel = (item % args.tiles * blockDim.x + threadIdx.x) * kVector;
    const bool active = channel < args.channels;
    const int64_t first = index * args.part;
    const int64_t last = !active ? first : first + args.part < args.outer ? first + args.part : args.outer;
    AdaptiveParameters<opmath_t<T>> parameters[kVector] = {};
    if (active) {
#pragma unroll
      for (int k = 0; k < kVector; ++k) parameters[k] = args.parameters(channel + k);
    }
    Sums<T, kVector> sums;
    for (int64_t p = first + threadIdx.y; p < last; p += blockDim.y) {
      visit<F, kBackward, kVector>(args, p * args.channels + channel, parameters, sums);
    }
    if constexpr (kBackward) {
      __shared__ opmath_t<T> shared[kVector * kThreads];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        column_sum(sums.values[k], shared);
        if (!active || threadIdx.y > 0) continue;
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          args.partial[(k * args.channels + channel + v) * args.parts + index] = sums.values[k][v];
        }
      }
    }
  }
}

template <class T>
struct SumsArgs {
  const opmath_t<T>* partial;  // [4, C, parts]
  const T* b;                  // [C]
  T* grads[4];                 // [C]
  int64_t channels, parts;
  bool lack_b;  // the sums for a and c are not yet multiplied by b
};

// One warp for each sum.
template <class T>
__global__ void __launch_bounds__(kThreads) adaptive_sums_kernel(SumsArgs<T> args) {
  const int64_t items = 4 * args.channels, stride = int64_t(gridDim.x) * blockDim.y;
  for (int64_t item = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; item < items; item += stride) {
    opmath_t<T> sum = 0;
    for (int64_t i = threadIdx.x; i < args.parts; i += 32) sum += args.partial[item * args.parts + i];
    sum = group_sum(sum, 32);
    const int64_t k = item / args.channels, channel = item % args.channels;
    if (args.lack_b && k % 2 == 0) sum *= to_opmath(args.b[channel]);
    T* grad = args.grads[0];  // a runtime index would put the array into local memory
#pragma unroll
    for (int j = 1; j < 4; ++j) grad = k == j ? args.grads[j] : grad;
    if (threadIdx.x == 0) grad[channel] = from_opmath<T>(sum);
  }
}

// ---- launches ---------------------------------------------------------------------------------------------------

// Blocks that fill current GPUs (132 SMs, a few blocks each). A constant, so that results do not depend on the GPU.
constexpr int64_t kTargetBlocks = 1024;

// Fills in the sizes. Returns the block and the number of items that it takes at a time.
template <class T>
std::pair<dim3, int64_t> plan_rows(PassArgs<T>& args) {
  const int64_t rows = args.outer * args.channels, vector = args.packed ? Pack<T>::size : 1;
  const int64_t packs = ceil_div(args.inner, vector);
  int64_t group = 4;
  while (group < 32 && group * 4 < packs) group *= 2;
  // One block per row if a warp would take long, or if there are too few rows to fill the GPU with one warp each.
  if (packs > 256 || (packs > 64 && rows < 2 * kTargetBlocks)) group = kThreads;
  args.pieces = args.part = 1, args.span = args.inner;
  if (group == kThreads) {
    // At least 4 packs per thread, so that the final sums take little time. At most 256 values per thread, so that the
    // sums are exact enough. Whole rounds of the block.
    const int64_t round = kThreads * vector;
    const int64_t wanted = ceil_div(ceil_div(args.inner * rows, kTargetBlocks), round);
    args.span = std::min(args.inner, round * std::clamp<int64_t>(wanted, 4, 256 / vector));
    args.pieces = ceil_div(args.inner, args.span);
  } else {
    args.part = std::clamp<int64_t>(rows * group / (kTargetBlocks * kThreads), 1, 16);
  }
  args.parts = ceil_div(args.outer * args.pieces, args.part);
  return {dim3(unsigned(group), unsigned(kThreads / group)), kThreads / group};
}

template <class T>
dim3 plan_pixels(PassArgs<T>& args) {
  const int64_t vectors = ceil_div(args.channels, args.packed ? Pack<T>::size : 1);
  args.tiles = ceil_div(vectors, kThreads);
  const int64_t width = ceil_div(vectors, args.tiles), height = kThreads / width;
  const int64_t rounds = ceil_div(args.outer * args.tiles, height * kTargetBlocks);
  args.part = height * std::clamp<int64_t>(rounds, 4, 256);
  args.parts = ceil_div(args.outer, args.part);
  return dim3(unsigned(width), unsigned(height));
}

// Launches one pass. For the backward it returns the partial sums [4, C, parts]. The parameters are contiguous.
template <class F, bool kBackward, class T>
Tensor launch_adaptive(const CudaScope& scope, const Tensor& grad, const Tensor& x,
                       const std::array<Tensor, 4>& parameters, const Tensor& out) {
  const AdaptiveShape shape = adaptive_shape(x, parameters[0]);
  PassArgs<T> args{};
  args.grad = kBackward ? data<T>(grad) : nullptr, args.x = data<T>(x), args.out = mutable_data<T>(out);
  args.a = data<T>(parameters[0]), args.b = data<T>(parameters[1]);
  args.c = data<T>(parameters[2]), args.d = data<T>(parameters[3]);
  args.outer = shape.outer, args.channels = shape.channels, args.inner = shape.inner;
  const bool pixels = shape.inner == 1;
  args.packed = is_aligned16(args.x) && is_aligned16(args.grad) && is_aligned16(args.out) &&
                (!pixels || shape.channels % Pack<T>::size == 0);
  dim3 block;
  int64_t per_block = 1;
  if (pixels) {
    block = plan_pixels(args);
  } else {
    std::tie(block, per_block) = plan_rows(args);
  }
  Tensor partial;
  if constexpr (kBackward) {
    const ScalarType type = sizeof(opmath_t<T>) == 8 ? ScalarType::Double : ScalarType::Float;
    partial = torch::stable::new_empty(x, {4 * shape.channels * args.parts}, type);
    args.partial = mutable_data<opmath_t<T>>(partial);
  }
  const unsigned grid = grid_for(args.parts * (pixels ? args.tiles : shape.channels), per_block);
  const auto kernel = !pixels       ? adaptive_rows_kernel<F, kBackward, T>
                      : args.packed ? adaptive_pixels_kernel<F, kBackward, Pack<T>::size, T>
                                    : adaptive_pixels_kernel<F, kBackward, 1, T>;
  launch(kernel, grid, block, 0, scope, args);
  return partial;
}

// ---- entry points -----------------------------------------------------------------------------------------------

std::array<Tensor, 4> contiguous_parameters(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d) {
  using torch::stable::contiguous;
  return {contiguous(a), contiguous(b), contiguous(c), contiguous(d)};
}

template <AdaptiveKind kKind>
Tensor adaptive_cuda(const Tensor& x_, const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d) {
  check_adaptive(kAdaptiveNames[kKind], x_, a, b, c, d);
  const CudaScope scope(x_);
  const Tensor x = dense(x_);
  Tensor y = torch::stable::empty_like(x);
  if (y.numel() == 0) return y;
  dispatch_dtype(dtype_index(kAdaptiveNames[kKind], "x", x), [&]<class T>() {
    launch_adaptive<AdaptiveActivation<kKind, MathsOf<T>>, false, T>(scope, x, x, contiguous_parameters(a, b, c, d), y);
  });
  return y;
}

template <AdaptiveKind kKind>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> adaptive_backward_cuda(const Tensor& grad_, const Tensor& x_,
                                                                          const Tensor& a, const Tensor& b,
                                                                          const Tensor& c, const Tensor& d) {
  using torch::stable::empty_like;
  const std::string op = std::string(kAdaptiveNames[kKind]) + "_backward";
  check_adaptive(op, x_, a, b, c, d);
  check_adaptive_grad(op, grad_, x_);
  const CudaScope scope(x_);
  const Tensor x = dense(x_), grad = laid_out_like(grad_, x);
  Tensor grad_x = empty_like(x);
  const std::array<Tensor, 4> grads{empty_like(a), empty_like(b), empty_like(c), empty_like(d)};
  if (a.numel() > 0) {
    dispatch_dtype(dtype_index(op.c_str(), "x", x), [&]<class T>() {
      using F = AdaptiveActivation<kKind, MathsOf<T>>;
      const std::array<Tensor, 4> parameters = contiguous_parameters(a, b, c, d);
      SumsArgs<T> sums{nullptr, data<T>(parameters[1]), {}, a.numel(), 0, false};
      for (int k = 0; k < 4; ++k) sums.grads[k] = mutable_data<T>(grads[k]);
      Tensor partial;
      if (x.numel() > 0) {
        partial = launch_adaptive<F, true, T>(scope, grad, x, parameters, grad_x);
        sums.partial = data<opmath_t<T>>(partial);
        sums.parts = partial.numel() / (4 * a.numel());
        sums.lack_b = F::kSumsLackB;
      }
      constexpr int kWarps = kThreads / 32;
      launch(adaptive_sums_kernel<T>, grid_for(4 * a.numel(), kWarps), dim3(32, kWarps), 0, scope, sums);
    });
  }
  return {grad_x, grads[0], grads[1], grads[2], grads[3]};
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  using namespace fastops;
  m.impl("adaptive_sigmoid", TORCH_BOX(&adaptive_cuda<kAdaptiveSigmoid>));
  m.impl("adaptive_sigmoid_backward", TORCH_BOX(&adaptive_backward_cuda<kAdaptiveSigmoid>));
  m.impl("adaptive_tanh", TORCH_BOX(&adaptive_cuda<kAdaptiveTanh>));
  m.impl("adaptive_tanh_backward", TORCH_BOX(&adaptive_backward_cuda<kAdaptiveTanh>));
  m.impl("adaptive_relu", TORCH_BOX(&adaptive_cuda<kAdaptiveRelu>));
  m.impl("adaptive_relu_backward", TORCH_BOX(&adaptive_backward_cuda<kAdaptiveRelu>));
}
