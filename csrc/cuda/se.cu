// Squeeze-and-excitation on CUDA; the formulas are in math/se.h.
//
// Memory-bound. Lower bounds, in units of the bytes of x: se_scale 2 (x, y), se_scale_backward 3 (grad, x, grad_x),
// se_attention 3 (x, x, y), se_attention_backward 4 (grad, x, grad, grad_x). The two layers between the passes read
// 2 R C weights per image, from the second-level cache except for the first image.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>
#include <type_traits>
#include <utility>

#include "../common/se.h"
#include "channel_layout.cuh"
#include "excitation.cuh"
#include "se_passes.cuh"

namespace fastops {
namespace {

template <class T, class L>
void launch_scale(const CudaScope& scope, const ChannelLayout& layout, const T* x, const L* logits,
                  const opmath_t<T>* shift, T* y) {
  const int64_t n = layout.values();
  if (n == 0) return;
  const ScaleArgs<T, L> args{x, logits, shift, y, layout.batch, layout.channels, layout.pixels};
  if (!layout.channels_inner) {
    const int64_t packed = layout.packed && layout.pixels >= Pack<T>::size ? n / Pack<T>::size : 0;
    return launch(scale_rows_kernel<T, L>, grid_for(packed ? packed : n, kThreads), kThreads, 0, scope, args, n,
                  packed);
  }
  with_vector<T>(layout, [&]<int kVector>() {
    const int64_t pixels = layout.batch * layout.pixels;
    const PixelBlock plan(layout, kVector, pixels);
    const int64_t span = plan.map_span(pixels), items = ceil_div(pixels, span) * plan.tiles;
    launch(scale_pixels_kernel<T, L, kVector>, grid_for(items, 1), plan.block, 0, scope, args, plan.tiles, span);
  });
}

// The threads of a pass, and the parts that it is divided into. Its partial sums need [sums, N, chunks, C].
template <class T>
struct PassPlan {
  dim3 block;
  int64_t chunks, span, tiles = 1;
  explicit PassPlan(const ChannelLayout& layout) {
    const int vector = layout.packed ? Pack<T>::size : 1;
    const int64_t pixels = std::max<int64_t>(layout.pixels, 1);
    if (layout.channels_inner) {
      const PixelBlock plan(layout, vector, pixels);
      block = plan.block;
      tiles = plan.tiles;
      split({layout.batch * tiles, pixels, 4 * block.y});
    } else {
      const RowBlock rows(layout, vector);
      block = rows.block();
      split({layout.rows(), pixels, rows.group == kThreads ? 16 * kThreads : pixels});
    }
  }

