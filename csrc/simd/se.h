// Table of the CPU squeeze-and-excitation kernels, indexed by DType. Every pointer named *sum*, s, z, ... holds
// opmath values (double for double, float otherwise).
#pragma once

#include <stdint.h>

namespace fastops {

// One image x[n]: [C, P] (contiguous) or [P, C] (channels_last).
struct SeImage {
  int64_t channels, pixels;
  bool channels_last;
};

constexpr int64_t kSeChannels = 64;  // channels per task

// The two dense layers; weights in opmath, b1 and b2 may be null. All row-major.
struct SeWeights {
  const void* w1;  // [R, C]
  const void* b1;  // [R]
  const void* w2;  // [C, R]
  const void* b2;  // [C]
  int64_t hidden, channels;
};

struct SeKernels {
  // Channels [begin, end) of one image, end - begin <= kSeChannels; the arrays over channels start at channel 0.
  void (*sum[4])(const void* x, SeImage image, int64_t begin, int64_t end, void* sum_x);
  void (*sum_dot[4])(const void* grad, const void* x, SeImage image, int64_t begin, int64_t end, void* sum_x,
                     void* sum_grad_x);
  // y = x s + t; t may be null
  void (*scale[4])(const void* x, const void* s, const void* t, void* y, SeImage image, int64_t begin, int64_t end);
  // grad_x = grad s and sum_grad_x = sum grad x, in one pass
  void (*scale_dot[4])(const void* grad, const void* x, const void* s, void* grad_x, void* sum_grad_x, SeImage image,
                       int64_t begin, int64_t end);
  // s[c] = sigma(logit[c]); n values
  void (*sigmoid[4])(const void* logits, void* s, int64_t n);
  // grad_logits = sum_grad_x sigma(logit) sigma(-logit); n values
  void (*logit_backward[4])(const void* sum_grad_x, const void* logits, void* grad_logits, int64_t n);
  // n values converted to opmath, and back
  void (*widen[4])(const void* source, void* target, int64_t n);
  void (*narrow[4])(const void* source, void* target, int64_t n);

  // Opmath only (index: is double). One image: mean z [C] -> hidden [R] (after ReLU) and logits [C].
  void (*excite[2])(const SeWeights& w, const void* z, void* hidden, void* logits);
  // One image: grad_logits [C] -> grad_hidden [R] (before the ReLU) and grad_z [C].
  void (*excite_backward[2])(const SeWeights& w, const void* hidden, const void* grad_logits, void* grad_hidden,
                             void* grad_z);
  // A layer's gradients, rows [begin, end): grad_w[i, :] += sum_n grad[n, i] x[n, :], grad_b[i] += sum_n grad[n, i];
  // grad [N, rows], x [N, columns].
  void (*layer_backward[2])(const void* grad, int64_t rows, const void* x, int64_t columns, int64_t batch,
                            int64_t begin, int64_t end, void* grad_w, void* grad_b);
};

}  // namespace fastops
