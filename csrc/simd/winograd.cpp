// A task is one group of channels and a run of tiles (in the order image, tile row, tile column):
//
//   1. V = B^T d B of every tile and channel                                   V [alpha^2][chunk][block][tile][lane]
//   2. for each kColumns output channels, so that the packed weights U are one stream, read once per task:
//        M = V U, alpha^2 products of [tiles, channels] and [channels, columns]       M [tile][alpha^2][kColumns]
//        output = activation(A^T M A + bias)
//
// A chunk is at most kMaxRows tiles, the rows of one micro kernel. A block is one vector of channels. So the micro
// kernel reads V in order, with every broadcast at a constant offset.
//
// Measured on one Zen 5 core (238 GFLOP/s of FMA) with 3 images of SiamFC's layers: the products run at 90 to 95 % of
// that rate and take two thirds (5x5) to nine tenths (3x3) of the time. The transforms wait for memory, so they use
// prefetches.
#include "winograd.h"

#include "../math/mish.h"
#include "../math/winograd.h"
#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kMaxRows = 14;  // 28 accumulators, 2 vectors of weights and 1 broadcast of 32 registers
#else
constexpr int kMaxRows = 6;  // 12 + 2 + 1 of 16
#endif

constexpr int kWidth = kLanes<float>;
constexpr int kColumns = 2 * kWidth;
constexpr int kStep = 4;   // channels; a last block of fewer than kWidth is only padded to a multiple of this
constexpr int kLine = 16;  // floats in a cache line

// More tiles share a pass over the weights, which come from the third-level cache or from memory. SiamFC's conv3 takes
// 5 % longer with 37 tiles than with 74, although V of 74 tiles does not fit into the second-level cache.
constexpr int64_t kMaxTaskTiles = 84;
constexpr int64_t kMaxShallowTaskTiles = 28;  // of one block of channels

constexpr int64_t kInputAhead = 64;  // floats; halves the time of the input transform
constexpr int64_t kOutputAhead = 4;  // tiles; saves a fifth of the output transform

constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

inline void from_float(const float* source, float* target, int64_t n) {
  memcpy(target, source, size_t(n) * sizeof(float));
}
template <class T>
inline void from_float(const float* source, T* target, int64_t n) {
  from_opmath(source, target, n);
}

// Part `index` of [0, total), divided into `parts` parts whose sizes differ by at most one.
struct Slice {
  int64_t begin, size;

  Slice(int64_t total, int64_t index, int64_t parts)
      : begin(index * total / parts), size((index + 1) * total / parts - begin) {}
};

// sum += v [kRows][kWidth] u [kDepth][kColumns], with the first kDepth columns of v.
template <int kRows, int kDepth>
FASTOPS_HD void multiply_block(const float* v, const float* u, Vec<float> (&sum)[kRows][2]) {
#pragma GCC unroll 16
  for (int k = 0; k < kDepth; ++k, u += kColumns) {
    const Vec<float> u0 = load(u), u1 = load(u + kWidth);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const float x = v[row * kWidth + k];
      sum[row][0] += x * u0;
      sum[row][1] += x * u1;
    }
  }
}

// m [kRows][kColumns], rows m_stride apart, = v [blocks][kRows][kWidth] u [depth][kColumns], depth a multiple of kStep.
// Meanwhile prefetch_lines lines per block are prefetched from `prefetch` on: the weights of the next product.
template <int kRows>
[[gnu::noinline]] void multiply(const float* v, const float* u, int64_t depth, float* m, int64_t m_stride,
                                const float* prefetch, int64_t prefetch_lines) {
  Vec<float> sum[kRows][2] = {};
  for (int64_t k = 0; k < depth; k += kWidth, v += kRows * kWidth) {
    for (int64_t line = 0; line < prefetch_lines; ++line, prefetch += kLine) __builtin_prefetch(prefetch, 0, 2);
    if (k + kWidth <= depth) {
      multiply_block<kRows, kWidth>(v, u + k * kColumns, sum);
    } else {
      for (int64_t rest = k; rest < depth; rest += kStep) {
        multiply_block<kRows, kStep>(v + rest - k, u + rest * kColumns, sum);
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row, m += m_stride) {
    store(m, sum[row][0]);
    store(m + kWidth, sum[row][1]);
  }
}

// multiply<rows>, 1 <= rows <= kRows.
template <int kRows = kMaxRows, class... Args>
void multiply_rows(int64_t rows, Args... args) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_rows<kRows - 1>(rows, args...);
  }
  multiply<kRows>(args...);
}

