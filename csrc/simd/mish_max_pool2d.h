// Table of the CPU kernels of mish_max_pool2d, indexed by DType. Planes are [H, W], one channel of one image
// (contiguous); images are [H, W, C] (channels_last).
#pragma once

#include <stdint.h>

#include "../math/mish_max_pool2d.h"

namespace fastops {

// Values of `scratch` that the kernels on planes need, and those on images with rows [begin, end) of the input.
FASTOPS_HD int64_t pool_plane_scratch(const PoolShape& s, int64_t rows) {
  const int64_t columns = (s.out_width - 1) * s.stride_w + s.kernel_w;  // that windows touch, padding included
  return 5 * (columns + s.stride_w) + 5 * s.out_width + s.width + rows * s.width;
}
FASTOPS_HD int64_t pool_image_scratch(const PoolShape& s, int64_t rows) { return rows * s.width * s.channels; }

struct MishMaxPool2dKernels {
  // Rows [begin, end) of y.
  void (*forward_plane[4])(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end, double* scratch);
  void (*forward_image[4])(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end, double* scratch);
  // Rows [begin, end) of grad_x.
  void (*backward_plane[4])(const void* grad, const void* x, void* grad_x, const PoolShape& s, int64_t begin,
                            int64_t end, double* scratch);
  void (*backward_image[4])(const void* grad, const void* x, void* grad_x, const PoolShape& s, int64_t begin,
                            int64_t end, double* scratch);
};

}  // namespace fastops
