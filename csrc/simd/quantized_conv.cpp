// Direct convolution, row by row. The input rows for a run of output rows are gathered into the workspace, with padding
// and for one group only. So one kernel row of one output pixel is a run of kernel_w * channels contiguous bytes, and
// the run of the next pixel starts stride_w * channels bytes later. A product is then
//
//   sums [pixels, 32] = sum over kernel rows of bytes [pixels, run] weights [run, 32]
//
// with bytes read in place, without im2col. Then follow bias, scale and rounding, the table, and the max pool over a
// ring buffer of the last pool_size rows. The pool takes the results of the table: a look-up of 64 values is five
// instructions, fewer than the largest and the smallest value of each window, which Mish would need.
#include "quantized_conv.h"

#include "elementwise.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastops {
namespace FASTOPS_ISA {
namespace {

constexpr int64_t kPanel = kQuantizedPanel, kChunk = kQuantizedChunk;
constexpr int64_t kBlockPixels = 32;        // pixels of a block, the part of a row whose sums are kept at a time
constexpr int64_t kBandBytes = 256 * 1024;  // approximate gathered input: half of a small second-level cache
#if defined(__AMX_INT8__)
// The tiles need weights faster than the second-level cache delivers them. So a slab of a panel that fits the
// first-level cache is multiplied with several blocks, from several rows, and their sums are kept in memory for the
// next slab. SiamFC's conv3 then takes two thirds of the time that it takes block by block.
constexpr int64_t kSlabChunks = 12;
constexpr int64_t kGroupBlocks = 16, kMaxRowsAtOnce = 8;
#else
constexpr int64_t kGroupBlocks = 1, kMaxRowsAtOnce = 1;
#endif

constexpr int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

struct Plan {
  QuantizedConvShape s;
  int64_t conv_width, out_height, out_width;
  int64_t group_in, group_out;
  int64_t pixel, row;     // bytes from one output pixel's run to the next, and from one gathered row to the next
  int64_t run, chunks;    // bytes of a kernel row, and chunks of its weights
  int64_t panels, panel;  // and bytes of one
  int64_t row_bytes;      // of one row of the convolution's result
  int64_t ring_pitch;     // from one such row to the next: a table look-up writes whole vectors
  int64_t blocks;         // of a row
  int64_t rows_at_once;   // of the convolution
  int64_t ring_rows;      // kept
  int64_t band_rows;      // input rows gathered at most
  // Offsets in the workspace.
  int64_t sums, input, ring, columns, size;

  explicit Plan(const QuantizedConvShape& shape)
      : s(shape),
        conv_width(s.conv_width()),
        out_height(s.out_height()),
        out_width(s.out_width()),
        group_in(s.in_channels / s.groups),
        group_out(s.out_channels / s.groups),
        pixel(s.stride_w * group_in),
        row((s.width + 2 * s.padding_w) * group_in),
        run(s.kernel_w * group_in),
        chunks((run + kChunk - 1) / kChunk),
        panels((group_out + kPanel - 1) / kPanel),
        panel(s.kernel_h * chunks * kChunk * kPanel),
        row_bytes(conv_width * group_out),
        ring_pitch(round_up(row_bytes, 64)),
        blocks((conv_width + kBlockPixels - 1) / kBlockPixels),
        rows_at_once(max(1, min(kGroupBlocks / max(blocks, 1), kMaxRowsAtOnce))),
        ring_rows(s.pool_size + rows_at_once - 1),
        band_rows(max(kBandBytes / max(row, 1), rows_for(rows_at_once))) {
    // A block reads whole chunks for kBlockPixels pixels, even if the row has fewer, so this memory must exist.
    const int64_t slack = kBlockPixels * pixel + chunks * kChunk;
    sums = 0;
    input = kGroupBlocks * kBlockPixels * kPanel * int64_t(sizeof(int32_t));
    ring = input + round_up(band_rows * row + slack, 64);
    columns = ring + ring_rows * ring_pitch;
    size = columns + ring_pitch;
  }

