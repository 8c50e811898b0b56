// Gradient centralization and the optimizer steps on the CPU: threads; the loops are in simd/centralize.cpp.
// They are memory-bound: SGD with momentum moves 5 times the parameters' bytes, AdamW 7 times. A list is one parallel
// region, divided by values and not by tensors. One thread processes a whole channel, so results do not depend on the
// number of threads.
#include "../simd/centralize.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "../common/centralize.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(StepKernels, step_kernels)

namespace fastops {
namespace {

// Minimum of values per thread, as in mish.cpp.
constexpr int64_t kGrain = 16384;

struct Task {
  StepTensor tensor;
  StepOptions options;
  StepFunction kernel;
  int64_t units;          // the kernel's channels, strips or pieces
  int64_t first, values;  // values of the tasks before it, and its own

  // The number of units in the first n values; approximate, because units differ a little in size.
  int64_t units_of(int64_t n) const {
    if (n <= 0) return 0;
    return n >= values ? units : std::min(n / std::max<int64_t>(values / units, 1), units);
  }
};

// Calls body(task, begin, end) over the units of all tasks.
template <class Body>
void for_each_unit(const std::vector<Task>& tasks, int64_t values, const Body& body) {
  torch::stable::parallel_for(0, values, kGrain, [&](int64_t begin, int64_t end) {
    const auto after = [](int64_t value, const Task& task) { return value < task.first; };
    auto task = std::upper_bound(tasks.begin(), tasks.end(), begin, after) - 1;
    for (; task != tasks.end() && task->first < end; ++task) {
      const int64_t unit = task->units_of(begin - task->first), last = task->units_of(end - task->first);
      if (unit < last) body(*task, unit, last);
    }
  });
}

class Step {
 public:
  Step(StepRule rule, DType dtype) : rule_(rule), dtype_(dtype), kernels_(FASTOPS_TABLE(step_kernels)) {}

  void add(const StepTensors::Item& item, const StepOptions& options) {
    const ChannelLayout& layout = item.layout;
    Task task{{{}, layout, nullptr}, options, kernels_.channels[rule_][dtype_], layout.count(), values_, 0};
    std::copy(item.arrays.begin(), item.arrays.end(), task.tensor.arrays);
    task.values = layout.count() * layout.values();
    if (!item.centralized || (layout.runs == 1 && layout.length > kLongChannel)) {
      task.kernel = kernels_.pieces[rule_][dtype_];
      task.units *= pieces_of(layout.length);
      if (item.centralized) long_.push_back(tasks_.size());
    } else if (layout.runs > 1 && layout.length < kShortRun) {
      const int64_t width = strip_channels(layout);
      task.kernel = kernels_.strips[rule_][dtype_];
      task.units = layout.groups * ((layout.channels + width - 1) / width);
    }
    tasks_.push_back(task);
    values_ += task.values;
  }

  void run() {
    std::vector<std::vector<double>> means;
    for (size_t i : long_) means.push_back(means_of(tasks_[i]));
    for (size_t i = 0; i < long_.size(); ++i) tasks_[long_[i]].tensor.means = means[i].data();
    for_each_unit(tasks_, values_, [](const Task& task, int64_t begin, int64_t end) {
      task.kernel(task.tensor, task.options, begin, end);
    });
  }

 private:
  std::vector<double> means_of(const Task& task) const {
    const ChannelLayout& layout = task.tensor.layout;
    const int64_t pieces = pieces_of(layout.length);
    std::vector<double> sums(size_t(task.units)), means;
    torch::stable::parallel_for(0, task.units, kGrain / kPieceValues, [&](int64_t begin, int64_t end) {
      kernels_.piece_sums[rule_][dtype_](task.tensor, task.options, begin, end, sums.data());
    });
    for (int64_t channel = 0; channel < layout.count(); ++channel) {
      double sum = 0;
      for (int64_t i = 0; i < pieces; ++i) sum += sums[size_t(channel * pieces + i)];
      means.push_back(sum / double(layout.length));
    }
    return means;
  }

