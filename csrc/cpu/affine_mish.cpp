// affine_mish and batch_norm_mish on the CPU: pieces, threads and the order of the passes. The loops are in
// simd/affine_mish.cpp. Pieces depend only on the shape and are added in order, so results do not depend on the number
// of threads.
#include "../simd/affine_mish.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "../common/affine_mish.h"
#include "../common/layout.h"
#include "../math/affine_mish.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(AffineMishKernels, affine_mish_kernels)

namespace fastops {
namespace {

using torch::stable::contiguous;
using torch::stable::empty_like;
using Doubles = std::vector<double>;

constexpr int64_t kGrain = 16384;        // minimum of values per thread, as in mish.cpp
constexpr int64_t kPieceValues = 32768;  // approximate number of values per piece

const char* bytes_of(const Tensor& t) { return static_cast<const char*>(t.const_data_ptr()); }
char* mutable_bytes_of(const Tensor& t) { return static_cast<char*>(t.mutable_data_ptr()); }

// n values from `offset` on: of one channel, or of all channels if `channel` is 0.
struct Piece {
  int64_t offset, n, channel, term;
  double* scratch;
};

// How x is divided into pieces. Contiguous: each row [N C, P] into `parts` of `span` values; a piece belongs to one
// channel. channels_last, or one pixel: all pixels [N P, C] into `parts` of `span` values; a piece has all channels.
// Part k of a channel is the k-th term of its sums, k < terms.
struct Pieces {
  ChannelShape shape;
  bool rows;
  int64_t length, span, parts, terms;  // values of a row or of x; of a part

  Pieces(const ChannelShape& s, const Tensor& x) : shape(s), rows(!is_channels_last(x) && s.pixels != 1) {
    length = rows ? s.pixels : s.per_channel() * s.channels;
    span = kPieceValues;
    if (!rows) {
      const int64_t period = channel_period(std::max<int64_t>(s.channels, 1));
      span = period * std::clamp<int64_t>(kPieceValues / period, 16, 512);
    }
    parts = std::max<int64_t>((length + span - 1) / span, 1);
    terms = rows ? s.batch * parts : parts;
  }

  int64_t channels_each() const { return rows ? 1 : shape.channels; }
  int64_t values_of_term(int64_t k) const { return std::min(span, length - k % parts * span) / channels_each(); }
  Doubles scratch() const { return Doubles(size_t(affine_mish_scratch(channels_each()))); }

  // Part `term` of the channel (rows), or of all channels (pixels).
  Piece piece(int64_t term, int64_t channel, Doubles& scratch) const {
    const int64_t part = term % parts, row = rows ? term / parts * shape.channels + channel : 0;
    return {row * length + part * span, std::min(span, length - part * span), channel, term, scratch.data()};
  }

  // body(piece) for all
  template <class Body>
  void for_each(const Body& body) const {
    const int64_t columns = rows ? shape.channels : 1;
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(std::min(span, length), 1));
    torch::stable::parallel_for(0, terms * columns, grain, [&](int64_t begin, int64_t end) {
      Doubles memory = scratch();
      for (int64_t i = begin; i < end; ++i) body(piece(i / columns, i % columns, memory));
    });
  }

  // first(piece) for all pieces, between(begin, end) for channels, last(piece) for all pieces. If there is a channel
  // for every thread, each channel finishes all three passes before the next one starts: the last pass finds it in the
  // cache.
  template <class First, class Between, class Last>
  void for_each_channel(const First& first, const Between& between, const Last& last) const {
    if (!rows || shape.channels < torch::stable::get_num_threads()) {
      for_each(first);
      between(0, shape.channels);
      for_each(last);
      return;
    }
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(shape.per_channel(), 1));
    torch::stable::parallel_for(0, shape.channels, grain, [&](int64_t begin, int64_t end) {
      Doubles memory = scratch();
      for (int64_t c = begin; c < end; ++c) {
        for (int64_t k = 0; k < terms; ++k) first(piece(k, c, memory));
        between(c, c + 1);
        for (int64_t k = 0; k < terms; ++k) last(piece(k, c, memory));
      }
    });
  }
};

// One call's pieces, dtype and kernels.
struct Call {
  Pieces pieces;
  DType dtype;
  int64_t item;
  const AffineMishKernels& kernels;

  Call(const char* op, const ChannelShape& shape, const Tensor& x)
      : pieces(shape, x),
        dtype(dtype_index(op, "x", x)),
        item(static_cast<int64_t>(x.element_size())),
        kernels(FASTOPS_TABLE(affine_mish_kernels)) {}

  int64_t channels() const { return pieces.shape.channels; }
  Doubles terms() const { return Doubles(size_t(pieces.terms * channels())); }  // [terms, C]

