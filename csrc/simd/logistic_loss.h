// Table of the CPU kernels of the balanced logistic loss, indexed by DType. Cells [begin, end) of one map, contiguous.
#pragma once

#include <stdint.h>

#include "../math/logistic_loss.h"

namespace fastops {

// The labels of a map, and the weight of a cell for each label: its share of the loss forward; backward, that share
// times the incoming gradient.
struct LogisticMap {
  PositiveDisk disk;
  double positive, negative;
};

struct LogisticLossKernels {
  double (*forward[4])(const void* responses, const LogisticMap& map, int64_t begin, int64_t end);
  void (*backward[4])(const void* responses, void* grad_responses, const LogisticMap& map, int64_t begin, int64_t end);
  // To and from double: the losses and their gradients.
  void (*widen[4])(const void* values, double* wide, int64_t n);
  void (*narrow[4])(const double* wide, void* values, int64_t n);
};

}  // namespace fastops
