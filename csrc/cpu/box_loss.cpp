// Box losses on the CPU: checks, reductions and threads; the loops are in simd/box_loss.cpp.
#include "../simd/box_loss.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#include "../common/box_loss.h"
#include "../common/layout.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(BoxLossKernels, box_loss_kernels)

namespace fastops {
namespace {

// Boxes, or values of FocalL1, per task. The sums of the tasks are added in order, so they do not depend on the number
// of threads.
constexpr int64_t kPiece = 4096;

struct Sums {
  double loss = 0, weight = 0;
};

// Calls body(begin, count, sums) for each piece and returns the total of the sums.
template <class Body>
Sums for_each_piece(int64_t n, const Body& body) {
  Sums total;
  if (n <= kPiece) {
    body(0, n, total);
    return total;
  }
  const int64_t pieces = (n + kPiece - 1) / kPiece;
  std::vector<Sums> sums(static_cast<size_t>(pieces));
  torch::stable::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) body(i * kPiece, std::min(kPiece, n - i * kPiece), sums[size_t(i)]);
  });
  for (const Sums& s : sums) total.loss += s.loss, total.weight += s.weight;
  return total;
}

const char* at(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }
char* at(void* p, int64_t bytes) { return p ? static_cast<char*>(p) + bytes : nullptr; }

Tensor scalar(const Tensor& like, double value, ScalarType dtype) {
  Tensor t = new_tensor(like, {}, dtype);
  void* p = t.mutable_data_ptr();
  switch (dtype) {
    case ScalarType::Double: *static_cast<double*>(p) = value; break;
    case ScalarType::Half: *static_cast<torch::headeronly::Half*>(p) = float(value); break;
    case ScalarType::BFloat16: *static_cast<torch::headeronly::BFloat16*>(p) = float(value); break;
    default: *static_cast<float*>(p) = float(value);
  }
  return t;
}

std::vector<Tensor> box_loss_cpu(const Tensor& pred_, const Tensor& target_, std::string kind, std::string fmt,
                                 std::string reduction, double gamma, bool detach_weight, double eps, bool pred_grad,
                                 bool target_grad) {
  const BoxLossSettings s = check_box_loss(pred_, target_, kind, fmt, reduction, gamma, detach_weight, eps);
  const Tensor pred = torch::stable::contiguous(pred_), target = torch::stable::contiguous(target_);
  const ScalarType opmath = opmath_of(pred);
  const auto run_kernel = FASTOPS_TABLE(box_loss_kernels).run[s.dtype];
  const int64_t box = 4 * int64_t(pred.element_size()), saved = opmath == ScalarType::Double ? 32 : 16;
  BoxLossCall call{s.format, s.penalty, s.weight, eps, gamma, 0.0};

  std::optional<Tensor> each, grad_pred, grad_target;
  if (s.reduction == Reduction::none) each = new_tensor(pred, loss_shape(pred), pred.scalar_type());
  if (pred_grad) grad_pred = new_tensor(pred, shape_of(pred), opmath);
  if (target_grad) grad_target = new_tensor(pred, shape_of(pred), opmath);
  const void *p = pred.const_data_ptr(), *t = target.const_data_ptr();
  void* loss = each ? each->mutable_data_ptr() : nullptr;
  const auto run = [&](void* gp, void* gt) {
    return for_each_piece(s.boxes, [&](int64_t begin, int64_t n, Sums& sums) {
      double sum[2];
      run_kernel(call, at(p, begin * box), at(t, begin * box), n, at(loss, begin * box / 4), at(gp, begin * saved),
                 at(gt, begin * saved), sum);
      sums = {sum[0], sum[1]};
    });
  };
  if (s.needs_mean(pred_grad || target_grad)) {
    const Sums sums = run(nullptr, nullptr);
    call.mean = sums.loss / s.divisor(sums.weight);
  }
  const Sums sums =
      run(grad_pred ? grad_pred->mutable_data_ptr() : nullptr, grad_target ? grad_target->mutable_data_ptr() : nullptr);

  const double divisor = s.divisor(sums.weight);
  std::vector<Tensor> results{each ? *each : scalar(pred, sums.loss / divisor, pred.scalar_type())};
  if (pred_grad || target_grad) results.push_back(scalar(pred, divisor, opmath));
  if (grad_pred) results.push_back(*grad_pred);
  if (grad_target) results.push_back(*grad_target);
  return results;
}

