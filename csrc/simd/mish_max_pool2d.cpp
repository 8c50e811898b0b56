#include "mish_max_pool2d.h"

#include "../math/mish_max_pool2d.h"
#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

constexpr int64_t kStrip = 64;  // channels at a time

// Positions as wide as the values, so that both fit the same SIMD lanes.
template <class O>
struct PositionOf {
  using type = int32_t;
};
template <>
struct PositionOf<double> {
  using type = int64_t;
};
template <class O>
using Position = typename PositionOf<O>::type;

// [begin, end) of the kernel inside an input of `size`, for a window from `start` on.
struct Taps {
  int64_t begin, end;
  Taps(int64_t start, int64_t kernel, int64_t size)
      : begin(start < 0 ? -start : 0), end(size - start < kernel ? size - start : kernel) {}
};

// Windows [begin, end) along a dimension that hold one of the positions [first, last).
struct Windows {
  int64_t begin, end;
  Windows(int64_t first, int64_t last, int64_t kernel, int64_t stride, int64_t pad, int64_t count) {
    const int64_t from = first + pad - kernel + 1;  // no window that holds `first` starts before, padding included
    begin = from <= 0 ? 0 : (from + stride - 1) / stride;
    end = (last - 1 + pad) / stride + 1;
    if (end > count) end = count;
  }
};

// ---- planes: extremes of the columns, then of the windows along the row -----------------------------------------

// A row of x, with its padding, as tap j of all windows needs it: columns that are a stride apart side by side. Column
// c goes to lane c / stride of phase c % stride, tap j of window v to lane v + j / stride of phase j % stride.
struct Phases {
  int64_t stride, pad, width, count, lanes;

  explicit Phases(const PoolShape& s)
      : stride(s.stride_w),
        pad(s.pad_w),
        width(s.width),
        count(s.stride_w < s.kernel_w ? s.stride_w : s.kernel_w),
        lanes(s.out_width + (s.kernel_w - 1) / s.stride_w) {}

  int64_t size() const { return count * lanes; }
  int64_t tap(int64_t j) const { return j % stride * lanes + j / stride; }
  // Lanes [begin, end) of a phase are inside x.
  int64_t begin(int64_t phase) const { return phase >= pad ? 0 : (pad - phase + stride - 1) / stride; }
  int64_t end(int64_t phase) const {
    const int64_t all = (width + pad - phase + stride - 1) / stride;
    return all < lanes ? all : lanes;
  }

  template <class O>
  void split(const O* row, O* out) const {
    for (int64_t phase = 0; phase < count; ++phase) {
      const int64_t first = begin(phase), n = end(phase) - first;
      const O* from = row + first * stride + phase - pad;
      O* to = out + phase * lanes + first;
      if (stride == 2) {
        for (int64_t i = 0; i < n; ++i) to[i] = from[2 * i];
      } else {
        for (int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
      }
    }
  }
  template <class V>
  void fill_padding(V* lanes_of_row, V value) const {
    for (int64_t phase = 0; phase < count; ++phase) {
      V* out = lanes_of_row + phase * lanes;
      for (int64_t i = 0; i < begin(phase); ++i) out[i] = value;
      for (int64_t i = end(phase); i < lanes; ++i) out[i] = value;
    }
  }
};

template <class O>
constexpr O kInfinity = O(__builtin_huge_val());

template <class T>
static void forward_plane(const T* x, T* y, const PoolShape& s, int64_t begin, int64_t end, double* scratch) {
  using O = opmath_t<T>;
  const Phases phases(s);
  const int64_t size = phases.size(), width = s.out_width;
  O *low = reinterpret_cast<O*>(scratch), *high = low + size, *next = high + size;
  O *buffer = next + size, *least = buffer + s.width, *most = least + width;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t top = u * s.stride_h - s.pad_h;
    const Taps rows(top, s.kernel_h, s.height);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const O* row = as_opmath(x + (top + i) * s.width, buffer, s.width);
      if (i == rows.begin) {
        phases.split(row, low);
        memcpy(high, low, size_t(size) * sizeof(O));
        continue;
      }
      phases.split(row, next);
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
    O* target = opmath_target(y + u * width, least);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t v = 0; v < width; ++v) target[v] = mish_of_extremes(least[v], most[v]);
    finish(y + u * width, target, width);
  }
}

// A position in the window is (row << shift) + column, which orders them row by row; padding is behind them all.
template <class I>
constexpr I kNowhere = sizeof(I) == 4 ? I(0x7fffffff) : I(0x7fffffffffffffff);

