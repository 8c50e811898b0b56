// The symmetric Hann window, scalar, for host and device.
#pragma once

#include <stdint.h>

#include "../common/macros.h"

namespace fastops {

#if defined(__CUDA_ARCH__)
FASTOPS_HD float cos_pi_(float x) { return cospif(x); }
FASTOPS_HD double cos_pi_(double x) { return cospi(x); }
#else
FASTOPS_HD double cos_pi_(double x) { return __builtin_cos(3.14159265358979323846 * x); }
#endif

// hann(i) of n values: (1 - cos(2 pi i / (n - 1))) / 2 as the square of a cosine, which is most accurate in the middle.
template <class T>
FASTOPS_HD T hann(int64_t i, int64_t n) {
  if (n <= 2) return n == 1 ? T(1) : T(0);
  const T c = T(cos_pi_(T(2 * i - (n - 1)) / T(2 * (n - 1))));
  return c * c;
}

// hann(i) / mean(hann). It is 0 for two values, whose window is 0.
template <class T>
FASTOPS_HD T hann_over_mean(int64_t i, int64_t n) {
  return n <= 2 ? hann<T>(i, n) : hann<T>(i, n) * (T(2 * n) / T(n - 1));
}

}  // namespace fastops
