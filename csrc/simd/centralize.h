// Table of the CPU kernels of centralize_ and the optimizer steps, indexed by StepRule and DType.
#pragma once

#include <stdint.h>

#include "../math/centralize.h"

namespace fastops {

struct StepTensor {
  void* arrays[kMaxStepArrays];  // gradient, parameter, states: dense, of one layout
  ChannelLayout layout;
  const double* means;  // for pieces: the mean of every channel's input, or null for 0
};

constexpr int64_t kStripValues = 64;    // approximate number of values in a strip of neighbouring channels
constexpr int64_t kPieceValues = 8192;  // values in a piece of a long run

inline int64_t strip_channels(const ChannelLayout& layout) {
  return layout.length < kStripValues ? kStripValues / layout.length : 1;
}
inline int64_t pieces_of(int64_t length) { return (length + kPieceValues - 1) / kPieceValues; }

using StepFunction = void (*)(const StepTensor& tensor, const StepOptions& options, int64_t begin, int64_t end);

// [begin, end) of a tensor's channels, strips of channels, or pieces of runs.
struct StepKernels {
  StepFunction channels[kStepRules][4];  // long runs: a channel stays in the cache between sum and update
  StepFunction strips[kStepRules][4];    // short runs: neighbouring channels together
  StepFunction pieces[kStepRules][4];    // runs = 1 and known means: a channel may be divided
  // For the means: sums[i] is the sum of the inputs of piece i.
  void (*piece_sums[kStepRules][4])(const StepTensor& tensor, const StepOptions& options, int64_t begin, int64_t end,
                                    double* sums);
};

}  // namespace fastops
