// The passes over x of affine_mish and batch_norm_mish, each for two layouts: rows [N C, P] (contiguous) and pixels
// [N P, C] (channels_last). Parts of a row, or of the pixels, have their own sums. The kernels at the end of this file
// add these in order.
#pragma once

#include "../math/affine_mish.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastops {

// The map of each channel, v = scale (x - center) + shift, as arrays [C]. L is T or opmath. A null center means 0.
// slope and offset are for the gradient of a batch norm.
template <class T, class L>
struct ChannelMaps {
  using A = opmath_t<T>;
  const L *scale, *shift;
  const A *center, *slope, *offset;

  struct Map {
    A center, scale, shift, slope, offset;
  };
  template <bool kGradient>
  __device__ Map at(int64_t c) const {
    Map map{center ? center[c] : A(0), to_opmath(scale[c]), to_opmath(shift[c]), A(0), A(0)};
    if constexpr (kGradient) map.slope = slope[c], map.offset = offset[c];
    return map;
  }
};

// ---- value by value: y, or the gradient of a batch norm's input ---------------------------------------------------

template <class T, class L>
struct MapArgs {
  const T* grad;  // with kGradient
  const T* x;
  T* out;
  ChannelMaps<T, L> maps;
  int64_t channels, pixels, n;  // n: all values; pixels: of a row, or of all images
};

template <bool kGradient, class T, class Map>
__device__ __forceinline__ T mapped(T grad, T x, const Map& map) {
  const opmath_t<T> v = to_opmath(x);
  if constexpr (kGradient) {
    const opmath_t<T> inner = affine_mish_backward<MathsOf<T>>(to_opmath(grad), v, map.center, map.scale, map.shift);
    return from_opmath<T>(map.scale * inner + (map.slope * (v - map.center) + map.offset));
  } else {
    return from_opmath<T>(affine_mish_forward<MathsOf<T>>(v, map.center, map.scale, map.shift));
  }
}

// a / b. For a < 2^30 it runs in 32 bits, which is several times faster than in 64 bits.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  constexpr int64_t kLimit = int64_t(1) << 30;
  return a < kLimit ? int64_t(unsigned(a) / unsigned(b < kLimit ? b : kLimit)) : a / b;
}

template <class Map>
__device__ __forceinline__ Map choose(bool first, const Map& a, const Map& b) {
  return {first ? a.center : b.center, first ? a.scale : b.scale, first ? a.shift : b.shift, first ? a.slope : b.slope,
          first ? a.offset : b.offset};
}

// A flat loop over the storage. A pack may end in the next row, so a row must have at least one pack.
template <class T, class L, bool kGradient>
__global__ void __launch_bounds__(kThreads) map_rows_kernel(MapArgs<T, L> a, int64_t packed) {
  constexpr int kSize = Pack<T>::size;
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t p = thread; p < packed; p += stride) {
    const int64_t i = p * kSize, row = quotient(i, a.pixels), left = (row + 1) * a.pixels - i;
    const int64_t channel = row - quotient(row, a.channels) * a.channels;
    const auto map = a.maps.template at<kGradient>(channel);
    const auto next = left < kSize ? a.maps.template at<kGradient>(channel + 1 < a.channels ? channel + 1 : 0) : map;
    const Pack<T> x = load_pack(a.x + i);
    Pack<T> out = x;
    if constexpr (kGradient) out = load_pack(a.grad + i);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      // This selects the maps. If it selected the results, the compiler would compute both.
      out.values[k] = mapped<kGradient>(out.values[k], x.values[k], choose(k < left, map, next));
    }
    store_pack(a.out + i, out);
  }
  for (int64_t i = packed * kSize + thread; i < a.n; i += stride) {
    const auto map = a.maps.template at<kGradient>(quotient(i, a.pixels) % a.channels);
    a.out[i] = mapped<kGradient>(kGradient ? a.grad[i] : a.x[i], a.x[i], map);
  }
}

