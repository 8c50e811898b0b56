// The CPU loops of the balanced logistic loss; the formulas are in math/logistic_loss.h.
// Compiled once per instruction set: no torch header and no std header with inline functions may come in.
#include "logistic_loss.h"

#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

// Calls body(first, last) for every run of positives among the cells [begin, end), as offsets from `begin`.
template <class Body>
static void for_each_positive_run(const PositiveDisk& disk, int64_t begin, int64_t end, Body body) {
  const Run rows = disk.rows();
  const int64_t top = begin / disk.width, bottom = (end - 1) / disk.width + 1;
  for (int64_t r = rows.begin > top ? rows.begin : top; r < (rows.end < bottom ? rows.end : bottom); ++r) {
    const Run columns = disk.columns(r);
    const int64_t offset = r * disk.width - begin, length = end - begin;
    const int64_t first = offset + columns.begin, last = offset + columns.end;
    body(first > 0 ? first : 0, last < length ? last : length);
  }
}

// n rounded up to a multiple of a vector's lanes, at most kBlock. Loops over it have no scalar remainder, which for a
// map of 17 x 17 takes as long as the vectors.
template <class O>
static int64_t padded(int64_t n) {
  return (n + kLanes<O> - 1) / kLanes<O> * kLanes<O>;
}

// s = -y v for the `n` cells from `begin` on. It is a copy in which the few positives then change their sign, so one
// loop serves all cells whatever their labels. The values from n up to `padded` have a softplus and slope of 0.
template <class T, class O>
static void signed_scores(const T* v, const PositiveDisk& disk, int64_t begin, int64_t n, O* s) {
  const O* wide = as_opmath(v + begin, s, n);
  if (wide != s) memcpy(s, wide, size_t(n) * sizeof(O));
  for (int64_t i = n; i < padded<O>(n); ++i) s[i] = O(-1000);
  for_each_positive_run(disk, begin, begin + n, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) s[i] = -s[i];
  });
}

template <class T>
static double forward(const void* responses, const LogisticMap& map_, int64_t begin, int64_t end) {
  using O = opmath_t<T>;
  const T* v = static_cast<const T*>(responses);
  double positives = 0, negatives = 0;
  for (; begin < end; begin += kBlock) {
    const int64_t n = end - begin < kBlock ? end - begin : kBlock;
    O losses[kBlock];
    signed_scores(v, map_.disk, begin, n, losses);
    map(losses, losses, padded<O>(n), [](O s) { return softplus_(s); });
    for_each_positive_run(map_.disk, begin, begin + n, [&](int64_t first, int64_t last) {
      positives += sum(losses + first, last - first);
      for (int64_t i = first; i < last; ++i) losses[i] = 0;
    });
    negatives += sum(losses, padded<O>(n));
  }
  return map_.positive * positives + map_.negative * negatives;
}

template <class T>
static void backward(const void* responses, void* grad_responses, const LogisticMap& map_, int64_t begin, int64_t end) {
  using O = opmath_t<T>;
  const T* v = static_cast<const T*>(responses);
  T* grad = static_cast<T*>(grad_responses);
  const O positive = O(-map_.positive), negative = O(map_.negative);
  for (; begin < end; begin += kBlock) {
    const int64_t n = end - begin < kBlock ? end - begin : kBlock;
    O slopes[kBlock], buffer[kBlock];
    signed_scores(v, map_.disk, begin, n, slopes);
    map(slopes, slopes, padded<O>(n), [](O s) { return softplus_backward_(s); });
    O* out = opmath_target(grad + begin, buffer);
    map(slopes, out, n, [negative](O slope) { return negative * slope; });
    for_each_positive_run(map_.disk, begin, begin + n, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) out[i] = positive * slopes[i];
    });
    finish(grad + begin, out, n);
  }
}

extern const LogisticLossKernels logistic_loss_kernels;
const LogisticLossKernels logistic_loss_kernels = {
    FASTOPS_ALL_DTYPES(forward),
    FASTOPS_ALL_DTYPES(backward),
    FASTOPS_ALL_DTYPES(widen_to_double),
    FASTOPS_ALL_DTYPES(narrow_from_double),
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
