// Square regions of an image, resized bilinearly as OpenCV resizes uint8 (INTER_LINEAR, half-pixel centres), scalar,
// for host and device.
//
//   side = max(1, round(size)),  left = round(x - (side - 1) / 2)      the region; ties to even
//   u[i] = (i + 1/2) side / S - 1/2                                    the position of output pixel i in it
//   low  = round(2048 (1 - frac u)),  high = round(2048 frac u)        weights of the pixels floor u and floor u + 1,
//                                                                      both clamped to the region
//   h    = (p0 low + p1 high) >> 4                                     along x, of both rows
//   v    = ((h0 low >> 16) + (h1 high >> 16) + 2) >> 2                 along y: 0..255
//
// OpenCV computes u in double and rounds it to float. A float near 2^20 has only four fractions left, so the rounding
// matters. u is a fraction of whole numbers, ((2 i + 1) side - S) / (2 S). It can be a tie of that rounding only where
// S = 2^a m and side > 2^(23 - a). Otherwise its relative distance to a tie is at least 2^-26 / S, far more than the
// errors of double: then one division in float gives the same float. In the other case, double follows OpenCV step by
// step.
//
// A constant image stays constant. The weights add up to 2048, except rare ones with S > 8192 that add up to 2047 or
// 2049. Even 2047 along both axes leaves the sum before the last shift at 4 p - 2 or above.
#pragma once

#include <stdint.h>

#include "../common/macros.h"

namespace fastops {

// Centres and sizes beyond this, or not finite, give no region. Up to this limit float32 can represent whole pixels.
constexpr int32_t kCropLimit = 1 << 24;
constexpr int32_t kMaxCropChannels = 4;

#if defined(__CUDA_ARCH__)
FASTOPS_HD float round_even_(float v) { return rintf(v); }
FASTOPS_HD double round_even_(double v) { return rint(v); }
FASTOPS_HD float floor_(float v) { return floorf(v); }
#else
FASTOPS_HD float round_even_(float v) { return __builtin_rintf(v); }
FASTOPS_HD double round_even_(double v) { return __builtin_rint(v); }
FASTOPS_HD float floor_(float v) { return __builtin_floorf(v); }
#endif

struct CropRegion {
  int32_t left, top, side;  // side 0: no region
};

template <class A>
FASTOPS_HD bool within_crop_limit_(A v) {
  return v >= A(-kCropLimit) && v <= A(kCropLimit);  // not NaN
}

// Computes in the centre's dtype, like NumPy.
template <class A>
FASTOPS_HD CropRegion crop_region(A x, A y, A size) {
  if (!(within_crop_limit_(x) && within_crop_limit_(y) && within_crop_limit_(size))) return {0, 0, 0};
  const A rounded = round_even_(size), side = rounded < A(1) ? A(1) : rounded;
  const A half = (side - A(1)) * A(0.5);
  return {int32_t(round_even_(x - half)), int32_t(round_even_(y - half)), int32_t(side)};
}

struct CropScale {
  float side, size;  // of the region, and S
  double scale;      // OpenCV's side / S; 0 if float is exact enough
};

FASTOPS_HD CropScale crop_scale(int32_t side, int32_t size) {
  const bool exact = 2 * int64_t(side) * size <= 1 << 24;  // float is exact for these whole numbers
  return {float(side), float(size), exact ? 0.0 : 1.0 / (double(size) / double(side))};
}

FASTOPS_HD double rounded_product_(double a, double b) {  // never part of a fused multiply-add
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  volatile double product = a * b;
  return product;
#endif
}

FASTOPS_HD float crop_position_in_float(int32_t i, float side, float size) {
  return (float(2 * i + 1) * side - size) / (2.0f * size);
}
FASTOPS_HD float crop_position(int32_t i, const CropScale& s) {
  if (s.scale == 0.0) return crop_position_in_float(i, s.side, s.size);
  return float(rounded_product_(double(i) + 0.5, s.scale) - 0.5);
}

// The pixels `first` and `first + 1` of the region, before clamping, and their weights.
struct CropTap {
  int32_t first, low, high;
};

FASTOPS_HD CropTap crop_tap(float position) {
  const float first = floor_(position), fraction = position - first;
  return {int32_t(first), int32_t(round_even_((1.0f - fraction) * 2048.0f)), int32_t(round_even_(fraction * 2048.0f))};
}

FASTOPS_HD int32_t clamp_to(int32_t i, int32_t size) { return i < 0 ? 0 : i < size ? i : size - 1; }

FASTOPS_HD int32_t crop_along_x(int32_t p0, int32_t p1, int32_t low, int32_t high) {
  return (p0 * low + p1 * high) >> 4;
}
FASTOPS_HD int32_t crop_along_y(int32_t h0, int32_t h1, int32_t low, int32_t high) {
  return ((h0 * low >> 16) + (h1 * high >> 16) + 2) >> 2;
}

// The grey level nearest to a padding value; 0 for NaN.
FASTOPS_HD uint8_t grey_level(float v) { return v >= 255.0f ? 255 : v > 0.0f ? uint8_t(round_even_(v)) : 0; }

}  // namespace fastops
