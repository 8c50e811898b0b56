// Table of the CPU kernels of the adaptive activations, by AdaptiveKind and DType.
#pragma once

#include <stdint.h>

#include "../math/adaptive.h"

namespace fastops {

constexpr int64_t kAdaptiveChannels = 64;  // maximum of channels per call

// `images` matrices [pixels, channels], image_stride values apart; pixels are pixel_stride values apart.
struct AdaptiveMatrices {
  int64_t images, image_stride, pixels, pixel_stride, channels;
};

// One array per parameter a, b, c, d, opmath (double for double, float otherwise), of at least `channels` values.
struct AdaptiveArrays {
  const void* values[4];
};

struct AdaptiveKernels {
  void (*forward[kAdaptiveKinds][4])(const void* x, void* y, AdaptiveMatrices shape, AdaptiveArrays parameters);
  // Adds the terms of AdaptiveTerms to sums [channels, 4].
  void (*backward[kAdaptiveKinds][4])(const void* grad, const void* x, void* grad_x, AdaptiveMatrices shape,
                                      AdaptiveArrays parameters, double* sums);
  // n values to opmath; from doubles that are `stride` apart
  void (*widen[4])(const void* source, void* target, int64_t n);
  void (*narrow[4])(const double* source, int64_t stride, void* target, int64_t n);
};

}  // namespace fastops
