// Checks and layouts of crop_and_resize, the same for every device.
#pragma once

#include <optional>

#include "../math/crop.h"
#include "dispatch.h"
#include "layout.h"

namespace fastops {

// A DType, or uint8.
constexpr int kByte = 4, kCropTypes = 5;

// One call, as the kernels need it. Strides of the images are in bytes, strides of the result in values.
struct CropCall {
  const uint8_t* images;  // [B, H, W, C]
  int64_t count, height, width, image_stride, row_stride, column_stride, channel_stride;
  int64_t crops;                         // K
  int32_t channels, out_channels, size;  // of the images; of the result: those beyond the images' are 0
  const void* centers_sizes;             // [K, 3], contiguous
  bool centers_are_double;
  const void* pad_value;  // [C] or [K, C], contiguous
  bool pad_is_byte, pad_per_crop;
  const void* image_index;  // [K], contiguous; if null, each image has crops_per_image consecutive crops
  bool index_is_long;
  int64_t crops_per_image;
  void* out;  // [K, out_channels, S, S]
  int type;
  bool channels_last;

  // The image of crop k; the index is not checked.
  FASTOPS_HD int64_t image_of(int64_t k) const {
    if (image_index == nullptr) return k / crops_per_image;
    return index_is_long ? static_cast<const int64_t*>(image_index)[k] : static_cast<const int32_t*>(image_index)[k];
  }
  FASTOPS_HD CropRegion region(int64_t k) const {
    if (centers_are_double) {
      const double* v = static_cast<const double*>(centers_sizes) + 3 * k;
      return crop_region(v[0], v[1], v[2]);
    }
    const float* v = static_cast<const float*>(centers_sizes) + 3 * k;
    return crop_region(v[0], v[1], v[2]);
  }
  FASTOPS_HD uint8_t pad(int64_t k, int32_t channel) const {
    const int64_t i = (pad_per_crop ? k * channels : 0) + channel;
    return pad_is_byte ? static_cast<const uint8_t*>(pad_value)[i]
                       : grey_level(static_cast<const float*>(pad_value)[i]);
  }
};

// Owns the contiguous copies.
struct CropInputs {
  Tensor centers_sizes, pad_value;
  std::optional<Tensor> image_index;
  CropCall call;
};

inline CropInputs check_crop(const Tensor& images, const Tensor& centers_sizes, const Tensor& pad_value,
                             const std::optional<Tensor>& image_index, Tensor& out) {
  const char* op = "crop_and_resize";
  const int64_t dims = images.dim();
  FASTOPS_CHECK(images.scalar_type() == ScalarType::Byte, op, ": images must have dtype uint8, got ",
                dtype_name(images.scalar_type()));
  FASTOPS_CHECK((dims == 3 || dims == 4) && images.size(dims - 1) >= 1 && images.size(dims - 1) <= kMaxCropChannels, op,
                ": images must have shape [H, W, C] or [B, H, W, C] with C from 1 to 4, got ", shape_string(images));
  const int64_t count = dims == 4 ? images.size(0) : 1, channels = images.size(dims - 1);

  const ScalarType centers_type = centers_sizes.scalar_type();
  FASTOPS_CHECK(centers_type == ScalarType::Float || centers_type == ScalarType::Double, op,
                ": centers_sizes must have dtype float32 or float64, got ", dtype_name(centers_type));
  FASTOPS_CHECK(centers_sizes.dim() == 2 && centers_sizes.size(1) == 3, op,
                ": centers_sizes must have shape [K, 3], got ", shape_string(centers_sizes));
  check_same_device(op, "centers_sizes", centers_sizes, "images", images);
  const int64_t crops = centers_sizes.size(0);

  const ScalarType pad_type = pad_value.scalar_type();
  FASTOPS_CHECK(pad_type == ScalarType::Byte || pad_type == ScalarType::Float, op,
                ": pad_value must have dtype uint8 or float32, got ", dtype_name(pad_type));
  const int64_t pad_dims = pad_value.dim();
  FASTOPS_CHECK(
      (pad_dims == 1 || (pad_dims == 2 && pad_value.size(0) == crops)) && pad_value.size(pad_dims - 1) == channels, op,
      ": pad_value must have shape [C] = [", channels, "] or [K, C] = [", crops, ", ", channels, "], got ",
      shape_string(pad_value));
  check_same_device(op, "pad_value", pad_value, "images", images);

  if (image_index) {
    const ScalarType type = image_index->scalar_type();
    FASTOPS_CHECK(type == ScalarType::Int || type == ScalarType::Long, op,
                  ": image_index must have dtype int32 or int64, got ", dtype_name(type));
    FASTOPS_CHECK(image_index->dim() == 1 && image_index->size(0) == crops, op, ": image_index must have shape [K] = [",
                  crops, "], got ", shape_string(*image_index));
    check_same_device(op, "image_index", *image_index, "images", images);
  } else {
    FASTOPS_CHECK(crops == 0 || (count > 0 && crops % count == 0), op, ": image_index must be given where K (", crops,
                  ") is not a multiple of the number of images (", count, "), got None");
  }

  const ScalarType type = out.scalar_type();
  FASTOPS_CHECK(is_floating(type) || type == ScalarType::Byte, op,
                ": out must have dtype float32, float64, float16, bfloat16 or uint8, got ", dtype_name(type));
  FASTOPS_CHECK(out.dim() == 4 && out.size(0) == crops && out.size(1) >= channels && out.size(1) <= kMaxCropChannels &&
                    out.size(2) == out.size(3) && out.size(3) > 0,
                op, ": out must have shape [K, C, S, S] = [", crops, ", ", channels, ", S, S], C up to 4, got ",
                shape_string(out));
  FASTOPS_CHECK(out.size(3) <= kCropLimit, op, ": out must have sides of at most ", kCropLimit, ", got ", out.size(3));
  const bool channels_last = is_channels_last(out);
  FASTOPS_CHECK(channels_last || out.is_contiguous(), op,
                ": out must be contiguous or channels_last, got another layout");
  check_same_device(op, "out", out, "images", images);

  CropInputs in{torch::stable::contiguous(centers_sizes), torch::stable::contiguous(pad_value), std::nullopt, {}};
  if (image_index) in.image_index = torch::stable::contiguous(*image_index);
  in.call = {
      .images = static_cast<const uint8_t*>(images.const_data_ptr()),
      .count = count,
      .height = images.size(dims - 3),
      .width = images.size(dims - 2),
      .image_stride = dims == 4 ? images.stride(0) : 0,
      .row_stride = images.stride(dims - 3),
      .column_stride = images.stride(dims - 2),
      .channel_stride = images.stride(dims - 1),
      .crops = crops,
      .channels = int32_t(channels),
      .out_channels = int32_t(out.size(1)),
      .size = int32_t(out.size(3)),
      .centers_sizes = in.centers_sizes.const_data_ptr(),
      .centers_are_double = centers_type == ScalarType::Double,
      .pad_value = in.pad_value.const_data_ptr(),
      .pad_is_byte = pad_type == ScalarType::Byte,
      .pad_per_crop = pad_dims == 2,
      .image_index = image_index ? in.image_index->const_data_ptr() : nullptr,
      .index_is_long = image_index && image_index->scalar_type() == ScalarType::Long,
      .crops_per_image = count > 0 && crops > 0 ? crops / count : 1,
      .out = out.mutable_data_ptr(),
      .type = type == ScalarType::Byte ? kByte : dtype_index(op, "out", out),
      .channels_last = channels_last,
  };
  return in;
}

}  // namespace fastops
