// affine_mish and batch_norm_mish on CUDA; the formulas are in math/affine_mish.h.
//
// Memory-bound. Lower bounds, in units of the bytes of x: affine_mish 2 (x, y), its backward 3 (grad, x, grad_x),
// batch_norm_mish 3 (x, x, y), its backward 5 (grad, x, grad, x, grad_x).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>
#include <type_traits>

#include "../common/affine_mish.h"
#include "affine_mish_passes.cuh"
#include "channel_layout.cuh"

namespace fastops {
namespace {

template <bool kGradient, class T, class L>
void launch_map(const CudaScope& scope, const ChannelLayout& layout, const std::type_identity_t<T>* grad, const T* x,
                T* out, const ChannelMaps<T, L>& maps) {
  MapArgs<T, L> args{grad, x, out, maps, layout.channels, layout.pixels, layout.values()};
  if (!layout.channels_inner) {
    const int64_t packed = layout.packed && layout.pixels >= Pack<T>::size ? args.n / Pack<T>::size : 0;
    return launch(map_rows_kernel<T, L, kGradient>, grid_for(packed ? packed : args.n, kThreads), kThreads, 0, scope,
                  args, packed);
  }
  args.pixels *= layout.batch;
  with_vector<T>(layout, [&]<int kVector>() {
    const PixelBlock plan(layout, kVector, args.pixels);
    const int64_t span = plan.map_span(args.pixels), items = ceil_div(args.pixels, span) * plan.tiles;
    launch(map_pixels_kernel<T, L, kGradient, kVector>, grid_for(items, 1), plan.block, 0, scope, args, plan.tiles,
           span);
  });
}

// The threads of a pass, and the parts that it is divided into.
template <class T>
struct PassPlan {
  dim3 block;
  int64_t parts, span, terms, tiles = 1;

  explicit PassPlan(const ChannelLayout& layout) {
    const int vector = layout.packed ? Pack<T>::size : 1;
    if (layout.channels_inner) {
      const PixelBlock plan(layout, vector, layout.batch * layout.pixels);
      block = plan.block;
      tiles = plan.tiles;
      split({tiles, layout.batch * layout.pixels, 4 * block.y});
      terms = parts;
    } else {
      const RowBlock rows(layout, vector);
      block = rows.block();
      split({layout.rows(), layout.pixels, rows.group == kThreads ? 16 * kThreads : layout.pixels});
      terms = layout.batch * parts;
    }
  }

