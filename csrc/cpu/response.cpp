// The tracker's steps after the network on the CPU: tables, scratch and threads; the loops are in simd/response.cpp.
// A target is one thread's work, so results do not depend on the number of threads.
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
  // Of the last shape that this thread asked for: a tracker calls with one shape again and again, and the cosines of
  // 17 x 17 maps, 16 times as large, take as long as tracking.
  static const ResponseTables& of(const ResponseShape& shape, int64_t up) {
    thread_local Tables last;
    ResponseTables& t = last.tables_;
    t.scales = shape.scales;
    if (t.h != shape.h || t.w != shape.w || t.up != up) last.fill(shape, up);
    return t;
  }

 private:
  void fill(const ResponseShape& shape, int64_t up) {
    const int64_t height = shape.h * up, width = shape.w * up;
    const int64_t padded = (width + kResponseLanes - 1) / kResponseLanes * kResponseLanes;
    const int64_t stride = padded + kResponseLanes;
    values_.assign(size_t(4 * height + 4 * stride + height + padded + shape.h + shape.w), O(0));
    O* row_weights = values_.data();
    O* column_weights = row_weights + 4 * height;
    O* row_window = column_weights + 4 * stride;
    O* column_window = row_window + height;
    O* row_sums = column_window + padded;
    O* column_sums = row_sums + shape.h;

    for_each_output(shape.h, up, [&](int64_t y, const CubicWeights<O>& w) {
      reinterpret_cast<CubicWeights<O>*>(row_weights)[y] = w;
    });
    for_each_output(shape.w, up, [&](int64_t x, const CubicWeights<O>& w) {
      column_weights[x] = w.outer_sum, column_weights[stride + x] = w.outer_difference;
      column_weights[2 * stride + x] = w.inner_sum, column_weights[3 * stride + x] = w.inner_difference;
    });
    for (int64_t y = 0; y < height; ++y) row_window[y] = O(hann_over_mean(y, height));
    for (int64_t x = 0; x < padded; ++x) column_window[x] = O(hann_over_mean(std::min(x, width - 1), width));
    const double border = border_weight(up);
    for (int64_t i = 0; i < shape.h; ++i) row_sums[i] = O(place_weight(i, shape.h, up, border));
    for (int64_t j = 0; j < shape.w; ++j) column_sums[j] = O(place_weight(j, shape.w, up, border));
    tables_ = {shape.scales,   shape.h,    shape.w,       up,       padded,     row_weights,
               column_weights, row_window, column_window, row_sums, column_sums};
  }

  // body(output, its weights) for the outputs of n places
  template <class Body>
  static void for_each_output(int64_t n, int64_t up, const Body& body) {
    for (int64_t cell = -1; cell < n; ++cell) {
      for (int64_t i = cell_begin(cell, up, n); i < cell_begin(cell + 1, up, n); ++i) {
        body(i, cubic_weights<O>(cell, i, up));
      }
    }
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
