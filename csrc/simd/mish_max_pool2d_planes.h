// mish_max_pool2d of planes [H, W]: extremes of the columns of a row of windows, then of the windows along the row.
#pragma once

#include "mish_max_pool2d_windows.h"

namespace fastops {
namespace FASTOPS_ISA {

// A row of x with its padding, ordered for tap j of all windows: columns a stride apart are side by side. Column c is
// lane c / stride of phase c % stride; tap j of window v is lane v + j / stride of phase j % stride. Rows of lanes and
// of windows are rounded up to whole SIMD registers, so loops have no remainder; the extra values are ignored.
struct Phases {
  int64_t stride, pad, width, count, needed, windows, lanes;

  explicit Phases(const PoolShape& s)
      : stride(s.stride_w),
        pad(s.pad_w),
        width(s.width),
        count(pool_phases(s)),
        needed(s.out_width + (s.kernel_w - 1) / s.stride_w),
        windows(pool_round_up(s.out_width)),
        lanes(pool_lanes(s)) {}

  int64_t size() const { return count * lanes; }
  int64_t tap(int64_t j) const { return j % stride * lanes + j / stride; }
  // Lanes [begin, end) of a phase are inside x.
  int64_t begin(int64_t phase) const { return phase >= pad ? 0 : (pad - phase + stride - 1) / stride; }
  int64_t end(int64_t phase) const {
    const int64_t all = (width + pad - phase + stride - 1) / stride;
    return all < needed ? all : needed;
  }

  // The memory of the row and of the lanes has kPoolSlack extra values at the end. fill_padding() fills the padding.
  template <class O>
  void split(const O* row, O* out) const {
    for (int64_t phase = 0; phase < count; ++phase) {
      const int64_t first = begin(phase), n = end(phase) - first;
      const O* from = row + first * stride + phase - pad;
      O* to = out + phase * lanes + first;
      if (stride == 2) {
        for (int64_t i = 0; i < pool_round_up(n); ++i) to[i] = from[2 * i];
      } else {
        for (int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
      }
    }
  }
  template <class V>
  void fill_padding(V* row, V value) const {
    for (int64_t phase = 0; phase < count; ++phase) {
      V* out = row + phase * lanes;
      for (int64_t i = 0; i < begin(phase); ++i) out[i] = value;
      for (int64_t i = end(phase); i < needed; ++i) out[i] = value;
    }
  }
};

// `n` values as opmath in `buffer`, and back.
template <class T, class O>
static void load_row(const T* row, O* buffer, int64_t n) {
  const O* values = as_opmath(row, buffer, n);
  if (values != buffer) memcpy(buffer, values, size_t(n) * sizeof(O));
}
template <class T, class O>
static void store_row(const O* values, T* row, int64_t n) {
  if constexpr (sizeof(T) == sizeof(O)) {
    memcpy(row, values, size_t(n) * sizeof(O));
  } else {
    from_opmath(values, row, n);
  }
}

// Allocates parts of the scratch memory.
class PoolScratch {
 public:
  PoolScratch(const PoolShape& s, double* memory) : s_(s), next_(memory) {}

  template <class V>
  V* lanes() {
    return take<V>(pool_phases(s_) * pool_lanes(s_));
  }
  template <class V>
  V* row() {
    return take<V>(s_.width);
  }
  template <class V>
  V* windows() {
    return take<V>(pool_round_up(s_.out_width));
  }
  template <class V>
  V* rest() {
    return reinterpret_cast<V*>(next_);
  }

 private:
  template <class V>
  V* take(int64_t n) {
    V* taken = reinterpret_cast<V*>(next_);
    next_ += n + kPoolSlack;
    return taken;
  }

