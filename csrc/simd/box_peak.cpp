#include "box_peak.h"

#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

static double scalar(double value) { return value; }
template <class T>
static float scalar(T value) {
  return to_float(value);
}

template <class T>
static void load_cells(const void* source_, int64_t stride, int64_t n, opmath_t<T>* cells) {
  const T* source = static_cast<const T*>(source_);
  if (stride == 1) {
    const opmath_t<T>* values = as_opmath(source, cells, n);
    if (values != cells) memcpy(cells, values, size_t(n) * sizeof(*cells));
  } else {
    for (int64_t i = 0; i < n; ++i) cells[i] = scalar(source[i * stride]);
  }
}

template <class O>
static bool all_finite(const O* values, int64_t n) {
  int others = 0;
  for (int64_t i = 0; i < n; ++i) others |= !(values[i] - values[i] == O(0));
  return others == 0;
}

template <class O>
static O greatest(const O* values, int64_t n) {
  constexpr int L = kLanes<O>;
  Vec<O> lanes = splat<O>(values[0]);
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    const Vec<O> v = load(values + i);
    lanes = v > lanes ? v : lanes;
  }
  O most = lanes[0];
  for (int l = 1; l < L; ++l) most = lanes[l] > most ? lanes[l] : most;
  for (; i < n; ++i) most = values[i] > most ? values[i] : most;
  return most;
}

template <class T>
static void track(const BoxPeakTarget& t, const BoxPeakOptions& options, void* scratch, float* state, float* result) {
  using O = opmath_t<T>;
  const int64_t n = t.h * t.w;
  O* scores = static_cast<O*>(scratch);
  O *left = scores + n, *top = left + n, *right = top + n, *bottom = right + n, *values = bottom + n;
  load_cells<T>(t.scores, t.score_stride, n, scores);
  for (int c = 0; c < 4; ++c) {
    load_cells<T>(static_cast<const T*>(t.ltrb) + c * t.channel_stride, t.cell_stride, n, left + c * n);
  }
  if (options.logits) {
    const O factor = O(options.distance_factor());
    map(left, left, 4 * n, [&](O x) { return softplus_(x) * factor; });
  }
  if (!all_finite(scores, 5 * n)) return write_not_finite(result);

  const O most = greatest(scores, n);
  for (int64_t i = 0; i < n; ++i) values[i] = scores[i] - most;
  const double contrast = 0 - double(sum(values, n)) / double(n);
  if (state[kOwnContrast] < 0) return set_own_contrast(contrast, state, result);

  O row_window[kMaxMapSide], column_window[kMaxMapSide];
  for (int64_t i = 0; i < t.h; ++i) row_window[i] = hann<O>(i, t.h);
  for (int64_t j = 0; j < t.w; ++j) column_window[j] = hann<O>(j, t.w);
  for (int64_t i = 0; i < t.h; ++i) {
    for (int64_t j = 0; j < t.w; ++j) values[i * t.w + j] = row_window[i] * column_window[j];
  }
  const CellScale<O> scale(options, state);
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < n; ++i) {
    scores[i] = scale.trust(scores[i], scale.cell_side(left[i], right[i]), scale.cell_side(top[i], bottom[i]));
    values[i] = scale.value(scores[i], values[i]);
  }
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i) best = values[i] > values[best] ? i : best;

  const int64_t row = best / t.w, column = best - row * t.w;
  const ChosenCell cell{double(row) - double(t.h - 1) / 2,
                        double(column) - double(t.w - 1) / 2,
                        double(left[best]),
                        double(top[best]),
                        double(right[best]),
                        double(bottom[best]),
                        double(scores[best])};
  update_box(options, cell, contrast, state, result);
}

extern const BoxPeakKernels box_peak_kernels;
const BoxPeakKernels box_peak_kernels = {{track<float>, track<double>, track<half_t>, track<bfloat16_t>}};

}  // namespace FASTOPS_ISA
}  // namespace fastops
