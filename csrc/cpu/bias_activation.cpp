// bias_activation on the CPU: threads. The loops are in simd/bias_activation.cpp.
#include "../simd/bias_activation.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/bias_activation.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(BiasActivationKernels, bias_activation_kernels)

namespace fastops {
namespace {

constexpr int64_t kGrain = 16384;  // minimum of values per thread, as in mish.cpp

Tensor bias_activation_cpu(const Tensor& x, const Tensor& bias, std::string activation, const Pair& kernel_size,
                           const Pair& stride, bool float_output) {
  const char* op = "bias_activation";
  const PoolShape s = check_bias_activation(op, x, bias, kernel_size, stride);
  const int function = int(parse_activation(op, activation));
  const DType dtype = dtype_index(op, "x", x);
  BiasActivationTensors t(x, bias, s, float_output);
  if (t.y.numel() > 0) {
    if (t.bias.scalar_type() != t.opmath()) t.bias = torch::stable::to(t.bias, t.opmath());
    const BiasActivationArgs args{s, t.x.const_data_ptr(), t.bias.const_data_ptr(), t.y.mutable_data_ptr()};
    const auto run = FASTOPS_TABLE(bias_activation_kernels).run[function][float_output][dtype];
    const int64_t row = s.out_width * s.channels * s.stride_h * s.stride_w;  // values read
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(row, 1));
    torch::stable::parallel_for(0, s.batch * s.out_height, grain,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  }
  return t.result();
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) { m.impl("bias_activation", TORCH_BOX(&fastops::bias_activation_cpu)); }