  const PoolShape& s_;
  double* next_;
};

template <class T>
static void forward_plane(const T* x, T* y, const PoolShape& s, int64_t begin, int64_t end, double* scratch) {
  using O = opmath_t<T>;
  const Phases phases(s);
  const int64_t size = phases.size(), width = phases.windows;
  PoolScratch memory(s, scratch);
  O *low = memory.lanes<O>(), *high = memory.lanes<O>(), *next = memory.lanes<O>(), *row = memory.row<O>();
  O *least = memory.windows<O>(), *most = memory.windows<O>();
  for (int64_t u = begin; u < end; ++u) {
    const int64_t top = u * s.stride_h - s.pad_h;
    const Taps rows(top, s.kernel_h, s.height);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      load_row(x + (top + i) * s.width, row, s.width);
      phases.split(row, next);
      if (i == rows.begin) {
        memcpy(low, next, size_t(size) * sizeof(O));
        memcpy(high, next, size_t(size) * sizeof(O));
        continue;
      }
      FASTOPS_INDEPENDENT_ITERATIONS
      for (int64_t c = 0; c < size; ++c) {
        low[c] = falls(next[c], low[c]) ? next[c] : low[c];
        high[c] = rises(next[c], high[c]) ? next[c] : high[c];
      }
    }
    phases.fill_padding(low, kInfinity<O>);
    phases.fill_padding(high, -kInfinity<O>);
    memcpy(least, low, size_t(width) * sizeof(O));
    memcpy(most, high, size_t(width) * sizeof(O));
    for (int64_t j = 1; j < s.kernel_w; ++j) {
      const O *next_low = low + phases.tap(j), *next_high = high + phases.tap(j);
      FASTOPS_INDEPENDENT_ITERATIONS
      for (int64_t v = 0; v < width; ++v) {
        least[v] = falls(next_low[v], least[v]) ? next_low[v] : least[v];
        most[v] = rises(next_high[v], most[v]) ? next_high[v] : most[v];
      }
    }
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t v = 0; v < width; ++v) least[v] = mish_of_extremes(least[v], most[v]);
    store_row(least, y + u * s.out_width, s.out_width);
  }
}

// A position in the window is (row << shift) + column, which orders positions row by row; padding comes last.
template <class I>
constexpr I kNowhere = sizeof(I) == 4 ? I(0x7fffffff) : I(0x7fffffffffffffff);

static int column_bits(int64_t kernel_w) {
  int bits = 0;
  while ((int64_t(1) << bits) < kernel_w) ++bits;
  return bits;
}

// Compares two candidates in any order: is the next one ahead? `better`: it has the better value. Of equal values the
// first position wins, of NaN the last.
template <class O, class I>
FASTOPS_HD bool ahead(bool better, O next, O value, I next_at, I at) {
  return better | ((next == value) & (next_at < at)) | ((next != next) & ((value == value) | (next_at > at)));
}

template <class T>
static void backward_plane(const T* grad, const T* x, T* grad_x, const PoolShape& s, int64_t begin, int64_t end,
                           double* scratch) {
  using O = opmath_t<T>;
  using I = Position<O>;
  const Phases phases(s);
  const int shift = column_bits(s.kernel_w);
  const int64_t size = phases.size(), width = phases.windows;
  PoolScratch memory(s, scratch);
  O *low = memory.lanes<O>(), *high = memory.lanes<O>(), *next = memory.lanes<O>(), *row = memory.row<O>();
  I *low_at = memory.lanes<I>(), *high_at = memory.lanes<I>();
  O *least = memory.windows<O>(), *most = memory.windows<O>(), *g = memory.windows<O>();
  I *least_at = memory.windows<I>(), *most_at = memory.windows<I>();
  O* sums = opmath_target(grad_x + begin * s.width, memory.rest<O>());
  memset(sums, 0, size_t((end - begin) * s.width) * sizeof(O));

  const Windows windows(begin, end, s.kernel_h, s.stride_h, s.pad_h, s.out_height);
  for (int64_t u = windows.begin; u < windows.end; ++u) {
    const int64_t top = u * s.stride_h - s.pad_h;
    const Taps rows(top, s.kernel_h, s.height);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const I at = I(i << shift);
      load_row(x + (top + i) * s.width, row, s.width);
      phases.split(row, next);
      if (i == rows.begin) {
        FASTOPS_INDEPENDENT_ITERATIONS
        for (int64_t c = 0; c < size; ++c) {
          low[c] = high[c] = next[c];
          low_at[c] = high_at[c] = at;
        }
        continue;
      }
      FASTOPS_INDEPENDENT_ITERATIONS
      for (int64_t c = 0; c < size; ++c) {
        const bool lower = falls(next[c], low[c]), higher = rises(next[c], high[c]);
        low[c] = lower ? next[c] : low[c];
        low_at[c] = lower ? at : low_at[c];
        high[c] = higher ? next[c] : high[c];
        high_at[c] = higher ? at : high_at[c];
      }
    }
    phases.fill_padding(low, kInfinity<O>);
    phases.fill_padding(high, -kInfinity<O>);
    phases.fill_padding(low_at, kNowhere<I>);
    phases.fill_padding(high_at, kNowhere<I>);
    memcpy(least, low, size_t(width) * sizeof(O));
    memcpy(most, high, size_t(width) * sizeof(O));
    memcpy(least_at, low_at, size_t(width) * sizeof(I));
    memcpy(most_at, high_at, size_t(width) * sizeof(I));
    for (int64_t j = 1; j < s.kernel_w; ++j) {
      const int64_t tap = phases.tap(j);
      FASTOPS_INDEPENDENT_ITERATIONS
      for (int64_t v = 0; v < width; ++v) {
        const O next_low = low[tap + v], next_high = high[tap + v];
        const I next_low_at = low_at[tap + v] | I(j), next_high_at = high_at[tap + v] | I(j);
        const bool lower = ahead(next_low < least[v], next_low, least[v], next_low_at, least_at[v]);
        const bool higher = ahead(next_high > most[v], next_high, most[v], next_high_at, most_at[v]);
        least[v] = lower ? next_low : least[v];
        least_at[v] = lower ? next_low_at : least_at[v];
        most[v] = higher ? next_high : most[v];
        most_at[v] = higher ? next_high_at : most_at[v];
      }
    }
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t v = 0; v < width; ++v) {
      const bool at_low = is_at_low(least[v], most[v], least_at[v], most_at[v]);
      most[v] = at_low ? least[v] : most[v];
      most_at[v] = at_low ? least_at[v] : most_at[v];
    }
    load_row(grad + u * s.out_width, g, s.out_width);
    map2(g, most, most, width, [](O a, O b) { return mish_backward(a, b); });
    for (int64_t v = 0; v < s.out_width; ++v) {
      const int64_t row = top + (most_at[v] >> shift),
                    column = v * s.stride_w - s.pad_w + (most_at[v] & ((1 << shift) - 1));
      if (row >= begin && row < end) sums[(row - begin) * s.width + column] += most[v];
    }
  }
  finish(grad_x + begin * s.width, sums, (end - begin) * s.width);
}

}  // namespace FASTOPS_ISA
}  // namespace fastops
