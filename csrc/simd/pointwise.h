// Table of the CPU kernels of a pointwise op y = f(x), indexed by DType. Contiguous ranges; y may be x.
//
// FASTOPS_POINTWISE_KERNELS(table, Formula) in csrc/simd/<op>.cpp defines it. The class Formula in csrc/math/<op>.h has
// `forward(x)` and `backward(grad, x)`.
#pragma once

#include <stdint.h>

namespace fastops {

struct PointwiseKernels {
  void (*forward[4])(const void* x, void* y, int64_t n);
  void (*backward[4])(const void* grad, const void* x, void* grad_x, int64_t n);
};

}  // namespace fastops

#if defined(FASTOPS_ISA)

#include "elementwise.h"

namespace fastops {
namespace FASTOPS_ISA {

template <class Formula, class T>
static void pointwise_forward(const void* x, void* y, int64_t n) {
  map(static_cast<const T*>(x), static_cast<T*>(y), n, [](opmath_t<T> v) { return Formula::forward(v); });
}

template <class Formula, class T>
static void pointwise_backward(const void* grad, const void* x, void* grad_x, int64_t n) {
  map2(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), n,
       [](opmath_t<T> g, opmath_t<T> v) { return Formula::backward(g, v); });
}

}  // namespace FASTOPS_ISA
}  // namespace fastops

#define FASTOPS_POINTWISE_KERNELS(table, Formula)                                     \
  namespace fastops {                                                                 \
  namespace FASTOPS_ISA {                                                             \
  extern const PointwiseKernels table;                                                \
  const PointwiseKernels table = {                                                    \
      {pointwise_forward<Formula, float>, pointwise_forward<Formula, double>,         \
       pointwise_forward<Formula, half_t>, pointwise_forward<Formula, bfloat16_t>},   \
      {pointwise_backward<Formula, float>, pointwise_backward<Formula, double>,       \
       pointwise_backward<Formula, half_t>, pointwise_backward<Formula, bfloat16_t>}, \
  };                                                                                  \
  }                                                                                   \
  }

#endif
