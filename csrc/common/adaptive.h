// Arguments, shapes and names of the adaptive activations, the same for every device.
#pragma once

#include <string>

#include "../math/adaptive.h"
#include "dispatch.h"
#include "layout.h"

namespace fastops {

constexpr const char* kAdaptiveNames[kAdaptiveKinds] = {"adaptive_sigmoid", "adaptive_tanh", "adaptive_relu"};

// Dense storage as [outer, channels, inner], for any order of dimensions: the channel dimension has stride `inner`.
// Contiguous [N, C, P] is [N, C, P]; channels_last is [N P, C, 1]; with parameters per layer it is [1, 1, n].
struct AdaptiveShape {
  int64_t outer, channels, inner;

  int64_t numel() const { return outer * channels * inner; }
};

inline AdaptiveShape adaptive_shape(const Tensor& dense_x, const Tensor& a) {
  if (a.numel() == 1) return {1, 1, dense_x.numel()};
  const int64_t channels = dense_x.size(1), inner = dense_x.stride(1);
  return {dense_x.numel() == 0 ? 0 : dense_x.numel() / (channels * inner), channels, inner};
}

inline void check_adaptive(const std::string& op_, const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& c,
                           const Tensor& d) {
  const char* op = op_.c_str();
  check_floating(op, "x", x);
  check_same_dtype(op, "a", a, "x", x);
  check_same_device(op, "a", a, "x", x);
  if (x.dim() < 2) {
    FASTOPS_CHECK(a.numel() == 1, op, ": a must have one element where x has fewer than 2 dimensions, got ",
                  shape_string(a));
  } else {
    FASTOPS_CHECK(a.numel() == 1 || (a.dim() == 1 && a.size(0) == x.size(1)), op,
                  ": a must have one element or shape [C] = [", x.size(1), "], got ", shape_string(a));
  }
  const auto check_like_a = [&](const char* name, const Tensor& t) {
    check_same_dtype(op, name, t, "x", x);
    check_same_device(op, name, t, "x", x);
    check_same_shape(op, name, t, "a", a);
  };
  check_like_a("b", b);
  check_like_a("c", c);
  check_like_a("d", d);
}

inline void check_adaptive_grad(const std::string& op_, const Tensor& grad, const Tensor& x) {
  const char* op = op_.c_str();
  check_same_dtype(op, "grad", grad, "x", x);
  check_same_device(op, "grad", grad, "x", x);
  check_same_shape(op, "grad", grad, "x", x);
}

}  // namespace fastops
