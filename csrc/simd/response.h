// Table of the CPU kernels of response_peak, indexed by DType.
#pragma once

#include <stdint.h>

#include "../math/response.h"

namespace fastops {

// The length of a row of outputs is a multiple of this, and this is a multiple of the lanes of any register. The last
// output is repeated up to the end of the row. After the last row there are this many more values, for the outputs of
// its last cell.
constexpr int64_t kResponseLanes = 16;

// Tables that depend only on the sizes, for scales x [h, w] maps. Arrays hold opmath values; `padded` is a row's
// length.
struct ResponseTables {
  int64_t scales, h, w, up, padded;
  const void* weights;          // [up]: CubicWeights, by phase
  const void* weights_by_kind;  // [4, up + kResponseLanes]: the same
  const void* row_window;       // [h up]: hann / mean
  const void* column_window;    // [padded]
  const void* row_sums;         // [h]: place_weight
  const void* column_sums;      // [w]

  // The number of opmath values of workspace: the maps, and two of them upsampled along rows.
  int64_t scratch() const { return scales * h * w + 2 * (h * padded + kResponseLanes); }
};

struct ResponseKernels {
  // One target: maps [scales, h, w], its row of the state and its result.
  void (*track[4])(const void* maps, const ResponseTables& tables, const ResponseOptions& options, void* scratch,
                   float* state, float* result);
};

}  // namespace fastops
