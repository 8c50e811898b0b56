// exp(x) and the logistic function, scalar, for host loops that the compiler vectorises and for the device.
//
// Host float: x = n ln2 + r with |r| <= ln2/2 (Cody & Waite 1980: ln2 is split in two so that the product with
// n is exact), e^r = 1 + r + r^2 q(r) with q of degree 4 fitted at Chebyshev nodes (largest relative error of the
// float32 evaluation on [-20, 20]: 7.3e-8, 1.23 * 2^-24), and 2^n put into the exponent bits. No branch and no
// table, so a loop around it becomes SIMD code; libm's expf is a call per element.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../common/macros.h"

namespace fastops {

// Below kExpLow the result would be subnormal, above kExpHigh infinite.
constexpr float kExpLow = -87.336544f;  // ln(2^-126)
constexpr float kExpHigh = 88.0f;       // 2^127 is the largest scale the exponent bits can hold

#if defined(__CUDA_ARCH__)

FASTOPS_HD float exp_(float x) { return expf(x); }
FASTOPS_HD double exp_(double x) { return exp(x); }

#else

// Precondition: kExpLow <= x <= kExpHigh, or NaN (which passes through); callers clamp to their own range.
FASTOPS_HD float exp_(float x) {
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
  const float e = (q * r + 1.0f) * r + 1.0f;
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127u) << 23;  // the upper bits of kRound are shifted out, n + bias remains
  float scale;
  memcpy(&scale, &bits, sizeof(scale));
  return e * scale;
}

FASTOPS_HD double exp_(double x) { return __builtin_exp(x); }

#endif

// A select, not fmin/fmax: NaN must pass (the comparison is false, x stays).
template <class T>
FASTOPS_HD T clamp_(T x, T low, T high) {
  const T above = x < low ? low : x;
  return above > high ? high : above;
}

// sigma(x) = 1 / (1 + e^-x). Clamped where e^-x or the result would leave the normal numbers.
FASTOPS_HD float sigmoid_(float x) { return 1.0f / (1.0f + exp_(clamp_(-x, kExpLow, 87.0f))); }
FASTOPS_HD double sigmoid_(double x) { return 1.0 / (1.0 + exp_(clamp_(-x, -708.0, 708.0))); }

}  // namespace fastops
