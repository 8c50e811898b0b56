// The CPU loops of centralize_ and the optimizer steps; the formulas are in math/centralize.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "centralize.h"

#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

template <class T>
static T* array(const StepTensor& tensor, int k, int64_t begin) {
  return static_cast<T*>(tensor.arrays[k]) + begin;
}

// The sum of the rule's inputs over n neighbouring values, in blocks, because a single running sum would lose digits.
template <class T, class Rule>
static opmath_t<T> sum_run(const Rule& rule, const StepTensor& tensor, int64_t begin, int64_t n) {
  using O = opmath_t<T>;
  constexpr int64_t kSumBlock = 4 * kBlock;
  O buffer[kSumBlock], total = 0;
  for (int64_t i = 0; i < n; i += kSumBlock) {
    const int64_t count = n - i < kSumBlock ? n - i : kSumBlock;
    const O grad = sum(as_opmath(array<T>(tensor, 0, begin + i), buffer, count), count);
    O param = 0;
    if (rule.uses_param()) param = sum(as_opmath(array<T>(tensor, 1, begin + i), buffer, count), count);
    total += rule.input(grad, param);  // `input` is linear
  }
  return total;
}

template <class O>
struct OneMean {
  O mean;
  O operator()(int64_t) const { return mean; }
};
template <class O>
struct Means {
  const O* means;
  O operator()(int64_t i) const { return means[i]; }
};

template <class Rule, class O, class Mean>
static void update(const Rule& rule, O* const* a, int64_t n, Mean mean) {
  constexpr int kArrays = Rule::kArrays;
  FASTOPS_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < n; ++i) {
    O v[kMaxStepArrays];
    v[0] = a[0][i];
    if constexpr (kArrays > 1) v[1] = a[1][i];
    if constexpr (kArrays > 2) v[2] = a[2][i];
    if constexpr (kArrays > 3) v[3] = a[3][i];
    if constexpr (kArrays > 4) v[4] = a[4][i];
    rule.update(v, mean(i));
    if constexpr (kArrays == 1) a[0][i] = v[0];
    if constexpr (kArrays > 1) a[1][i] = v[1];
    if constexpr (kArrays > 2) a[2][i] = v[2];
    if constexpr (kArrays > 3) a[3][i] = v[3];
    if constexpr (kArrays > 4) a[4][i] = v[4];
  }
}

// Prefetches the cache lines of n values.
static inline void prefetch(const void* values, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(values) + i);
}

// kAhead prefetches the values of the next channel's sum, which follow this run. A step from memory takes 8 % less time
// (SGD, ResNet-50), a step from the third-level cache up to 20 % less. If no sum follows, it takes as much more.
template <bool kAhead, class T, class Rule, class Mean>
static void update_run(const Rule& rule, const StepTensor& tensor, int64_t begin, int64_t n, Mean mean) {
  using O = opmath_t<T>;
  constexpr int kArrays = Rule::kArrays;
  constexpr bool kConvert = sizeof(T) != sizeof(O);
  O buffers[kConvert ? kArrays : 1][kConvert ? kBlock : 1];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t count = n - i < kBlock ? n - i : kBlock;
    if (kAhead) {
      for (int k = 0; k < (rule.uses_param() ? 2 : 1); ++k) {
        prefetch(array<T>(tensor, k, begin + n + i), count * int64_t(sizeof(T)));
      }
    }
    O* arrays[kArrays];
    for (int k = 0; k < kArrays; ++k) {
      T* values = array<T>(tensor, k, begin + i);
      if constexpr (kConvert) to_opmath(values, buffers[k], count);
      arrays[k] = opmath_target(values, buffers[kConvert ? k : 0]);
    }
    update(rule, arrays, count, mean);  // with several means there are at most kStripValues values
    for (int k = kArrays == 1 ? 0 : 1; k < kArrays; ++k) finish(array<T>(tensor, k, begin + i), arrays[k], count);
  }
}

template <class T, StepRule kRule>
static void channels_kernel(const StepTensor& tensor, const StepOptions& options, int64_t begin, int64_t end) {
  using O = opmath_t<T>;
  const ChannelLayout layout = tensor.layout;
  const rule_t<opmath_t<T>, kRule> rule(options);
  for (int64_t channel = begin; channel < end; ++channel) {
    const int64_t first = layout.begin(channel), last = first + layout.runs * layout.stride();
    O total = 0;
    for (int64_t i = first; i < last; i += layout.stride()) total += sum_run<T>(rule, tensor, i, layout.length);
    const OneMean<O> mean{total / O(layout.values())};
    for (int64_t i = first; i < last; i += layout.stride()) update_run<true, T>(rule, tensor, i, layout.length, mean);
  }
}

