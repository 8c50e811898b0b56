// Table of the CPU Mish kernels, indexed by DType. Contiguous ranges; y may be x.
#pragma once

#include <stdint.h>

namespace fastops {

struct MishKernels {
  void (*forward[4])(const void* x, void* y, int64_t n);
  void (*backward[4])(const void* grad, const void* x, void* grad_x, int64_t n);
};

}  // namespace fastops
