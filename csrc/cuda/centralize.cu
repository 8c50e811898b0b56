// Gradient centralization and the optimizer steps on CUDA, with one launch per list, or per table if the list is long.
// The kernels are in centralize_kernels.cuh, the formulas in math/centralize.h. Memory-bound: SGD with momentum moves 5
// times the parameters' bytes, AdamW 7 times, centralize_ twice.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>
#include <vector>

#include "../common/centralize.h"
#include "centralize_kernels.cuh"

namespace fastops {
namespace {

// Scratch memory for `count` values of V, as a tensor of floats or doubles from torch's allocator.
template <class V>
V* make_scratch(const Tensor& like, int64_t count, Tensor& scratch) {
  const int64_t doubles = (count * int64_t(sizeof(V)) + 7) / 8;
  scratch = torch::stable::new_empty(like, {doubles}, ScalarType::Double);
  return mutable_data<V>(scratch);
}

const float* float_or_null(const std::optional<Tensor>& t) { return t ? data<float>(*t) : nullptr; }

DeviceScalars device_scalars(const StepScalars& s) {
  return {s.lr ? s.lr->const_data_ptr() : nullptr, float_or_null(s.grad_scale), float_or_null(s.found_inf),
          s.lr && s.lr->scalar_type() == ScalarType::Double};
}

// Collects tensors until a table is full, then launches and starts the next table.
template <class T, StepRule kRule>
class Launcher {
 public:
  using Args = StepArgs<T, kRule>;
  static_assert(sizeof(Args) <= kMaxArgumentBytes);

  Launcher(const CudaScope& scope, const Tensor& like, const StepOptions& options, const DeviceScalars& scalars,
           const AdamWFactors<opmath_t<T>>* factors)
      : scope_(scope),
        like_(like),
        factors_(factors),
        args_(new Args{typename Args::Rule(options), scalars, nullptr, nullptr, {}}) {}

  void add(const StepTensors::Item& item) {
    const ChannelLayout& layout = item.layout;
    if (layout.runs == 1) {
      add(item, 0, layout.count());
    } else {
      for (int64_t group = 0; group < layout.groups; ++group) {
        add(item, group * layout.channels * layout.values(), layout.channels);
      }
    }
    ++tensor_;
  }

  void launch_all() {
    auto& table = args_->table;
    if (table.count == 0) return;
    Tensor scratch;
    if (long_) {
      args_->sums = make_scratch<opmath_t<T>>(like_, table.items, scratch);
      launch(long_sums_kernel<T, kRule>, grid_for(table.items, 1), kThreads, 0, scope_, *args_);
    }
    launch(step_kernel<T, kRule>, grid_for(table.items, 1), kThreads, 0, scope_, *args_);
    table.count = table.items = 0;
    long_ = false;
  }

 private:
  // Adds the channels of one group, which begins at value `offset`.
  void add(const StepTensors::Item& item, int64_t offset, int64_t channels) {
    auto& table = args_->table;
    if (table.count == table.kCapacity) launch_all();
    if (table.count == 0) {
      first_tensor_ = tensor_;
      if (factors_) args_->factors = factors_ + tensor_;
    }
    const int64_t length = item.layout.length, values = item.layout.values();
    auto& entry = table.entries[table.count++];
    entry = {{}, length, item.layout.runs, channels, table.items, int16_t(tensor_ - first_tensor_), kFlat, true};
    for (int k = 0; k < Args::kArrays; ++k) {
      entry.arrays[k] = static_cast<T*>(item.arrays[k]) + offset;
      entry.packed = entry.packed && is_aligned16(entry.arrays[k]);
    }
    const int64_t parts = (length + kItemValues - 1) / kItemValues;
    if (!item.centralized) {
      table.items += int(parts);
    } else if (item.layout.runs == 1 && length > kLongChannel) {
      entry.kind = kLong, long_ = true;
      table.items += int(channels * parts);
    } else if (item.layout.runs > 1 && length < kShortRun) {
      const int64_t width = kColumnThreads / length;
      entry.kind = kColumns;
      table.items += int((channels + width - 1) / width);
    } else {
      // About two packs per thread for up to a warp. A whole block if a warp would take long.
      int8_t kind = 2;
      while (kind < 5 && (int64_t(2 * Pack<T>::size) << kind) < length) ++kind;
      entry.kind = values > 1024 ? 8 : kind;
      table.items += int(((channels << entry.kind) + kThreads - 1) / kThreads);
    }
  }

