// Included before each csrc/cuda/*.cu: what it registers for CUDA tensors is registered for CPU tensors instead, over
// the CPU kernels. Torch's headers come first: they have their own use of __CUDA_ARCH__, by which ours tell device
// code.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cuda_runtime.h"

#define CUDA_HOST_KEY_CUDA CPU
#define CUDA_HOST_IMPL(ns, key, m, uid) _STABLE_TORCH_LIBRARY_IMPL(ns, key, m, uid)
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) CUDA_HOST_IMPL(ns, CUDA_HOST_KEY_##key, m, C10_UID)
#define __CUDA_ARCH__ 900
