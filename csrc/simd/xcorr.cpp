// The CPU loops of the cross-correlations.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "xcorr.h"

#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

// ---- packing ---------------------------------------------------------------------------------------------

// Transposes an L x L block in log2(L) rounds: each round interleaves row i with row i + L/2.
template <class T>
static inline void transpose(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int L = kLanes<T>;
  typedef decltype(Vec<T>{} < Vec<T>{}) Mask;
  Mask low, high;  // a0 b0 a1 b1 ... and the same of the upper halves
  for (int i = 0; i < L; ++i) {
    low[i] = i / 2 + (i % 2) * L;
    high[i] = L / 2 + low[i];
  }
  for (int round = 1; round < L; round *= 2) {
    Vec<T> next[L];
#pragma GCC unroll 16
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + L / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + L / 2], high);
    }
    memcpy(rows, next, sizeof(next));
  }
}

template <class T>
static void pack_kernel(const void* item, XcorrItem layout, int64_t begin, void* packed_) {
  using O = opmath_t<T>;
  constexpr int L = kLanes<O>;
  const T* source = static_cast<const T*>(item);
  O* packed = static_cast<O*>(packed_);
  const int64_t lanes = layout.channels - begin < L ? layout.channels - begin : L;
  O buffer[L] = {};
  if (layout.channels_last) {
    for (int64_t p = 0; p < layout.pixels; ++p) {
      const T* pixel = source + p * layout.channels + begin;
      if (lanes == L) {
        store(packed + p * L, load(as_opmath(pixel, buffer, L)));
      } else {
        const O* v = as_opmath(pixel, buffer, lanes);
        for (int64_t l = 0; l < L; ++l) packed[p * L + l] = l < lanes ? v[l] : O(0);
      }
    }
    return;
  }
  source += begin * layout.pixels;
  int64_t p = 0;
  for (; p + L <= layout.pixels; p += L) {
    Vec<O> rows[L];
    for (int64_t l = 0; l < L; ++l) {
      rows[l] = l < lanes ? load(as_opmath(source + l * layout.pixels + p, buffer, L)) : Vec<O>{};
    }
    transpose<O>(rows);
    for (int l = 0; l < L; ++l) store(packed + (p + l) * L, rows[l]);
  }
  for (; p < layout.pixels; ++p) {
    for (int64_t l = 0; l < L; ++l) {
      packed[p * L + l] = l < lanes ? *as_opmath(source + l * layout.pixels + p, buffer, 1) : O(0);
    }
  }
}

template <class T>
static void unpack_kernel(const void* packed_, XcorrItem layout, int64_t begin, void* item) {
  using O = opmath_t<T>;
  constexpr int L = kLanes<O>;
  const O* packed = static_cast<const O*>(packed_);
  T* target = static_cast<T*>(item);
  const int64_t lanes = layout.channels - begin < L ? layout.channels - begin : L;
  O buffer[L];
  const auto write = [&](T* to, const O* values, int64_t n) {
    O* out = opmath_target(to, buffer);
    memcpy(out, values, size_t(n) * sizeof(O));
    finish(to, out, n);
  };
  if (layout.channels_last) {
    for (int64_t p = 0; p < layout.pixels; ++p) write(target + p * layout.channels + begin, packed + p * L, lanes);
    return;
  }
  target += begin * layout.pixels;
  int64_t p = 0;
  for (; p + L <= layout.pixels; p += L) {
    Vec<O> rows[L];
    for (int l = 0; l < L; ++l) rows[l] = load(packed + (p + l) * L);
    transpose<O>(rows);
    for (int64_t l = 0; l < lanes; ++l) {
      O values[L];
      store(values, rows[l]);
      write(target + l * layout.pixels + p, values, L);
    }
  }
  for (; p < layout.pixels; ++p) {
    for (int64_t l = 0; l < lanes; ++l) write(target + l * layout.pixels + p, packed + p * L + l, 1);
  }
}

// ---- correlation -----------------------------------------------------------------------------------------

// A row of `width` pixels is divided into blocks of at most kMaxBlock, all nearly equal (17 = 9 + 8, not 12 + 5). A
// block keeps one accumulator per pixel in registers. With fewer than 8 the additions wait for each other (latency 4,
// two per cycle).
constexpr int kMaxBlock = 12;

// body.template operator()<N>(start) for each block
template <int N, class Body>
static inline void run_block(int64_t n, int64_t start, Body& body) {
  if (n == N) {
    body.template operator()<N>(start);
  } else if constexpr (N > 1) {
    run_block<N - 1>(n, start, body);
  }
}

template <int Max, class Body>
static inline void for_each_block(int64_t width, Body body) {
  const int64_t blocks = (width + Max - 1) / Max;
  for (int64_t b = 0, start = 0; b < blocks; ++b) {
    const int64_t end = width * (b + 1) / blocks;
    run_block<Max>(end - start, start, body);
    start = end;
  }
}

template <class O>
static void correlate_kernel(const void* z_, const void* x_, void* out_, XcorrPlane plane) {
  constexpr int L = kLanes<O>;
  const O *z = static_cast<const O*>(z_), *x = static_cast<const O*>(x_);
  O* out = static_cast<O*>(out_);
  for (int64_t u = 0; u < plane.oh; ++u) {
    for_each_block<kMaxBlock>(plane.ow, [&]<int N>(int64_t start) {
      O* target = out + (u * plane.ow + start) * L;
      Vec<O> acc[N];
      for (int q = 0; q < N; ++q) acc[q] = load(target + q * L);
      for (int64_t i = 0; i < plane.zh; ++i) {
        const O* taps = z + i * plane.zw * L;
        const O* row = x + ((u + i) * plane.xw + start) * L;
        for (int64_t j = 0; j < plane.zw; ++j, taps += L, row += L) {
          const Vec<O> tap = load(taps);
#pragma GCC unroll 16
          for (int q = 0; q < N; ++q) acc[q] += tap * load(row + q * L);
        }
      }
      for (int q = 0; q < N; ++q) store(target + q * L, acc[q]);
    });
  }
}

