// The CPU loops of response_peak; the formulas are in math/response.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "response.h"

#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

template <class O>
static Vec<O> greater(Vec<O> a, Vec<O> b) {
  return a > b ? a : b;
}
template <class O>
static Vec<O> smaller(Vec<O> a, Vec<O> b) {
  return a < b ? a : b;
}

template <class O>
struct Extremes {
  O most, least;
};

template <class O>
static Extremes<O> extremes_of_lanes(Vec<O> most, Vec<O> least) {
  Extremes<O> e{most[0], least[0]};
  for (int i = 1; i < kLanes<O>; ++i) {
    e.most = most[i] > e.most ? most[i] : e.most;
    e.least = least[i] < e.least ? least[i] : e.least;
  }
  return e;
}

// The maximum and the minimum of n values, undefined if one of them is NaN, and whether the values can be upsampled.
template <class O>
static Extremes<O> extremes_of(const O* m, int64_t n, bool& finite) {
  constexpr int L = kLanes<O>;
  Vec<O> most = splat<O>(m[0]), least = most, nan = most - most;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    const Vec<O> v = load(m + i);
    most = greater<O>(v, most);
    least = smaller<O>(v, least);
    nan += v - v;
  }
  Extremes<O> e = extremes_of_lanes<O>(most, least);
  bool all = sum_lanes<O>(nan) == O(0);
  for (; i < n; ++i) {
    e = {m[i] > e.most ? m[i] : e.most, m[i] < e.least ? m[i] : e.least};
    all = all && m[i] == m[i];
  }
  finite = finite && all && response_fits(e.most, e.least);
  return e;
}

template <class O>
struct Place {
  O value;
  int64_t row, column;
};

// Upsampling of one target's maps.
template <class O>
class Upsampler {
 public:
  explicit Upsampler(const ResponseTables& tables) : t_(tables) {}

  // Fills rows[i, x] with map m [h, w], upsampled along its rows.
  void along_rows(const O* m, O* rows) const {
    constexpr int L = kLanes<O>;
    const int64_t width = t_.w * t_.up, stride = t_.up + kResponseLanes;
    for (int64_t i = 0; i < t_.h; ++i, m += t_.w, rows += t_.padded) {
      for (int64_t cell = -1; cell < t_.w; ++cell) {
        const auto at = [&](int64_t j) { return m[clamp_place(cell + j, t_.w)]; };
        const CubicTaps<O> taps(at(-1), at(0), at(1), at(2));
        const CellOutputs outputs(cell, t_.w, t_.up);
        const O* weights = static_cast<const O*>(t_.weights_by_kind) + outputs.begin - cell_start(cell, t_.up);
        for (int64_t x = outputs.begin; x < outputs.end; x += L, weights += L) {
          store(rows + x, load(weights + 2 * stride) * taps.inner_sum +
                              load(weights + 3 * stride) * taps.inner_difference + load(weights) * taps.outer_sum +
                              load(weights + stride) * taps.outer_difference);
        }
      }
      for (int64_t x = width; x < t_.padded; ++x) rows[x] = rows[width - 1];
    }
  }

  Extremes<O> extremes(const O* rows) const {
    Vec<O> most = splat<O>(rows[0]), least = most;
    for (int64_t x = 0; x < t_.padded; x += kLanes<O>) {
      along_columns(rows + x, O(1), [&](int64_t, Vec<O> value) {
        most = greater<O>(value, most);
        least = smaller<O>(value, least);
      });
    }
    return extremes_of_lanes<O>(most, least);
  }

