// atan(y / x) for x > 0, scalar, for host loops that the compiler vectorises and for the device.
//
// The smaller of |y| and x divided by the larger is r = tan(a) with a in [0, pi/4]. Half of the angle has
// tan(a/2) = r / (1 + sqrt(1 + r^2)) = s <= tan(pi/8), so a = 2 atan(s). The series s (1 - s^2/3 + s^4/5 - ...) with
// s^2 <= 0.172 needs 9 terms in float and 20 in double. If |y| was the larger one, the angle is pi/2 - a.
#pragma once

#include "sqrt.h"

namespace fastops {

template <class T>
FASTOPS_HD T atan_ratio(T y, T x) {
  constexpr int kTerms = sizeof(T) == 8 ? 20 : 9;
  const T a = y < T(0) ? -y : y;
  const bool steep = a > x;
  const T r = (steep ? x : a) / (steep ? a : x);
  const T s = r / (T(1) + sqrt_(T(1) + r * r)), z = s * s;
  T series = T(0);
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 20  // without this the outer loop would not become SIMD code
#endif
  for (int k = kTerms - 1; k >= 0; --k) series = T(1) / T(2 * k + 1) - z * series;
  const T angle = T(2) * s * series;
  const T turned = steep ? T(1.5707963267948966) - angle : angle;
  return y < T(0) ? -turned : turned;
}

}  // namespace fastops