static int column_bits(int64_t kernel_w) {
  int bits = 0;
  while ((int64_t(1) << bits) < kernel_w) ++bits;
  return bits;
}

// Of two candidates in any order: is the next one ahead? `better`: it has the better value. Of equal values the first
// position counts, of NaN the last.
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
  const int64_t size = phases.size(), width = s.out_width;
  O *low = reinterpret_cast<O*>(scratch), *high = low + size, *next = high + size;
  I *low_at = reinterpret_cast<I*>(next + size), *high_at = low_at + size;
  O *buffer = reinterpret_cast<O*>(high_at + size), *g_buffer = buffer + s.width;
  O *least = g_buffer + width, *most = least + width;
  I *least_at = reinterpret_cast<I*>(most + width), *most_at = least_at + width;
  O* sums = opmath_target(grad_x + begin * s.width, reinterpret_cast<O*>(most_at + width));
  memset(sums, 0, size_t((end - begin) * s.width) * sizeof(O));

  const Windows windows(begin, end, s.kernel_h, s.stride_h, s.pad_h, s.out_height);
  for (int64_t u = windows.begin; u < windows.end; ++u) {
    const int64_t top = u * s.stride_h - s.pad_h;
    const Taps rows(top, s.kernel_h, s.height);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const O* row = as_opmath(x + (top + i) * s.width, buffer, s.width);
      const I at = I(i << shift);
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
    const O* g = as_opmath(grad + u * width, g_buffer, width);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t v = 0; v < width; ++v) {
      const bool at_low = is_at_low(least[v], most[v], least_at[v], most_at[v]);
      most[v] = mish_backward(g[v], at_low ? least[v] : most[v]);
      most_at[v] = at_low ? least_at[v] : most_at[v];
    }
    for (int64_t v = 0; v < width; ++v) {
      const int64_t row = top + (most_at[v] >> shift),
                    column = v * s.stride_w - s.pad_w + (most_at[v] & ((1 << shift) - 1));
      if (row >= begin && row < end) sums[(row - begin) * s.width + column] += most[v];
    }
  }
  finish(grad_x + begin * s.width, sums, (end - begin) * s.width);
}

// ---- images: the channels of a window's positions one after the other -------------------------------------------

template <class T>
static void forward_image(const T* x, T* y, const PoolShape& s, int64_t begin, int64_t end, double*) {
  using O = opmath_t<T>;
  O buffer[kStrip], results[kStrip], low[kStrip], high[kStrip];
  for (int64_t u = begin; u < end; ++u) {
    const int64_t top = u * s.stride_h - s.pad_h;
    const Taps rows(top, s.kernel_h, s.height);
    for (int64_t v = 0; v < s.out_width; ++v) {
      const int64_t left = v * s.stride_w - s.pad_w;
      const Taps columns(left, s.kernel_w, s.width);
      for (int64_t strip = 0; strip < s.channels; strip += kStrip) {
        const int64_t n = s.channels - strip < kStrip ? s.channels - strip : kStrip;
        for (int64_t i = rows.begin; i < rows.end; ++i) {
          for (int64_t j = columns.begin; j < columns.end; ++j) {
            const O* values = as_opmath(x + ((top + i) * s.width + left + j) * s.channels + strip, buffer, n);
            if (i == rows.begin && j == columns.begin) {
              memcpy(low, values, size_t(n) * sizeof(O));
              memcpy(high, values, size_t(n) * sizeof(O));
              continue;
            }
            FASTOPS_INDEPENDENT_ITERATIONS
            for (int64_t c = 0; c < n; ++c) {
              low[c] = falls(values[c], low[c]) ? values[c] : low[c];
              high[c] = rises(values[c], high[c]) ? values[c] : high[c];
            }
          }
        }
        T* out = y + (u * s.out_width + v) * s.channels + strip;
        O* target = opmath_target(out, results);
        FASTOPS_INDEPENDENT_ITERATIONS
        for (int64_t c = 0; c < n; ++c) target[c] = mish_of_extremes(low[c], high[c]);
        finish(out, target, n);
      }
    }
  }
}

