// Cross-correlation on CUDA: one kernel for the forward ops and for both gradients. Each of them is
//
//   target[n, c, u, v] = scale sum_t sum_ij kernel_t[i, j] plane_t[u + i, v + j] + bias
//
//                     plane               kernel           terms t                     target
//   xcorr             x[xb, t]            z[zb, t]         channels                    [B, 1, oh, ow]
//   xcorr_depthwise   x[xb, c]            z[zb, c]         one                         [B, C, oh, ow]
//   grad_x            grad[t] in zeros    z[zb, c] turned  pairs of search n           [Nx, C, xh, xw]
//   grad_z            x[xb, c]            grad[t]          pairs of template n         [Nz, C, zh, zw]
//
// Lower bound: 2 B C oh ow zh zw flops, and the bytes of z, x and the result once. SiamFC's pair (256 x 6 x 6 on
// 22 x 22) has 5.3 MFLOP and 0.53 MB in float32, which take 0.1 and 0.2 us on an H100. Both limits are close. So planes
// are read once into shared memory, and a thread keeps 9 outputs of a row in registers (17 = 9 + 8; 54 multiply-adds
// for 20 shared reads). xcorr of 16-bit channels_last tensors uses the tensor cores: xcorr_taps.cuh. float32 does not:
// a setting of torch decides whether TF32 may replace it, and the stable ABI does not show that setting.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../common/layout.h"
#include "../common/macros.h"
#include "../common/xcorr.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"
#include "xcorr_taps.cuh"

namespace fastops {
namespace {

constexpr int kStrip = 9;    // outputs of a thread, neighbours in a row
constexpr int kColumns = 6;  // kernel columns at a time

// Limits of a block's tile. With them one slot takes at most 46480 bytes (double) of the 48 KiB that every GPU has.
constexpr int kMaxStrips = 8, kMaxRows = 64, kMaxKernel = 24;
constexpr int64_t kSharedBudget = 24 * 1024;  // for more slots, so that several blocks fit an SM

// Blocks that fill current GPUs (132 SMs, a few blocks each). A constant, so that results do not depend on the GPU.
constexpr int64_t kTargetBlocks = 512;
constexpr int64_t kMaxSplits = 64;

// One plane per pair and channel, read through strides. It is zero outside [0, height) x [0, width).
template <class T>
struct Planes {
  const T* data;
  int64_t per_item;                     // consecutive pairs that share an item of the batch
  int64_t batch, channel, row, column;  // strides
  int64_t height, width;
  int64_t top, left;  // rows and columns of zeros before the first
};

template <class T>
struct Correlation {
  Planes<T> plane, kernel;
  T* target;
  int64_t target_stride[4];
  int64_t items, channels, height, width;  // target
  int64_t terms;
  bool terms_are_channels;  // else pairs
  opmath_t<T> scale;
  const T* bias;  // one value or null

  // The division into blocks and threads. A block's threads are strips x groups of kernel rows x slots. A slot is one
  // of the terms or one of the channels that are in shared memory at a time.
  int tile_height, tile_width, tile_strips, kernel_height, kernel_width, plane_rows, plane_columns, slots, groups;
  bool slots_are_channels, whole_planes;  // whole_planes: a stage is one contiguous run of memory
  bool plane_packed, kernel_packed;       // slots are neighbours in memory, loaded 16 bytes at a time
  int64_t tiles_down, tiles_across, channel_groups, splits, terms_per_split;
  opmath_t<T>* partial;  // [splits, target], null for one split

