// Success and precision curves: the number of values above each threshold, or not above it.
#pragma once

#include <cstddef>

namespace fastops {

// out[k] is the fraction of the `count` values strictly above thresholds[k], or with `at_most` not above it. NaN is
// never counted: a frame without a value is a miss.
void threshold_curve(const double* values, size_t count, const double* thresholds, size_t steps, bool at_most,
                     double* out);

}  // namespace fastops
