// Squeeze-and-excitation on the CPU: layouts, threads and the order of the passes. The loops are in simd/se.cpp.
// A task has kSeChannels channels of one image for any number of threads, so results do not depend on that number.
#include "../simd/se.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>
#include <utility>
#include <vector>

#include "../common/layout.h"
#include "../common/se.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(SeKernels, se_kernels)

namespace fastops {
namespace {

using torch::stable::contiguous;
using torch::stable::empty_like;

// Minimum of values per thread, as in mish.cpp.
constexpr int64_t kGrain = 16384;

// One call's sizes, dtype and kernels.
struct Call {
  SeShape shape;
  SeImage image;
  DType dtype;
  int64_t item, op_item;  // bytes of a value and of an opmath value
  const SeKernels& kernels;

  Call(const char* op, const SeShape& s, const Tensor& x)
      : shape(s),
        image{s.channels, s.pixels, is_channels_last(x)},
        dtype(dtype_index(op, "x", x)),
        item(static_cast<int64_t>(x.element_size())),
        op_item(dtype == kDouble ? 8 : 4),
        kernels(FASTOPS_TABLE(se_kernels)) {}

  int64_t image_bytes() const { return shape.channels * shape.pixels * item; }
  int64_t row_bytes() const { return shape.channels * op_item; }
  std::vector<char> buffer(int64_t values) const { return std::vector<char>(size_t(values * op_item)); }

  // body(n, begin, end) for every block of channels of one image
  template <class Body>
  void for_each_block(const Body& body, int64_t n) const {
    for (int64_t begin = 0; begin < shape.channels; begin += kSeChannels) {
      body(n, begin, std::min(begin + kSeChannels, shape.channels));
    }
  }

  // body(n, begin, end) for every image and block of channels
  template <class Body>
  void for_each_task(const Body& body) const {
    const int64_t blocks = (shape.channels + kSeChannels - 1) / kSeChannels;
    const int64_t work = std::min(shape.channels, kSeChannels) * std::max<int64_t>(shape.pixels, 1);
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(work, 1));
    torch::stable::parallel_for(0, shape.batch * blocks, grain, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        const int64_t begin = task % blocks * kSeChannels;
        body(task / blocks, begin, std::min(begin + kSeChannels, shape.channels));
      }
    });
  }
};

const char* bytes_of(const Tensor& t) { return static_cast<const char*>(t.const_data_ptr()); }
char* mutable_bytes_of(const Tensor& t) { return static_cast<char*>(t.mutable_data_ptr()); }

// The contiguous weights in opmath. Owns the copies, which are declared first because `weights` points into them.
class OpmathWeights {
 public:
  OpmathWeights(const Call& call, const Tensor& w1, const std::optional<Tensor>& b1, const Tensor& w2,
                const std::optional<Tensor>& b2)
      : weights_{hold(call, 0, w1), hold(call, 1, b1), hold(call, 2, w2), hold(call, 3, b2), w1.size(0), w1.size(1)} {}

  const SeWeights& get() const { return weights_; }

 private:
  const void* hold(const Call& call, int slot, const std::optional<Tensor>& t) {
    if (!t.has_value()) return nullptr;
    tensors_[slot] = contiguous(*t);
    if (call.item == call.op_item) return tensors_[slot]->const_data_ptr();
    buffers_[slot] = call.buffer(t->numel());
    call.kernels.widen[call.dtype](tensors_[slot]->const_data_ptr(), buffers_[slot].data(), t->numel());
    return buffers_[slot].data();
  }

  std::array<std::optional<Tensor>, 4> tensors_;
  std::array<std::vector<char>, 4> buffers_;
  SeWeights weights_;
};

void divide_by_pixels(const Call& call, char* sums, int64_t n) {
  // Division, as in torch.mean: it gives NaN for no pixels.
  if (call.dtype == kDouble) {
    for (int64_t i = 0; i < n; ++i) reinterpret_cast<double*>(sums)[i] /= double(call.shape.pixels);
  } else {
    for (int64_t i = 0; i < n; ++i) reinterpret_cast<float*>(sums)[i] /= float(call.shape.pixels);
  }
}

