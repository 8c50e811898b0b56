// Lists of tensors as kernel arguments: a table of pointers and sizes, divided into the pieces of work of a launch.
//
// Every GPU and driver allows 4 KB of arguments for a launch. A tensor takes 32 bytes and its pointers. So a launch has
// at most 97 tensors (centralize_), 69 (SGD with momentum), 60 (AdamW) or 53 (AMSGrad). A longer list takes several
// launches.
#pragma once

#include <stdint.h>

namespace fastops {

constexpr int kMaxArgumentBytes = 4096;

template <int kArrays>
struct TableEntry {
  void* arrays[kArrays];
  int64_t length, runs, channels;  // ChannelLayout of one group
  int first_item;
  int16_t tensor;  // number in the table; a tensor may have several entries
  int8_t kind;     // kind of work; see the kernels
  bool packed;     // all arrays start at a multiple of 16 bytes
};

// A table with as many entries as the other arguments of a launch allow.
template <int kArrays, int kOtherBytes>
struct TensorTable {
  static constexpr int kCapacity = (kMaxArgumentBytes - kOtherBytes - 8) / int(sizeof(TableEntry<kArrays>));
  TableEntry<kArrays> entries[kCapacity];
  int count, items;

  // The entry of an item: the last one whose first item is not after it.
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
