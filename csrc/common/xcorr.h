// Shapes and checks of the cross-correlation ops, the same for every device.
//
//   out[b, k, u, v] = sum_{i < h, j < w} z[zb, c, i, j] x[xb, c, u + i, v + j]     (xcorr also sums over c)
//
// for pairs b = 0 .. B-1, B = max(Nz, Nx). The smaller batch size N divides the larger. Item n of the smaller batch
// belongs to B / N consecutive pairs (one template for many searches, or many templates for one image).
#pragma once

#include <algorithm>

#include "dispatch.h"

namespace fastops {

struct XcorrShape {
  int64_t pairs;           // B
  int64_t nz, nx;          // batches of z and x
  int64_t channels;        // C
  int64_t zh, zw, xh, xw;  // template and search
  int64_t oh, ow;          // xh - zh + 1, xw - zw + 1

  int64_t z_of(int64_t pair) const { return pair / (pairs / nz); }
  int64_t x_of(int64_t pair) const { return pair / (pairs / nx); }
};

inline XcorrShape check_xcorr(const char* op, const Tensor& z, const Tensor& x) {
  check_floating(op, "z", z);
  FASTOPS_CHECK(z.dim() == 4, op, ": z must be 4-D [N, C, h, w], got ", shape_string(z));
  FASTOPS_CHECK(x.dim() == 4, op, ": x must be 4-D [N, C, H, W], got ", shape_string(x));
  check_same_dtype(op, "x", x, "z", z);
  check_same_device(op, "x", x, "z", z);
  FASTOPS_CHECK(x.size(1) == z.size(1), op, ": x must have the channels of z (", z.size(1), "), got ", x.size(1));
  FASTOPS_CHECK(z.size(2) > 0 && z.size(3) > 0, op, ": z must not have an empty template, got ", shape_string(z));
  FASTOPS_CHECK(x.size(2) >= z.size(2) && x.size(3) >= z.size(3), op, ": x must be at least as large as z (", z.size(2),
                " x ", z.size(3), "), got ", x.size(2), " x ", x.size(3));
  XcorrShape s{};
  s.nz = z.size(0);
  s.nx = x.size(0);
  s.pairs = s.nz == 0 || s.nx == 0 ? 0 : std::max(s.nz, s.nx);
  FASTOPS_CHECK(s.pairs == 0 ? s.nz == s.nx : s.pairs % s.nz == 0 && s.pairs % s.nx == 0, op,
                ": x must have a batch that divides, or is divided by, that of z (", s.nz, "), got ", s.nx);
  s.channels = z.size(1);
  s.zh = z.size(2);
  s.zw = z.size(3);
  s.xh = x.size(2);
  s.xw = x.size(3);
  s.oh = s.xh - s.zh + 1;
  s.ow = s.xw - s.zw + 1;
  return s;
}

inline void check_xcorr_bias(const Tensor& bias, const Tensor& x) {
  check_same_dtype("xcorr", "bias", bias, "x", x);
  check_same_device("xcorr", "bias", bias, "x", x);
  FASTOPS_CHECK(bias.numel() == 1, "xcorr: bias must have one element, got ", shape_string(bias));
}

inline void check_xcorr_grad(const char* op, const Tensor& grad, const XcorrShape& s, int64_t channels,
                             const Tensor& x) {
  check_same_dtype(op, "grad", grad, "x", x);
  check_same_device(op, "grad", grad, "x", x);
  FASTOPS_CHECK(grad.dim() == 4 && grad.size(0) == s.pairs && grad.size(1) == channels && grad.size(2) == s.oh &&
                    grad.size(3) == s.ow,
                op, ": grad must have shape [", s.pairs, ", ", channels, ", ", s.oh, ", ", s.ow, "], got ",
                shape_string(grad));
}

}  // namespace fastops
