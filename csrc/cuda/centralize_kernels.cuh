// The kernels of centralize_ and the optimizer steps. One block processes an item of work:
//
//   kind >= 0: channels of long runs, with 2^kind threads each. They are read twice: for the mean, and again, from the
//     cache, for the update.
//   kColumns: neighbouring channels of short runs, a warp's width of values together.
//   kLong: kItemValues values of a channel that is too long for a block. The sums of its items are computed before.
//   kFlat: kItemValues values that are not centralized.
#pragma once

#include "../math/centralize.h"
#include "launch.cuh"
#include "multi_tensor.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastops {

constexpr int8_t kColumns = -1, kLong = -2, kFlat = -3;
constexpr int kItemValues = 4096;
constexpr int kColumnThreads = 32;

// Tensors of one element that the kernels read, or null.
struct DeviceScalars {
  const void* lr;
  const float *grad_scale, *found_inf;
  bool lr_is_double;

  __device__ bool skip() const { return found_inf && *found_inf != 0; }
  __device__ double lr_or(double otherwise) const {
    if (!lr) return otherwise;
    return lr_is_double ? *static_cast<const double*>(lr) : *static_cast<const float*>(lr);
  }
};

// The factors of AdamW that all values of a tensor share, computed by adamw_factors_kernel.
template <class O>
struct AdamWFactors {
  O decay, step_size, root;
};

template <class T, StepRule kRule>
struct StepArgs {
  using O = opmath_t<T>;
  using Rule = rule_t<O, kRule>;
  static constexpr int kArrays = Rule::kArrays;

  Rule rule;
  DeviceScalars scalars;
  const AdamWFactors<O>* factors;  // by TableEntry::tensor
  O* sums;                         // [items], used by kLong
  TensorTable<kArrays, int(sizeof(Rule) + sizeof(DeviceScalars)) + 16> table;

  __device__ Rule rule_of(const TableEntry<kArrays>& entry) const {
    Rule r = rule;
    if constexpr (kRule != kCentralize) {
      if (scalars.grad_scale) r.scale /= O(*scalars.grad_scale);
    }
    if constexpr (kRule == kSgd || kRule == kSgdMomentum || kRule == kSgdNesterov) {
      if (scalars.lr) r.lr = O(scalars.lr_or(0));
    }
    if constexpr (kRule == kAdamW || kRule == kAdamWAmsgrad) {
      const AdamWFactors<O> f = factors[entry.tensor];
      r.decay = f.decay, r.step_size = f.step_size, r.root = f.root;
    }
    return r;
  }
};

// Calls body.template operator()<N>(i) for this thread's values i ... i + N - 1 of [begin, end). Values before the
// first and after the last 16-byte boundary go one by one, those between (if `packed`) in packs. The loop is not
// unrolled: the loads of several packs in one thread took up to 127 registers (sm_100), and half as many warps have no
// more bytes in flight.
template <class T, class Body>
__device__ __forceinline__ void for_each_pack(int64_t begin, int64_t end, int thread, int threads, bool packed,
                                              const Body& body) {
  constexpr int kSize = Pack<T>::size;
  int64_t pack_begin = (begin + kSize - 1) / kSize, pack_end = end / kSize;
  if (!packed || pack_begin >= pack_end) pack_begin = pack_end = end / kSize + 1;
  const int64_t head = pack_begin * kSize < end ? pack_begin * kSize : end;
#pragma unroll 1
  for (int64_t i = begin + thread; i < head; i += threads) body.template operator()<1>(i);
#pragma unroll 1
  for (int64_t i = pack_begin + thread; i < pack_end; i += threads) body.template operator()<kSize>(i * kSize);
#pragma unroll 1
  for (int64_t i = pack_end * kSize + thread; i < end; i += threads) body.template operator()<1>(i);
}

template <class T, class Rule>
struct Worker {
  using O = opmath_t<T>;
  static constexpr int kArrays = Rule::kArrays;

