// Table of the CPU kernels of mish_max_pool2d, indexed by DType. Planes are [H, W], one channel of one image
// (contiguous); images are [H, W, C] (channels_last).
#pragma once

#include <stdint.h>

#include "../math/mish_max_pool2d.h"

namespace fastops {

// Scratch memory of the kernels. A row of a plane is spread over phases of lanes: Phases in mish_max_pool2d_planes.h.
constexpr int64_t kPoolSlack = 48;  // values after an array that may be read or written
FASTOPS_HD int64_t pool_round_up(int64_t n) { return (n + 15) / 16 * 16; }
FASTOPS_HD int64_t pool_phases(const PoolShape& s) { return s.stride_w < s.kernel_w ? s.stride_w : s.kernel_w; }
FASTOPS_HD int64_t pool_lanes(const PoolShape& s) { return pool_round_up(s.out_width + (s.kernel_w - 1) / s.stride_w); }
// Values of `scratch` that the kernels on planes need, and those on images, with rows [begin, end) of the input.
FASTOPS_HD int64_t pool_plane_scratch(const PoolShape& s, int64_t rows) {
  const int64_t lanes = pool_phases(s) * pool_lanes(s), windows = pool_round_up(s.out_width);
  return 5 * lanes + 5 * windows + (1 + rows) * s.width + 12 * kPoolSlack;
}
FASTOPS_HD int64_t pool_image_scratch(const PoolShape& s, int64_t rows) { return rows * s.width * s.channels; }

struct MishMaxPool2dKernels {
  // Rows [begin, end) of y.
  void (*forward_plane[4])(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end, double* scratch);
  void (*forward_image[4])(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end, double* scratch);
  void (*relu_image[4])(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end, double* scratch);
  // Rows [begin, end) of grad_x.
  void (*backward_plane[4])(const void* grad, const void* x, void* grad_x, const PoolShape& s, int64_t begin,
                            int64_t end, double* scratch);
  void (*backward_image[4])(const void* grad, const void* x, void* grad_x, const PoolShape& s, int64_t begin,
                            int64_t end, double* scratch);
};

}  // namespace fastops
