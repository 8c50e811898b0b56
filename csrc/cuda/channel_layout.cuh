// Shared by the ops that distinguish channels from pixels: the two layouts, and the division of passes into blocks.
#pragma once

#include <algorithm>
#include <optional>

#include "../common/layout.h"
#include "../common/macros.h"
#include "launch.cuh"
#include "vec.cuh"

namespace fastops {

// Blocks that fill current GPUs: 8 for each of 132 SMs, which are whole rounds of 1, 2, 4 or 8 blocks per SM. It is a
// constant, so results do not depend on the GPU. It is the largest number for passes with a partial sum per block.
// Passes without sums use twice as many.
constexpr int64_t kTargetBlocks = 1056;

// x as rows [N C, P] (contiguous) or pixels [N P, C] (channels_last). An image of one pixel is both, and is faster as
// pixels.
struct ChannelLayout {
  int64_t batch, channels, pixels;
  bool channels_inner;
  bool packed;  // 16-byte accesses: aligned, and with channels_inner C is a multiple of a pack

  int64_t rows() const { return batch * channels; }
  int64_t values() const { return rows() * pixels; }
};

// For native tensors of one layout. Shape is the result of the op's check, with batch, channels and pixels.
template <class Shape, class... Tensors>
ChannelLayout layout_of(const Shape& shape, const Tensor& x, const Tensors&... others) {
  ChannelLayout layout{shape.batch, shape.channels, shape.pixels, is_channels_last(x) || shape.pixels == 1, false};
  const bool whole_packs = !layout.channels_inner || shape.channels % (16 / int64_t(x.element_size())) == 0;
  layout.packed = whole_packs && is_aligned16(x.const_data_ptr()) && (is_aligned16(others.const_data_ptr()) && ...);
  return layout;
}

// Calls body.template operator()<kVector>() with the number of channels per access.
template <class T, class Body>
void with_vector(const ChannelLayout& layout, const Body& body) {
  layout.packed ? body.template operator()<Pack<T>::size>() : body.template operator()<1>();
}

// body.template operator()<L>() for the type of the parameters: T, or float beside a half type.
template <class T, class Body>
void with_parameters(const std::optional<Tensor>& parameter, const Body& body) {
  if constexpr (sizeof(T) == 2) {
    if (parameter && parameter->scalar_type() == ScalarType::Float) return body.template operator()<float>();
  }
  body.template operator()<T>();
}

// Threads for pixels: a tile of vectors of channels by as many of `pixels` pixels as fit.
struct PixelBlock {
  int64_t tiles;
  dim3 block;

  PixelBlock(const ChannelLayout& layout, int vector, int64_t pixels) : PixelBlock(layout.channels, vector, pixels) {}
  PixelBlock(int64_t channels, int vector, int64_t pixels) {
    const int64_t vectors = std::max<int64_t>(ceil_div(channels, vector), 1);
    tiles = ceil_div(vectors, kThreads);
    const unsigned width = unsigned(ceil_div(vectors, tiles));
    block = dim3(width, unsigned(std::clamp<int64_t>(kThreads / width, 1, std::max<int64_t>(pixels, 1))));
  }

  // The pixels per block, for a pass over `pixels` pixels without sums.
  int64_t map_span(int64_t pixels) const {
    return block.y * std::clamp<int64_t>(pixels * tiles / block.y / (2 * kTargetBlocks), 1, 16);
  }
};

// The threads for rows of `pixels` values: `group` threads (4 ... 32 lanes, or the whole block) for a row or its part.
struct RowBlock {
  int64_t group = 4;

  RowBlock(const ChannelLayout& layout, int vector) {
    const int64_t packs = ceil_div(std::max<int64_t>(layout.pixels, 1), vector);
    while (group < 32 && group * 4 < packs) group *= 2;
    // One block per row if a warp would take long, or if there are too few rows to fill the GPU with one warp each.
    if (packs > 256 || (packs > 64 && layout.rows() < 2 * kTargetBlocks)) group = kThreads;
  }

  dim3 block() const { return dim3(unsigned(group), unsigned(kThreads / group)); }
};

// `length` values or pixels, divided among `blocks` sums into parts of at least `least`.
struct Parts {
  int64_t count, span;

  Parts(int64_t blocks, int64_t length, int64_t least) {
    const int64_t wanted = kTargetBlocks / std::max<int64_t>(blocks, 1);
    span = ceil_div(length, std::clamp<int64_t>(wanted, 1, ceil_div(length, least)));
    count = ceil_div(length, span);
  }
};

}  // namespace fastops
