// A target of the tracker: its state from frame to frame, and its result for a frame. response_peak and box_peak share
// this file. fastops/ops/response.py has the same columns.
#pragma once

#include <stdint.h>

#include "../common/macros.h"

namespace fastops {

// The columns of `state` and of the results.
enum StateColumn : int {
  kCenterX,
  kCenterY,
  kWidth,
  kHeight,
  kSearchSize,
  kOwnContrast,  // contrast of the first frame's own map; negative before that frame
  kMisses,       // misses in a row
  kMinSide,
  kMaxWidth,
  kMaxHeight,
  kImageWidth,
  kImageHeight,
  kStateColumns
};
enum ResultColumn : int { kBoxX, kBoxY, kBoxWidth, kBoxHeight, kScore, kLost, kResultColumns };

constexpr int64_t kMaxMapSide = 128;  // largest side of the maps

// When a target is lost.
struct LostOptions {
  double score;
  int64_t frames;
};

#if defined(__CUDA_ARCH__)
FASTOPS_HD float nan_() { return nanf(""); }
#else
FASTOPS_HD float nan_() { return __builtin_nanf(""); }
#endif

FASTOPS_HD double clamp_between(double x, double low, double high) {
  const double above = x < low ? low : x;
  return above > high ? high : above;
}

FASTOPS_HD void write_box(const float* state, double score, bool lost, float* result) {
  result[kBoxX] = float(state[kCenterX] - (double(state[kWidth]) - 1) / 2);
  result[kBoxY] = float(state[kCenterY] - (double(state[kHeight]) - 1) / 2);
  result[kBoxWidth] = state[kWidth];
  result[kBoxHeight] = state[kHeight];
  result[kScore] = float(score);
  result[kLost] = lost ? 1.0f : 0.0f;
}

// For a map that is not finite: NaN as the result. The state does not change.
FASTOPS_HD void write_not_finite(float* result) {
  for (int i = 0; i < kLost; ++i) result[i] = nan_();
  result[kLost] = 1.0f;
}

// The first frame, searched with its own template. Later contrasts are divided by this one.
FASTOPS_HD void set_own_contrast(double contrast, float* state, float* result) {
  state[kOwnContrast] = float(contrast);
  write_box(state, 1, false, result);
}

// Keep the centre within the image.
FASTOPS_HD void move_center(double x, double y, float* state) {
  state[kCenterX] = float(clamp_between(x, 0, double(state[kImageWidth]) - 1));
  state[kCenterY] = float(clamp_between(y, 0, double(state[kImageHeight]) - 1));
}

// Score and misses of a later frame, and its result from the updated state.
FASTOPS_HD void finish_update(const LostOptions& lost, double contrast, float* state, float* result) {
  const double own = state[kOwnContrast], score = clamp_between(contrast / (own > 1e-12 ? own : 1e-12), 0, 1);
  state[kMisses] = score < lost.score ? state[kMisses] + 1 : 0.0f;
  write_box(state, score, state[kMisses] >= float(lost.frames), result);
}

}  // namespace fastops