// A block has blockDim.x vectors of kVector channels and takes blockDim.y of `span` consecutive pixels at a time.
template <class T, class L, bool kGradient, int kVector>
__global__ void __launch_bounds__(kThreads, 2) map_pixels_kernel(MapArgs<T, L> a, int64_t tiles, int64_t span) {
  const int64_t items = (a.pixels + span - 1) / span * tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t part = item / tiles, c = ((item - part * tiles) * blockDim.x + threadIdx.x) * kVector;
    if (c >= a.channels) continue;
    const int64_t begin = part * span, end = begin + span < a.pixels ? begin + span : a.pixels;
    typename ChannelMaps<T, L>::Map maps[kVector];
#pragma unroll
    for (int k = 0; k < kVector; ++k) maps[k] = a.maps.template at<kGradient>(c + k);
    const auto map = [&](int64_t i, const Pack<T, kVector>& x, Pack<T, kVector> out) {
#pragma unroll
      for (int k = 0; k < kVector; ++k) out.values[k] = mapped<kGradient>(out.values[k], x.values[k], maps[k]);
      store_pack(a.out + i, out);
    };
    // Two loads are in flight at a time: grad and x of one pixel, or x of two pixels.
    const int64_t step = int64_t(blockDim.y) * a.channels, last = end * a.channels;
    for (int64_t i = (begin + threadIdx.y) * a.channels + c; i < last; i += kGradient ? step : 2 * step) {
      const auto x = load_pack<T, kVector>(a.x + i);
      if constexpr (kGradient) {
        map(i, x, load_pack<T, kVector>(a.grad + i));
      } else {
        const bool second = i + step < last;
        const auto next = second ? load_pack<T, kVector>(a.x + i + step) : x;
        map(i, x, x);
        if (second) map(i + step, next, next);
      }
    }
  }
}

// ---- sums over a channel ------------------------------------------------------------------------------------------

// kMoments: mean and sum of squared differences from it. kSums: sums of g' and g' (x - center). kBackward: these sums
// and grad_x = scale g'.
enum class ChannelPass { kMoments, kSums, kBackward };

template <class T, class L>
struct ChannelPassArgs {
  const T* grad;
  const T* x;
  T* grad_x;
  ChannelMaps<T, L> maps;  // not for kMoments
  double* partial;         // [2, terms, C]
  int64_t rows, channels;
  int64_t length, parts, span;  // values of a row, or all pixels; its parts; values or pixels of a part
  int64_t terms, tiles;         // terms of a channel's sums; parts of the channels (channel_pixels_kernel)
  bool packed;

  __device__ void store(int64_t term, int64_t c, double first, double second) const {
    partial[term * channels + c] = first;
    partial[(terms + term) * channels + c] = second;
  }
};

// The mean, kept in two numbers, and the squared differences from it. Values are compared with the mean of the values
// before them and not with a fixed number. So neither a large mean nor an outlier at the start costs digits.
template <class A>
struct Moments {
  A mean = 0, rest = 0, squares = 0;

  // Adds kCount values to `count` values.
  template <int kCount>
  __device__ void add(const A (&values)[kCount], A count) {
    if (count == 0) mean = values[0];
    A sum = 0, local = 0;
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum += values[k] - mean;
    sum /= kCount;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const A d = values[k] - mean - sum;
      local += d * d;
    }
    const A d = sum - rest, share = A(kCount) / (count + kCount);
    squares += local + d * d * count * share;
    rest += d * share;
    const A next = mean + rest;
    rest -= next - mean;
    mean = next;
  }

  // The mean of `count` values minus `center`; 0 for no values.
  __device__ A apart(A center, A count) const { return count > 0 ? mean - center + rest : A(0); }
};

// Adds one value in kSums or kBackward.
template <ChannelPass kPass, class T, class Map>
__device__ __forceinline__ void visit_channel(T& grad, T x, const Map& map, opmath_t<T>& sum_g, opmath_t<T>& sum_gx) {
  const opmath_t<T> v = to_opmath(x);
  const opmath_t<T> inner = affine_mish_backward<MathsOf<T>>(to_opmath(grad), v, map.center, map.scale, map.shift);
  sum_g += inner;
  sum_gx += inner * (v - map.center);
  if constexpr (kPass == ChannelPass::kBackward) grad = from_opmath<T>(map.scale * inner);
}