  const CudaScope& scope_;
  const Tensor& like_;
  const AdamWFactors<opmath_t<T>>* factors_;
  std::unique_ptr<Args> args_;
  int64_t tensor_ = 0, first_tensor_ = 0;  // the current tensor, the table's first tensor
  bool long_ = false;
};

template <class T, StepRule kRule>
void launch_step(const CudaScope& scope, const Tensor& like, const StepTensors& tensors, const StepOptions& options,
                 const DeviceScalars& scalars, const AdamWFactors<opmath_t<T>>* factors = nullptr) {
  Launcher<T, kRule> launcher(scope, like, options, scalars, factors);
  for (const auto& item : tensors.items()) launcher.add(item);
  launcher.launch_all();
}

// Counts the steps of all tensors and computes the factors of those in `tensors`, in their order.
template <class O>
void launch_factors(const CudaScope& scope, const StepTensors& tensors, const TensorList& steps,
                    const StepOptions& options, const DeviceScalars& scalars, AdamWFactors<O>* factors) {
  std::vector<float*> counts;
  std::vector<bool> placed(steps.size());
  for (const auto& item : tensors.items()) {
    counts.push_back(mutable_data<float>(steps[item.index]));
    placed[item.index] = true;
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    if (!placed[i]) counts.push_back(mutable_data<float>(steps[i]));
  }
  static_assert(sizeof(CountArgs<O>) <= kMaxArgumentBytes);
  for (size_t first = 0; first < counts.size(); first += kCounts) {
    CountArgs<O> args{options, scalars, {}, factors + first, int(std::min<size_t>(counts.size() - first, kCounts))};
    std::copy_n(counts.begin() + first, args.count, args.steps);
    launch(adamw_factors_kernel<O>, grid_for(args.count, kThreads), kThreads, 0, scope, args);
  }
}

void centralize_cuda_(const TensorList& tensors, const std::vector<int64_t>& channels) {
  const StepLists lists{"centralize_", {"tensors"}, {&tensors}, 1, channels};
  check_step_lists(lists);
  if (tensors.empty()) return;
  const CudaScope scope(tensors[0]);
  StepTensors arrays(lists);
  dispatch_dtype(dtype_index(lists.op, "tensors", tensors[0]),
                 [&]<class T>() { launch_step<T, kCentralize>(scope, tensors[0], arrays, {}, {}); });
  arrays.finish();
}

void sgd_gc_step_cuda_(const TensorList& params, const TensorList& grads, const TensorList& momentum_buffers,
                       const std::vector<int64_t>& channels, double lr, double momentum, double dampening,
                       double weight_decay, bool nesterov, bool maximize, const std::optional<Tensor>& lr_tensor,
                       const std::optional<Tensor>& grad_scale, const std::optional<Tensor>& found_inf) {
  const StepLists lists = sgd_lists(params, grads, momentum_buffers, channels, momentum);
  const StepScalars scalars{lr_tensor, grad_scale, found_inf};
  check_step(lists, scalars);
  if (params.empty()) return;
  const CudaScope scope(params[0]);
  StepTensors arrays(lists);
  const StepOptions options = sgd_options(lr, momentum, dampening, weight_decay, maximize);
  const DeviceScalars on_device = device_scalars(scalars);
  dispatch_dtype(dtype_index(lists.op, "params", params[0]), [&]<class T>() {
    const auto step = momentum == 0 ? launch_step<T, kSgd>
                      : nesterov    ? launch_step<T, kSgdNesterov>
                                    : launch_step<T, kSgdMomentum>;
    step(scope, params[0], arrays, options, on_device, nullptr);
  });
  arrays.finish();
}

void adamw_gc_step_cuda_(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
                         const TensorList& exp_avg_sqs, const TensorList& max_exp_avg_sqs, const TensorList& steps,
                         const std::vector<int64_t>& channels, double lr, double beta1, double beta2, double eps,
                         double weight_decay, bool maximize, const std::optional<Tensor>& lr_tensor,
                         const std::optional<Tensor>& grad_scale, const std::optional<Tensor>& found_inf) {
  const StepLists lists = adamw_lists(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, channels);
  const StepScalars scalars{lr_tensor, grad_scale, found_inf};
  check_step(lists, scalars);
  check_steps(lists, steps);
  if (params.empty()) return;
  const CudaScope scope(params[0]);
  StepTensors arrays(lists);
  const StepOptions options = adamw_options(lr, beta1, beta2, eps, weight_decay, maximize);
  const DeviceScalars on_device = device_scalars(scalars);
  dispatch_dtype(dtype_index(lists.op, "params", params[0]), [&]<class T>() {
    Tensor scratch;
    auto* factors = make_scratch<AdamWFactors<opmath_t<T>>>(params[0], int64_t(params.size()), scratch);
    launch_factors(scope, arrays, steps, options, on_device, factors);
    const auto step = max_exp_avg_sqs.empty() ? launch_step<T, kAdamW> : launch_step<T, kAdamWAmsgrad>;
    step(scope, params[0], arrays, options, on_device, factors);
  });
  arrays.finish();
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  m.impl("centralize_", TORCH_BOX(&fastops::centralize_cuda_));
  m.impl("sgd_gc_step_", TORCH_BOX(&fastops::sgd_gc_step_cuda_));
  m.impl("adamw_gc_step_", TORCH_BOX(&fastops::adamw_gc_step_cuda_));
}
