// The square root, scalar, with one name for the host, whose loops become SIMD code, and for the device.
#pragma once

#include "../common/macros.h"

namespace fastops {

#if defined(__CUDA_ARCH__)
FASTOPS_HD float sqrt_(float x) { return sqrtf(x); }
FASTOPS_HD double sqrt_(double x) { return sqrt(x); }
#else
FASTOPS_HD float sqrt_(float x) { return __builtin_sqrtf(x); }
FASTOPS_HD double sqrt_(double x) { return __builtin_sqrt(x); }
#endif

}  // namespace fastops
