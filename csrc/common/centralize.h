// Checks, layouts and copies of the centralize ops, the same for every device.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../math/centralize.h"
#include "dispatch.h"
#include "layout.h"

namespace fastops {

using TensorList = std::vector<Tensor>;

// Runs shorter than this are processed together with those of neighbouring channels.
constexpr int64_t kShortRun = 32;
// A channel of one run with more values than this is divided into pieces, after its mean is computed. It is 256 KiB in
// float32: with parameter and momentum, a second-level cache would hardly keep it until the update.
constexpr int64_t kLongChannel = 65536;

// The lists of one call: the gradients, then (except in centralize_) the parameters and their states.
struct StepLists {
  const char* op;
  std::array<const char*, kMaxStepArrays> names;
  std::array<const TensorList*, kMaxStepArrays> lists;
  int count;
  // The dimension of every tensor's output channels: 0 is dim 0, g > 0 is dim 1 of a transposed convolution of g
  // groups, -1 is none: the tensor is not centralized.
  const std::vector<int64_t>& channels;

  int main() const { return count > 1 ? 1 : 0; }  // the list that the others must match
  size_t size() const { return lists[main()]->size(); }
};

// Compares tensor i of list k with tensor j of the main list.
inline void check_step_tensor(const StepLists& s, int k, size_t i, size_t j) {
  const Tensor &t = (*s.lists[k])[i], &like = (*s.lists[s.main()])[j];
  const char *name = s.names[k], *like_name = s.names[s.main()];
  FASTOPS_CHECK(t.scalar_type() == like.scalar_type(), s.op, ": ", name, "[", i, "] must have the dtype of ", like_name,
                "[", j, "] (", dtype_name(like.scalar_type()), "), got ", dtype_name(t.scalar_type()));
  FASTOPS_CHECK(t.device() == like.device(), s.op, ": ", name, "[", i, "] must be on the device of ", like_name, "[", j,
                "] (", device_name(like), "), got ", device_name(t));
  if (k == s.main()) return;
  const auto sizes = t.sizes(), like_sizes = like.sizes();
  FASTOPS_CHECK(std::equal(sizes.begin(), sizes.end(), like_sizes.begin(), like_sizes.end()), s.op, ": ", name, "[", i,
                "] must have the shape of ", like_name, "[", j, "] ", shape_string(like), ", got ", shape_string(t));
}

inline void check_step_lists(const StepLists& s) {
  const TensorList& like = *s.lists[s.main()];
  const char* like_name = s.names[s.main()];
  const int64_t least = s.count > 1 ? -1 : 0;
  for (int k = 0; k < s.count; ++k) {
    FASTOPS_CHECK(s.lists[k]->size() == like.size(), s.op, ": ", s.names[k], " must have as many tensors as ",
                  like_name, " (", like.size(), "), got ", s.lists[k]->size());
  }
  FASTOPS_CHECK(s.channels.size() == like.size(), s.op, ": channels must have a number for each of ", like_name, " (",
                like.size(), "), got ", s.channels.size());
  for (size_t i = 0; i < like.size(); ++i) {
    const Tensor& t = like[i];
    const int64_t channels = s.channels[i];
    FASTOPS_CHECK(is_floating(t.scalar_type()), s.op, ": ", like_name, "[", i,
                  "] must have dtype float32, float64, float16 or bfloat16, got ", dtype_name(t.scalar_type()));
    for (int k = 0; k < s.count; ++k) check_step_tensor(s, k, i, k == s.main() ? 0 : i);
    FASTOPS_CHECK(channels >= least, s.op, ": channels[", i, "] must be at least ", least, ", got ", channels);
    if (channels < 0) continue;
    FASTOPS_CHECK(t.dim() >= 2, s.op, ": ", like_name, "[", i,
                  "] must have at least 2 dimensions to be centralized, got ", shape_string(t));
    FASTOPS_CHECK(channels == 0 || t.size(0) % channels == 0, s.op, ": channels[", i,
                  "] must divide the input channels (", t.size(0), "), got ", channels);
  }
}

// A tensor of one element that the kernels read, such as found_inf.
inline void check_step_scalar(const char* op, const char* argument, const std::optional<Tensor>& t, bool or_double,
                              const TensorList& like) {
  if (!t.has_value()) return;
  const ScalarType type = t->scalar_type();
  FASTOPS_CHECK(type == ScalarType::Float || (or_double && type == ScalarType::Double), op, ": ", argument,
                " must have dtype float32", or_double ? " or float64" : "", ", got ", dtype_name(type));
  FASTOPS_CHECK(t->numel() == 1, op, ": ", argument, " must have one element, got ", shape_string(*t));
  check_same_device(op, argument, *t, "params[0]", like[0]);
}

// The layout of a dense tensor; empty if it must be made contiguous first.
inline std::optional<ChannelLayout> channel_layout(const Tensor& t, int64_t channels) {
  const int64_t numel = t.numel(), groups = std::max<int64_t>(channels, 1), dim = channels > 0 ? 1 : 0;
  if (channels < 0) return ChannelLayout{1, 1, 1, numel};
  if (groups > 1 && t.stride(0) * t.size(0) != numel) return std::nullopt;
  const int64_t count = t.size(dim);
  if (count == 1) return ChannelLayout{groups, 1, 1, numel / groups};
  const int64_t length = t.stride(dim);
  return ChannelLayout{groups, numel / (groups * count * length), count, length};
}

// The tensors in the form of the kernels: dense, all arrays of one layout, none empty. finish() copies back what had to
// be copied.
class StepTensors {
 public:
  struct Item {
    size_t index;  // in the lists
    ChannelLayout layout;
    bool centralized;
    std::array<void*, kMaxStepArrays> arrays;
  };

