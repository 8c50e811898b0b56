// Shapes and checks of the se ops, the same for every device.
#pragma once

#include <optional>

#include "dispatch.h"

namespace fastops {

struct SeShape {
  int64_t batch, channels, pixels;
};

inline SeShape check_se_input(const char* op, const Tensor& x, int64_t min_dims) {
  check_floating(op, "x", x);
  FASTOPS_CHECK(x.dim() >= min_dims, op, ": x must have at least ", min_dims, " dimensions [N, C, ...], got ",
                shape_string(x));
  SeShape shape{x.size(0), x.size(1), 1};
  for (int64_t i = 2; i < x.dim(); ++i) shape.pixels *= x.size(i);
  return shape;
}

inline SeShape check_se_scale(const char* op, const Tensor& x, const Tensor& logits) {
  const SeShape shape = check_se_input(op, x, 2);
  check_same_dtype(op, "logits", logits, "x", x);
  check_same_device(op, "logits", logits, "x", x);
  FASTOPS_CHECK(logits.dim() == 2 && logits.size(0) == shape.batch && logits.size(1) == shape.channels, op,
                ": logits must have shape [N, C] = [", shape.batch, ", ", shape.channels, "], got ",
                shape_string(logits));
  return shape;
}

inline void check_se_grad(const char* op, const Tensor& grad, const Tensor& x) {
  check_same_dtype(op, "grad", grad, "x", x);
  check_same_device(op, "grad", grad, "x", x);
  check_same_shape(op, "grad", grad, "x", x);
}

inline void check_se_weight(const char* op, const char* argument, const Tensor& t, const Tensor& x,
                            std::initializer_list<int64_t> expected, const char* names) {
  check_same_dtype(op, argument, t, "x", x);
  check_same_device(op, argument, t, "x", x);
  bool same = t.dim() == static_cast<int64_t>(expected.size());
  int64_t i = 0;
  for (int64_t size : expected) same = same && t.size(i++) == size;
  if (same) return;
  std::ostringstream wanted;
  i = 0;
  for (int64_t size : expected) wanted << (i++ ? ", " : "") << size;
  fail(op, ": ", argument, " must have shape ", names, " = [", wanted.str(), "], got ", shape_string(t));
}

// x [N, C, ...], w1 [R, C], b1 [R], w2 [C, R], b2 [C]; returns R through `hidden`.
inline SeShape check_se_attention(const char* op, const Tensor& x, const Tensor& w1, const std::optional<Tensor>& b1,
                                  const Tensor& w2, const std::optional<Tensor>& b2, int64_t& hidden) {
  const SeShape shape = check_se_input(op, x, 3);
  FASTOPS_CHECK(w1.dim() == 2, op, ": w1 must have shape [R, C], got ", shape_string(w1));
  hidden = w1.size(0);
  check_se_weight(op, "w1", w1, x, {hidden, shape.channels}, "[R, C]");
  check_se_weight(op, "w2", w2, x, {shape.channels, hidden}, "[C, R]");
  if (b1.has_value()) check_se_weight(op, "b1", *b1, x, {hidden}, "[R]");
  if (b2.has_value()) check_se_weight(op, "b2", *b2, x, {shape.channels}, "[C]");
  return shape;
}

}  // namespace fastops
