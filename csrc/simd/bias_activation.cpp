// The CPU loops of bias_activation; the formulas are in math/activation.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "bias_activation.h"

#include "mish_max_pool2d_images.h"

namespace fastops {
namespace FASTOPS_ISA {

// `count` channels of a window, or of a pixel.
template <class F, bool kPixels, class T, class Out, class O>
static void run_window(const T* x, const O* bias, Out* y, const Window& w, int64_t count) {
  O low[kStrip], high[kStrip], results[kStrip];
  O* target = opmath_target(y, results);
  if constexpr (kPixels) {
    const PoolShape& s = w.s;
    const O* values = as_opmath(x + (w.top * s.width + w.left) * s.channels + w.strip, low, count);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t c = 0; c < count; ++c) target[c] = F::of(values[c] + bias[c]);
  } else {
    window_extremes(x, w, count, low, high);
    FASTOPS_INDEPENDENT_ITERATIONS
    for (int64_t c = 0; c < count; ++c) target[c] = F::of_window(low[c] + bias[c], high[c] + bias[c]);
  }
  finish(y, target, count);
}

template <class F, bool kPixels, class T, class Out>
static void run_rows(const BiasActivationArgs& args, int64_t begin, int64_t end) {
  const PoolShape& s = args.shape;
  const auto* bias = static_cast<const opmath_t<T>*>(args.bias);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t image = row / s.out_height, u = row % s.out_height;
    const T* x = static_cast<const T*>(args.x) + image * s.height * s.width * s.channels;
    Out* y = static_cast<Out*>(args.y) + row * s.out_width * s.channels;
    for_each_window(s, u, u + 1, 0, [&](int64_t, int64_t v, const Window& w, int64_t count) {
      run_window<F, kPixels>(x, bias + w.strip, y + v * s.channels + w.strip, w, count);
    });
  }
}

template <class F, class T, class Out>
static void run(const BiasActivationArgs& args, int64_t begin, int64_t end) {
  const bool pixels = args.shape.kernel_h == 1 && args.shape.kernel_w == 1;
  pixels ? run_rows<F, true, T, Out>(args, begin, end) : run_rows<F, false, T, Out>(args, begin, end);
}

template <class F, class T>
static void run_same(const BiasActivationArgs& args, int64_t begin, int64_t end) {
  run<F, T, T>(args, begin, end);
}
template <class F, class T>
static void run_to_opmath(const BiasActivationArgs& args, int64_t begin, int64_t end) {
  run<F, T, opmath_t<T>>(args, begin, end);
}

#define FASTOPS_BIAS_ACTIVATION_ROW(F) {FASTOPS_ALL_DTYPES_OF(run_same, F), FASTOPS_ALL_DTYPES_OF(run_to_opmath, F)}

extern const BiasActivationKernels bias_activation_kernels;
const BiasActivationKernels bias_activation_kernels = {{
    FASTOPS_BIAS_ACTIVATION_ROW(Identity),
    FASTOPS_BIAS_ACTIVATION_ROW(Relu),
    FASTOPS_BIAS_ACTIVATION_ROW(Mish),
}};

}  // namespace FASTOPS_ISA
}  // namespace fastops
