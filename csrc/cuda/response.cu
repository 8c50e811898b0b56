// The tracker's steps after the network on CUDA, in three launches; the formulas are in math/response.h.
//
//   1. extremes: a block for each target, scale and tile of columns finds the extremes of the outputs in the tile
//   2. peaks: a block for each target and tile finds the best scale, from 1, and the largest output in the tile
//   3. update: a block for each target finds the largest of these outputs, from 2, and updates the target's state
//
// Bound by arithmetic: 3 maps of 17 x 17, upsampled 16 times, are 3 x 74 thousand outputs with 4 multiplications and 2
// comparisons each, and the outputs of one map once more for its peak. One block would take 190 thousand instructions
// of a warp on one of 132 SMs. So a target has (3 + 1) x 5 blocks. Maps are upsampled along their rows into shared
// memory. From it a thread reads the four rows of a cell in 16 bytes of columns and computes the cell's outputs in
// registers. Each block computes for itself the tables and everything that depends on a few hundred values of the map.
// Nothing comes from the host.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/macros.h"
#include "../common/response.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

constexpr int kResponseThreads = 256;

template <class O>
struct Extremes {
  O most = -INFINITY, least = INFINITY;

  __device__ void add(O most_, O least_) {
    most = most_ > most ? most_ : most;
    least = least_ < least ? least_ : least;
  }
};

// A value and its position. Of equal values the first position wins.
template <class O>
struct Candidate {
  O value;
  int place;  // negative: none

  __device__ void add(O value_, int place_) {
    if (place_ >= 0 && (place < 0 || value_ > value || (value_ == value && place_ < place))) {
      value = value_, place = place_;
    }
  }
};

// The extremes of a map, and of its outputs in a tile after subtracting the map's largest value.
template <class O>
struct TileExtremes {
  Extremes<O> values, outputs;
};

template <class T>
struct ResponseArgs {
  using O = opmath_t<T>;
  const T* maps;              // [targets, scales, h, w]
  float* state;               // [targets, kStateColumns]
  float* results;             // [targets, kResultColumns]
  TileExtremes<O>* extremes;  // [targets, scales, tiles]
  Candidate<O>* candidates;   // [targets, tiles]
  ResponseOptions options;
  int64_t targets;
  int scales, h, w, up, tile, tiles;  // tile: columns per block, a multiple of the columns in 16 bytes

  __device__ const T* map(int64_t target, int scale) const { return maps + (target * scales + scale) * h * w; }
  __device__ bool first(int64_t target) const { return state[target * kStateColumns + kOwnContrast] < 0; }
};

// The number of values of O before the tile in shared memory: weights and row window.
__host__ __device__ inline int64_t table_values(int64_t h, int64_t up) { return 4 * up + (h * up + 3) / 4 * 4; }

// ---- reductions, for a block of kResponseThreads: the whole block calls, and all of it gets the result ------------

template <class O>
__device__ Extremes<O> block_extremes(Extremes<O> mine) {
  __shared__ O most[32], least[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int offset = 16; offset > 0; offset /= 2) {
    const O other = __shfl_xor_sync(0xffffffffu, mine.most, offset);
    mine.add(other, __shfl_xor_sync(0xffffffffu, mine.least, offset));
  }
  if (lane == 0) most[warp] = mine.most, least[warp] = mine.least;
  __syncthreads();
  for (int i = 0; i < kResponseThreads / 32; ++i) mine.add(most[i], least[i]);
  __syncthreads();  // they may be written again
  return mine;
}

template <class O>
__device__ Candidate<O> block_first_max(Candidate<O> mine) {
  __shared__ O value[32];
  __shared__ int place[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int offset = 16; offset > 0; offset /= 2) {
    const O other = __shfl_xor_sync(0xffffffffu, mine.value, offset);
    mine.add(other, __shfl_xor_sync(0xffffffffu, mine.place, offset));
  }
  if (lane == 0) value[warp] = mine.value, place[warp] = mine.place;
  __syncthreads();
  for (int i = 0; i < kResponseThreads / 32; ++i) mine.add(value[i], place[i]);
  __syncthreads();
  return mine;
}

// ---- upsampling ----------------------------------------------------------------------------------------------------

template <class T>
class Upsampler {
 public:
  using O = opmath_t<T>;
  static constexpr int kColumns = Pack<O>::size;