Tensor se_scale_cpu(const Tensor& x_, const Tensor& logits_) {
  const SeShape shape = check_se_scale("se_scale", x_, logits_);
  const Tensor x = native_layout(x_), logits = contiguous(logits_);
  const Call call("se_scale", shape, x);
  Tensor y = empty_like(x);
  if (y.numel() == 0) return y;
  std::vector<char> s = call.buffer(logits.numel());
  call.kernels.sigmoid[call.dtype](logits.const_data_ptr(), s.data(), logits.numel());
  call.for_each_task([&](int64_t n, int64_t begin, int64_t end) {
    call.kernels.scale[call.dtype](bytes_of(x) + n * call.image_bytes(), s.data() + n * call.row_bytes(), nullptr,
                                   mutable_bytes_of(y) + n * call.image_bytes(), call.image, begin, end);
  });
  return y;
}

std::tuple<Tensor, Tensor> se_scale_backward_cpu(const Tensor& grad_, const Tensor& x_, const Tensor& logits_) {
  const SeShape shape = check_se_scale("se_scale_backward", x_, logits_);
  check_se_grad("se_scale_backward", grad_, x_);
  const Tensor x = native_layout(x_), logits = contiguous(logits_), grad = laid_out_like(grad_, x);
  const Call call("se_scale_backward", shape, x);
  Tensor grad_x = empty_like(x), grad_logits = empty_like(logits);
  std::vector<char> s = call.buffer(logits.numel()), sums = call.buffer(logits.numel());
  call.kernels.sigmoid[call.dtype](logits.const_data_ptr(), s.data(), logits.numel());
  call.for_each_task([&](int64_t n, int64_t begin, int64_t end) {
    const int64_t offset = n * call.image_bytes(), row = n * call.row_bytes();
    call.kernels.scale_dot[call.dtype](bytes_of(grad) + offset, bytes_of(x) + offset, s.data() + row,
                                       mutable_bytes_of(grad_x) + offset, sums.data() + row, call.image, begin, end);
  });
  call.kernels.logit_backward[call.dtype](sums.data(), logits.const_data_ptr(), grad_logits.mutable_data_ptr(),
                                          logits.numel());
  return {grad_x, grad_logits};
}

// The passes of the block, in order: first(n, begin, end) for channels of an image, between(n) for the image, and
// last(n, begin, end). If there is an image for every thread, each image finishes all three before the next one starts:
// the last pass finds it in the cache. Otherwise the channels of each image are divided among the threads.
template <class First, class Between, class Last>
void for_each_image(const Call& call, const First& first, const Between& between, const Last& last) {
  const SeShape& shape = call.shape;
  if (shape.batch >= torch::stable::get_num_threads()) {
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, shape.channels * shape.pixels));
    torch::stable::parallel_for(0, shape.batch, grain, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        call.for_each_block(first, n);
        between(n);
        call.for_each_block(last, n);
      }
    });
  } else {
    call.for_each_task(first);
    for (int64_t n = 0; n < shape.batch; ++n) between(n);
    call.for_each_task(last);
  }
}

// Two passes over x: squeeze and scale; between them the two layers.
Tensor se_attention_cpu(const Tensor& x_, const Tensor& w1, const std::optional<Tensor>& b1, const Tensor& w2,
                        const std::optional<Tensor>& b2) {
  int64_t hidden = 0;
  const SeShape shape = check_se_attention("se_attention", x_, w1, b1, w2, b2, hidden);
  const Tensor x = native_layout(x_);
  const Call call("se_attention", shape, x);
  Tensor y = empty_like(x);
  if (y.numel() == 0) return y;
  const int64_t channels = shape.channels, hidden_bytes = hidden * call.op_item;
  std::vector<char> z = call.buffer(shape.batch * channels), s = call.buffer(shape.batch * channels);
  std::vector<char> h = call.buffer(shape.batch * hidden);
  const OpmathWeights w(call, w1, b1, w2, b2);
  const DType opmath = call.dtype == kDouble ? kDouble : kFloat;

  const auto squeeze = [&](int64_t n, int64_t begin, int64_t end) {
    call.kernels.sum[call.dtype](bytes_of(x) + n * call.image_bytes(), call.image, begin, end,
                                 z.data() + n * call.row_bytes());
  };
  const auto excite = [&](int64_t n) {
    char *mean = z.data() + n * call.row_bytes(), *gate = s.data() + n * call.row_bytes();
    divide_by_pixels(call, mean, channels);
    call.kernels.excite[opmath](w.get(), mean, h.data() + n * hidden_bytes, gate);
    call.kernels.sigmoid[opmath](gate, gate, channels);
  };
  const auto scale = [&](int64_t n, int64_t begin, int64_t end) {
    call.kernels.scale[call.dtype](bytes_of(x) + n * call.image_bytes(), s.data() + n * call.row_bytes(), nullptr,
                                   mutable_bytes_of(y) + n * call.image_bytes(), call.image, begin, end);
  };
  for_each_image(call, squeeze, excite, scale);
  return y;
}

