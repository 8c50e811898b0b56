// Winograd convolution on the CPU: checks, tasks and threads around simd/winograd.cpp. Inference only.
#include "../simd/winograd.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include "../common/activation.h"
#include "../common/checks.h"
#include "../common/dispatch.h"
#include "../common/layout.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(WinogradKernels, winograd_kernels)

namespace fastops {
namespace {

using torch::headeronly::MemoryFormat;

void check_float32(const char* op, const char* argument, const Tensor& t, int64_t dims) {
  FASTOPS_CHECK(t.scalar_type() == ScalarType::Float, op, ": ", argument, " must have dtype float32, got ",
                dtype_name(t.scalar_type()));
  FASTOPS_CHECK(t.dim() == dims, op, ": ", argument, " must be ", dims, "-D, got ", shape_string(t));
}

bool is_supported(int64_t kernel_size, int64_t stride, int64_t groups, int64_t tile_size) {
  if (stride == 2) return kernel_size == 11 && groups == 1 && (tile_size == 3 || tile_size == 5);
  return stride == 1 && (kernel_size == 3 || kernel_size == 5) && (tile_size == 4 || tile_size == 6);
}

// weight [O, I / groups, K, K]
Tensor winograd_pack_cpu(const Tensor& weight_, int64_t stride, int64_t groups, int64_t tile_size) {
  const char* op = "winograd_pack";
  check_float32(op, "weight", weight_, 4);
  FASTOPS_CHECK(groups >= 1 && weight_.size(0) % groups == 0, op, ": groups must divide the output channels (",
                weight_.size(0), "), got ", groups);
  const int64_t size = weight_.size(2);
  FASTOPS_CHECK(size == weight_.size(3) && (stride == 2 ? size == 11 && groups == 1 : size == 3 || size == 5), op,
                ": weight must have 3x3 or 5x5 kernels with stride 1, 11x11 with stride 2 and one group, got ",
                shape_string(weight_), " with stride ", stride, " and ", groups, groups == 1 ? " group" : " groups");
  FASTOPS_CHECK(is_supported(size, stride, groups, tile_size), op,
                ": tile_size must be 4 or 6, with stride 2 3 or 5, got ", tile_size);
  const WinogradKernels& kernels = FASTOPS_TABLE(winograd_kernels);
  const Tensor weight = torch::stable::contiguous(weight_);
  // The packed layout does not depend on the input's batch, height and width.
  const WinogradShape shape{1, size, size, weight.size(1) * groups, weight.size(0), groups, size, stride, tile_size};
  const int64_t packed_size = kernels.packed_size(shape);
  Tensor packed = torch::stable::new_empty(weight, torch::headeronly::IntHeaderOnlyArrayRef({packed_size}));
  kernels.pack_weight(shape, static_cast<const float*>(weight.const_data_ptr()),
                      static_cast<float*>(packed.mutable_data_ptr()));
  return packed;
}

Tensor winograd_conv2d_cpu(const Tensor& x_, const Tensor& packed, const std::optional<Tensor>& bias,
                           int64_t out_channels, int64_t kernel_size, int64_t stride, int64_t groups, int64_t tile_size,
                           std::string activation) {
  const char* op = "winograd_conv2d";
  const DType dtype = dtype_index(op, "x", x_);
  FASTOPS_CHECK(dtype != kDouble, op, ": x must have dtype float32, float16 or bfloat16, got ",
                dtype_name(x_.scalar_type()));
  FASTOPS_CHECK(x_.dim() == 4, op, ": x must be 4-D, got ", shape_string(x_));
  check_float32(op, "packed", packed, 1);
  FASTOPS_CHECK(groups >= 1 && x_.size(1) % groups == 0 && out_channels % groups == 0, op,
                ": groups must divide the channels (", x_.size(1), " and ", out_channels, "), got ", groups);
  FASTOPS_CHECK(x_.size(2) >= kernel_size && x_.size(3) >= kernel_size, op, ": x must be at least ", kernel_size, " x ",
                kernel_size, ", got ", shape_string(x_));
  const Tensor x = torch::stable::contiguous(x_, MemoryFormat::ChannelsLast);
  const WinogradKernels& kernels = FASTOPS_TABLE(winograd_kernels);
  const WinogradShape shape{x.size(0), x.size(2),   x.size(3), x.size(1), out_channels,
                            groups,    kernel_size, stride,    tile_size};
  FASTOPS_CHECK(is_supported(kernel_size, stride, groups, tile_size) && packed.numel() == kernels.packed_size(shape),
                op, ": packed must come from winograd_pack for these sizes, got ", packed.numel(), " values");
  std::optional<Tensor> offsets;
  if (bias.has_value()) {
    check_float32(op, "bias", *bias, 1);
    FASTOPS_CHECK(bias->numel() == out_channels, op, ": bias must have shape [", out_channels, "], got ",
                  shape_string(*bias));
    offsets = torch::stable::contiguous(*bias);
  }
  Tensor y = empty_channels_last(x, shape.batch, out_channels, (shape.height - kernel_size) / stride + 1,
                                 (shape.width - kernel_size) / stride + 1);
  const Activation function = parse_activation(op, activation);
  if (y.numel() == 0) return y;

  const int64_t tasks = kernels.num_tasks(shape, torch::stable::get_num_threads());
  const WinogradArgs args{shape,
                          function,
                          tasks,
                          x.const_data_ptr(),
                          static_cast<const float*>(packed.const_data_ptr()),
                          offsets ? static_cast<const float*>(offsets->const_data_ptr()) : nullptr,
                          y.mutable_data_ptr()};
  const int64_t bytes = kernels.workspace_size(shape, tasks) * static_cast<int64_t>(sizeof(float));
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(64, (bytes + 63) / 64 * 64),
                                                                &std::free);
    if (!workspace) throw std::bad_alloc();
    kernels.run[dtype](begin, end, args, static_cast<float*>(workspace.get()));
  });
  return y;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("winograd_pack", TORCH_BOX(&fastops::winograd_pack_cpu));
  m.impl("winograd_conv2d", TORCH_BOX(&fastops::winograd_conv2d_cpu));
}