  // The whole block calls. `shared` has table_values() and then (h + 1) tile values. The windows are for peak().
  __device__ Upsampler(const ResponseArgs<T>& args, O* shared, bool windows)
      : a_(args),
        height_(args.h * args.up),
        width_(args.w * args.up),
        weights_(shared),
        row_window_(shared + 4 * args.up),
        column_window_(shared + table_values(args.h, args.up)),
        rows_(column_window_ + args.tile) {
    for (int p = threadIdx.x; p < a_.up; p += kResponseThreads) {
      const auto w = cubic_weights<O>(p, a_.up);
      O* at = weights_ + 4 * p;
      at[0] = w.outer_sum, at[1] = w.outer_difference, at[2] = w.inner_sum, at[3] = w.inner_difference;
    }
    for (int y = threadIdx.x; y < (windows ? height_ : 0); y += kResponseThreads) {
      row_window_[y] = hann_over_mean<O>(y, height_);
    }
    __syncthreads();
  }

  __device__ int height() const { return height_; }
  __device__ int width() const { return width_; }

  __device__ O border() const { return border_weight(reinterpret_cast<const CubicWeights<O>*>(weights_), a_.up); }

  // The extremes of the outputs of m [h, w] minus `offset` in a tile. The whole block calls.
  __device__ Extremes<O> extremes(const T* m, int tile, O offset) const {
    Extremes<O> found;
    for_each_output(m, tile, offset, O(1), [&](int, int, O value, O) { found.add(value, value); });
    return block_extremes(found);
  }

  // The first arg max of factor (m - offset), upsampled, plus influence window, in a tile. The whole block calls.
  __device__ Candidate<O> peak(const T* m, int tile, O offset, O factor, O influence) const {
    Candidate<O> found{0, -1};
    for_each_output(m, tile, offset, factor, [&](int y, int x, O value, O window) {
      found.add(value + row_window_[y] * (influence * window), y * width_ + x);
    });
    return block_first_max(found);
  }

 private:
  // Calls body(y, x, factor output, column's window) for every output of a tile, for some of the last column twice.
  template <class Body>
  __device__ void for_each_output(const T* m, int tile, O offset, O factor, const Body& body) const {
    const int x0 = tile * a_.tile, columns = min(a_.tile, (width_ - x0 + kColumns - 1) / kColumns * kColumns);
    along_rows(m, offset, x0, columns);
    __syncthreads();
    const int packs = columns / kColumns;
    for (int item = threadIdx.x; item < packs * (a_.h + 1); item += kResponseThreads) {
      const int row = item / packs;
      along_columns(row - 1, x0, (item - row * packs) * kColumns, factor, body);
    }
    __syncthreads();
  }

  // Fills rows_[i, x] and column_window_[x] for the columns x0 + x. Beyond the map the last column repeats.
  __device__ void along_rows(const T* m, O offset, int x0, int columns) const {
    for (int x = threadIdx.x; x < columns; x += kResponseThreads) {
      column_window_[x] = hann_over_mean<O>(min(x0 + x, width_ - 1), width_);
    }
    for (int item = threadIdx.x; item < a_.h * columns; item += kResponseThreads) {
      const int i = item / columns, x = min(x0 + item - i * columns, width_ - 1);
      const int cell = (x + a_.up - a_.up / 2) / a_.up - 1;
      const auto at = [&](int j) { return to_opmath(m[i * a_.w + int(clamp_place(cell + j, a_.w))]) - offset; };
      rows_[i * a_.tile + item - i * columns] =
          CubicTaps<O>(at(-1), at(0), at(1), at(2)).dot(weights(x - int(cell_start(cell, a_.up))));
    }
  }

  template <class Body>
  __device__ __forceinline__ void along_columns(int cell, int x0, int x, O factor, const Body& body) const {
    const auto at = [&](int i) { return load_pack(rows_ + int(clamp_place(cell + i, a_.h)) * a_.tile + x); };
    const Pack<O> m0 = at(-1), m1 = at(0), m2 = at(1), m3 = at(2), window = load_pack(column_window_ + x);
    CubicTaps<O> taps[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      taps[c] = CubicTaps<O>(m0.values[c], m1.values[c], m2.values[c], m3.values[c]);
      taps[c].scale(factor);
    }
    const CellOutputs outputs(cell, a_.h, a_.up);
    const int start = int(cell_start(cell, a_.up));
    for (int y = int(outputs.begin); y < int(outputs.end); ++y) {
      const CubicWeights<O> w = weights(y - start);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        body(y, min(x0 + x + c, width_ - 1), taps[c].dot(w), window.values[c]);
      }
    }
  }

  __device__ CubicWeights<O> weights(int phase) const {
    const O* at = weights_ + 4 * phase;
    O w[4];
#pragma unroll
    for (int i = 0; i < 4; i += kColumns) {
      const Pack<O> pack = load_pack(at + i);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) w[i + c] = pack.values[c];
    }
    return {w[0], w[1], w[2], w[3]};
  }

  const ResponseArgs<T>& a_;
  int height_, width_;
  O *weights_, *row_window_, *column_window_, *rows_;
};

