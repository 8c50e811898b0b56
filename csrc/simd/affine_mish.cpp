// The CPU loops of affine_mish and batch_norm_mish; the formulas are in math/affine_mish.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "affine_mish.h"

#include "../math/affine_mish.h"
#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

// kRow is a piece of one channel, whose coefficients are scalars. Otherwise they are arrays that repeat over a period.
template <bool kRow>
static int64_t period_of(int64_t channels) {
  return kRow ? kAffineMishRow : channel_period(channels);
}

// Calls body(i, lane, count) for the values [i, i + count) of the piece, in the lanes [lane, lane + count) of the
// period.
template <bool kRow, class Body>
static void for_each_block(int64_t n, int64_t channels, Body body) {
  static_assert(kAffineMishRow == kBlock);
  const int64_t period = period_of<kRow>(channels);
  for (int64_t round = 0; round < n; round += period) {
    const int64_t lanes = n - round < period ? n - round : period;
    for (int64_t lane = 0; lane < lanes; lane += kBlock) {
      body(round + lane, lane, lanes - lane < kBlock ? lanes - lane : kBlock);
    }
  }
}

// Allocates arrays of a period from the scratch memory.
template <class O, bool kRow>
class Scratch {
 public:
  Scratch(double* memory, int64_t channels) : next_(reinterpret_cast<O*>(memory)), period_(period_of<kRow>(channels)) {}

  O* lanes() {
    O* taken = next_;
    next_ += period_;
    return taken;
  }
  O* zeros() {
    O* taken = lanes();
    memset(taken, 0, size_t(period_) * sizeof(O));
    return taken;
  }

 private:
  O* next_;
  int64_t period_;
};

// A coefficient of each channel, indexed by lane.
template <class O, bool kRow>
class Coefficient {
 public:
  Coefficient(const double* values, int64_t channels, Scratch<O, kRow>& scratch) : value_(O(values[0])) {
    if (kRow) return;
    O* lanes = scratch.lanes();
    const int64_t period = period_of<kRow>(channels);
    for (int64_t i = 0; i < period; i += channels) {
      for (int64_t c = 0; c < channels; ++c) lanes[i + c] = O(values[c]);
    }
    lanes_ = lanes;
  }
  O operator[](int64_t lane) const { return kRow ? value_ : lanes_[lane]; }

 private:
  O value_;
  const O* lanes_ = nullptr;
};

// Sums of the lanes by channel, for a piece of n values.
template <class O, bool kRow>
static void fold(const O* lanes, int64_t n, int64_t channels, double* sums) {
  const int64_t period = period_of<kRow>(channels), used = n < period ? n : period;
  if (kRow) {
    sums[0] = sum(lanes, used);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) sums[c] = 0;
  for (int64_t i = 0; i < used; i += channels) {
    for (int64_t c = 0; c < channels; ++c) sums[c] += lanes[i + c];
  }
}

template <class T, bool kRow>
static void forward_piece(const T* x, T* y, int64_t n, const ChannelMaps& maps, double* memory) {
  using O = opmath_t<T>;
  Scratch<O, kRow> scratch(memory, maps.channels);
  const Coefficient<O, kRow> center(maps.center, maps.channels, scratch), scale(maps.scale, maps.channels, scratch),
      shift(maps.shift, maps.channels, scratch);
  O buffer[kBlock], results[kBlock];
  for_each_block<kRow>(n, maps.channels, [&](int64_t i, int64_t lane, int64_t count) {
    const O* v = as_opmath(x + i, buffer, count);
    O* target = opmath_target(y + i, results);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t k = 0; k < count; ++k) {
      target[k] = affine_mish_forward(v[k], center[lane + k], scale[lane + k], shift[lane + k]);
    }
    finish(y + i, target, count);
  });
}

// Two passes over the piece, the second one from the cache. The mean of the first pass has a rounding error, which is
// the mean of the differences from it.
template <class T, bool kRow>
static void moments_piece(const T* x, int64_t n, int64_t channels, double* mean, double* squares, double* memory) {
  using O = opmath_t<T>;
  Scratch<O, kRow> scratch(memory, channels);
  O *total = scratch.zeros(), *total_d = scratch.zeros(), *total_dd = scratch.zeros();
  O buffer[kBlock];
  for_each_block<kRow>(n, channels, [&](int64_t i, int64_t lane, int64_t count) {
    const O* v = as_opmath(x + i, buffer, count);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t k = 0; k < count; ++k) total[lane + k] += v[k];
  });
  const double each = double(n / channels);
  fold<O, kRow>(total, n, channels, mean);
  for (int64_t c = 0; c < channels; ++c) mean[c] = double(O(mean[c] / each));
  const Coefficient<O, kRow> center(mean, channels, scratch);
  for_each_block<kRow>(n, channels, [&](int64_t i, int64_t lane, int64_t count) {
    const O* v = as_opmath(x + i, buffer, count);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t k = 0; k < count; ++k) {
      const O d = v[k] - center[lane + k];
      total_d[lane + k] += d;
      total_dd[lane + k] += d * d;
    }
  });
  double* sum_d = memory + 7 * period_of<kRow>(channels);  // the lanes before take at most half of the scratch memory
  fold<O, kRow>(total_d, n, channels, sum_d);
  fold<O, kRow>(total_dd, n, channels, squares);
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] += sum_d[c] / each;
    squares[c] -= sum_d[c] * sum_d[c] / each;
  }
}

