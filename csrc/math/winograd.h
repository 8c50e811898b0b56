// Winograd minimal filtering F(m, r): m outputs of an r-tap correlation from alpha = m + r - 1 multiplications.
//
//   Y = A^T [ (G g G^T) .* (B^T d B) ] A          (Lavin & Gray, "Fast Algorithms for Convolutional Neural
//                                                  Networks", 2015, eq. 8; 2-D by nesting the 1-D transforms)
//
// The matrices follow from Toom-Cook interpolation at alpha - 1 finite points p_j and infinity:
//
//   A^T[i][j] = p_j^i                  G[j][k] = p_j^k / prod_{l != j} (p_j - p_l)
//   B^T[j]    = coefficients of prod_{l != j} (x - p_l), lowest power first
//   infinity:   A^T picks i = m - 1, G picks k = r - 1, B^T[alpha - 1] = coefficients of prod_l (x - p_l)
//
// With the points 0, +-a_1, ..., +-a_n every product splits into an even and an odd part that +a and -a share,
//
//   B^T[+-a_q] = (x^2 +- a_q x) prod_{s != q} (x^2 - a_s^2),   A^T: a_q^i (m_{+q} + m_{-q}) for even i, (- for odd i)
//
// so the code below never forms a matrix. The points are free parameters, and a fused multiply-add costs the same for
// any of them. These points had the smallest relative L2 error in a grid search, in float32 against float64, over 64
// channels: 5.4e-7 for alpha = 6 (the usual 0, +-1, +-2 give 1.1e-6), 2.0e-6 for alpha = 8 and 9.5e-6 for alpha = 10.
// All matrix entries except those of G are exact in float32.
//
// Nothing here may be emitted out of line: csrc/simd compiles these templates once per instruction set, and the linker
// would keep one copy for all sets. So everything is FASTOPS_HD (always inline) or consteval.
#pragma once

#include "../common/macros.h"

namespace fastops {
namespace winograd {

template <int kAlpha>
struct Points;

template <>
struct Points<6> {
  static constexpr int kPairs = 2;
  static constexpr double kPositive[kPairs] = {0.625, 1.5};
};

template <>
struct Points<8> {
  static constexpr int kPairs = 3;
  static constexpr double kPositive[kPairs] = {0.5, 1.0, 2.0};
};

template <>
struct Points<10> {
  static constexpr int kPairs = 4;
  static constexpr double kPositive[kPairs] = {0.375, 0.75, 1.25, 2.25};
};

// Interpolation point j, in the order 0, +a_1, -a_1, +a_2, -a_2, ... . Infinity, j = kAlpha - 1, has no point.
template <int kAlpha>
consteval double point(int j) {
  const double positive = j == 0 ? 0.0 : Points<kAlpha>::kPositive[(j - 1) / 2];
  return j % 2 == 1 ? positive : -positive;
}

consteval double power(double base, int exponent) {
  double result = 1;
  for (int i = 0; i < exponent; ++i) result *= base;
  return result;
}

// prod_{l != j} (p_j - p_l) over the finite points.
template <int kAlpha>
consteval double normalizer(int j) {
  double result = 1;
  for (int l = 0; l + 1 < kAlpha; ++l) {
    if (l != j) result *= point<kAlpha>(j) - point<kAlpha>(l);
  }
  return result;
}

// Coefficients in z, lowest power first, of prod_{s != skip} (z - a_s^2); skip = -1 leaves no factor out.
template <int kAlpha>
struct EvenPolynomial {
  double coefficient[Points<kAlpha>::kPairs + 1] = {1};