void activate(Activation activation, float* x, int64_t size) {
  if (activation == Activation::relu) {
    map(x, x, size, [](float value) { return value < 0 ? 0 : value; });  // NaN passes
  } else if (activation == Activation::mish) {
    map(x, x, size, [](float value) { return mish_forward(value); });
  }
}

template <int kM, int kR, int kStride = 1>
struct Winograd {
  static constexpr int kAlpha = kM + kR - 1;
  static constexpr int kArea = kAlpha * kAlpha;
  static constexpr int kPhases = kStride * kStride;

  struct Plan {
    int64_t out_height, out_width, tile_rows, tile_columns, tiles;
    int64_t group_in, group_out;    // channels of one group, group_in with those of all phases
    int64_t in_blocks, out_blocks;  // in kWidth and kColumns channels
    int64_t depth;                  // group_in in whole steps
    int64_t panel;                  // size of the weights of one product

    explicit Plan(const WinogradShape& s)
        : out_height((s.height - s.kernel_size) / kStride + 1),
          out_width((s.width - s.kernel_size) / kStride + 1),
          tile_rows(ceil_div(out_height, kM)),
          tile_columns(ceil_div(out_width, kM)),
          tiles(s.batch * tile_rows * tile_columns),
          group_in(s.in_channels / s.groups * kPhases),
          group_out(s.out_channels / s.groups),
          in_blocks(ceil_div(group_in, kWidth)),
          out_blocks(ceil_div(group_out, kColumns)),
          depth(ceil_div(group_in, kStep) * kStep),
          panel(depth * kColumns) {}

    // The size of one of the alpha^2 planes of V. An odd number of vectors spreads the stores of one tile over the
    // cache sets.
    int64_t plane(int64_t task_tiles) const { return (in_blocks * task_tiles | 1) * kWidth; }
  };

  struct Tile {
    int64_t image, y, x;    // y, x of its first output pixel, which is also that of its first input pixel
    int64_t height, width;  // of its output inside the image

    Tile(const Plan& plan, int64_t index)
        : image(index / (plan.tile_rows * plan.tile_columns)),
          y(index / plan.tile_columns % plan.tile_rows * kM),
          x(index % plan.tile_columns * kM),
          height(min(kM, plan.out_height - y)),
          width(min(kM, plan.out_width - x)) {}
  };

  static int64_t packed_size(const WinogradShape& shape) {
    const Plan plan(shape);
    return shape.groups * plan.out_blocks * kArea * plan.panel;
  }

  // packed [group][output block][alpha^2][phase, channel][kColumns], with zeros if a block is not full.
  static void pack_weight(const WinogradShape& shape, const float* weight, float* packed) {
    const Plan plan(shape);
    const int64_t size = shape.kernel_size;
    memset(packed, 0, size_t(packed_size(shape)) * sizeof(float));
    for (int64_t out = 0; out < shape.out_channels; ++out) {
      const int64_t group = out / plan.group_out, channel = out % plan.group_out;
      float* column = packed + (group * plan.out_blocks + channel / kColumns) * kArea * plan.panel + channel % kColumns;
      for (int phase = 0; phase < kPhases; ++phase) {
        for (int64_t in = 0; in < plan.group_in / kPhases; ++in, column += kColumns) {
          double rows[kR][kAlpha];  // g G^T
          for (int y = 0; y < kR; ++y) {
            double taps[kR];
            for (int x = 0; x < kR; ++x) {
              const int64_t ky = y * kStride + phase / kStride, kx = x * kStride + phase % kStride;
              taps[x] = ky < size && kx < size ? weight[(in * size + ky) * size + kx] : 0;
            }
            winograd::transform_weight<kM, kR>(taps, rows[y]);
          }
          for (int x = 0; x < kAlpha; ++x) {
            double taps[kR], transformed[kAlpha];
            for (int y = 0; y < kR; ++y) taps[y] = rows[y][x];
            winograd::transform_weight<kM, kR>(taps, transformed);
            for (int y = 0; y < kAlpha; ++y) column[(y * kAlpha + x) * plan.panel] = float(transformed[y]);
          }
        }
      }
      weight += plan.group_in / kPhases * size * size;
    }
  }

