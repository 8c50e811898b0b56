// The largest Mish of a window, y = max f(x_p), and the position it is at.
//
// f falls up to x = -1.1924606 and rises from there on, so over any set of values it is largest at the smallest or at
// the largest of them: max f(x_p) = max(f(min x_p), f(max x_p)), two evaluations whatever the size of the window.
//
// dL/dx_p = f'(x_p) sum g, over the windows in which p is the first position (row by row) with the largest f; of equal
// values the first counts, and of NaN the last, as in torch's max_pool2d. f is compared in opmath, before y is rounded.
#pragma once

#include "mish.h"

namespace fastops {

// Output (u, v) is that of the window of rows u stride_h - pad_h + [0, kernel_h) and columns v stride_w - pad_w +
// [0, kernel_w), as far as they are inside the input; at least one position always is.
struct PoolShape {
  int64_t batch, channels;
  int64_t height, width, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

// The comparisons of torch's max_pool2d: the first of equal values stays, NaN replaces everything.
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

// Is the largest f at the smallest value? i: the positions of both. With NaN there is one position.
template <class T, class I>
FASTOPS_HD bool is_at_low(T low, T high, I i_low, I i_high) {
  const T of_low = mish_forward(low), of_high = mish_forward(high);
  return (of_low > of_high) | ((of_low == of_high) & (i_low < i_high));
}

}  // namespace fastops
