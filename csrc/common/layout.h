// Memory layouts. Elementwise ops run over the flat storage of any dense tensor (contiguous, channels_last, any
// permutation). Their result has the same strides, as with torch's preserve_format.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>

namespace fastops {

using torch::stable::Tensor;

constexpr int64_t kMaxDims = 16;

// True when the elements fill their storage without gaps or overlap, in any order of dimensions.
inline bool is_dense(const Tensor& t) {
  if (t.is_contiguous()) return true;
  const int64_t dims = t.dim();
  if (dims > kMaxDims) return false;
  std::array<int64_t, kMaxDims> order{};
  int64_t used = 0;
  for (int64_t i = 0; i < dims; ++i) {
    if (t.size(i) != 1) order[used++] = i;
  }
  std::sort(order.begin(), order.begin() + used, [&](int64_t a, int64_t b) { return t.stride(a) < t.stride(b); });
  int64_t expected = 1;
  for (int64_t i = 0; i < used; ++i) {
    if (t.stride(order[i]) != expected) return false;
    expected *= t.size(order[i]);
  }
  return true;
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

// `t` in the layout of the dense tensor `like` (same shape): itself, or a copy.
inline Tensor laid_out_like(const Tensor& t, const Tensor& like) {
  if (t.is_contiguous() ? like.is_contiguous() || same_strides(t, like) : same_strides(t, like)) return t;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, t);
  return copy;
}

// `t` itself when dense, else a dense copy with the strides that empty_like gives.
inline Tensor dense(const Tensor& t) {
  if (is_dense(t)) return t;
  Tensor copy = torch::stable::empty_like(t);
  torch::stable::copy_(copy, t);
  return copy;
}

// NHWC (4-D, channels innermost) and not also NCHW.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4 || t.is_contiguous()) return false;
  const int64_t c = t.size(1), h = t.size(2), w = t.size(3);
  return t.stride(1) == 1 && (w == 1 || t.stride(3) == c) && (h == 1 || t.stride(2) == w * c) &&
         (t.size(0) == 1 || t.stride(0) == h * w * c);
}

// The layout of ops that distinguish channels from pixels: channels_last stays, all others become contiguous.
inline Tensor native_layout(const Tensor& t) { return is_channels_last(t) ? t : torch::stable::contiguous(t); }

// An uninitialised channels_last [N, C, H, W] of the dtype and device of `like`. A permuted view of an NHWC tensor has
// the same strides, but autograd does not allow in-place changes of such views.
inline Tensor empty_channels_last(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  const std::array<int64_t, 4> sizes{n, c, h, w};
  return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), sizes.size()), like.scalar_type(),
                              std::nullopt, like.device(), std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
}

}  // namespace fastops