  static int64_t num_tasks(const WinogradShape& shape, int64_t threads) {
    const Plan plan(shape);
    int64_t runs = ceil_div(plan.tiles, plan.in_blocks > 1 ? kMaxTaskTiles : kMaxShallowTaskTiles);
    while (shape.groups * runs % threads != 0 && runs < plan.tiles) ++runs;
    return shape.groups * runs;
  }

  static int64_t workspace_size(const WinogradShape& shape, int64_t tasks) {
    if (tasks == 0) return 0;
    const Plan plan(shape);
    const int64_t tiles = ceil_div(plan.tiles, tasks / shape.groups);
    return kArea * (plan.plane(tiles) + tiles * kColumns + plan.in_blocks * kWidth);  // V, M, padded
  }

  // Computes V for one vector of channels of one tile. d is the tile's first pixel.
  template <class T>
  static void transform_input_tile(const T* d, int64_t row_stride, int64_t pixel_stride, float* v, int64_t plane) {
    Vec<float> rows[kAlpha][kAlpha];  // d B
    for (int y = 0; y < kAlpha; ++y) {
      Vec<float> pixels[kAlpha];
#pragma GCC unroll 16
      for (int x = 0; x < kAlpha; ++x) {
        const T* pixel = d + y * row_stride + x * pixel_stride;
        __builtin_prefetch(pixel + kInputAhead);
        pixels[x] = load_float(pixel);
      }
      winograd::transform_input<kAlpha>(pixels, rows[y]);
    }
    for (int x = 0; x < kAlpha; ++x) {
      Vec<float> column[kAlpha], transformed[kAlpha];
#pragma GCC unroll 16
      for (int y = 0; y < kAlpha; ++y) column[y] = rows[y][x];
      winograd::transform_input<kAlpha>(column, transformed);
#pragma GCC unroll 16
      for (int y = 0; y < kAlpha; ++y) store(v + (y * kAlpha + x) * plane, transformed[y]);
    }
  }

  // The pixels of a tile, with zeros outside the image: [kAlpha][kAlpha][phase, channel]. A pixel has in_blocks *
  // kWidth floats, of which the last ones may stay unset.
  template <class T>
  static void gather(const T* image, const WinogradShape& s, const Plan& plan, const Tile& tile, int64_t channels,
                     float* padded) {
    const int64_t stride = plan.in_blocks * kWidth;
    const int64_t top = tile.y * kStride, left = tile.x * kStride, whole = kAlpha * kStride;
    const int64_t height = min((tile.height + kR - 1) * kStride, s.height - top);
    const int64_t width = min((tile.width + kR - 1) * kStride, s.width - left);
    if (height < whole || width < whole) memset(padded, 0, size_t(kArea * stride) * sizeof(float));
    for (int64_t y = 0; y < height; ++y) {
      const T* pixel = image + ((top + y) * s.width + left) * s.in_channels;
      float* row = padded + y / kStride * kAlpha * stride + y % kStride * kStride * channels;
      for (int64_t x = 0; x < width; x += kStride, row += stride, pixel += kStride * s.in_channels) {
        // With stride 2 there are no groups, so the two pixels are contiguous.
        const int64_t count = kStride == 1 ? channels : min(kStride, width - x) * channels;
        if (kStride > 1 && count == 6) {  // pixels of three channels; the constant size makes it a few moves
          for (int i = 0; i < 6; ++i) row[i] = to_float(pixel[i]);
        } else {
          for (int64_t i = 0; i < count; ++i) row[i] = to_float(pixel[i]);
        }
      }
    }
  }

