// The two dense layers of squeeze-and-excitation, logits = W2 relu(W1 z + b1) + b2, forward and backward.
//
// One block processes an image. Forward reads 2 R C weights, backward 4 R C. They come from global memory and, after
// the first image, from the second-level cache. All values between the layers are opmath, in global scratch memory, so
// R and C may have any size. For the gradients of the weights, one thread computes a value and adds the images in
// order.
#pragma once

#include "../math/se.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastops {

constexpr int kExcitationThreads = 512;

template <class T>
struct Excitation {
  using A = opmath_t<T>;
  const T *w1, *b1, *w2, *b2;       // [R, C], [R] or null, [C, R], [C] or null
  A *sum_x, *sum_grad_x;            // [N, chunks, C]
  A *z, *h, *logits;                // [N, C], [N, R], [N, C]
  A *grad_logits, *grad_h, *shift;  // [N, C], [N, R], [N, C]; shift = dL/dz / P, backward only
  int64_t batch, channels, hidden, pixels, chunks;
};

// Calls store(row, sum_col matrix[row, col] vector[col]). The block reads along the rows.
template <class M, class A, class Store>
__device__ void rows_dot(const M* matrix, int64_t rows, int64_t cols, const A* vector, const Store& store) {
  int width = 1;
  while (width < 32 && width < cols) width *= 2;
  const int lane = threadIdx.x % width;
  for (int64_t base = 0; base < rows; base += blockDim.x / width) {
    const int64_t row = base + threadIdx.x / width;
    A sum = 0;
    for (int64_t col = lane; col < (row < rows ? cols : 0); col += width) {
      sum += A(to_opmath(matrix[row * cols + col])) * vector[col];
    }
    sum = group_sum(sum, width);
    if (row < rows && lane == 0) store(row, sum);
  }
  __syncthreads();  // the stored values may be read now
}

// Calls store(col, sum_row matrix[row, col] vector[row]). A null vector means ones. Neighbouring threads read
// neighbouring columns.
template <class M, class A, class Store>
__device__ void columns_dot(const M* matrix, int64_t rows, int64_t cols, const A* vector, const Store& store) {
  __shared__ A shared[kExcitationThreads];
  if (cols == 0) return;
  const int width = cols < blockDim.x ? int(cols) : blockDim.x;
  const int slices = blockDim.x / width < 32 ? blockDim.x / width : 32;
  const int lane = threadIdx.x % width, slice = threadIdx.x / width;
  for (int64_t base = 0; base < cols; base += width) {
    const int64_t col = base + lane;
    A sum = 0;
    for (int64_t row = slice; row < (slice < slices && col < cols ? rows : 0); row += slices) {
      sum += A(to_opmath(matrix[row * cols + col])) * (vector ? vector[row] : A(1));
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (slice == 0 && col < cols) {
      for (int i = 1; i < slices; ++i) sum += shared[i * width + lane];
      store(col, sum);
    }
    __syncthreads();
  }
}

template <class T>
__device__ void excite(const Excitation<T>& a, int64_t n) {
  using A = opmath_t<T>;
  A *z = a.z + n * a.channels, *h = a.h + n * a.hidden, *logits = a.logits + n * a.channels;
  // The mean of no pixels is NaN, as in torch.
  columns_dot<A, A>(a.sum_x + n * a.chunks * a.channels, a.chunks, a.channels, nullptr,
                    [&](int64_t c, A sum) { z[c] = sum / A(a.pixels); });
  rows_dot(a.w1, a.hidden, a.channels, z,
           [&](int64_t r, A sum) { h[r] = relu_(a.b1 ? sum + to_opmath(a.b1[r]) : sum); });
  rows_dot(a.w2, a.channels, a.hidden, h, [&](int64_t c, A sum) { logits[c] = a.b2 ? sum + to_opmath(a.b2[c]) : sum; });
}

template <class T>
__global__ void __launch_bounds__(kExcitationThreads) excitation_kernel(Excitation<T> a) {
  for (int64_t n = blockIdx.x; n < a.batch; n += gridDim.x) excite(a, n);
}

template <class T>
__global__ void __launch_bounds__(kExcitationThreads, 2) excitation_backward_kernel(Excitation<T> a) {
  using A = opmath_t<T>;
  for (int64_t n = blockIdx.x; n < a.batch; n += gridDim.x) {
    excite(a, n);
    const int64_t first = n * a.channels;
    A *grad_logits = a.grad_logits + first, *grad_h = a.grad_h + n * a.hidden;
    const A *h = a.h + n * a.hidden, *logits = a.logits + first;
    columns_dot<A, A>(a.sum_grad_x + first * a.chunks, a.chunks, a.channels, nullptr,
                      [&](int64_t c, A sum) { grad_logits[c] = se_logit_backward(sum, logits[c]); });
    columns_dot(a.w2, a.channels, a.hidden, grad_logits,
                [&](int64_t r, A sum) { grad_h[r] = h[r] <= A(0) ? A(0) : sum; });  // the gradient before the ReLU
    columns_dot(a.w1, a.hidden, a.channels, grad_h, [&](int64_t c, A sum) { a.shift[first + c] = sum / A(a.pixels); });
  }
}

// The sums over the images of grad_h z^T, grad_h, grad_logits h^T and grad_logits, with one thread per value.
template <class T>
__global__ void __launch_bounds__(kThreads)
    grad_weights_kernel(Excitation<T> a, T* grad_w1, T* grad_b1, T* grad_w2, T* grad_b2) {
  using A = opmath_t<T>;
  const int64_t c_size = a.channels, r_size = a.hidden, weights = r_size * c_size;
  const auto sum_over_images = [&](const A* left, int64_t left_stride, const A* right, int64_t right_stride) {
    A sum = 0;
    for (int64_t n = 0; n < a.batch; ++n) sum += left[n * left_stride] * (right ? right[n * right_stride] : A(1));
    return from_opmath<T>(sum);
  };
  const int64_t total = 2 * weights + r_size + c_size;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    int64_t k = i;
    if (k < weights) {
      grad_w1[k] = sum_over_images(a.grad_h + k / c_size, r_size, a.z + k % c_size, c_size);
    } else if ((k -= weights) < weights) {
      grad_w2[k] = sum_over_images(a.grad_logits + k / r_size, c_size, a.h + k % r_size, r_size);
    } else if ((k -= weights) < r_size) {
      grad_b1[k] = sum_over_images(a.grad_h + k, r_size, static_cast<const A*>(nullptr), 0);
    } else {
      k -= r_size;
      grad_b2[k] = sum_over_images(a.grad_logits + k, c_size, static_cast<const A*>(nullptr), 0);
    }
  }
}

}  // namespace fastops
