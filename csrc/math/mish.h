// Mish (Misra 2020): f(x) = x tanh(ln(1 + e^x)).
//
// With e = e^x:  tanh(ln(1 + e)) = ((1+e)^2 - 1) / ((1+e)^2 + 1) = t / (t + 2),  t = e (e + 2),
// so one exp and one division replace exp, log1p and tanh. Nothing cancels, because t is a sum of positive terms.
// For x > MishRange::one the ratio rounds to 1 (2/t < 2^-24 from x = 8.7 in float, 2^-53 from 18.8 in double). From
// x = 44 (float) e^2 would overflow. So x is clamped there before exp, but not in the factor x.
//
// Derivative: with d = t + 2, t' = 2 e (e + 1) and (t/d)' = 2 t'/d^2,
//   f'(x) = t/d + x 4 e (e + 1) / d^2.
#pragma once

#include "exp.h"

namespace fastops {

template <class T>
struct MishRange;
template <>
struct MishRange<float> {
  static constexpr float low = kExpLow, one = 20.0f;
};
template <>
struct MishRange<double> {
  static constexpr double low = -740.0, one = 40.0;
};

// Maths is Exact, or a cheaper class that is exact enough for the type of the result.
template <class Maths = Exact, class T>
FASTOPS_HD T mish_forward(T x) {
  const T e = Maths::exp(clamp_(x, MishRange<T>::low, MishRange<T>::one));
  const T t = e * (e + T(2));
  // The lower clamp also bounds the factor x: -inf * 0 would be NaN, but the limit is -0.
  const T factor = x < MishRange<T>::low ? T(0) : Maths::divide(t, t + T(2));
  const T bounded = x < MishRange<T>::low ? MishRange<T>::low : x;
  return bounded * factor;
}

template <class Maths = Exact, class T>
FASTOPS_HD T mish_backward(T grad, T x) {
  const T e = Maths::exp(clamp_(x, MishRange<T>::low, MishRange<T>::one));
  const T t = e * (e + T(2));
  const T inverse = Maths::divide(T(1), t + T(2));
  // Beyond `one` the second term is below rounding, but inf * 0 would be NaN. So the factor x has both bounds.
  const T bounded = clamp_(x, MishRange<T>::low, MishRange<T>::one);
  const T slope = inverse * (t + bounded * (T(4) * e * (e + T(1))) * inverse);
  return grad * (x < MishRange<T>::low ? T(0) : slope);
}

}  // namespace fastops