  template <class T>
  static void transform_inputs(const WinogradArgs& args, const Plan& plan, int64_t group, Slice run, float* v,
                               float* padded) {
    const WinogradShape& s = args.shape;
    const int64_t plane = plan.plane(run.size), channels = plan.group_in / kPhases;
    const int64_t chunks = ceil_div(run.size, kMaxRows);
    const bool whole_blocks = kStride == 1 && plan.group_in % kWidth == 0;
    memset(padded, 0, size_t(kArea * plan.in_blocks * kWidth) * sizeof(float));
    for (int64_t i = 0; i < chunks; ++i) {
      const Slice chunk(run.size, i, chunks);
      for (int64_t row = 0; row < chunk.size; ++row) {
        const Tile tile(plan, run.begin + chunk.begin + row);
        const T* image =
            static_cast<const T*>(args.input) + tile.image * s.height * s.width * s.in_channels + group * channels;
        float* first = v + (chunk.begin * plan.in_blocks + row) * kWidth;
        const auto transform = [&](const auto* d, int64_t row_stride, int64_t pixel_stride) {
          for (int64_t block = 0; block < plan.in_blocks; ++block) {
            float* target = first + block * chunk.size * kWidth;
            transform_input_tile(d + block * kWidth, row_stride, pixel_stride, target, plane);
          }
        };
        if (whole_blocks && tile.height == kM && tile.width == kM) {
          transform(image + (tile.y * s.width + tile.x) * s.in_channels, s.width * s.in_channels, s.in_channels);
        } else {
          gather(image, s, plan, tile, channels, padded);
          transform(padded, kAlpha * plan.in_blocks * kWidth, plan.in_blocks * kWidth);
        }
      }
    }
  }

  // y [kM][kM][kColumns] = A^T m A + bias; m [alpha^2][kColumns].
  static void transform_output_tile(const float* m, const float* bias, float* y) {
    for (int half = 0; half < kColumns; half += kWidth) {
      Vec<float> rows[kAlpha][kM];  // m A
      for (int i = 0; i < kAlpha; ++i) {
        Vec<float> products[kAlpha];
#pragma GCC unroll 16
        for (int j = 0; j < kAlpha; ++j) products[j] = load(m + (i * kAlpha + j) * kColumns + half);
        winograd::transform_output<kM, kR>(products, rows[i]);
      }
      const Vec<float> offset = load(bias + half);
      for (int j = 0; j < kM; ++j) {
        Vec<float> column[kAlpha], transformed[kM];
#pragma GCC unroll 16
        for (int i = 0; i < kAlpha; ++i) column[i] = rows[i][j];
        winograd::transform_output<kM, kR>(column, transformed);
#pragma GCC unroll 16
        for (int i = 0; i < kM; ++i) store(y + (i * kM + j) * kColumns + half, transformed[i] + offset);
      }
    }
  }

  template <class T>
  static void transform_outputs(const WinogradArgs& args, const Plan& plan, int64_t group, int64_t out_block, Slice run,
                                const float* m) {
    const int64_t channels = min(kColumns, plan.group_out - out_block * kColumns);
    const int64_t first_channel = group * plan.group_out + out_block * kColumns;
    const int64_t pixel_stride = args.shape.out_channels;
    float bias[kColumns] = {};
    if (args.bias) memcpy(bias, args.bias + first_channel, size_t(channels) * sizeof(float));

    // act(pointer to the output of pixel (i, j) of the tile, i * kM + j)
    const auto for_each_pixel = [&](int64_t index, const auto& act) {
      const Tile tile(plan, index);
      T* row = static_cast<T*>(args.output) +
               ((tile.image * plan.out_height + tile.y) * plan.out_width + tile.x) * pixel_stride + first_channel;
      for (int64_t i = 0; i < tile.height; ++i, row += plan.out_width * pixel_stride) {
        for (int64_t j = 0; j < tile.width; ++j) act(row + j * pixel_stride, i * kM + j);
      }
    };

    for (int64_t t = 0; t < run.size; ++t, m += kArea * kColumns) {
      if (t + kOutputAhead < run.size) {
        for_each_pixel(run.begin + t + kOutputAhead, [](T* pixel, int64_t) {
          for (int line = 0; line < kColumns; line += kLine) __builtin_prefetch(pixel + line, 1);
        });
      }
      float y[kM * kM * kColumns];
      transform_output_tile(m, bias, y);
      activate(args.activation, y, kM * kM * kColumns);
      for_each_pixel(run.begin + t, [&](T* pixel, int64_t index) {
        if (channels == kColumns) {
          from_float(y + index * kColumns, pixel, kColumns);  // the constant size makes it two vectors
        } else {
          from_float(y + index * kColumns, pixel, channels);
        }
      });
    }
  }

