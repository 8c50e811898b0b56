// float16 of CUDA for a host compiler: storage and conversions, rounded to nearest, ties to even.
#pragma once

struct __half {
  _Float16 value;
};
struct __half2 {
  __half x, y;
};
inline float __half2float(__half h) { return float(h.value); }
inline __half __float2half_rn(float x) { return {_Float16(x)}; }
inline __half __float2half(float x) { return __float2half_rn(x); }
