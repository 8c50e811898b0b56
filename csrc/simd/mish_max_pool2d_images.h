// mish_max_pool2d, and relu_max_pool2d forward, of images [H, W, C]: the channels of a window's positions side by side.
#pragma once

#include "mish_max_pool2d_windows.h"

namespace fastops {
namespace FASTOPS_ISA {

constexpr int64_t kStrip = 64;  // channels at a time

// f of a window from its smallest and its largest value. ReLU only rises, so it needs no smallest value.
struct MishOfWindow {
  static constexpr bool kNeedsLeast = true;
  template <class O>
  static FASTOPS_HD O of(O low, O high) {
    return mish_of_extremes(low, high);
  }
};
struct ReluOfWindow {
  static constexpr bool kNeedsLeast = false;
  template <class O>
  static FASTOPS_HD O of(O, O high) {
    return high < O(0) ? O(0) : high;  // NaN stays NaN
  }
};

// A position of a window: tap `at` in row order, `row` of the input, and the position of its values in the image.
struct Tap {
  int64_t at, row, offset;
  bool first;
};

// Channels from `strip` on of a window.
struct Window {
  int64_t top, left, strip;
  Taps rows, columns;
  const PoolShape& s;

  Window(const PoolShape& shape, int64_t u, int64_t v, int64_t first)
      : top(u * shape.stride_h - shape.pad_h),
        left(v * shape.stride_w - shape.pad_w),
        strip(first),
        rows(top, shape.kernel_h, shape.height),
        columns(left, shape.kernel_w, shape.width),
        s(shape) {}

  // Calls body(tap) for all taps inside the input
  template <class Body>
  void for_each(Body body) const {
    Tap tap{0, 0, 0, true};
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      tap.at = i * s.kernel_w + columns.begin;
      tap.row = top + i;
      tap.offset = (tap.row * s.width + left + columns.begin) * s.channels + strip;
      for (int64_t j = columns.begin; j < columns.end; ++j) {
        body(tap);
        ++tap.at;
        tap.offset += s.channels;
        tap.first = false;
      }
    }
  }
};

// The windows of rows [first, last) of an image, channels from `channel` on in strips.
template <class Body>
static void for_each_window(const PoolShape& s, int64_t first, int64_t last, int64_t channel, Body body) {
  for (int64_t u = first; u < last; ++u) {
    for (int64_t v = 0; v < s.out_width; ++v) {
      for (int64_t strip = channel; strip < s.channels; strip += kStrip) {
        body(u, v, Window(s, u, v, strip), s.channels - strip < kStrip ? s.channels - strip : kStrip);
      }
    }
  }
}

template <class O>
static bool any_nan(Vec<O> v) {
  O lanes[kLanes<O>];
  store(lanes, v);
  int found = 0;
  for (int k = 0; k < kLanes<O>; ++k) found += lanes[k] != lanes[k];
  return found > 0;
}

// as_opmath() of kVecs registers, converted one by one.
template <int kVecs, class T, class O>
static const O* registers_of(const T* p, O* buffer) {
  if constexpr (sizeof(T) == sizeof(O)) {
    return p;
  } else {
    for (int k = 0; k < kVecs; ++k) to_opmath(p + k * kLanes<O>, buffer + k * kLanes<O>, kLanes<O>);
    return buffer;
  }
}

// Extremes of the channels [c, c + kVecs registers). They are correct if no value is NaN, which `sum` shows: the sum of
// all values is NaN if one of them is.
template <int kVecs, class T, class O = opmath_t<T>>
static void fast_extremes(const T* x, const Window& w, int64_t c, O* low, O* high, Vec<O>& sum) {
  constexpr int64_t L = kLanes<O>;
  O buffer[kVecs * L];
  Vec<O> least[kVecs], most[kVecs];
  for (int k = 0; k < kVecs; ++k) {
    least[k] = splat(kInfinity<O>);
    most[k] = splat(-kInfinity<O>);
  }
  w.for_each([&](const Tap& tap) {
    const O* values = registers_of<kVecs>(x + tap.offset + c, buffer);
    for (int k = 0; k < kVecs; ++k) {
      const Vec<O> v = load(values + k * L);
      least[k] = v < least[k] ? v : least[k];
      most[k] = v > most[k] ? v : most[k];
      sum += v;
    }
  });
  for (int k = 0; k < kVecs; ++k) {
    store(low + c + k * L, least[k]);
    store(high + c + k * L, most[k]);
  }
}

// The same for any values and channels [begin, end).
template <class T, class O = opmath_t<T>>
static void extremes(const T* x, const Window& w, int64_t begin, int64_t end, O* low, O* high) {
  O buffer[kStrip];
  w.for_each([&](const Tap& tap) {
    const O* values = as_opmath(x + tap.offset + begin, buffer, end - begin);
    if (tap.first) {
      memcpy(low + begin, values, size_t(end - begin) * sizeof(O));
      memcpy(high + begin, values, size_t(end - begin) * sizeof(O));
      return;
    }
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t c = begin; c < end; ++c) {
      low[c] = falls(values[c - begin], low[c]) ? values[c - begin] : low[c];
      high[c] = rises(values[c - begin], high[c]) ? values[c - begin] : high[c];
    }
  });
}

