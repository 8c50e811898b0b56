// Box losses on CUDA. One thread processes a pair of boxes, with one 16-byte access for each box in float. The formulas
// are in math/box_loss.h and math/focal_l1.h. Memory-bound: a forward with pred's gradient moves 48 bytes per pair in
// float, the backward 32. Pieces of kThreads boxes have their own sums, which a block of the second kernel adds in
// order.
#include <torch/csrc/stable/library.h>

#include "../common/box_loss.h"
#include "../common/layout.h"
#include "../math/focal_l1.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

// The four numbers of a box, with the widest accesses that the type allows.
template <class T>
__device__ __forceinline__ void load_box(const T* p, bool packed, opmath_t<T> (&box)[4]) {
  constexpr int kSize = Pack<T>::size < 4 ? Pack<T>::size : 4;
#pragma unroll
  for (int k = 0; k < 4; k += kSize) {
    Pack<T, kSize> pack;
    if (packed) {
      pack = load_pack<T, kSize>(p + k);
    } else {
#pragma unroll
      for (int j = 0; j < kSize; ++j) pack.values[j] = p[k + j];
    }
#pragma unroll
    for (int j = 0; j < kSize; ++j) box[k + j] = to_opmath(pack.values[j]);
  }
}

template <class T>
__device__ __forceinline__ void store_box(T* p, const opmath_t<T> (&box)[4]) {
  constexpr int kSize = Pack<T>::size < 4 ? Pack<T>::size : 4;
#pragma unroll
  for (int k = 0; k < 4; k += kSize) {
    Pack<T, kSize> pack;
#pragma unroll
    for (int j = 0; j < kSize; ++j) pack.values[j] = from_opmath<T>(box[k + j]);
    store_pack(p + k, pack);
  }
}

template <class T>
struct BoxLossArgs {
  using A = opmath_t<T>;
  const T *pred, *target;      // [boxes, 4]
  const A* mean;               // the weighted mean of the losses, or null
  T* loss;                     // [boxes] or null
  A *grad_pred, *grad_target;  // [boxes, 4] or null
  A* partial;                  // [2, pieces] or null: sums of losses and weights
  int64_t boxes, pieces;
  A eps, gamma;
  BoxFormat format;
  BoxPenalty penalty;
  BoxWeight weight;
  bool packed;
};

template <class A>
__device__ __forceinline__ void store_gradient(BoxFormat format, A* grad, A x0, A x1, A y0, A y1) {
  A g[4];
  box_gradient(format, x0, x1, g[0], g[2]);
  box_gradient(format, y0, y1, g[1], g[3]);
  store_box(grad, g);
}

// Without these bounds ptxas uses 64 registers (128 for double) and spills one. With them it uses 66 to 80 (144) and
// spills none.
template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 3) box_loss_kernel(BoxLossArgs<T> a) {
  using A = opmath_t<T>;
  const A mean = a.mean ? *a.mean : A(0);
  for (int64_t piece = blockIdx.x; piece < a.pieces; piece += gridDim.x) {
    const int64_t i = piece * kThreads + threadIdx.x;
    A loss = 0, weight = 0;
    if (i < a.boxes) {
      A p[4], t[4];
      load_box(a.pred + 4 * i, a.packed, p);
      load_box(a.target + 4 * i, a.packed, t);
      const BoxResult<A> r = box_loss(a.penalty, a.weight, box_axis(a.format, p[0], p[2], t[0], t[2], a.eps),
                                      box_axis(a.format, p[1], p[3], t[1], t[3], a.eps), a.gamma, mean);
      loss = r.loss, weight = r.weight;
      if (a.loss) a.loss[i] = from_opmath<T>(loss);
      if (a.grad_pred) store_gradient(a.format, a.grad_pred + 4 * i, r.x.p1, r.x.p2, r.y.p1, r.y.p2);
      if (a.grad_target) store_gradient(a.format, a.grad_target + 4 * i, r.x.t1, r.x.t2, r.y.t1, r.y.t2);
    }
    if (a.partial) {
      loss = block_sum(loss), weight = block_sum(weight);
      if (threadIdx.x == 0) a.partial[piece] = loss, a.partial[a.pieces + piece] = weight;
    }
  }
}

