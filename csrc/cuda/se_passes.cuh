// The passes over x of squeeze-and-excitation, each for two layouts: rows [N C, P] (contiguous) and pixels [N P, C]
// (channels_last). Sums over the pixels of long rows or large images are divided into chunks. The kernel that needs a
// sum adds its partial sums in order.
#pragma once

#include "../math/se.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastops {

// ---- scale: y = x sigma(logits) + shift -------------------------------------------------------------------------

// L is the dtype of the logits, T or opmath. shift is null, or the term that the mean's backward adds to every pixel.
template <class T, class L>
struct ScaleArgs {
  const T* x;
  const L* logits;           // [N, C]
  const opmath_t<T>* shift;  // [N, C]
  T* y;
  int64_t batch, channels, pixels;

  struct Gate {
    opmath_t<T> scale, shift;
    __device__ T operator()(T v) const { return from_opmath<T>(to_opmath(v) * scale + shift); }
  };
  __device__ Gate gate(int64_t row) const {
    return {sigmoid_(to_opmath(logits[row])), shift ? shift[row] : opmath_t<T>(-0.0)};  // v + -0 = v for every v
  }
};

// a / b. For a < 2^30 it runs in 32 bits, which is several times faster than in 64 bits.
__device__ __forceinline__ int64_t divide_small(int64_t a, int64_t b) {
  constexpr int64_t kLimit = int64_t(1) << 30;
  return unsigned(a) / unsigned(b < kLimit ? b : kLimit);
}

// A flat loop over the storage, as in mish. A pack may end in the next row, so a row must have at least one pack.
template <class T, class L>
__global__ void __launch_bounds__(kThreads) scale_rows_kernel(ScaleArgs<T, L> a, int64_t n, int64_t packed) {
  constexpr int kSize = Pack<T>::size, kTile = kThreads * kSize;
  for (int64_t tile = int64_t(blockIdx.x) * kTile; tile < packed * kSize; tile += int64_t(gridDim.x) * kTile) {
    int64_t row = tile / a.pixels;
    const int64_t i = tile + threadIdx.x * kSize;
    if (i >= packed * kSize) break;
    int64_t left = (row + 1) * a.pixels - i;  // values of the row from i on
    if (left <= 0) {
      const int64_t rows = 1 + divide_small(-left, a.pixels);
      row += rows;
      left += rows * a.pixels;
    }
    const auto gate = a.gate(row), next_gate = left < kSize ? a.gate(row + 1) : gate;
    Pack<T> pack = load_pack(a.x + i);
#pragma unroll
    for (int k = 0; k < kSize; ++k) pack.values[k] = k < left ? gate(pack.values[k]) : next_gate(pack.values[k]);
    store_pack(a.y + i, pack);
  }
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = packed * kSize + thread; i < n; i += int64_t(gridDim.x) * kThreads) {
    a.y[i] = a.gate(i / a.pixels)(a.x[i]);
  }
}

// A block has blockDim.x vectors of kVector channels and takes blockDim.y of `span` consecutive pixels at a time.
// Without the launch bounds, here and below, ptxas spills one or two registers to allow more warps than are needed.
template <class T, class L, int kVector>
__global__ void __launch_bounds__(kThreads, 3) scale_pixels_kernel(ScaleArgs<T, L> a, int64_t tiles, int64_t span) {
  const int64_t pixels = a.batch * a.pixels, items = (pixels + span - 1) / span * tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t part = item / tiles, c = ((item - part * tiles) * blockDim.x + threadIdx.x) * kVector;
    if (c >= a.channels) continue;
    const int64_t begin = part * span, end = begin + span < pixels ? begin + span : pixels;
    // divide_small is for short distances, so a plain division finds the first image.
    int64_t image = (begin + threadIdx.y) / a.pixels - 1, image_end = (image + 1) * a.pixels;
    typename ScaleArgs<T, L>::Gate gates[kVector];
    for (int64_t p = begin + threadIdx.y; p < end; p += blockDim.y) {
      if (p >= image_end) {
        const int64_t images = 1 + divide_small(p - image_end, a.pixels);
        image += images;
        image_end += images * a.pixels;
#pragma unroll
        for (int k = 0; k < kVector; ++k) gates[k] = a.gate(image * a.channels + c + k);
      }
      auto pack = load_pack<T, kVector>(a.x + p * a.channels + c);
#pragma unroll
      for (int k = 0; k < kVector; ++k) pack.values[k] = gates[k](pack.values[k]);
      store_pack(a.y + p * a.channels + c, pack);
    }
  }
}

