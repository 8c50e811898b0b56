// The tracker's steps after a network with a box head on the CPU: scratch memory and threads; the loops are in
// simd/box_peak.cpp. One thread processes a target, so results do not depend on the number of threads.
#include "../simd/box_peak.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>

#include "../common/box_peak.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(BoxPeakKernels, box_peak_kernels)

namespace fastops {
namespace {

Tensor box_peak_cpu_(const Tensor& scores, const Tensor& ltrb, const Tensor& state, int64_t stride,
                     std::optional<double> unit, int64_t exemplar_size, int64_t instance_size, double context,
                     double box_lr, double box_penalty, double box_window, double lost_score, int64_t lost_frames) {
  const BoxPeakOptions options = box_peak_options(stride, unit, exemplar_size, instance_size, context, box_lr,
                                                  box_penalty, box_window, lost_score, lost_frames);
  const BoxPeakInputs in = check_box_peak(scores, ltrb, state, options);
  Tensor results = torch::stable::new_empty(state, {in.targets, int64_t(kResultColumns)});
  if (in.targets == 0) return results;
  const DType dtype = dtype_index("box_peak", "scores", scores);
  const auto track = FASTOPS_TABLE(box_peak_kernels).track[dtype];

  const int64_t bytes = int64_t(scores.element_size());
  const size_t scratch_bytes = size_t(box_peak_scratch(in.h * in.w)) * (dtype == kDouble ? 8 : 4);
  const char* score_data = static_cast<const char*>(in.scores.data);
  const char* ltrb_data = static_cast<const char*>(in.ltrb.data);
  float* rows = static_cast<float*>(state.mutable_data_ptr());
  float* out = static_cast<float*>(results.mutable_data_ptr());
  torch::stable::parallel_for(0, in.targets, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> scratch(new char[scratch_bytes]);
    for (int64_t k = begin; k < end; ++k) {
      const BoxPeakTarget target{score_data + k * in.scores.target * bytes,
                                 ltrb_data + k * in.ltrb.target * bytes,
                                 in.h,
                                 in.w,
                                 in.scores.cell,
                                 in.ltrb.channel,
                                 in.ltrb.cell};
      track(target, options, scratch.get(), rows + k * kStateColumns, out + k * kResultColumns);
    }
  });
  return results;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) { m.impl("box_peak_", TORCH_BOX(&fastops::box_peak_cpu_)); }
