// Convolution in 8-bit integers on the CPU: checks, packing and threads around simd/quantized_conv.cpp. Inference only.
#include "../simd/quantized_conv.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../common/checks.h"
#include "../common/layout.h"
#include "capability.h"

#define FASTOPS_DECLARE(isa)                                \
  namespace fastops::isa {                                  \
  extern const QuantizedConvKernels quantized_conv_kernels; \
  }
FASTOPS_DECLARE(baseline)
#if defined(FASTOPS_X86)
FASTOPS_DECLARE(avx2)
FASTOPS_DECLARE(avx2_vnni)
FASTOPS_DECLARE(avx512)
FASTOPS_DECLARE(avx512_vnni)
FASTOPS_DECLARE(avx512_vbmi)
FASTOPS_DECLARE(avx512_amx)
#endif
#undef FASTOPS_DECLARE

namespace fastops {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::MemoryFormat;
using Pair = std::vector<int64_t>;

// Minimum of multiplications per thread. With fewer a second thread does not help.
constexpr int64_t kGrain = 1 << 21;
// The most bytes in one sum: 2^15 * 255 * 128 < 2^30. The bias has the same bound, so nothing overflows.
constexpr int64_t kMaxDepth = 1 << 15;

const QuantizedConvKernels& kernels_in_use() {
  switch (int8_capability()) {
#if defined(FASTOPS_X86)
    case Int8Isa::avx512_amx: return avx512_amx::quantized_conv_kernels;
    case Int8Isa::avx512_vbmi: return avx512_vbmi::quantized_conv_kernels;
    case Int8Isa::avx512_vnni: return avx512_vnni::quantized_conv_kernels;
    case Int8Isa::avx512: return avx512::quantized_conv_kernels;
    case Int8Isa::avx2_vnni: return avx2_vnni::quantized_conv_kernels;
    case Int8Isa::avx2: return avx2::quantized_conv_kernels;
#endif
    default: return baseline::quantized_conv_kernels;
  }
}

void check_dtype(const char* op, const char* argument, const Tensor& t, ScalarType dtype, int64_t dims) {
  FASTOPS_CHECK(t.scalar_type() == dtype, op, ": ", argument, " must have dtype ", dtype_name(dtype), ", got ",
                dtype_name(t.scalar_type()));
  FASTOPS_CHECK(t.dim() == dims, op, ": ", argument, " must be ", dims, "-D, got ", shape_string(t));
}

int64_t chunks_of(int64_t kernel_w, int64_t channels) {
  return (kernel_w * channels + kQuantizedChunk - 1) / kQuantizedChunk;
}

int64_t packed_size(int64_t out_channels, int64_t groups, int64_t channels, int64_t kernel_h, int64_t kernel_w) {
  const int64_t panels = (out_channels / groups + kQuantizedPanel - 1) / kQuantizedPanel;
  return groups * panels * kernel_h * chunks_of(kernel_w, channels) * kQuantizedChunk * kQuantizedPanel;
}

// weight [O, I / groups, kernel_h, kernel_w]
Tensor quantized_conv2d_pack_cpu(const Tensor& weight_, int64_t groups) {
  const char* op = "quantized_conv2d_pack";
  check_dtype(op, "weight", weight_, ScalarType::Char, 4);
  const int64_t out = weight_.size(0), channels = weight_.size(1), height = weight_.size(2), width = weight_.size(3);
  FASTOPS_CHECK(weight_.numel() > 0, op, ": weight must not be empty, got ", shape_string(weight_));
  FASTOPS_CHECK(groups >= 1 && out % groups == 0, op, ": groups must divide the output channels (", out, "), got ",
                groups);
  FASTOPS_CHECK(channels * height * width <= kMaxDepth, op, ": weight must have at most ", kMaxDepth,
                " values per output channel, got ", shape_string(weight_));
  const Tensor weight = torch::stable::contiguous(weight_);
  const int64_t size = packed_size(out, groups, channels, height, width);
  Tensor packed = torch::stable::new_empty(weight, IntHeaderOnlyArrayRef({size}));
  const int8_t* from = static_cast<const int8_t*>(weight.const_data_ptr());
  int8_t* to = static_cast<int8_t*>(packed.mutable_data_ptr());
  std::fill_n(to, size, int8_t(0));
  const int64_t group_out = out / groups, panels = (group_out + kQuantizedPanel - 1) / kQuantizedPanel;
  const int64_t row = chunks_of(width, channels) * kQuantizedChunk * kQuantizedPanel;  // bytes of a kernel row
  for (int64_t o = 0; o < out; ++o) {
    const int64_t group = o / group_out, channel = o % group_out;
    int8_t* panel = to + (group * panels + channel / kQuantizedPanel) * height * row;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          const int64_t k = x * channels + c;  // byte of the kernel row
          panel[y * row + k / 4 * 4 * kQuantizedPanel + channel % kQuantizedPanel * 4 + k % 4] = *from++;
        }
      }
    }
  }
  return packed;
}

// Each thread keeps its memory, which grows to the size of its largest convolution.
uint8_t* workspace_of_thread(int64_t size) {
  static thread_local std::unique_ptr<void, decltype(&std::free)> memory(nullptr, &std::free);
  static thread_local int64_t capacity = 0;
  if (capacity < size) {
    memory.reset(std::aligned_alloc(64, size_t((size + 63) / 64 * 64)));
    capacity = memory ? size : 0;
    if (!memory) throw std::bad_alloc();
  }
  return static_cast<uint8_t*>(memory.get());
}

