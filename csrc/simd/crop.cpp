// The CPU loops of crop_and_resize; the formulas are in math/crop.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "crop.h"

#include "../math/crop.h"
#include "elementwise.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fastops {
namespace FASTOPS_ISA {

// ---- columns -------------------------------------------------------------------------------------------------

template <class Position>
static void columns_at(const Position& position, int32_t left, int32_t side, int32_t size, int32_t* first,
                       int16_t (*weights)[2]) {
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int32_t i = 0; i < size; ++i) {
    const CropTap tap = crop_tap(position(i));
    const bool pair = tap.first >= 0 && tap.first + 1 < side;  // otherwise one pixel, at the region's border
    first[i] = left + clamp_to(tap.first, side);
    weights[i][0] = int16_t(pair ? tap.low : tap.low + tap.high);
    weights[i][1] = int16_t(pair ? tap.high : 0);
  }
}

static void columns(int32_t left, int32_t side, int32_t size, int32_t* first, int16_t (*weights)[2]) {
  const CropScale s = crop_scale(side, size);
  if (s.scale == 0.0) {
    const float wide = s.side, narrow = s.size;
    columns_at([=](int32_t i) { return crop_position_in_float(i, wide, narrow); }, left, side, size, first, weights);
  } else {
    columns_at([=](int32_t i) { return crop_position(i, s); }, left, side, size, first, weights);
  }
}

// ---- along x -------------------------------------------------------------------------------------------------

template <int kChannels>
static void along_x_from(int64_t i, int64_t end, const CropSourceRow& row, const CropColumns& columns,
                         int16_t* values) {
  const int64_t column_stride = row.column_stride, channel_stride = row.channel_stride;
  for (; i < end; ++i) {
    const uint8_t* p = row.pixels + columns.first[i] * column_stride;
    const int32_t low = columns.weights[i][0], high = columns.weights[i][1];
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      const uint8_t* q = p + c * channel_stride;
      values[i * kChannels + c] = int16_t(crop_along_x(q[0], q[column_stride], low, high));
    }
  }
}

// Three interleaved channels: the 16 bytes at a pixel contain it and the next one, r g b r' g' b'. They are spread to
// 16 bits as r r' g g' b b' 0 0. One multiply-add with low high low high ... then gives the pixel's sums as four 32-bit
// values. Two registers of sums are narrowed to one, and the fourth values are removed.
#if defined(__AVX512BW__)
constexpr int64_t kPixels = 8;

static inline __m512i pairs(const uint8_t* pixels, const int32_t* first) {
  const auto at = [&](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + 3 * int64_t(first[i])));
  };
  __m512i bytes = _mm512_castsi128_si512(at(0));
  bytes = _mm512_inserti32x4(bytes, at(2), 1);
  bytes = _mm512_inserti32x4(bytes, at(4), 2);
  bytes = _mm512_inserti32x4(bytes, at(6), 3);
  const __m128i spread = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(spread));
}

static inline void along_x_of_block(const uint8_t* pixels, const int32_t* first, const int16_t (*weights)[2],
                                    int16_t* values) {
  const __m512i w = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights)));
  const __m512i even = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
  const __m512i odd = _mm512_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7);
  const __m512i a = _mm512_madd_epi16(pairs(pixels, first), _mm512_permutexvar_epi32(even, w));
  const __m512i b = _mm512_madd_epi16(pairs(pixels, first + 1), _mm512_permutexvar_epi32(odd, w));
  const __m512i four = _mm512_packs_epi32(_mm512_srai_epi32(a, 4), _mm512_srai_epi32(b, 4));  // [8, 4]
  const __m512i three = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 30, 29, 28, 26, 25, 24, 22, 21, 20, 18, 17, 16, 14, 13,
                                         12, 10, 9, 8, 6, 5, 4, 2, 1, 0);
  _mm512_mask_storeu_epi16(values, 0xffffff, _mm512_permutexvar_epi16(three, four));  // [8, 3]
}
#elif defined(__AVX2__)
constexpr int64_t kPixels = 4;

static inline __m256i pairs(const uint8_t* pixels, const int32_t* first) {
  const auto at = [&](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + 3 * int64_t(first[i])));
  };
  const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(at(0)), at(2), 1);
  const __m128i spread = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  return _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(spread));
}