 private:
  void split(const Parts& pieces) { chunks = pieces.count, span = pieces.span; }
};

// `args` has all pointers. This fills in the sizes.
template <Pass kPass, class T>
void launch_pass(const CudaScope& scope, const ChannelLayout& layout, const PassPlan<T>& plan,
                 std::type_identity_t<PassArgs<T>> args) {
  args.batch = layout.batch, args.channels = layout.channels, args.pixels = layout.pixels;
  args.chunks = plan.chunks, args.span = plan.span, args.tiles = plan.tiles, args.packed = layout.packed;
  if (layout.channels_inner) {
    with_vector<T>(layout, [&]<int kVector>() {
      launch(pass_pixels_kernel<T, kPass, kVector>, grid_for(layout.batch * plan.chunks * plan.tiles, 1), plan.block, 0,
             scope, args);
    });
  } else {
    launch(pass_rows_kernel<T, kPass>, grid_for(layout.rows() * plan.chunks, plan.block.y), plan.block, 0, scope, args);
  }
  if (kPass == Pass::kScaleBackward && plan.chunks > 1) {
    launch(grad_logits_kernel<T>, grid_for(layout.rows(), kSumColumns), dim3(kSumColumns, kSumRows), 0, scope, args);
  }
}

// ---- entry points -----------------------------------------------------------------------------------------------

ScalarType opmath_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Tensor se_scale_cuda(const Tensor& x_, const Tensor& logits_) {
  const SeShape shape = check_se_scale("se_scale", x_, logits_);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_), logits = torch::stable::contiguous(logits_);
  Tensor y = torch::stable::empty_like(x);
  const ChannelLayout layout = layout_of(shape, x, y);
  dispatch_dtype(dtype_index("se_scale", "x", x), [&]<class T>() {
    launch_scale<T, T>(scope, layout, data<T>(x), data<T>(logits), nullptr, mutable_data<T>(y));
  });
  return y;
}

std::tuple<Tensor, Tensor> se_scale_backward_cuda(const Tensor& grad_, const Tensor& x_, const Tensor& logits_) {
  const char* op = "se_scale_backward";
  const SeShape shape = check_se_scale(op, x_, logits_);
  check_se_grad(op, grad_, x_);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_), logits = torch::stable::contiguous(logits_), grad = laid_out_like(grad_, x);
  Tensor grad_x = torch::stable::empty_like(x), grad_logits = torch::stable::empty_like(logits);
  const ChannelLayout layout = layout_of(shape, x, grad, grad_x);
  if (layout.rows() == 0) return {grad_x, grad_logits};
  dispatch_dtype(dtype_index(op, "x", x), [&]<class T>() {
    const PassPlan<T> plan(layout);
    const int64_t partials = plan.chunks > 1 ? plan.chunks * layout.rows() : 0;
    const Tensor partial = torch::stable::new_empty(x, {partials}, opmath_of(x));
    launch_pass<Pass::kScaleBackward>(scope, layout, plan,
                                      {.grad = data<T>(grad),
                                       .x = data<T>(x),
                                       .logits = data<T>(logits),
                                       .grad_x = mutable_data<T>(grad_x),
                                       .grad_logits = mutable_data<T>(grad_logits),
                                       .partial = mutable_data<opmath_t<T>>(partial)});
  });
  return {grad_x, grad_logits};
}

// Scratch memory for the excitation in one allocation, which `scratch` owns. The weights are contiguous.
template <class T>
Excitation<T> make_excitation(const ChannelLayout& layout, int64_t chunks, const Tensor& w1,
                              const std::optional<Tensor>& b1, const Tensor& w2, const std::optional<Tensor>& b2,
                              bool backward, Tensor& scratch) {
  const int64_t hidden = w1.size(0), rows = layout.rows(), sums = chunks * rows, units = layout.batch * hidden;
  const int64_t values = sums + 2 * rows + units;
  scratch = torch::stable::new_empty(w1, {backward ? values + sums + 2 * rows + units : values}, opmath_of(w1));
  opmath_t<T>* next = mutable_data<opmath_t<T>>(scratch);
  const auto take = [&](int64_t n) { return std::exchange(next, next + n); };
  Excitation<T> e{data<T>(w1), b1 ? data<T>(*b1) : nullptr, data<T>(w2), b2 ? data<T>(*b2) : nullptr};
  e.sum_x = take(sums);
  if (backward) e.sum_grad_x = take(sums);  // after sum_x, where Pass::kMoments writes it
  e.z = take(rows), e.h = take(units), e.logits = take(rows);
  if (backward) e.grad_logits = take(rows), e.grad_h = take(units), e.shift = take(rows);
  e.batch = layout.batch, e.channels = layout.channels, e.pixels = layout.pixels;
  e.hidden = hidden, e.chunks = chunks;
  return e;
}

std::optional<Tensor> contiguous_or_none(const std::optional<Tensor>& t) {
  return t ? std::optional(torch::stable::contiguous(*t)) : std::nullopt;
}

