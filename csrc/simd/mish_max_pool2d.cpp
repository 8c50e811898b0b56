// The CPU loops of mish_max_pool2d and relu_max_pool2d; the formulas are in math/mish_max_pool2d.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "mish_max_pool2d.h"

#include "mish_max_pool2d_images.h"
#include "mish_max_pool2d_planes.h"

namespace fastops {
namespace FASTOPS_ISA {

template <class T>
static void forward_plane_kernel(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end,
                                 double* scratch) {
  forward_plane(static_cast<const T*>(x), static_cast<T*>(y), s, begin, end, scratch);
}

template <class T>
static void backward_plane_kernel(const void* grad, const void* x, void* grad_x, const PoolShape& s, int64_t begin,
                                  int64_t end, double* scratch) {
  backward_plane(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), s, begin, end,
                 scratch);
}

template <class F, class T>
static void forward_image_kernel(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end,
                                 double* scratch) {
  forward_image<F>(static_cast<const T*>(x), static_cast<T*>(y), s, begin, end, scratch);
}

template <class T>
static void backward_image_kernel(const void* grad, const void* x, void* grad_x, const PoolShape& s, int64_t begin,
                                  int64_t end, double* scratch) {
  backward_image(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), s, begin, end,
                 scratch);
}

extern const MishMaxPool2dKernels mish_max_pool2d_kernels;
const MishMaxPool2dKernels mish_max_pool2d_kernels = {
    FASTOPS_ALL_DTYPES(forward_plane_kernel),
    FASTOPS_ALL_DTYPES_OF(forward_image_kernel, Mish),
    FASTOPS_ALL_DTYPES_OF(forward_image_kernel, Relu),
    FASTOPS_ALL_DTYPES(backward_plane_kernel),
    FASTOPS_ALL_DTYPES(backward_image_kernel),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