  FASTOPS_HD int strips() const { return tile_height * tile_strips; }
  FASTOPS_HD int plane_values() const { return plane_rows * plane_columns; }
  FASTOPS_HD int kernel_values() const { return kernel_height * kernel_width; }
  FASTOPS_HD int64_t blocks() const { return items * channel_groups * tiles_down * tiles_across * splits; }
};

// ---- loads into shared memory -----------------------------------------------------------------------------------

// Loads slots x rows x columns values from (row, column) of the planes on. Slots beyond `valid` are zero. Neighbouring
// threads read neighbouring columns, or neighbouring slots if these are closer in memory (channels_last). Then they
// read kVector slots at a time, and the number of slots is a multiple of kVector. Only the start needs divisions.
template <int kVector, class T>
__device__ __forceinline__ void load_tiles(opmath_t<T>* shared, const Planes<T>& p, int64_t pair, int64_t channel,
                                           bool along_channels, int slots, int valid, int64_t row, int rows,
                                           int64_t column, int columns) {
  row -= p.top;
  column -= p.left;
  const T* data = p.data + pair / p.per_item * p.batch + channel * p.channel + row * p.row + column * p.column;
  const int64_t slot_stride = along_channels ? p.channel : p.batch;
  const bool slots_inner = kVector > 1 || slot_stride < (p.column < 0 ? -p.column : p.column);

  // (i, j, k) goes through (slot, row, column), or (row, column, slot) with slots_inner, in steps of blockDim.x.
  const int outer = slots_inner ? rows : slots, middle = slots_inner ? columns : rows;
  const int inner = slots_inner ? slots / kVector : columns;
  const int step_k = blockDim.x % inner, step_j = blockDim.x / inner % middle, step_i = blockDim.x / inner / middle;
  int k = threadIdx.x % inner, j = threadIdx.x / inner % middle, i = threadIdx.x / inner / middle;
  while (i < outer) {
    const int slot = slots_inner ? k * kVector : i, y = slots_inner ? i : j, x = slots_inner ? j : k;
    const bool inside =
        slot < valid && uint64_t(row + y) < uint64_t(p.height) && uint64_t(column + x) < uint64_t(p.width);
    Pack<T, kVector> pack{};
    if (inside) pack = load_pack<T, kVector>(data + slot * slot_stride + y * p.row + x * p.column);
#pragma unroll
    for (int v = 0; v < kVector; ++v) shared[((slot + v) * rows + y) * columns + x] = to_opmath(pack.values[v]);
    k += step_k;
    j += step_j;
    i += step_i;
    if (k >= inner) k -= inner, ++j;
    if (j >= middle) j -= middle, ++i;
  }
}

// ---- the kernel -------------------------------------------------------------------------------------------------

// sums[t] += sum_j kernel[j] row[t + j] for kCount columns.
template <int kCount, class A>
__device__ __forceinline__ void add_columns(A (&sums)[kStrip], const A* row, const A* kernel) {
  A window[kStrip + kCount - 1];
#pragma unroll
  for (int k = 0; k < kStrip + kCount - 1; ++k) window[k] = row[k];
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const A weight = kernel[j];
#pragma unroll
    for (int t = 0; t < kStrip; ++t) sums[t] += weight * window[t + j];
  }
}

template <class A>
__device__ __forceinline__ void add_row(A (&sums)[kStrip], const A* row, const A* kernel, int columns) {
  int j = 0;
  for (; j + kColumns <= columns; j += kColumns) add_columns<kColumns>(sums, row + j, kernel + j);
  if ((columns - j) & 4) add_columns<4>(sums, row + j, kernel + j), j += 4;
  if ((columns - j) & 2) add_columns<2>(sums, row + j, kernel + j), j += 2;
  if ((columns - j) & 1) add_columns<1>(sums, row + j, kernel + j);
}

template <class T>
__device__ void correlate_tile(const Correlation<T>& a, int64_t block, opmath_t<T>* shared) {
  using A = opmath_t<T>;
  const int split = int(block % a.splits);
  block /= a.splits;
  const int v0 = int(block % a.tiles_across) * a.tile_width;
  block /= a.tiles_across;
  const int u0 = int(block % a.tiles_down) * a.tile_height;
  block /= a.tiles_down;
  const int64_t n = block / a.channel_groups;
  const int c0 = int(block % a.channel_groups) * (a.slots_are_channels ? a.slots : 1);
  const int channels_here = !a.slots_are_channels ? 1 : int(a.channels - c0 < a.slots ? a.channels - c0 : a.slots);

  const int strips = a.strips();
  const int strip = threadIdx.x % strips, lane = threadIdx.x / strips;  // lane = slot * groups + group
  const int u = strip / a.tile_strips, v = strip % a.tile_strips * kStrip;
  const int slot = lane / a.groups, group = lane % a.groups;
  A* planes = shared;
  A* kernels = planes + a.slots * a.plane_values();

  A sums[kStrip] = {};
  const int64_t first = split * a.terms_per_split;
  const int64_t last = first + a.terms_per_split < a.terms ? first + a.terms_per_split : a.terms;
  for (int64_t term = first; term < last; term += a.slots_are_channels ? 1 : a.slots) {
    const int64_t pair = a.terms_are_channels ? n : n * a.terms + term, channel = a.terms_are_channels ? term : c0;
    const bool along_channels = a.terms_are_channels || a.slots_are_channels;
    const int valid = a.slots_are_channels ? channels_here : int(last - term < a.slots ? last - term : a.slots);
    for (int i0 = 0; i0 < a.kernel.height; i0 += a.kernel_height) {
      for (int j0 = 0; j0 < a.kernel.width; j0 += a.kernel_width) {
        __syncthreads();  // the last stage, or tile, has been used
        if (a.whole_planes) {
          const T* data = a.plane.data + pair / a.plane.per_item * a.plane.batch + channel * a.plane.channel;
          const int values = valid * a.plane_values();
          for (int i = threadIdx.x; i < a.slots * a.plane_values(); i += blockDim.x) {
            planes[i] = i < values ? to_opmath(data[i]) : A(0);
          }
        } else {
          const auto load = [&]<int kVector>() {
            load_tiles<kVector>(planes, a.plane, pair, channel, along_channels, a.slots, valid, u0 + i0, a.plane_rows,
                                v0 + j0, a.plane_columns);
          };
          a.plane_packed ? load.template operator()<Pack<T>::size>() : load.template operator()<1>();
        }
        const auto load = [&]<int kVector>() {
          load_tiles<kVector>(kernels, a.kernel, pair, channel, along_channels, a.slots, valid, i0, a.kernel_height, j0,
                              a.kernel_width);
        };
        a.kernel_packed ? load.template operator()<Pack<T>::size>() : load.template operator()<1>();
        __syncthreads();
        if (slot >= a.slots) continue;
        const int kernel_rows = int(a.kernel.height - i0 < a.kernel_height ? a.kernel.height - i0 : a.kernel_height);
        const int kernel_columns = int(a.kernel.width - j0 < a.kernel_width ? a.kernel.width - j0 : a.kernel_width);
        const A* plane = planes + slot * a.plane_values() + u * a.plane_columns + v;
        const A* kernel = kernels + slot * a.kernel_values();
        for (int i = group; i < kernel_rows; i += a.groups) {
          add_row(sums, plane + i * a.plane_columns, kernel + i * a.kernel_width, kernel_columns);
        }
      }
    }
  }

  // Sums of the groups, and of the slots that are terms, in order. Then neighbouring threads write neighbouring values.
  __syncthreads();
  if (slot < a.slots) {
#pragma unroll
    for (int t = 0; t < kStrip; ++t) shared[threadIdx.x * kStrip + t] = sums[t];
  }
  __syncthreads();
  const int height = int(a.height - u0 < a.tile_height ? a.height - u0 : a.tile_height);
  const int width = int(a.width - v0 < a.tile_width ? a.width - v0 : a.tile_width);
  const int lanes = a.slots_are_channels ? a.groups : a.slots * a.groups;
  const bool channels_first = a.target_stride[1] < a.target_stride[3];  // threads along the channels
  for (int i = threadIdx.x; i < channels_here * height * width; i += blockDim.x) {
    const int channel = channels_first ? i % channels_here : i / (height * width);
    const int pixel = channels_first ? i / channels_here : i % (height * width);
    const int y = pixel / width, x = pixel % width;
    const A* value = shared + (channel * lanes * strips + y * a.tile_strips + x / kStrip) * kStrip + x % kStrip;
    A sum = 0;
    for (int l = 0; l < lanes; ++l) sum += value[l * strips * kStrip];
    if (a.partial) {
      a.partial[(((split * a.items + n) * a.channels + c0 + channel) * a.height + u0 + y) * a.width + v0 + x] = sum;
    } else {
      a.target[n * a.target_stride[0] + (c0 + channel) * a.target_stride[1] + (u0 + y) * a.target_stride[2] +
               (v0 + x) * a.target_stride[3]] = from_opmath<T>(a.scale * sum + (a.bias ? to_opmath(*a.bias) : A(0)));
    }
  }
}

// Float blocks per SM. Three leave 80 registers per thread, and 8.6 and 8.9 then spill 16 bytes. With two a thread
// takes 96 registers.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890)
constexpr int kFloatBlocks = 2;
#else
constexpr int kFloatBlocks = 3;
#endif

template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(opmath_t<T>) == 4 ? kFloatBlocks : 2)
    correlate_kernel(Correlation<T> a) {
  for (int64_t block = blockIdx.x; block < a.blocks(); block += gridDim.x) {
    correlate_tile(a, block, dynamic_shared<opmath_t<T>>());
  }
}

