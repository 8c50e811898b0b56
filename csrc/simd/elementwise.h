// Loads, stores and flat loops of the CPU kernels. Included only by csrc/simd/*.cpp, each compiled once per
// instruction set. Everything here is in the namespace FASTOPS_ISA, so the linker never picks the AVX-512 copy of a
// function for a CPU without AVX-512. No torch header and no std header with inline functions may be included.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "../common/macros.h"

namespace fastops {
namespace FASTOPS_ISA {

// Bytes of the widest SIMD register.
#if defined(__AVX512F__)
constexpr int kVecBytes = 64;
#elif defined(__AVX2__)
constexpr int kVecBytes = 32;
#else
constexpr int kVecBytes = 16;
#endif

struct half_t {
  uint16_t bits;
};
struct bfloat16_t {
  uint16_t bits;
};

template <class T>
struct Opmath {
  using type = float;
};
template <>
struct Opmath<double> {
  using type = double;
};
template <class T>
using opmath_t = typename Opmath<T>::type;

// A row of a table of kernels, by DType: kernel<T, ...> and kernel<F, T>.
#define FASTOPS_ALL_DTYPES(kernel, ...)                                                 \
  {kernel<float __VA_OPT__(, ) __VA_ARGS__>, kernel<double __VA_OPT__(, ) __VA_ARGS__>, \
   kernel<half_t __VA_OPT__(, ) __VA_ARGS__>, kernel<bfloat16_t __VA_OPT__(, ) __VA_ARGS__>}
#define FASTOPS_ALL_DTYPES_OF(kernel, F) {kernel<F, float>, kernel<F, double>, kernel<F, half_t>, kernel<F, bfloat16_t>}

// ---- conversions of blocks -------------------------------------------------------------------------------

inline float half_to_float(half_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h.bits);
#else
  // Shift exponent and mantissa into place, rescale by 2^112 (which also normalises subnormals), restore inf/NaN.
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16;
  uint32_t bits = uint32_t(h.bits & 0x7fffu) << 13;
  float value;
  memcpy(&value, &bits, sizeof(value));
  value *= 5.192296858534828e+33f;  // 2^112
  memcpy(&bits, &value, sizeof(bits));
  if ((h.bits & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
  bits |= sign;
  memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

inline half_t float_to_half(float value) {
#if defined(__F16C__)
  return {uint16_t(_cvtss_sh(value, 0))};
#else
  // Round to nearest even: subnormal results by adding 0.5, whose ulp is a half's smallest step; normal ones in bits.
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (bits >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // 65520 and beyond round to infinity
  if (bits < 0x38800000u) {                                    // below 2^-14
    float magnitude;
    memcpy(&magnitude, &bits, sizeof(magnitude));
    magnitude += 0.5f;
    memcpy(&bits, &magnitude, sizeof(bits));
    return {uint16_t(sign | (bits - 0x3f000000u))};
  }
  bits += 0xc8000fffu + ((bits >> 13) & 1u);
  return {uint16_t(sign | (bits >> 13))};
#endif
}

inline float to_float(float value) { return value; }
inline float to_float(half_t value) { return half_to_float(value); }
inline float to_float(bfloat16_t value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

inline void to_opmath(const half_t* source, float* target, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    _mm512_storeu_ps(target + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i))));
  }
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  }
#endif
  for (; i < n; ++i) target[i] = to_float(source[i]);
}

inline void from_opmath(const float* source, half_t* target, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + i), _mm512_cvtps_ph(_mm512_loadu_ps(source + i), 0));
  }
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), _mm256_cvtps_ph(_mm256_loadu_ps(source + i), 0));
  }
#endif
  for (; i < n; ++i) target[i] = float_to_half(source[i]);
}

// Explicit whole registers: for a short block GCC makes partial stores, and a full-width load that follows defeats
// store forwarding.
constexpr int kBits = kVecBytes / int(sizeof(uint32_t));
typedef uint16_t Bits16 __attribute__((vector_size(kVecBytes / 2)));
typedef uint32_t Bits32 __attribute__((vector_size(kVecBytes)));

// One instruction each. GCC's vector conversions take five.
inline Bits32 widen(Bits16 bits) {
#if defined(__AVX512F__)
  return Bits32(_mm512_cvtepu16_epi32(__m256i(bits)));
#elif defined(__AVX2__)
  return Bits32(_mm256_cvtepu16_epi32(__m128i(bits)));
#else
  return __builtin_convertvector(bits, Bits32);
#endif
}
inline Bits16 halve(Bits32 bits) {
#if defined(__AVX512F__)
  return Bits16(_mm512_cvtepi32_epi16(__m512i(bits)));
#else
  return __builtin_convertvector(bits, Bits16);
#endif
}

inline void to_opmath(const bfloat16_t* source, float* target, int64_t n) {
  int64_t i = 0;
  for (; i + kBits <= n; i += kBits) {
    Bits16 narrow;
    memcpy(&narrow, source + i, sizeof(narrow));
    const Bits32 bits = widen(narrow) << 16;
    memcpy(target + i, &bits, sizeof(bits));
  }
  for (; i < n; ++i) target[i] = to_float(source[i]);
}

// The upper half of a float's bits, rounded. B is uint32_t or Bits32.
template <class B>
inline B round_to_bfloat16(B bits) {
  const B rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // nearest, ties to even
  const B quiet = (bits >> 16) | 0x40u;                            // NaN stays NaN
  return (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
}

inline void from_opmath(const float* source, bfloat16_t* target, int64_t n) {
  int64_t i = 0;
  for (; i + kBits <= n; i += kBits) {
    Bits32 bits;
    memcpy(&bits, source + i, sizeof(bits));
    const Bits16 narrow = halve(round_to_bfloat16(bits));
    memcpy(target + i, &narrow, sizeof(narrow));
  }
  for (; i < n; ++i) {
    uint32_t bits;
    memcpy(&bits, source + i, sizeof(bits));
    target[i].bits = uint16_t(round_to_bfloat16(bits));
  }
}

// ---- flat loops ------------------------------------------------------------------------------------------

constexpr int64_t kBlock = 512;  // floats converted at a time: two such buffers stay in L1

// y[i] = f(x[i])
template <class F>
inline void map(const float* x, float* y, int64_t n, F f) {
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
}
template <class F>
inline void map(const double* x, double* y, int64_t n, F f) {
  for (int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
}
template <class T, class F>
inline void map(const T* x, T* y, int64_t n, F f) {
  float buffer[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    to_opmath(x + begin, buffer, count);
    map(buffer, buffer, count, f);
    from_opmath(buffer, y + begin, count);
  }
}

// y[i] = f(a[i], b[i])
template <class F>
inline void map2(const float* a, const float* b, float* y, int64_t n, F f) {
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < n; ++i) y[i] = f(a[i], b[i]);
}
template <class F>
inline void map2(const double* a, const double* b, double* y, int64_t n, F f) {
  for (int64_t i = 0; i < n; ++i) y[i] = f(a[i], b[i]);
}
template <class T, class F>
inline void map2(const T* a, const T* b, T* y, int64_t n, F f) {
  float first[kBlock], second[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    to_opmath(a + begin, first, count);
    to_opmath(b + begin, second, count);
    map2(first, second, first, count, f);
    from_opmath(first, y + begin, count);
  }
}

}  // namespace FASTOPS_ISA
}  // namespace fastops
