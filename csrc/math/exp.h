// exp(x) and the logistic function, scalar, for host loops that the compiler vectorises and for the device.
//
// In float, x = n ln2 + r with |r| <= ln2/2. (Cody & Waite 1980: ln2 is split in two, so that the product with n is
// exact.) e^r = 1 + r + r^2 q(r), where q has degree 4 and is fitted at Chebyshev nodes. 2^n goes into the exponent
// bits. The largest relative error of the float32 evaluation on [-20, 20] is 7.3e-8, 1.23 * 2^-24. There is no branch
// and no table, so a loop around it becomes SIMD code; libm's expf is a call per element. On the device, e^x itself is
// CUDA's.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../common/macros.h"

namespace fastops {

// Below kExpLow the result would be subnormal, above kExpHigh infinite.
constexpr float kExpLow = -87.336544f;  // ln(2^-126)
constexpr float kExpHigh = 88.0f;       // 2^127 is the largest scale the exponent bits can hold

// e^x and e^x - 1, which computed from e^x would lose its small values.
template <class T>
struct ExpPair {
  T exp, expm1;
};

// e^x = scale (1 + rest). scale is a power of two. |rest| < 0.42, with full relative accuracy however small it is.
template <class T>
struct ExpParts {
  T scale, rest;
};

// Precondition, here and below: kExpLow <= x <= kExpHigh, or NaN, which stays NaN. Callers clamp to their range.
FASTOPS_HD ExpParts<float> exp_parts(float x) {
  constexpr float kLog2e = 1.44269504f;
  constexpr float kLn2High = 0.693145751953125f;  // 16 bits: n * kLn2High is exact
  constexpr float kLn2Low = 1.42860682030941723212e-6f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low mantissa bits
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float q = 0.0013946422841399908f;
  q = q * r + 0.008369150571525097f;
  q = q * r + 0.04166626185178757f;
  q = q * r + 0.16666516661643982f;
  q = q * r + 0.5f;
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127u) << 23;  // the upper bits of kRound are shifted out, n + bias remains
  float scale;
  memcpy(&scale, &bits, sizeof(scale));
  return {scale, (q * r + 1.0f) * r};
}

// The same in double with the Taylor polynomial of degree 13, whose remainder is below 5e-18; -708 <= x <= 709.
FASTOPS_HD ExpParts<double> exp_parts(double x) {
  constexpr double kLog2e = 1.4426950408889634;
  constexpr double kLn2High = 0x1.62e42fefap-1;  // 36 bits: n * kLn2High is exact
  constexpr double kLn2Low = 0x1.cf79abc9e3b3ap-40;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = x * kLog2e + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double q = 1.0 / 6227020800.0;
  q = q * r + 1.0 / 479001600.0;
  q = q * r + 1.0 / 39916800.0;
  q = q * r + 1.0 / 3628800.0;
  q = q * r + 1.0 / 362880.0;
  q = q * r + 1.0 / 40320.0;
  q = q * r + 1.0 / 5040.0;
  q = q * r + 1.0 / 720.0;
  q = q * r + 1.0 / 120.0;
  q = q * r + 1.0 / 24.0;
  q = q * r + 1.0 / 6.0;
  q = q * r + 0.5;
  uint64_t bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 1023u) << 52;
  double scale;
  memcpy(&scale, &bits, sizeof(scale));
  return {scale, (q * r + 1.0) * r};
}

template <class T>
FASTOPS_HD T exp_from_parts(T x) {
  const ExpParts<T> parts = exp_parts(x);
  return (parts.rest + T(1)) * parts.scale;
}

// exp_ covers the whole range of double, exp_parts does not. exp_normal needs a result that is a normal number.
#if defined(__CUDA_ARCH__)
FASTOPS_HD float exp_(float x) { return expf(x); }
FASTOPS_HD double exp_(double x) { return exp(x); }
template <class T>
FASTOPS_HD T exp_normal(T x) {
  return exp_(x);
}
#else
FASTOPS_HD float exp_(float x) { return exp_from_parts(x); }
FASTOPS_HD double exp_(double x) { return __builtin_exp(x); }
template <class T>
FASTOPS_HD T exp_normal(T x) {
  return exp_from_parts(x);
}
#endif

template <class T>
FASTOPS_HD ExpPair<T> exp_and_expm1(T x) {
  const ExpParts<T> parts = exp_parts(x);
  return {(parts.rest + T(1)) * parts.scale, parts.rest * parts.scale + (parts.scale - T(1))};
}

// The exponentials and quotients of the formulas. For results with fewer digits, cuda/vec.cuh has a cheaper class.
struct Exact {
  template <class T>
  static FASTOPS_HD T exp(T x) {
    return exp_(x);
  }
  template <class T>
  static FASTOPS_HD T exp_normal(T x) {
    return fastops::exp_normal(x);
  }
  template <class T>
  static FASTOPS_HD ExpPair<T> exp_and_expm1(T x) {
    return fastops::exp_and_expm1(x);
  }
  template <class T>
  static FASTOPS_HD T divide(T a, T b) {
    return a / b;
  }
};

// A select keeps NaN, because the comparison is false; fmin and fmax would not.
template <class T>
FASTOPS_HD T clamp_(T x, T low, T high) {
  const T above = x < low ? low : x;
  return above > high ? high : above;
}

// sigma(x) = 1 / (1 + e^-x). x is clamped where e^-x or the result would not be a normal number.
FASTOPS_HD float sigmoid_(float x) { return 1.0f / (1.0f + exp_(clamp_(-x, kExpLow, 87.0f))); }
FASTOPS_HD double sigmoid_(double x) { return 1.0 / (1.0 + exp_(clamp_(-x, -708.0, 708.0))); }

}  // namespace fastops
