// Argument checks. Every message is "<op>: <argument> must ..., got ...". fastops/ops/_checks.py has the same messages
// for the fake kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>
#include <string>

namespace fastops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  std::ostringstream message;
  (message << ... << args);
  throw std::runtime_error(message.str());
}

#define FASTOPS_CHECK(condition, ...) \
  do {                                \
    if (!(condition)) [[unlikely]] {  \
      ::fastops::fail(__VA_ARGS__);   \
    }                                 \
  } while (0)

// [2, 3, 4]
inline std::string shape_string(const Tensor& t) {
  std::ostringstream text;
  text << '[';
  for (int64_t i = 0; i < t.dim(); ++i) text << (i ? ", " : "") << t.size(i);
  text << ']';
  return text.str();
}

// The Python spelling, without "torch.".
inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return "another dtype";
  }
}

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

inline void check_floating(const char* op, const char* argument, const Tensor& t) {
  FASTOPS_CHECK(is_floating(t.scalar_type()), op, ": ", argument,
                " must have dtype float32, float64, float16 or bfloat16, got ", dtype_name(t.scalar_type()));
}

inline void check_same_dtype(const char* op, const char* argument, const Tensor& t, const char* like_name,
                             const Tensor& like) {
  FASTOPS_CHECK(t.scalar_type() == like.scalar_type(), op, ": ", argument, " must have the dtype of ", like_name, " (",
                dtype_name(like.scalar_type()), "), got ", dtype_name(t.scalar_type()));
}

// The Python spelling.
inline std::string device_name(const Tensor& t) {
  using torch::headeronly::DeviceType;
  switch (t.device().type()) {
    case DeviceType::CPU: return "cpu";
    case DeviceType::CUDA: return "cuda:" + std::to_string(t.get_device_index());
    case DeviceType::Meta: return "meta";
    default: return "another device";
  }
}

inline void check_same_device(const char* op, const char* argument, const Tensor& t, const char* like_name,
                              const Tensor& like) {
  FASTOPS_CHECK(t.device().type() == like.device().type() && t.get_device_index() == like.get_device_index(), op, ": ",
                argument, " must be on the device of ", like_name, " (", device_name(like), "), got ", device_name(t));
}

inline void check_same_shape(const char* op, const char* argument, const Tensor& t, const char* like_name,
                             const Tensor& like) {
  bool same = t.dim() == like.dim();
  for (int64_t i = 0; same && i < t.dim(); ++i) same = t.size(i) == like.size(i);
  FASTOPS_CHECK(same, op, ": ", argument, " must have the shape of ", like_name, " ", shape_string(like), ", got ",
                shape_string(t));
}

}  // namespace fastops
