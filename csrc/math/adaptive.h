// Adaptive activations (Hu et al., "Adaptively Customizing Activation Functions for Various Layers",
// eq. 10-12): a fixed activation between two learnable linear maps, u = a x + c.
//
//   sigmoid   y = b sigma(u) + d
//   tanh      y = b tanh(u) + d
//   relu      y = max(u, v),  v = b x + d
//
// Backward, with g = dL/dy and f = sigma or tanh:
//   dL/dx = g b f'(u) a,   dL/da = b sum g f'(u) x,   dL/db = sum g f(u),   dL/dc = b sum g f'(u),   dL/dd = sum g
// and for relu, with (g_u, g_v) = (g, 0) where u >= v, else (0, g). In a tie one line gets the whole gradient. With
// half for each, two lines that start equal, like those of the authors, would stay equal for ever.
//   dL/dx = g_u a + g_v b,   dL/da = sum g_u x,   dL/db = sum g_v x,   dL/dc = sum g_u,   dL/dd = sum g_v
//
// f and f' take one exponential of an argument <= 0, which cannot overflow, and one division. Nothing cancels:
//   e = e^-|u|     sigma(|u|) = 1 / (1 + e)          sigma(-|u|) = e / (1 + e)    sigma' = e / (1 + e)^2
//   e = e^-2|u|    tanh |u| = (1 - e) / (1 + e)      tanh' = 4 e / (1 + e)^2
// where 1 - e = -expm1(-2|u|). The forms 2 sigma(2u) - 1 and 1 - tanh^2 would lose small values.
#pragma once

#include "exp.h"

namespace fastops {

enum AdaptiveKind : int { kAdaptiveSigmoid = 0, kAdaptiveTanh = 1, kAdaptiveRelu = 2, kAdaptiveKinds = 3 };

template <class T>
struct AdaptiveParameters {
  T a, b, c, d;
};

// The results for one value: its gradient, and its terms in the sums for a, b, c and d. If
// AdaptiveActivation::kSumsLackB, the sums for a and c are not yet multiplied by b.
template <class T>
struct AdaptiveTerms {
  T grad_x, a, b, c, d;
};

template <class T>
struct ExpRange;
template <>
struct ExpRange<float> {
  static constexpr float low = kExpLow;
};
template <>
struct ExpRange<double> {
  static constexpr double low = -708.0;
};

template <class T>
FASTOPS_HD T minus_abs(T u) {
  return u < -u ? u : -u;
}

// Computes f(u) and f'(u).
template <class T>
struct ValueAndSlope {
  T value, slope;
};

template <class Maths, class T>
FASTOPS_HD ValueAndSlope<T> sigmoid_slope(T u) {
  const T argument = minus_abs(u);
  const T bounded = argument < ExpRange<T>::low ? ExpRange<T>::low : argument;
  const T e = argument < ExpRange<T>::low ? T(0) : Maths::exp_normal(bounded);
  const T inverse = Maths::divide(T(1), T(1) + e);
  return {(u < T(0) ? e : T(1)) * inverse, e * inverse * inverse};
}

template <class Maths, class T>
FASTOPS_HD ValueAndSlope<T> tanh_slope(T u) {
  const T argument = T(2) * minus_abs(u);
  const T bounded = argument < ExpRange<T>::low ? ExpRange<T>::low : argument;
  const ExpPair<T> pair = Maths::exp_and_expm1(bounded);
  const T e = argument < ExpRange<T>::low ? T(0) : pair.exp;
  const T inverse = Maths::divide(T(1), T(1) + e);
  const T magnitude = -pair.expm1 * inverse;
  return {u < T(0) ? -magnitude : magnitude, T(4) * e * inverse * inverse};
}

// mish.h explains Maths.
template <AdaptiveKind kKind, class Maths = Exact>
struct AdaptiveActivation {
  static constexpr bool kSumsLackB = true;

  template <class T>
  FASTOPS_HD static ValueAndSlope<T> activation(T u) {
    if constexpr (kKind == kAdaptiveSigmoid) {
      return sigmoid_slope<Maths>(u);
    } else {
      return tanh_slope<Maths>(u);
    }
  }
  template <class T>
  FASTOPS_HD static T forward(T x, const AdaptiveParameters<T>& p) {
    return p.b * activation(p.a * x + p.c).value + p.d;
  }
  template <class T>
  FASTOPS_HD static AdaptiveTerms<T> backward(T grad, T x, const AdaptiveParameters<T>& p) {
    const ValueAndSlope<T> f = activation(p.a * x + p.c);
    const T inner = grad * f.slope;
    return {inner * p.b * p.a, inner * x, grad * f.value, inner, grad};
  }
};

template <class Maths>
struct AdaptiveActivation<kAdaptiveRelu, Maths> {
  static constexpr bool kSumsLackB = false;

  template <class T>
  FASTOPS_HD static T forward(T x, const AdaptiveParameters<T>& p) {
    const T u = p.a * x + p.c, v = p.b * x + p.d;
    return first(u, v) ? u : v;
  }
  template <class T>
  FASTOPS_HD static AdaptiveTerms<T> backward(T grad, T x, const AdaptiveParameters<T>& p) {
    const T u = p.a * x + p.c, v = p.b * x + p.d;
    const bool of_u = first(u, v);
    const T grad_u = of_u ? grad : T(0), grad_v = of_u ? T(0) : grad;
    return {grad_u * p.a + grad_v * p.b, grad_u * x, grad_v * x, grad_u, grad_v};
  }

 private:
  // Whether the result is u. NaN wins, as in torch.maximum.
  template <class T>
  FASTOPS_HD static bool first(T u, T v) {
    return u >= v || u != u;
  }
};

}  // namespace fastops
