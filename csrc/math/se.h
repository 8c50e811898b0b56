// Squeeze-and-excitation (Hu et al. 2018; Zhang and Wang, "Object tracking in siamese network with attention
// mechanism and Mish function", eq. 7-9), the scalar parts.
//
//   z_c = mean_hw x_c                      squeeze
//   s   = sigma(W2 relu(W1 z + b1) + b2)   excitation; logits = the argument of sigma
//   y_c = s_c x_c                          scale
//
// Backward of the scale, with g = dL/dy:   dL/dx = g s,   dL/dlogit = sigma(l) sigma(-l) sum_hw g x.
// Backward of the whole block: the logit's gradient goes on through the two layers to dL/dz, and the mean hands each
// pixel its share:   dL/dx = g s + (dL/dz) / (H W).
// Both sums over the pixels, sum x (for z) and sum g x, come from one pass over (g, x); dL/dx from one more over g.
#pragma once

#include "exp.h"

namespace fastops {

template <class T>
FASTOPS_HD T relu_(T x) {
  return x < T(0) ? T(0) : x;  // NaN passes, as torch.relu does
}

// dL/dlogit from the sum over the pixels of g x.
template <class T>
FASTOPS_HD T se_logit_backward(T sum_grad_x, T logit) {
  // sigma(-l), not 1 - sigma(l), which cancels: it is 0 in float32 from l = 17.
  return sum_grad_x * sigmoid_(logit) * sigmoid_(-logit);
}

}  // namespace fastops
