// The IoU losses for box regression, with value and gradient together (Zhang et al., "Focal and Efficient IOU Loss for
// Accurate Bounding Box Regression", eq. 3-7 and 10).
//
// Everything is computed from differences of coordinates, so boxes of size 1e-6 at 1e6 lose no digits. Each axis has
// the sides p (pred) and t (target), left = p1 - t1, right = p2 - t2, and
//   outside_p = max(-left, 0) + max(right, 0)   of p outside t, at most p
//   outside_t = max(left, 0) + max(-right, 0)   of t outside p, at most t
//   i = overlap, g = gap between disjoint sides, c = t + max(-left, 0) + max(right, 0) = enclosing side of both.
// The areas are sums of non-negative terms, in which nothing cancels (' marks the other axis):
//   I = i i',   E = U - I = outside_p p' + i outside_p' + outside_t t' + i outside_t',   U = I + E,
//   C - U = outside_p outside_t' + outside_t outside_p' + g c' + (c - g) g'.
//
//   iou   1 - I/U = E/U                     giou  iou + (C - U)/C
//   diou  iou + |o|^2 / (c^2 + c'^2)        o = difference of the centres
//   ciou  diou + a v    v = 4/pi^2 theta^2, theta = atan(t/t') - atan(p/p') = atan((t p' - p t') / (p' t' + p t)),
//                       a = v / (iou + v), which the gradient treats as a constant
//   eiou  diou + ((p - t)/c)^2 + ((p' - t')/c')^2
//
// Gradients: with q = I/U and the areas A, B of the boxes, U = A + B - I,
//   d(E/U) = (q (dA + dB) - (1 + q) dI) / U,   d((C - U)/C) = (U/C dC - dU) / C.
// The overlap ends at pred's edge if that edge is inside target, the enclosing side if it is outside. If edges
// coincide, each has half of the gradient, so everything cancels exactly if the boxes are the same. Touching boxes
// count as overlapping.
//
// A side below eps, also a negative one, counts as eps around the same centre, which bounds every quotient. It has the
// gradient of a side of eps, so a collapsed box can grow again.
#pragma once

#include "atan.h"
#include "log.h"

namespace fastops {

enum class BoxFormat : int { xyxy, xywh, cxcywh };
enum class BoxPenalty : int { iou, giou, diou, ciou, eiou };
enum class BoxWeight : int { none, root, power, live };  // 1, IoU^(1/2), IoU^gamma, IoU^gamma with its own gradient

// One axis of a pair of boxes.
template <class T>
struct BoxAxis {
  T p, t;         // sides, at least eps
  T left, right;  // pred's edges minus target's
  T offset;       // pred's centre minus target's
  T stretch;      // p - t
  T reach;        // overlap, or minus the gap
};

// NaN in `a` stays NaN.
template <class T>
FASTOPS_HD T min_(T a, T b) {
  return b < a ? b : a;
}

// NaN and -inf do not become eps.
template <class T>
FASTOPS_HD T box_side(T side, T eps) {
  return side < eps ? eps + T(0) * side : side;
}

// (a + b) - sum, exactly, for sum = a + b rounded (Knuth 1969).
template <class T>
FASTOPS_HD T sum_error(T a, T b, T sum) {
  const T b_seen = sum - a;
  return (a - (sum - b_seen)) + (b - b_seen);
}

// From the two numbers of each box: its edges, first edge and side, or centre and side. If sides and offset cancel to a
// small overlap, the rounding errors of both are removed, because IoU^gamma would magnify them.
template <class T>
FASTOPS_HD BoxAxis<T> box_axis(BoxFormat format, T p0, T p1, T t0, T t1, T eps) {
  const bool corners = format == BoxFormat::xyxy;
  const T raw_p = corners ? p1 - p0 : p1, raw_t = corners ? t1 - t0 : t1;
  const T p = box_side(raw_p, eps), t = box_side(raw_t, eps);
  const T first = p0 - t0, last = p1 - t1;
  const T first_error = corners ? T(0) : sum_error(p0, -t0, first);
  const T offset = corners ? T(0.5) * (first + last) : format == BoxFormat::xywh ? first + T(0.5) * last : first;
  const T sum = p + t, stretch = p - t, half_error = T(0.5) * sum_error(p, t, sum);
  BoxAxis<T> axis{p, t, offset - T(0.5) * stretch, offset + T(0.5) * stretch, offset, stretch, T(0)};
  // p2 - t1 and t2 - p1
  T ahead = (T(0.5) * sum + offset) + (half_error + first_error);
  T behind = (T(0.5) * sum - offset) + (half_error - first_error);
  if (format != BoxFormat::cxcywh) {
    // As exact as the format allows, unless a side became eps: gradients depend on which edge is further out.
    const bool direct = raw_p >= eps && raw_t >= eps;
    axis.left = direct ? first : axis.left;
    axis.right = direct ? (corners ? last : first + last) : axis.right;
    axis.stretch = direct && corners ? last - first : axis.stretch;
    ahead = direct ? (corners ? p1 - t0 : (first + p1) + first_error) : ahead;
    behind = direct ? (corners ? t1 - p0 : (t1 - first) - first_error) : behind;
  }
  axis.reach = min_(min_(min_(ahead, behind), p), t);
  return axis;
}

// The gradient of L by the edges of pred and target on an axis.
template <class T>
struct BoxEdges {
  T p1, p2, t1, t2;
};

template <class T>
FASTOPS_HD BoxEdges<T> operator+(const BoxEdges<T>& a, const BoxEdges<T>& b) {
  return {a.p1 + b.p1, a.p2 + b.p2, a.t1 + b.t1, a.t2 + b.t2};
}
template <class T>
FASTOPS_HD BoxEdges<T> operator*(T a, const BoxEdges<T>& b) {
  return {a * b.p1, a * b.p2, a * b.t1, a * b.t2};
}

// The remaining lengths of an axis, and which edge is further out.
template <class T>
struct BoxSpan {
  T outside_p, outside_t, overlap, gap, cover;
  T left, right;  // gradient share of pred in the overlap's first edge, of target in its second: 1, 1/2 or 0
  bool meets;