  // The number of input rows for `rows` rows of the convolution.
  int64_t rows_for(int64_t conv_rows) const { return (conv_rows - 1) * s.stride_h + s.kernel_h; }
};

// ---- products ------------------------------------------------------------------------------------------------

#if defined(__AMX_INT8__)

// Tiles 0 to 3 are the sums of 2 x 16 pixels and 2 x 16 channels, 4 and 5 the pixels' bytes, 6 and 7 the weights.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Static, because GCC assumes that the instruction reads eight bytes and omits all other writes to a local variable.
constexpr TileConfig kTileConfig;

struct Products {
  Products() { _tile_loadconfig(&kTileConfig); }
  ~Products() { _tile_release(); }

  static int64_t slabs(const Plan& plan) { return (plan.s.kernel_h * plan.chunks + kSlabChunks - 1) / kSlabChunks; }

  // sums [pixels][kPanel] of one slab, added to those of the slabs before; pixels up to kBlockPixels.
  void operator()(const Plan& plan, int64_t slab, const uint8_t* x, const int8_t* w, int64_t pixels,
                  int32_t* sums) const {
    constexpr int64_t kPitch = kPanel * 4;  // bytes from a row of sums, or of weights, to the next
    const int64_t pixel = plan.pixel, total = plan.s.kernel_h * plan.chunks, count = slabs(plan);
    const int64_t begin = slab * total / count, end = (slab + 1) * total / count;
    w += begin * kChunk * kPanel;
    const bool two = pixels > 16;  // otherwise the lower tiles are not used
    if (slab == 0) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, sums, kPitch);
      _tile_loadd(1, sums + 16, kPitch);
      _tile_loadd(2, sums + 16 * kPanel, kPitch);
      _tile_loadd(3, sums + 16 * kPanel + 16, kPitch);
    }
    for (int64_t place = begin; place < end;) {  // chunks in the rest of a kernel row
      const int64_t first = place % plan.chunks, rest = min(plan.chunks - first, end - place);
      const uint8_t* upper = x + place / plan.chunks * plan.row + first * kChunk;
      const uint8_t* lower = upper + 16 * pixel;
      place += rest;
      for (int64_t i = 0; i < rest; ++i, upper += kChunk, lower += kChunk, w += kChunk * kPanel) {
        _tile_loadd(4, upper, pixel);
        _tile_loadd(6, w, kPitch);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, w + 64, kPitch);
        _tile_dpbusd(1, 4, 7);
        if (!two) continue;
        _tile_loadd(5, lower, pixel);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
      }
    }
    _tile_stored(0, sums, kPitch);
    _tile_stored(1, sums + 16, kPitch);
    if (!two) return;
    _tile_stored(2, sums + 16 * kPanel, kPitch);
    _tile_stored(3, sums + 16 * kPanel + 16, kPitch);
  }
};

#else

// Sums of 4 products each: sum[i] += a[0..3] . w[4 i .. 4 i + 3], with a uint8, the same for all i, and w int8. Without
// VNNI, even and odd bytes are multiplied separately in 16 bits, where nothing saturates (vpmaddubsw would).
#if defined(__AVX512BW__)
using Sums = __m512i;
inline Sums load_sums(const void* p) { return _mm512_loadu_si512(p); }
inline Sums four_bytes(const uint8_t* p) {
  int32_t bytes;
  memcpy(&bytes, p, sizeof(bytes));
  return _mm512_set1_epi32(bytes);
}
inline Sums multiply_add(Sums sum, Sums a, Sums w) {
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(sum, a, w);
#else
  const Sums even =
      _mm512_madd_epi16(_mm512_and_si512(a, _mm512_set1_epi16(0xff)), _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8));
  const Sums odd = _mm512_madd_epi16(_mm512_srli_epi16(a, 8), _mm512_srai_epi16(w, 8));
  return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