  StepRule rule_;
  DType dtype_;
  const StepKernels& kernels_;
  std::vector<Task> tasks_;
  std::vector<size_t> long_;
  int64_t values_ = 0;
};

double value_of(const std::optional<Tensor>& t, double otherwise) {
  if (!t) return otherwise;
  return t->scalar_type() == ScalarType::Double ? *static_cast<const double*>(t->const_data_ptr())
                                                : *static_cast<const float*>(t->const_data_ptr());
}

// options(index) returns the StepOptions of a tensor
template <class Options>
void run_step(StepRule rule, const StepLists& lists, const Options& options) {
  StepTensors tensors(lists);
  Step step(rule, dtype_index(lists.op, "params", (*lists.lists[0])[0]));
  for (const auto& item : tensors.items()) step.add(item, options(item.index));
  step.run();
  tensors.finish();
}

void centralize_cpu_(const TensorList& tensors, const std::vector<int64_t>& channels) {
  const StepLists lists{"centralize_", {"tensors"}, {&tensors}, 1, channels};
  check_step_lists(lists);
  if (!tensors.empty()) run_step(kCentralize, lists, [](size_t) { return StepOptions{}; });
}

void sgd_gc_step_cpu_(const TensorList& params, const TensorList& grads, const TensorList& momentum_buffers,
                      const std::vector<int64_t>& channels, double lr, double momentum, double dampening,
                      double weight_decay, bool nesterov, bool maximize, const std::optional<Tensor>& lr_tensor,
                      const std::optional<Tensor>& grad_scale, const std::optional<Tensor>& found_inf) {
  const StepLists lists = sgd_lists(params, grads, momentum_buffers, channels, momentum);
  check_step(lists, {lr_tensor, grad_scale, found_inf});
  if (params.empty() || value_of(found_inf, 0) != 0) return;
  StepOptions options = sgd_options(value_of(lr_tensor, lr), momentum, dampening, weight_decay, maximize);
  options.scale /= value_of(grad_scale, 1);
  run_step(momentum == 0 ? kSgd : nesterov ? kSgdNesterov : kSgdMomentum, lists, [&](size_t) { return options; });
}

void adamw_gc_step_cpu_(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
                        const TensorList& exp_avg_sqs, const TensorList& max_exp_avg_sqs, const TensorList& steps,
                        const std::vector<int64_t>& channels, double lr, double beta1, double beta2, double eps,
                        double weight_decay, bool maximize, const std::optional<Tensor>& lr_tensor,
                        const std::optional<Tensor>& grad_scale, const std::optional<Tensor>& found_inf) {
  const StepLists lists = adamw_lists(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, channels);
  check_step(lists, {lr_tensor, grad_scale, found_inf});
  check_steps(lists, steps);
  if (params.empty() || value_of(found_inf, 0) != 0) return;
  StepOptions options = adamw_options(value_of(lr_tensor, lr), beta1, beta2, eps, weight_decay, maximize);
  options.scale /= value_of(grad_scale, 1);
  for (const Tensor& step : steps) *static_cast<float*>(step.mutable_data_ptr()) += 1;
  run_step(max_exp_avg_sqs.empty() ? kAdamW : kAdamWAmsgrad, lists, [&](size_t i) {
    const double step = *static_cast<const float*>(steps[i].const_data_ptr());
    options.correction1 = 1 - std::pow(beta1, step);
    options.correction2 = 1 - std::pow(beta2, step);
    return options;
  });
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("centralize_", TORCH_BOX(&fastops::centralize_cpu_));
  m.impl("sgd_gc_step_", TORCH_BOX(&fastops::sgd_gc_step_cpu_));
  m.impl("adamw_gc_step_", TORCH_BOX(&fastops::adamw_gc_step_cpu_));
}
