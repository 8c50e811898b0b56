#include "curve.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

namespace fastops {

void threshold_curve(const double* values, size_t count, const double* thresholds, size_t steps, bool at_most,
                     double* out) {
  std::vector<double> sorted;
  sorted.reserve(count);
  std::copy_if(values, values + count, std::back_inserter(sorted), [](double v) { return !std::isnan(v); });
  std::sort(sorted.begin(), sorted.end());
  for (size_t k = 0; k < steps; ++k) {
    const auto first_above = std::upper_bound(sorted.begin(), sorted.end(), thresholds[k]);
    const auto hits = at_most ? first_above - sorted.begin() : sorted.end() - first_above;
    out[k] = static_cast<double>(hits) / static_cast<double>(count);
  }
}

}  // namespace fastops
