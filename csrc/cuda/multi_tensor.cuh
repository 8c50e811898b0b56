// Lists of tensors as kernel arguments: a table of pointers and sizes, cut into the pieces of work of a launch.
//
// The arguments of a launch are 4 KB on every GPU and driver. With 32 bytes and the pointers for each tensor that is
// room for 97 tensors (centralize_), 69 (SGD with momentum), 60 (AdamW) or 53 (AMSGrad); a longer list takes one launch
// more for each further so many.
#pragma once

#include <stdint.h>

namespace fastops {

constexpr int kMaxArgumentBytes = 4096;

template <int kArrays>
struct TableEntry {
  void* arrays[kArrays];
  int64_t length, runs, channels;  // ChannelLayout of one group
  int first_item;
  int16_t tensor;  // counted from the table's first; a tensor may have several entries
  int8_t kind;     // of work: see the kernels
  bool packed;     // all arrays start at a multiple of 16 bytes
};

// A table with the most entries that leave room for other arguments of a launch.
template <int kArrays, int kOtherBytes>
struct TensorTable {
  static constexpr int kCapacity = (kMaxArgumentBytes - kOtherBytes - 8) / int(sizeof(TableEntry<kArrays>));
  TableEntry<kArrays> entries[kCapacity];
  int count, items;

  // The entry that an item belongs to: the last one whose first item is not after it.
  __device__ int find(int item) const {
    int low = 0;
    for (int high = count; high - low > 1;) {
      const int middle = (low + high) / 2;
      if (entries[middle].first_item <= item) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

}  // namespace fastops