  template <class T>
  static void run(int64_t task_begin, int64_t task_end, const WinogradArgs& args, float* workspace) {
    const Plan plan(args.shape);
    const int64_t runs = args.tasks / args.shape.groups;
    for (int64_t task = task_begin; task < task_end; ++task) {
      const int64_t group = task / runs;
      const Slice run(plan.tiles, task % runs, runs);
      const int64_t plane = plan.plane(run.size), chunks = ceil_div(run.size, kMaxRows);
      const int64_t prefetch_lines = ceil_div(kWidth * kColumns / kLine, chunks);  // of the next panel, per block
      float* v = workspace;
      float* m = v + kArea * plane;
      float* padded = m + kArea * run.size * kColumns;
      transform_inputs<T>(args, plan, group, run, v, padded);
      const float* u = args.packed + group * plan.out_blocks * kArea * plan.panel;
      for (int64_t out_block = 0; out_block < plan.out_blocks; ++out_block) {
        for (int64_t position = 0; position < kArea; ++position, u += plan.panel) {
          const float* next = u + plan.panel;
          for (int64_t i = 0; i < chunks; ++i, next += plan.in_blocks * prefetch_lines * kLine) {
            const Slice chunk(run.size, i, chunks);
            multiply_rows(chunk.size, v + position * plane + chunk.begin * plan.in_blocks * kWidth, u, plan.depth,
                          m + (chunk.begin * kArea + position) * kColumns, int64_t(kArea * kColumns), next,
                          prefetch_lines);
          }
        }
        transform_outputs<T>(args, plan, group, out_block, run, m);
      }
    }
  }
};

// Calls function(Winograd<M, R, stride>{}) for a supported shape.
template <class Function>
auto dispatch(const WinogradShape& shape, const Function& function) {
  if (shape.stride == 2) return shape.tile_size == 3 ? function(Winograd<3, 6, 2>{}) : function(Winograd<5, 6, 2>{});
  if (shape.kernel_size == 3) return shape.tile_size == 4 ? function(Winograd<4, 3>{}) : function(Winograd<6, 3>{});
  return shape.tile_size == 4 ? function(Winograd<4, 5>{}) : function(Winograd<6, 5>{});
}

int64_t packed_size(const WinogradShape& shape) {
  return dispatch(shape, [&](auto winograd) { return winograd.packed_size(shape); });
}

void pack_weight(const WinogradShape& shape, const float* weight, float* packed) {
  dispatch(shape, [&](auto winograd) { winograd.pack_weight(shape, weight, packed); });
}

int64_t num_tasks(const WinogradShape& shape, int64_t threads) {
  return dispatch(shape, [&](auto winograd) { return winograd.num_tasks(shape, threads); });
}

int64_t workspace_size(const WinogradShape& shape, int64_t tasks) {
  return dispatch(shape, [&](auto winograd) { return winograd.workspace_size(shape, tasks); });
}

template <class T>
void run(int64_t task_begin, int64_t task_end, const WinogradArgs& args, float* workspace) {
  dispatch(args.shape, [&](auto winograd) { winograd.template run<T>(task_begin, task_end, args, workspace); });
}

}  // namespace

extern const WinogradKernels winograd_kernels;
const WinogradKernels winograd_kernels = {
    packed_size, pack_weight, num_tasks, workspace_size, {run<float>, nullptr, run<half_t>, run<bfloat16_t>},
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
