// crop_and_resize on the CPU: rows and threads. The loops are in simd/crop.cpp, the formula is in math/crop.h. The
// image is not copied to pad it: columns and rows outside it are padding, computed once per crop. Each image row that a
// crop needs is resized along x once, into one of two buffers, which consecutive rows of the result share.
#include "../simd/crop.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "../common/crop.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(CropKernels, crop_kernels)

namespace fastops {
namespace {

// Minimum of result pixels per thread. With fewer a second thread does not help.
constexpr int64_t kGrain = 16384;

// Consecutive rows of the result, processed by one thread.
class CropRows {
 public:
  explicit CropRows(const CropCall& call)
      : call_(call), kernels_(FASTOPS_TABLE(crop_kernels)), values_(int64_t(call.size) * call.channels) {
    // Each thread keeps its memory, which grows to the size of its largest crop. A tracker calls this in every frame.
    static thread_local std::vector<std::byte> scratch;
    const size_t pixels = size_t(call.size), values = size_t(values_);
    size_t used = 0;
    const auto place = [&](size_t bytes) {  // of an array
      const size_t offset = used;
      used += (bytes + 63) / 64 * 64;
      return offset;
    };
    const size_t first = place(4 * pixels), weights = place(4 * pixels), padding = place(2 * values);
    const size_t upper = place(2 * values), lower = place(2 * values), levels = place(values);
    const size_t planes = place(pixels * size_t(call.out_channels));
    if (scratch.size() < used) scratch.resize(used);
    const auto at = [&]<class T>(T*& array, size_t offset) { array = reinterpret_cast<T*>(scratch.data() + offset); };
    at(first_, first), at(weights_, weights), at(padding_, padding);
    at(rows_[0], upper), at(rows_[1], lower), at(levels_, levels), at(planes_, planes);
  }

  // Rows [begin, end) of crop k.
  void run(int64_t k, int32_t begin, int32_t end) {
    start(k);
    const CropScale scale = crop_scale(region_.side, call_.size);
    for (int32_t y = begin; y < end; ++y) {
      const CropTap tap = crop_tap(crop_position(y, scale));
      const int64_t upper = region_.top + clamp_to(tap.first, region_.side);
      const int64_t lower = region_.top + clamp_to(tap.first + 1, region_.side);
      const int16_t* upper_row = row(upper, lower);
      const int16_t* lower_row = row(lower, upper);
      kernels_.along_y(upper_row, lower_row, tap.low, tap.high, levels_, values_);
      write(k, y);
    }
  }

 private:
  void start(int64_t k) {
    region_ = call_.region(k);
    const bool exists = region_.side > 0;
    height_ = exists ? call_.height : 0, width_ = exists ? call_.width : 0;
    if (!exists) region_ = {0, 0, 1};
    image_ = call_.images + call_.image_of(k) * call_.image_stride;
    kernels_.columns(region_.left, region_.side, call_.size, first_, weights_);

    const auto reaching = [&](int64_t column) {
      return std::lower_bound(first_, first_ + call_.size, column) - first_;
    };
    touched_ = reaching(-1), touched_end_ = reaching(width_);
    const int64_t begin = reaching(0), end = std::max(begin, reaching(width_ - 1));
    columns_ = {first_, weights_, begin, std::clamp(reaching(width_ - 5), begin, end), end};

    for (int32_t c = 0; c < call_.channels; ++c) pad_[c] = call_.pad(k, c);
    for (int64_t i = 0; i < call_.size; ++i) {
      for (int32_t c = 0; c < call_.channels; ++c) {
        padding_[i * call_.channels + c] = int16_t(crop_along_x(pad_[c], pad_[c], weights_[i][0], weights_[i][1]));
      }
    }
    for (int b = 0; b < 2; ++b) {
      std::copy_n(padding_, values_, rows_[b]);
      held_[b] = -1;
    }
  }

  // Row y of the image, resized along x; row `other` must stay in its buffer.
  const int16_t* row(int64_t y, int64_t other) {
    if (y < 0 || y >= height_) return padding_;
    if (held_[0] == y) return rows_[0];
    if (held_[1] == y) return rows_[1];
    const int b = held_[0] == other ? 1 : 0;
    held_[b] = y;
    const CropSourceRow source{image_ + y * call_.row_stride, call_.column_stride, call_.channel_stride};
    along_edges(source, touched_, columns_.begin, rows_[b]);
    kernels_.along_x[call_.channels - 1](source, columns_, rows_[b]);
    along_edges(source, columns_.end, touched_end_, rows_[b]);
    return rows_[b];
  }

