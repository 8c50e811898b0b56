// The CPU loops of the box losses; the formulas are in math/box_loss.h and math/focal_l1.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.

// Products and sums are rounded one by one. If the compiler could fuse them, the last bit of a loss would depend on
// whether the gradient is computed too. This takes 9 % more time (eiou; ciou 30 %).
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include "box_loss.h"

#include "../math/focal_l1.h"
#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

// A block of boxes goes through three loops of SIMD code: [n, 4] -> axes, axes -> losses and gradients by edges, edges
// -> [n, 4]. A single loop would need a copy for each format, penalty and weight. The loops are not inlined, so the
// three types that compute in float share them.
constexpr int kBoxes = 128;  // a block's 22 arrays of floats are 11 KiB
constexpr int kAxisFields = 7, kEdges = 4;

template <class T>
struct BoxBlock {
  alignas(64) T axes[2][kAxisFields][kBoxes];
  alignas(64) T edges[2][kEdges][kBoxes];
  alignas(64) T loss[kBoxes], weight[kBoxes];
};

template <class T>
static inline BoxAxis<T> load_axis(const T (&a)[kAxisFields][kBoxes], int i) {
  return {a[0][i], a[1][i], a[2][i], a[3][i], a[4][i], a[5][i], a[6][i]};
}

template <class T>
static inline void store_axis(T (&a)[kAxisFields][kBoxes], int i, const BoxAxis<T>& axis) {
  a[0][i] = axis.p, a[1][i] = axis.t, a[2][i] = axis.left, a[3][i] = axis.right;
  a[4][i] = axis.offset, a[5][i] = axis.stretch, a[6][i] = axis.reach;
}

template <BoxFormat kFormat, class T>
[[gnu::noinline]] static void split_axes(BoxBlock<T>& block, const T* pred, const T* target, int n, T eps) {
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int i = 0; i < n; ++i) {
    const T *p = pred + 4 * i, *t = target + 4 * i;
    store_axis(block.axes[0], i, box_axis(kFormat, p[0], p[2], t[0], t[2], eps));
    store_axis(block.axes[1], i, box_axis(kFormat, p[1], p[3], t[1], t[3], eps));
  }
}

template <BoxPenalty kPenalty, BoxWeight kWeight, bool kGradient, class T>
[[gnu::noinline]] static void losses(BoxBlock<T>& block, int n, T gamma, T mean) {
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int i = 0; i < n; ++i) {
    const BoxResult<T> r =
        box_loss(kPenalty, kWeight, load_axis(block.axes[0], i), load_axis(block.axes[1], i), gamma, mean);
    block.loss[i] = r.loss;
    if (kWeight != BoxWeight::none) block.weight[i] = r.weight;
    if (kGradient) {
      block.edges[0][0][i] = r.x.p1, block.edges[0][1][i] = r.x.p2;
      block.edges[0][2][i] = r.x.t1, block.edges[0][3][i] = r.x.t2;
      block.edges[1][0][i] = r.y.p1, block.edges[1][1][i] = r.y.p2;
      block.edges[1][2][i] = r.y.t1, block.edges[1][3][i] = r.y.t2;
    }
  }
}

// of target if kTarget, else of pred
template <BoxFormat kFormat, bool kTarget, class T>
[[gnu::noinline]] static void join_gradient(const BoxBlock<T>& block, T* grad, int n) {
  constexpr int kFirst = kTarget ? 2 : 0;
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int i = 0; i < n; ++i) {
    T* g = grad + 4 * i;
    box_gradient(kFormat, block.edges[0][kFirst][i], block.edges[0][kFirst + 1][i], g[0], g[2]);
    box_gradient(kFormat, block.edges[1][kFirst][i], block.edges[1][kFirst + 1][i], g[1], g[3]);
  }
}

