// mish_max_pool2d on the CPU: layouts and threads. The loops are in simd/mish_max_pool2d.cpp.
// A task is a band of rows of a plane (contiguous) or of an image (channels_last): rows of y forward, rows of grad_x
// backward. Backward, windows across two bands are processed twice, so no two tasks add to the same value.
#include "../simd/mish_max_pool2d.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/mish_max_pool2d.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(MishMaxPool2dKernels, mish_max_pool2d_kernels)

namespace fastops {
namespace {

constexpr int64_t kGrain = 16384;       // minimum of values per thread, as in mish.cpp
constexpr int64_t kBandValues = 32768;  // approximate number of values per band

const char* bytes_of(const Tensor& t) { return static_cast<const char*>(t.const_data_ptr()); }
char* mutable_bytes_of(const Tensor& t) { return static_cast<char*>(t.mutable_data_ptr()); }

// Calls body(item, begin, end, scratch) for bands of rows [begin, end) of every item; a row has `width` values. A band
// has at least `least` rows, and `scratch(rows)` values of memory.
template <class Scratch, class Body>
void for_each_band(int64_t items, int64_t height, int64_t width, int64_t least, const Scratch& scratch,
                   const Body& body) {
  const int64_t rows = std::min(std::max(kBandValues / std::max<int64_t>(width, 1), least), height);
  const int64_t bands = (height + rows - 1) / rows;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(rows * width, 1));
  torch::stable::parallel_for(0, items * bands, grain, [&](int64_t first, int64_t last) {
    std::vector<double> memory(static_cast<size_t>(scratch(rows)));
    for (int64_t task = first; task < last; ++task) {
      const int64_t begin = task % bands * rows;
      body(task / bands, begin, std::min(begin + rows, height), memory.data());
    }
  });
}

// kernel: computes rows of y, on images or on planes
template <class Kernel>
Tensor pool(const Tensor& x, const PoolShape& s, bool images, const Kernel& kernel) {
  Tensor y = empty_pooled(x, s);
  if (y.numel() == 0) return y;
  const int64_t items = images ? s.batch : s.batch * s.channels, depth = images ? s.channels : 1;
  const int64_t source = s.height * s.width * depth * int64_t(x.element_size());
  const int64_t target = s.out_height * s.out_width * depth * int64_t(x.element_size());
  for_each_band(
      items, s.out_height, s.stride_h * s.width * depth, 1,
      [&](int64_t) { return images ? 0 : pool_plane_scratch(s, 0); },
      [&](int64_t item, int64_t begin, int64_t end, double* scratch) {
        kernel(bytes_of(x) + item * source, mutable_bytes_of(y) + item * target, s, begin, end, scratch);
      });
  return y;
}

Tensor mish_max_pool2d_cpu(const Tensor& x_, const Pair& kernel_size, const Pair& stride, const Pair& padding) {
  const char* op = "mish_max_pool2d";
  const PoolShape s = check_mish_max_pool2d(op, x_, kernel_size, stride, padding);
  const Tensor x = native_layout(x_);
  const bool images = is_channels_last(x);
  const auto& kernels = FASTOPS_TABLE(mish_max_pool2d_kernels);
  const DType dtype = dtype_index(op, "x", x);
  return pool(x, s, images, images ? kernels.forward_image[dtype] : kernels.forward_plane[dtype]);
}

// For inference, on channels_last.
Tensor relu_max_pool2d_cpu(const Tensor& x, const Pair& kernel_size, const Pair& stride, const Pair& padding) {
  const char* op = "relu_max_pool2d";
  const PoolShape s = check_mish_max_pool2d(op, x, kernel_size, stride, padding);
  FASTOPS_CHECK(is_channels_last(x), op, ": x must be channels_last");
  return pool(x, s, true, FASTOPS_TABLE(mish_max_pool2d_kernels).relu_image[dtype_index(op, "x", x)]);
}

Tensor mish_max_pool2d_backward_cpu(const Tensor& grad_, const Tensor& x_, const Pair& kernel_size, const Pair& stride,
                                    const Pair& padding) {
  const char* op = "mish_max_pool2d_backward";
  const PoolShape s = check_mish_max_pool2d(op, x_, kernel_size, stride, padding);
  check_mish_max_pool2d_grad(op, grad_, x_, s);
  const Tensor x = native_layout(x_), grad = pooled_layout(grad_, x);
  Tensor grad_x = torch::stable::empty_like(x);
  if (x.numel() == 0) return grad_x;
  const bool images = is_channels_last(x);
  const auto& kernels = FASTOPS_TABLE(mish_max_pool2d_kernels);
  const DType dtype = dtype_index(op, "x", x);
  const auto kernel = images ? kernels.backward_image[dtype] : kernels.backward_plane[dtype];
  const int64_t items = images ? s.batch : s.batch * s.channels, depth = images ? s.channels : 1;
  const int64_t source = s.height * s.width * depth * int64_t(x.element_size());
  const int64_t upstream = s.out_height * s.out_width * depth * int64_t(x.element_size());
  for_each_band(
      items, s.height, s.width * depth, 8 * s.kernel_h,
      [&](int64_t rows) { return images ? pool_image_scratch(s, rows) : pool_plane_scratch(s, rows); },
      [&](int64_t item, int64_t begin, int64_t end, double* scratch) {
        kernel(bytes_of(grad) + item * upstream, bytes_of(x) + item * source, mutable_bytes_of(grad_x) + item * source,
               s, begin, end, scratch);
      });
  return grad_x;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("mish_max_pool2d", TORCH_BOX(&fastops::mish_max_pool2d_cpu));
  m.impl("relu_max_pool2d", TORCH_BOX(&fastops::relu_max_pool2d_cpu));
  m.impl("mish_max_pool2d_backward", TORCH_BOX(&fastops::mish_max_pool2d_backward_cpu));
}
