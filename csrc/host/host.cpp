// The pybind11 module fastops._host: build information, and the measures of tracker.eval on NumPy arrays. It links
// neither torch nor CUDA, so it loads even if the kernel libraries do not.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "../cpu/capability.h"
#include "build_info.h"
#include "curve.h"
#include "polygon.h"

namespace py = pybind11;

using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;

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
  info["int8_capability"] = fastops::int8_isa_name(fastops::int8_capability());
  info["int8_is_fast"] = fastops::has_fast_int8(fastops::int8_capability());
  info["cuda_compiler"] = FASTOPS_CUDA_COMPILER;
  info["cuda_archs"] = FASTOPS_CUDA_ARCHS;
  return info;
}

static std::string shape_of(const Array& array) { return py::str(array.attr("shape")).cast<std::string>(); }

static void check_polygons(const Array& array, const char* name) {
  if (array.ndim() != 2 || array.shape(1) < 6 || array.shape(1) % 2 != 0) {
    throw py::value_error(std::string("polygon_overlap: ") + name +
                          " must be [N, 2 K] corners x, y with K of at least 3, got shape " + shape_of(array));
  }
}

static Array polygon_overlap(const Array& pred, const Array& target, std::optional<std::pair<double, double>> size) {
  check_polygons(pred, "pred");
  check_polygons(target, "target");
  if (pred.shape(0) != target.shape(0)) {
    throw py::value_error("polygon_overlap: pred and target must be of one length, got " +
                          std::to_string(pred.shape(0)) + " and " + std::to_string(target.shape(0)));
  }
  const auto [width, height] = size.value_or(std::pair(0.0, 0.0));
  if (size && !(width > 0 && height > 0)) {
    throw py::value_error("polygon_overlap: size must be a width and a height above 0, got " + std::to_string(width) +
                          " and " + std::to_string(height));
  }
  Array out(pred.shape(0));
  const double *a = pred.data(), *b = target.data();
  double* to = out.mutable_data();
  for (py::ssize_t i = 0; i < pred.shape(0); ++i, a += pred.shape(1), b += target.shape(1)) {
    to[i] = fastops::polygon_overlap(a, pred.shape(1) / 2, b, target.shape(1) / 2, width, height);
  }
  return out;
}

static Array threshold_curve(const Array& values, const Array& thresholds, bool at_most) {
  if (values.ndim() != 1 || values.size() == 0 || thresholds.ndim() != 1) {
    throw py::value_error(
        "threshold_curve: values and thresholds must be [N] and [K] with N of at least 1, got shapes " +
        shape_of(values) + " and " + shape_of(thresholds));
  }
  Array out(thresholds.size());
  fastops::threshold_curve(values.data(), values.size(), thresholds.data(), thresholds.size(), at_most,
                           out.mutable_data());
  return out;
}

PYBIND11_MODULE(_host, m) {
  m.doc() = "Build information of fastops; overlaps and curves of tracker.eval.";
  m.def("build_info", &build_info, "Versions, compilers, flags and the CPU capability in use, as a dict of strings.");
  m.def("polygon_overlap", &polygon_overlap, py::arg("pred"), py::arg("target"), py::arg("size") = py::none(),
        "Overlap of polygons [N, 2 K] with polygons [N, 2 L]; see tracker.eval.polygons.");
  m.def("threshold_curve", &threshold_curve, py::arg("values"), py::arg("thresholds"), py::arg("at_most"),
        "Part of the values above, or at most at, each threshold; see tracker.eval.metrics.");
}