// ---- the kernels ---------------------------------------------------------------------------------------------------

// The extremes of a map of n values, infinite if one of them is NaN. The whole block calls.
template <class T>
__device__ Extremes<opmath_t<T>> map_extremes(const T* m, int n) {
  Extremes<opmath_t<T>> found;
  for (int i = threadIdx.x; i < n; i += kResponseThreads) {
    const opmath_t<T> v = to_opmath(m[i]);
    found.add(v, v);
    if (v != v) found.most = INFINITY;
  }
  return block_extremes(found);
}

// The sum of body(i, value) over a map of n values. The whole block calls.
template <class T, class Body>
__device__ double map_sum(const T* m, int n, const Body& body) {
  double sum = 0;
  for (int i = threadIdx.x; i < n; i += kResponseThreads) sum += double(body(i, to_opmath(m[i])));
  return block_sum(sum);
}

// The best scale of a target, from the extremes of all its tiles.
template <class O>
struct Choice {
  bool fits = true;  // every map can be upsampled
  int scale = -1;
  O offset = 0, least = 0;  // its map's largest value, and the smallest output after subtracting that
};

template <class T>
__device__ Choice<opmath_t<T>> choose(const ResponseArgs<T>& args, int64_t target) {
  using O = opmath_t<T>;
  Choice<O> best;
  double best_peak = 0;
  const int middle = args.scales / 2;
  const bool first = args.first(target);
  for (int s = 0; s < args.scales; ++s) {
    const TileExtremes<O>* tiles = args.extremes + (target * args.scales + s) * args.tiles;
    const Extremes<O> values = tiles[0].values;
    best.fits = best.fits && response_fits(values.most, values.least);
    Extremes<O> outputs;
    for (int i = 0; i < args.tiles; ++i) outputs.add(tiles[i].outputs.most, tiles[i].outputs.least);
    // The first frame's own map is the middle one. Its outputs are not needed.
    const double peak = (double(values.most) + double(outputs.most)) * scale_penalty_of(args.options, s - middle);
    if (first ? s == middle : best.scale < 0 || peak > best_peak) {
      best.scale = s, best_peak = peak, best.offset = values.most, best.least = outputs.least;
    }
  }
  return best;
}

// The bounds here and below allow ptxas the registers that it needs. Without them it spills some in float64 to allow
// more warps than are needed.
template <class T>
__global__ void __launch_bounds__(kResponseThreads, 2) response_extremes_kernel(ResponseArgs<T> args) {
  const Upsampler<T> upsampler(args, dynamic_shared<opmath_t<T>>(), false);
  const int64_t items = args.targets * args.scales * args.tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t map = item / args.tiles;
    const T* m = args.maps + map * args.h * args.w;
    TileExtremes<opmath_t<T>> found{map_extremes(m, args.h * args.w), {}};
    if (!args.first(map / args.scales)) {
      found.outputs = upsampler.extremes(m, int(item - map * args.tiles), found.values.most);
    }
    if (threadIdx.x == 0) args.extremes[item] = found;
  }
}

template <class T>
__global__ void __launch_bounds__(kResponseThreads, 2) response_peaks_kernel(ResponseArgs<T> args) {
  using O = opmath_t<T>;
  const Upsampler<T> upsampler(args, dynamic_shared<O>(), true);
  const ResponseOptions& options = args.options;
  __shared__ O factor;
  const int64_t items = args.targets * args.tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t target = item / args.tiles;
    const Choice<O> choice = choose(args, target);
    if (args.first(target) || !choice.fits) continue;
    const T* m = args.map(target, choice.scale);
    const O border = upsampler.border();
    const double sum = map_sum(m, args.h * args.w, [&](int at, O v) {
      const int i = at / args.w;
      return (v - choice.offset) * place_weight(i, args.h, args.up, border) *
             place_weight(at - i * args.w, args.w, args.up, border);
    });
    if (threadIdx.x == 0) {  // one thread only, because double is slow on most GPUs
      const double outputs = double(upsampler.height()) * double(upsampler.width());
      const double penalty = scale_penalty_of(options, choice.scale - args.scales / 2);
      factor = O(response_factor(options, penalty, outputs, sum, double(choice.least)));
    }
    __syncthreads();
    const Candidate<O> peak =
        upsampler.peak(m, int(item - target * args.tiles), choice.offset, factor, O(options.window_influence));
    if (threadIdx.x == 0) args.candidates[item] = peak;
  }
}