// One block computes loss = sum / divisor. If `weighted`, the divisor is the sum of the weights unless that is 0.
template <class T>
__global__ void __launch_bounds__(kThreads)
    box_loss_finish_kernel(const opmath_t<T>* partial, int64_t pieces, double divisor, bool weighted, T* loss,
                           opmath_t<T>* divisor_out, opmath_t<T>* mean) {
  using A = opmath_t<T>;
  if (blockIdx.x > 0) return;
  double loss_sum = 0, weight_sum = 0;
  for (int64_t i = threadIdx.x; i < pieces; i += kThreads) {
    loss_sum += partial[i];
    if (weighted) weight_sum += partial[pieces + i];
  }
  loss_sum = block_sum(loss_sum), weight_sum = block_sum(weight_sum);
  if (threadIdx.x > 0) return;
  if (weighted && !(weight_sum == 0)) divisor = weight_sum;
  if (loss) *loss = from_opmath<T>(A(loss_sum / divisor));
  if (divisor_out) *divisor_out = A(divisor);
  if (mean) *mean = A(loss_sum / divisor);
}

// out = saved grad / divisor; grad [boxes], or one value for all
template <class T>
__global__ void __launch_bounds__(kThreads)
    box_loss_scale_kernel(const opmath_t<T>* saved, const opmath_t<T>* divisor, const T* grad, bool one_grad, T* out,
                          int64_t boxes, bool packed) {
  using A = opmath_t<T>;
  const A inverse = A(1) / *divisor;
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < boxes; i += stride) {
    A box[4];
    load_box(saved + 4 * i, packed, box);
    const A factor = to_opmath(grad[one_grad ? 0 : i]) * inverse;
#pragma unroll
    for (int k = 0; k < 4; ++k) box[k] *= factor;
    store_box(out + 4 * i, box);
  }
}

// ---- FocalL1 ---------------------------------------------------------------------------------------------