template <class F, class T>
static void forward_window(const T* x, T* y, const Window& w, int64_t count) {
  using O = opmath_t<T>;
  constexpr int64_t L = kLanes<O>;
  O low[kStrip], high[kStrip];
  Vec<O> sum{};
  int64_t done = 0;
  for (; done + 4 * L <= count; done += 4 * L) fast_extremes<4>(x, w, done, low, high, sum);
  for (; done + 2 * L <= count; done += 2 * L) fast_extremes<2>(x, w, done, low, high, sum);
  for (; done + L <= count; done += L) fast_extremes<1>(x, w, done, low, high, sum);
  if (any_nan<O>(sum)) done = 0;
  if (done < count) extremes(x, w, done, count, low, high);
  O* target = opmath_target(y, low);
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int64_t c = 0; c < count; ++c) target[c] = F::of(low[c], high[c]);
  finish(y, target, count);
}

template <class T>
constexpr int64_t kLine = 64 / int64_t(sizeof(T));  // values in a cache line

// Extremes of one column of a window, in kVecs registers of channels.
template <bool kNeedsLeast, int kVecs, class O>
struct Column {
  Vec<O> least[kVecs], most[kVecs];

  // Starts at its first tap p; the taps are row_stride values apart.
  template <class T>
  void read(const T* p, int64_t taps, int64_t row_stride, Vec<O>& sum) {
    constexpr int64_t L = kLanes<O>;
    O buffer[kVecs * L];
    const O* values = registers_of<kVecs>(p, buffer);
    for (int k = 0; k < kVecs; ++k) {
      least[k] = most[k] = load(values + k * L);
      sum += most[k];
    }
    for (int64_t i = 1; i < taps; ++i) {
      values = registers_of<kVecs>(p + i * row_stride, buffer);
      for (int k = 0; k < kVecs; ++k) {
        const Vec<O> v = load(values + k * L);
        if constexpr (kNeedsLeast) least[k] = v < least[k] ? v : least[k];
        most[k] = v > most[k] ? v : most[k];
        sum += v;
      }
    }
  }
  void extend(const Column& other) {
    for (int k = 0; k < kVecs; ++k) {
      if constexpr (kNeedsLeast) least[k] = other.least[k] < least[k] ? other.least[k] : least[k];
      most[k] = other.most[k] > most[k] ? other.most[k] : most[k];
    }
  }
};

