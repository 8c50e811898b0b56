// The largest Mish of a window, y = max f(x_p), and its position.
//
// f falls up to x = -1.1924606 and rises from there on. So its maximum over a set of values is at the smallest or at
// the largest value: max f(x_p) = max(f(min x_p), f(max x_p)). That takes two evaluations for any size of the window.
//
// dL/dx_p = f'(x_p) sum g, over the windows in which p is the first position (in row-major order) with the largest f.
// Of equal values the first counts, and of NaN the last, as in torch's max_pool2d. f is compared in opmath, before y is
// rounded.
#pragma once

#include "mish.h"

namespace fastops {

// Output (u, v) belongs to the window with the rows u stride_h - pad_h + [0, kernel_h) and the columns
// v stride_w - pad_w + [0, kernel_w), as far as they are inside the input. At least one position is inside.
struct PoolShape {
  int64_t batch, channels;
  int64_t height, width, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

// Compares like torch's max_pool2d: the first of equal values stays, and NaN replaces everything.
template <class T>
FASTOPS_HD bool rises(T x, T high) {
  return (x > high) | (x != x);
}
template <class T>
FASTOPS_HD bool falls(T x, T low) {
  return (x < low) | (x != x);
}

// max(f(low), f(high)); both are NaN if one is.
template <class Maths = Exact, class T>
FASTOPS_HD T mish_of_extremes(T low, T high) {
  const T of_low = mish_forward<Maths>(low), of_high = mish_forward<Maths>(high);
  return of_low > of_high ? of_low : of_high;
}

// Whether the largest f is at the smallest value. i: the positions of both values. With NaN there is one position.
template <class T, class I>
FASTOPS_HD bool is_at_low(T low, T high, I i_low, I i_high) {
  const T of_low = mish_forward(low), of_high = mish_forward(high);
  return (of_low > of_high) | ((of_low == of_high) & (i_low < i_high));
}

}  // namespace fastops