 private:
  void split(const Parts& pieces) { parts = pieces.count, span = pieces.span; }
};

Tensor empty_partial(const Tensor& x, int64_t terms, int64_t channels) {
  return torch::stable::new_empty(x, {2, terms, channels}, ScalarType::Double);
}

// `args` has all pointers except partial. This fills in the sizes and returns partial [2, terms, C].
template <ChannelPass kPass, class T, class L>
Tensor launch_pass(const CudaScope& scope, const ChannelLayout& layout, const PassPlan<T>& plan, const Tensor& x,
                   ChannelPassArgs<T, L> args) {
  const Tensor partial = empty_partial(x, plan.terms, layout.channels);
  args.partial = mutable_data<double>(partial);
  args.rows = layout.rows(), args.channels = layout.channels;
  args.length = layout.channels_inner ? layout.batch * layout.pixels : layout.pixels;
  args.parts = plan.parts, args.span = plan.span, args.terms = plan.terms, args.tiles = plan.tiles;
  args.packed = layout.packed;
  if (layout.channels_inner) {
    with_vector<T>(layout, [&]<int kVector>() {
      launch(channel_pixels_kernel<T, L, kPass, kVector>, grid_for(plan.parts * plan.tiles, 1), plan.block, 0, scope,
             args);
    });
  } else {
    launch(channel_rows_kernel<T, L, kPass>, grid_for(layout.rows() * plan.parts, plan.block.y), plan.block, 0, scope,
           args);
  }
  return partial;
}

template <class... Parameters, class... Args>
void launch_channels(void (*kernel)(Parameters...), const CudaScope& scope, int64_t channels, const Args&... args) {
  launch(kernel, grid_for(channels, kSumColumns), dim3(kSumColumns, kSumRows), 0, scope, args...);
}

// ---- affine_mish --------------------------------------------------------------------------------------------------

Tensor affine_mish_cuda(const Tensor& x_, const Tensor& weight_, const Tensor& bias_) {
  const ChannelShape shape = check_affine_mish("affine_mish", x_, weight_, bias_);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_), weight = torch::stable::contiguous(weight_);
  const Tensor bias = torch::stable::contiguous(bias_);
  Tensor y = torch::stable::empty_like(x);
  if (y.numel() == 0) return y;
  const ChannelLayout layout = layout_of(shape, x, y);
  dispatch_dtype(dtype_index("affine_mish", "x", x), [&]<class T>() {
    with_parameters<T>(weight, [&]<class L>() {
      launch_map<false>(scope, layout, nullptr, data<T>(x), mutable_data<T>(y),
                        ChannelMaps<T, L>{.scale = data<L>(weight), .shift = data<L>(bias)});
    });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> affine_mish_backward_cuda(const Tensor& grad_, const Tensor& x_,
                                                             const Tensor& weight_, const Tensor& bias_) {
  const char* op = "affine_mish_backward";
  const ChannelShape shape = check_affine_mish(op, x_, weight_, bias_);
  check_channels_grad(op, grad_, x_);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_), grad = laid_out_like(grad_, x), weight = torch::stable::contiguous(weight_);
  const Tensor bias = torch::stable::contiguous(bias_);
  Tensor grad_x = torch::stable::empty_like(x);
  Tensor grad_weight = torch::stable::empty_like(weight), grad_bias = torch::stable::empty_like(bias);
  if (x.numel() == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_x, grad_weight, grad_bias};
  }
  const ChannelLayout layout = layout_of(shape, x, grad, grad_x);
  dispatch_dtype(dtype_index(op, "x", x), [&]<class T>() {
    with_parameters<T>(weight, [&]<class L>() {
      const PassPlan<T> plan(layout);
      const ChannelMaps<T, L> maps{.scale = data<L>(weight), .shift = data<L>(bias)};
      const Tensor partial = launch_pass<ChannelPass::kBackward, T, L>(
          scope, layout, plan, x,
          {.grad = data<T>(grad), .x = data<T>(x), .grad_x = mutable_data<T>(grad_x), .maps = maps});
      launch_channels(affine_gradients_kernel<L>, scope, layout.channels, data<double>(partial), plan.terms,
                      layout.channels, mutable_data<L>(grad_weight), mutable_data<L>(grad_bias));
    });
  });
  return {grad_x, grad_weight, grad_bias};
}

// ---- batch_norm_mish ----------------------------------------------------------------------------------------------

std::optional<Tensor> contiguous_or_none(const std::optional<Tensor>& t) {
  return t ? std::optional(torch::stable::contiguous(*t)) : std::nullopt;
}

// `maps` [5, C] owns the memory that the result points to.
template <class T, class L>
BatchNorm<opmath_t<T>, L> make_batch_norm(const Tensor& stats, const std::optional<Tensor>& weight,
                                          const std::optional<Tensor>& bias, const Tensor& maps, int64_t channels) {
  return {mutable_data<double>(stats), weight ? data<L>(*weight) : nullptr, bias ? data<L>(*bias) : nullptr,
          mutable_data<opmath_t<T>>(maps), channels};
}

template <class T>
ChannelMaps<T, opmath_t<T>> maps_of(const opmath_t<T>* maps, int64_t channels) {
  return {.scale = maps + channels,
          .shift = maps + 2 * channels,
          .center = maps,
          .slope = maps + 3 * channels,
          .offset = maps + 4 * channels};
}

Tensor empty_maps(const Tensor& x) {
  return torch::stable::new_empty(x, {5, x.size(1)},
                                  x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
}

std::tuple<Tensor, Tensor> batch_norm_mish_cuda(const Tensor& x_, const std::optional<Tensor>& weight_,
                                                const std::optional<Tensor>& bias_, double eps) {
  const char* op = "batch_norm_mish";
  const ChannelShape shape = check_batch_norm_mish(op, x_, weight_, bias_);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_);
  const std::optional<Tensor> weight = contiguous_or_none(weight_), bias = contiguous_or_none(bias_);
  Tensor y = torch::stable::empty_like(x);
  Tensor stats = torch::stable::new_empty(x, {3, shape.channels}, ScalarType::Double);
  if (x.numel() == 0) {
    torch::stable::zero_(stats);
    return {y, stats};
  }
  const ChannelLayout layout = layout_of(shape, x, y);
  dispatch_dtype(dtype_index(op, "x", x), [&]<class T>() {
    using A = opmath_t<T>;
    const PassPlan<T> plan(layout);
    const Tensor partial = launch_pass<ChannelPass::kMoments, T, A>(scope, layout, plan, x, {.x = data<T>(x)});
    const Tensor maps = empty_maps(x);
    with_parameters<T>(weight ? weight : bias, [&]<class L>() {
      const int64_t length = layout.channels_inner ? layout.batch * layout.pixels : layout.pixels;
      launch_channels(batch_norm_statistics_kernel<A, L>, scope, layout.channels,
                      make_batch_norm<T, L>(stats, weight, bias, maps, layout.channels), data<double>(partial),
                      plan.terms, plan.parts, plan.span, length, 1 / double(shape.per_channel()),
                      1 / double(shape.per_channel() - 1), eps);
    });
    launch_map<false>(scope, layout, nullptr, data<T>(x), mutable_data<T>(y),
                      maps_of<T>(data<A>(maps), layout.channels));
  });
  return {y, stats};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_mish_backward_cuda(const Tensor& grad_, const Tensor& x_,
                                                                 const Tensor& stats_,
                                                                 const std::optional<Tensor>& weight_,
                                                                 const std::optional<Tensor>& bias_) {
  const char* op = "batch_norm_mish_backward";
  const ChannelShape shape = check_batch_norm_mish(op, x_, weight_, bias_);
  check_channels_grad(op, grad_, x_);
  check_batch_norm_stats(op, stats_, x_);
  const CudaScope scope(x_);
  const Tensor x = native_layout(x_), grad = laid_out_like(grad_, x), stats = torch::stable::contiguous(stats_);
  const std::optional<Tensor> weight = contiguous_or_none(weight_), bias = contiguous_or_none(bias_);
  Tensor grad_x = torch::stable::empty_like(x);
  const Tensor& like = weight ? *weight : bias ? *bias : x;
  Tensor grad_weight = torch::stable::new_empty(like, {shape.channels});
  Tensor grad_bias = torch::stable::new_empty(like, {shape.channels});
  if (x.numel() == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_x, grad_weight, grad_bias};
  }
  const ChannelLayout layout = layout_of(shape, x, grad, grad_x);
  dispatch_dtype(dtype_index(op, "x", x), [&]<class T>() {
    using A = opmath_t<T>;
    const PassPlan<T> plan(layout);
    const Tensor maps = empty_maps(x);
    const ChannelMaps<T, A> channel_maps = maps_of<T>(data<A>(maps), layout.channels);
    with_parameters<T>(weight ? weight : bias, [&]<class L>() {
      const auto norm = make_batch_norm<T, L>(stats, weight, bias, maps, layout.channels);
      launch(batch_norm_maps_kernel<A, L>, grid_for(layout.channels, kThreads), kThreads, 0, scope, norm);
      const Tensor partial = launch_pass<ChannelPass::kSums, T, A>(
          scope, layout, plan, x, {.grad = data<T>(grad), .x = data<T>(x), .maps = channel_maps});
      launch_channels(batch_norm_gradients_kernel<A, L>, scope, layout.channels, norm, data<double>(partial),
                      plan.terms, double(shape.per_channel()), mutable_data<L>(grad_weight),
                      mutable_data<L>(grad_bias));
    });
    launch_map<true>(scope, layout, data<T>(grad), data<T>(x), mutable_data<T>(grad_x), channel_maps);
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  m.impl("affine_mish", TORCH_BOX(&fastops::affine_mish_cuda));
  m.impl("affine_mish_backward", TORCH_BOX(&fastops::affine_mish_backward_cuda));
  m.impl("batch_norm_mish", TORCH_BOX(&fastops::batch_norm_mish_cuda));
  m.impl("batch_norm_mish_backward", TORCH_BOX(&fastops::batch_norm_mish_backward_cuda));
}
