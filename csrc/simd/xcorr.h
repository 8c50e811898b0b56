// Table of the CPU cross-correlation kernels. They work on packed channels: a plane of `pixels` x `lanes` values, with
// one SIMD register per pixel. All channels of a pack do the same multiply-add at the same time, and the inner loops
// never reach the end of a row. Packing takes one pass over the plane, the correlation h * w passes.
#pragma once

#include <stdint.h>

namespace fastops {

// Template, search and output sizes of one plane.
struct XcorrPlane {
  int64_t zh, zw, xh, xw, oh, ow;
};

// The strides of one item of a batch, in values: channels_last [P, C] or contiguous [C, P].
struct XcorrItem {
  int64_t channels, pixels;
  bool channels_last;
};

struct XcorrKernels {
  int64_t lanes[2];  // channels per pack: float, double

  // Index: DType. Channels [begin, begin + lanes) of an item to packed opmath and back; lanes past the last channel
  // are zeros and are not written back.
  void (*pack[4])(const void* item, XcorrItem layout, int64_t begin, void* packed);
  void (*unpack[4])(const void* packed, XcorrItem layout, int64_t begin, void* item);

  // Index: is double. z, x, out and grads are packed. `grad` of xcorr (not depthwise) is one value per pixel.
  // out[u, v] += sum_ij z[i, j] x[u + i, v + j]
  void (*correlate[2])(const void* z, const void* x, void* out, XcorrPlane plane);
  // sums[p] = sum of the lanes of packed[p]
  void (*sum_lanes[2])(const void* packed, int64_t pixels, void* sums);
  // grad_x[y, x] += sum_ij grad[y - i, x - j] z[i, j]; `grad` has zw - 1 columns of zeros on both sides of each row
  void (*search_backward[2])(const void* grad, const void* z, void* grad_x, XcorrPlane plane, bool depthwise);
  // grad_z[i, j] += sum_uv grad[u, v] x[u + i, v + j]; `grad` without margins
  void (*template_backward[2])(const void* grad, const void* x, void* grad_z, XcorrPlane plane, bool depthwise);
};

}  // namespace fastops
