// The few instructions that the kernels use and CUDA C++ has no name for. Each is a small function, so that a build
// without nvcc can define it in plain C++: here it is declared only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

namespace fastops {

// 2^x, off by at most 2^-22 of the result; 0 where that would be subnormal. (__expf keeps subnormal results, at twice
// the instructions.)
__device__ float exp2_approximate(float x);

// 1 / x, off by at most 2^-23 of the result; 0 where that would be subnormal.
__device__ float reciprocal_approximate(float x);

// d += a b^T for a warp and one of its tiles on the tensor cores: a [16, K] and b [8, K] of 16-bit values, K = 16,
// d [16, 8] in float32. With g = lane / 4 and t = lane % 4 the lane holds
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
#else  // Turing's tensor cores know no bfloat16: the launcher does not come here
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