// A piece has kThreads packs, one per thread. Values go one by one if the address or the end of the values does not
// allow a whole pack.
template <class T, class Body>
__device__ __forceinline__ void for_each_value(int64_t piece, int64_t n, bool packed, const T* a, const T* b, T* y,
                                               const Body& body) {
  constexpr int kSize = Pack<T>::size;
  const int64_t first = (piece * kThreads + threadIdx.x) * kSize;
  if (packed && first + kSize <= n) {
    const Pack<T> u = load_pack(a + first), v = load_pack(b + first);
    Pack<T> results;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      results.values[k] = from_opmath<T>(body(first + k, to_opmath(u.values[k]), to_opmath(v.values[k])));
    }
    if (y) store_pack(y + first, results);
  } else {
    for (int64_t i = first; i < n && i < first + kSize; ++i) {
      const T result = from_opmath<T>(body(i, to_opmath(a[i]), to_opmath(b[i])));
      if (y) y[i] = result;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    focal_l1_kernel(FocalL1<opmath_t<T>> f, const T* pred, const T* target, T* loss, opmath_t<T>* partial, int64_t n,
                    int64_t pieces, bool packed) {
  using A = opmath_t<T>;
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    A sum = 0;
    for_each_value(piece, n, packed, pred, target, loss, [&](int64_t, A p, A t) {
      const A value = f.forward(p, t);
      sum += value;
      return value;
    });
    if (partial) {
      sum = block_sum(sum);
      if (threadIdx.x == 0) partial[piece] = sum;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    focal_l1_backward_kernel(FocalL1<opmath_t<T>> f, const T* grad, bool one_grad, opmath_t<T> divisor, const T* pred,
                             const T* target, T* grad_pred, int64_t n, int64_t pieces, bool packed) {
  using A = opmath_t<T>;
  const A inverse = A(1) / divisor;
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    for_each_value(piece, n, packed, pred, target, grad_pred,
                   [&](int64_t i, A p, A t) { return f.backward(to_opmath(grad[one_grad ? 0 : i]) * inverse, p, t); });
  }
}

// ---- entry points ----------------------------------------------------------------------------------------

int64_t pieces_of(int64_t n, int64_t per_thread) {
  const int64_t piece = kThreads * per_thread;
  return (n + piece - 1) / piece;
}

std::vector<Tensor> box_loss_cuda(const Tensor& pred_, const Tensor& target_, std::string kind, std::string fmt,
                                  std::string reduction, double gamma, bool detach_weight, double eps, bool pred_grad,
                                  bool target_grad) {
  const BoxLossSettings s = check_box_loss(pred_, target_, kind, fmt, reduction, gamma, detach_weight, eps);
  const CudaScope scope(pred_);
  const Tensor pred = torch::stable::contiguous(pred_), target = torch::stable::contiguous(target_);
  const ScalarType opmath = opmath_of(pred);
  const bool each = s.reduction == Reduction::none, gradient = pred_grad || target_grad;
  const bool mean_first = s.needs_mean(gradient);
  const int64_t pieces = pieces_of(s.boxes, 1);

  Tensor loss = new_tensor(pred, each ? loss_shape(pred) : std::vector<int64_t>(), pred.scalar_type());
  std::optional<Tensor> divisor, mean, grad_pred, grad_target, partial;
  if (gradient) divisor = new_tensor(pred, {}, opmath);
  if (pred_grad) grad_pred = new_tensor(pred, shape_of(pred), opmath);
  if (target_grad) grad_target = new_tensor(pred, shape_of(pred), opmath);
  if (mean_first) mean = new_tensor(pred, {}, opmath);
  if (!each) partial = new_tensor(pred, {2, pieces}, opmath);

  dispatch_dtype(s.dtype, [&]<class T>() {
    using A = opmath_t<T>;
    BoxLossArgs<T> args{.pred = data<T>(pred), .target = data<T>(target)};
    args.loss = each ? mutable_data<T>(loss) : nullptr;
    args.partial = mutable_data<A>(partial);
    args.boxes = s.boxes, args.pieces = pieces;
    args.eps = A(eps), args.gamma = A(gamma);
    args.format = s.format, args.penalty = s.penalty, args.weight = s.weight;
    args.packed = is_aligned16(args.pred) && is_aligned16(args.target);
    const auto run = [&] {
      if (pieces > 0) launch(box_loss_kernel<T>, grid_for(pieces, 1), kThreads, 0, scope, args);
    };
    if (!mean_first) args.grad_pred = mutable_data<A>(grad_pred), args.grad_target = mutable_data<A>(grad_target);
    run();
    if (!each || gradient) {
      launch(box_loss_finish_kernel<T>, 1, kThreads, 0, scope, args.partial, each ? 0 : pieces, s.divisor(0),
             s.reduction == Reduction::weighted, each ? nullptr : mutable_data<T>(loss), mutable_data<A>(divisor),
             mutable_data<A>(mean));
    }
    if (mean_first) {
      args.grad_pred = mutable_data<A>(grad_pred), args.grad_target = mutable_data<A>(grad_target);
      args.partial = nullptr;
      args.mean = mutable_data<A>(mean);
      run();
    }
  });
  std::vector<Tensor> results{loss};
  for (const auto& t : {divisor, grad_pred, grad_target}) {
    if (t) results.push_back(*t);
  }
  return results;
}

std::vector<Tensor> box_loss_backward_scale_cuda(const Tensor& grad_, const Tensor& divisor,
                                                 std::vector<Tensor> grads) {
  check_box_loss_backward_scale(grad_, divisor, grads);
  const CudaScope scope(grad_);
  const Tensor grad = torch::stable::contiguous(grad_);
  std::vector<Tensor> results;
  for (const Tensor& saved_ : grads) {
    const Tensor saved = torch::stable::contiguous(saved_);
    const Tensor& out = results.emplace_back(new_tensor(grad, shape_of(saved), grad.scalar_type()));
    const int64_t boxes = saved.numel() / 4;
    if (boxes == 0) continue;
    dispatch_dtype(dtype_index("box_loss_backward_scale", "grad", grad), [&]<class T>() {
      using A = opmath_t<T>;
      launch(box_loss_scale_kernel<T>, grid_for(boxes, kThreads), kThreads, 0, scope, data<A>(saved), data<A>(divisor),
             data<T>(grad), grad.dim() == 0, mutable_data<T>(out), boxes, is_aligned16(data<A>(saved)));
    });
  }
  return results;
}

template <class A>
FocalL1<A> focal_l1_of(double beta) {
  return {A(beta * 2.718281828459045), A(std::log(beta))};
}

Tensor focal_l1_loss_cuda(const Tensor& pred_, const Tensor& target_, double beta, std::string reduction_) {
  const Reduction reduction = check_focal_l1("focal_l1_loss", pred_, target_, beta, reduction_);
  const CudaScope scope(pred_);
  const Tensor pred = dense(pred_), target = laid_out_like(target_, pred);
  const bool each = reduction == Reduction::none;
  Tensor loss = each ? torch::stable::empty_like(pred) : new_tensor(pred, {}, pred.scalar_type());
  const int64_t n = pred.numel();
  const double divisor = reduction == Reduction::mean ? double(std::max<int64_t>(n, 1)) : 1.0;
  dispatch_dtype(dtype_index("focal_l1_loss", "pred", pred), [&]<class T>() {
    using A = opmath_t<T>;
    const int64_t pieces = pieces_of(n, Pack<T>::size);
    std::optional<Tensor> partial;
    if (!each) partial = new_tensor(pred, {pieces}, opmath_of(pred));
    const T *p = data<T>(pred), *t = data<T>(target);
    T* y = each ? mutable_data<T>(loss) : nullptr;
    const bool packed = is_aligned16(p) && is_aligned16(t) && is_aligned16(y);
    if (n > 0) {
      launch(focal_l1_kernel<T>, grid_for(pieces, 1), kThreads, 0, scope, focal_l1_of<A>(beta), p, t, y,
             mutable_data<A>(partial), n, pieces, packed);
    }
    if (!each) {
      launch(box_loss_finish_kernel<T>, 1, kThreads, 0, scope, mutable_data<A>(partial), pieces, divisor, false,
             mutable_data<T>(loss), static_cast<A*>(nullptr), static_cast<A*>(nullptr));
    }
  });
  return loss;
}

Tensor focal_l1_loss_backward_cuda(const Tensor& grad_, const Tensor& pred_, const Tensor& target_, double beta,
                                   std::string reduction_) {
  const char* op = "focal_l1_loss_backward";
  const Reduction reduction = check_focal_l1(op, pred_, target_, beta, reduction_);
  check_focal_l1_grad(op, grad_, pred_, reduction);
  const CudaScope scope(pred_);
  const bool one = reduction != Reduction::none;
  const Tensor pred = dense(pred_), target = laid_out_like(target_, pred);
  const Tensor grad = one ? grad_ : laid_out_like(grad_, pred);
  Tensor grad_pred = torch::stable::empty_like(pred);
  const int64_t n = pred.numel();
  if (n == 0) return grad_pred;
  dispatch_dtype(dtype_index(op, "pred", pred), [&]<class T>() {
    using A = opmath_t<T>;
    const int64_t pieces = pieces_of(n, Pack<T>::size);
    const T *p = data<T>(pred), *t = data<T>(target);
    T* y = mutable_data<T>(grad_pred);
    const bool packed = is_aligned16(p) && is_aligned16(t) && is_aligned16(y);
    launch(focal_l1_backward_kernel<T>, grid_for(pieces, 1), kThreads, 0, scope, focal_l1_of<A>(beta), data<T>(grad),
           one, A(reduction == Reduction::mean ? n : 1), p, t, y, n, pieces, packed);
  });
  return grad_pred;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  m.impl("box_loss", TORCH_BOX(&fastops::box_loss_cuda));
  m.impl("box_loss_backward_scale", TORCH_BOX(&fastops::box_loss_backward_scale_cuda));
  m.impl("focal_l1_loss", TORCH_BOX(&fastops::focal_l1_loss_cuda));
  m.impl("focal_l1_loss_backward", TORCH_BOX(&fastops::focal_l1_loss_backward_cuda));
}
