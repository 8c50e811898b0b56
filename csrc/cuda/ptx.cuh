// The few instructions of the kernels for which CUDA C++ has no name. Each is a small function, which a build without
// nvcc defines in plain C++. For such a build this file only declares them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

namespace fastops {

// 2^x with a relative error of at most 2^-22; 0 if the result would be subnormal. (__expf keeps subnormal results but
// takes twice as many instructions.)
__device__ float exp2_approximate(float x);

// 1 / x with a relative error of at most 2^-23; 0 if the result would be subnormal.
__device__ float reciprocal_approximate(float x);

// d += a b^T on the tensor cores, for a warp and one of its tiles: a [16, K] and b [8, K] have 16-bit values, K = 16,
// and d [16, 8] is float32. With g = lane / 4 and t = lane % 4 the lane has
//
//   a[0] a[1] a[2] a[3]   a[g, 2t..] a[g + 8, 2t..] a[g, 8 + 2t..] a[g + 8, 8 + 2t..]      two values each
//   b[0] b[1]             b[g, 2t..] b[g, 8 + 2t..]
//   d[0] d[1] d[2] d[3]   d[g, 2t] d[g, 2t + 1] d[g + 8, 2t] d[g + 8, 2t + 1]
template <class T>
__device__ void multiply_tile(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#if defined(__CUDACC__)

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define FASTOPS_MULTIPLY_TILE(T, type)                                                                              \
  template <>                                                                                                       \
  __device__ __forceinline__ void multiply_tile<T>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                                      \
        ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "                                                              \
        "{%0,%1,%2,%3};"                                                                                            \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                            \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                        \
  }
#else  // never called: Turing's tensor cores have no bfloat16, and the launcher checks that
#define FASTOPS_MULTIPLY_TILE(T, type)                                                                           \
  template <>                                                                                                    \
  __device__ __forceinline__ void multiply_tile<T>(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]) { \
    __trap();                                                                                                    \
  }
#endif
FASTOPS_MULTIPLY_TILE(__half, "f16")
FASTOPS_MULTIPLY_TILE(__nv_bfloat16, "bf16")
#undef FASTOPS_MULTIPLY_TILE

#endif

}  // namespace fastops
