// Table of the CPU convolution in 8-bit integers, for inference: uint8 activations, int8 weights and int32 sums. The
// results are the next layer's activations, or float32. A table look-up (any activation) and max pooling are fused.
//
// Input and output are dense NHWC. The functions start no thread: the caller divides [0, num_units) into runs, each
// with its own workspace. Every sum is exact and every float operation is rounded separately. So the result has the
// same bits on every instruction set and for any number of threads.
#pragma once

#include <stdint.h>

namespace fastops {

struct QuantizedConvShape {
  int64_t batch, height, width;  // of the input
  int64_t in_channels, out_channels, groups;
  int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
  int64_t pool_size, pool_stride;  // of the max pooling that follows, without padding; 1, 1 means none

  int64_t conv_height() const { return (height + 2 * padding_h - kernel_h) / stride_h + 1; }
  int64_t conv_width() const { return (width + 2 * padding_w - kernel_w) / stride_w + 1; }
  int64_t out_height() const { return (conv_height() - pool_size) / pool_stride + 1; }
  int64_t out_width() const { return (conv_width() - pool_size) / pool_stride + 1; }
  int64_t num_units() const { return batch * groups * out_height(); }  // a unit: one row of one group of one image
};

// Packed weights, padded with zeros: [group][panel of 32 output channels][kernel row][chunk of 64 bytes][16][2][16][4].
// The last dimension is four bytes along the kernel row (tap by tap, with all channels of the group) of one output
// channel. So a kernel row is one run of bytes in the input and in the weights.
constexpr int64_t kQuantizedPanel = 32, kQuantizedChunk = 64;

struct QuantizedConvArgs {
  QuantizedConvShape shape;
  const uint8_t* input;       // [batch, height, width, in_channels]
  const int8_t* packed;       // as above
  const int32_t* bias;        // [out_channels]
  const float* scale;         // [out_channels]
  const uint8_t* table;       // [256], or null
  uint8_t input_zero_point;   // value of the padding
  uint8_t output_zero_point;  // added after the scale; not to float32
  bool float_output;          // float32: (sum + bias) * scale; no pool then
  void* output;               // [batch, out_height, out_width, out_channels]
};

struct QuantizedConvKernels {
  int64_t (*workspace_size)(const QuantizedConvShape& shape);  // in bytes; alignment 64
  void (*run)(int64_t unit_begin, int64_t unit_end, const QuantizedConvArgs& args, uint8_t* workspace);
  // Multiplies values in registers, without memory accesses, and returns the number of products. For benchmarks: it has
  // the highest rate that any kernel can reach.
  int64_t (*multiply_registers)(int64_t rounds);
};

}  // namespace fastops
