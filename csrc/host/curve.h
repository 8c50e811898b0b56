// Success and precision curves: how many values lie above, or at most at, each threshold.
#pragma once

#include <cstddef>

namespace fastops {

// out[k] = part of the `count` values that are strictly above thresholds[k], or with `at_most` not above it. NaN is
// neither: a frame without a value counts as a miss.
void threshold_curve(const double* values, size_t count, const double* thresholds, size_t steps, bool at_most,
                     double* out);

}  // namespace fastops
