// Squeeze-and-excitation (Hu et al. 2018; Zhang and Wang, "Object tracking in siamese network with attention
// mechanism and Mish function", eq. 7-9), the scalar parts.
//
//   z_c = mean_hw x_c                      squeeze
//   s   = sigma(W2 relu(W1 z + b1) + b2)   excitation; logits = the argument of sigma
//   y_c = s_c x_c                          scale
//
// Backward of the scale, with g = dL/dy:   dL/dx = g s,   dL/dlogit = sigma(l) sigma(-l) sum_hw g x.
// Backward of the whole block: the logit's gradient goes through the two layers to dL/dz, and the mean distributes it
// among the pixels:   dL/dx = g s + (dL/dz) / (H W).
// One pass over (g, x) gives both sums over the pixels, sum x (for z) and sum g x. One more pass over g gives dL/dx.
#pragma once

#include "exp.h"

namespace fastops {

template <class T>
FASTOPS_HD T relu_(T x) {
  return x < T(0) ? T(0) : x;  // NaN stays NaN, as in torch.relu
}

// dL/dlogit from the sum of g x over the pixels.
template <class T>
FASTOPS_HD T se_logit_backward(T sum_grad_x, T logit) {
  // sigma(-l) instead of 1 - sigma(l), which cancels: it is 0 in float32 from l = 17.
  return sum_grad_x * sigmoid_(logit) * sigmoid_(-logit);
}

}  // namespace fastops
