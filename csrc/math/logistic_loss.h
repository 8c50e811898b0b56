// Balanced logistic loss of score maps (Bertinetto et al. 2016, section 3; Zhang and Wang,
// "Object tracking in siamese network with attention mechanism and Mish function", eq. 2-4).
//
//   l(y, v) = ln(1 + e^{-y v})                                   y = +-1, v a score
//   y[u]    = +1 where k |u - c| <= R, else -1                   k: stride, R: radius, both in pixels; c: the centre
//   L(v)    = sum_u w[u] l(y[u], v[u]),  w[u] = 0.5 / (cells of the map with u's label)
//
// So each label has half of the weight, however few the positives are. A label without cells adds nothing.
//
// With s = -y v the loss is the softplus of s, in a form that cannot overflow and is exact in both tails:
//
//   ln(1 + e^s) = max(s, 0) + ln(1 + e),  e = e^{-|s|} <= 1
//   dl/dv = -y sigma(s),                  sigma(s) = (s < 0 ? e : 1) / (1 + e)
#pragma once

#include "exp.h"
#include "sqrt.h"

namespace fastops {

// e^{-|s|}, 0 if it would be subnormal. NaN stays NaN.
FASTOPS_HD float exp_minus_abs_(float s) {
  const float a = s < 0.0f ? -s : s;
  return a > -kExpLow ? 0.0f : exp_(a > -kExpLow ? kExpLow : -a);
}
FASTOPS_HD double exp_minus_abs_(double s) { return exp_(s < 0.0 ? s : -s); }

// ln(1 + e) for 0 <= e <= 1, or NaN. It is 2 atanh(x) with x = e / (2 + e) and atanh(x) = x (1 + x^2 q(x^2)), where q
// has degree 3 and is fitted at Chebyshev nodes. The largest relative error in float32 on [0, 1] is 1.7e-7.
FASTOPS_HD float log1p_(float e) {
  const float x = e / (2.0f + e);
  const float z = x * x;
  float q = 0.134337738f;
  q = q * z + 0.141169786f;
  q = q * z + 0.200038359f;
  q = q * z + 0.333333194f;
  return 2.0f * x + 2.0f * x * (z * q);
}
#if defined(__CUDA_ARCH__)
FASTOPS_HD double log1p_(double e) { return log1p(e); }
#else
FASTOPS_HD double log1p_(double e) { return __builtin_log1p(e); }
#endif

template <class T>
FASTOPS_HD T softplus_(T s) {
  return (s > T(0) ? s : T(0)) + log1p_(exp_minus_abs_(s));
}

// sigma(s), 0 if it would be subnormal.
template <class T>
FASTOPS_HD T softplus_backward_(T s) {
  const T e = exp_minus_abs_(s);
  return (s < T(0) ? e : T(1)) / (T(1) + e);
}

// Indices [begin, end).
struct Run {
  int64_t begin, end;
};

// The cells of a map with label +1: those within a distance of the centre, in units of cells. The limit of the distance
// is stored squared. So every comparison is exact if the centre is on a grid of half cells.
struct PositiveDisk {
  int64_t height, width;
  double row, column;  // centre; may be outside the map or NaN
  double limit;        // (R / k)^2

  // The rows that can have positives.
  FASTOPS_HD Run rows() const { return within(row, sqrt_(limit), height); }

  // The positives of a row, which are consecutive.
  FASTOPS_HD Run columns(int64_t r) const {
    const double distance = double(r) - row, left = limit - distance * distance;
    return left >= 0 ? within(column, sqrt_(left), width) : Run{0, 0};
  }

  FASTOPS_HD bool contains(int64_t r, int64_t c) const {
    const double down = double(r) - row, across = double(c) - column;
    return down * down + across * across <= limit;
  }

 private:
  // The i of [0, size) with |i - center| <= reach.
  FASTOPS_HD static Run within(double center, double reach, int64_t size) {
    const double low = center - reach, high = center + reach + 1;
    if (!(low <= double(size - 1) && high >= 1)) return {0, 0};  // also for NaN
    const int64_t floor = low > 0 ? int64_t(low) : 0;
    return {floor + (double(floor) < low), high < double(size) ? int64_t(high) : size};
  }
};

}  // namespace fastops