std::vector<Tensor> box_loss_backward_scale_cpu(const Tensor& grad_, const Tensor& divisor, std::vector<Tensor> grads) {
  check_box_loss_backward_scale(grad_, divisor, grads);
  const Tensor grad = torch::stable::contiguous(grad_);
  const DType dtype = dtype_index("box_loss_backward_scale", "grad", grad);
  const auto kernel = FASTOPS_TABLE(box_loss_kernels).scale[dtype];
  const double value = dtype == kDouble ? *static_cast<const double*>(divisor.const_data_ptr())
                                        : double(*static_cast<const float*>(divisor.const_data_ptr()));
  const bool one = grad.dim() == 0;
  const int64_t item = int64_t(grad.element_size()), saved_box = dtype == kDouble ? 32 : 16;
  std::vector<Tensor> results;
  for (const Tensor& saved_ : grads) {
    const Tensor saved = torch::stable::contiguous(saved_);
    const Tensor& out = results.emplace_back(new_tensor(grad, shape_of(saved), grad.scalar_type()));
    const void *g = grad.const_data_ptr(), *source = saved.const_data_ptr();
    void* target = out.mutable_data_ptr();
    for_each_piece(saved.numel() / 4, [&](int64_t begin, int64_t n, Sums&) {
      kernel(at(source, begin * saved_box), value, at(g, one ? 0 : begin * item), one, at(target, begin * 4 * item), n);
    });
  }
  return results;
}

// ---- FocalL1 ---------------------------------------------------------------------------------------------

Tensor focal_l1_loss_cpu(const Tensor& pred_, const Tensor& target_, double beta, std::string reduction_) {
  const Reduction reduction = check_focal_l1("focal_l1_loss", pred_, target_, beta, reduction_);
  const DType dtype = dtype_index("focal_l1_loss", "pred", pred_);
  const Tensor pred = dense(pred_), target = laid_out_like(target_, pred);
  std::optional<Tensor> each;
  if (reduction == Reduction::none) each = torch::stable::empty_like(pred);
  const auto kernel = FASTOPS_TABLE(box_loss_kernels).focal_l1[dtype];
  const int64_t item = int64_t(pred.element_size()), n = pred.numel();
  const void *p = pred.const_data_ptr(), *t = target.const_data_ptr();
  void* loss = each ? each->mutable_data_ptr() : nullptr;
  const Sums sums = for_each_piece(n, [&](int64_t begin, int64_t count, Sums& sum) {
    sum.loss = kernel(beta, at(p, begin * item), at(t, begin * item), count, at(loss, begin * item));
  });
  if (each) return *each;
  return scalar(pred, reduction == Reduction::mean ? sums.loss / double(std::max<int64_t>(n, 1)) : sums.loss,
                pred.scalar_type());
}

Tensor focal_l1_loss_backward_cpu(const Tensor& grad_, const Tensor& pred_, const Tensor& target_, double beta,
                                  std::string reduction_) {
  const char* op = "focal_l1_loss_backward";
  const Reduction reduction = check_focal_l1(op, pred_, target_, beta, reduction_);
  check_focal_l1_grad(op, grad_, pred_, reduction);
  const DType dtype = dtype_index(op, "pred", pred_);
  const bool one = reduction != Reduction::none;
  const Tensor pred = dense(pred_), target = laid_out_like(target_, pred);
  const Tensor grad = one ? grad_ : laid_out_like(grad_, pred);
  Tensor grad_pred = torch::stable::empty_like(pred);
  const auto kernel = FASTOPS_TABLE(box_loss_kernels).focal_l1_backward[dtype];
  const int64_t item = int64_t(pred.element_size()), n = pred.numel();
  const double divisor = reduction == Reduction::mean ? double(std::max<int64_t>(n, 1)) : 1.0;
  const void *g = grad.const_data_ptr(), *p = pred.const_data_ptr(), *t = target.const_data_ptr();
  void* out = grad_pred.mutable_data_ptr();
  for_each_piece(n, [&](int64_t begin, int64_t count, Sums&) {
    kernel(beta, at(g, one ? 0 : begin * item), one, divisor, at(p, begin * item), at(t, begin * item),
           at(out, begin * item), count);
  });
  return grad_pred;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("box_loss", TORCH_BOX(&fastops::box_loss_cpu));
  m.impl("box_loss_backward_scale", TORCH_BOX(&fastops::box_loss_backward_scale_cpu));
  m.impl("focal_l1_loss", TORCH_BOX(&fastops::focal_l1_loss_cpu));
  m.impl("focal_l1_loss_backward", TORCH_BOX(&fastops::focal_l1_loss_backward_cpu));
}