// ---- sums over the pixels ---------------------------------------------------------------------------------------

enum class Pass { kSqueeze, kScaleBackward, kMoments };  // sum x | grad_x = grad s and sum grad x | sum x, sum grad x

template <class T>
struct PassArgs {
  const T* grad;
  const T* x;
  const T* logits;       // [N, C]  kScaleBackward
  T* grad_x;             //         kScaleBackward
  T* grad_logits;        // [N, C]  kScaleBackward, when chunks = 1
  opmath_t<T>* partial;  // [sums, N, chunks, C]  when grad_logits is not written
  int64_t batch, channels, pixels;
  int64_t chunks, span;  // parts of the pixels, and pixels of each
  int64_t tiles;         // parts of the channels (pass_pixels_kernel)
  bool packed;
};

template <Pass kPass>
constexpr int kSums = kPass == Pass::kMoments ? 2 : 1;

// Adds one value to `sums` (kSums of them, with stride `stride`) and turns grad into grad_x.
template <Pass kPass, class T>
__device__ __forceinline__ void visit(T& grad, T x_value, opmath_t<T> s, opmath_t<T>* sums, int stride) {
  const opmath_t<T> x = to_opmath(x_value);
  if constexpr (kPass == Pass::kSqueeze) {
    sums[0] += x;
  } else {
    const opmath_t<T> g = to_opmath(grad);
    if constexpr (kPass == Pass::kMoments) {
      sums[0] += x;
      sums[stride] += g * x;
    } else {
      sums[0] += g * x;
      grad = from_opmath<T>(g * s);
    }
  }
}

// kVector values from position i on.
template <Pass kPass, int kVector, class T>
__device__ __forceinline__ void visit_pack(const PassArgs<T>& a, int64_t i, const opmath_t<T>* s, int s_stride,
                                           opmath_t<T>* sums, int sum_stride, int stride) {
  const auto x = load_pack<T, kVector>(a.x + i);
  Pack<T, kVector> grad;
  if constexpr (kPass != Pass::kSqueeze) grad = load_pack<T, kVector>(a.grad + i);
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    visit<kPass>(grad.values[k], x.values[k], s[k * s_stride], sums + k * sum_stride, stride);
  }
  if constexpr (kPass == Pass::kScaleBackward) store_pack(a.grad_x + i, grad);
}

template <Pass kPass, class T>
__device__ __forceinline__ void store_sum(const PassArgs<T>& a, int64_t n, int64_t c, int64_t chunk, int k,
                                          opmath_t<T> sum) {
  if (kPass == Pass::kScaleBackward && a.chunks == 1) {
    const int64_t row = n * a.channels + c;
    a.grad_logits[row] = from_opmath<T>(se_logit_backward(sum, to_opmath(a.logits[row])));
  } else {
    a.partial[((k * a.batch + n) * a.chunks + chunk) * a.channels + c] = sum;
  }
}