// `windows` windows of a row from `first` on, for kVecs registers of channels. Windows have width 3 and stride 2, and
// are inside the input. Neighbouring windows share one of three columns, so two are read for each window. The
// prefetches halve the time of an input larger than the second-level cache (three images 123 x 123 x 96: 0.88 -> 0.46
// ms). As with fast_extremes, the result is correct if `sum` is not NaN.
template <class F, int kVecs, class T, class O = opmath_t<T>>
static void forward_run(const T* x, T* y, const PoolShape& s, const Window& first, int64_t windows, Vec<O>& sum) {
  constexpr int64_t L = kLanes<O>;
  const int64_t taps = first.rows.end - first.rows.begin, row_stride = s.width * s.channels;
  const T* p = x + ((first.top + first.rows.begin) * s.width + first.left) * s.channels;
  Column<F::kNeedsLeast, kVecs, O> shared;
  shared.read(p, taps, row_stride, sum);
  // These channels of the rows that the next row of windows adds.
  const T* ahead = p + s.kernel_h * row_stride;
  for (int64_t v = 0; v < windows; ++v, y += s.channels, ahead += 2 * s.channels) {
    for (int64_t i = 0; i < s.stride_h; ++i) {
      for (int64_t j = 0; j < 2; ++j) {
        const T* pixel = ahead + i * row_stride + j * s.channels;
        for (int64_t c = 0; c < kVecs * L; c += kLine<T>) __builtin_prefetch(pixel + c, 0, 2);
      }
    }
    auto window = shared, middle = shared;
    middle.read(p += s.channels, taps, row_stride, sum);
    shared.read(p += s.channels, taps, row_stride, sum);
    window.extend(middle);
    window.extend(shared);
    O low[kVecs * L], high[kVecs * L], of[kVecs * L];
    for (int k = 0; k < kVecs; ++k) {
      store(low + k * L, window.least[k]);
      store(high + k * L, window.most[k]);
    }
    O* target = opmath_target(y, of);
    for (int64_t c = 0; c < kVecs * L; c += L) {
      FASTOPS_SHORT_LOOP
      for (int64_t i = c; i < c + L; ++i) target[i] = F::of(low[i], high[i]);
    }
    finish(y, target, kVecs * L);
  }
}

template <class F, class T>
static void forward_image(const T* x, T* y, const PoolShape& s, int64_t begin, int64_t end, double*) {
  constexpr int64_t L = kLanes<opmath_t<T>>;
  const int64_t channels = s.channels / L * L;
  const bool shares = s.kernel_w == 3 && s.stride_w == 2 && s.pad_w == 0;
  for (int64_t u = begin; u < end && shares; ++u) {
    T* row = y + u * s.out_width * s.channels;
    for (int64_t c = 0; c < channels;) {
      const Window first(s, u, 0, c);
      Vec<opmath_t<T>> sum{};
      const int64_t width = channels - c >= 2 * L ? 2 * L : L;
      if (width == 2 * L) {
        forward_run<F, 2>(x + c, row + c, s, first, s.out_width, sum);
      } else {
        forward_run<F, 1>(x + c, row + c, s, first, s.out_width, sum);
      }
      for (int64_t v = 0; any_nan<opmath_t<T>>(sum) && v < s.out_width; ++v) {
        forward_window<F>(x, row + v * s.channels + c, Window(s, u, v, c), width);
      }
      c += width;
    }
  }
  for_each_window(s, begin, end, shares ? channels : 0, [&](int64_t u, int64_t v, const Window& w, int64_t count) {
    forward_window<F>(x, y + (u * s.out_width + v) * s.channels + w.strip, w, count);
  });
}

// Rows [begin, end) of grad_x, in opmath. A row is zeroed when it is first needed, so it stays in the cache.
template <class O>
class GradRows {
 public:
  GradRows(O* sums, int64_t values, int64_t begin, int64_t end)
      : sums_(sums), values_(values), begin_(begin), end_(end), zeroed_(begin) {}

  void zero_up_to(int64_t row) {
    if (row > end_) row = end_;
    if (row <= zeroed_) return;
    memset(sums_ + (zeroed_ - begin_) * values_, 0, size_t((row - zeroed_) * values_) * sizeof(O));
    zeroed_ = row;
  }
  // The row of a position; null outside [begin, end).
  O* at(const Tap& tap) const {
    return tap.row < begin_ || tap.row >= end_ ? nullptr : sums_ + tap.offset - begin_ * values_;
  }

 private:
  O* sums_;
  int64_t values_, begin_, end_, zeroed_;
};

