// xcorr of 16-bit channels_last tensors as a matrix product on tensor cores:
//
//   products[t, p] = sum_c z[t, c] x[p, c]                    t: taps (i, j) of the template, p: pixels of the search
//   out[u, v] = sum_ij products[(i, j), (u + i, v + j)]
//
// SiamFC's pair has 36 x 484 x 256 multiply-adds, 8.9 MFLOP where the sum over windows has 5.3, but at more than ten
// times the rate. A block takes a pair, kStripPixels pixels and a part of the channels. Its products go to shared
// memory, where the thread of each output adds its products in order. A tensor core may add channels in any order, as
// long as both factors have the same order. So a lane loads 16 bytes of neighbouring channels and passes them on in two
// steps of 16 channels.
#pragma once

#include "launch.cuh"
#include "ptx.cuh"
#include "vec.cuh"

namespace fastops {

constexpr int kTapTiles = 3, kMaxTaps = 16 * kTapTiles;  // rows of a tensor core's tile: 36 taps take three
constexpr int kWarps = kThreads / 32;
constexpr int kPixelTiles = 3, kStripPixels = kWarps * kPixelTiles * 8;  // per warp; in total: 192
constexpr int kProductStride = kStripPixels + 8;                         // neighbouring taps are in different banks
constexpr int kChannelStep = 32;                                         // 16 bytes of each of 4 lanes

// [batch, height, width, channels] through strides. The last stride is 1, the others are multiples of 16 bytes.
template <class T>
struct ChannelRows {
  const T* data;
  int64_t per_item;  // consecutive pairs that share an item of the batch
  int64_t batch, row, column;
  int width, pixels;

  // The channels of a pixel, or null beyond the last pixel.
  __device__ const T* at(int64_t pair, int pixel) const {
    if (pixel >= pixels) return nullptr;
    return data + pair / per_item * batch + pixel / width * row + pixel % width * column;
  }
};

template <class T>
struct TapCorrelation {
  ChannelRows<T> taps, pixels;
  float* partial;  // [splits, strips, pairs, outputs]
  int64_t pairs;
  int channels, channels_per_split, splits, strips;
  int out_width, outputs;

  __host__ __device__ int64_t blocks() const { return pairs * strips * splits; }
};

// The registers of a lane: two steps with two registers each.
__device__ __forceinline__ uint32_t part_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

template <class T>
__device__ __forceinline__ uint4 load_channels(const T* row, int channel) {
  return row ? *reinterpret_cast<const uint4*>(row + channel) : uint4{0, 0, 0, 0};
}

template <class T>
__device__ __forceinline__ void multiply_strip(const TapCorrelation<T>& a, int64_t pair, int first_pixel, int begin,
                                               int end, float* products) {
  const int lane = threadIdx.x % 32, group = lane / 4, quarter = lane % 4;
  const int warp_pixel = int(threadIdx.x / 32) * kPixelTiles * 8;
  const T *taps[kTapTiles][2], *pixels[kPixelTiles];
#pragma unroll
  for (int m = 0; m < kTapTiles; ++m) {
    taps[m][0] = a.taps.at(pair, m * 16 + group);
    taps[m][1] = a.taps.at(pair, m * 16 + group + 8);
  }
#pragma unroll
  for (int n = 0; n < kPixelTiles; ++n) pixels[n] = a.pixels.at(pair, first_pixel + warp_pixel + n * 8 + group);

  float sums[kTapTiles][kPixelTiles][4] = {};
  for (int c = begin + quarter * 8; c < end; c += kChannelStep) {
    uint4 z[kTapTiles][2], x[kPixelTiles];
#pragma unroll
    for (int m = 0; m < kTapTiles; ++m) z[m][0] = load_channels(taps[m][0], c), z[m][1] = load_channels(taps[m][1], c);
#pragma unroll
    for (int n = 0; n < kPixelTiles; ++n) x[n] = load_channels(pixels[n], c);
#pragma unroll
    for (int step = 0; step < 4; step += 2) {
#pragma unroll
      for (int m = 0; m < kTapTiles; ++m) {
        const uint32_t rows[4] = {part_of(z[m][0], step), part_of(z[m][1], step), part_of(z[m][0], step + 1),
                                  part_of(z[m][1], step + 1)};
#pragma unroll
        for (int n = 0; n < kPixelTiles; ++n) {
          const uint32_t columns[2] = {part_of(x[n], step), part_of(x[n], step + 1)};
          multiply_tile<T>(sums[m][n], rows, columns);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kTapTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kPixelTiles; ++n) {
      float* at = products + (m * 16 + group) * kProductStride + warp_pixel + n * 8 + 2 * quarter;
      store_pack(at, Pack<float, 2>{sums[m][n][0], sums[m][n][1]});
      store_pack(at + 8 * kProductStride, Pack<float, 2>{sums[m][n][2], sums[m][n][3]});
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) correlate_taps_kernel(TapCorrelation<T> a) {
  __shared__ __align__(16) float products[kMaxTaps * kProductStride];
  for (int64_t block = blockIdx.x; block < a.blocks(); block += gridDim.x) {
    const int64_t pair = block / (a.strips * a.splits);
    const int part = int(block % (a.strips * a.splits)), split = part / a.strips;
    const int first_pixel = part % a.strips * kStripPixels, begin = split * a.channels_per_split;
    const int end = begin + a.channels_per_split < a.channels ? begin + a.channels_per_split : a.channels;
    __syncthreads();  // the last block's products have been used
    multiply_strip(a, pair, first_pixel, begin, end, products);
    __syncthreads();
    float* partial = a.partial + (part * a.pairs + pair) * a.outputs;
    for (int out = threadIdx.x; out < a.outputs; out += kThreads) {
      const int corner = out / a.out_width * a.pixels.width + out % a.out_width - first_pixel;
      float sum = 0;
      for (int tap = 0, row = corner; tap < a.taps.pixels; tap += a.taps.width, row += a.pixels.width) {
        for (int j = 0; j < a.taps.width; ++j) {
          if (unsigned(row + j) < unsigned(kStripPixels)) sum += products[(tap + j) * kProductStride + row + j];
        }
      }
      partial[out] = sum;
    }
  }
}

}  // namespace fastops