// blockDim.x threads (4 ... 32 lanes, or the whole block) process a part of a row, and a block has blockDim.y parts.
template <class T, class L, ChannelPass kPass>
__global__ void __launch_bounds__(kThreads) channel_rows_kernel(ChannelPassArgs<T, L> a) {
  using A = opmath_t<T>;
  constexpr int kSize = Pack<T>::size;
  const int64_t items = a.rows * a.parts;
  for (int64_t base = int64_t(blockIdx.x) * blockDim.y; base < items; base += int64_t(gridDim.x) * blockDim.y) {
    const int64_t item = base + threadIdx.y;
    const bool active = item < items;  // inactive threads stay for the warp's sums
    const int64_t row = active ? item / a.parts : 0, part = item % a.parts;
    const int64_t first = part * a.span, last = first + a.span < a.length ? first + a.span : a.length;
    const int64_t begin = row * a.length + first, end = active ? row * a.length + last : begin;
    const int64_t c = row % a.channels;
    A count = 0, sum_g = 0, sum_gx = 0, center = 0;
    Moments<A> moments;
    typename ChannelMaps<T, L>::Map map{};
    if constexpr (kPass != ChannelPass::kMoments) map = a.maps.template at<false>(c);
    const auto visit_values = [&]<int kCount>(int64_t i) {
      const auto x = load_pack<T, kCount>(a.x + i);
      if constexpr (kPass == ChannelPass::kMoments) {
        A values[kCount];
#pragma unroll
        for (int k = 0; k < kCount; ++k) values[k] = to_opmath(x.values[k]);
        moments.add(values, count);
        count += kCount;
      } else {
        auto grad = load_pack<T, kCount>(a.grad + i);
#pragma unroll
        for (int k = 0; k < kCount; ++k) visit_channel<kPass>(grad.values[k], x.values[k], map, sum_g, sum_gx);
        if constexpr (kPass == ChannelPass::kBackward) store_pack(a.grad_x + i, grad);
      }
    };

    // [begin, end) = values up to a 16-byte boundary, packs, values after the last boundary
    int64_t pack_begin = (begin + kSize - 1) / kSize, pack_end = end / kSize;
    if (!a.packed || pack_begin >= pack_end) pack_begin = pack_end = end / kSize + 1;
    const int64_t head = pack_begin * kSize < end ? pack_begin * kSize : end;
    for (int64_t i = begin + threadIdx.x; i < head; i += blockDim.x) visit_values.template operator()<1>(i);
    for (int64_t i = pack_begin + threadIdx.x; i < pack_end; i += blockDim.x) {
      visit_values.template operator()<kSize>(i * kSize);
    }
    for (int64_t i = pack_end * kSize + threadIdx.x; i < end; i += blockDim.x) visit_values.template operator()<1>(i);

    const auto total = [&](A value) { return blockDim.x > 32 ? block_sum(value) : group_sum(value, blockDim.x); };
    if constexpr (kPass == ChannelPass::kMoments) {
      // First the rounded mean. Its correction and the squared differences from it are then sums of small numbers.
      const A values = A(end > begin ? end - begin : 1);
      center = total(moments.mean * (count / values));
      const A apart = moments.apart(center, count);
      sum_g = total(count * apart) / values;
      sum_gx = total(moments.squares + count * apart * apart) - values * sum_g * sum_g;
    } else {
      sum_g = total(sum_g);
      sum_gx = total(sum_gx);
    }
    if (active && threadIdx.x == 0) {
      a.store(row / a.channels * a.parts + part, c, double(center) + double(sum_g), double(sum_gx));
    }
  }
}

