// Table of the CPU kernels of the box losses, indexed by DType. The gradients that `run` writes and `scale` reads are
// opmath (double for double, float otherwise).
#pragma once

#include <stdint.h>

#include "../math/box_loss.h"

namespace fastops {

struct BoxLossCall {
  BoxFormat format;
  BoxPenalty penalty;
  BoxWeight weight;
  double eps, gamma;
  double mean;  // see box_loss of math/box_loss.h
};

struct BoxLossKernels {
  // n boxes. Writes the losses to `loss`, or if it is null their sum and the sum of the weights to sums[2]. Writes the
  // gradients [n, 4] to grad_pred and grad_target if they are not null.
  void (*run[4])(const BoxLossCall& call, const void* pred, const void* target, int64_t n, void* loss, void* grad_pred,
                 void* grad_target, double* sums);
  // out = saved / divisor * grad: n boxes of 4 values; grad [n], or one value for all
  void (*scale[4])(const void* saved, double divisor, const void* grad, bool one_grad, void* out, int64_t n);

  // n values. Writes their losses to `loss`, or if it is null their sum
  double (*focal_l1[4])(double beta, const void* pred, const void* target, int64_t n, void* loss);
  // grad [n] or one value for all, divided by `divisor`
  void (*focal_l1_backward[4])(double beta, const void* grad, bool one_grad, double divisor, const void* pred,
                               const void* target, void* grad_pred, int64_t n);
};

}  // namespace fastops
