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
    {forward<float>, forward<double>, forward<half_t>, forward<bfloat16_t>},
    {backward<float>, backward<double>, backward<half_t>, backward<bfloat16_t>},
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
