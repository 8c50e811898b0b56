// Checks of mish_max_pool2d, the same for every device.
#pragma once

#include <vector>

#include "../math/mish_max_pool2d.h"
#include "dispatch.h"
#include "layout.h"

namespace fastops {

using Pair = std::vector<int64_t>;  // height and width

inline std::string pair_string(const Pair& pair) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < pair.size(); ++i) text << (i ? ", " : "") << pair[i];
  text << ']';
  return text.str();
}

inline void check_at_least_1(const char* op, const char* argument, const Pair& pair) {
  FASTOPS_CHECK(pair.size() == 2 && pair[0] >= 1 && pair[1] >= 1, op, ": ", argument,
                " must be two numbers of at least 1, got ", pair_string(pair));
}

inline PoolShape check_mish_max_pool2d(const char* op, const Tensor& x, const Pair& kernel, const Pair& stride,
                                       const Pair& padding) {
  check_floating(op, "x", x);
  const int64_t dims = x.dim();
  FASTOPS_CHECK(dims == 3 || dims == 4, op, ": x must be [N, C, H, W] or [C, H, W], got ", shape_string(x));
  check_at_least_1(op, "kernel_size", kernel);
  // The backward pass stores a position in the window as a 32-bit number.
  FASTOPS_CHECK(kernel[0] < (int64_t(1) << 30) / kernel[1], op, ": kernel_size must have fewer than 2^30 values, got ",
                pair_string(kernel));
  check_at_least_1(op, "stride", stride);
  FASTOPS_CHECK(padding.size() == 2 && padding[0] >= 0 && padding[1] >= 0 && padding[0] <= kernel[0] / 2 &&
                    padding[1] <= kernel[1] / 2,
                op, ": padding must be two numbers from 0 to half of kernel_size, got ", pair_string(padding));
  PoolShape s{};
  s.batch = dims == 4 ? x.size(0) : 1;
  s.channels = x.size(dims - 3);
  s.height = x.size(dims - 2);
  s.width = x.size(dims - 1);
  FASTOPS_CHECK(
      s.height > 0 && s.width > 0 && s.height + 2 * padding[0] >= kernel[0] && s.width + 2 * padding[1] >= kernel[1],
      op, ": x must hold a window of ", kernel[0], " x ", kernel[1], " with its padding, got ", shape_string(x));
  s.out_height = (s.height + 2 * padding[0] - kernel[0]) / stride[0] + 1;
  s.out_width = (s.width + 2 * padding[1] - kernel[1]) / stride[1] + 1;
  s.kernel_h = kernel[0], s.kernel_w = kernel[1];
  s.stride_h = stride[0], s.stride_w = stride[1];
  s.pad_h = padding[0], s.pad_w = padding[1];
  return s;
}

inline void check_mish_max_pool2d_grad(const char* op, const Tensor& grad, const Tensor& x, const PoolShape& s) {
  check_same_dtype(op, "grad", grad, "x", x);
  check_same_device(op, "grad", grad, "x", x);
  const int64_t dims = x.dim();
  const bool same = grad.dim() == dims && (dims == 3 || grad.size(0) == s.batch) && grad.size(dims - 3) == s.channels &&
                    grad.size(dims - 2) == s.out_height && grad.size(dims - 1) == s.out_width;
  if (same) return;
  Pair wanted{s.channels, s.out_height, s.out_width};
  if (dims == 4) wanted.insert(wanted.begin(), s.batch);
  fail(op, ": grad must have shape ", pair_string(wanted), ", got ", shape_string(grad));
}

// An uninitialised tensor of the outputs, in the layout of the native tensor x.
inline Tensor empty_pooled(const Tensor& x, const PoolShape& s) {
  if (is_channels_last(x)) return empty_channels_last(x, s.batch, s.channels, s.out_height, s.out_width);
  if (x.dim() == 3) return torch::stable::new_empty(x, {s.channels, s.out_height, s.out_width});
  return torch::stable::new_empty(x, {s.batch, s.channels, s.out_height, s.out_width});
}

// The gradient in the layout of empty_pooled().
inline Tensor pooled_layout(const Tensor& grad, const Tensor& x) {
  if (!is_channels_last(x)) return torch::stable::contiguous(grad);
  if (is_channels_last(grad)) return grad;
  Tensor copy = empty_channels_last(grad, grad.size(0), grad.size(1), grad.size(2), grad.size(3));
  torch::stable::copy_(copy, grad);
  return copy;
}

}  // namespace fastops
