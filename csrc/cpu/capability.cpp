#include "capability.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace fastops {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "baseline";
  }
}

static Isa detect() {
  Isa best = Isa::baseline;
#if defined(FASTOPS_X86)
  __builtin_cpu_init();
  // The features that -march=x86-64-v3 and -v4 let the compiler use (all of the vector ones: a virtual machine may
  // mask single bits).
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") &&
                  __builtin_cpu_supports("movbe");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  best = v4 ? Isa::avx512 : v3 ? Isa::avx2 : Isa::baseline;
#endif
  if (const char* wanted = std::getenv("FASTOPS_CPU_CAPABILITY")) {
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
      if (std::strcmp(wanted, isa_name(isa)) == 0 && isa < best) best = isa;
    }
  }
  return best;
}

Isa cpu_capability() {
  static const Isa isa = detect();
  return isa;
}

}  // namespace fastops
