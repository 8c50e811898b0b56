// Balanced logistic loss on the CPU: labels, threads and reductions. The loops are in simd/logistic_loss.cpp.
// A task has at most kPiece cells of one map for any number of threads, and the losses of tasks are added in order. So
// results do not depend on the number of threads.
#include "../simd/logistic_loss.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../common/logistic_loss.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(LogisticLossKernels, logistic_loss_kernels)

namespace fastops {
namespace {

using torch::stable::contiguous;

// Maximum of cells per task and minimum per thread, as in mish.cpp.
constexpr int64_t kPiece = 16384;

// The labels of every map, or one entry for all maps. Each label has half of the weight, divided among its cells.
std::vector<LogisticMap> label_maps(const LogisticLossCall& call, const std::optional<Tensor>& centers) {
  std::vector<LogisticMap> maps(size_t(centers ? call.maps : 1), {call.centered_disk(), 0, 0});
  const Tensor rows_columns = centers ? contiguous(*centers) : Tensor();
  for (size_t i = 0; i < maps.size(); ++i) {
    PositiveDisk& disk = maps[i].disk;
    if (centers) {
      const float* center = static_cast<const float*>(rows_columns.const_data_ptr()) + 2 * i;
      disk.row = center[0];
      disk.column = center[1];
    }
    int64_t positives = 0;
    for (Run rows = disk.rows(); rows.begin < rows.end; ++rows.begin) {
      const Run columns = disk.columns(rows.begin);
      positives += std::max<int64_t>(columns.end - columns.begin, 0);
    }
    maps[i].positive = positives > 0 ? 0.5 / double(positives) : 0;
    maps[i].negative = positives < call.size() ? 0.5 / double(call.size() - positives) : 0;
  }
  return maps;
}

// Calls body(task, map, begin, end) for every piece of every map
template <class Body>
void for_each_piece(const LogisticLossCall& call, const Body& body) {
  const int64_t pieces = (call.size() + kPiece - 1) / kPiece;
  const int64_t grain = std::max<int64_t>(1, kPiece / call.size());
  torch::stable::parallel_for(0, call.maps * pieces, grain, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t begin = task % pieces * kPiece;
      body(task, task / pieces, begin, std::min(begin + kPiece, call.size()));
    }
  });
}

Tensor balanced_logistic_loss_cpu(const Tensor& responses_, double radius, double stride, std::string reduction,
                                  const std::optional<Tensor>& centers) {
  const char* op = "balanced_logistic_loss";
  const LogisticLossCall call = check_logistic_loss(op, responses_, radius, stride, reduction, centers);
  const Tensor responses = contiguous(responses_);
  const DType dtype = dtype_index(op, "responses", responses);
  const LogisticLossKernels& kernels = FASTOPS_TABLE(logistic_loss_kernels);
  const std::vector<LogisticMap> labels = label_maps(call, centers);
  const int64_t pieces = (call.size() + kPiece - 1) / kPiece;
  const int64_t map_bytes = call.size() * static_cast<int64_t>(responses.element_size());
  const char* source = static_cast<const char*>(responses.const_data_ptr());

  std::vector<double> parts(size_t(call.maps * pieces));
  for_each_piece(call, [&](int64_t task, int64_t map, int64_t begin, int64_t end) {
    parts[size_t(task)] = kernels.forward[dtype](source + map * map_bytes, labels[centers ? map : 0], begin, end);
  });

  std::vector<double> losses(size_t(call.losses()), 0.0);
  const bool each = call.reduction == Reduction::kNone;
  for (size_t task = 0; task < parts.size(); ++task) losses[each ? task / size_t(pieces) : 0] += parts[task];
  if (call.reduction == Reduction::kMean) losses[0] /= double(call.maps);  // NaN for no maps, like torch's mean
  std::vector<int64_t> sizes(each ? size_t(responses.dim() - 2) : 0);
  for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = responses.size(int64_t(i));
  Tensor result =
      torch::stable::new_empty(responses, torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), sizes.size()));
  kernels.narrow[dtype](losses.data(), result.mutable_data_ptr(), call.losses());
  return result;
}

Tensor balanced_logistic_loss_backward_cpu(const Tensor& grad_, const Tensor& responses_, double radius, double stride,
                                           std::string reduction, const std::optional<Tensor>& centers) {
  const char* op = "balanced_logistic_loss_backward";
  const LogisticLossCall call = check_logistic_loss(op, responses_, radius, stride, reduction, centers);
  check_logistic_loss_grad(op, grad_, call, responses_);
  const Tensor responses = contiguous(responses_), grad = contiguous(grad_);
  const DType dtype = dtype_index(op, "responses", responses);
  const LogisticLossKernels& kernels = FASTOPS_TABLE(logistic_loss_kernels);
  Tensor grad_responses = torch::stable::empty_like(responses);
  const std::vector<LogisticMap> labels = label_maps(call, centers);
  const int64_t map_bytes = call.size() * static_cast<int64_t>(responses.element_size());
  const char* source = static_cast<const char*>(responses.const_data_ptr());
  char* target = static_cast<char*>(grad_responses.mutable_data_ptr());

  std::vector<double> upstream(size_t(call.losses()));
  kernels.widen[dtype](grad.const_data_ptr(), upstream.data(), call.losses());
  if (call.reduction == Reduction::kMean) upstream[0] /= double(call.maps);
  const bool each = call.reduction == Reduction::kNone;
  for_each_piece(call, [&](int64_t, int64_t map, int64_t begin, int64_t end) {
    LogisticMap weighted = labels[centers ? map : 0];
    weighted.positive *= upstream[each ? map : 0];
    weighted.negative *= upstream[each ? map : 0];
    kernels.backward[dtype](source + map * map_bytes, target + map * map_bytes, weighted, begin, end);
  });
  return grad_responses;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("balanced_logistic_loss", TORCH_BOX(&fastops::balanced_logistic_loss_cpu));
  m.impl("balanced_logistic_loss_backward", TORCH_BOX(&fastops::balanced_logistic_loss_backward_cpu));
}
