// Adaptive activations on the CPU: layouts, threads and the order of the sums; loops in simd/adaptive.cpp, formulas in
// math/adaptive.h.
#include "../simd/adaptive.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <tuple>
#include <vector>

#include "../common/adaptive.h"
#include "../common/macros.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(AdaptiveKernels, adaptive_kernels)

namespace fastops {
namespace {

// Values per task, as in mish.cpp.
constexpr int64_t kTaskValues = 16384;

// Values per channel and task, if there are enough images. With fewer values the call of a kernel costs too much.
constexpr int64_t kChannelValues = 2048;

// The storage [outer, channels, inner], divided into tasks that depend on its shape only. Each task has its own sums,
// which are added in the order of the tasks. So results do not depend on the number of threads. A task is a block of
// channels in some images. If an image has more than kTaskValues per channel, a task is a piece of one channel.
struct Plan {
  AdaptiveShape shape;
  int64_t blocks, block;  // blocks of channels, and channels of each (the last may have fewer)
  int64_t pieces;         // per channel and image
  int64_t parts, part;    // parts of the images (or pieces), and images of each: a task is a block and a part

  explicit Plan(const AdaptiveShape& s) : shape(s) {
    const int64_t most =
        s.inner == 1 ? kAdaptiveChannels : std::max<int64_t>(1, kTaskValues / std::max(s.inner, kChannelValues));
    blocks = ceil_div(s.channels, most);
    block = ceil_div(s.channels, blocks);
    pieces = ceil_div(s.inner, kTaskValues);
    part = pieces > 1 ? 1 : std::max<int64_t>(1, kTaskValues / (block * s.inner));
    parts = ceil_div(s.outer * pieces, part);
  }

  // run(part, channel, offset, matrices) for the channels of every task, from `channel` on.
  template <class Run>
  void for_each(const Run& run) const {
    const int64_t task_values = std::min(part * block * shape.inner, shape.numel());
    const int64_t grain = std::max<int64_t>(1, kTaskValues / task_values);
    torch::stable::parallel_for(0, parts * blocks, grain, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) run_task(task / blocks, task % blocks, run);
    });
  }

 private:
  template <class Run>
  void run_task(int64_t index, int64_t block_index, const Run& run) const {
    const int64_t begin = block_index * block, end = std::min(begin + block, shape.channels);
    const int64_t first = index * part, last = std::min(first + part, shape.outer * pieces);
    if (shape.inner == 1) {
      const AdaptiveMatrices pixels{1, 0, last - first, shape.channels, end - begin};
      return run(index, begin, first * shape.channels + begin, pixels);
    }
    const int64_t image = first / pieces, at = first % pieces * kTaskValues;
    const AdaptiveMatrices rows{last - first, shape.channels * shape.inner, std::min(kTaskValues, shape.inner - at), 1,
                                1};
    for (int64_t c = begin; c < end; ++c) run(index, c, (image * shape.channels + c) * shape.inner + at, rows);
  }
};

// a, b, c, d as opmath arrays.
class Parameters {
 public:
  Parameters(DType dtype, const AdaptiveKernels& kernels, std::array<const Tensor*, 4> tensors)
      : item_(dtype == kDouble ? 8 : 4) {
    const int64_t n = tensors[0]->numel();
    storage_.resize(size_t(4 * n * item_));
    for (int k = 0; k < 4; ++k) {
      const Tensor source = torch::stable::contiguous(*tensors[k]);
      arrays_[k] = storage_.data() + k * n * item_;
      kernels.widen[dtype](source.const_data_ptr(), arrays_[k], n);
    }
  }

  AdaptiveArrays from(int64_t c) const {
    AdaptiveArrays result;
    for (int k = 0; k < 4; ++k) result.values[k] = arrays_[k] + c * item_;
    return result;
  }
  double b(int64_t c) const {
    const char* value = arrays_[1] + c * item_;
    return item_ == 8 ? *reinterpret_cast<const double*>(value) : *reinterpret_cast<const float*>(value);
  }

 private:
  int64_t item_;
  std::vector<char> storage_;
  std::array<char*, 4> arrays_;
};

