// Cross-correlation on the CPU: tasks and threads around the packed-channel kernels of simd/xcorr.cpp.
//
// Lower bound: 2 B C oh ow zh zw flops forward (42.6 MFLOP for 8 pairs of SiamFC's 256 x 6 x 6 on 22 x 22), and as many
// for each gradient. A task is one pack of channels, or a fixed number of packs, for any number of threads. So results
// do not depend on that number.
#include "../simd/xcorr.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <tuple>
#include <vector>

#include "../common/layout.h"
#include "../common/xcorr.h"
#include "capability.h"

FASTOPS_DECLARE_TABLE(XcorrKernels, xcorr_kernels)

namespace fastops {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::stable::empty_like;
using torch::stable::new_empty;

// Scratch memory of a thread, aligned to a cache line and a SIMD register.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : data_(static_cast<char*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64))) {
    if (!data_) throw std::bad_alloc();
  }
  char* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data_;
};

// One call's sizes, dtype and kernels; `packs` is the number of packs of channels.
struct Call {
  XcorrShape shape;
  XcorrPlane plane;
  DType dtype;
  bool is_double;
  const XcorrKernels& kernels;
  int64_t lanes, packs, item_bytes;

  Call(const char* op, const XcorrShape& s, const Tensor& z)
      : shape(s),
        plane{s.zh, s.zw, s.xh, s.xw, s.oh, s.ow},
        dtype(dtype_index(op, "z", z)),
        is_double(dtype == kDouble),
        kernels(FASTOPS_TABLE(xcorr_kernels)),
        lanes(kernels.lanes[is_double]),
        packs((s.channels + lanes - 1) / lanes),
        item_bytes(static_cast<int64_t>(z.element_size())) {}

  int64_t opmath_bytes() const { return is_double ? 8 : 4; }
  int64_t packed_bytes(int64_t pixels) const { return pixels * lanes * opmath_bytes(); }
  int64_t z_pixels() const { return shape.zh * shape.zw; }
  int64_t x_pixels() const { return shape.xh * shape.xw; }
  int64_t out_pixels() const { return shape.oh * shape.ow; }
  int64_t padded_width() const { return shape.ow + 2 * (shape.zw - 1); }

  XcorrItem layout(const Tensor& t) const { return {t.size(1), t.size(2) * t.size(3), is_channels_last(t)}; }
  void pack(const Tensor& t, int64_t item, int64_t pack_index, char* packed) const {
    const XcorrItem where = layout(t);
    const char* data = static_cast<const char*>(t.const_data_ptr()) + item * where.channels * where.pixels * item_bytes;
    kernels.pack[dtype](data, where, pack_index * lanes, packed);
  }
  void unpack(const char* packed, const Tensor& t, int64_t item, int64_t pack_index) const {
    const XcorrItem where = layout(t);
    char* data = static_cast<char*>(t.mutable_data_ptr()) + item * where.channels * where.pixels * item_bytes;
    kernels.unpack[dtype](packed, where, pack_index * lanes, data);
  }
};

// Copies rows of `ow` pixels of `pixel_bytes` into rows with a margin of zeros on both sides (`target` is all zeros).
void add_margins(const Call& call, const char* source, int64_t pixel_bytes, char* target) {
  const int64_t margin = call.shape.zw - 1;
  for (int64_t u = 0; u < call.shape.oh; ++u) {
    std::memcpy(target + (u * call.padded_width() + margin) * pixel_bytes, source + u * call.shape.ow * pixel_bytes,
                size_t(call.shape.ow * pixel_bytes));
  }
}

// ---- forward ---------------------------------------------------------------------------------------------

constexpr int64_t kPacksPerTask = 4;

template <class O>
void write_scores(const std::vector<char>& partial, int64_t groups, int64_t pixels, double scale, double bias,
                  O* scores, int64_t pairs) {
  const O* sums = reinterpret_cast<const O*>(partial.data());
  for (int64_t b = 0; b < pairs; ++b) {
    for (int64_t p = 0; p < pixels; ++p) {
      O total = 0;
      for (int64_t g = 0; g < groups; ++g) total += sums[(b * groups + g) * pixels + p];
      scores[b * pixels + p] = O(scale) * total + O(bias);
    }
  }
}