  consteval explicit EvenPolynomial(int skip) {
    int degree = 0;
    for (int s = 0; s < Points<kAlpha>::kPairs; ++s) {
      if (s == skip) continue;
      const double root = Points<kAlpha>::kPositive[s] * Points<kAlpha>::kPositive[s];
      coefficient[++degree] = 0;
      for (int i = degree; i > 0; --i) coefficient[i] = coefficient[i - 1] - root * coefficient[i];
      coefficient[0] *= -root;
    }
  }
};

// The compile-time loop: body(integral constant i) for i in [0, kCount).
template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

template <int kCount, int kBegin = 0, class Body>
FASTOPS_HD void unroll(const Body& body) {
  if constexpr (kBegin < kCount) {
    body(Index<kBegin>{});
    unroll<kCount, kBegin + 1>(body);
  }
}

// sum_i coefficient[i] * d[first + 2 i] of the monic even polynomial of degree kDegree in x^2.
template <int kAlpha, int kSkip, int kFirst, class V>
FASTOPS_HD V even_combination(const V* d) {
  constexpr EvenPolynomial<kAlpha> polynomial(kSkip);
  constexpr int kDegree = Points<kAlpha>::kPairs - (kSkip >= 0);
  V sum = d[kFirst + 2 * kDegree];
  unroll<kDegree>([&](auto i) __attribute__((always_inline)) {
    constexpr float kCoefficient = static_cast<float>(polynomial.coefficient[i.value]);
    sum += kCoefficient * d[kFirst + 2 * i.value];
  });
  return sum;
}

// out = B^T d; d and out hold kAlpha values each.
template <int kAlpha, class V>
FASTOPS_HD void transform_input(const V* d, V* out) {
  constexpr int kPairs = Points<kAlpha>::kPairs;
  out[0] = even_combination<kAlpha, -1, 0>(d);
  unroll<kPairs>([&](auto q) __attribute__((always_inline)) {
    constexpr float kPoint = static_cast<float>(Points<kAlpha>::kPositive[q.value]);
    const V even = even_combination<kAlpha, q.value, 2>(d);
    const V odd = even_combination<kAlpha, q.value, 1>(d);
    out[1 + 2 * q.value] = even + kPoint * odd;
    out[2 + 2 * q.value] = even - kPoint * odd;
  });
  out[kAlpha - 1] = even_combination<kAlpha, -1, 1>(d);
}

// out = A^T d; d holds kM + kR - 1 values, out kM.
template <int kM, int kR, class V>
FASTOPS_HD void transform_output(const V* d, V* out) {
  constexpr int kAlpha = kM + kR - 1;
  constexpr int kPairs = Points<kAlpha>::kPairs;
  V sum[kPairs], difference[kPairs];
  unroll<kPairs>([&](auto q) __attribute__((always_inline)) {
    sum[q.value] = d[1 + 2 * q.value] + d[2 + 2 * q.value];
    difference[q.value] = d[1 + 2 * q.value] - d[2 + 2 * q.value];
  });
  unroll<kM>([&](auto i) __attribute__((always_inline)) {
    const V* pair = i.value % 2 == 0 ? sum : difference;
    constexpr float kFirst = static_cast<float>(power(Points<kAlpha>::kPositive[0], i.value));
    V y = kFirst * pair[0];
    unroll<kPairs, 1>([&](auto q) __attribute__((always_inline)) {
      constexpr float kFactor = static_cast<float>(power(Points<kAlpha>::kPositive[q.value], i.value));
      y += kFactor * pair[q.value];
    });
    if constexpr (i.value == 0) y += d[0];
    if constexpr (i.value == kM - 1) y += d[kAlpha - 1];
    out[i.value] = y;
  });
}

// out = G g, in double: it is computed once, so it costs little and adds no error. g holds kR values, out kAlpha.
template <int kM, int kR>
FASTOPS_HD void transform_weight(const double* g, double* out) {
  constexpr int kAlpha = kM + kR - 1;
  unroll<kAlpha - 1>([&](auto j) __attribute__((always_inline)) {
    double sum = g[0];
    unroll<kR, 1>([&](auto k) __attribute__((always_inline)) {
      constexpr double kPower = power(point<kAlpha>(j.value), k.value);
      sum += kPower * g[k.value];
    });
    constexpr double kNormalizer = normalizer<kAlpha>(j.value);
    out[j.value] = sum / kNormalizer;
  });
  out[kAlpha - 1] = g[kR - 1];
}

}  // namespace winograd
}  // namespace fastops