// The last step if the terms were divided among blocks.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_splits_kernel(Correlation<T> a) {
  const int64_t values = a.items * a.channels * a.height * a.width;
  for (int64_t base = int64_t(blockIdx.x) * kSumColumns; base < values; base += int64_t(gridDim.x) * kSumColumns) {
    const int64_t i = base + threadIdx.x;
    const opmath_t<T> sum = strided_sum(a.partial + i, values, i < values ? a.splits : 0);
    if (i >= values || threadIdx.y > 0) continue;
    const int64_t y = i / a.width, c = y / a.height;
    a.target[c / a.channels * a.target_stride[0] + c % a.channels * a.target_stride[1] +
             y % a.height * a.target_stride[2] + i % a.width * a.target_stride[3]] =
        from_opmath<T>(a.scale * sum + (a.bias ? to_opmath(*a.bias) : opmath_t<T>(0)));
  }
}

// ---- launchers --------------------------------------------------------------------------------------------------

// Whether neighbouring channels can be loaded 16 bytes at a time.
template <class T>
bool has_channel_packs(const Planes<T>& p, int64_t channels) {
  constexpr int64_t kPack = Pack<T>::size;
  const bool whole = p.batch % kPack == 0 && p.row % kPack == 0 && p.column % kPack == 0 && channels % kPack == 0;
  return p.channel == 1 && p.column != 0 && whole && is_aligned16(p.data);
}

