// The part of CUDA's C++ that the kernels use, for a host compiler: with this folder in front of the include path, g++
// compiles csrc/cuda/*.cu unmodified, and launches run on the CPU. What a name does is what the CUDA C++ Programming
// Guide says; how threads, barriers and shared memory are made is in cuda_host.cpp.
#pragma once

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <functional>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// Shared arrays are thread-local: together they are this library's TLS block, which the layer overwrites before each
// block of threads. Poisoned bytes between them show an overrun of one to AddressSanitizer.
#define CUDA_HOST_JOIN_(a, b) a##b
#define CUDA_HOST_JOIN(a, b) CUDA_HOST_JOIN_(a, b)
#define CUDA_HOST_REDZONE(name)                   \
  static thread_local char name[64] = {};         \
  ::cuda_host::poison_redzone(name, sizeof name); \
  thread_local
#define __shared__ CUDA_HOST_REDZONE(CUDA_HOST_JOIN(redzone_, __COUNTER__))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 gridDim, blockDim;
extern uint3 blockIdx, threadIdx;
constexpr int warpSize = 32;

// ---- launches ------------------------------------------------------------------------------------------------

enum cudaError_t : int { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = struct CUstream_st*;
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

enum cudaDeviceAttr : int { cudaDevAttrComputeCapabilityMajor = 75 };
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 9;
  return cudaSuccess;
}

namespace cuda_host {

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread);
void poison_redzone(void* bytes, size_t count);
void sync_block();

// One exchange among the lanes of `mask`, all of which must come here: `value` in, the lanes' values out, valid until
// the next exchange.
const uint64_t* exchange(unsigned mask, uint64_t value);
unsigned lane();

}  // namespace cuda_host

template <class... Parameters, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Args&&... args) {
  const std::tuple<Parameters...> parameters(std::forward<Args>(args)...);
  return cuda_host::run(*config, reinterpret_cast<const void*>(kernel), [&] { std::apply(kernel, parameters); });
}

// ---- barriers, shuffles, votes -------------------------------------------------------------------------------

inline void __syncthreads() { cuda_host::sync_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_host::exchange(mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace cuda_host {

// The value of lane `source`, or the own one where that is outside the segment of `width` lanes.
template <class T>
T shuffle(unsigned mask, T value, int source, bool inside) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  const uint64_t* values = exchange(mask, bits);
  if (inside) memcpy(&value, values + source, sizeof value);
  return value;
}

}  // namespace cuda_host

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = int(cuda_host::lane()) / width * width;
  return cuda_host::shuffle(mask, value, first + source % width, true);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int me = int(cuda_host::lane()), source = me ^ bits;
  return cuda_host::shuffle(mask, value, source, source < me / width * width + width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int me = int(cuda_host::lane()), source = me + int(delta);
  return cuda_host::shuffle(mask, value, source, source < me / width * width + width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int me = int(cuda_host::lane()), source = me - int(delta);
  return cuda_host::shuffle(mask, value, source, source >= me / width * width);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* values = cuda_host::exchange(mask, predicate != 0);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= (mask >> i & 1u) && values[i] == 1 ? 1u << i : 0u;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

// ---- atomics: the threads of a launch take turns on one CPU thread -------------------------------------------

template <class T, class F>
T cuda_host_atomic(T* at, F next) {
  const T old = *at;
  *at = next(old);
  return old;
}
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return cuda_host_atomic(at, [&](T old) { return T(old + value); });
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return cuda_host_atomic(at, [&](T old) { return old > value ? old : value; });
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return cuda_host_atomic(at, [&](T old) { return old < value ? old : value; });
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return cuda_host_atomic(at, [&](T) { return value; });
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return cuda_host_atomic(at, [&](T old) { return old == expected ? value : old; });
}

// ---- vector types, cached accesses, maths --------------------------------------------------------------------

template <class T, int N>
struct cuda_host_vector;
template <class T>
struct alignas(2 * sizeof(T)) cuda_host_vector<T, 2> {
  T x, y;
};
template <class T>
struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) cuda_host_vector<T, 4> {
  T x, y, z, w;
};
using float2 = cuda_host_vector<float, 2>;
using float4 = cuda_host_vector<float, 4>;
using double2 = cuda_host_vector<double, 2>;
using int2 = cuda_host_vector<int, 2>;
using int4 = cuda_host_vector<int, 4>;
using uint2 = cuda_host_vector<unsigned, 2>;
using uint4 = cuda_host_vector<unsigned, 4>;
using uchar4 = cuda_host_vector<unsigned char, 4>;
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T __ldcs(const T* at) {
  return *at;
}
template <class T>
T __ldcg(const T* at) {
  return *at;
}
template <class T>
void __stcs(T* at, const std::type_identity_t<T>& value) {
  *at = value;
}
template <class T>
void __stwb(T* at, const std::type_identity_t<T>& value) {
  *at = value;
}

#define CUDA_HOST_MIN_MAX(T)                       \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
CUDA_HOST_MIN_MAX(int)
CUDA_HOST_MIN_MAX(unsigned)
CUDA_HOST_MIN_MAX(long)
CUDA_HOST_MIN_MAX(unsigned long)
CUDA_HOST_MIN_MAX(long long)
CUDA_HOST_MIN_MAX(unsigned long long)
#undef CUDA_HOST_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double cospi(double x) { return cos(3.14159265358979323846 * x); }
inline float cospif(float x) { return float(cospi(double(x))); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }  // NaN gives 0
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float_as_int(float x) {
  int bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __int_as_float(int bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
inline unsigned __float_as_uint(float x) { return unsigned(__float_as_int(x)); }
inline float __uint_as_float(unsigned bits) { return __int_as_float(int(bits)); }
