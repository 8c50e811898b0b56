// The float types every op takes, as an index into tables of kernels (CPU) or a template argument (CUDA).
#pragma once

#include "checks.h"

namespace fastops {

enum DType : int { kFloat = 0, kDouble = 1, kHalf = 2, kBFloat16 = 3 };

inline DType dtype_index(const char* op, const char* argument, const Tensor& t) {
  check_floating(op, argument, t);
  switch (t.scalar_type()) {
    case ScalarType::Double: return kDouble;
    case ScalarType::Half: return kHalf;
    case ScalarType::BFloat16: return kBFloat16;
    default: return kFloat;
  }
}

}  // namespace fastops