// Sets the division of `a` into blocks and threads.
template <class T>
void plan(Correlation<T>& a) {
  constexpr int64_t kPack = Pack<T>::size;
  const int64_t all_channels = a.terms_are_channels ? a.terms : a.channels;
  a.tile_strips = int(std::min<int64_t>(ceil_div(a.width, kStrip), kMaxStrips));
  a.tile_height = int(std::min<int64_t>({a.height, kThreads / a.tile_strips, kMaxRows}));
  a.kernel_height = int(std::min<int64_t>(a.kernel.height, kMaxKernel));
  a.kernel_width = int(std::min<int64_t>(a.kernel.width, kMaxKernel));
  a.tile_width = int(std::min<int64_t>(a.width, a.tile_strips * kStrip));
  a.plane_rows = a.tile_height + a.kernel_height - 1;
  a.plane_columns = a.tile_width + a.kernel_width - 1;
  a.tiles_down = ceil_div(a.height, a.tile_height);
  a.tiles_across = ceil_div(a.width, a.tile_width);
  const int64_t lanes = kThreads / a.strips();
  const int64_t slot_bytes = (a.plane_values() + a.kernel_values()) * int64_t(sizeof(opmath_t<T>));
  const int64_t most = std::clamp<int64_t>(kSharedBudget / slot_bytes, 1, lanes);

  const int64_t sums = a.items * a.channels * a.tiles_down * a.tiles_across;
  int64_t channels = std::min({sums / kTargetBlocks, most, a.channels});
  a.slots_are_channels = channels > 1;
  const bool along_channels = a.terms_are_channels || a.slots_are_channels;
  a.plane_packed = along_channels && most >= kPack && has_channel_packs(a.plane, all_channels);
  a.kernel_packed = along_channels && most >= kPack && has_channel_packs(a.kernel, all_channels);
  const int64_t step = a.plane_packed || a.kernel_packed ? kPack : 1;  // slots are whole packs then
  a.splits = 1;
  if (a.slots_are_channels) {
    channels = std::max(channels / step * step, step);
    a.slots = int(ceil_div(ceil_div(a.channels, ceil_div(a.channels, channels)), step) * step);
    a.channel_groups = ceil_div(a.channels, a.slots);
    a.terms_per_split = a.terms;
  } else {
    a.channel_groups = a.channels;
    const int64_t terms = std::max<int64_t>(a.terms, 1);
    const int64_t splits = std::clamp<int64_t>(kTargetBlocks / sums, 1, std::min(ceil_div(terms, 4), kMaxSplits));
    a.terms_per_split = ceil_div(ceil_div(terms, splits), step) * step;
    a.splits = ceil_div(terms, a.terms_per_split);
    const int64_t limit = most / step * step;
    a.slots = int(ceil_div(ceil_div(a.terms_per_split, ceil_div(a.terms_per_split, limit)), step) * step);
  }
  const int64_t groups = std::clamp<int64_t>(lanes / a.slots, 1, a.kernel_height);
  a.groups = int(ceil_div(a.kernel_height, ceil_div(a.kernel_height, groups)));

  const Planes<T>& p = a.plane;
  const int64_t slot_stride = a.terms_are_channels || a.slots_are_channels ? p.channel : p.batch;
  a.whole_planes = p.top == 0 && p.left == 0 && p.height == a.plane_rows && p.width == a.plane_columns &&
                   p.column == 1 && p.row == p.width && (a.slots == 1 || slot_stride == p.height * p.width);
}