// Calls body.operator()<kFormat>().
template <class Body>
static inline void with_format(BoxFormat format, const Body& body) {
  switch (format) {
    case BoxFormat::xyxy: return body.template operator()<BoxFormat::xyxy>();
    case BoxFormat::xywh: return body.template operator()<BoxFormat::xywh>();
    case BoxFormat::cxcywh: return body.template operator()<BoxFormat::cxcywh>();
  }
}

template <bool kGradient, class T>
static void dispatch_losses(const BoxLossCall& call, BoxBlock<T>& block, int n) {
  const T gamma = T(call.gamma), mean = T(call.mean);
  switch (call.weight) {
    case BoxWeight::root: return losses<BoxPenalty::eiou, BoxWeight::root, kGradient>(block, n, gamma, mean);
    case BoxWeight::power: return losses<BoxPenalty::eiou, BoxWeight::power, kGradient>(block, n, gamma, mean);
    case BoxWeight::live: return losses<BoxPenalty::eiou, BoxWeight::live, kGradient>(block, n, gamma, mean);
    case BoxWeight::none: break;
  }
  switch (call.penalty) {
    case BoxPenalty::iou: return losses<BoxPenalty::iou, BoxWeight::none, kGradient>(block, n, gamma, mean);
    case BoxPenalty::giou: return losses<BoxPenalty::giou, BoxWeight::none, kGradient>(block, n, gamma, mean);
    case BoxPenalty::diou: return losses<BoxPenalty::diou, BoxWeight::none, kGradient>(block, n, gamma, mean);
    case BoxPenalty::ciou: return losses<BoxPenalty::ciou, BoxWeight::none, kGradient>(block, n, gamma, mean);
    case BoxPenalty::eiou: return losses<BoxPenalty::eiou, BoxWeight::none, kGradient>(block, n, gamma, mean);
  }
}

