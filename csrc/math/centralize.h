// Gradient centralization and the optimizer steps around it, per value.
//
// Centralization (Yong et al. 2020, eq. 1; Zhang and Wang, "Object tracking in siamese network with attention mechanism
// and Mish function", eq. 10-11) subtracts the mean from the gradient of each output channel's weights:
// phi(g) = g - mean(g). The steps centralize x. In SGD, x includes the weight decay, as in the SGD of Yong et al., so
// the mean of a channel's weights never changes:
//
//   SGD     x = s g + wd p;  d = phi(x);  b = momentum b + (1 - dampening) d;  p -= lr b, Nesterov: lr (d + momentum b)
//   AdamW   x = s g;  d = phi(x);  m += (1 - beta1) (d - m);  v = beta2 v + (1 - beta2) d^2;
//           p = (1 - lr wd) p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps);  AMSGrad: the largest v
//
// s is 1, or -1 if the objective is maximized, divided by the scale of a GradScaler. phi(x) = x if a tensor is not
// centralized. A first step has b = 0 and no dampening, which gives b = d as in torch.optim.
#pragma once

#include <stdint.h>

#include "sqrt.h"

namespace fastops {

// The values of a dense tensor as [groups, runs, channels, length]. An output channel has `runs` runs of `length`
// neighbouring values, in one of `groups` equal parts of the storage.
//
//   weight [O, I, h, w], any layout within a channel:   1, 1, O, I h w
//   transposed convolution [G I, O, h, w]:              G, I, O, h w       (channels_last: G, I h w, O, 1)
struct ChannelLayout {
  int64_t groups, runs, channels, length;

  FASTOPS_HD int64_t count() const { return groups * channels; }
  FASTOPS_HD int64_t values() const { return runs * length; }      // values of a channel
  FASTOPS_HD int64_t stride() const { return channels * length; }  // distance between a channel's runs
  FASTOPS_HD int64_t begin(int64_t channel) const {
    return runs == 1 ? channel * length : channel / channels * runs * stride() + channel % channels * length;
  }
};

// The settings of a step, for all rules. Each rule uses some of them.
struct StepOptions {
  double scale = 1, lr = 0, weight_decay = 0;
  double momentum = 0, dampening = 0;       // SGD
  double beta1 = 0, beta2 = 0, eps = 0;     // AdamW
  double correction1 = 1, correction2 = 1;  // 1 - beta^t
};

enum StepRule : int { kCentralize, kSgd, kSgdMomentum, kSgdNesterov, kAdamW, kAdamWAmsgrad, kStepRules };

constexpr int kMaxStepArrays = 5;  // gradient, parameter, states; centralize has the gradient only

template <class T>
struct CentralizeRule {
  static constexpr int kArrays = 1;

  FASTOPS_HD explicit CentralizeRule(const StepOptions&) {}
  FASTOPS_HD bool uses_param() const { return false; }
  FASTOPS_HD T input(T grad, T) const { return grad; }
  FASTOPS_HD void update(T* v, T mean) const { v[0] -= mean; }
};

template <class T, bool kMomentum, bool kNesterov>
struct SgdRule {
  static constexpr int kArrays = kMomentum ? 3 : 2;
  T scale, lr, weight_decay, momentum, keep;

  FASTOPS_HD explicit SgdRule(const StepOptions& o)
      : scale(T(o.scale)),
        lr(T(o.lr)),
        weight_decay(T(o.weight_decay)),
        momentum(T(o.momentum)),
        keep(T(1 - o.dampening)) {}
  FASTOPS_HD bool uses_param() const { return weight_decay != T(0); }
  FASTOPS_HD T input(T grad, T param) const {
    return weight_decay != T(0) ? scale * grad + weight_decay * param : scale * grad;  // 0 times inf would be NaN
  }
  FASTOPS_HD void update(T* v, T mean) const {
    T step = input(v[0], v[1]) - mean;
    if constexpr (kMomentum) {
      v[2] = momentum * v[2] + keep * step;
      step = kNesterov ? step + momentum * v[2] : v[2];
    }
    v[1] -= lr * step;
  }
};

template <class T, bool kAmsgrad>
struct AdamWRule {
  static constexpr int kArrays = kAmsgrad ? 5 : 4;
  T scale, rate1, beta2, rate2, eps;
  T decay, step_size, root;  // 1 - lr wd, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)

  FASTOPS_HD explicit AdamWRule(const StepOptions& o)
      : scale(T(o.scale)),
        rate1(T(1 - o.beta1)),
        beta2(T(o.beta2)),
        rate2(T(1 - o.beta2)),
        eps(T(o.eps)),
        decay(T(1 - o.lr * o.weight_decay)),
        step_size(T(o.lr / o.correction1)),
        root(T(1 / sqrt_(o.correction2))) {}
  FASTOPS_HD bool uses_param() const { return false; }
  FASTOPS_HD T input(T grad, T) const { return scale * grad; }
  FASTOPS_HD void update(T* v, T mean) const {
    const T d = input(v[0], v[1]) - mean;
    v[2] += rate1 * (d - v[2]);
    v[3] = beta2 * v[3] + rate2 * d * d;
    T square = v[3];
    if constexpr (kAmsgrad) square = v[4] = v[3] <= v[4] ? v[4] : v[3];  // NaN stays NaN
    v[1] = decay * v[1] - step_size * v[2] / (sqrt_(square) * root + eps);
  }
};

template <class T, StepRule kRule>
struct RuleType;
template <class T>
struct RuleType<T, kCentralize> {
  using type = CentralizeRule<T>;
};
template <class T>
struct RuleType<T, kSgd> {
  using type = SgdRule<T, false, false>;
};
template <class T>
struct RuleType<T, kSgdMomentum> {
  using type = SgdRule<T, true, false>;
};
template <class T>
struct RuleType<T, kSgdNesterov> {
  using type = SgdRule<T, true, true>;
};
template <class T>
struct RuleType<T, kAdamW> {
  using type = AdamWRule<T, false>;
};
template <class T>
struct RuleType<T, kAdamWAmsgrad> {
  using type = AdamWRule<T, true>;
};
template <class T, StepRule kRule>
using rule_t = typename RuleType<T, kRule>::type;

}  // namespace fastops