static inline void along_x_of_block(const uint8_t* pixels, const int32_t* first, const int16_t (*weights)[2],
                                    int16_t* values) {
  const __m256i w = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights)));
  const __m256i even = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2), odd = _mm256_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3);
  const __m256i a = _mm256_madd_epi16(pairs(pixels, first), _mm256_permutevar8x32_epi32(w, even));
  const __m256i b = _mm256_madd_epi16(pairs(pixels, first + 1), _mm256_permutevar8x32_epi32(w, odd));
  const __m256i four = _mm256_packs_epi32(_mm256_srai_epi32(a, 4), _mm256_srai_epi32(b, 4));  // [4, 4]
  const __m128i squeeze = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1);
  const __m256i three = _mm256_shuffle_epi8(four, _mm256_broadcastsi128_si256(squeeze));
  const __m128i front = _mm256_castsi256_si128(three), back = _mm256_extracti128_si256(three, 1);  // [2, 3] each
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), _mm_or_si128(front, _mm_slli_si128(back, 12)));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(values + 8), _mm_srli_si128(back, 4));
}
#endif

template <int kChannels>
static void along_x(const CropSourceRow& row, const CropColumns& columns, int16_t* values) {
  int64_t i = columns.begin;
#if defined(__AVX2__)
  const int64_t packed_end = columns.packed_end;
  if (kChannels == 3 && row.column_stride == 3 && row.channel_stride == 1 && packed_end - i >= kPixels) {
    for (; i < packed_end; i += kPixels) {
      if (i + kPixels > packed_end) i = packed_end - kPixels;
      along_x_of_block(row.pixels, columns.first + i, columns.weights + i, values + 3 * i);
    }
    i = packed_end;
  }
#endif
  along_x_from<kChannels>(i, columns.end, row, columns, values);
}

// ---- along y, and out ----------------------------------------------------------------------------------------

// Calls body(begin, length) over [0, n) in pieces of kPiece, which is a constant for the compiler. The last piece
// starts earlier instead of being shorter: the tail of a row of 255 x 3 values took as long as the rest.
constexpr int64_t kPiece = 64;
template <class Body>
static inline void in_pieces(int64_t n, const Body& body) {
  if (n < kPiece) return body(0, n);
  for (int64_t begin = 0; begin + kPiece <= n; begin += kPiece) body(begin, kPiece);
  if (n % kPiece != 0) body(n - kPiece, kPiece);
}

static void along_y(const int16_t* upper, const int16_t* lower, int32_t low, int32_t high, uint8_t* levels, int64_t n) {
  const int16_t narrow_low = int16_t(low), narrow_high = int16_t(high);
  in_pieces(n, [=](int64_t begin, int64_t length) {
    FASTOPS_SHORT_LOOP
    for (int64_t i = begin; i < begin + length; ++i) {
      // crop_along_y in 16 bits: one instruction gives the upper halves of the products.
      const int16_t a = int16_t(upper[i] * narrow_low >> 16), b = int16_t(lower[i] * narrow_high >> 16);
      levels[i] = uint8_t(int16_t(int16_t(a + b) + 2) >> 2);
    }
  });
}

template <int kChannels>
static void split(const uint8_t* levels, uint8_t* planes, int64_t size) {
  in_pieces(size, [=](int64_t begin, int64_t length) {
    FASTOPS_SHORT_LOOP
    for (int64_t i = begin; i < begin + length; ++i) {
#pragma GCC unroll 4
      for (int c = 0; c < kChannels; ++c) planes[c * size + i] = levels[i * kChannels + c];
    }
  });
}

// Eight bits are exact in every type.
template <class T>
static inline void widen(const uint8_t* levels, T* out, int64_t n) {
  FASTOPS_SHORT_LOOP
  for (int64_t i = 0; i < n; ++i) out[i] = T(levels[i]);
}
static inline void widen(const uint8_t* levels, bfloat16_t* out, int64_t n) {
  FASTOPS_SHORT_LOOP
  for (int64_t i = 0; i < n; ++i) {
    const float value = float(levels[i]);
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    out[i].bits = uint16_t(bits >> 16);
  }
}

template <class T>
static void store(const uint8_t* levels, void* out, int64_t n) {
  in_pieces(n, [=](int64_t begin, int64_t length) { widen(levels + begin, static_cast<T*>(out) + begin, length); });
}
template <>
void store<half_t>(const uint8_t* levels, void* out, int64_t n) {
  float buffer[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    store<float>(levels + begin, buffer, count);
    from_opmath(buffer, static_cast<half_t*>(out) + begin, count);
  }
}

extern const CropKernels crop_kernels;
const CropKernels crop_kernels = {
    columns,
    {along_x<1>, along_x<2>, along_x<3>, along_x<4>},
    along_y,
    {split<1>, split<2>, split<3>, split<4>},
    {store<float>, store<double>, store<half_t>, store<bfloat16_t>, store<uint8_t>},
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