Tensor xcorr_cpu(const Tensor& z_, const Tensor& x_, double scale, const std::optional<Tensor>& bias) {
  const XcorrShape shape = check_xcorr("xcorr", z_, x_);
  if (bias.has_value()) check_xcorr_bias(*bias, x_);
  const Tensor z = native_layout(z_), x = native_layout(x_);
  const Call call("xcorr", shape, z);
  const int64_t pixels = call.out_pixels(), groups = (call.packs + kPacksPerTask - 1) / kPacksPerTask;
  Tensor out = new_empty(z, IntHeaderOnlyArrayRef({shape.pairs, 1, shape.oh, shape.ow}));
  if (out.numel() == 0) return out;

  std::vector<char> partial(size_t(shape.pairs * groups * pixels * call.opmath_bytes()));
  torch::stable::parallel_for(0, shape.pairs * groups, 1, [&](int64_t first, int64_t last) {
    const Scratch zs(call.packed_bytes(call.z_pixels())), xs(call.packed_bytes(call.x_pixels()));
    const Scratch sums(call.packed_bytes(pixels));
    for (int64_t task = first; task < last; ++task) {
      const int64_t pair = task / groups, group = task % groups;
      std::memset(sums.get(), 0, size_t(call.packed_bytes(pixels)));
      const int64_t end = std::min((group + 1) * kPacksPerTask, call.packs);
      for (int64_t pack = group * kPacksPerTask; pack < end; ++pack) {
        call.pack(z, shape.z_of(pair), pack, zs.get());
        call.pack(x, shape.x_of(pair), pack, xs.get());
        call.kernels.correlate[call.is_double](zs.get(), xs.get(), sums.get(), call.plane);
      }
      call.kernels.sum_lanes[call.is_double](sums.get(), pixels, partial.data() + task * pixels * call.opmath_bytes());
    }
  });

  double offset = 0;
  const auto to_double = [&](const Tensor& t) {
    const Tensor wide = torch::stable::to(t, ScalarType::Double);
    return *static_cast<const double*>(wide.const_data_ptr());
  };
  if (bias.has_value()) offset = to_double(*bias);
  if (call.is_double) {
    write_scores(partial, groups, pixels, scale, offset, static_cast<double*>(out.mutable_data_ptr()), shape.pairs);
  } else if (call.dtype == kFloat) {
    write_scores(partial, groups, pixels, scale, offset, static_cast<float*>(out.mutable_data_ptr()), shape.pairs);
  } else {
    std::vector<float> scores(size_t(shape.pairs * pixels));
    write_scores(partial, groups, pixels, scale, offset, scores.data(), shape.pairs);
    Tensor wide = torch::stable::empty(out.sizes(), ScalarType::Float);
    std::memcpy(wide.mutable_data_ptr(), scores.data(), scores.size() * sizeof(float));
    torch::stable::copy_(out, wide);
  }
  return out;
}

Tensor xcorr_depthwise_cpu(const Tensor& z_, const Tensor& x_) {
  const XcorrShape shape = check_xcorr("xcorr_depthwise", z_, x_);
  const Tensor z = native_layout(z_), x = native_layout(x_);
  const Call call("xcorr_depthwise", shape, z);
  const Tensor out = is_channels_last(x)
                         ? empty_channels_last(z, shape.pairs, shape.channels, shape.oh, shape.ow)
                         : new_empty(z, IntHeaderOnlyArrayRef({shape.pairs, shape.channels, shape.oh, shape.ow}));
  if (out.numel() == 0) return out;
  torch::stable::parallel_for(0, shape.pairs * call.packs, 1, [&](int64_t first, int64_t last) {
    const Scratch zs(call.packed_bytes(call.z_pixels())), xs(call.packed_bytes(call.x_pixels()));
    const Scratch sums(call.packed_bytes(call.out_pixels()));
    for (int64_t task = first; task < last; ++task) {
      const int64_t pair = task / call.packs, pack = task % call.packs;
      call.pack(z, shape.z_of(pair), pack, zs.get());
      call.pack(x, shape.x_of(pair), pack, xs.get());
      std::memset(sums.get(), 0, size_t(call.packed_bytes(call.out_pixels())));
      call.kernels.correlate[call.is_double](zs.get(), xs.get(), sums.get(), call.plane);
      call.unpack(sums.get(), out, pair, pack);
    }
  });
  return out;
}

// ---- backward --------------------------------------------------------------------------------------------

// Gives the gradient of pair b's output to the kernels, one pack of channels at a time: with margins for the gradient
// of the search, without margins for the template's. `plain` is the whole gradient in opmath, with the scale; xcorr
// uses it for all channels. xcorr_depthwise takes the pack from `grad`.
class OutputGrad {
 public:
  OutputGrad(const Call& call, const Tensor& grad, const char* plain)
      : call_(call),
        grad_(grad),
        plain_(plain),
        pixel_bytes_(plain ? call.opmath_bytes() : call.lanes * call.opmath_bytes()),
        packed_(call.out_pixels() * pixel_bytes_),
        padded_(call.shape.oh * call.padded_width() * pixel_bytes_) {
    std::memset(padded_.get(), 0, size_t(call.shape.oh * call.padded_width() * pixel_bytes_));
  }