  explicit StepTensors(const StepLists& s) {
    items_.reserve(s.size());
    for (size_t i = 0; i < s.size(); ++i) {
      const Tensor& original = (*s.lists[s.main()])[i];
      if (original.numel() == 0) continue;
      Tensor like = dense(original);
      std::optional<ChannelLayout> layout = channel_layout(like, s.channels[i]);
      if (!layout) layout = channel_layout(like = torch::stable::contiguous(like), s.channels[i]);
      Item item{i, *layout, s.channels[i] >= 0, {}};
      for (int k = 0; k < s.count; ++k) {
        const Tensor& t = (*s.lists[k])[i];
        const Tensor array = k == s.main() ? like : laid_out_like(t, like);
        const bool copied = array.get() != t.get(), written = k > 0 || s.count == 1;
        item.arrays[k] = written ? array.mutable_data_ptr() : const_cast<void*>(array.const_data_ptr());
        if (copied) copies_.emplace_back(t, array, written);
      }
      items_.push_back(item);
    }
  }

  const std::vector<Item>& items() const { return items_; }
  void finish() {
    for (auto& [original, copy, written] : copies_) {
      if (written) torch::stable::copy_(original, copy);
    }
  }

 private:
  std::vector<Item> items_;
  std::vector<std::tuple<Tensor, Tensor, bool>> copies_;
};

// ---- arguments of the steps ------------------------------------------------------------------------------------

inline StepLists sgd_lists(const TensorList& params, const TensorList& grads, const TensorList& momentum_buffers,
                           const std::vector<int64_t>& channels, double momentum) {
  return {"sgd_gc_step_",
          {"grads", "params", "momentum_buffers"},
          {&grads, &params, &momentum_buffers},
          momentum != 0 ? 3 : 2,
          channels};
}

inline StepOptions sgd_options(double lr, double momentum, double dampening, double weight_decay, bool maximize) {
  StepOptions options;
  options.scale = maximize ? -1 : 1;
  options.lr = lr, options.weight_decay = weight_decay;
  options.momentum = momentum, options.dampening = dampening;
  return options;
}

inline StepLists adamw_lists(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
                             const TensorList& exp_avg_sqs, const TensorList& max_exp_avg_sqs,
                             const std::vector<int64_t>& channels) {
  return {"adamw_gc_step_",
          {"grads", "params", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"},
          {&grads, &params, &exp_avgs, &exp_avg_sqs, &max_exp_avg_sqs},
          max_exp_avg_sqs.empty() ? 4 : 5,
          channels};
}

inline StepOptions adamw_options(double lr, double beta1, double beta2, double eps, double weight_decay,
                                 bool maximize) {
  StepOptions options;
  options.scale = maximize ? -1 : 1;
  options.lr = lr, options.weight_decay = weight_decay;
  options.beta1 = beta1, options.beta2 = beta2, options.eps = eps;
  return options;
}

struct StepScalars {
  const std::optional<Tensor>&lr, &grad_scale, &found_inf;
};

inline void check_step(const StepLists& lists, const StepScalars& scalars) {
  check_step_lists(lists);
  if (lists.size() == 0) return;
  const TensorList& params = *lists.lists[1];
  check_step_scalar(lists.op, "lr_tensor", scalars.lr, true, params);
  check_step_scalar(lists.op, "grad_scale", scalars.grad_scale, false, params);
  check_step_scalar(lists.op, "found_inf", scalars.found_inf, false, params);
}

inline void check_steps(const StepLists& lists, const TensorList& steps) {
  FASTOPS_CHECK(steps.size() == lists.size(), lists.op, ": steps must have as many tensors as params (", lists.size(),
                "), got ", steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    const Tensor& param = (*lists.lists[1])[i];
    FASTOPS_CHECK(steps[i].scalar_type() == ScalarType::Float && steps[i].numel() == 1, lists.op, ": steps[", i,
                  "] must be one float32, got ", dtype_name(steps[i].scalar_type()), " ", shape_string(steps[i]));
    FASTOPS_CHECK(steps[i].device() == param.device(), lists.op, ": steps[", i, "] must be on the device of params[", i,
                  "] (", device_name(param), "), got ", device_name(steps[i]));
  }
}

}  // namespace fastops
