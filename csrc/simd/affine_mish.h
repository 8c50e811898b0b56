// Table of the CPU kernels of affine_mish and batch_norm_mish, indexed by DType.
//
// A piece is a run of n contiguous values: of one channel (contiguous layout), or whole pixels of all channels
// (channels_last). Value i belongs to channel i % channels of the piece's arrays. Sums over a piece are computed in
// opmath, with at most 512 values in a chain of additions. The caller adds the pieces in double.
#pragma once

#include <stdint.h>

#include "../common/macros.h"

namespace fastops {

// v = scale (x - center) + shift, and for the gradient of a batch norm slope and offset; see math/affine_mish.h.
// Each array [channels].
struct ChannelMaps {
  int64_t channels;
  const double *center, *scale, *shift;
  const double *slope = nullptr, *offset = nullptr;
};

// Many pixels with few channels are processed as fewer pixels with more channels. After `period` values the channels
// repeat in step with the widest SIMD register, or the loop is so long that this does not matter.
FASTOPS_HD int64_t channel_period(int64_t channels) {
  int64_t period = channels;
  while (period < 256 && (period < 64 || period % 16 != 0)) period += channels;
  return period;
}

// Values of `scratch` that the kernels need: a period of opmath values for each array.
constexpr int64_t kAffineMishRow = 512;  // the period of a piece of one channel
FASTOPS_HD int64_t affine_mish_scratch(int64_t channels) {
  return 8 * (channels == 1 ? kAffineMishRow : channel_period(channels));
}

struct AffineMishKernels {
  // y = f(v)
  void (*forward[4])(const void* x, void* y, int64_t n, const ChannelMaps& maps, double* scratch);
  // Mean of each channel and sum of the squared differences from it.
  void (*moments[4])(const void* x, int64_t n, int64_t channels, double* mean, double* squares, double* scratch);
  // Sums of g' and g' (x - center), and grad_x = scale g' unless it is null.
  void (*backward[4])(const void* grad, const void* x, void* grad_x, int64_t n, const ChannelMaps& maps, double* sum_g,
                      double* sum_gx, double* scratch);
  // grad_x = scale g' + slope (x - center) + offset
  void (*input_gradient[4])(const void* grad, const void* x, void* grad_x, int64_t n, const ChannelMaps& maps,
                            double* scratch);
  // n parameters to double and back
  void (*widen[4])(const void* source, double* target, int64_t n);
  void (*narrow[4])(const double* source, void* target, int64_t n);
};

}  // namespace fastops