#endif
}
constexpr int kMaxRows = 14;  // pixels: 28 sums, 2 vectors of weights, 1 of bytes
#elif defined(__AVX2__)
using Sums = __m256i;
inline Sums load_sums(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Sums four_bytes(const uint8_t* p) {
  int32_t bytes;
  memcpy(&bytes, p, sizeof(bytes));
  return _mm256_set1_epi32(bytes);
}
inline Sums multiply_add(Sums sum, Sums a, Sums w) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sum, a, w);
#else
  const Sums even =
      _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
  const Sums odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(w, 8));
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
#endif
}
constexpr int kMaxRows = 3;  // 12 sums of 16 registers
#else
struct Sums {
  int32_t lane[4];
};
inline Sums load_sums(const void* p) {
  Sums value;
  memcpy(&value, p, sizeof(value));
  return value;
}
inline Sums four_bytes(const uint8_t* p) {
  int32_t bytes;
  memcpy(&bytes, p, sizeof(bytes));
  return {{bytes, bytes, bytes, bytes}};
}
inline Sums multiply_add(Sums sum, const Sums& a, const Sums& w) {
  uint8_t bytes[16];
  int8_t weights[16];
  memcpy(bytes, &a, sizeof(bytes));
  memcpy(weights, &w, sizeof(weights));
  for (int i = 0; i < 16; ++i) sum.lane[i / 4] += int32_t(bytes[i]) * weights[i];
  return sum;
}
constexpr int kMaxRows = 2;
#endif

constexpr int64_t kWeightsAhead = 16 * 4 * kPanel;                 // bytes
constexpr int kVectors = int(kPanel * 4 / int64_t(sizeof(Sums)));  // of sums of one pixel

// sums [kRows][kPanel]
template <int kRows>
[[gnu::noinline]] void multiply(const Plan& plan, const uint8_t* x, const int8_t* w, int32_t* sums) {
  Sums sum[kRows][kVectors] = {};
  const int64_t pixel = plan.pixel, steps = (plan.run + 3) / 4;
  for (int64_t ky = 0; ky < plan.s.kernel_h; ++ky, x += plan.row, w += plan.chunks * kChunk * kPanel) {
    // Each four rows have their own base, at offsets that fit an address.
    const uint8_t* base[(kRows + 3) / 4];
#pragma GCC unroll 16
    for (int i = 0; i < (kRows + 3) / 4; ++i) base[i] = x + 4 * i * pixel;
    const int8_t* weights = w;
    for (int64_t step = 0; step < steps; ++step, weights += 4 * kPanel) {
      __builtin_prefetch(weights + kWeightsAhead);
      __builtin_prefetch(weights + kWeightsAhead + 64);
      Sums column[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) column[v] = load_sums(weights + v * int64_t(sizeof(Sums)));
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
        const Sums bytes = four_bytes(base[row / 4] + row % 4 * pixel + step * 4);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sum[row][v] = multiply_add(sum[row][v], bytes, column[v]);
      }
    }
  }
  memcpy(sums, sum, sizeof(sum));
}

// multiply<rows>, 1 <= rows <= kRows.
template <int kRows = kMaxRows, class... Args>
void multiply_rows(int64_t rows, const Args&... args) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_rows<kRows - 1>(rows, args...);
  }
  multiply<kRows>(args...);
}

struct Products {
  static int64_t slabs(const Plan&) { return 1; }

  void operator()(const Plan& plan, int64_t, const uint8_t* x, const int8_t* w, int64_t pixels, int32_t* sums) const {
    const int64_t parts = (pixels + kMaxRows - 1) / kMaxRows;
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t begin = i * pixels / parts, rows = (i + 1) * pixels / parts - begin;
      multiply_rows(rows, plan, x + begin * plan.pixel, w, sums + begin * kPanel);
    }
  }
};

#endif

// ---- what follows the sums -------------------------------------------------------------------------------------

// A panel's bias and scale, zeros beyond its channels.
struct Rescale {
  int32_t bias[kPanel] = {};
  float scale[kPanel] = {};
  int64_t channels;

