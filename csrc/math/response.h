// The steps of the SiamFC tracker after its network (Bertinetto et al. 2016, sections 3.4 and 4): upsampling of the
// score maps, choice of scale and position, update of the box.
//
// Upsampling by `up` is OpenCV's bicubic (a = -3/4, pixel centres at halves, borders repeated). An output at the
// distance f, 0 <= f < 1, after the value m1 of m0 m1 m2 m3 has the weights a f (1-f)^2 and 1 - (a+3) f^2 + (a+2) f^3,
// and then the same for 1 - f in reverse order. With u = 1 - 2 f and q = (1 - u^2) / 8 the output is
//
//   a q (m0 + m3) + a q u (m0 - m3) + (1/2 - a q) (m1 + m2) + u (1/2 + (a+2) q) (m1 - m2)
//
// A mirrored map only changes the signs of u and of the differences. So it gives the mirrored outputs bit for bit,
// whatever the compiler fuses, and a tie by symmetry is a tie in floating point too. (With weights on m0 ... m3 this
// failed in 2 % of maps that are flat except for one value.) If `up` is a power of two, the weights are exact too.
//
// Upsampling keeps constants, so a map's largest value is subtracted first. Rounding is then relative to the map's
// range and smallest near the peak, and a constant map stays constant.
//
// The peak of the best scale is the arg max of (1 - w) (r - min r) / (sum of them + 1e-16) + w hann / sum(hann), or of
//
//   k r + w hann / mean(hann),   k = (1 - w) n / (sum(r - min r) + 1e-16),   n outputs
//
// sum r does not need the outputs: it is separable, and the weights of a value that is not near the border add up to
// `up`.
#pragma once

#include <stdint.h>

#include "../common/macros.h"
#include "hann.h"
#include "target.h"

namespace fastops {

struct ResponseOptions {
  int64_t up, stride, instance_size;
  double scale_step, scale_penalty, scale_lr, window_influence, lost_score;
  int64_t lost_frames;
};

// Whether a map with these extremes can be upsampled. Outputs exceed the map's range by less than half of it, so their
// sums and differences stay below 4 ranges. False if one of the extremes is not finite.
template <class T>
FASTOPS_HD bool response_fits(T most, T least) {
  const T range = T(4) * (most - least);
  return range - range == T(0);
}

// ---- upsampling --------------------------------------------------------------------------------------------------

// Outputs belong to cells: those of cell i are between the values i and i + 1 of the map, -1 <= i < n for n values. A
// cell's outputs are its phases 0 ... up - 1. The border cuts off the first phases of cell -1 and the last phases of
// cell n - 1.
FASTOPS_HD int64_t cell_start(int64_t cell, int64_t up) { return cell * up + up / 2; }  // the output of phase 0

// The outputs of a cell that are inside the map.
struct CellOutputs {
  int64_t begin, end;

  FASTOPS_HD CellOutputs(int64_t cell, int64_t n, int64_t up)
      : begin(cell < 0 ? 0 : cell_start(cell, up)), end(cell == n - 1 ? n * up : cell_start(cell + 1, up)) {}
};

FASTOPS_HD int64_t clamp_place(int64_t place, int64_t n) { return place < 0 ? 0 : place < n ? place : n - 1; }

// The weights of m0 + m3, m0 - m3, m1 + m2 and m1 - m2.
template <class T>
struct CubicWeights {
  T outer_sum, outer_difference, inner_sum, inner_difference;
};

template <class T>
FASTOPS_HD CubicWeights<T> cubic_weights(int64_t phase, int64_t up) {
  constexpr double a = -0.75;
  const double u = double(2 * up - 2 * (phase + up / 2) - 1) / double(up), q = (1 - u * u) / 8;
  return {T(a * q), T(a * q * u), T(0.5 - a * q), T(u * (0.5 + (a + 2) * q))};
}

// The sums and differences of four neighbours, in the order of the weights.
template <class V>
struct CubicTaps {
  V outer_sum, outer_difference, inner_sum, inner_difference;

  CubicTaps() = default;
  FASTOPS_HD CubicTaps(V m0, V m1, V m2, V m3)
      : outer_sum(m0 + m3), outer_difference(m0 - m3), inner_sum(m1 + m2), inner_difference(m1 - m2) {}

  template <class T>
  FASTOPS_HD V dot(const CubicWeights<T>& w) const {
    return inner_sum * w.inner_sum + inner_difference * w.inner_difference + outer_sum * w.outer_sum +
           outer_difference * w.outer_difference;
  }
  template <class T>
  FASTOPS_HD void scale(T factor) {
    outer_sum *= factor, outer_difference *= factor, inner_sum *= factor, inner_difference *= factor;
  }
};

// The weight that the outputs before the first value give to the value two before it. The border repeats the first
// value, so this weight goes to it.
template <class T>
FASTOPS_HD T border_weight(const CubicWeights<T>* weights, int64_t up) {
  T sum = 0;
  for (int64_t phase = up - up / 2; phase < up; ++phase)
    sum += weights[phase].outer_sum + weights[phase].outer_difference;
  return sum;
}

// The sum of the weights that all outputs give to value i of n. Away from the border it is `up`. By the symmetry of the
// weights, the first value gains the weight that the outputs before it give to the value two before it, and the second
// value loses as much.
template <class T>
FASTOPS_HD T place_weight(int64_t i, int64_t n, int64_t up, T border) {
  if (n == 1) return T(up);
  return T(up) + border * T((i == 0) + (i == n - 1) - (i == 1) - (i == n - 2));
}

// ---- choice and update -------------------------------------------------------------------------------------------

// `scale` 0 is the middle scale.
FASTOPS_HD double scale_penalty_of(const ResponseOptions& o, int64_t scale) {
  return scale == 0 ? 1.0 : o.scale_penalty;
}

FASTOPS_HD double scale_factor(const ResponseOptions& o, int64_t scale) {
  double power = 1;
  for (int64_t i = scale < 0 ? -scale : scale; i > 0; --i) power *= o.scale_step;
  return scale < 0 ? 1 / power : power;
}

// The factor k for a map of `outputs` values before its penalty, with the sum `sum` and the minimum `least`.
FASTOPS_HD double response_factor(const ResponseOptions& o, double penalty, double outputs, double sum, double least) {
  const double above = sum - outputs * least;
  return (1 - o.window_influence) * penalty * outputs / (penalty * (above > 0 ? above : 0) + 1e-16);
}

// A map's peak minus its mean, and the position of the peak in outputs, relative to the middle of the map.
struct ResponsePeak {
  int64_t scale;
  double down, across, contrast;
};

FASTOPS_HD void update_target(const ResponseOptions& o, const ResponsePeak& peak, float* state, float* result) {
  const double factor = scale_factor(o, peak.scale);
  const double pixels = double(o.stride) / double(o.up) * state[kSearchSize] * factor / double(o.instance_size);
  move_center(float(state[kCenterX] + peak.across * pixels), float(state[kCenterY] + peak.down * pixels), state);

  const double w = state[kWidth], h = state[kHeight];
  const double least = state[kMinSide] / (w < h ? w : h);
  const double most_w = state[kMaxWidth] / w, most_h = state[kMaxHeight] / h;
  const double growth = clamp_between((1 - o.scale_lr) + o.scale_lr * factor, least, most_w < most_h ? most_w : most_h);
  state[kWidth] = float(w * growth);
  state[kHeight] = float(h * growth);
  state[kSearchSize] = float(state[kSearchSize] * growth);
  finish_update({o.lost_score, o.lost_frames}, peak.contrast, state, result);
}

}  // namespace fastops
