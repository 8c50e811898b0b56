// crop_and_resize on CUDA, in one launch for all crops. A thread computes one pixel of the result with all its
// channels. The formula is in math/crop.h. Only the device reads regions, colours and image numbers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/crop.h"
#include "launch.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

// A block processes tiles of this size. A warp writes 32 pixels of a row, and neighbouring warps read the same rows.
constexpr int kTileWidth = 32, kTileHeight = kThreads / kTileWidth;

template <class T>
__device__ __forceinline__ T from_grey_level(int32_t level) {
  if constexpr (std::is_same_v<T, uint8_t>) {
    return uint8_t(level);
  } else {
    return from_opmath<T>(opmath_t<T>(level));
  }
}

// The two rows or columns of the image that a pixel of the result interpolates, and their weights.
struct Neighbours {
  int64_t offset[2];  // in bytes
  bool inside[2];
  int32_t low, high;
};

__device__ __forceinline__ Neighbours neighbours(int32_t i, const CropScale& scale, int32_t start, int32_t side,
                                                 int64_t extent, int64_t stride) {
  const CropTap tap = crop_tap(crop_position(i, scale));
  const int64_t first = start + clamp_to(tap.first, side), second = start + clamp_to(tap.first + 1, side);
  return {{first * stride, second * stride},
          {first >= 0 && first < extent, second >= 0 && second < extent},
          tap.low,
          tap.high};
}

// kChannels: 3, or 0 for any number. kPacked: channels_last results of four channels, a store a pixel.
template <class T, int kChannels, bool kPacked>
__global__ void __launch_bounds__(kThreads) crop_kernel(const CropCall call) {
  const int32_t size = call.size, channels = kChannels ? kChannels : call.channels;
  const int32_t across = (size + kTileWidth - 1) / kTileWidth, down = (size + kTileHeight - 1) / kTileHeight;
  const int64_t tiles = int64_t(across) * down;
  for (int64_t piece = blockIdx.x; piece < call.crops * tiles; piece += gridDim.x) {
    const int64_t k = piece / tiles, tile = piece - k * tiles;
    const int32_t x = int32_t(tile % across) * kTileWidth + int32_t(threadIdx.x);
    const int32_t y = int32_t(tile / across) * kTileHeight + int32_t(threadIdx.y);
    if (x >= size || y >= size) continue;

    CropRegion region = call.region(k);
    int64_t image = call.image_of(k);
    const bool exists = region.side > 0 && image >= 0 && image < call.count;
    if (!exists) region = {0, 0, 1}, image = 0;
    const CropScale scale = crop_scale(region.side, size);
    const Neighbours columns =
        neighbours(x, scale, region.left, region.side, exists ? call.width : 0, call.column_stride);
    const Neighbours rows = neighbours(y, scale, region.top, region.side, exists ? call.height : 0, call.row_stride);
    const bool whole = rows.inside[0] && rows.inside[1] && columns.inside[0] && columns.inside[1];

    const uint8_t* pixels = call.images + image * call.image_stride;
    const int32_t out_channels = kPacked ? 4 : call.out_channels;
    T* out = static_cast<T*>(call.out) + k * out_channels * size * size;
    const int64_t pixel = int64_t(y) * size + x;
    Pack<T, 4> pack{};
#pragma unroll
    for (int32_t c = 0; c < channels; ++c) {
      const int32_t pad = whole ? 0 : call.pad(k, c);
      const auto level = [&](int row, int column) -> int32_t {
        if (!(rows.inside[row] && columns.inside[column])) return pad;
        return pixels[rows.offset[row] + columns.offset[column] + c * call.channel_stride];
      };
      const int32_t upper = crop_along_x(level(0, 0), level(0, 1), columns.low, columns.high);
      const int32_t lower = crop_along_x(level(1, 0), level(1, 1), columns.low, columns.high);
      const T value = from_grey_level<T>(crop_along_y(upper, lower, rows.low, rows.high));
      if constexpr (kPacked) {
        pack.values[c] = value;
      } else {
        out[call.channels_last ? pixel * out_channels + c : int64_t(c) * size * size + pixel] = value;
      }
    }
    if constexpr (kPacked) {
      store_pack(out + pixel * 4, pack);
    } else {
      for (int32_t c = channels; c < out_channels; ++c) {
        out[call.channels_last ? pixel * out_channels + c : int64_t(c) * size * size + pixel] = from_grey_level<T>(0);
      }
    }
  }
}

template <class T>
void launch_crop(const CropCall& call, const CudaScope& scope) {
  const int64_t across = (call.size + kTileWidth - 1) / kTileWidth, down = (call.size + kTileHeight - 1) / kTileHeight;
  const unsigned grid = grid_for(call.crops * across * down, 1);
  const bool packed = call.channels == 3 && call.out_channels == 4 && call.channels_last && is_aligned16(call.out);
  const auto kernel = packed               ? crop_kernel<T, 3, true>
                      : call.channels == 3 ? crop_kernel<T, 3, false>
                                           : crop_kernel<T, 0, false>;
  launch(kernel, grid, dim3(kTileWidth, kTileHeight), 0, scope, call);
}

void crop_and_resize_cuda(const Tensor& images, const Tensor& centers_sizes, const Tensor& pad_value,
                          const std::optional<Tensor>& image_index, Tensor out) {
  const CropInputs inputs = check_crop(images, centers_sizes, pad_value, image_index, out);
  const CropCall& call = inputs.call;
  if (call.crops == 0) return;
  const CudaScope scope(images);
  if (call.type == kByte) return launch_crop<uint8_t>(call, scope);
  dispatch_dtype(DType(call.type), [&]<class T>() { launch_crop<T>(call, scope); });
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) { m.impl("crop_and_resize", TORCH_BOX(&fastops::crop_and_resize_cuda)); }