  // [C] in double; filled with `otherwise` without a tensor.
  Doubles widened(const std::optional<Tensor>& t, double otherwise) const {
    Doubles values(size_t(channels()), otherwise);
    if (!t) return values;
    const Tensor source = contiguous(*t);
    kernels.widen[dtype_index("affine_mish", "weight", *t)](source.const_data_ptr(), values.data(), channels());
    return values;
  }
  // [C] in the dtype of the parameter `like`, or of x.
  Tensor narrowed(const Doubles& values, const std::optional<Tensor>& like, const Tensor& x) const {
    Tensor t = torch::stable::new_empty(like ? *like : x, {channels()});
    kernels.narrow[dtype_index("affine_mish", "weight", t)](values.data(), t.mutable_data_ptr(), channels());
    return t;
  }
  // sum_k terms[k, c]
  Doubles added(const Doubles& terms) const {
    Doubles sums(static_cast<size_t>(channels()));
    for (int64_t k = 0; k < pieces.terms; ++k) {
      for (int64_t c = 0; c < channels(); ++c) sums[c] += terms[k * channels() + c];
    }
    return sums;
  }
};

// The affine map of every channel, [C] each; slope and offset are for the gradient of a batch norm.
struct Maps {
  Doubles center, scale, shift, slope = {}, offset = {};

  ChannelMaps of(const Call& call, int64_t channel) const {
    ChannelMaps maps{call.pieces.channels_each(), &center[channel], &scale[channel], &shift[channel]};
    if (!slope.empty()) maps.slope = &slope[channel], maps.offset = &offset[channel];
    return maps;
  }
};

