// Checks and tensors of bias_activation, the same for every device.
#pragma once

#include "activation.h"
#include "affine_mish.h"
#include "mish_max_pool2d.h"

namespace fastops {

inline PoolShape check_bias_activation(const char* op, const Tensor& x, const Tensor& bias, const Pair& kernel_size,
                                       const Pair& stride) {
  FASTOPS_CHECK(x.dim() == 4, op, ": x must be [N, C, H, W], got ", shape_string(x));
  const PoolShape s = check_mish_max_pool2d(op, x, kernel_size, stride, {0, 0});
  check_channel_parameter(op, "bias", bias, x);
  return s;
}

// The kernels' tensors: images [N, H, W, C]. Convolutions in channels_last give such an x; any other is copied, and so
// is its result.
struct BiasActivationTensors {
  Tensor x, bias, y;

  BiasActivationTensors(const Tensor& x_, const Tensor& bias_, const PoolShape& s, bool float_output)
      : x(torch::stable::contiguous(x_, torch::headeronly::MemoryFormat::ChannelsLast)),
        bias(torch::stable::contiguous(bias_)),
        y(empty_channels_last(float_output ? torch::stable::new_empty(x, {0}, opmath()) : x, s.batch, s.channels,
                              s.out_height, s.out_width)),
        channels_last_(is_channels_last(x_)) {}

  ScalarType opmath() const { return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

  // y in the layout of x_.
  Tensor result() const {
    if (channels_last_) return y;
    Tensor copy = torch::stable::new_empty(y, {y.size(0), y.size(1), y.size(2), y.size(3)});
    torch::stable::copy_(copy, y);
    return copy;
  }

 private:
  bool channels_last_;
};

}  // namespace fastops