  const char* without_margins(int64_t pair, int64_t pack) const {
    if (plain_) return plain_ + pair * call_.out_pixels() * pixel_bytes_;
    call_.pack(grad_, pair, pack, packed_.get());
    return packed_.get();
  }
  const char* with_margins(int64_t pair, int64_t pack) const {
    add_margins(call_, without_margins(pair, pack), pixel_bytes_, padded_.get());
    return padded_.get();
  }

 private:
  const Call& call_;
  const Tensor& grad_;
  const char* plain_;
  int64_t pixel_bytes_;
  Scratch packed_, padded_;
};

std::tuple<Tensor, Tensor> backward(const Call& call, const Tensor& grad, const char* plain, const Tensor& z,
                                    const Tensor& x) {
  const XcorrShape& shape = call.shape;
  const bool depthwise = plain == nullptr;
  Tensor grad_z = empty_like(z), grad_x = empty_like(x);
  if (shape.pairs == 0 || shape.channels == 0) return {grad_z, grad_x};
  const int64_t per_x = shape.pairs / shape.nx, per_z = shape.pairs / shape.nz;
  const int64_t x_tasks = shape.nx * call.packs, z_tasks = shape.nz * call.packs;
  // Both gradients in one parallel region: first the tasks of grad_x, then those of grad_z.
  torch::stable::parallel_for(0, x_tasks + z_tasks, 1, [&](int64_t first, int64_t last) {
    const int64_t x_bytes = call.packed_bytes(call.x_pixels()), z_bytes = call.packed_bytes(call.z_pixels());
    const Scratch zs(z_bytes), xs(x_bytes);
    const OutputGrad output_grad(call, grad, plain);
    for (int64_t task = first; task < last; ++task) {
      if (task < x_tasks) {
        const int64_t n = task / call.packs, pack = task % call.packs;
        std::memset(xs.get(), 0, size_t(x_bytes));
        for (int64_t pair = n * per_x; pair < (n + 1) * per_x; ++pair) {
          call.pack(z, shape.z_of(pair), pack, zs.get());
          call.kernels.search_backward[call.is_double](output_grad.with_margins(pair, pack), zs.get(), xs.get(),
                                                       call.plane, depthwise);
        }
        call.unpack(xs.get(), grad_x, n, pack);
      } else {
        const int64_t n = (task - x_tasks) / call.packs, pack = (task - x_tasks) % call.packs;
        std::memset(zs.get(), 0, size_t(z_bytes));
        for (int64_t pair = n * per_z; pair < (n + 1) * per_z; ++pair) {
          call.pack(x, shape.x_of(pair), pack, xs.get());
          call.kernels.template_backward[call.is_double](output_grad.without_margins(pair, pack), xs.get(), zs.get(),
                                                         call.plane, depthwise);
        }
        call.unpack(zs.get(), grad_z, n, pack);
      }
    }
  });
  return {grad_z, grad_x};
}

template <class O>
void scale_in_place(const Tensor& t, double scale) {
  O* values = static_cast<O*>(t.mutable_data_ptr());
  for (int64_t i = 0; i < t.numel(); ++i) values[i] *= O(scale);
}

std::tuple<Tensor, Tensor> xcorr_backward_cpu(const Tensor& grad, const Tensor& z_, const Tensor& x_, double scale) {
  const XcorrShape shape = check_xcorr("xcorr_backward", z_, x_);
  check_xcorr_grad("xcorr_backward", grad, shape, 1, x_);
  const Tensor z = native_layout(z_), x = native_layout(x_);
  const Call call("xcorr_backward", shape, z);
  Tensor plain = torch::stable::empty(grad.sizes(), call.is_double ? ScalarType::Double : ScalarType::Float);
  torch::stable::copy_(plain, grad);
  call.is_double ? scale_in_place<double>(plain, scale) : scale_in_place<float>(plain, scale);
  return backward(call, grad, static_cast<const char*>(plain.const_data_ptr()), z, x);
}

std::tuple<Tensor, Tensor> xcorr_depthwise_backward_cpu(const Tensor& grad, const Tensor& z_, const Tensor& x_) {
  const XcorrShape shape = check_xcorr("xcorr_depthwise_backward", z_, x_);
  check_xcorr_grad("xcorr_depthwise_backward", grad, shape, shape.channels, x_);
  const Tensor z = native_layout(z_), x = native_layout(x_);
  const Call call("xcorr_depthwise_backward", shape, z);
  return backward(call, native_layout(grad), nullptr, z, x);
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("xcorr", TORCH_BOX(&fastops::xcorr_cpu));
  m.impl("xcorr_backward", TORCH_BOX(&fastops::xcorr_backward_cpu));
  m.impl("xcorr_depthwise", TORCH_BOX(&fastops::xcorr_depthwise_cpu));
  m.impl("xcorr_depthwise_backward", TORCH_BOX(&fastops::xcorr_depthwise_backward_cpu));
}