  FASTOPS_HD explicit BoxSpan(const BoxAxis<T>& a) {
    const T before = a.left > T(0) ? T(0) : -a.left, after = a.right < T(0) ? T(0) : a.right;
    const T inner = (a.left < T(0) ? T(0) : a.left) + (a.right > T(0) ? T(0) : -a.right);
    outside_p = min_(before + after, a.p);
    outside_t = min_(inner, a.t);
    meets = !(a.reach < T(0));
    overlap = a.reach < T(0) ? T(0) : a.reach;
    gap = a.reach > T(0) ? T(0) : -a.reach;
    cover = a.t + (before + after);
    left = step(a.left);
    right = step(a.right);
  }

  // From dL/dp, dL/dt, -dL/d overlap and dL/d enclosing side.
  FASTOPS_HD BoxEdges<T> edges(T by_p, T by_t, T by_overlap, T by_cover) const {
    const T last = T(1) - left, first = T(1) - right;
    return {(left * by_overlap - by_p) - last * by_cover, (by_p - first * by_overlap) + right * by_cover,
            (last * by_overlap - by_t) - left * by_cover, (by_t - right * by_overlap) + first * by_cover};
  }

 private:
  static FASTOPS_HD T step(T x) { return x > T(0) ? T(1) : x < T(0) ? T(0) : T(0.5); }
};

template <class T>
struct BoxResult {
  T loss, weight;
  BoxEdges<T> x, y;
};

// Computes weight (iou + penalty), the weight and the gradient. The gradient of a live weight is relative to `mean`,
// which is 0 or the weighted mean of the losses.
template <class T>
FASTOPS_HD BoxResult<T> box_loss(BoxPenalty penalty, BoxWeight weighting, const BoxAxis<T>& x, const BoxAxis<T>& y,
                                 T gamma, T mean) {
  const BoxSpan<T> sx(x), sy(y);
  const T intersection = sx.overlap * sy.overlap;
  const T excess = (sx.outside_p * y.p + sx.outside_t * y.t) + sx.overlap * (sy.outside_p + sy.outside_t);
  const T whole = intersection + excess;
  const T iou = intersection / whole;  // a division, so that equal boxes give exactly 1
  T inverse = T(1) / whole;
  BoxResult<T> r;
  r.loss = excess * inverse;
  inverse += T(0) * r.loss;  // a NaN spreads to all gradients, also that of inf / inf
  // Products with q = 1, 1/2 and 2 are exact. So these sums are 0 for equal boxes, with or without fused multiply-adds.
  const BoxEdges<T> iou_x = sx.edges(iou * y.p, iou * y.t, sx.meets ? (T(1) + iou) * sy.overlap : T(0), T(0));
  const BoxEdges<T> iou_y = sy.edges(iou * x.p, iou * x.t, sy.meets ? (T(1) + iou) * sx.overlap : T(0), T(0));
  BoxEdges<T> rest_x{}, rest_y{};

  if (penalty == BoxPenalty::giou) {
    const T cover = sx.cover * sy.cover, uncovered = (sx.outside_p * sy.outside_t + sx.outside_t * sy.outside_p) +
                                                     (sx.gap * sy.cover + (sx.cover - sx.gap) * sy.gap);
    const T inverse_cover = T(1) / cover, filled = whole / cover;
    r.loss += uncovered * inverse_cover;
    rest_x = inverse_cover * sx.edges(-y.p, -y.t, sx.meets ? -sy.overlap : T(0), filled * sy.cover);
    rest_y = inverse_cover * sy.edges(-x.p, -x.t, sy.meets ? -sx.overlap : T(0), filled * sx.cover);
  } else if (penalty != BoxPenalty::iou) {
    const T inverse_diagonal = T(1) / (sx.cover * sx.cover + sy.cover * sy.cover);
    const T distance = (x.offset * x.offset + y.offset * y.offset) * inverse_diagonal;
    T by_p_x = T(0), by_t_x = T(0), by_p_y = T(0), by_t_y = T(0);
    T by_cover_x = T(-2) * distance * inverse_diagonal * sx.cover;
    T by_cover_y = T(-2) * distance * inverse_diagonal * sy.cover;
    T aspect = T(0);
    if (penalty == BoxPenalty::ciou) {
      constexpr T kScale = T(0.40528473456935109);               // 4 / pi^2
      const bool same = x.stretch == T(0) && y.stretch == T(0);  // a fused multiply-add leaves a rounding error here
      const T theta = atan_ratio(same ? T(0) : x.t * y.p - x.p * y.t, y.p * y.t + x.p * x.t);
      const T v = kScale * theta * theta;
      const T alpha = v > T(0) ? v / (r.loss + v) : T(0);
      aspect = alpha * v;
      const T slope = T(2) * kScale * alpha * theta;
      const T slope_p = slope / (x.p * x.p + y.p * y.p), slope_t = slope / (x.t * x.t + y.t * y.t);
      by_p_x = -slope_p * y.p, by_p_y = slope_p * x.p;
      by_t_x = slope_t * y.t, by_t_y = -slope_t * x.t;
    } else if (penalty == BoxPenalty::eiou) {
      const T inverse_x = T(1) / sx.cover, inverse_y = T(1) / sy.cover;
      const T ratio_x = x.stretch * inverse_x, ratio_y = y.stretch * inverse_y;
      aspect = ratio_x * ratio_x + ratio_y * ratio_y;
      by_p_x = T(2) * ratio_x * inverse_x, by_t_x = -by_p_x;
      by_p_y = T(2) * ratio_y * inverse_y, by_t_y = -by_p_y;
      by_cover_x -= ratio_x * by_p_x;
      by_cover_y -= ratio_y * by_p_y;
    }
    r.loss += distance + aspect;
    const T move_x = inverse_diagonal * x.offset, move_y = inverse_diagonal * y.offset;
    rest_x = sx.edges(by_p_x, by_t_x, T(0), by_cover_x) + BoxEdges<T>{move_x, move_x, -move_x, -move_x};
    rest_y = sy.edges(by_p_y, by_t_y, T(0), by_cover_y) + BoxEdges<T>{move_y, move_y, -move_y, -move_y};
  }

  if (weighting == BoxWeight::none) {
    r.weight = T(1);
    r.x = inverse * iou_x + rest_x;
    r.y = inverse * iou_y + rest_y;
    return r;
  }
  if (weighting == BoxWeight::root) {
    r.weight = sqrt_(iou);
  } else {
    r.weight = iou > T(0) ? pow_(iou, gamma) : (gamma > T(0) ? T(0) * iou : T(1));
  }
  T scale = r.weight * inverse;
  if (weighting == BoxWeight::live) {
    // d IoU^gamma = -gamma IoU^(gamma - 1) d(iou loss). It grows without bound as IoU -> 0. At 0 it is taken as 0.
    scale -= iou > T(0) ? (r.loss - mean) * gamma * (r.weight / iou) * inverse : T(0);
  }
  r.loss *= r.weight;
  r.x = scale * iou_x + r.weight * rest_x;
  r.y = scale * iou_y + r.weight * rest_y;
  return r;
}

// A box's gradient by its two numbers on an axis, from the gradient by its edges.
template <class T>
FASTOPS_HD void box_gradient(BoxFormat format, T first, T second, T& grad0, T& grad1) {
  const T sum = first + second;
  grad0 = format == BoxFormat::xyxy ? first : sum;
  grad1 = format == BoxFormat::cxcywh ? T(0.5) * (second - first) : second;
}

}  // namespace fastops