  // Pixels [begin, end); their columns may be outside the image.
  void along_edges(const CropSourceRow& source, int64_t begin, int64_t end, int16_t* values) const {
    for (int64_t i = begin; i < end; ++i) {
      for (int32_t c = 0; c < call_.channels; ++c) {
        const auto level = [&](int64_t column) -> int32_t {
          const bool inside = column >= 0 && column < width_;
          return inside ? source.pixels[column * source.column_stride + c * source.channel_stride] : pad_[c];
        };
        const int64_t first = first_[i];
        values[i * call_.channels + c] =
            int16_t(crop_along_x(level(first), level(first + 1), weights_[i][0], weights_[i][1]));
      }
    }
  }

  // Writes the grey levels to row y of crop k of the result.
  void write(int64_t k, int64_t y) {
    constexpr int64_t kBytes[kCropTypes] = {4, 8, 2, 2, 1};
    const auto store = kernels_.store[call_.type];
    const int64_t size = call_.size, channels = call_.channels, row_bytes = size * kBytes[call_.type];
    const int64_t out_channels = call_.out_channels;
    char* out = static_cast<char*>(call_.out) + k * out_channels * size * row_bytes;
    if (out_channels == channels && (call_.channels_last || channels == 1)) {
      return store(levels_, out + y * channels * row_bytes, values_);
    }
    if (call_.channels_last) {
      std::fill_n(planes_, size * out_channels, uint8_t(0));
      for (int64_t i = 0; i < size; ++i) std::copy_n(levels_ + i * channels, channels, planes_ + i * out_channels);
      return store(planes_, out + y * out_channels * row_bytes, size * out_channels);
    }
    kernels_.split[channels - 1](levels_, planes_, size);
    std::fill_n(planes_ + channels * size, (out_channels - channels) * size, uint8_t(0));
    for (int64_t c = 0; c < out_channels; ++c) store(planes_ + c * size, out + (c * size + y) * row_bytes, size);
  }

  const CropCall& call_;
  const CropKernels& kernels_;
  const int64_t values_;  // of a row

  // The current crop.
  CropRegion region_{};
  const uint8_t* image_ = nullptr;
  int64_t height_ = 0, width_ = 0;  // size of the image; 0 if there is no region
  uint8_t pad_[kMaxCropChannels] = {};
  CropColumns columns_{};
  int64_t touched_ = 0, touched_end_ = 0;  // the pixels that need any column of the image
  int64_t held_[2] = {};                   // the image rows in rows_

  int32_t* first_;               // [S]
  int16_t (*weights_)[2];        // [S]
  int16_t *padding_, *rows_[2];  // [S, C]; rows outside the image, and inside
  uint8_t *levels_, *planes_;    // [S, C]; as it is stored, with all channels of the result
};

void check_indices(const CropCall& call) {
  if (call.image_index == nullptr) return;
  for (int64_t k = 0; k < call.crops; ++k) {
    const int64_t image = call.image_of(k);
    FASTOPS_CHECK(image >= 0 && image < call.count, "crop_and_resize: image_index must be at least 0 and below ",
                  call.count, ", got ", image);
  }
}

void crop_and_resize_cpu(const Tensor& images, const Tensor& centers_sizes, const Tensor& pad_value,
                         const std::optional<Tensor>& image_index, Tensor out) {
  const CropInputs inputs = check_crop(images, centers_sizes, pad_value, image_index, out);
  const CropCall& call = inputs.call;
  check_indices(call);
  const int64_t grain = std::max<int64_t>(kGrain / call.size, 1);
  torch::stable::parallel_for(0, call.crops * call.size, grain, [&](int64_t begin, int64_t end) {
    CropRows rows(call);
    while (begin < end) {
      const int64_t k = begin / call.size, first = begin - k * call.size;
      const int64_t last = std::min(end - k * call.size, int64_t(call.size));
      rows.run(k, int32_t(first), int32_t(last));
      begin += last - first;
    }
  });
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) { m.impl("crop_and_resize", TORCH_BOX(&fastops::crop_and_resize_cpu)); }