// A block has blockDim.x vectors of kVector channels and takes blockDim.y pixels of one part at a time.
template <class T, class L, ChannelPass kPass, int kVector>
__global__ void __launch_bounds__(kThreads, 2) channel_pixels_kernel(ChannelPassArgs<T, L> a) {
  using A = opmath_t<T>;
  __shared__ A shared[2 * kVector * kThreads];
  const int64_t items = a.parts * a.tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t part = item / a.tiles, c = ((item - part * a.tiles) * blockDim.x + threadIdx.x) * kVector;
    const bool active = c < a.channels;
    const int64_t begin = part * a.span, last = begin + a.span < a.length ? begin + a.span : a.length;
    const int64_t end = active ? last : begin;
    A sums[2 * kVector] = {}, centers[kVector] = {};
    if constexpr (kPass == ChannelPass::kMoments) {
      A count = 0;
      Moments<A> moments[kVector];
      for (int64_t p = begin + threadIdx.y; p < end; p += blockDim.y) {
        const auto x = load_pack<T, kVector>(a.x + p * a.channels + c);
#pragma unroll
        for (int k = 0; k < kVector; ++k) {
          const A value[1] = {to_opmath(x.values[k])};
          moments[k].add(value, count);
        }
        count += 1;
      }
      // First the rounded mean, then its correction, as in channel_rows_kernel.
      const A pixels = A(last > begin ? last - begin : 1);
#pragma unroll
      for (int k = 0; k < kVector; ++k) centers[k] = moments[k].mean * (count / pixels);
      column_sum(centers, shared);
      if (threadIdx.y == 0) {
#pragma unroll
        for (int k = 0; k < kVector; ++k) shared[k * blockDim.x + threadIdx.x] = centers[k];
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        centers[k] = shared[k * blockDim.x + threadIdx.x];
        const A apart = moments[k].apart(centers[k], count);
        sums[k] = count * apart;
        sums[kVector + k] = moments[k].squares + count * apart * apart;
      }
      __syncthreads();
      column_sum(sums, shared);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        sums[k] /= pixels;
        sums[kVector + k] -= pixels * sums[k] * sums[k];
      }
    } else {
      typename ChannelMaps<T, L>::Map maps[kVector] = {};
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        if (active) maps[k] = a.maps.template at<false>(c + k);
      }
      for (int64_t p = begin + threadIdx.y; p < end; p += blockDim.y) {
        const int64_t i = p * a.channels + c;
        const auto x = load_pack<T, kVector>(a.x + i);
        auto grad = load_pack<T, kVector>(a.grad + i);
#pragma unroll
        for (int k = 0; k < kVector; ++k) {
          visit_channel<kPass>(grad.values[k], x.values[k], maps[k], sums[k], sums[kVector + k]);
        }
        if constexpr (kPass == ChannelPass::kBackward) store_pack(a.grad_x + i, grad);
      }
      column_sum(sums, shared);
    }
    if (!active || threadIdx.y > 0) continue;
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      a.store(part, c + k, double(centers[k]) + double(sums[k]), double(sums[kVector + k]));
    }
  }
}

// ---- channel by channel -------------------------------------------------------------------------------------------

// A block sums kSumRows terms of kSumColumns channels at a time. One thread per channel calls body(c).
template <class Sum, class Body>
__device__ __forceinline__ void for_each_channel(int64_t channels, const Sum& sum, const Body& body) {
  for (int64_t base = int64_t(blockIdx.x) * kSumColumns; base < channels; base += int64_t(gridDim.x) * kSumColumns) {
    const int64_t c = base + threadIdx.x;
    const auto sums = sum(c, c < channels);
    if (c < channels && threadIdx.y == 0) body(c, sums);
  }
}

struct Sums {
  double first, second;
};

// The sums of both halves of partial [2, terms, C].
__device__ __forceinline__ Sums added(const double* partial, int64_t terms, int64_t channels, int64_t c, bool active) {
  const int64_t count = active ? terms : 0;
  const double first = strided_sum(partial + c, channels, count);
  return {first, strided_sum(partial + terms * channels + c, channels, count)};
}

template <class L>
__global__ void __launch_bounds__(kThreads)
    affine_gradients_kernel(const double* partial, int64_t terms, int64_t channels, L* grad_weight, L* grad_bias) {
  for_each_channel(
      channels, [&](int64_t c, bool active) { return added(partial, terms, channels, c, active); },
      [&](int64_t c, const Sums& sums) {
        grad_weight[c] = from_opmath<L>(opmath_t<L>(sums.second));
        grad_bias[c] = from_opmath<L>(opmath_t<L>(sums.first));
      });
}

