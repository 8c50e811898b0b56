// Mish on the CPU: layouts and threads; the loops are in simd/mish.cpp, the formula in math/mish.h.
#include "../simd/mish.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "../common/layout.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(MishKernels, mish_kernels)

namespace fastops {
namespace {

// Minimum of elements per thread, near the size from which a second thread helps. On two Zen 5 cores 20,000 values take
// 7.8 us with it and 6.5 us without, 32,768 values 10.4 and 11.4 us.
constexpr int64_t kGrain = 16384;

void run_forward(DType dtype, const Tensor& x, const Tensor& y) {
  const auto kernel = FASTOPS_TABLE(mish_kernels).forward[dtype];
  const int64_t bytes = static_cast<int64_t>(x.element_size());
  const char* source = static_cast<const char*>(x.const_data_ptr());
  char* target = static_cast<char*>(y.mutable_data_ptr());
  const int64_t n = x.numel();
  if (n <= kGrain) return kernel(source, target, n);
  torch::stable::parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) {
    kernel(source + begin * bytes, target + begin * bytes, end - begin);
  });
}

Tensor mish_cpu(const Tensor& x) {
  const DType dtype = dtype_index("mish", "x", x);
  const Tensor source = dense(x);
  Tensor y = torch::stable::empty_like(source);
  run_forward(dtype, source, y);
  return y;
}

void mish_cpu_(Tensor x) {
  const DType dtype = dtype_index("mish_", "x", x);
  if (is_dense(x)) return run_forward(dtype, x, x);
  const Tensor source = dense(x);
  run_forward(dtype, source, source);
  torch::stable::copy_(x, source);
}

Tensor mish_backward_cpu(const Tensor& grad, const Tensor& x) {
  const DType dtype = dtype_index("mish_backward", "x", x);
  check_same_dtype("mish_backward", "grad", grad, "x", x);
  check_same_device("mish_backward", "grad", grad, "x", x);
  check_same_shape("mish_backward", "grad", grad, "x", x);
  const Tensor input = dense(x);
  const Tensor upstream = laid_out_like(grad, input);
  Tensor grad_x = torch::stable::empty_like(input);
  const auto kernel = FASTOPS_TABLE(mish_kernels).backward[dtype];
  const int64_t bytes = static_cast<int64_t>(x.element_size());
  const char* g = static_cast<const char*>(upstream.const_data_ptr());
  const char* v = static_cast<const char*>(input.const_data_ptr());
  char* out = static_cast<char*>(grad_x.mutable_data_ptr());
  torch::stable::parallel_for(0, input.numel(), kGrain, [&](int64_t begin, int64_t end) {
    kernel(g + begin * bytes, v + begin * bytes, out + begin * bytes, end - begin);
  });
  return grad_x;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("mish", TORCH_BOX(&fastops::mish_cpu));
  m.impl("mish_", TORCH_BOX(&fastops::mish_cpu_));
  m.impl("mish_backward", TORCH_BOX(&fastops::mish_backward_cpu));
}
