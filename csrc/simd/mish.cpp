// The CPU loops of mish; the formula is in math/mish.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "mish.h"

#include "../math/mish.h"
#include "elementwise.h"

namespace fastops {
namespace FASTOPS_ISA {

template <class T>
static void forward(const void* x, void* y, int64_t n) {
  map(static_cast<const T*>(x), static_cast<T*>(y), n, [](opmath_t<T> v) { return mish_forward(v); });
}

template <class T>
static void backward(const void* grad, const void* x, void* grad_x, int64_t n) {
  map2(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), n,
       [](opmath_t<T> g, opmath_t<T> v) { return mish_backward(g, v); });
}

extern const MishKernels mish_kernels;
const MishKernels mish_kernels = {
    FASTOPS_ALL_DTYPES(forward),
    FASTOPS_ALL_DTYPES(backward),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
