// FocalL1 (Zhang et al., "Focal and Efficient IOU Loss for Accurate Bounding Box Regression", eq. 8-9):
// with x = |pred - target|, alpha = e beta and beta in [1/e, 1],
//   f(x) = -alpha x^2 (2 ln(beta x) - 1) / 4     for x <= 1      f'(x) = -alpha x ln(beta x), at most 1
//        = -alpha ln(beta) x + C                 beyond          f'(x) = -alpha ln(beta)
// C = alpha (2 ln(beta) + 1) / 4 makes f continuous. The first case is the integral of eq. 8. The printed eq. 9 has
// 2 alpha^2 in place of alpha x^2.
#pragma once

#include "log.h"

namespace fastops {

template <class T>
struct FocalL1 {
  T alpha, log_beta;  // e beta, ln(beta)

  FASTOPS_HD T forward(T pred, T target) const {
    const T d = pred - target, x = d < T(0) ? -d : d;
    const T inner = T(0.25) * x * x * (T(1) - T(2) * log_beta_x(x));
    const T outer = T(0.25) * (T(2) * log_beta + T(1)) - log_beta * x;
    return alpha * (x > T(1) ? outer : inner);
  }

  // d loss / d pred. The derivative by target is its negative.
  FASTOPS_HD T backward(T grad, T pred, T target) const {
    const T d = pred - target, x = d < T(0) ? -d : d;
    const T bounded = d > T(1) ? T(1) : d < T(-1) ? T(-1) : d;
    return -grad * alpha * bounded * (x > T(1) ? log_beta : log_beta_x(x));
  }

 private:
  // ln(beta x), bounded for x -> 0, where it is multiplied by x.
  FASTOPS_HD T log_beta_x(T x) const { return log_beta + log_(x < T(1e-30) ? T(1e-30) : x); }
};

}  // namespace fastops
