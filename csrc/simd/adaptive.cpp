// The CPU loops of the adaptive activations; the formulas are in math/adaptive.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "adaptive.h"

#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

// A matrix is processed in strips of up to kStrip neighbouring values: one pixel, or several if pixels are contiguous
// and have few channels. With one channel a strip is kStrip pixels. Lane l of every strip is channel l % channels. So
// parameters and sums are arrays over the lanes, and one loop serves all layouts.
constexpr int64_t kStrip = 64;
static_assert(kStrip >= kAdaptiveChannels);

// Lanes per step. The loop over them has a constant length and becomes SIMD code without a tail.
constexpr int64_t kChunk = 16;

// The number of strips whose sum is in opmath before it is added in double. The error of a float sum with so few terms
// is below the errors of the terms.
constexpr int64_t kFold = 16;

template <class O>
FASTOPS_HD void clear(O (&lanes)[4][kStrip]) {
  for (int64_t l = 0; l < 4 * kStrip; l += kLanes<O>) store(&lanes[0][0] + l, Vec<O>{});
}

template <class O>
struct Lanes {
  O values[4][kStrip];
  int64_t pixels;  // per strip

  Lanes(const AdaptiveMatrices& shape, const AdaptiveArrays& parameters) {
    clear(values);
    pixels = shape.pixel_stride == shape.channels ? kStrip / shape.channels : 1;
    for (int k = 0; k < 4; ++k) {
      const O* source = static_cast<const O*>(parameters.values[k]);
      if (shape.channels == 1) {  // becomes SIMD code for short rows
        for (int64_t l = 0; l < kStrip; ++l) values[k][l] = source[0];
        continue;
      }
      for (int64_t l = 0; l < pixels * shape.channels; l += shape.channels) {
        for (int64_t c = 0; c < shape.channels; ++c) values[k][l + c] = source[c];
      }
    }
  }
};

// Calls body(offset, lane, n) for every chunk of every strip, n <= kChunk, and after_strip() after each strip.
template <class O, class Body, class AfterStrip>
FASTOPS_HD void for_each_chunk(const AdaptiveMatrices& shape, const Lanes<O>& lanes, Body body,
                               AfterStrip after_strip) {
  for (int64_t image = 0; image < shape.images; ++image) {
    for (int64_t p = 0; p < shape.pixels; p += lanes.pixels) {
      const int64_t offset = image * shape.image_stride + p * shape.pixel_stride;
      const int64_t pixels = shape.pixels - p < lanes.pixels ? shape.pixels - p : lanes.pixels;
      const int64_t width = pixels * shape.channels;
      for (int64_t l = 0; l < width; l += kChunk) body(offset + l, l, width - l < kChunk ? width - l : kChunk);
      after_strip();
    }
  }
}

// kChunk values from p on, as opmath. Values beyond n are zeros, in `buffer`.
template <class T>
FASTOPS_HD const opmath_t<T>* load_chunk(const T* p, opmath_t<T>* buffer, int64_t n) {
  if (n == kChunk) return as_opmath(p, buffer, kChunk);
  T padded[kChunk];
  FASTOPS_SHORT_LOOP
  for (int i = 0; i < kChunk; ++i) padded[i] = i < n ? p[i] : T{};
  const opmath_t<T>* values = as_opmath(padded, buffer, kChunk);
  if (values != buffer) memcpy(buffer, values, sizeof(padded));
  return buffer;
}

// The memory for kChunk results. store_chunk() writes the first n of them to p.
template <class T>
FASTOPS_HD opmath_t<T>* chunk_target(T* p, opmath_t<T>* buffer, int64_t n) {
  return n == kChunk ? opmath_target(p, buffer) : buffer;
}
template <class T>
FASTOPS_HD void store_chunk(T* p, const opmath_t<T>* buffer, int64_t n) {
  if (n == kChunk) return finish(p, buffer, kChunk);
  T values[kChunk];
  if constexpr (sizeof(T) == sizeof(opmath_t<T>)) {
    memcpy(values, buffer, sizeof(values));
  } else {
    from_opmath(buffer, values, kChunk);
  }
  FASTOPS_SHORT_LOOP
  for (int i = 0; i < kChunk; ++i) {
    if (i < n) p[i] = values[i];
  }
}