template <class T, bool kRow, bool kSumsOnly>
static void backward_piece(const T* grad, const T* x, T* grad_x, int64_t n, const ChannelMaps& maps, double* sum_g,
                           double* sum_gx, double* memory) {
  using O = opmath_t<T>;
  Scratch<O, kRow> scratch(memory, maps.channels);
  O *total_g = scratch.zeros(), *total_gx = scratch.zeros();
  const Coefficient<O, kRow> center(maps.center, maps.channels, scratch), scale(maps.scale, maps.channels, scratch),
      shift(maps.shift, maps.channels, scratch);
  O g_buffer[kBlock], x_buffer[kBlock], results[kBlock];
  for_each_block<kRow>(n, maps.channels, [&](int64_t i, int64_t lane, int64_t count) {
    const O* g = as_opmath(grad + i, g_buffer, count);
    const O* v = as_opmath(x + i, x_buffer, count);
    O* target = kSumsOnly ? results : opmath_target(grad_x + i, results);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t k = 0; k < count; ++k) {
      const O inner = affine_mish_backward(g[k], v[k], center[lane + k], scale[lane + k], shift[lane + k]);
      total_g[lane + k] += inner;
      total_gx[lane + k] += inner * (v[k] - center[lane + k]);
      if (!kSumsOnly) target[k] = scale[lane + k] * inner;
    }
    if (!kSumsOnly) finish(grad_x + i, target, count);
  });
  fold<O, kRow>(total_g, n, maps.channels, sum_g);
  fold<O, kRow>(total_gx, n, maps.channels, sum_gx);
}

template <class T, bool kRow>
static void input_gradient_piece(const T* grad, const T* x, T* grad_x, int64_t n, const ChannelMaps& maps,
                                 double* memory) {
  using O = opmath_t<T>;
  Scratch<O, kRow> scratch(memory, maps.channels);
  const Coefficient<O, kRow> center(maps.center, maps.channels, scratch), scale(maps.scale, maps.channels, scratch),
      shift(maps.shift, maps.channels, scratch), slope(maps.slope, maps.channels, scratch),
      offset(maps.offset, maps.channels, scratch);
  O g_buffer[kBlock], x_buffer[kBlock], results[kBlock];
  for_each_block<kRow>(n, maps.channels, [&](int64_t i, int64_t lane, int64_t count) {
    const O* g = as_opmath(grad + i, g_buffer, count);
    const O* v = as_opmath(x + i, x_buffer, count);
    O* target = opmath_target(grad_x + i, results);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t k = 0; k < count; ++k) {
      const O inner = affine_mish_backward(g[k], v[k], center[lane + k], scale[lane + k], shift[lane + k]);
      const O change = slope[lane + k] * (v[k] - center[lane + k]) + offset[lane + k];
      target[k] = scale[lane + k] * inner + change;
    }
    finish(grad_x + i, target, count);
  });
}

// ---- the table: void pointers, and the choice of kRow -----------------------------------------------------------

template <class T>
static void forward(const void* x, void* y, int64_t n, const ChannelMaps& maps, double* scratch) {
  const auto run = maps.channels == 1 ? forward_piece<T, true> : forward_piece<T, false>;
  run(static_cast<const T*>(x), static_cast<T*>(y), n, maps, scratch);
}

template <class T>
static void moments(const void* x, int64_t n, int64_t channels, double* mean, double* squares, double* scratch) {
  const auto run = channels == 1 ? moments_piece<T, true> : moments_piece<T, false>;
  run(static_cast<const T*>(x), n, channels, mean, squares, scratch);
}

template <class T>
static void backward(const void* grad, const void* x, void* grad_x, int64_t n, const ChannelMaps& maps, double* sum_g,
                     double* sum_gx, double* scratch) {
  const auto run = maps.channels == 1 ? (grad_x ? backward_piece<T, true, false> : backward_piece<T, true, true>)
                                      : (grad_x ? backward_piece<T, false, false> : backward_piece<T, false, true>);
  run(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), n, maps, sum_g, sum_gx, scratch);
}

template <class T>
static void input_gradient(const void* grad, const void* x, void* grad_x, int64_t n, const ChannelMaps& maps,
                           double* scratch) {
  const auto run = maps.channels == 1 ? input_gradient_piece<T, true> : input_gradient_piece<T, false>;
  run(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), n, maps, scratch);
}

extern const AffineMishKernels affine_mish_kernels;
const AffineMishKernels affine_mish_kernels = {
    FASTOPS_ALL_DTYPES(forward),        FASTOPS_ALL_DTYPES(moments),         FASTOPS_ALL_DTYPES(backward),
    FASTOPS_ALL_DTYPES(input_gradient), FASTOPS_ALL_DTYPES(widen_to_double), FASTOPS_ALL_DTYPES(narrow_from_double),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