  Rescale(const QuantizedConvArgs& args, int64_t first, int64_t count) : channels(count) {
    memcpy(bias, args.bias + first, size_t(count) * sizeof(int32_t));
    memcpy(scale, args.scale + first, size_t(count) * sizeof(float));
  }

  float at(const int32_t* sums, int64_t i) const { return float(sums[i] + bias[i]) * scale[i]; }

  // Rounded to the nearest, ties to even. The limits are integers, so clamping first does not change the result.
  void to_bytes(const int32_t* sums, uint8_t zero_point, uint8_t* out) const {
    const float low = -float(zero_point), high = float(255 - zero_point);
    uint8_t spare[kPanel];
    uint8_t* levels = channels == kPanel ? out : spare;
#if defined(__AVX512F__)
    for (int64_t i = 0; i < kPanel; i += 16) {
      const __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(sums + i), _mm512_loadu_si512(bias + i));
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(scale + i));
      const __m512 bounded = _mm512_min_ps(_mm512_max_ps(value, _mm512_set1_ps(low)), _mm512_set1_ps(high));
      const __m512i rounded = _mm512_cvt_roundps_epi32(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __m512i level = _mm512_add_epi32(rounded, _mm512_set1_epi32(zero_point));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(levels + i), _mm512_cvtepi32_epi8(level));
    }
#else
    // Rounded to the nearest, ties to even, by adding 1.5 * 2^23. Its last bit has the value 1, so the low bits of the
    // sum are the rounded value.
    constexpr float kMagic = 12582912.0f;
    constexpr int32_t kMagicBits = 0x4b400000;
    const int32_t shift = int32_t(zero_point) - kMagicBits;
    FASTOPS_SHORT_LOOP
    for (int64_t i = 0; i < kPanel; ++i) {
      float value = at(sums, i);
      value = value > low ? value : low;
      value = value < high ? value : high;
      value += kMagic;
      int32_t bits;
      memcpy(&bits, &value, sizeof(bits));
      levels[i] = uint8_t(bits + shift);
    }
#endif
    if (channels < kPanel) memcpy(out, spare, size_t(channels));
  }

  void to_floats(const int32_t* sums, float* out) const {
    float values[kPanel];
    FASTOPS_SHORT_LOOP
    for (int64_t i = 0; i < kPanel; ++i) values[i] = at(sums, i);
    if (channels == kPanel) {
      memcpy(out, values, sizeof(values));
    } else {
      memcpy(out, values, size_t(channels) * sizeof(float));
    }
  }
};

// values = table[values]. Up to 63 bytes after the values may change.
void look_up(const uint8_t* table, uint8_t* values, int64_t n) {
#if defined(__AVX512VBMI__)
  const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64);
  const __m512i t2 = _mm512_loadu_si512(table + 128), t3 = _mm512_loadu_si512(table + 192);
  for (int64_t i = 0; i < n; i += 64) {
    const __m512i index = _mm512_loadu_si512(values + i);
    const __m512i low = _mm512_permutex2var_epi8(t0, index, t1), high = _mm512_permutex2var_epi8(t2, index, t3);
    _mm512_storeu_si512(values + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high));
  }
#else
  for (int64_t i = 0; i < n; ++i) values[i] = table[values[i]];
#endif
}

inline void take_larger(uint8_t* into, const uint8_t* other, int64_t n) {
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < n; ++i) into[i] = into[i] > other[i] ? into[i] : other[i];
}

// ---- rows ------------------------------------------------------------------------------------------------------

class Runner {
 public:
  Runner(const QuantizedConvArgs& args, uint8_t* workspace)
      : args_(args),
        plan_(args.shape),
        sums_(reinterpret_cast<int32_t*>(workspace + plan_.sums)),
        input_(workspace + plan_.input),
        ring_(workspace + plan_.ring),
        columns_(workspace + plan_.columns) {}