template <class T>
static void backward_image(const T* grad, const T* x, T* grad_x, const PoolShape& s, int64_t begin, int64_t end,
                           double* scratch) {
  using O = opmath_t<T>;
  using I = Position<O>;
  O buffer[kStrip], g_buffer[kStrip], low[kStrip], high[kStrip], wins[kStrip];
  I low_at[kStrip], high_at[kStrip], win_at[kStrip];
  const int64_t row_values = s.width * s.channels;
  O* sums = opmath_target(grad_x + begin * row_values, reinterpret_cast<O*>(scratch));
  memset(sums, 0, size_t((end - begin) * row_values) * sizeof(O));

  const Windows windows(begin, end, s.kernel_h, s.stride_h, s.pad_h, s.out_height);
  for (int64_t u = windows.begin; u < windows.end; ++u) {
    const int64_t top = u * s.stride_h - s.pad_h;
    const Taps rows(top, s.kernel_h, s.height);
    for (int64_t v = 0; v < s.out_width; ++v) {
      const int64_t left = v * s.stride_w - s.pad_w;
      const Taps columns(left, s.kernel_w, s.width);
      for (int64_t strip = 0; strip < s.channels; strip += kStrip) {
        const int64_t n = s.channels - strip < kStrip ? s.channels - strip : kStrip;
        for (int64_t i = rows.begin; i < rows.end; ++i) {
          for (int64_t j = columns.begin; j < columns.end; ++j) {
            const O* values = as_opmath(x + ((top + i) * s.width + left + j) * s.channels + strip, buffer, n);
            const I at = I(i * s.kernel_w + j);
            if (i == rows.begin && j == columns.begin) {
              FASTOPS_INDEPENDENT_ITERATIONS
              for (int64_t c = 0; c < n; ++c) {
                low[c] = high[c] = values[c];
                low_at[c] = high_at[c] = at;
              }
              continue;
            }
            FASTOPS_INDEPENDENT_ITERATIONS
            for (int64_t c = 0; c < n; ++c) {
              const bool lower = falls(values[c], low[c]), higher = rises(values[c], high[c]);
              low[c] = lower ? values[c] : low[c];
              low_at[c] = lower ? at : low_at[c];
              high[c] = higher ? values[c] : high[c];
              high_at[c] = higher ? at : high_at[c];
            }
          }
        }
        const O* g = as_opmath(grad + (u * s.out_width + v) * s.channels + strip, g_buffer, n);
        FASTOPS_INDEPENDENT_ITERATIONS
        for (int64_t c = 0; c < n; ++c) {
          const bool at_low = is_at_low(low[c], high[c], low_at[c], high_at[c]);
          wins[c] = mish_backward(g[c], at_low ? low[c] : high[c]);
          win_at[c] = at_low ? low_at[c] : high_at[c];
        }
        for (int64_t i = rows.begin; i < rows.end; ++i) {
          if (top + i < begin || top + i >= end) continue;
          for (int64_t j = columns.begin; j < columns.end; ++j) {
            O* target = sums + (top + i - begin) * row_values + (left + j) * s.channels + strip;
            const I at = I(i * s.kernel_w + j);
            FASTOPS_INDEPENDENT_ITERATIONS
            for (int64_t c = 0; c < n; ++c) target[c] += win_at[c] == at ? wins[c] : O(0);
          }
        }
      }
    }
  }
  finish(grad_x + begin * row_values, sums, (end - begin) * row_values);
}

// ---- the table: void pointers -----------------------------------------------------------------------------------

template <class T>
static void forward_plane_kernel(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end,
                                 double* scratch) {
  forward_plane(static_cast<const T*>(x), static_cast<T*>(y), s, begin, end, scratch);
}

template <class T>
static void backward_plane_kernel(const void* grad, const void* x, void* grad_x, const PoolShape& s, int64_t begin,
                                  int64_t end, double* scratch) {
  backward_plane(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), s, begin, end,
                 scratch);
}

template <class T>
static void forward_image_kernel(const void* x, void* y, const PoolShape& s, int64_t begin, int64_t end,
                                 double* scratch) {
  forward_image(static_cast<const T*>(x), static_cast<T*>(y), s, begin, end, scratch);
}

template <class T>
static void backward_image_kernel(const void* grad, const void* x, void* grad_x, const PoolShape& s, int64_t begin,
                                  int64_t end, double* scratch) {
  backward_image(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), s, begin, end,
                 scratch);
}

#define FASTOPS_ALL_DTYPES(kernel) \
  { kernel<float>, kernel<double>, kernel<half_t>, kernel<bfloat16_t> }

extern const MishMaxPool2dKernels mish_max_pool2d_kernels;
const MishMaxPool2dKernels mish_max_pool2d_kernels = {
    FASTOPS_ALL_DTYPES(forward_plane_kernel),
    FASTOPS_ALL_DTYPES(forward_image_kernel),
    FASTOPS_ALL_DTYPES(backward_plane_kernel),
    FASTOPS_ALL_DTYPES(backward_image_kernel),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