Tensor affine_mish_cpu(const Tensor& x_, const Tensor& weight, const Tensor& bias) {
  const ChannelShape shape = check_affine_mish("affine_mish", x_, weight, bias);
  const Tensor x = native_layout(x_);
  const Call call("affine_mish", shape, x);
  Tensor y = empty_like(x);
  if (y.numel() == 0) return y;
  const Maps maps{Doubles(size_t(shape.channels)), call.widened(weight, 1), call.widened(bias, 0)};
  call.pieces.for_each([&](const Piece& p) {
    call.kernels.forward[call.dtype](bytes_of(x) + p.offset * call.item, mutable_bytes_of(y) + p.offset * call.item,
                                     p.n, maps.of(call, p.channel), p.scratch);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> affine_mish_backward_cpu(const Tensor& grad_, const Tensor& x_, const Tensor& weight,
                                                            const Tensor& bias) {
  const char* op = "affine_mish_backward";
  const ChannelShape shape = check_affine_mish(op, x_, weight, bias);
  check_channels_grad(op, grad_, x_);
  const Tensor x = native_layout(x_), grad = laid_out_like(grad_, x);
  const Call call(op, shape, x);
  Tensor grad_x = empty_like(x);
  Doubles sum_g = call.terms(), sum_gx = call.terms();
  if (x.numel() > 0) {
    const Maps maps{Doubles(size_t(shape.channels)), call.widened(weight, 1), call.widened(bias, 0)};
    call.pieces.for_each([&](const Piece& p) {
      const int64_t bytes = p.offset * call.item, at = p.term * shape.channels + p.channel;
      call.kernels.backward[call.dtype](bytes_of(grad) + bytes, bytes_of(x) + bytes, mutable_bytes_of(grad_x) + bytes,
                                        p.n, maps.of(call, p.channel), &sum_g[at], &sum_gx[at], p.scratch);
    });
  }
  return {grad_x, call.narrowed(call.added(sum_gx), weight, x), call.narrowed(call.added(sum_g), bias, x)};
}

template <class O>
void set_map(Maps& maps, int64_t c, const BatchNormAffine<O>& map) {
  maps.center[c] = map.center, maps.scale[c] = map.scale, maps.shift[c] = map.shift;
}

// Computed from the statistics [3, C].
void set_maps(const Call& call, Maps& maps, const double* stats, const Doubles& weight, const Doubles& bias,
              int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) {
    const double mean = stats[c], inverse_std = stats[call.channels() + c];
    if (call.dtype == kDouble) {
      set_map(maps, c, batch_norm_affine<double>(mean, inverse_std, weight[c], bias[c]));
    } else {
      set_map(maps, c, batch_norm_affine<float>(mean, inverse_std, weight[c], bias[c]));
    }
  }
}

Maps empty_maps(const Call& call, bool gradient) {
  const Doubles zeros(static_cast<size_t>(call.channels()));
  return gradient ? Maps{zeros, zeros, zeros, zeros, zeros} : Maps{zeros, zeros, zeros};
}

std::tuple<Tensor, Tensor> batch_norm_mish_cpu(const Tensor& x_, const std::optional<Tensor>& weight_,
                                               const std::optional<Tensor>& bias_, double eps) {
  const char* op = "batch_norm_mish";
  const ChannelShape shape = check_batch_norm_mish(op, x_, weight_, bias_);
  const Tensor x = native_layout(x_);
  const Call call(op, shape, x);
  const int64_t channels = shape.channels;
  Tensor y = empty_like(x);
  Tensor stats = torch::stable::new_empty(x, {3, channels}, ScalarType::Double);
  double* statistics = static_cast<double*>(stats.mutable_data_ptr());
  if (x.numel() == 0) {
    std::fill(statistics, statistics + 3 * channels, 0.0);
    return {y, stats};
  }
  const Doubles weight = call.widened(weight_, 1), bias = call.widened(bias_, 0);
  Doubles means = call.terms(), squares = call.terms();
  Maps maps = empty_maps(call, false);

  const auto measure = [&](const Piece& p) {
    const int64_t at = p.term * channels + p.channel;
    call.kernels.moments[call.dtype](bytes_of(x) + p.offset * call.item, p.n, call.pieces.channels_each(), &means[at],
                                     &squares[at], p.scratch);
  };
  const auto combine = [&](int64_t begin, int64_t end) {
    const double total = double(shape.per_channel());
    for (int64_t c = begin; c < end; ++c) {
      double mean = 0, sum = 0;
      for (int64_t k = 0; k < call.pieces.terms; ++k) {
        mean += double(call.pieces.values_of_term(k)) * means[k * channels + c];
      }
      mean /= total;
      for (int64_t k = 0; k < call.pieces.terms; ++k) {
        const double d = means[k * channels + c] - mean;
        sum += squares[k * channels + c] + double(call.pieces.values_of_term(k)) * d * d;
      }
      sum = std::max(sum, 0.0);  // rounding may make a constant channel negative
      statistics[c] = mean;
      statistics[channels + c] = 1 / std::sqrt(sum / total + eps);
      statistics[2 * channels + c] = sum / (total - 1);
    }
    set_maps(call, maps, statistics, weight, bias, begin, end);
  };
  const auto apply = [&](const Piece& p) {
    call.kernels.forward[call.dtype](bytes_of(x) + p.offset * call.item, mutable_bytes_of(y) + p.offset * call.item,
                                     p.n, maps.of(call, p.channel), p.scratch);
  };
  call.pieces.for_each_channel(measure, combine, apply);
  return {y, stats};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_mish_backward_cpu(const Tensor& grad_, const Tensor& x_,
                                                                const Tensor& stats_,
                                                                const std::optional<Tensor>& weight_,
                                                                const std::optional<Tensor>& bias_) {
  const char* op = "batch_norm_mish_backward";
  const ChannelShape shape = check_batch_norm_mish(op, x_, weight_, bias_);
  check_channels_grad(op, grad_, x_);
  check_batch_norm_stats(op, stats_, x_);
  const Tensor x = native_layout(x_), grad = laid_out_like(grad_, x), stats = contiguous(stats_);
  const Call call(op, shape, x);
  const int64_t channels = shape.channels;
  const double* statistics = static_cast<const double*>(stats.const_data_ptr());
  Tensor grad_x = empty_like(x);
  Doubles grad_weight(static_cast<size_t>(channels)), grad_bias(static_cast<size_t>(channels));
  if (x.numel() > 0) {
    const Doubles weight = call.widened(weight_, 1), bias = call.widened(bias_, 0);
    Doubles sum_g = call.terms(), sum_gx = call.terms();
    Maps maps = empty_maps(call, true);
    set_maps(call, maps, statistics, weight, bias, 0, channels);

    const auto sum = [&](const Piece& p) {
      const int64_t bytes = p.offset * call.item, at = p.term * channels + p.channel;
      call.kernels.backward[call.dtype](bytes_of(grad) + bytes, bytes_of(x) + bytes, nullptr, p.n,
                                        maps.of(call, p.channel), &sum_g[at], &sum_gx[at], p.scratch);
    };
    const auto combine = [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        double total_g = 0, total_gx = 0;
        for (int64_t k = 0; k < call.pieces.terms; ++k) {
          total_g += sum_g[k * channels + c];
          total_gx += sum_gx[k * channels + c];
        }
        const BatchNormGrad g = batch_norm_grad(total_g, total_gx, statistics[c], statistics[channels + c],
                                                maps.center[c], weight[c], double(shape.per_channel()));
        grad_weight[c] = g.weight, grad_bias[c] = g.bias;
        maps.slope[c] = g.slope, maps.offset[c] = g.offset;
      }
    };
    const auto input_gradient = [&](const Piece& p) {
      const int64_t bytes = p.offset * call.item;
      call.kernels.input_gradient[call.dtype](bytes_of(grad) + bytes, bytes_of(x) + bytes,
                                              mutable_bytes_of(grad_x) + bytes, p.n, maps.of(call, p.channel),
                                              p.scratch);
    };
    call.pieces.for_each_channel(sum, combine, input_gradient);
  }
  return {grad_x, call.narrowed(grad_weight, weight_ ? weight_ : bias_, x),
          call.narrowed(grad_bias, bias_ ? bias_ : weight_, x)};
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("affine_mish", TORCH_BOX(&fastops::affine_mish_cpu));
  m.impl("affine_mish_backward", TORCH_BOX(&fastops::affine_mish_backward_cpu));
  m.impl("batch_norm_mish", TORCH_BOX(&fastops::batch_norm_mish_cpu));
  m.impl("batch_norm_mish_backward", TORCH_BOX(&fastops::batch_norm_mish_backward_cpu));
}
