// Shapes and checks of the balanced logistic loss, the same for every device.
#pragma once

#include <cmath>
#include <optional>

#include "../math/logistic_loss.h"
#include "dispatch.h"

namespace fastops {

enum class Reduction { kNone, kMean, kSum };

struct LogisticLossCall {
  int64_t maps, height, width;
  double limit;  // (radius / stride)^2
  Reduction reduction;

  int64_t size() const { return height * width; }
  int64_t losses() const { return reduction == Reduction::kNone ? maps : 1; }
  PositiveDisk centered_disk() const { return {height, width, double(height - 1) / 2, double(width - 1) / 2, limit}; }
};

inline LogisticLossCall check_logistic_loss(const char* op, const Tensor& responses, double radius, double stride,
                                            const std::string& reduction, const std::optional<Tensor>& centers) {
  check_floating(op, "responses", responses);
  const int64_t dims = responses.dim();
  FASTOPS_CHECK(dims >= 2 && responses.size(dims - 2) > 0 && responses.size(dims - 1) > 0, op,
                ": responses must have shape [..., H, W] with H and W at least 1, got ", shape_string(responses));
  LogisticLossCall call{1, responses.size(dims - 2), responses.size(dims - 1), 0, Reduction::kNone};
  for (int64_t i = 0; i < dims - 2; ++i) call.maps *= responses.size(i);
  FASTOPS_CHECK(std::isfinite(radius) && radius >= 0, op, ": radius must be finite and at least 0, got ", radius);
  FASTOPS_CHECK(std::isfinite(stride) && stride > 0, op, ": stride must be finite and above 0, got ", stride);
  call.limit = radius / stride * (radius / stride);
  if (reduction == "mean") {
    call.reduction = Reduction::kMean;
  } else if (reduction == "sum") {
    call.reduction = Reduction::kSum;
  } else {
    FASTOPS_CHECK(reduction == "none", op, ": reduction must be none, mean or sum, got ", reduction);
  }
  if (centers.has_value()) {
    FASTOPS_CHECK(centers->scalar_type() == ScalarType::Float, op, ": centers must have dtype float32, got ",
                  dtype_name(centers->scalar_type()));
    check_same_device(op, "centers", *centers, "responses", responses);
    FASTOPS_CHECK(centers->dim() == 2 && centers->size(0) == call.maps && centers->size(1) == 2, op,
                  ": centers must have shape [N, 2] = [", call.maps, ", 2], got ", shape_string(*centers));
  } else {
    // The cells nearest to the centre and farthest from it, in half cells.
    const double h = double(call.height - 1), w = double(call.width - 1);
    const double nearest = double((call.height + 1) % 2 + (call.width + 1) % 2), farthest = h * h + w * w;
    FASTOPS_CHECK(nearest <= 4 * call.limit && 4 * call.limit < farthest, op,
                  ": radius must leave positives and negatives on a map of ", call.height, " x ", call.width, ", got ",
                  radius);
  }
  return call;
}

inline void check_logistic_loss_grad(const char* op, const Tensor& grad, const LogisticLossCall& call,
                                     const Tensor& responses) {
  check_same_dtype(op, "grad", grad, "responses", responses);
  check_same_device(op, "grad", grad, "responses", responses);
  bool same = grad.dim() == (call.reduction == Reduction::kNone ? responses.dim() - 2 : 0);
  for (int64_t i = 0; same && i < grad.dim(); ++i) same = grad.size(i) == responses.size(i);
  FASTOPS_CHECK(same, op, ": grad must have the shape of the loss, got ", shape_string(grad));
}

}  // namespace fastops