template <class T>
void launch_correlation(const CudaScope& scope, Correlation<T> a, const Tensor& target) {
  if (target.numel() == 0) return;
  a.target = mutable_data<T>(target);
  for (int i = 0; i < 4; ++i) a.target_stride[i] = target.stride(i);
  a.items = target.size(0), a.channels = target.size(1), a.height = target.size(2), a.width = target.size(3);
  plan(a);
  Tensor partial = target;  // keeps the memory alive
  if (a.splits > 1) {
    const auto dtype = sizeof(opmath_t<T>) == 8 ? ScalarType::Double : ScalarType::Float;
    partial = torch::stable::new_empty(target, {a.splits * target.numel()}, dtype);
    a.partial = mutable_data<opmath_t<T>>(partial);
  }
  const int64_t stage = a.slots * (a.plane_values() + a.kernel_values()) + kStrip;  // the last strip reads past a row
  const int64_t threads = a.slots * a.groups * a.strips();
  const size_t shared = size_t(std::max(stage, threads * kStrip)) * sizeof(opmath_t<T>);
  launch(correlate_kernel<T>, grid_for(a.blocks(), 1), unsigned(ceil_div(threads, 32) * 32), shared, scope, a);
  if (a.splits > 1) {
    launch(sum_splits_kernel<T>, grid_for(target.numel(), kSumColumns), dim3(kSumColumns, kSumRows), 0, scope, a);
  }
}