  const TableEntry<kArrays>& entry;
  const Rule& rule;

  __device__ T* array(int k) const { return static_cast<T*>(entry.arrays[k]); }

  template <int kSize>
  __device__ Pack<T, kSize> load(int k, int64_t i) const {
    if (entry.packed) return load_pack<T, kSize>(array(k) + i);
    Pack<T, kSize> pack;
#pragma unroll
    for (int j = 0; j < kSize; ++j) pack.values[j] = array(k)[i + j];
    return pack;
  }

  // The sum of this thread's inputs in [begin, end). Inputs and order do not depend on the alignment.
  __device__ O sum(int64_t begin, int64_t end, int thread, int threads) const {
    O total = 0;
    for_each_pack<T>(begin, end, thread, threads, true, [&]<int kSize>(int64_t i) {
      const auto grad = load<kSize>(0, i);
      Pack<T, kSize> param{};
      if constexpr (kArrays > 1) {
        if (rule.uses_param()) param = load<kSize>(1, i);
      }
#pragma unroll
      for (int j = 0; j < kSize; ++j) total += rule.input(to_opmath(grad.values[j]), to_opmath(param.values[j]));
    });
    return total;
  }

  template <int kSize>
  __device__ void update_pack(int64_t i, O mean) const {
    Pack<T, kSize> packs[kArrays];
#pragma unroll
    for (int k = 0; k < kArrays; ++k) packs[k] = load_pack<T, kSize>(array(k) + i);
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      O v[kArrays];
#pragma unroll
      for (int k = 0; k < kArrays; ++k) v[k] = to_opmath(packs[k].values[j]);
      rule.update(v, mean);
#pragma unroll
      for (int k = 0; k < kArrays; ++k) packs[k].values[j] = from_opmath<T>(v[k]);
    }
#pragma unroll
    for (int k = kArrays == 1 ? 0 : 1; k < kArrays; ++k) store_pack(array(k) + i, packs[k]);
  }

  __device__ void update(int64_t begin, int64_t end, int thread, int threads, O mean) const {
    for_each_pack<T>(begin, end, thread, threads, entry.packed,
                     [&]<int kSize>(int64_t i) { update_pack<kSize>(i, mean); });
  }

  __device__ void channels(int64_t part) const {
    const int lanes = 1 << entry.kind, lane = threadIdx.x % lanes;
    const int64_t channel = part * (kThreads / lanes) + threadIdx.x / lanes, stride = entry.channels * entry.length;
    const int64_t runs = channel < entry.channels ? entry.runs : 0;  // the other threads stay for the warp's sums
    O total = 0;
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t begin = run * stride + channel * entry.length;
      total += sum(begin, begin + entry.length, lane, lanes);
    }
    total = lanes > 32 ? block_sum(total) : group_sum(total, lanes);
    const O mean = total / O(entry.runs * entry.length);
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t begin = run * stride + channel * entry.length;
      update(begin, begin + entry.length, lane, lanes, mean);
    }
  }

  // As many neighbouring channels as have kColumnThreads values in a run. One warp reads a run.
  __device__ void columns(int64_t part) const {
    constexpr int kWarps = kThreads / kColumnThreads;
    __shared__ O sums[kWarps][kColumnThreads];
    const int length = int(entry.length), width = kColumnThreads / length;
    const int column = threadIdx.x % kColumnThreads, warp = threadIdx.x / kColumnThreads;
    const int64_t stride = entry.channels * length, begin = part * width * length + column;
    const int64_t runs = column < width * length && begin < stride ? entry.runs : 0;
    O total = 0;
    for (int64_t run = warp; run < runs; run += kWarps)
      total += sum(begin + run * stride, begin + run * stride + 1, 0, 1);
    sums[warp][column] = total;
    __syncthreads();
    total = 0;
    for (int w = 0; w < kWarps; ++w) {
      for (int i = 0, first = column / length * length; runs > 0 && i < length; ++i) total += sums[w][first + i];
    }
    const O mean = total / O(entry.runs * length);
    for (int64_t run = warp; run < runs; run += kWarps) update_pack<1>(begin + run * stride, mean);
    __syncthreads();  // before `sums` is written again
  }
};

