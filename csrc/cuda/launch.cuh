// Everything between a CUDA entry point and its kernel: device guard, stream, grid, launch and launch check.
// All kernels are launched through launch().
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "../common/checks.h"

namespace fastops {

// Makes the tensor's device current for the scope and holds its current stream.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// The values of a tensor, as the kernels' type.
template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
template <class T>
T* mutable_data(const std::optional<Tensor>& t) {  // here, because an overload in another file would hide the one above
  return t ? mutable_data<T>(*t) : nullptr;
}

constexpr int kThreads = 256;

// Enough blocks for n items. The number is bounded, and grid-stride loops process larger n (2^31 - 1 is the limit of
// x).
inline unsigned grid_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>(std::clamp<int64_t>((n + per_block - 1) / per_block, 1, int64_t(1) << 30));
}

template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const CudaScope& scope,
            Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = scope.stream();
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...));
}

// The `shared_bytes` of a launch, as seen by its kernel.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  __shared__ extern __align__(16) char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

}  // namespace fastops
