// What csrc/cuda/ptx.cuh declares, for a host: the instructions as the PTX ISA describes them. The approximate ones are
// off by as much as it allows, now upwards and now downwards, so that the tests see what a GPU may do.
#include "../../csrc/cuda/ptx.cuh"

#include <float.h>

namespace fastops {
namespace {

float off_by(float exact, float relative) {
  if (!(exact - exact == 0.0f)) return exact;
  const bool up = __builtin_parity(__float_as_uint(exact));
  const float value = exact * (up ? 1.0f + relative : 1.0f - relative);
  return fabsf(value) < FLT_MIN ? copysignf(0.0f, value) : value;
}

float value_of(__half, uint32_t bits) {
  __half h;
  memcpy(&h, &bits, sizeof h);  // the low half
  return __half2float(h);
}
float value_of(__nv_bfloat16, uint32_t bits) { return __bfloat162float({uint16_t(bits)}); }

}  // namespace

float exp2_approximate(float x) { return off_by(exp2f(x), 0x1p-22f); }
float reciprocal_approximate(float x) { return off_by(1.0f / x, 0x1p-23f); }

template <class T>
void multiply_tile(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  uint32_t of_lane[32][6];
  for (int i = 0; i < 6; i += 2) {
    const uint64_t* values = cuda_host::exchange(0xffffffffu, mine[i] | uint64_t(mine[i + 1]) << 32);
    for (int l = 0; l < 32; ++l) of_lane[l][i] = uint32_t(values[l]), of_lane[l][i + 1] = uint32_t(values[l] >> 32);
  }
  const auto number = [&](int row, int k, int reg) {
    return value_of(T{}, of_lane[row % 8 * 4 + k % 8 / 2][reg] >> (16 * (k % 2)));
  };
  const int g = int(cuda_host::lane()) / 4, t = int(cuda_host::lane()) % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      d[i] += number(row, k, row / 8 + k / 8 * 2) * number(column, k, 4 + k / 8);
    }
  }
}

template void multiply_tile<__half>(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]);
template void multiply_tile<__nv_bfloat16>(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]);

}  // namespace fastops