// Channels [c, c + kVecs registers) without NaN: the first tap equal to the winner gets the gradient. It returns false
// and changes nothing if there may be a NaN, or if both extremes have the same f.
template <int kVecs, class T, class O = opmath_t<T>>
static bool fast_backward(const T* grad, const T* x, const GradRows<O>& rows, const Window& w, int64_t c) {
  constexpr int64_t L = kLanes<O>, n = kVecs * L;
  O low[n], high[n], buffer[n], wins[n];
  Vec<O> sum{};
  fast_extremes<kVecs>(x + c, w, 0, low, high, sum);
  if (any_nan<O>(sum)) return false;
  const O* g = registers_of<kVecs>(grad + c, buffer);
  int64_t ties = 0;
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int64_t k = 0; k < n; ++k) {
    const O of_low = mish_forward(low[k]), of_high = mish_forward(high[k]);
    ties += (of_low == of_high) & (low[k] != high[k]);
    low[k] = of_low > of_high ? low[k] : high[k];
  }
  if (ties) return false;
  map2(g, low, wins, n, [](O a, O b) { return mish_backward(a, b); });
  Vec<O> best[kVecs], win[kVecs];
  for (int k = 0; k < kVecs; ++k) best[k] = load(low + k * L), win[k] = load(wins + k * L);
  w.for_each([&](const Tap& tap) {
    O* target = rows.at(tap);
    const O* values = registers_of<kVecs>(x + tap.offset + c, buffer);
    for (int k = 0; k < kVecs; ++k) {
      const auto hit = load(values + k * L) == best[k];
      best[k] = hit ? splat(O(__builtin_nan(""))) : best[k];  // NaN, which equals no value
      if (target) store(target + c + k * L, load(target + c + k * L) + (hit ? win[k] : Vec<O>{}));
    }
  });
  return true;
}

// The same for any values and channels [begin, end).
template <class T, class O = opmath_t<T>>
static void backward(const T* grad, const T* x, const GradRows<O>& rows, const Window& w, int64_t begin, int64_t end) {
  using I = Position<O>;
  O buffer[kStrip], low[kStrip], high[kStrip], wins[kStrip];
  I low_at[kStrip], high_at[kStrip];
  const int64_t count = end - begin;
  w.for_each([&](const Tap& tap) {
    const O* values = as_opmath(x + tap.offset + begin, buffer, count);
    const I at = I(tap.at);
    for (int64_t c = 0; c < count; ++c) {
      const bool lower = tap.first | falls(values[c], low[c]), higher = tap.first | rises(values[c], high[c]);
      low[c] = lower ? values[c] : low[c];
      low_at[c] = lower ? at : low_at[c];
      high[c] = higher ? values[c] : high[c];
      high_at[c] = higher ? at : high_at[c];
    }
  });
  const O* g = as_opmath(grad + begin, buffer, count);
  for (int64_t c = 0; c < count; ++c) {
    const bool at_low = is_at_low(low[c], high[c], low_at[c], high_at[c]);
    wins[c] = mish_backward(g[c], at_low ? low[c] : high[c]);
    low_at[c] = at_low ? low_at[c] : high_at[c];
  }
  w.for_each([&](const Tap& tap) {
    O* target = rows.at(tap);
    const I at = I(tap.at);
    for (int64_t c = 0; target && c < count; ++c) target[begin + c] += low_at[c] == at ? wins[c] : O(0);
  });
}

template <class T>
static void backward_image(const T* grad, const T* x, T* grad_x, const PoolShape& s, int64_t begin, int64_t end,
                           double* scratch) {
  using O = opmath_t<T>;
  constexpr int64_t L = kLanes<O>;
  const int64_t values = s.width * s.channels;
  O* sums = opmath_target(grad_x + begin * values, reinterpret_cast<O*>(scratch));
  GradRows<O> rows(sums, values, begin, end);
  const Windows windows(begin, end, s.kernel_h, s.stride_h, s.pad_h, s.out_height);
  for_each_window(s, windows.begin, windows.end, 0, [&](int64_t u, int64_t v, const Window& w, int64_t count) {
    rows.zero_up_to(w.top + s.kernel_h);
    const T* g = grad + (u * s.out_width + v) * s.channels + w.strip;
    int64_t c = 0;
    for (; c + 4 * L <= count; c += 4 * L) {
      if (!fast_backward<4>(g, x, rows, w, c)) backward(g, x, rows, w, c, c + 4 * L);
    }
    for (; c + 2 * L <= count; c += 2 * L) {
      if (!fast_backward<2>(g, x, rows, w, c)) backward(g, x, rows, w, c, c + 2 * L);
    }
    if (c < count) backward(g, x, rows, w, c, count);
  });
  rows.zero_up_to(end);
  finish(grad_x + begin * values, sums, (end - begin) * values);
}

}  // namespace FASTOPS_ISA
}  // namespace fastops