__device__ __forceinline__ int64_t items_of_channel(int64_t length) { return (length + kItemValues - 1) / kItemValues; }

// The sums of the items of kLong.
template <class T, StepRule kRule>
__global__ void __launch_bounds__(kThreads) long_sums_kernel(StepArgs<T, kRule> args) {
  if (args.scalars.skip()) return;
  for (int item = blockIdx.x; item < args.table.items; item += gridDim.x) {
    const auto& entry = args.table.entries[args.table.find(item)];
    if (entry.kind != kLong) continue;
    const int64_t part = item - entry.first_item, items = items_of_channel(entry.length);
    const int64_t channel = part / items, first = part % items * kItemValues;
    const int64_t last = first + kItemValues < entry.length ? first + kItemValues : entry.length;
    const auto rule = args.rule_of(entry);
    const Worker<T, typename StepArgs<T, kRule>::Rule> worker{entry, rule};
    const int64_t begin = channel * entry.length;
    const opmath_t<T> sum = block_sum(worker.sum(begin + first, begin + last, threadIdx.x, kThreads));
    if (threadIdx.x == 0) args.sums[item] = sum;
  }
}

// The 2 allows ptxas the registers that it needs. Without it ptxas spills some to allow more warps than are needed.
template <class T, StepRule kRule>
__global__ void __launch_bounds__(kThreads, 2) step_kernel(StepArgs<T, kRule> args) {
  using O = opmath_t<T>;
  if (args.scalars.skip()) return;
  for (int item = blockIdx.x; item < args.table.items; item += gridDim.x) {
    const auto& entry = args.table.entries[args.table.find(item)];
    const int64_t part = item - entry.first_item;
    const auto rule = args.rule_of(entry);
    const Worker<T, typename StepArgs<T, kRule>::Rule> worker{entry, rule};
    if (entry.kind >= 0) {
      worker.channels(part);
    } else if (entry.kind == kColumns) {
      worker.columns(part);
    } else {
      // kFlat is one long channel with a mean of 0
      const int64_t items = items_of_channel(entry.length), channel = part / items;
      O mean = 0;
      if (entry.kind == kLong) {
        const O* sums = args.sums + entry.first_item + channel * items;
        for (int64_t i = threadIdx.x; i < items; i += kThreads) mean += sums[i];
        mean = block_sum(mean) / O(entry.length);
      }
      const int64_t first = part % items * kItemValues, begin = channel * entry.length;
      const int64_t last = first + kItemValues < entry.length ? first + kItemValues : entry.length;
      worker.update(begin + first, begin + last, threadIdx.x, kThreads, mean);
    }
  }
}

// ---- AdamW's counts --------------------------------------------------------------------------------------------

constexpr int kCounts = 480;  // step counts of a launch: 3840 of the 4096 bytes of arguments

template <class O>
struct CountArgs {
  StepOptions options;
  DeviceScalars scalars;
  float* steps[kCounts];
  AdamWFactors<O>* factors;
  int count;
};

// Counts the step and computes the factors, with one thread per tensor: the powers need double, which is slow on most
// GPUs.
template <class O>
__global__ void __launch_bounds__(kThreads) adamw_factors_kernel(CountArgs<O> args) {
  if (args.scalars.skip()) return;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < args.count; i += gridDim.x * blockDim.x) {
    const double step = *args.steps[i] += 1;
    StepOptions options = args.options;
    options.lr = args.scalars.lr_or(options.lr);
    options.correction1 = 1 - pow(options.beta1, step);
    options.correction2 = 1 - pow(options.beta2, step);
    const AdamWRule<O, false> rule(options);
    args.factors[i] = {rule.decay, rule.step_size, rule.root};
  }
}

}  // namespace fastops