  // The first arg max of factor r + influence window.
  Place<O> peak(const O* rows, O factor, O influence) const {
    constexpr int L = kLanes<O>;
    const O *row_window = static_cast<const O*>(t_.row_window),
            *column_window = static_cast<const O*>(t_.column_window);
    Place<O> best{-O(__builtin_inf()), 0, 0};
    for (int64_t x = 0; x < t_.padded; x += L) {
      const Vec<O> window = influence * load(column_window + x);
      Vec<O> most = splat<O>(-O(__builtin_inf())), row{};
      along_columns(rows + x, factor, [&](int64_t y, Vec<O> value) {
        const Vec<O> blended = value + row_window[y] * window, here = splat<O>(O(y));
        const auto more = blended > most;
        most = more ? blended : most;
        row = more ? here : row;
      });
      for (int l = 0; l < L; ++l) {
        const Place<O> place{most[l], int64_t(row[l]), x + l};
        if (place.value > best.value || (place.value == best.value && place.row < best.row)) {
          best = place;
        }
      }
    }
    return best;
  }

 private:
  // Calls body(y, value) for the outputs of a register of columns, times `factor`.
  template <class Body>
  void along_columns(const O* rows, O factor, Body body) const {
    const auto* weights = static_cast<const CubicWeights<O>*>(t_.weights);
    for (int64_t cell = -1; cell < t_.h; ++cell) {
      const auto at = [&](int64_t i) { return load(rows + clamp_place(cell + i, t_.h) * t_.padded); };
      CubicTaps<Vec<O>> taps(at(-1), at(0), at(1), at(2));
      taps.scale(factor);
      const CellOutputs outputs(cell, t_.h, t_.up);
      const int64_t start = cell_start(cell, t_.up);
      for (int64_t y = outputs.begin; y < outputs.end; ++y) body(y, taps.dot(weights[y - start]));
    }
  }

  const ResponseTables& t_;
};

template <class T>
static void track(const void* maps_, const ResponseTables& t, const ResponseOptions& options, void* scratch,
                  float* state, float* result) {
  using O = opmath_t<T>;
  const int64_t size = t.h * t.w, middle = t.scales / 2;
  O* maps = static_cast<O*>(scratch);
  const O* source = as_opmath(static_cast<const T*>(maps_), maps, t.scales * size);
  O *rows = maps + t.scales * size, *best_rows = rows + t.h * t.padded + kResponseLanes;

  const Upsampler<O> upsampler(t);
  const bool first = state[kOwnContrast] < 0;
  bool finite = true;
  double best_peak = 0, best_least = 0;
  int64_t best = -1;
  for (int64_t s = 0; s < t.scales; ++s) {
    O* m = maps + s * size;
    const O offset = extremes_of(source + s * size, size, finite).most;
    for (int64_t i = 0; i < size; ++i) m[i] = source[s * size + i] - offset;
    if (first) continue;
    upsampler.along_rows(m, rows);
    const Extremes<O> extremes = upsampler.extremes(rows);
    const double peak = (double(offset) + double(extremes.most)) * scale_penalty_of(options, s - middle);
    if (best < 0 || peak > best_peak) {
      best = s, best_peak = peak, best_least = double(extremes.least);
      O* other = best_rows;
      best_rows = rows, rows = other;
    }
  }
  if (!finite) return write_not_finite(result);

  const O* m = maps + (first ? middle : best) * size;
  const double contrast = 0 - double(sum(m, size)) / double(size);
  if (first) return set_own_contrast(contrast, state, result);

  const O *row_sums = static_cast<const O*>(t.row_sums), *column_sums = static_cast<const O*>(t.column_sums);
  double total = 0;
  for (int64_t i = 0; i < t.h; ++i) total += double(row_sums[i]) * double(dot(m + i * t.w, column_sums, t.w));
  const double height = double(t.h * t.up), width = double(t.w * t.up);
  const double factor =
      response_factor(options, scale_penalty_of(options, best - middle), height * width, total, best_least);
  const Place<O> peak = upsampler.peak(best_rows, O(factor), O(options.window_influence));
  update_target(options,
                {best - middle, double(peak.row) - (height - 1) / 2, double(peak.column) - (width - 1) / 2, contrast},
                state, result);
}

extern const ResponseKernels response_kernels;
const ResponseKernels response_kernels = {FASTOPS_ALL_DTYPES(track)};

}  // namespace FASTOPS_ISA
}  // namespace fastops
