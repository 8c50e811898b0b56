// Shapes, layouts and checks of box_peak, the same for every device.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "../math/box_peak.h"
#include "dispatch.h"
#include "target.h"

namespace fastops {

// Maps [K, C, h, w] whose cells follow one another at a constant distance: contiguous, channels_last, or some channels
// of either. Strides in values.
struct CellMaps {
  const void* data;
  int64_t target, channel, cell;
};

struct BoxPeakInputs {
  int64_t targets, h, w;
  CellMaps scores, ltrb;
  Tensor kept_scores, kept_ltrb;  // own the memory of the pointers
};

inline CellMaps cell_maps(Tensor& t) {
  const bool even = t.size(2) == 1 || t.size(3) == 1 || t.stride(2) == t.size(3) * t.stride(3);
  if (!even) t = torch::stable::contiguous(t);
  return {t.const_data_ptr(), t.stride(0), t.stride(1), t.size(3) > 1 ? t.stride(3) : t.stride(2)};
}

inline BoxPeakInputs check_box_peak(const Tensor& scores, const Tensor& ltrb, const Tensor& state,
                                    const BoxPeakOptions& o) {
  const char* op = "box_peak";
  check_floating(op, "scores", scores);
  check_same_dtype(op, "ltrb", ltrb, "scores", scores);
  check_same_device(op, "ltrb", ltrb, "scores", scores);
  check_state(op, state, "scores", scores);
  const int64_t targets = state.size(0);
  FASTOPS_CHECK(scores.dim() == 4 && scores.size(0) == targets && scores.size(1) == 1, op,
                ": scores must have shape [K, 1, h, w] with K = ", targets, ", got ", shape_string(scores));
  check_map_sides(op, "scores", scores);
  const int64_t h = scores.size(2), w = scores.size(3);
  FASTOPS_CHECK(ltrb.dim() == 4 && ltrb.size(0) == targets && ltrb.size(1) == 4 && ltrb.size(2) == h &&
                    ltrb.size(3) == w,
                op, ": ltrb must have shape [", targets, ", 4, ", h, ", ", w, "], got ", shape_string(ltrb));

  check_count(op, "stride", o.stride);
  FASTOPS_CHECK(!o.logits || (std::isfinite(o.unit) && o.unit > 0), op,
                ": unit must be None, or finite and above 0, got ", o.unit);
  check_count(op, "exemplar_size", o.exemplar_size);
  check_count(op, "instance_size", o.instance_size);
  const auto check_weight = [&](const char* name, double value) {
    FASTOPS_CHECK(std::isfinite(value) && value >= 0, op, ": ", name, " must be finite and at least 0, got ", value);
  };
  check_weight("context", o.context);
  check_weight("box_penalty", o.box_penalty);
  check_share(op, "box_lr", o.box_lr);
  check_share(op, "box_window", o.box_window);
  check_share(op, "lost_score", o.lost_score);
  check_count(op, "lost_frames", o.lost_frames);

  BoxPeakInputs inputs{targets, h, w, {}, {}, scores, ltrb};
  if (targets > 0) {
    inputs.scores = cell_maps(inputs.kept_scores);
    inputs.ltrb = cell_maps(inputs.kept_ltrb);
  }
  return inputs;
}

inline BoxPeakOptions box_peak_options(int64_t stride, const std::optional<double>& unit, int64_t exemplar_size,
                                       int64_t instance_size, double context, double box_lr, double box_penalty,
                                       double box_window, double lost_score, int64_t lost_frames) {
  return {stride, unit.has_value(), unit.value_or(0), exemplar_size, instance_size, context,
          box_lr, box_penalty,      box_window,       lost_score,    lost_frames};
}

}  // namespace fastops
