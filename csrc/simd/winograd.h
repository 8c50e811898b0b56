// Table of the CPU Winograd convolution for inference, without padding; bias and activation are fused. Values are
// float32, float16 or bfloat16, arithmetic is float32.
//
// Input and output are dense NHWC, weights OIHW. The functions start no threads. The caller asks for a number of tasks
// and runs them in any order; each thread has its own workspace. The result does not depend on the number of tasks.
// Packed weights belong to one shape and one instruction set, so they must not be stored. An output tile mixes its
// inputs before they cancel, so one inf or NaN in its (M + R - 1)^2 pixels makes the whole tile NaN.
//
// Stride 2 becomes stride 1: the four pixels of each 2 x 2 block become four times the channels, and K taps become
// R = (K + 1) / 2 per phase (the last odd one is zero).
#pragma once

#include <stdint.h>

#include "../math/activation.h"

namespace fastops {

struct WinogradShape {
  int64_t batch, height, width;  // of the input
  int64_t in_channels, out_channels, groups;
  int64_t kernel_size, stride;  // 3 or 5 with stride 1; 11 with stride 2, without groups
  int64_t tile_size;  // M: 4 or 6, with stride 2 3 or 5; a larger M multiplies less, rounds more and has more weights
};

struct WinogradArgs {
  WinogradShape shape;
  Activation activation;
  int64_t tasks;        // from num_tasks
  const void* input;    // [batch, height, width, in_channels]
  const float* packed;  // from pack_weight
  const float* bias;    // [out_channels], or null
  void* output;         // [batch, (height - K) / stride + 1, (width - K) / stride + 1, out_channels]
};

// Sizes are in floats. The index of `run` is DType. Buffers may have any alignment; 64 bytes is the fastest.
struct WinogradKernels {
  int64_t (*packed_size)(const WinogradShape& shape);
  void (*pack_weight)(const WinogradShape& shape, const float* weight, float* packed);  // weight [O, I / groups, K, K]
  int64_t (*num_tasks)(const WinogradShape& shape, int64_t threads);  // a multiple of threads if tiles suffice
  int64_t (*workspace_size)(const WinogradShape& shape, int64_t tasks);
  void (*run[4])(int64_t task_begin, int64_t task_end, const WinogradArgs& args, float* workspace);  // none for double
};

}  // namespace fastops
