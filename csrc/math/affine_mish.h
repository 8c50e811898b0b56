// Mish of a per-channel affine map:  y = f(v),  v = s (x - m) + t,  f of mish.h.
//
// affine_mish has m = 0, s = weight, t = bias. With g' = g f'(v):
//   dL/dx = s g',   dL/ds = sum g' x,   dL/dt = sum g'.
//
// batch_norm_mish in training has the mean mu and r = 1 / sqrt(var + eps) of the M values of a channel:
//   x_hat = r (x - mu),  v = w x_hat + b,
//   dL/db = sum g',  dL/dw = sum g' x_hat,
//   dL/dx = w r (g' - (dL/db) / M - x_hat (dL/dw) / M).
// If mu is large, rounding it to x's dtype would be visible (3e-5 at 1000 in float). So m is mu rounded to opmath, and
// x - m is exact near m. t has the rest of mu: s = w r, t = b - s (mu - m). The sums stay those of g' and g' (x - m),
// and dL/dx = s g' + slope (x - m) + offset with one slope and one offset per channel.
#pragma once

#include "mish.h"

namespace fastops {

template <class Maths = Exact, class T>
FASTOPS_HD T affine_mish_forward(T x, T center, T scale, T shift) {
  return mish_forward<Maths>((x - center) * scale + shift);
}

// g', from which everything else follows.
template <class Maths = Exact, class T>
FASTOPS_HD T affine_mish_backward(T grad, T x, T center, T scale, T shift) {
  return mish_backward<Maths>(grad, (x - center) * scale + shift);
}

// The numbers of a channel that the kernels of batch_norm_mish need.
template <class T>
struct BatchNormAffine {
  T center, scale, shift;
};

// A channel's map from its statistics, in double on every device.
template <class T>
FASTOPS_HD BatchNormAffine<T> batch_norm_affine(double mean, double inverse_std, double weight, double bias) {
  const double scale = weight * inverse_std;
  const T center = T(mean);
  const double rest = scale * (mean - double(center));
  return {center, T(scale), T(bias - (rest - rest == 0 ? rest : 0))};  // no shift for an infinite weight
}

// A channel's gradients from its sums of g' and g' (x - m).
struct BatchNormGrad {
  double weight, bias, slope, offset;
};

FASTOPS_HD BatchNormGrad batch_norm_grad(double sum_g, double sum_gx, double mean, double inverse_std, double center,
                                         double weight, double count) {
  const double rest = mean - center, grad_weight = inverse_std * (sum_gx - rest * sum_g);
  const double slope = -weight * inverse_std * inverse_std * grad_weight / count;
  return {grad_weight, sum_g, slope, -weight * inverse_std * sum_g / count - slope * rest};
}

}  // namespace fastops