template <class T>
static void run(const BoxLossCall& call, const void* pred_, const void* target_, int64_t n, void* loss_,
                void* grad_pred_, void* grad_target_, double* sums) {
  using A = opmath_t<T>;
  const T *pred = static_cast<const T*>(pred_), *target = static_cast<const T*>(target_);
  A *grad_pred = static_cast<A*>(grad_pred_), *grad_target = static_cast<A*>(grad_target_);
  BoxBlock<A> block{};  // zeros: the last block is rounded up to whole SIMD registers
  A pred_buffer[sizeof(T) < sizeof(A) ? 4 * kBoxes : 1], target_buffer[sizeof(T) < sizeof(A) ? 4 * kBoxes : 1];
  double loss_sum = 0, weight_sum = 0;
  for (int64_t begin = 0; begin < n; begin += kBoxes) {
    const int count = n - begin < kBoxes ? int(n - begin) : kBoxes;
    const int whole = (count + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
    with_format(call.format, [&]<BoxFormat kFormat>() {
      split_axes<kFormat>(block, as_opmath(pred + 4 * begin, pred_buffer, 4 * count),
                          as_opmath(target + 4 * begin, target_buffer, 4 * count), count, A(call.eps));
      if (grad_pred || grad_target) {
        dispatch_losses<true>(call, block, whole);
        if (grad_pred) join_gradient<kFormat, false>(block, grad_pred + 4 * begin, count);
        if (grad_target) join_gradient<kFormat, true>(block, grad_target + 4 * begin, count);
      } else {
        dispatch_losses<false>(call, block, whole);
      }
    });
    if (loss_) {
      T* loss = static_cast<T*>(loss_) + begin;
      if constexpr (sizeof(T) == sizeof(A)) {
        memcpy(loss, block.loss, size_t(count) * sizeof(T));
      } else {
        from_opmath(block.loss, loss, count);
      }
    } else {
      loss_sum += double(sum(block.loss, count));
      weight_sum += call.weight == BoxWeight::none ? double(count) : double(sum(block.weight, count));
    }
  }
  sums[0] = loss_sum, sums[1] = weight_sum;
}

template <class T>
static void scale(const void* saved_, double divisor, const void* grad_, bool one_grad, void* out_, int64_t n) {
  using A = opmath_t<T>;
  const A *saved = static_cast<const A*>(saved_), inverse = A(1) / A(divisor);
  const T* grad = static_cast<const T*>(grad_);
  T* out = static_cast<T*>(out_);
  constexpr int kValues = 4 * kBoxes;
  A grads[kBoxes], results[kValues];
  const A one = one_grad ? *as_opmath(grad, grads, 1) * inverse : A(0);
  for (int64_t begin = 0; begin < n; begin += kBoxes) {
    const int count = n - begin < kBoxes ? int(n - begin) : kBoxes;
    const A* source = saved + 4 * begin;
    A* target = opmath_target(out + 4 * begin, results);
    if (one_grad) {
      FASTOPS_INDEPENDENT_ITERATIONS
      for (int i = 0; i < 4 * count; ++i) target[i] = source[i] * one;
    } else {
      const A* g = as_opmath(grad + begin, grads, count);
      FASTOPS_INDEPENDENT_ITERATIONS
      for (int i = 0; i < 4 * count; ++i) target[i] = source[i] * (g[i / 4] * inverse);
    }
    finish(out + 4 * begin, target, 4 * count);
  }
}

// ---- FocalL1 ---------------------------------------------------------------------------------------------

template <class A>
static FocalL1<A> focal_l1_of(double beta) {
  return {A(beta * 2.718281828459045), A(log_(beta))};
}

template <class T>
static double focal_l1(double beta, const void* pred_, const void* target_, int64_t n, void* loss_) {
  using A = opmath_t<T>;
  const T *pred = static_cast<const T*>(pred_), *target = static_cast<const T*>(target_);
  const FocalL1<A> f = focal_l1_of<A>(beta);
  A a[kBlock], b[kBlock], losses[kBlock];
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    map2(as_opmath(pred + begin, a, count), as_opmath(target + begin, b, count), losses, count,
         [f](A p, A t) { return f.forward(p, t); });
    if (loss_) {
      T* loss = static_cast<T*>(loss_) + begin;
      if constexpr (sizeof(T) == sizeof(A)) {
        memcpy(loss, losses, size_t(count) * sizeof(T));
      } else {
        from_opmath(losses, loss, count);
      }
    } else {
      total += double(sum(losses, count));
    }
  }
  return total;
}

template <class T>
static void focal_l1_backward(double beta, const void* grad_, bool one_grad, double divisor, const void* pred_,
                              const void* target_, void* grad_pred_, int64_t n) {
  using A = opmath_t<T>;
  const T *pred = static_cast<const T*>(pred_), *target = static_cast<const T*>(target_);
  const T* grad = static_cast<const T*>(grad_);
  T* grad_pred = static_cast<T*>(grad_pred_);
  const FocalL1<A> f = focal_l1_of<A>(beta);
  A a[kBlock], b[kBlock], c[kBlock], results[kBlock];
  const A inverse = A(1) / A(divisor), one = one_grad ? *as_opmath(grad, c, 1) * inverse : A(0);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    const A *p = as_opmath(pred + begin, a, count), *t = as_opmath(target + begin, b, count);
    A* out = opmath_target(grad_pred + begin, results);
    if (one_grad) {
      map2(p, t, out, count, [f, one](A x, A y) { return f.backward(one, x, y); });
    } else {
      const A* g = as_opmath(grad + begin, c, count);
      FASTOPS_INDEPENDENT_ITERATIONS
      for (int64_t i = 0; i < count; ++i) out[i] = f.backward(g[i] * inverse, p[i], t[i]);
    }
    finish(grad_pred + begin, out, count);
  }
}

extern const BoxLossKernels box_loss_kernels;
const BoxLossKernels box_loss_kernels = {
    FASTOPS_ALL_DTYPES(run),
    FASTOPS_ALL_DTYPES(scale),
    FASTOPS_ALL_DTYPES(focal_l1),
    FASTOPS_ALL_DTYPES(focal_l1_backward),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