void check_pair(const char* op, const char* argument, const Pair& values, int64_t least) {
  const bool good = values.size() == 2 && values[0] >= least && values[1] >= least;
  FASTOPS_CHECK(good, op, ": ", argument, " must be two numbers of at least ", least);
}

void check_level(const char* op, const char* argument, int64_t value) {
  FASTOPS_CHECK(value >= 0 && value <= 255, op, ": ", argument, " must be from 0 to 255, got ", value);
}

Tensor quantized_conv2d_cpu(const Tensor& x_, const Tensor& packed, const Tensor& scale_, const Tensor& bias_,
                            const std::optional<Tensor>& table_, Pair kernel, Pair stride, Pair padding, int64_t groups,
                            int64_t input_zero_point, int64_t output_zero_point, Pair pool, bool float_output) {
  const char* op = "quantized_conv2d";
  check_dtype(op, "x", x_, ScalarType::Byte, 4);
  check_dtype(op, "packed", packed, ScalarType::Char, 1);
  check_dtype(op, "scale", scale_, ScalarType::Float, 1);
  check_dtype(op, "bias", bias_, ScalarType::Int, 1);
  check_pair(op, "kernel_size", kernel, 1);
  check_pair(op, "stride", stride, 1);
  check_pair(op, "padding", padding, 0);
  check_pair(op, "pool", pool, 1);
  check_level(op, "input_zero_point", input_zero_point);
  check_level(op, "output_zero_point", output_zero_point);
  const int64_t out = scale_.size(0);
  FASTOPS_CHECK(bias_.size(0) == out, op, ": bias must have the shape of scale [", out, "], got ", shape_string(bias_));
  FASTOPS_CHECK(groups >= 1 && x_.size(1) % groups == 0 && out % groups == 0, op, ": groups must divide the channels (",
                x_.size(1), " and ", out, "), got ", groups);
  const QuantizedConvShape shape{x_.size(0), x_.size(2), x_.size(3), x_.size(1), out,        groups,  kernel[0],
                                 kernel[1],  stride[0],  stride[1],  padding[0], padding[1], pool[0], pool[1]};
  FASTOPS_CHECK(packed.numel() == packed_size(out, groups, shape.in_channels / groups, kernel[0], kernel[1]), op,
                ": packed must come from quantized_conv2d_pack for these sizes, got ", packed.numel(), " values");
  FASTOPS_CHECK(shape.height + 2 * padding[0] >= kernel[0] && shape.width + 2 * padding[1] >= kernel[1], op,
                ": x must be at least ", kernel[0], " x ", kernel[1], " with its padding, got ", shape_string(x_));
  FASTOPS_CHECK(shape.conv_height() >= pool[0] && shape.conv_width() >= pool[0], op,
                ": pool must fit into the convolution's result [", shape.conv_height(), ", ", shape.conv_width(),
                "], got ", pool[0]);
  FASTOPS_CHECK(!float_output || (!table_.has_value() && pool[0] == 1 && pool[1] == 1), op,
                ": float_output must go without table and pool");
  std::optional<Tensor> table;
  if (table_.has_value()) {
    check_dtype(op, "table", *table_, ScalarType::Byte, 1);
    FASTOPS_CHECK(table_->size(0) == 256, op, ": table must have shape [256], got ", shape_string(*table_));
    table = torch::stable::contiguous(*table_);
  }
  const Tensor x = torch::stable::contiguous(x_, MemoryFormat::ChannelsLast);
  const Tensor scale = torch::stable::contiguous(scale_), bias = torch::stable::contiguous(bias_);
  const std::array<int64_t, 4> sizes{shape.batch, out, shape.out_height(), shape.out_width()};
  Tensor y = torch::stable::empty(IntHeaderOnlyArrayRef(sizes.data(), sizes.size()),
                                  float_output ? ScalarType::Float : ScalarType::Byte, std::nullopt, x.device(),
                                  std::nullopt, MemoryFormat::ChannelsLast);
  if (y.numel() == 0) return y;

  const QuantizedConvArgs args{shape,
                               static_cast<const uint8_t*>(x.const_data_ptr()),
                               static_cast<const int8_t*>(packed.const_data_ptr()),
                               static_cast<const int32_t*>(bias.const_data_ptr()),
                               static_cast<const float*>(scale.const_data_ptr()),
                               table ? static_cast<const uint8_t*>(table->const_data_ptr()) : nullptr,
                               static_cast<uint8_t>(input_zero_point),
                               static_cast<uint8_t>(output_zero_point),
                               float_output,
                               y.mutable_data_ptr()};
  const QuantizedConvKernels& kernels = kernels_in_use();
  const int64_t units = shape.num_units(), workspace = kernels.workspace_size(shape);
  const int64_t products = shape.conv_height() * shape.conv_width() * out / groups *
                           (shape.in_channels / groups * kernel[0] * kernel[1]) / shape.out_height();  // of a unit
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(products, 1));
  torch::stable::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) {
    kernels.run(begin, end, args, workspace_of_thread(workspace));
  });
  return y;
}

int64_t int8_products(int64_t rounds) {
  std::atomic<int64_t> products = 0;
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    products += (end - begin) * kernels_in_use().multiply_registers(rounds);
  });
  return products;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CPU, m) {
  m.impl("quantized_conv2d_pack", TORCH_BOX(&fastops::quantized_conv2d_pack_cpu));
  m.impl("quantized_conv2d", TORCH_BOX(&fastops::quantized_conv2d_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(fastops, CompositeExplicitAutograd, m) {
  m.impl("int8_products", TORCH_BOX(&fastops::int8_products));
}