template <class T, StepRule kRule>
static void strips_kernel(const StepTensor& tensor, const StepOptions& options, int64_t begin, int64_t end) {
  using O = opmath_t<T>;
  const ChannelLayout layout = tensor.layout;
  const int64_t width = strip_channels(layout), strips = (layout.channels + width - 1) / width;
  const rule_t<opmath_t<T>, kRule> rule(options);
  for (int64_t strip = begin; strip < end; ++strip) {
    const int64_t group = strip / strips, channel = strip % strips * width;
    const int64_t channels = layout.channels - channel < width ? layout.channels - channel : width;
    const int64_t first = layout.begin(group * layout.channels + channel), n = channels * layout.length;
    O grad[kStripValues], param[kStripValues], part[kStripValues], total[kStripValues] = {};
    for (int64_t run = 0; run < layout.runs; run += kBlock) {
      const int64_t last = layout.runs < run + kBlock ? layout.runs : run + kBlock;
      memset(part, 0, sizeof(part));
      for (int64_t r = run; r < last; ++r) {
        const int64_t at = first + r * layout.stride();
        const O* g = as_opmath(array<T>(tensor, 0, at), grad, n);
        const O* p = rule.uses_param() ? as_opmath(array<T>(tensor, 1, at), param, n) : g;
        for (int64_t i = 0; i < n; ++i) part[i] += rule.input(g[i], p[i]);
      }
      for (int64_t i = 0; i < n; ++i) total[i] += part[i];
    }
    for (int64_t c = 0; c < channels; ++c) {
      O sum = 0;
      for (int64_t i = 0; i < layout.length; ++i) sum += total[c * layout.length + i];
      for (int64_t i = 0; i < layout.length; ++i) total[c * layout.length + i] = sum / O(layout.values());
    }
    for (int64_t r = 0; r < layout.runs; ++r) {
      update_run<false, T>(rule, tensor, first + r * layout.stride(), n, Means<O>{total});
    }
  }
}

// body(channel, begin, count) for every piece
template <class Body>
static void for_each_piece(const ChannelLayout& layout, int64_t begin, int64_t end, Body body) {
  const int64_t pieces = pieces_of(layout.length);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t channel = i / pieces, first = i % pieces * kPieceValues, left = layout.length - first;
    body(channel, channel * layout.length + first, left < kPieceValues ? left : kPieceValues);
  }
}

template <class T, StepRule kRule>
static void pieces_kernel(const StepTensor& tensor, const StepOptions& options, int64_t begin, int64_t end) {
  using O = opmath_t<T>;
  const rule_t<opmath_t<T>, kRule> rule(options);
  for_each_piece(tensor.layout, begin, end, [&](int64_t channel, int64_t first, int64_t count) {
    update_run<false, T>(rule, tensor, first, count, OneMean<O>{tensor.means ? O(tensor.means[channel]) : O(0)});
  });
}

template <class T, StepRule kRule>
static void piece_sums_kernel(const StepTensor& tensor, const StepOptions& options, int64_t begin, int64_t end,
                              double* sums) {
  const rule_t<opmath_t<T>, kRule> rule(options);
  int64_t i = begin;
  for_each_piece(tensor.layout, begin, end,
                 [&](int64_t, int64_t first, int64_t count) { sums[i++] = sum_run<T>(rule, tensor, first, count); });
}

#define FASTOPS_ALL_RULES(kernel)                                                      \
  {FASTOPS_ALL_DTYPES(kernel, kCentralize),  FASTOPS_ALL_DTYPES(kernel, kSgd),         \
   FASTOPS_ALL_DTYPES(kernel, kSgdMomentum), FASTOPS_ALL_DTYPES(kernel, kSgdNesterov), \
   FASTOPS_ALL_DTYPES(kernel, kAdamW),       FASTOPS_ALL_DTYPES(kernel, kAdamWAmsgrad)}

extern const StepKernels step_kernels;
const StepKernels step_kernels = {
    FASTOPS_ALL_RULES(channels_kernel),
    FASTOPS_ALL_RULES(strips_kernel),
    FASTOPS_ALL_RULES(pieces_kernel),
    FASTOPS_ALL_RULES(piece_sums_kernel),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
