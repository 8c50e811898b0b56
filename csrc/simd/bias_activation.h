// Table of the CPU kernels of bias_activation, on images [H, W, C].
#pragma once

#include "../math/activation.h"

namespace fastops {

struct BiasActivationArgs {
  PoolShape shape;  // windows of 1 x 1 are values
  const void* x;
  const void* bias;  // [C], float, or double beside double
  void* y;
};

struct BiasActivationKernels {
  // Rows [begin, end) of all images of y; by Activation, by whether y is in opmath, by DType of x.
  void (*run[3][2][4])(const BiasActivationArgs& args, int64_t begin, int64_t end);
};

}  // namespace fastops