// Shared by the kernels of a batch norm: the statistics stats [3, C], the parameters, [C] or null, and the maps [5, C]:
// center, scale, shift, slope, offset.
template <class A, class L>
struct BatchNorm {
  double* stats;
  const L *weight, *bias;
  A* maps;
  int64_t channels;

  __device__ double weight_of(int64_t c) const { return weight ? double(to_opmath(weight[c])) : 1.0; }
  __device__ void set_map(int64_t c) const {
    const double shift = bias ? double(to_opmath(bias[c])) : 0.0;
    const auto map = batch_norm_affine<A>(stats[c], stats[channels + c], weight_of(c), shift);
    maps[c] = map.center;
    maps[channels + c] = map.scale;
    maps[2 * channels + c] = map.shift;
  }
};

// partial [2, terms, C] has the means and squared differences of parts of `span` values. The last part may be shorter.
template <class A, class L>
__global__ void __launch_bounds__(kThreads)
    batch_norm_statistics_kernel(BatchNorm<A, L> norm, const double* partial, int64_t terms, int64_t parts,
                                 int64_t span, int64_t length, double inverse_count, double inverse_count_less_1,
                                 double eps) {
  const int64_t channels = norm.channels;
  __shared__ double means[kSumColumns];
  const auto sum = [&](int64_t c, bool active) {
    __shared__ double shared[kSumColumns * kSumRows];
    const int64_t count = active ? terms : 0;
    const auto weight_of = [&](int64_t k) {
      const int64_t left = length - k % parts * span;
      return double(left < span ? left : span);
    };
    double sums[1] = {0};
    for (int64_t k = threadIdx.y; k < count; k += kSumRows) sums[0] += weight_of(k) * partial[k * channels + c];
    column_sum(sums, shared);
    if (threadIdx.y == 0) means[threadIdx.x] = sums[0] * inverse_count;
    __syncthreads();
    const double mean = means[threadIdx.x];
    sums[0] = 0;
    for (int64_t k = threadIdx.y; k < count; k += kSumRows) {
      const double d = partial[k * channels + c] - mean;
      sums[0] += partial[(terms + k) * channels + c] + weight_of(k) * d * d;
    }
    column_sum(sums, shared);
    return Sums{mean, sums[0] < 0 ? 0 : sums[0]};  // rounding may make a constant channel negative
  };
  for_each_channel(channels, sum, [&](int64_t c, const Sums& sums) {
    norm.stats[c] = sums.first;
    norm.stats[channels + c] = rsqrt(sums.second * inverse_count + eps);
    norm.stats[2 * channels + c] = sums.second * inverse_count_less_1;
    norm.set_map(c);
  });
}

template <class A, class L>
__global__ void __launch_bounds__(kThreads) batch_norm_maps_kernel(BatchNorm<A, L> norm) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x; c < norm.channels; c += stride) norm.set_map(c);
}

template <class A, class L>
__global__ void __launch_bounds__(kThreads)
    batch_norm_gradients_kernel(BatchNorm<A, L> norm, const double* partial, int64_t terms, double count,
                                L* grad_weight, L* grad_bias) {
  const int64_t channels = norm.channels;
  for_each_channel(
      channels, [&](int64_t c, bool active) { return added(partial, terms, channels, c, active); },
      [&](int64_t c, const Sums& sums) {
        const BatchNormGrad g = batch_norm_grad(sums.first, sums.second, norm.stats[c], norm.stats[channels + c],
                                                double(norm.maps[c]), norm.weight_of(c), count);
        grad_weight[c] = from_opmath<L>(opmath_t<L>(g.weight));
        grad_bias[c] = from_opmath<L>(opmath_t<L>(g.bias));
        norm.maps[3 * channels + c] = A(g.slope);
        norm.maps[4 * channels + c] = A(g.offset);
      });
}

}  // namespace fastops
