// Macros and the smallest functions, shared by host and device code.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define FASTOPS_HD __host__ __device__ __forceinline__
#else
#define FASTOPS_HD inline __attribute__((always_inline))
#endif

namespace fastops {

FASTOPS_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastops

// The iterations of the loop are independent, also in in-place calls, which pass the same pointer twice. Without this
// GCC tests for overlap at run time and takes the scalar path for in-place calls.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define FASTOPS_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
// The same for a loop of a short constant length, which GCC would unroll into scalar code before it looks for SIMD
// code.
#define FASTOPS_SHORT_LOOP _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#else
#define FASTOPS_INDEPENDENT_ITERATIONS
#define FASTOPS_SHORT_LOOP
#endif
