// Which instruction set the CPU kernels use, decided once per process.
#pragma once

namespace fastops {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// The best set that both this build and this CPU have. FASTOPS_CPU_CAPABILITY lowers it. Its value is the name of a set
// or of an extension below, whose set is the part before the underscore.
Isa cpu_capability();
const char* isa_name(Isa isa);

// The same for products of 8-bit integers, with extensions. simd/quantized_conv.cpp has a table for each.
enum class Int8Isa { baseline, avx2, avx2_vnni, avx512, avx512_vnni, avx512_vbmi, avx512_amx };
Int8Isa int8_capability();
const char* int8_isa_name(Int8Isa isa);
// Whether this CPU multiplies 8-bit integers faster than floats.
inline bool has_fast_int8(Int8Isa isa) { return isa == Int8Isa::avx2_vnni || isa >= Int8Isa::avx512_vnni; }

}  // namespace fastops

// The table `name` of csrc/simd for the instruction set in use.
#if defined(FASTOPS_X86)
#define FASTOPS_DECLARE_TABLE(Type, name) \
  namespace fastops {                     \
  namespace baseline {                    \
  extern const Type name;                 \
  }                                       \
  namespace avx2 {                        \
  extern const Type name;                 \
  }                                       \
  namespace avx512 {                      \
  extern const Type name;                 \
  }                                       \
  }
#define FASTOPS_TABLE(name)                                                        \
  (::fastops::cpu_capability() == ::fastops::Isa::avx512 ? ::fastops::avx512::name \
   : ::fastops::cpu_capability() == ::fastops::Isa::avx2 ? ::fastops::avx2::name   \
                                                         : ::fastops::baseline::name)
#else
#define FASTOPS_DECLARE_TABLE(Type, name) \
  namespace fastops {                     \
  namespace baseline {                    \
  extern const Type name;                 \
  }                                       \
  }
#define FASTOPS_TABLE(name) (::fastops::baseline::name)
#endif
