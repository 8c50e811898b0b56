// The name of an activation, as an argument of an op.
#pragma once

#include <string>

#include "../math/activation.h"
#include "checks.h"

namespace fastops {

inline Activation parse_activation(const char* op, const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  FASTOPS_CHECK(name == "mish", op, ": activation must be none, relu or mish, got ", name);
  return Activation::mish;
}

}  // namespace fastops