template <AdaptiveKind kKind>
Tensor adaptive_cpu(const Tensor& x_, const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d) {
  check_adaptive(kAdaptiveNames[kKind], x_, a, b, c, d);
  const DType dtype = dtype_index(kAdaptiveNames[kKind], "x", x_);
  const Tensor x = dense(x_);
  Tensor y = torch::stable::empty_like(x);
  if (y.numel() == 0) return y;
  const AdaptiveKernels& kernels = FASTOPS_TABLE(adaptive_kernels);
  const Parameters parameters(dtype, kernels, {&a, &b, &c, &d});
  const int64_t item = static_cast<int64_t>(x.element_size());
  const char* source = static_cast<const char*>(x.const_data_ptr());
  char* target = static_cast<char*>(y.mutable_data_ptr());
  const auto kernel = kernels.forward[kKind][dtype];
  Plan(adaptive_shape(x, a)).for_each([&](int64_t, int64_t first, int64_t offset, const AdaptiveMatrices& matrices) {
    kernel(source + offset * item, target + offset * item, matrices, parameters.from(first));
  });
  return y;
}

template <AdaptiveKind kKind>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> adaptive_backward_cpu(const Tensor& grad_, const Tensor& x_,
                                                                         const Tensor& a, const Tensor& b,
                                                                         const Tensor& c, const Tensor& d) {
  const std::string op = std::string(kAdaptiveNames[kKind]) + "_backward";
  check_adaptive(op, x_, a, b, c, d);
  check_adaptive_grad(op, grad_, x_);
  const DType dtype = dtype_index(op.c_str(), "x", x_);
  const Tensor x = dense(x_), grad = laid_out_like(grad_, x);
  Tensor grad_x = torch::stable::empty_like(x);
  const AdaptiveKernels& kernels = FASTOPS_TABLE(adaptive_kernels);
  const Parameters parameters(dtype, kernels, {&a, &b, &c, &d});
  const int64_t channels = a.numel();
  std::vector<double> sums(size_t(4 * channels));  // [parts, C, 4], then their sums [C, 4]
  if (x.numel() > 0) {
    const Plan plan(adaptive_shape(x, a));
    sums.resize(size_t(plan.parts * 4 * channels));
    const int64_t item = static_cast<int64_t>(x.element_size());
    const char* g = static_cast<const char*>(grad.const_data_ptr());
    const char* v = static_cast<const char*>(x.const_data_ptr());
    char* target = static_cast<char*>(grad_x.mutable_data_ptr());
    const auto kernel = kernels.backward[kKind][dtype];
    plan.for_each([&](int64_t part, int64_t channel, int64_t offset, const AdaptiveMatrices& matrices) {
      kernel(g + offset * item, v + offset * item, target + offset * item, matrices, parameters.from(channel),
             sums.data() + (part * channels + channel) * 4);
    });
    const size_t count = size_t(4 * channels);
    for (size_t i = count; i < sums.size(); ++i) sums[i % count] += sums[i];
    if constexpr (AdaptiveActivation<kKind>::kSumsLackB) {
      for (int64_t i = 0; i < 2 * channels; ++i) sums[size_t(2 * i)] *= parameters.b(i / 2);
    }
  }
  const auto result = [&](int k, const Tensor& like) {
    Tensor t = torch::stable::empty_like(like);
    kernels.narrow[dtype](sums.data() + k, 4, t.mutable_data_ptr(), channels);
    return t;
  };
  return {grad_x, result(0, a), result(1, b), result(2, c), result(3, d)};
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  using namespace fastops;
  m.impl("adaptive_sigmoid", TORCH_BOX(&adaptive_cpu<kAdaptiveSigmoid>));
  m.impl("adaptive_sigmoid_backward", TORCH_BOX(&adaptive_backward_cpu<kAdaptiveSigmoid>));
  m.impl("adaptive_tanh", TORCH_BOX(&adaptive_cpu<kAdaptiveTanh>));
  m.impl("adaptive_tanh_backward", TORCH_BOX(&adaptive_backward_cpu<kAdaptiveTanh>));
  m.impl("adaptive_relu", TORCH_BOX(&adaptive_cpu<kAdaptiveRelu>));
  m.impl("adaptive_relu_backward", TORCH_BOX(&adaptive_backward_cpu<kAdaptiveRelu>));
}