template <class F, class T>
static void forward(const void* x_, void* y_, AdaptiveMatrices shape, AdaptiveArrays parameters) {
  using O = opmath_t<T>;
  const T* x = static_cast<const T*>(x_);
  T* y = static_cast<T*>(y_);
  const Lanes<O> lanes(shape, parameters);
  const auto& p = lanes.values;
  O in[kChunk], out[kChunk];
  const auto body = [&](int64_t offset, int64_t lane, int64_t n) {
    const O* v = load_chunk(x + offset, in, n);
    O* target = chunk_target(y + offset, out, n);
    FASTOPS_SHORT_LOOP
    for (int64_t i = 0; i < kChunk; ++i) {
      const int64_t l = lane + i;
      target[i] = F::forward(v[i], {p[0][l], p[1][l], p[2][l], p[3][l]});
    }
    store_chunk(y + offset, target, n);
  };
  for_each_chunk(shape, lanes, body, [] {});
}

template <class F, class T>
static void backward(const void* grad_, const void* x_, void* grad_x_, AdaptiveMatrices shape,
                     AdaptiveArrays parameters, double* sums) {
  using O = opmath_t<T>;
  const T *grad = static_cast<const T*>(grad_), *x = static_cast<const T*>(x_);
  T* grad_x = static_cast<T*>(grad_x_);
  const Lanes<O> lanes(shape, parameters);
  O g_in[kChunk], x_in[kChunk], p_in[4][kChunk], out[kChunk];
  O partial[4][kStrip];
  double totals[4][kStrip];
  clear(partial);
  clear(totals);
  const auto fold = [&] {
    for (int k = 0; k < 4; ++k) {
      for (int64_t l = 0; l < kStrip; ++l) totals[k][l] += double(partial[k][l]);
    }
    clear(partial);
  };
  const auto body = [&](int64_t offset, int64_t lane, int64_t n) {
    const O* g = load_chunk(grad + offset, g_in, n);
    const O* v = load_chunk(x + offset, x_in, n);
    const O* p[4];  // zeros beyond n too: an infinite parameter times x = 0 is NaN
    for (int k = 0; k < 4; ++k) p[k] = load_chunk(lanes.values[k] + lane, p_in[k], n);
    O* target = chunk_target(grad_x + offset, out, n);
    FASTOPS_SHORT_LOOP
    for (int64_t i = 0; i < kChunk; ++i) {
      const AdaptiveTerms<O> terms = F::backward(g[i], v[i], {p[0][i], p[1][i], p[2][i], p[3][i]});
      target[i] = terms.grad_x;
      partial[0][lane + i] += terms.a;
      partial[1][lane + i] += terms.b;
      partial[2][lane + i] += terms.c;
      partial[3][lane + i] += terms.d;
    }
    store_chunk(grad_x + offset, target, n);
  };
  int64_t strips = 0;
  for_each_chunk(shape, lanes, body, [&] {
    if (++strips % kFold == 0) fold();
  });
  fold();

  if (shape.channels == 1) {
    for (int k = 0; k < 4; ++k) sums[k] += sum<double>(totals[k], kStrip);
    return;
  }
  for (int64_t l = 0; l < lanes.pixels * shape.channels; l += shape.channels) {
    for (int64_t c = 0; c < shape.channels; ++c) {
      for (int k = 0; k < 4; ++k) sums[4 * c + k] += totals[k][l + c];
    }
  }
}

template <class T>
static void narrow_kernel(const double* source, int64_t stride, void* target_, int64_t n) {
  T* target = static_cast<T*>(target_);
  for (int64_t i = 0; i < n; ++i) {
    const opmath_t<T> value = opmath_t<T>(source[i * stride]);
    if constexpr (sizeof(T) == sizeof(value)) {
      target[i] = value;
    } else {
      from_opmath(&value, target + i, 1);
    }
  }
}

#define FASTOPS_ALL_KINDS(function)                                       \
  {FASTOPS_ALL_DTYPES_OF(function, AdaptiveActivation<kAdaptiveSigmoid>), \
   FASTOPS_ALL_DTYPES_OF(function, AdaptiveActivation<kAdaptiveTanh>),    \
   FASTOPS_ALL_DTYPES_OF(function, AdaptiveActivation<kAdaptiveRelu>)}

extern const AdaptiveKernels adaptive_kernels;
const AdaptiveKernels adaptive_kernels = {
    FASTOPS_ALL_KINDS(forward),
    FASTOPS_ALL_KINDS(backward),
    FASTOPS_ALL_DTYPES(widen_to_opmath),
    FASTOPS_ALL_DTYPES(narrow_kernel),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
