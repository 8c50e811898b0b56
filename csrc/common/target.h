// Checks of the tracker's state, the same for every op and device; its columns are in math/target.h.
#pragma once

#include "../math/target.h"
#include "checks.h"

namespace fastops {

inline void check_state(const char* op, const Tensor& state, const char* like_name, const Tensor& like) {
  FASTOPS_CHECK(state.scalar_type() == ScalarType::Float, op, ": state must have dtype float32, got ",
                dtype_name(state.scalar_type()));
  check_same_device(op, "state", state, like_name, like);
  FASTOPS_CHECK(state.dim() == 2 && state.size(1) == kStateColumns, op, ": state must have shape [K, ", kStateColumns,
                "], got ", shape_string(state));
  FASTOPS_CHECK(state.is_contiguous(), op, ": state must be contiguous, got strides [", state.stride(0), ", ",
                state.stride(1), "]");
}

inline void check_map_sides(const char* op, const char* argument, const Tensor& maps) {
  const auto fits = [](int64_t side) { return 1 <= side && side <= kMaxMapSide; };
  FASTOPS_CHECK(fits(maps.size(2)) && fits(maps.size(3)), op, ": ", argument, " must have h and w from 1 to ",
                kMaxMapSide, ", got ", shape_string(maps));
}

inline void check_count(const char* op, const char* name, int64_t value) {
  FASTOPS_CHECK(value >= 1, op, ": ", name, " must be at least 1, got ", value);
}

inline void check_share(const char* op, const char* name, double value) {
  FASTOPS_CHECK(0 <= value && value <= 1, op, ": ", name, " must be between 0 and 1, got ", value);
}

}  // namespace fastops
