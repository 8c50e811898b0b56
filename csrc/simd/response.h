// Table of the CPU kernels of response_peak, indexed by DType.
#pragma once

#include <stdint.h>

#include "../math/response.h"

namespace fastops {

// Rows of outputs are as long as a multiple of this, which is one of any register's lanes; what is behind the last
// output repeats it. Behind the last row there are as many more, into which the outputs of its last cell may run over.
constexpr int64_t kResponseLanes = 16;

// What depends on the sizes alone, of scales x [h, w] maps. Arrays of opmath values; `padded` is the length of a row.
struct ResponseTables {
  int64_t scales, h, w, up, padded;
  const void* weights;          // [up]: CubicWeights, by phase
  const void* weights_by_kind;  // [4, up + kResponseLanes]: the same
  const void* row_window;       // [h up]: hann / mean
  const void* column_window;    // [padded]
  const void* row_sums;         // [h]: place_weight
  const void* column_sums;      // [w]

  // Opmath values that the kernel needs to work in: the maps, and two of them upsampled along rows.
  int64_t scratch() const { return scales * h * w + 2 * (h * padded + kResponseLanes); }
};

struct ResponseKernels {
  // One target: maps [scales, h, w], its row of the state and its result.
  void (*track[4])(const void* maps, const ResponseTables& tables, const ResponseOptions& options, void* scratch,
                   float* state, float* result);
};

}  // namespace fastops
