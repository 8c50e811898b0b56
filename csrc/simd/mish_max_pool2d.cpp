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

#define FASTOPS_ALL_DTYPES(kernel) \
  { kernel<float>, kernel<double>, kernel<half_t>, kernel<bfloat16_t> }
#define FASTOPS_ALL_DTYPES_OF(kernel, F) \
  { kernel<F, float>, kernel<F, double>, kernel<F, half_t>, kernel<F, bfloat16_t> }

extern const MishMaxPool2dKernels mish_max_pool2d_kernels;
const MishMaxPool2dKernels mish_max_pool2d_kernels = {
    FASTOPS_ALL_DTYPES(forward_plane_kernel),
    FASTOPS_ALL_DTYPES_OF(forward_image_kernel, MishOfWindow),
    FASTOPS_ALL_DTYPES_OF(forward_image_kernel, ReluOfWindow),
    FASTOPS_ALL_DTYPES(backward_plane_kernel),
    FASTOPS_ALL_DTYPES(backward_image_kernel),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