  // Rows [begin, end) of the output of one group of one image.
  void rows(int64_t image, int64_t group, int64_t begin, int64_t end) {
    const QuantizedConvShape& s = plan_.s;
    const int64_t last = (end - 1) * s.pool_stride + s.pool_size;  // rows of the convolution
    int64_t next = begin * s.pool_stride, gathered = next, gathered_end = next;
    for (int64_t y = begin; y < end; ++y) {
      next = max(next, y * s.pool_stride);
      while (next < y * s.pool_stride + s.pool_size) {
        if (next >= gathered_end) {
          gathered = next;
          gathered_end = min(last, next + (plan_.band_rows - s.kernel_h) / s.stride_h + 1);
          gather(image, group, gathered * s.stride_h - s.padding_h, plan_.rows_for(gathered_end - gathered));
        }
        const int64_t count = min(plan_.rows_at_once, gathered_end - next);
        const uint8_t* x = input_ + (next - gathered) * s.stride_h * plan_.row;
        if (args_.float_output) {
          float* out = static_cast<float*>(args_.output) + place(image, next) + group * plan_.group_out;
          convolve(x, count, group,
                   [&](const Rescale& rescale, const int32_t* sums, int64_t row, int64_t pixel, int64_t channel) {
                     rescale.to_floats(sums, out + (row * plan_.conv_width + pixel) * s.out_channels + channel);
                   });
        } else {
          convolve(x, count, group,
                   [&](const Rescale& rescale, const int32_t* sums, int64_t row, int64_t pixel, int64_t channel) {
                     uint8_t* out = ring_row(next + row) + pixel * plan_.group_out + channel;
                     rescale.to_bytes(sums, args_.output_zero_point, out);
                   });
          for (int64_t row = next; args_.table != nullptr && row < next + count; ++row) {
            look_up(args_.table, ring_row(row), plan_.row_bytes);
          }
        }
        next += count;
      }
      if (!args_.float_output)
        write(static_cast<uint8_t*>(args_.output) + place(image, y) + group * plan_.group_out, y);
    }
  }

 private:
  int64_t place(int64_t image, int64_t y) const {
    return (image * plan_.out_height + y) * plan_.out_width * plan_.s.out_channels;
  }

  // The memory of row y of the convolution.
  uint8_t* ring_row(int64_t y) { return ring_ + y % plan_.ring_rows * plan_.ring_pitch; }

  // Rows [top, top + count) of the image, which may begin above and end below it, as [count][padded width][group_in].
  void gather(int64_t image, int64_t group, int64_t top, int64_t count) {
    const QuantizedConvShape& s = plan_.s;
    const int64_t left = s.padding_w * plan_.group_in, inner = s.width * plan_.group_in;
    const int zero = args_.input_zero_point;
    for (int64_t i = 0; i < count; ++i) {
      uint8_t* to = input_ + i * plan_.row;
      const int64_t y = top + i;
      if (y < 0 || y >= s.height) {
        memset(to, zero, size_t(plan_.row));
        continue;
      }
      const uint8_t* from = args_.input + (image * s.height + y) * s.width * s.in_channels + group * plan_.group_in;
      memset(to, zero, size_t(left));
      memset(to + left + inner, zero, size_t(left));
      to += left;
      if (s.groups == 1) {
        memcpy(to, from, size_t(inner));
        continue;
      }
      for (int64_t x = 0; x < s.width; ++x, from += s.in_channels, to += plan_.group_in) {
        memcpy(to, from, size_t(plan_.group_in));
      }
    }
  }

