// The tracker's steps after the network on the CPU: tables, scratch memory and threads; the loops are in
// simd/response.cpp.
// One thread processes a target, so results do not depend on the number of threads.
#include "../simd/response.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>
#include <vector>

#include "../common/response.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(ResponseKernels, response_kernels)

namespace fastops {
namespace {

// The tables of one shape, in O.
template <class O>
class Tables {
 public:
  // The tables of this thread's last shape. A tracker always calls with one shape, and computing the cosines of 17 x 17
  // maps, upsampled 16 times, takes as long as tracking.
  static const ResponseTables& of(const ResponseShape& shape, int64_t up) {
    thread_local Tables last;
    ResponseTables& t = last.tables_;
    t.scales = shape.scales;
    if (t.h != shape.h || t.w != shape.w || t.up != up) last.fill(shape, up);
    return t;
  }

 private:
  void fill(const ResponseShape& shape, int64_t up) {
    const int64_t height = shape.h * up, width = shape.w * up, stride = up + kResponseLanes;
    const int64_t padded = (width + kResponseLanes - 1) / kResponseLanes * kResponseLanes;
    values_.assign(size_t(4 * up + 4 * stride + height + padded + shape.h + shape.w), O(0));
    auto* weights = reinterpret_cast<CubicWeights<O>*>(values_.data());
    O* by_kind = values_.data() + 4 * up;
    O* row_window = by_kind + 4 * stride;
    O* column_window = row_window + height;
    O* row_sums = column_window + padded;
    O* column_sums = row_sums + shape.h;
    for (int64_t p = 0; p < up; ++p) {
      const auto w = weights[p] = cubic_weights<O>(p, up);
      by_kind[p] = w.outer_sum, by_kind[stride + p] = w.outer_difference;
      by_kind[2 * stride + p] = w.inner_sum, by_kind[3 * stride + p] = w.inner_difference;
    }
    for (int64_t y = 0; y < height; ++y) row_window[y] = O(hann_over_mean<double>(y, height));
    for (int64_t x = 0; x < padded; ++x) column_window[x] = O(hann_over_mean<double>(std::min(x, width - 1), width));
    const O border = border_weight(weights, up);
    for (int64_t i = 0; i < shape.h; ++i) row_sums[i] = place_weight(i, shape.h, up, border);
    for (int64_t j = 0; j < shape.w; ++j) column_sums[j] = place_weight(j, shape.w, up, border);
    tables_ = {shape.scales, shape.h,    shape.w,       up,       padded,     weights,
               by_kind,      row_window, column_window, row_sums, column_sums};
  }

  std::vector<O> values_;
  ResponseTables tables_{};
};

Tensor response_peak_cpu_(const Tensor& responses_, const Tensor& state, int64_t up, int64_t stride,
                          int64_t instance_size, double scale_step, double scale_penalty, double scale_lr,
                          double window_influence, double lost_score, int64_t lost_frames) {
  const ResponseOptions options{up,       stride,           instance_size, scale_step, scale_penalty,
                                scale_lr, window_influence, lost_score,    lost_frames};
  const ResponseShape shape = check_response(responses_, state, options);
  Tensor results = torch::stable::new_empty(state, {shape.targets, int64_t(kResultColumns)});
  if (shape.targets == 0) return results;
  const Tensor responses = torch::stable::contiguous(responses_);
  const DType dtype = dtype_index("response_peak", "responses", responses);
  const ResponseTables& tables = dtype == kDouble ? Tables<double>::of(shape, up) : Tables<float>::of(shape, up);
  const auto track = FASTOPS_TABLE(response_kernels).track[dtype];

  const int64_t target_bytes = shape.scales * shape.h * shape.w * int64_t(responses.element_size());
  const size_t scratch_bytes = size_t(tables.scratch()) * (dtype == kDouble ? 8 : 4);
  const char* maps = static_cast<const char*>(responses.const_data_ptr());
  float* rows = static_cast<float*>(state.mutable_data_ptr());
  float* out = static_cast<float*>(results.mutable_data_ptr());
  torch::stable::parallel_for(0, shape.targets, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> scratch(new char[scratch_bytes]);
    for (int64_t k = begin; k < end; ++k) {
      track(maps + k * target_bytes, tables, options, scratch.get(), rows + k * kStateColumns,
            out + k * kResultColumns);
    }
  });
  return results;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) { m.impl("response_peak_", TORCH_BOX(&fastops::response_peak_cpu_)); }
