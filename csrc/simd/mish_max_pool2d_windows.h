// Shared by the loops over planes and over images.
#pragma once

#include "mish_max_pool2d.h"
#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

// Positions have as many bits as the values, so both fit the same SIMD lanes.
template <class O>
struct PositionOf {
  using type = int32_t;
};
template <>
struct PositionOf<double> {
  using type = int64_t;
};
template <class O>
using Position = typename PositionOf<O>::type;

template <class O>
constexpr O kInfinity = O(__builtin_huge_val());

// [begin, end) of the kernel inside an input of `size`, for a window from `start` on.
struct Taps {
  int64_t begin, end;
  Taps(int64_t start, int64_t kernel, int64_t size)
      : begin(start < 0 ? -start : 0), end(size - start < kernel ? size - start : kernel) {}
};

// The windows [begin, end) along a dimension that contain one of the positions [first, last).
struct Windows {
  int64_t begin, end;
  Windows(int64_t first, int64_t last, int64_t kernel, int64_t stride, int64_t pad, int64_t count) {
    const int64_t from = first + pad - kernel + 1;  // no window with `first` starts earlier, padding included
    begin = from <= 0 ? 0 : (from + stride - 1) / stride;
    end = (last - 1 + pad) / stride + 1;
    if (end > count) end = count;
  }
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