// blockDim.x threads (4 ... 32 lanes, or the whole block) process a row or a chunk of it, and a block has blockDim.y.
template <class T, Pass kPass>
__global__ void __launch_bounds__(kThreads) pass_rows_kernel(PassArgs<T> a) {
  constexpr int kSize = Pack<T>::size;
  const int64_t items = a.batch * a.channels * a.chunks;
  for (int64_t base = int64_t(blockIdx.x) * blockDim.y; base < items; base += int64_t(gridDim.x) * blockDim.y) {
    const int64_t item = base + threadIdx.y;
    const bool active = item < items;  // inactive threads stay for the warp's sums
    const int64_t row = active ? item / a.chunks : 0, chunk = item % a.chunks;
    const int64_t first = chunk * a.span, last = first + a.span < a.pixels ? first + a.span : a.pixels;
    const int64_t begin = row * a.pixels + first, end = active ? row * a.pixels + last : begin;
    opmath_t<T> s = 0, sums[kSums<kPass>] = {};
    if constexpr (kPass == Pass::kScaleBackward) s = sigmoid_(to_opmath(a.logits[row]));

    // [begin, end) = values up to a 16-byte boundary, packs, values after the last boundary
    int64_t pack_begin = (begin + kSize - 1) / kSize, pack_end = end / kSize;
    if (!a.packed || pack_begin >= pack_end) pack_begin = pack_end = end / kSize + 1;
    const int64_t head = pack_begin * kSize < end ? pack_begin * kSize : end;
    for (int64_t i = begin + threadIdx.x; i < head; i += blockDim.x) visit_pack<kPass, 1>(a, i, &s, 0, sums, 0, 1);
    for (int64_t i = pack_begin + threadIdx.x; i < pack_end; i += blockDim.x) {
      visit_pack<kPass, kSize>(a, i * kSize, &s, 0, sums, 0, 1);
    }
    for (int64_t i = pack_end * kSize + threadIdx.x; i < end; i += blockDim.x) {
      visit_pack<kPass, 1>(a, i, &s, 0, sums, 0, 1);
    }
#pragma unroll
    for (int k = 0; k < kSums<kPass>; ++k) {
      sums[k] = blockDim.x > 32 ? block_sum(sums[k]) : group_sum(sums[k], blockDim.x);
      if (active && threadIdx.x == 0) store_sum<kPass>(a, row / a.channels, row % a.channels, chunk, k, sums[k]);
    }
  }
}

// A block has blockDim.x vectors of kVector channels and takes blockDim.y pixels of one chunk of an image at a time.
template <class T, Pass kPass, int kVector>
__global__ void __launch_bounds__(kThreads, 4) pass_pixels_kernel(PassArgs<T> a) {
  __shared__ opmath_t<T> shared[kSums<kPass> * kVector * kThreads];
  const int64_t items = a.batch * a.chunks * a.tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t c = (item % a.tiles * blockDim.x + threadIdx.x) * kVector;
    const int64_t chunk = item / a.tiles % a.chunks, n = item / a.tiles / a.chunks;
    const bool active = c < a.channels;
    const int64_t begin = chunk * a.span;
    const int64_t end = !active ? begin : begin + a.span < a.pixels ? begin + a.span : a.pixels;
    opmath_t<T> s[kVector] = {}, sums[kSums<kPass> * kVector] = {};
    if (kPass == Pass::kScaleBackward && active) {
#pragma unroll
      for (int k = 0; k < kVector; ++k) s[k] = sigmoid_(to_opmath(a.logits[n * a.channels + c + k]));
    }
#pragma unroll 2  // loads in flight at a time
    for (int64_t p = begin + threadIdx.y; p < end; p += blockDim.y) {
      visit_pack<kPass, kVector>(a, (n * a.pixels + p) * a.channels + c, s, 1, sums, 1, kVector);
    }
    column_sum(sums, shared);
    if (!active || threadIdx.y > 0) continue;
#pragma unroll
    for (int k = 0; k < kSums<kPass>; ++k) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) store_sum<kPass>(a, n, c + v, chunk, k, sums[k * kVector + v]);
    }
  }
}

// The last step of kScaleBackward if the pixels were divided into chunks.
template <class T>
__global__ void __launch_bounds__(kThreads) grad_logits_kernel(PassArgs<T> a) {
  const int64_t rows = a.batch * a.channels;
  for (int64_t base = int64_t(blockIdx.x) * kSumColumns; base < rows; base += int64_t(gridDim.x) * kSumColumns) {
    const int64_t row = base + threadIdx.x;
    const int64_t n = row / a.channels, c = row % a.channels;
    const opmath_t<T> sum =
        strided_sum(a.partial + n * a.chunks * a.channels + c, a.channels, row < rows ? a.chunks : 0);
    if (row >= rows || threadIdx.y > 0) continue;
    a.grad_logits[row] = from_opmath<T>(se_logit_backward(sum, to_opmath(a.logits[row])));
  }
}

}  // namespace fastops
