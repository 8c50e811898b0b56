// The widest SIMD register of the instruction set, as a GCC/Clang vector type: + - * / and comparisons work on it.
#pragma once

#include "elementwise.h"

namespace fastops {
namespace FASTOPS_ISA {

template <class T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(kVecBytes)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(kVecBytes)));
};
template <class T>
using Vec = typename VecOf<T>::type;

template <class T>
constexpr int kLanes = kVecBytes / int(sizeof(T));

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  memcpy(&v, p, sizeof(v));
  return v;
}

inline Vec<float> load_float(const float* p) { return load(p); }
template <class T>
inline Vec<float> load_float(const T* p) {
  float values[kLanes<float>];
  to_opmath(p, values, kLanes<float>);
  return load(values);
}

template <class T>
inline void store(T* p, Vec<T> v) {
  memcpy(p, &v, sizeof(v));
}

template <class T>
inline Vec<T> splat(T value) {
  return value - Vec<T>{};  // v - 0 keeps the sign of -0; v + 0 does not
}

// Sum of the lanes, pairwise.
template <class T>
inline T sum_lanes(Vec<T> v) {
  T lanes[kLanes<T>];
  store(lanes, v);
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// sum_i a[i] b[i] and sum_i a[i] with four chains of additions. The order depends on n only.
template <class T>
inline T dot(const T* a, const T* b, int64_t n) {
  constexpr int L = kLanes<T>;
  Vec<T> s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L) {
    s0 += load(a + i) * load(b + i);
    s1 += load(a + i + L) * load(b + i + L);
    s2 += load(a + i + 2 * L) * load(b + i + 2 * L);
    s3 += load(a + i + 3 * L) * load(b + i + 3 * L);
  }
  for (; i + L <= n; i += L) s0 += load(a + i) * load(b + i);
  T total = sum_lanes<T>((s0 + s1) + (s2 + s3));
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

template <class T>
inline T sum(const T* a, int64_t n) {
  constexpr int L = kLanes<T>;
  Vec<T> s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L) {
    s0 += load(a + i);
    s1 += load(a + i + L);
    s2 += load(a + i + 2 * L);
    s3 += load(a + i + 3 * L);
  }
  for (; i + L <= n; i += L) s0 += load(a + i);
  T total = sum_lanes<T>((s0 + s1) + (s2 + s3));
  for (; i < n; ++i) total += a[i];
  return total;
}

// `n` values as opmath: the array itself for float and double, converted into `buffer` for half types.
inline const float* as_opmath(const float* p, float*, int64_t) { return p; }
inline const double* as_opmath(const double* p, double*, int64_t) { return p; }
template <class T>
inline const float* as_opmath(const T* p, float* buffer, int64_t n) {
  to_opmath(p, buffer, n);
  return buffer;
}

// The memory for `n` results for `p`: the array itself, or `buffer`, which finish() then converts.
inline float* opmath_target(float* p, float*) { return p; }
inline double* opmath_target(double* p, double*) { return p; }
template <class T>
inline float* opmath_target(T*, float* buffer) {
  return buffer;
}
inline void finish(float*, const float*, int64_t) {}
inline void finish(double*, const double*, int64_t) {}
template <class T>
inline void finish(T* p, const float* buffer, int64_t n) {
  from_opmath(buffer, p, n);
}

// ---- entries of the tables: arrays from and to a dtype -----------------------------------------------------

template <class T>
inline void widen_to_opmath(const void* source, void* target, int64_t n) {
  using O = opmath_t<T>;
  const O* v = as_opmath(static_cast<const T*>(source), static_cast<O*>(target), n);
  if (v != target) memcpy(target, v, size_t(n) * sizeof(O));
}

template <class T>
inline void widen_to_double(const void* values, double* wide, int64_t n) {
  opmath_t<T> buffer[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    const auto* source = as_opmath(static_cast<const T*>(values) + begin, buffer, count);
    for (int64_t i = 0; i < count; ++i) wide[begin + i] = double(source[i]);
  }
}

template <class T>
inline void narrow_from_double(const double* wide, void* values, int64_t n) {
  opmath_t<T> buffer[kBlock];
  T* target = static_cast<T*>(values);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    auto* out = opmath_target(target + begin, buffer);
    for (int64_t i = 0; i < count; ++i) out[i] = opmath_t<T>(wide[begin + i]);
    finish(target + begin, out, count);
  }
}

}  // namespace FASTOPS_ISA
}  // namespace fastops
