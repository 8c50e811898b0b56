// The windows of a pooling on CUDA, a thread a window: which window a thread has, and the extremes of its taps.
#pragma once

#include "../math/mish_max_pool2d.h"
#include "vec.cuh"

namespace fastops {

// Planes [N C, H, W] (depth = 1) or images [N, H, W, C] (depth = C), in vectors along the depth.
struct PoolLayout {
  PoolShape s;
  int64_t items, depth;
};

struct Position {
  int64_t item, row, column, channel;
};

// a = quotient b + rest; in 32 bits where they do, several times faster than in 64.
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b, int64_t& rest) {
  const int64_t quotient = (a | b) >> 32 ? a / b : int64_t(unsigned(a) / unsigned(b));
  rest = a - quotient * b;
  return quotient;
}

// Of the i-th vector of a tensor [items, ..., width, depth].
template <int kVector>
__device__ __forceinline__ Position position(int64_t i, int64_t height, int64_t width, int64_t depth) {
  Position p;
  i = divide(i, depth / kVector, p.channel);
  p.channel *= kVector;
  i = divide(i, width, p.column);
  p.item = divide(i, height, p.row);
  return p;
}

// Smallest and largest values of a window's taps inside x and, with kPositions, the first positions they are at.
template <class T, int kVector, bool kPositions>
struct Extremes {
  opmath_t<T> low[kVector], high[kVector];
  int low_at[kVector] = {}, high_at[kVector] = {};

  __device__ Extremes(const T* x, const PoolLayout& l, const Position& p) {
    const PoolShape& s = l.s;
    const int64_t top = p.row * s.stride_h - s.pad_h, left = p.column * s.stride_w - s.pad_w;
    const int64_t row_begin = top < 0 ? -top : 0, column_begin = left < 0 ? -left : 0;
    const int64_t row_end = s.height - top < s.kernel_h ? s.height - top : s.kernel_h;
    const int64_t column_end = s.width - left < s.kernel_w ? s.width - left : s.kernel_w;
    bool first = true;
    for (int64_t i = row_begin; i < row_end; ++i) {
      const T* row = x + ((p.item * s.height + top + i) * s.width + left) * l.depth + p.channel;
      for (int64_t j = column_begin; j < column_end; ++j) {
        const auto pack = load_pack<T, kVector>(row + j * l.depth);
        const int at = int(i * s.kernel_w + j);
#pragma unroll
        for (int k = 0; k < kVector; ++k) {
          const opmath_t<T> v = to_opmath(pack.values[k]);
          if (first || falls(v, low[k])) {
            low[k] = v;
            if (kPositions) low_at[k] = at;
          }
          if (first || rises(v, high[k])) {
            high[k] = v;
            if (kPositions) high_at[k] = at;
          }
        }
        first = false;
      }
    }
  }
};

// body.template operator()<kVector>(), 16 bytes of channels or one value.
template <class T, class Body>
void with_vector(const PoolLayout& l, bool aligned, const Body& body) {
  aligned&& l.depth % Pack<T>::size == 0 ? body.template operator()<Pack<T>::size>() : body.template operator()<1>();
}

}  // namespace fastops
