// Kernels with the faults that the layer must find, and one without any: faults NAME prints what the kernel computed.
#include "cuda_runtime.h"

#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/cuda/reduce.cuh"

namespace fastops {
__device__ float* dynamic_floats() {
  __shared__ extern __align__(16) char dynamic_shared_memory[];
  return reinterpret_cast<float*>(dynamic_shared_memory);
}
}  // namespace fastops

namespace {

template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), unsigned grid, unsigned block, size_t shared, Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared;
  cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

__device__ int global_index() { return int(blockIdx.x * blockDim.x + threadIdx.x); }

__global__ void no_fault_kernel(const float* x, float* sums, int* count, int n, int rows) {
  __shared__ float row[64];
  for (int r = blockIdx.x; r < rows; r += gridDim.x) {
    row[threadIdx.x] = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) row[threadIdx.x] += x[r * n + i];
    __syncthreads();
    const float sum = fastops::block_sum(row[63 - threadIdx.x]);
    const unsigned votes = __ballot_sync(0xffffffffu, threadIdx.x % 2);
    const float first = __shfl_sync(0xffffffffu, sum, 0);
    if (threadIdx.x == 0) sums[r] = votes == 0xaaaaaaaau ? first : -1;
    if (threadIdx.x < 10) atomicAdd(count, 1);
    __syncthreads();
  }
}

__global__ void read_past_the_end_kernel(const float* x, float* y, int n) {
  for (int i = global_index(); i <= n; i += int(gridDim.x * blockDim.x)) y[i % n] = x[i];
}
__global__ void write_past_the_end_kernel(const float* x, float* y, int n) {
  for (int i = global_index(); i <= n; i += int(gridDim.x * blockDim.x)) y[i] = x[i % n];
}
__device__ void set(int* array, int i) { array[i] = i; }
__global__ void past_a_shared_array_kernel(float* y) {
  __shared__ int values[32];
  set(values, int(threadIdx.x));
  __syncthreads();
  y[0] = float(values[0]);
}
__global__ void past_dynamic_shared_kernel(float* y) {
  float* values = fastops::dynamic_floats();
  values[threadIdx.x] = float(threadIdx.x);
  __syncthreads();
  y[0] = values[0];
}
__global__ void misaligned_kernel(const float* x, float* y) {
  const float4 pack = *reinterpret_cast<const float4*>(x + 1);
  y[0] = pack.x;
}
__global__ void diverged_barrier_kernel(float* y) {
  if (threadIdx.x == 37) return;
  __syncthreads();
  y[0] = 1;
}
__global__ void diverged_shuffle_kernel(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, float(threadIdx.x), 1);
}
__global__ void left_out_of_mask_kernel(float* y) {
  y[threadIdx.x % 8] = __shfl_xor_sync(0x0000ffffu, float(threadIdx.x), 1);
}
__global__ void too_much_shared_kernel(float* y) { y[0] = 1; }

// Wrong values rather than faults: y[i] must be i.
__global__ void missing_barrier_kernel(float* y) {
  __shared__ float values[64];
  values[63 - threadIdx.x] = float(63 - threadIdx.x);
  y[threadIdx.x] = values[threadIdx.x];
}
__global__ void uninitialised_shared_kernel(float* y) {
  __shared__ float values[64];
  if (threadIdx.x != 5) values[threadIdx.x] = float(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = values[threadIdx.x];
}
__global__ void needs_the_whole_grid_kernel(float* y) { y[global_index()] = float(global_index()); }
__global__ void needs_the_order_of_blocks_kernel(float* y) {
  for (unsigned i = blockIdx.x; i < 64; i += gridDim.x) {
    if (threadIdx.x == 0) y[i] = i ? y[i - 1] + 1 : 0;
  }
}

int print(const std::string& name) {
  const int n = 1000;
  const std::unique_ptr<float[]> x(new float[n]), y(new float[n]);  // exact allocations
  for (int i = 0; i < n; ++i) x[i] = float(i % 7), y[i] = -1;
  int wrong = 0;
  const auto check = [&] {
    for (int i = 0; i < 64; ++i) wrong += y[i] != float(i);
  };
  if (name == "no_fault") {
    int count = 0;
    for (int repeat = 0; repeat < 8; ++repeat) launch(no_fault_kernel, 4, 64, 0, x.get(), y.get(), &count, 200, 5);
    for (int r = 0; r < 5; ++r) {
      float sum = 0;
      for (int i = 0; i < 200; ++i) sum += x[r * 200 + i];
      wrong += y[r] != sum;
    }
    wrong += count != 8 * 5 * 10;
  } else if (name == "read_past_the_end") {
    launch(read_past_the_end_kernel, 4, 256, 0, x.get(), y.get(), n);
  } else if (name == "write_past_the_end") {
    launch(write_past_the_end_kernel, 4, 256, 0, x.get(), y.get(), n);
  } else if (name == "past_a_shared_array") {
    launch(past_a_shared_array_kernel, 1, 33, 0, y.get());
  } else if (name == "past_dynamic_shared") {
    launch(past_dynamic_shared_kernel, 1, 33, 32 * sizeof(float), y.get());
  } else if (name == "misaligned") {
    launch(misaligned_kernel, 1, 1, 0, x.get(), y.get());
  } else if (name == "diverged_barrier") {
    launch(diverged_barrier_kernel, 1, 64, 0, y.get());
  } else if (name == "diverged_shuffle") {
    launch(diverged_shuffle_kernel, 1, 32, 0, y.get());
  } else if (name == "left_out_of_mask") {
    launch(left_out_of_mask_kernel, 1, 32, 0, y.get());
  } else if (name == "too_much_shared") {
    launch(too_much_shared_kernel, 1, 32, 48 * 1024 + 1, y.get());
  } else if (name == "missing_barrier") {
    launch(missing_barrier_kernel, 1, 64, 0, y.get());
    check();
  } else if (name == "uninitialised_shared") {
    launch(uninitialised_shared_kernel, 1, 64, 0, y.get());
    check();
  } else if (name == "needs_the_whole_grid") {
    for (int repeat = 0; repeat < 8 && !wrong; ++repeat) {
      for (int i = 0; i < 64; ++i) y[i] = -1;
      launch(needs_the_whole_grid_kernel, 4, 16, 0, y.get());
      check();
    }
  } else if (name == "needs_the_order_of_blocks") {
    for (int i = 0; i < 64; ++i) y[i] = -1;
    launch(needs_the_order_of_blocks_kernel, 64, 32, 0, y.get());
    check();
  } else {
    return 2;
  }
  printf("%d wrong values\n", wrong);
  return 0;
}

}  // namespace

int main(int, char** arguments) {
  try {
    return print(arguments[1]);
  } catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
