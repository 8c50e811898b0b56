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
  // n boxes: the losses into `loss` unless it is null, or else their sum and that of the weights into
  // sums[2], and the gradients [n, 4] into each of grad_pred, grad_target that is not null.
  void (*run[4])(const BoxLossCall& call, const void* pred, const void* target, int64_t n, void* loss, void* grad_pred,
                 void* grad_target, double* sums);
  // out = saved / divisor * grad: n boxes of 4 values; grad [n], or one value for all
  void (*scale[4])(const void* saved, double divisor, const void* grad, bool one_grad, void* out, int64_t n);

  // n values: their losses into `loss` unless it is null, or else their sum
  double (*focal_l1[4])(double beta, const void* pred, const void* target, int64_t n, void* loss);
  // grad [n] or one value for all, divided by `divisor`
  void (*focal_l1_backward[4])(double beta, const void* grad, bool one_grad, double divisor, const void* pred,
                               const void* target, void* grad_pred, int64_t n);
};

}  // namespace fastops
