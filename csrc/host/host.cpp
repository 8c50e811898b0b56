// The pybind11 module fastops._host: what this build is. It links neither torch nor CUDA, so it loads even where
// the kernel libraries do not.
#include <pybind11/pybind11.h>

#include "../cpu/capability.h"
#include "build_info.h"

namespace py = pybind11;

static py::dict build_info() {
  py::dict info;
  info["version"] = FASTOPS_VERSION;
  info["built_with_torch"] = FASTOPS_BUILT_WITH_TORCH;
  info["stable_abi_target"] = FASTOPS_STABLE_ABI_TARGET;
  info["cxx_compiler"] = FASTOPS_CXX_COMPILER;
  info["cxx_flags"] = FASTOPS_CXX_FLAGS;
  info["simd_flags"] = FASTOPS_SIMD_FLAGS;
  info["cpu_capabilities"] = FASTOPS_CPU_CAPABILITIES;
  info["cpu_capability"] = fastops::isa_name(fastops::cpu_capability());
  info["cuda_compiler"] = FASTOPS_CUDA_COMPILER;
  info["cuda_archs"] = FASTOPS_CUDA_ARCHS;
  return info;
}

PYBIND11_MODULE(_host, m) {
  m.doc() = "Build information of fastops.";
  m.def("build_info", &build_info, "Versions, compilers, flags and the CPU capability in use, as a dict of strings.");
}