template <class T>
Planes<T> planes_of(const Tensor& t, int64_t pairs) {
  return {data<T>(t),  pairs / t.size(0), t.stride(0), t.stride(1), t.stride(2),
          t.stride(3), t.size(2),         t.size(3),   0,           0};
}

// ---- on tensor cores ----------------------------------------------------------------------------------------------

bool has_tensor_cores_for_16_bits() {
  int device = 0, major = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major >= 8;
}

// Whether xcorr_taps.cuh takes the call. It needs no more taps than its tiles have rows, and 16-byte aligned pixels
// whose channels are whole steps.
template <class T>
bool fits_tensor_cores(const XcorrShape& s, const Planes<T>& plane, const Planes<T>& kernel) {
  const bool small = s.xh * s.xw < (int64_t(1) << 30) && s.channels < (int64_t(1) << 30);
  return s.zh * s.zw <= kMaxTaps && s.channels % kChannelStep == 0 && small && has_channel_packs(plane, s.channels) &&
         has_channel_packs(kernel, s.channels) && has_tensor_cores_for_16_bits();
}

template <class T>
ChannelRows<T> channel_rows(const Planes<T>& p) {
  return {p.data, p.per_item, p.batch, p.row, p.column, int(p.width), int(p.height * p.width)};
}

// `a` has its planes, scale and bias.
template <class T>
void launch_taps(const CudaScope& scope, const XcorrShape& s, Correlation<T> a, const Tensor& out) {
  constexpr int64_t kBlocks = 2 * 132;  // two fit an SM
  TapCorrelation<T> taps{channel_rows(a.kernel), channel_rows(a.plane)};
  taps.pairs = s.pairs, taps.channels = int(s.channels);
  taps.out_width = int(s.ow), taps.outputs = int(s.oh * s.ow);
  taps.strips = int(ceil_div(taps.pixels.pixels, kStripPixels));
  const int64_t steps = s.channels / kChannelStep;
  const int64_t splits = std::clamp<int64_t>(kBlocks / (s.pairs * taps.strips), 1, steps);
  taps.channels_per_split = int(ceil_div(steps, splits) * kChannelStep);
  taps.splits = int(ceil_div(s.channels, taps.channels_per_split));
  a.splits = int64_t(taps.splits) * taps.strips;
  const Tensor partial = torch::stable::new_empty(out, {a.splits * out.numel()}, ScalarType::Float);
  taps.partial = mutable_data<float>(partial);
  launch(correlate_taps_kernel<T>, grid_for(taps.blocks(), 1), kThreads, 0, scope, taps);

  a.partial = reinterpret_cast<opmath_t<T>*>(taps.partial);
  a.target = mutable_data<T>(out);
  for (int i = 0; i < 4; ++i) a.target_stride[i] = out.stride(i);
  a.items = s.pairs, a.channels = 1, a.height = s.oh, a.width = s.ow;
  launch(sum_splits_kernel<T>, grid_for(out.numel(), kSumColumns), dim3(kSumColumns, kSumRows), 0, scope, a);
}

// A result that is channels_last if `t` is, else contiguous.
Tensor empty_native(const Tensor& t) {
  return is_channels_last(t) ? torch::stable::empty_like(t) : torch::stable::new_empty(t, t.sizes());
}

Tensor xcorr_cuda(const Tensor& z, const Tensor& x, double scale, const std::optional<Tensor>& bias) {
  const XcorrShape shape = check_xcorr("xcorr", z, x);
  if (bias.has_value()) check_xcorr_bias(*bias, x);
  const CudaScope scope(x);
  Tensor out = torch::stable::new_empty(x, {shape.pairs, 1, shape.oh, shape.ow});
  if (out.numel() == 0) return out;
  dispatch_dtype(dtype_index("xcorr", "z", z), [&]<class T>() {
    Correlation<T> a{planes_of<T>(x, shape.pairs), planes_of<T>(z, shape.pairs)};
    a.terms = shape.channels;
    a.terms_are_channels = true;
    a.scale = opmath_t<T>(scale);
    if (bias.has_value()) a.bias = data<T>(*bias);
    if constexpr (sizeof(T) == 2) {
      if (fits_tensor_cores(shape, a.plane, a.kernel)) return launch_taps(scope, shape, a, out);
    }
    launch_correlation(scope, a, out);
  });
  return out;
}

