// Which instruction set the CPU kernels use, decided once per process.
#pragma once

namespace fastops {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// The best set that this build holds and this CPU has; FASTOPS_CPU_CAPABILITY=baseline|avx2|avx512 lowers it.
Isa cpu_capability();
const char* isa_name(Isa isa);

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
