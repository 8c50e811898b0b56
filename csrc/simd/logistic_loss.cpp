#include "logistic_loss.h"

#include "vec.h"

namespace fastops {
namespace FASTOPS_ISA {

// body(first, last) for every run of positives among the places [begin, end), as offsets from `begin`.
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

// s = -y v for the `n` places from `begin` on: a copy, in which the few positives then change their sign. So one loop
// goes over all places whatever their labels.
template <class T, class O>
static void signed_scores(const T* v, const PositiveDisk& disk, int64_t begin, int64_t n, O* s) {
  const O* wide = as_opmath(v + begin, s, n);
  if (wide != s) memcpy(s, wide, size_t(n) * sizeof(O));
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
    map(losses, losses, n, [](O s) { return softplus_(s); });
    for_each_positive_run(map_.disk, begin, begin + n, [&](int64_t first, int64_t last) {
      if (first >= last) return;
      positives += sum(losses + first, last - first);
      memset(losses + first, 0, size_t(last - first) * sizeof(O));
    });
    negatives += sum(losses, n);
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
    map(slopes, slopes, n, [](O s) { return softplus_backward_(s); });
    O* out = opmath_target(grad + begin, buffer);
    map(slopes, out, n, [negative](O slope) { return negative * slope; });
    for_each_positive_run(map_.disk, begin, begin + n, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) out[i] = positive * slopes[i];
    });
    finish(grad + begin, out, n);
  }
}

template <class T>
static void widen(const void* values, double* wide, int64_t n) {
  opmath_t<T> buffer[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    const auto* source = as_opmath(static_cast<const T*>(values) + begin, buffer, count);
    for (int64_t i = 0; i < count; ++i) wide[begin + i] = double(source[i]);
  }
}

template <class T>
static void narrow(const double* wide, void* values, int64_t n) {
  opmath_t<T> buffer[kBlock];
  T* target = static_cast<T*>(values);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    auto* out = opmath_target(target + begin, buffer);
    for (int64_t i = 0; i < count; ++i) out[i] = opmath_t<T>(wide[begin + i]);
    finish(target + begin, out, count);
  }
}

extern const LogisticLossKernels logistic_loss_kernels;
const LogisticLossKernels logistic_loss_kernels = {
    {forward<float>, forward<double>, forward<half_t>, forward<bfloat16_t>},
    {backward<float>, backward<double>, backward<half_t>, backward<bfloat16_t>},
    {widen<float>, widen<double>, widen<half_t>, widen<bfloat16_t>},
    {narrow<float>, narrow<double>, narrow<half_t>, narrow<bfloat16_t>},
};

}  // namespace FASTOPS_ISA
}  // namespace fastops
