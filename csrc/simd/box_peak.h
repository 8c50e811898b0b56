// Table of the CPU kernels of box_peak, indexed by DType.
#pragma once

#include <stdint.h>

#include "../math/box_peak.h"

namespace fastops {

// One target's maps: [cells] scores and [4, cells] distances, at these strides in values.
struct BoxPeakTarget {
  const void *scores, *ltrb;
  int64_t h, w, score_stride, channel_stride, cell_stride;
};

// The number of opmath values of workspace for a target: score, l, t, r, b and value of every cell.
inline int64_t box_peak_scratch(int64_t cells) { return 6 * cells; }

struct BoxPeakKernels {
  // The target's row of the state, and its result.
  void (*track[4])(const BoxPeakTarget& target, const BoxPeakOptions& options, void* scratch, float* state,
                   float* result);
};

}  // namespace fastops
