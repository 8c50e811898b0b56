// ln(x) and x^y, scalar, for host loops that the compiler vectorises and for the device; see exp.h.
//
// Host float: x = 2^n m with m in [sqrt(1/2), sqrt(2)); with s = (m - 1) / (m + 1), |s| <= 0.172,
// ln m = 2 atanh(s) = 2 s (1 + s^2/3 + s^4/5 + s^6/7 + s^8/9), and the next term is below 2^-28 of the sum.
#pragma once

#include "exp.h"

namespace fastops {

#if defined(__CUDA_ARCH__)

FASTOPS_HD float log_(float x) { return logf(x); }
FASTOPS_HD double log_(double x) { return log(x); }

#else

// Precondition: x is a normal positive number, or NaN, which stays NaN.
FASTOPS_HD float log_(float x) {
  constexpr uint32_t kRootHalf = 0x3f3504f3u;  // the bits of sqrt(1/2)
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const int32_t n = int32_t(bits - kRootHalf) >> 23;
  bits -= uint32_t(n) << 23;
  float m;
  memcpy(&m, &bits, sizeof(m));
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const float tail = z * (0.333333333f + z * (0.2f + z * (0.142857143f + z * 0.111111111f)));
  const float ln_m = 2.0f * (s + s * tail);
  const float result = float(n) * 0.693145751953125f + (float(n) * 1.42860682e-6f + ln_m);  // n ln2, ln2 in two parts
  return x != x ? x : result;
}

FASTOPS_HD double log_(double x) { return __builtin_log(x); }

#endif

// x^y for a normal x in (0, 1] and y >= 0. A subnormal result becomes about the smallest normal number.
FASTOPS_HD float pow_(float x, float y) { return exp_(clamp_(y * log_(x), kExpLow, 0.0f)); }
FASTOPS_HD double pow_(double x, double y) { return exp_(clamp_(y * log_(x), -708.0, 0.0)); }

}  // namespace fastops
