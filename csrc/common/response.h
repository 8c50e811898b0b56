// Shapes and checks of response_peak, the same for every device.
#pragma once

#include <cmath>

#include "../math/response.h"
#include "dispatch.h"
#include "target.h"

namespace fastops {

// Largest upsampling; with kMaxMapSide, what a block's shared memory on CUDA holds in float64.
constexpr int64_t kMaxResponseUp = 32;

struct ResponseShape {
  int64_t targets, scales, h, w;
};

inline ResponseShape check_response(const Tensor& responses, const Tensor& state, const ResponseOptions& o) {
  const char* op = "response_peak";
  check_floating(op, "responses", responses);
  check_state(op, state, "responses", responses);
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
  check_map_sides(op, "responses", responses);

  FASTOPS_CHECK(1 <= o.up && o.up <= kMaxResponseUp, op, ": up must be from 1 to ", kMaxResponseUp, ", got ", o.up);
  check_count(op, "stride", o.stride);
  check_count(op, "instance_size", o.instance_size);
  FASTOPS_CHECK(std::isfinite(o.scale_step) && o.scale_step > 0, op, ": scale_step must be finite and above 0, got ",
                o.scale_step);
  check_share(op, "scale_penalty", o.scale_penalty);
  check_share(op, "scale_lr", o.scale_lr);
  check_share(op, "window_influence", o.window_influence);
  check_share(op, "lost_score", o.lost_score);
  check_count(op, "lost_frames", o.lost_frames);
  return shape;
}

}  // namespace fastops
