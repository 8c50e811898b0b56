// Squeeze-and-excitation on the CPU: layouts, threads and the order of the passes; loops in simd/se.cpp.
// A task is kSeChannels channels of one image whatever the number of threads, so results do not depend on it.
#include "../simd/se.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>
#include <vector>

#include "../common/layout.h"
#include "../common/se.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(SeKernels, se_kernels)

namespace fastops {
namespace {

using torch::stable::contiguous;
using torch::stable::empty_like;

// Values per thread at least, as in mish.cpp.
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

// The weights as opmath, contiguous; owns the copies (declared first: `weights` points into them).
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
  // Division, as torch.mean does: of no pixels it gives NaN.
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

// Two passes over x: squeeze, then scale; between them the small layers. With an image for every thread, each goes
// through all three before the next, so that the second pass finds it in the cache; else the channels are shared out.
Tensor se_attention_cpu(const Tensor& x_, const Tensor& w1, const std::optional<Tensor>& b1, const Tensor& w2,
                        const std::optional<Tensor>& b2) {
  int64_t hidden = 0;
  const SeShape shape = check_se_attention("se_attention", x_, w1, b1, w2, b2, hidden);
  const Tensor x = native_layout(x_);
  const Call call("se_attention", shape, x);
  Tensor y = empty_like(x);
  if (y.numel() == 0) return y;
  const int64_t channels = shape.channels;
  std::vector<char> z = call.buffer(shape.batch * channels), s = call.buffer(shape.batch * channels);
  const OpmathWeights w(call, w1, b1, w2, b2);
  const DType opmath = call.dtype == kDouble ? kDouble : kFloat;

  const auto squeeze = [&](int64_t n, int64_t begin, int64_t end) {
    call.kernels.sum[call.dtype](bytes_of(x) + n * call.image_bytes(), call.image, begin, end,
                                 z.data() + n * call.row_bytes());
  };
  const auto excite = [&](int64_t n, char* h) {
    char *mean = z.data() + n * call.row_bytes(), *gate = s.data() + n * call.row_bytes();
    divide_by_pixels(call, mean, channels);
    call.kernels.excite[opmath](w.get(), mean, h, gate);
    call.kernels.sigmoid[opmath](gate, gate, channels);
  };
  const auto scale = [&](int64_t n, int64_t begin, int64_t end) {
    call.kernels.scale[call.dtype](bytes_of(x) + n * call.image_bytes(), s.data() + n * call.row_bytes(), nullptr,
                                   mutable_bytes_of(y) + n * call.image_bytes(), call.image, begin, end);
  };
  if (shape.batch >= torch::stable::get_num_threads()) {
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, channels * shape.pixels));
    torch::stable::parallel_for(0, shape.batch, grain, [&](int64_t first, int64_t last) {
      std::vector<char> h = call.buffer(hidden);
      for (int64_t n = first; n < last; ++n) {
        call.for_each_block(squeeze, n);
        excite(n, h.data());
        call.for_each_block(scale, n);
      }
    });
  } else {
    std::vector<char> h = call.buffer(hidden);
    call.for_each_task(squeeze);
    for (int64_t n = 0; n < shape.batch; ++n) excite(n, h.data());
    call.for_each_task(scale);
  }
  return y;
}

// One pass over (grad, x) for both sums, the small layers forward and backward, one pass over grad for grad_x.
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
  const int64_t channels = shape.channels, values = shape.batch * channels;
  Tensor grad_x = empty_like(x);

  std::vector<char> z = call.buffer(values), sums = call.buffer(values), s = call.buffer(values);
  call.for_each_task([&](int64_t n, int64_t begin, int64_t end) {
    const int64_t offset = n * call.image_bytes(), row = n * call.row_bytes();
    call.kernels.sum_dot[call.dtype](bytes_of(grad) + offset, bytes_of(x) + offset, call.image, begin, end,
                                     z.data() + row, sums.data() + row);
  });
  divide_by_pixels(call, z.data(), values);

  const OpmathWeights w(call, w1, b1, w2, b2);
  const DType opmath = call.dtype == kDouble ? kDouble : kFloat;
  std::vector<char> h = call.buffer(hidden), grad_h = call.buffer(hidden), grad_logits = call.buffer(channels);
  std::vector<char> grad_z = call.buffer(values);
  std::vector<char> gw1 = call.buffer(hidden * channels), gb1 = call.buffer(hidden);
  std::vector<char> gw2 = call.buffer(channels * hidden), gb2 = call.buffer(channels);
  for (int64_t n = 0; n < shape.batch; ++n) {
    const int64_t row = n * call.row_bytes();
    call.kernels.excite[opmath](w.get(), z.data() + row, h.data(), s.data() + row);
    call.kernels.logit_backward[opmath](sums.data() + row, s.data() + row, grad_logits.data(), channels);
    call.kernels.excite_backward[opmath](w.get(), z.data() + row, h.data(), grad_logits.data(), grad_h.data(),
                                         grad_z.data() + row, gw1.data(), gb1.data(), gw2.data(), gb2.data());
  }
  call.kernels.sigmoid[opmath](s.data(), s.data(), values);
  divide_by_pixels(call, grad_z.data(), values);
  call.for_each_task([&](int64_t n, int64_t begin, int64_t end) {
    const int64_t offset = n * call.image_bytes(), row = n * call.row_bytes();
    call.kernels.scale[call.dtype](bytes_of(grad) + offset, s.data() + row, grad_z.data() + row,
                                   mutable_bytes_of(grad_x) + offset, call.image, begin, end);
  });

  const auto result = [&](const std::vector<char>& buffer, std::initializer_list<int64_t> sizes) {
    Tensor t = torch::stable::new_empty(x, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()));
    call.kernels.narrow[call.dtype](buffer.data(), t.mutable_data_ptr(), t.numel());
    return t;
  };
  return {grad_x, result(gw1, {hidden, channels}), result(gb1, {hidden}), result(gw2, {channels, hidden}),
          result(gb2, {channels})};
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("se_scale", TORCH_BOX(&fastops::se_scale_cpu));
  m.impl("se_scale_backward", TORCH_BOX(&fastops::se_scale_backward_cpu));
  m.impl("se_attention", TORCH_BOX(&fastops::se_attention_cpu));
  m.impl("se_attention_backward", TORCH_BOX(&fastops::se_attention_backward_cpu));
}