// One pass over (grad, x) for both sums; the two layers forward and backward; one pass over grad for grad_x; then the
// gradients of the weights, which are sums over the images.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> se_attention_backward_cpu(const Tensor& grad_, const Tensor& x_,
                                                                             const Tensor& w1,
                                                                             const std::optional<Tensor>& b1,
                                                                             const Tensor& w2,
                                                                             const std::optional<Tensor>& b2) {
  const char* op = "se_attention_backward";
  int64_t hidden = 0;
  const SeShape shape = check_se_attention(op, x_, w1, b1, w2, b2, hidden);
  check_se_grad(op, grad_, x_);
  const Tensor x = native_layout(x_), grad = laid_out_like(grad_, x);
  const Call call(op, shape, x);
  const int64_t channels = shape.channels, values = shape.batch * channels, hidden_bytes = hidden * call.op_item;
  Tensor grad_x = empty_like(x);
  const OpmathWeights w(call, w1, b1, w2, b2);
  const DType opmath = call.dtype == kDouble ? kDouble : kFloat;
  std::vector<char> z = call.buffer(values), sums = call.buffer(values), s = call.buffer(values);
  std::vector<char> grad_logits = call.buffer(values), grad_z = call.buffer(values);
  std::vector<char> h = call.buffer(shape.batch * hidden), grad_h = call.buffer(shape.batch * hidden);

  const auto sum = [&](int64_t n, int64_t begin, int64_t end) {
    const int64_t offset = n * call.image_bytes(), row = n * call.row_bytes();
    call.kernels.sum_dot[call.dtype](bytes_of(grad) + offset, bytes_of(x) + offset, call.image, begin, end,
                                     z.data() + row, sums.data() + row);
  };
  const auto layers = [&](int64_t n) {
    const int64_t row = n * call.row_bytes(), h_row = n * hidden_bytes;
    divide_by_pixels(call, z.data() + row, channels);
    call.kernels.excite[opmath](w.get(), z.data() + row, h.data() + h_row, s.data() + row);
    call.kernels.logit_backward[opmath](sums.data() + row, s.data() + row, grad_logits.data() + row, channels);
    call.kernels.excite_backward[opmath](w.get(), h.data() + h_row, grad_logits.data() + row, grad_h.data() + h_row,
                                         grad_z.data() + row);
    call.kernels.sigmoid[opmath](s.data() + row, s.data() + row, channels);
    divide_by_pixels(call, grad_z.data() + row, channels);
  };
  const auto scale = [&](int64_t n, int64_t begin, int64_t end) {
    const int64_t offset = n * call.image_bytes(), row = n * call.row_bytes();
    call.kernels.scale[call.dtype](bytes_of(grad) + offset, s.data() + row, grad_z.data() + row,
                                   mutable_bytes_of(grad_x) + offset, call.image, begin, end);
  };
  for_each_image(call, sum, layers, scale);

  const auto result = [&](const std::vector<char>& buffer, std::initializer_list<int64_t> sizes) {
    Tensor t = torch::stable::new_empty(x, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()));
    call.kernels.narrow[call.dtype](buffer.data(), t.mutable_data_ptr(), t.numel());
    return t;
  };
  const auto layer = [&](const std::vector<char>& g, int64_t rows, const std::vector<char>& input, int64_t columns) {
    std::vector<char> grad_w = call.buffer(rows * columns), grad_b = call.buffer(rows);
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, shape.batch * columns));
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      call.kernels.layer_backward[opmath](g.data(), rows, input.data(), columns, shape.batch, begin, end, grad_w.data(),
                                          grad_b.data());
    });
    return std::pair{result(grad_w, {rows, columns}), result(grad_b, {rows})};
  };
  const auto [grad_w1, grad_b1] = layer(grad_h, hidden, z, channels);
  const auto [grad_w2, grad_b2] = layer(grad_logits, channels, h, hidden);
  return {grad_x, grad_w1, grad_b1, grad_w2, grad_b2};
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("se_scale", TORCH_BOX(&fastops::se_scale_cpu));
  m.impl("se_scale_backward", TORCH_BOX(&fastops::se_scale_backward_cpu));
  m.impl("se_attention", TORCH_BOX(&fastops::se_attention_cpu));
  m.impl("se_attention_backward", TORCH_BOX(&fastops::se_attention_backward_cpu));
}