Tensor xcorr_depthwise_cuda(const Tensor& z, const Tensor& x) {
  const XcorrShape shape = check_xcorr("xcorr_depthwise", z, x);
  const CudaScope scope(x);
  const int64_t sizes[] = {shape.pairs, shape.channels, shape.oh, shape.ow};
  const Tensor out = is_channels_last(x) ? empty_channels_last(x, sizes[0], sizes[1], sizes[2], sizes[3])
                                         : torch::stable::new_empty(x, {sizes[0], sizes[1], sizes[2], sizes[3]});
  if (out.numel() == 0) return out;
  dispatch_dtype(dtype_index("xcorr_depthwise", "z", z), [&]<class T>() {
    Correlation<T> a{planes_of<T>(x, shape.pairs), planes_of<T>(z, shape.pairs)};
    a.terms = 1;
    a.scale = 1;
    launch_correlation(scope, a, out);
  });
  return out;
}

// grad [B, 1 or C, oh, ow]
std::tuple<Tensor, Tensor> backward(const char* op, const Tensor& grad, const Tensor& z, const Tensor& x, double scale,
                                    bool depthwise) {
  const XcorrShape shape = check_xcorr(op, z, x);
  check_xcorr_grad(op, grad, shape, depthwise ? shape.channels : 1, x);
  const CudaScope scope(x);
  Tensor grad_z = empty_native(z), grad_x = empty_native(x);
  if (x.numel() == 0) return {grad_z, grad_x};
  dispatch_dtype(dtype_index(op, "z", z), [&]<class T>() {
    Planes<T> grads = planes_of<T>(grad, shape.pairs);
    if (!depthwise) grads.channel = 0;  // one plane for all channels

    Correlation<T> to_z{planes_of<T>(x, shape.pairs), grads};
    to_z.terms = shape.pairs / shape.nz;
    to_z.scale = opmath_t<T>(scale);
    launch_correlation(scope, to_z, grad_z);

    Planes<T> turned = planes_of<T>(z, shape.pairs);
    turned.data += (shape.zh - 1) * turned.row + (shape.zw - 1) * turned.column;
    turned.row = -turned.row;
    turned.column = -turned.column;
    grads.top = shape.zh - 1;
    grads.left = shape.zw - 1;
    Correlation<T> to_x{grads, turned};
    to_x.terms = shape.pairs / shape.nx;
    to_x.scale = opmath_t<T>(scale);
    launch_correlation(scope, to_x, grad_x);
  });
  return {grad_z, grad_x};
}

std::tuple<Tensor, Tensor> xcorr_backward_cuda(const Tensor& grad, const Tensor& z, const Tensor& x, double scale) {
  return backward("xcorr_backward", grad, z, x, scale, false);
}

std::tuple<Tensor, Tensor> xcorr_depthwise_backward_cuda(const Tensor& grad, const Tensor& z, const Tensor& x) {
  return backward("xcorr_depthwise_backward", grad, z, x, 1.0, true);
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  m.impl("xcorr", TORCH_BOX(&fastops::xcorr_cuda));
  m.impl("xcorr_backward", TORCH_BOX(&fastops::xcorr_backward_cuda));
  m.impl("xcorr_depthwise", TORCH_BOX(&fastops::xcorr_depthwise_cuda));
  m.impl("xcorr_depthwise_backward", TORCH_BOX(&fastops::xcorr_depthwise_backward_cuda));
}
