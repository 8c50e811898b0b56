// Shapes and checks of affine_mish and batch_norm_mish, the same for every device.
#pragma once

#include <optional>

#include "dispatch.h"

namespace fastops {

struct ChannelShape {
  int64_t batch, channels, pixels;

  int64_t per_channel() const { return batch * pixels; }
};

inline ChannelShape check_channels_input(const char* op, const Tensor& x) {
  check_floating(op, "x", x);
  FASTOPS_CHECK(x.dim() >= 2, op, ": x must have at least 2 dimensions [N, C, ...], got ", shape_string(x));
  ChannelShape shape{x.size(0), x.size(1), 1};
  for (int64_t i = 2; i < x.dim(); ++i) shape.pixels *= x.size(i);
  return shape;
}

// A parameter [C] of x's dtype, or float32 if x is a half type, as in batch norms.
inline void check_channel_parameter(const char* op, const char* argument, const Tensor& t, const Tensor& x) {
  const bool half = x.scalar_type() == ScalarType::Half || x.scalar_type() == ScalarType::BFloat16;
  if (half) {
    FASTOPS_CHECK(t.scalar_type() == x.scalar_type() || t.scalar_type() == ScalarType::Float, op, ": ", argument,
                  " must have the dtype of x (", dtype_name(x.scalar_type()), ") or float32, got ",
                  dtype_name(t.scalar_type()));
  } else {
    check_same_dtype(op, argument, t, "x", x);
  }
  check_same_device(op, argument, t, "x", x);
  FASTOPS_CHECK(t.dim() == 1 && t.size(0) == x.size(1), op, ": ", argument, " must have shape [C] = [", x.size(1),
                "], got ", shape_string(t));
}

inline ChannelShape check_affine_mish(const char* op, const Tensor& x, const std::optional<Tensor>& weight,
                                      const std::optional<Tensor>& bias) {
  const ChannelShape shape = check_channels_input(op, x);
  if (weight) check_channel_parameter(op, "weight", *weight, x);
  if (bias) check_channel_parameter(op, "bias", *bias, x);
  if (weight && bias) check_same_dtype(op, "bias", *bias, "weight", *weight);
  return shape;
}

inline void check_channels_grad(const char* op, const Tensor& grad, const Tensor& x) {
  check_same_dtype(op, "grad", grad, "x", x);
  check_same_device(op, "grad", grad, "x", x);
  check_same_shape(op, "grad", grad, "x", x);
}

inline ChannelShape check_batch_norm_mish(const char* op, const Tensor& x, const std::optional<Tensor>& weight,
                                          const std::optional<Tensor>& bias) {
  const ChannelShape shape = check_affine_mish(op, x, weight, bias);
  FASTOPS_CHECK(shape.per_channel() != 1, op, ": x must have more than one value per channel in training, got ",
                shape_string(x));
  return shape;
}

// stats [3, C]: mean, 1 / sqrt(var + eps) and the unbiased variance, in float64.
inline void check_batch_norm_stats(const char* op, const Tensor& stats, const Tensor& x) {
  FASTOPS_CHECK(stats.scalar_type() == ScalarType::Double, op, ": stats must have dtype float64, got ",
                dtype_name(stats.scalar_type()));
  check_same_device(op, "stats", stats, "x", x);
  FASTOPS_CHECK(stats.dim() == 2 && stats.size(0) == 3 && stats.size(1) == x.size(1), op,
                ": stats must have shape [3, C] = [3, ", x.size(1), "], got ", shape_string(stats));
}

}  // namespace fastops
