#include "capability.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(FASTOPS_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

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
  // The vector features that -march=x86-64-v3 and -v4 let the compiler use. All are tested, because a virtual machine
  // may mask single bits.
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") &&
                  __builtin_cpu_supports("movbe");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  best = v4 ? Isa::avx512 : v3 ? Isa::avx2 : Isa::baseline;
#endif
  if (const char* wanted = std::getenv("FASTOPS_CPU_CAPABILITY")) {
    const size_t length = std::strcspn(wanted, "_");
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
      if (std::strlen(isa_name(isa)) == length && std::strncmp(wanted, isa_name(isa), length) == 0 && isa < best) {
        best = isa;
      }
    }
  }
  return best;
}

Isa cpu_capability() {
  static const Isa isa = detect();
  return isa;
}

const char* int8_isa_name(Int8Isa isa) {
  switch (isa) {
    case Int8Isa::avx512_amx: return "avx512_amx";
    case Int8Isa::avx512_vbmi: return "avx512_vbmi";
    case Int8Isa::avx512_vnni: return "avx512_vnni";
    case Int8Isa::avx512: return "avx512";
    case Int8Isa::avx2_vnni: return "avx2_vnni";
    case Int8Isa::avx2: return "avx2";
    default: return "baseline";
  }
}

#if defined(FASTOPS_X86)
// A process must request the tile registers before it uses them. The kernel may refuse.
static bool may_use_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

static bool has_int8_extension(Int8Isa isa) {
  // Bits of CPUID's leaf 7, for which some compilers have no names: 7.0 ecx 1, 11 (VBMI, VNNI), 7.0 edx 24, 25 (AMX
  // tile, int8), 7.1 eax 4 (AVX-VNNI).
  unsigned a = 0, b = 0, c = 0, d = 0, avx_vnni = 0, unused[3];
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if (a >= 1) __get_cpuid_count(7, 1, &avx_vnni, &unused[0], &unused[1], &unused[2]);
  const bool vbmi = c >> 1 & 1, vnni = c >> 11 & 1, tiles = (d >> 24 & 1) && (d >> 25 & 1);
  switch (isa) {
    case Int8Isa::avx512_amx: return vbmi && vnni && tiles && may_use_tiles();
    case Int8Isa::avx512_vbmi: return vbmi && vnni;
    case Int8Isa::avx512_vnni: return vnni;
    case Int8Isa::avx2_vnni: return avx_vnni >> 4 & 1;
    default: return true;
  }
}
#endif

static Int8Isa detect_int8() {
  Int8Isa best = Int8Isa::baseline;
#if defined(FASTOPS_X86)
  const char* wanted = std::getenv("FASTOPS_CPU_CAPABILITY");
  const Isa general = cpu_capability();
  // Searches the extensions of the general set from the best down, for the requested one or the first available one.
  bool allowed = true;
  if (wanted != nullptr) {
    for (int i = 0; i <= int(Int8Isa::avx512_amx); ++i) {
      if (std::strcmp(wanted, int8_isa_name(Int8Isa(i))) == 0) allowed = false;
    }
  }
  for (int i = int(Int8Isa::avx512_amx); i > 0; --i) {
    const Int8Isa isa = Int8Isa(i);
    allowed = allowed || std::strcmp(wanted, int8_isa_name(isa)) == 0;
    const Isa needed = isa >= Int8Isa::avx512 ? Isa::avx512 : Isa::avx2;
    if (allowed && needed <= general && has_int8_extension(isa)) {
      best = isa;
      break;
    }
  }
#endif
  return best;
}

Int8Isa int8_capability() {
  static const Int8Isa isa = detect_int8();
  return isa;
}

}  // namespace fastops
