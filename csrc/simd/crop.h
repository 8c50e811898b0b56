// Table of the CPU kernels of crop_and_resize: a row of the result from two rows of the image.
#pragma once

#include <stdint.h>

namespace fastops {

// The image columns that each of the S result pixels reads: pixel i reads first[i] and first[i] + 1, with weights[i]:
// {low, high}. For pixels [begin, end) both columns are in the image. Up to packed_end, the 16 bytes from first[i] on
// (three channels side by side) are in the image too.
struct CropColumns {
  const int32_t* first;
  const int16_t (*weights)[2];
  int64_t begin, packed_end, end;
};

// A row of the image; strides in bytes.
struct CropSourceRow {
  const uint8_t* pixels;
  int64_t column_stride, channel_stride;
};

struct CropKernels {
  // first and weights of a region: `left` and `side` in pixels of the image, `size` S.
  void (*columns)(int32_t left, int32_t side, int32_t size, int32_t* first, int16_t (*weights)[2]);
  // along_x[i, c] of the pixels [columns.begin, columns.end), [S, C]. Index: channels - 1.
  void (*along_x[4])(const CropSourceRow& row, const CropColumns& columns, int16_t* values);
  // Two such rows to grey levels.
  void (*along_y)(const int16_t* upper, const int16_t* lower, int32_t low, int32_t high, uint8_t* levels, int64_t n);
  // [S, C] to [C, S]. Index: channels - 1.
  void (*split[4])(const uint8_t* levels, uint8_t* planes, int64_t size);
  // Grey levels as the result's type. Index: DType, or kByte.
  void (*store[5])(const uint8_t* levels, void* out, int64_t n);
};

}  // namespace fastops
