// The activations that follow a convolution, of a value and of the largest value in a window:
//   max f(x_p) = f(max x_p) where f rises (the identity, ReLU), and max(f(min x_p), f(max x_p)) for Mish; see
//   mish_max_pool2d.h.
#pragma once

#include "mish_max_pool2d.h"

namespace fastops {

enum class Activation : int { none, relu, mish };

struct Identity {
  static constexpr bool kNeedsLeast = false;
  template <class Maths = Exact, class T>
  static FASTOPS_HD T of(T v) {
    return v;
  }
  template <class Maths = Exact, class T>
  static FASTOPS_HD T of_window(T, T high) {
    return high;
  }
};

struct Relu {
  static constexpr bool kNeedsLeast = false;
  template <class Maths = Exact, class T>
  static FASTOPS_HD T of(T v) {
    return v < T(0) ? T(0) : v;  // NaN passes through
  }
  template <class Maths = Exact, class T>
  static FASTOPS_HD T of_window(T, T high) {
    return of(high);
  }
};

struct Mish {
  static constexpr bool kNeedsLeast = true;
  template <class Maths = Exact, class T>
  static FASTOPS_HD T of(T v) {
    return mish_forward<Maths>(v);
  }
  template <class Maths = Exact, class T>
  static FASTOPS_HD T of_window(T low, T high) {
    return mish_of_extremes<Maths>(low, high);
  }
};

}  // namespace fastops