  // Calls finish(rescale, sums of one pixel, row, pixel, first channel) for all pixels and panels of `count` rows.
  template <class Finish>
  void convolve(const uint8_t* x, int64_t count, int64_t group, const Finish& finish) {
    const int64_t slabs = Products::slabs(plan_), blocks = count * plan_.blocks;
    for (int64_t p = 0; p < plan_.panels; ++p) {
      const int64_t channel = p * kPanel, channels = min(kPanel, plan_.group_out - channel);
      const Rescale rescale(args_, group * plan_.group_out + channel, channels);
      const int8_t* weights = args_.packed + (group * plan_.panels + p) * plan_.panel;
      for (int64_t begin = 0; begin < blocks; begin += kGroupBlocks) {
        const int64_t end = min(blocks, begin + kGroupBlocks);
        for (int64_t slab = 0; slab < slabs; ++slab) {
          for (int64_t block = begin; block < end; ++block) {
            const int64_t row = block / plan_.blocks, first = block % plan_.blocks * kBlockPixels;
            const int64_t pixels = min(kBlockPixels, plan_.conv_width - first);
            int32_t* sums = sums_ + (block - begin) * kBlockPixels * kPanel;
            const uint8_t* bytes = x + row * plan_.s.stride_h * plan_.row + first * plan_.pixel;
            products_(plan_, slab, bytes, weights, pixels, sums);
            if (slab + 1 < slabs) continue;
            for (int64_t i = 0; i < pixels; ++i) finish(rescale, sums + i * kPanel, row, first + i, channel);
          }
        }
      }
    }
  }

  // Computes row y of the output from the ring buffer.
  void write(uint8_t* out, int64_t y) {
    const QuantizedConvShape& s = plan_.s;
    const int64_t channels = plan_.group_out;
    const uint8_t* source = ring_row(y * s.pool_stride);
    if (s.pool_size > 1) {
      memcpy(columns_, source, size_t(plan_.row_bytes));
      for (int64_t i = 1; i < s.pool_size; ++i) {
        take_larger(columns_, ring_row(y * s.pool_stride + i), plan_.row_bytes);
      }
      source = columns_;
    }
    const int64_t step = s.pool_stride * channels;
    for (int64_t x = 0; x < plan_.out_width; ++x, source += step, out += s.out_channels) {
      memcpy(out, source, size_t(channels));
      for (int64_t i = 1; i < s.pool_size; ++i) take_larger(out, source + i * channels, channels);
    }
  }

  const QuantizedConvArgs& args_;
  const Plan plan_;
  int32_t* const sums_;
  uint8_t *const input_, *const ring_, *const columns_;
  const Products products_{};
};

int64_t workspace_size(const QuantizedConvShape& shape) { return Plan(shape).size; }

void run(int64_t unit_begin, int64_t unit_end, const QuantizedConvArgs& args, uint8_t* workspace) {
  Runner runner(args, workspace);
  const int64_t rows = args.shape.out_height(), groups = args.shape.groups;
  while (unit_begin < unit_end) {
    const int64_t item = unit_begin / rows, row = unit_begin % rows;
    const int64_t end = min(rows, row + unit_end - unit_begin);
    runner.rows(item / groups, item % groups, row, end);
    unit_begin += end - row;
  }
}

int64_t multiply_registers(int64_t rounds) {
#if defined(__AMX_INT8__)
  const Products products;
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  return rounds * 4 * 16 * 16 * kChunk;
#else
  constexpr int kChains = kMaxRows * kVectors < 12 ? kMaxRows * kVectors : 12;
  const int64_t bytes = 0;
  const Sums x = four_bytes(reinterpret_cast<const uint8_t*>(&bytes));
  Sums sum[kChains] = {};
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      sum[i] = multiply_add(sum[i], x, x);
#if defined(__AVX512F__)
      asm volatile("" : "+v"(sum[i]));  // the compiler would multiply once
#elif defined(__AVX2__)
      asm volatile("" : "+x"(sum[i]));
#else
      asm volatile("" : "+m"(sum[i]));
#endif
    }
  }
  return rounds * kChains * int64_t(sizeof(Sums));
#endif
}

}  // namespace

extern const QuantizedConvKernels quantized_conv_kernels;
const QuantizedConvKernels quantized_conv_kernels = {workspace_size, run, multiply_registers};

}  // namespace FASTOPS_ISA
}  // namespace fastops