template <class T>
__global__ void __launch_bounds__(kResponseThreads) response_update_kernel(ResponseArgs<T> args) {
  using O = opmath_t<T>;
  const int size = args.h * args.w, height = args.h * args.up, width = args.w * args.up;
  for (int64_t target = blockIdx.x; target < args.targets; target += gridDim.x) {
    float* state = args.state + target * kStateColumns;
    float* result = args.results + target * kResultColumns;
    const Choice<O> choice = choose(args, target);
    const double contrast =
        0 - map_sum(args.map(target, choice.scale), size, [&](int, O v) { return v - choice.offset; }) / size;
    const bool first = args.first(target);
    Candidate<O> peak{0, -1};
    for (int i = threadIdx.x; i < (first || !choice.fits ? 0 : args.tiles); i += kResponseThreads) {
      const Candidate<O> found = args.candidates[target * args.tiles + i];
      peak.add(found.value, found.place);
    }
    peak = block_first_max(peak);  // the whole block has read the state
    if (threadIdx.x > 0) continue;
    if (!choice.fits) {
      write_not_finite(result);
    } else if (first) {
      set_own_contrast(contrast, state, result);
    } else {
      const int row = peak.place / width, column = peak.place - row * width;
      update_target(args.options,
                    {choice.scale - args.scales / 2, row - (height - 1) * 0.5, column - (width - 1) * 0.5, contrast},
                    state, result);
    }
  }
}

// The columns of a tile give each thread one pack of columns of a cell, unless there would be more than kMaxTiles tiles
// or the tile would not fit into shared memory.
constexpr int64_t kMaxTiles = 64;
constexpr int64_t kResponseShared = 46 * 1024;  // of the 48 KiB that every GPU has; the rest is for the reductions

template <class O>
int64_t tile_columns(const ResponseShape& shape, int64_t up) {
  constexpr int64_t kColumns = Pack<O>::size;
  const int64_t width = ceil_div(shape.w * up, kColumns) * kColumns;
  const int64_t whole = std::max<int64_t>(kResponseThreads / (shape.h + 1), 1) * kColumns;
  const int64_t wanted = std::max(whole, ceil_div(width, kMaxTiles * kColumns) * kColumns);
  const int64_t left = kResponseShared / int64_t(sizeof(O)) - table_values(shape.h, up);
  return std::min({wanted, width, left / (shape.h + 1) / kColumns * kColumns});
}

Tensor response_peak_cuda_(const Tensor& responses_, const Tensor& state, int64_t up, int64_t stride,
                           int64_t instance_size, double scale_step, double scale_penalty, double scale_lr,
                           double window_influence, double lost_score, int64_t lost_frames) {
  const ResponseOptions options{up,       stride,           instance_size, scale_step, scale_penalty,
                                scale_lr, window_influence, lost_score,    lost_frames};
  const ResponseShape shape = check_response(responses_, state, options);
  const CudaScope scope(responses_);
  Tensor results = torch::stable::new_empty(state, {shape.targets, int64_t(kResultColumns)});
  if (shape.targets == 0) return results;
  const Tensor responses = torch::stable::contiguous(responses_);
  dispatch_dtype(dtype_index("response_peak", "responses", responses), [&]<class T>() {
    using O = opmath_t<T>;
    const int64_t tile = tile_columns<O>(shape, up), tiles = ceil_div(shape.w * up, tile);
    const int64_t maps = shape.targets * shape.scales;
    const auto scratch = [&](size_t bytes) {
      return torch::stable::new_empty(responses, {int64_t(bytes)}, ScalarType::Byte);
    };
    const Tensor extremes = scratch(sizeof(TileExtremes<O>) * maps * tiles);
    const Tensor candidates = scratch(sizeof(Candidate<O>) * shape.targets * tiles);
    const ResponseArgs<T> args{data<T>(responses),
                               mutable_data<float>(state),
                               mutable_data<float>(results),
                               mutable_data<TileExtremes<O>>(extremes),
                               mutable_data<Candidate<O>>(candidates),
                               options,
                               shape.targets,
                               int(shape.scales),
                               int(shape.h),
                               int(shape.w),
                               int(up),
                               int(tile),
                               int(tiles)};
    const size_t shared = size_t(table_values(shape.h, up) + tile * (shape.h + 1)) * sizeof(O);
    launch(response_extremes_kernel<T>, grid_for(maps * tiles, 1), kResponseThreads, shared, scope, args);
    launch(response_peaks_kernel<T>, grid_for(shape.targets * tiles, 1), kResponseThreads, shared, scope, args);
    launch(response_update_kernel<T>, grid_for(shape.targets, 1), kResponseThreads, 0, scope, args);
  });
  return results;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) { m.impl("response_peak_", TORCH_BOX(&fastops::response_peak_cuda_)); }
