// Shapes and checks of response_peak, the same for every device; the columns of its state are in math/response.h.
#pragma once

#include <cmath>

#include "../math/response.h"
#include "dispatch.h"

namespace fastops {

// Largest sides of a score map and upsampling: what a block's shared memory on CUDA holds in float64.
constexpr int64_t kMaxResponseSide = 128;
constexpr int64_t kMaxResponseUp = 32;

struct ResponseShape {
  int64_t targets, scales, h, w;
};

inline ResponseShape check_response(const Tensor& responses, const Tensor& state, const ResponseOptions& o) {
  const char* op = "response_peak";
  check_floating(op, "responses", responses);
  FASTOPS_CHECK(state.scalar_type() == ScalarType::Float, op, ": state must have dtype float32, got ",
                dtype_name(state.scalar_type()));
  check_same_device(op, "state", state, "responses", responses);
  FASTOPS_CHECK(state.dim() == 2 && state.size(1) == kStateColumns, op, ": state must have shape [K, ", kStateColumns,
                "], got ", shape_string(state));
  FASTOPS_CHECK(state.is_contiguous(), op, ": state must be contiguous, got strides [", state.stride(0), ", ",
                state.stride(1), "]");

  ResponseShape shape{state.size(0), 0, 0, 0};
  if (responses.dim() == 4) {
    const int64_t maps = responses.size(0), channels = responses.size(1);
    if (maps == shape.targets) {
      shape.scales = channels;
    } else if (channels == 1 && shape.targets > 0 && maps % shape.targets == 0) {
      shape.scales = maps / shape.targets;
    }
    shape.h = responses.size(2), shape.w = responses.size(3);
  }
  FASTOPS_CHECK(shape.scales % 2 == 1, op,
                ": responses must have shape [K S, 1, h, w] or [K, S, h, w] with K = ", shape.targets,
                " and S odd, got ", shape_string(responses));
  FASTOPS_CHECK(1 <= shape.h && shape.h <= kMaxResponseSide && 1 <= shape.w && shape.w <= kMaxResponseSide, op,
                ": responses must have h and w from 1 to ", kMaxResponseSide, ", got ", shape_string(responses));

  FASTOPS_CHECK(1 <= o.up && o.up <= kMaxResponseUp, op, ": up must be from 1 to ", kMaxResponseUp, ", got ", o.up);
  const auto check_count = [&](const char* name, int64_t value) {
    FASTOPS_CHECK(value >= 1, op, ": ", name, " must be at least 1, got ", value);
  };
  check_count("stride", o.stride);
  check_count("instance_size", o.instance_size);
  FASTOPS_CHECK(std::isfinite(o.scale_step) && o.scale_step > 0, op, ": scale_step must be finite and above 0, got ",
                o.scale_step);
  const auto check_share = [&](const char* name, double value) {
    FASTOPS_CHECK(0 <= value && value <= 1, op, ": ", name, " must be between 0 and 1, got ", value);
  };
  check_share("scale_penalty", o.scale_penalty);
  check_share("scale_lr", o.scale_lr);
  check_share("window_influence", o.window_influence);
  check_share("lost_score", o.lost_score);
  check_count("lost_frames", o.lost_frames);
  return shape;
}

}  // namespace fastops
