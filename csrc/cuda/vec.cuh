// Types and 16-byte accesses of the CUDA kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include <type_traits>

#include "../common/dispatch.h"
#include "../math/exp.h"
#include "ptx.cuh"

namespace fastops {

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

__device__ __forceinline__ float to_opmath(float v) { return v; }
__device__ __forceinline__ double to_opmath(double v) { return v; }
__device__ __forceinline__ float to_opmath(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_opmath(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__device__ __forceinline__ T from_opmath(opmath_t<T> v) {
  if constexpr (sizeof(T) == sizeof(opmath_t<T>)) {
    return v;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(v);
  } else {
    return __float2bfloat16_rn(v);
  }
}

// e^x and quotients for results that are rounded to 16 bits: one approximate instruction, where Exact takes eight to
// ten. The relative error is at most 2^-20, 1/256 of half a unit in float16's last place, for |x| <= 88 and a divisor
// from 2^-126 to 2^126.
struct Approximate {
  static __device__ __forceinline__ float exp(float x) { return exp2_approximate(x * 1.44269504f); }
  static __device__ __forceinline__ float exp_normal(float x) { return exp(x); }
  // A series where e^x - 1 would cancel. Its next term is below 2^-19 of the sum.
  static __device__ __forceinline__ ExpPair<float> exp_and_expm1(float x) {
    const float e = exp(x);
    const float series = x * (1.0f + x * (0.5f + x * (0.166666667f + x * (0.0416666667f + x * 0.00833333333f))));
    return {e, x > -0.25f && x < 0.25f ? series : e - 1.0f};
  }
  static __device__ __forceinline__ float divide(float a, float b) { return a * reciprocal_approximate(b); }
};

// The maths for results of type T.
template <class T>
using MathsOf = std::conditional_t<sizeof(T) == 2, Approximate, Exact>;

// N values of T, by default 16 bytes, which one instruction moves. More than 16 bytes take several instructions.
template <class T, int N = 16 / sizeof(T)>
struct alignas(N * sizeof(T)) Pack {
  static constexpr int size = N;
  T values[size];
};

template <class T, int N = 16 / sizeof(T)>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}

// The uint4 keeps it one store. If the values come from branches or loops, a plain assignment of a pack is stored in
// pieces of four bytes.
template <class T, int N>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& pack) {
  if constexpr (sizeof(pack) % sizeof(uint4) == 0) {
    constexpr int kParts = sizeof(pack) / sizeof(uint4);
    uint4 parts[kParts];
    memcpy(parts, pack.values, sizeof(pack));
#pragma unroll
    for (int i = 0; i < kParts; ++i) __stwb(reinterpret_cast<uint4*>(p) + i, parts[i]);
  } else {
    *reinterpret_cast<Pack<T, N>*>(p) = pack;
  }
}

inline bool is_aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Calls body.template operator()<scalar>() for the CUDA type of `dtype`.
template <class Body>
void dispatch_dtype(DType dtype, Body&& body) {
  switch (dtype) {
    case kFloat: return body.template operator()<float>();
    case kDouble: return body.template operator()<double>();
    case kHalf: return body.template operator()<__half>();
    default: return body.template operator()<__nv_bfloat16>();
  }
}

}  // namespace fastops