Tensor se_attention_cuda(const Tensor& x_, const Tensor& w1_, const std::optional<Tensor>& b1_, const Tensor& w2_,
                         const std::optional<Tensor>& b2_) {
  int64_t hidden = 0;
  const SeShape shape = check_se_attention("se_attention", x_, w1_, b1_, w2_, b2_, hidden);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_), w1 = torch::stable::contiguous(w1_), w2 = torch::stable::contiguous(w2_);
  const std::optional<Tensor> b1 = contiguous_or_none(b1_), b2 = contiguous_or_none(b2_);
  Tensor y = torch::stable::empty_like(x);
  if (y.numel() == 0) return y;
  const ChannelLayout layout = layout_of(shape, x, y);
  dispatch_dtype(dtype_index("se_attention", "x", x), [&]<class T>() {
    const PassPlan<T> plan(layout);
    Tensor scratch;
    const Excitation<T> e = make_excitation<T>(layout, plan.chunks, w1, b1, w2, b2, false, scratch);
    launch_pass<Pass::kSqueeze>(scope, layout, plan, {.x = data<T>(x), .partial = e.sum_x});
    launch(excitation_kernel<T>, grid_for(shape.batch, 1), kExcitationThreads, 0, scope, e);
    launch_scale<T, opmath_t<T>>(scope, layout, data<T>(x), e.logits, nullptr, mutable_data<T>(y));
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> se_attention_backward_cuda(const Tensor& grad_, const Tensor& x_,
                                                                              const Tensor& w1_,
                                                                              const std::optional<Tensor>& b1_,
                                                                              const Tensor& w2_,
                                                                              const std::optional<Tensor>& b2_) {
  const char* op = "se_attention_backward";
  int64_t hidden = 0;
  const SeShape shape = check_se_attention(op, x_, w1_, b1_, w2_, b2_, hidden);
  check_se_grad(op, grad_, x_);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_), grad = laid_out_like(grad_, x);
  const Tensor w1 = torch::stable::contiguous(w1_), w2 = torch::stable::contiguous(w2_);
  const std::optional<Tensor> b1 = contiguous_or_none(b1_), b2 = contiguous_or_none(b2_);
  Tensor grad_x = torch::stable::empty_like(x);
  Tensor grad_w1 = torch::stable::empty_like(w1), grad_b1 = torch::stable::new_empty(x, {hidden});
  Tensor grad_w2 = torch::stable::empty_like(w2), grad_b2 = torch::stable::new_empty(x, {shape.channels});
  const ChannelLayout layout = layout_of(shape, x, grad, grad_x);
  dispatch_dtype(dtype_index(op, "x", x), [&]<class T>() {
    const PassPlan<T> plan(layout);
    Tensor scratch;
    const Excitation<T> e = make_excitation<T>(layout, plan.chunks, w1, b1, w2, b2, true, scratch);
    if (layout.rows() > 0) {
      launch_pass<Pass::kMoments>(scope, layout, plan, {.grad = data<T>(grad), .x = data<T>(x), .partial = e.sum_x});
    }
    if (layout.batch > 0) {
      launch(excitation_backward_kernel<T>, grid_for(shape.batch, 1), kExcitationThreads, 0, scope, e);
    }
    const int64_t values = (2 * shape.channels + 1) * hidden + shape.channels;
    if (values > 0) {
      launch(grad_weights_kernel<T>, grid_for(values, kThreads), kThreads, 0, scope, e, mutable_data<T>(grad_w1),
             mutable_data<T>(grad_b1), mutable_data<T>(grad_w2), mutable_data<T>(grad_b2));
    }
    launch_scale<T, opmath_t<T>>(scope, layout, data<T>(grad), e.logits, e.shift, mutable_data<T>(grad_x));
  });
  return {grad_x, grad_w1, grad_b1, grad_w2, grad_b2};
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  m.impl("se_scale", TORCH_BOX(&fastops::se_scale_cuda));
  m.impl("se_scale_backward", TORCH_BOX(&fastops::se_scale_backward_cuda));
  m.impl("se_attention", TORCH_BOX(&fastops::se_attention_cuda));
  m.impl("se_attention_backward", TORCH_BOX(&fastops::se_attention_backward_cuda));
}
