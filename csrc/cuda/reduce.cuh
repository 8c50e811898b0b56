// Sums over the threads of a warp or a block. The order of additions depends only on the shape of the block. So results
// repeat bit for bit. There are no atomics.
#pragma once

#include <stdint.h>

namespace fastops {

// The sum over each aligned group of `width` lanes (a power of two up to 32), for all of its lanes. The whole warp
// calls.
template <class A>
__device__ __forceinline__ A group_sum(A value, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The sum over a block of up to 1024 threads along x (a multiple of 32), for all threads. The whole block calls.
template <class A>
__device__ A block_sum(A value) {
  __shared__ A sums[32];
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  value = group_sum(value, 32);
  if (lane == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = group_sum(lane < warps ? sums[lane] : A(0), 32);
  __syncthreads();  // `sums` may be written again
  return value;
}

// The sums of kCount values over threadIdx.y, for the threads of row 0. The whole block calls. `shared` has
// kCount * blockDim.x * blockDim.y values and may be reused afterwards.
template <int kCount, class A>
__device__ __forceinline__ void column_sum(A (&values)[kCount], A* shared) {
  const int threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int k = 0; k < kCount; ++k) shared[k * threads + thread] = values[k];
  for (unsigned rows = blockDim.y; rows > 1;) {
    const unsigned half = (rows + 1) / 2;
    __syncthreads();
    if (threadIdx.y + half < rows) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        shared[k * threads + thread] += shared[k * threads + thread + half * blockDim.x];
      }
    }
    rows = half;
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) values[k] = shared[k * threads + thread];
  __syncthreads();
}

// The block for sums of strided terms: 32 neighbouring sums with 8 threads each.
constexpr int kSumColumns = 32, kSumRows = 8;

// terms[0] + terms[stride] + ..., for the threads of row 0. There are `count` terms, 0 for threads without a sum.
template <class A>
__device__ __forceinline__ A strided_sum(const A* terms, int64_t stride, int64_t count) {
  __shared__ A shared[kSumColumns * kSumRows];
  A sum[1] = {A(0)};
#pragma unroll 8  // loads in flight at a time
  for (int64_t i = threadIdx.y; i < count; i += kSumRows) sum[0] += terms[i * stride];
  column_sum(sum, shared);
  return sum[0];
}

}  // namespace fastops