template <class O>
static void sum_lanes_kernel(const void* packed_, int64_t pixels, void* sums_) {
  const O* packed = static_cast<const O*>(packed_);
  O* sums = static_cast<O*>(sums_);
  for (int64_t p = 0; p < pixels; ++p) sums[p] = sum_lanes<O>(load(packed + p * kLanes<O>));
}

// The output's gradient at pixel p: one register per pixel (depthwise), or one value for all lanes.
template <bool kDepthwise, class O>
static inline Vec<O> grad_at(const O* grad, int64_t p) {
  if constexpr (kDepthwise) {
    return load(grad + p * kLanes<O>);
  } else {
    return splat(grad[p]);
  }
}

template <class O, bool kDepthwise>
static void search_backward(const O* grad, const O* z, O* grad_x, XcorrPlane plane) {
  constexpr int L = kLanes<O>;
  const int64_t margin = plane.zw - 1, width = plane.ow + 2 * margin;
  for (int64_t y = 0; y < plane.xh; ++y) {
    const int64_t first = y - plane.oh + 1 > 0 ? y - plane.oh + 1 : 0;  // rows i with 0 <= y - i < oh
    const int64_t last = y < plane.zh - 1 ? y : plane.zh - 1;
    for_each_block<kMaxBlock>(plane.xw, [&]<int N>(int64_t start) {
      O* target = grad_x + (y * plane.xw + start) * L;
      Vec<O> acc[N];
      for (int q = 0; q < N; ++q) acc[q] = load(target + q * L);
      for (int64_t i = first; i <= last; ++i) {
        const O* taps = z + i * plane.zw * L;
        int64_t p = (y - i) * width + margin + start;
        for (int64_t j = 0; j < plane.zw; ++j, --p, taps += L) {
          const Vec<O> tap = load(taps);
#pragma GCC unroll 16
          for (int q = 0; q < N; ++q) acc[q] += tap * grad_at<kDepthwise>(grad, p + q);
        }
      }
      for (int q = 0; q < N; ++q) store(target + q * L, acc[q]);
    });
  }
}

template <class O, bool kDepthwise>
static void template_backward(const O* grad, const O* x, O* grad_z, XcorrPlane plane) {
  constexpr int L = kLanes<O>;
  for (int64_t i = 0; i < plane.zh; ++i) {
    // Half as many taps as accumulators: even and odd columns of the output have separate sums. One chain per tap (six
    // for SiamFC) would wait for its own additions.
    for_each_block<kMaxBlock / 2>(plane.zw, [&]<int N>(int64_t start) {
      O* target = grad_z + (i * plane.zw + start) * L;
      Vec<O> even[N], odd[N];
      for (int q = 0; q < N; ++q) {
        even[q] = load(target + q * L);
        odd[q] = Vec<O>{};
      }
      for (int64_t u = 0; u < plane.oh; ++u) {
        const O* row = x + ((u + i) * plane.xw + start) * L;
        int64_t v = 0;
        for (; v + 1 < plane.ow; v += 2) {
          const Vec<O> g0 = grad_at<kDepthwise>(grad, u * plane.ow + v);
          const Vec<O> g1 = grad_at<kDepthwise>(grad, u * plane.ow + v + 1);
#pragma GCC unroll 16
          for (int q = 0; q < N; ++q) {
            even[q] += g0 * load(row + (v + q) * L);
            odd[q] += g1 * load(row + (v + 1 + q) * L);
          }
        }
        if (v < plane.ow) {
          const Vec<O> g = grad_at<kDepthwise>(grad, u * plane.ow + v);
          for (int q = 0; q < N; ++q) even[q] += g * load(row + (v + q) * L);
        }
      }
      for (int q = 0; q < N; ++q) store(target + q * L, even[q] + odd[q]);
    });
  }
}

template <class O>
static void search_backward_kernel(const void* grad, const void* z, void* grad_x, XcorrPlane plane, bool depthwise) {
  const auto run = depthwise ? search_backward<O, true> : search_backward<O, false>;
  run(static_cast<const O*>(grad), static_cast<const O*>(z), static_cast<O*>(grad_x), plane);
}

template <class O>
static void template_backward_kernel(const void* grad, const void* x, void* grad_z, XcorrPlane plane, bool depthwise) {
  const auto run = depthwise ? template_backward<O, true> : template_backward<O, false>;
  run(static_cast<const O*>(grad), static_cast<const O*>(x), static_cast<O*>(grad_z), plane);
}

extern const XcorrKernels xcorr_kernels;
const XcorrKernels xcorr_kernels = {
    {kLanes<float>, kLanes<double>},
    FASTOPS_ALL_DTYPES(pack_kernel),
    FASTOPS_ALL_DTYPES(unpack_kernel),
    {correlate_kernel<float>, correlate_kernel<double>},
    {sum_lanes_kernel<float>, sum_lanes_kernel<double>},
    {search_backward_kernel<float>, search_backward_kernel<double>},
    {template_backward_kernel<float>, template_backward_kernel<double>},
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
