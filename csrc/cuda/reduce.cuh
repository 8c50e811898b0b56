// Sums over the threads of a warp or a block. The order of additions depends on the shape of the block alone, so
// results repeat bit for bit; there are no atomics.
#pragma once

#include <stdint.h>

namespace fastops {

// Sum over each aligned group of `width` lanes (a power of two up to 32), given to all of them. The whole warp calls.
template <class A>
__device__ __forceinline__ A group_sum(A value, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Sum over a block of up to 1024 threads along x (a multiple of 32), given to all of them. The whole block calls.
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

// Sums of kCount values over threadIdx.y, left in the threads of row 0. The whole block calls;
// `shared` holds kCount * blockDim.x * blockDim.y values and may be used again afterwards.
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

// Block for sums of terms that lie apart: 32 neighbouring sums, each shared by 8 threads.
constexpr int kSumColumns = 32, kSumRows = 8;

// terms[0] + terms[stride] + ... (`count` of them; 0 for threads without a sum), left in the threads of row 0.
template <class A>
__device__ __forceinline__ A strided_sum(const A* terms, int64_t stride, int64_t count) {
  __shared__ A shared[kSumColumns * kSumRows];
  A sum[1] = {A(0)};
#pragma unroll 8  // loads under way at a time
  for (int64_t i = threadIdx.y; i < count; i += kSumRows) sum[0] += terms[i * stride];
  column_sum(sum, shared);
  return sum[0];
}

}  // namespace fastops
