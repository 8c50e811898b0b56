// The tracker's steps after a network with a box head on CUDA, in one launch with a block per target. The formulas are
// in math/box_peak.h.
//
// Bound by latency: of 17 x 17 cells each thread has at most one. A target takes about a hundred instructions, one
// reduction over the block, and an update by one thread.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/box_peak.h"
#include "launch.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

constexpr int kBoxPeakThreads = 320;  // at least one thread for each of 17 x 17 cells

template <class T>
struct BoxPeakArgs {
  CellMaps scores, ltrb;
  float* state;    // [targets, kStateColumns]
  float* results;  // [targets, kResultColumns]
  BoxPeakOptions options;
  int64_t targets;
  int h, w;
};

// The network's outputs for a cell, in opmath.
template <class O>
struct Cell {
  O score, left, top, right, bottom;

  __device__ bool finite() const {
    const O others = (score - score) + (left - left) + (top - top) + (right - right) + (bottom - bottom);
    return others == O(0);
  }
};

template <class T>
__device__ Cell<opmath_t<T>> load_cell(const BoxPeakArgs<T>& args, int64_t target, int cell) {
  using O = opmath_t<T>;
  const T* score = static_cast<const T*>(args.scores.data) + target * args.scores.target + cell * args.scores.cell;
  const T* edges = static_cast<const T*>(args.ltrb.data) + target * args.ltrb.target + cell * args.ltrb.cell;
  const O factor = O(args.options.distance_factor());
  const auto edge = [&](int c) {
    const O x = to_opmath(edges[c * args.ltrb.channel]);
    return args.options.logits ? softplus_(x) * factor : x;
  };
  return {to_opmath(*score), edge(0), edge(1), edge(2), edge(3)};
}

// The result of a reduction over cells. Of equal values the first cell wins.
template <class O>
struct CellsSeen {
  O value = -INFINITY, trust = 0;
  int cell = -1;
  O most = -INFINITY;  // largest score
  double sum = 0;      // of the scores
  int others = 0;      // cells that are not finite

  __device__ void add(const CellsSeen& seen) {
    if (seen.cell >= 0 && (cell < 0 || seen.value > value || (seen.value == value && seen.cell < cell))) {
      value = seen.value, trust = seen.trust, cell = seen.cell;
    }
    most = seen.most > most ? seen.most : most;
    sum += seen.sum, others += seen.others;
  }

  // The value of the lane whose number differs in these bits. The whole warp calls.
  __device__ CellsSeen of_other_lane(int bits) const {
    const auto other = [&](auto v) { return __shfl_xor_sync(0xffffffffu, v, bits); };
    return {other(value), other(trust), other(cell), other(most), other(sum), other(others)};
  }
};

// The whole block calls, and its first thread gets the result. `warps` has one entry for each warp.
template <class O>
__device__ CellsSeen<O> together(CellsSeen<O> mine, CellsSeen<O>* warps) {
  for (int bits = 16; bits > 0; bits /= 2) mine.add(mine.of_other_lane(bits));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kBoxPeakThreads / 32; ++i) mine.add(warps[i]);
  }
  __syncthreads();  // `warps` and the state may be written again
  return mine;
}

// The 1 allows ptxas the registers that it needs. Without it ptxas spills some in float64.
template <class T>
__global__ void __launch_bounds__(kBoxPeakThreads, 1) box_peak_kernel(BoxPeakArgs<T> args) {
  using O = opmath_t<T>;
  auto* warps = dynamic_shared<CellsSeen<O>>();
  const int cells = args.h * args.w;
  for (int64_t target = blockIdx.x; target < args.targets; target += gridDim.x) {
    float* state = args.state + target * kStateColumns;
    float* result = args.results + target * kResultColumns;
    const CellScale<O> scale(args.options, state);
    CellsSeen<O> seen;
    for (int at = threadIdx.x; at < cells; at += kBoxPeakThreads) {
      const Cell<O> c = load_cell(args, target, at);
      const int row = at / args.w, column = at - row * args.w;
      const O trust = scale.trust(c.score, scale.cell_side(c.left, c.right), scale.cell_side(c.top, c.bottom));
      const O value = scale.value(trust, hann<O>(row, args.h) * hann<O>(column, args.w));
      seen.add({value, trust, at, c.score, double(c.score), c.finite() ? 0 : 1});
    }
    seen = together(seen, warps);
    if (threadIdx.x != 0) continue;

    const double contrast = double(seen.most) - seen.sum / cells;
    if (seen.others > 0) {
      write_not_finite(result);
    } else if (state[kOwnContrast] < 0) {
      set_own_contrast(contrast, state, result);
    } else {
      const Cell<O> c = load_cell(args, target, seen.cell);
      const int row = seen.cell / args.w, column = seen.cell - row * args.w;
      const double down = row - (args.h - 1) * 0.5, across = column - (args.w - 1) * 0.5;
      update_box(args.options,
                 {down, across, double(c.left), double(c.top), double(c.right), double(c.bottom), double(seen.trust)},
                 contrast, state, result);
    }
  }
}

Tensor box_peak_cuda_(const Tensor& scores, const Tensor& ltrb, const Tensor& state, int64_t stride,
                      std::optional<double> unit, int64_t exemplar_size, int64_t instance_size, double context,
                      double box_lr, double box_penalty, double box_window, double lost_score, int64_t lost_frames) {
  const BoxPeakOptions options = box_peak_options(stride, unit, exemplar_size, instance_size, context, box_lr,
                                                  box_penalty, box_window, lost_score, lost_frames);
  const CudaScope scope(scores);
  const BoxPeakInputs in = check_box_peak(scores, ltrb, state, options);
  Tensor results = torch::stable::new_empty(state, {in.targets, int64_t(kResultColumns)});
  if (in.targets == 0) return results;
  dispatch_dtype(dtype_index("box_peak", "scores", scores), [&]<class T>() {
    const BoxPeakArgs<T> args{in.scores,
                              in.ltrb,
                              static_cast<float*>(state.mutable_data_ptr()),
                              static_cast<float*>(results.mutable_data_ptr()),
                              options,
                              in.targets,
                              int(in.h),
                              int(in.w)};
    launch(box_peak_kernel<T>, grid_for(in.targets, 1), kBoxPeakThreads,
           kBoxPeakThreads / 32 * sizeof(CellsSeen<opmath_t<T>>), scope, args);
  });
  return results;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) { m.impl("box_peak_", TORCH_BOX(&fastops::box_peak_cuda_)); }
