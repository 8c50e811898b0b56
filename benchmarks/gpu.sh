#!/usr/bin/env bash
# The whole check on a CUDA machine, in under 9 minutes: build, tests on CUDA and Triton, compute-sanitizer, both
# benchmarks; one results file. Uses the python on PATH (torch, triton, ninja, pybind11, numpy, pytest, OpenCV there).
#
#   benchmarks/gpu.sh [RESULTS.csv]        default: benchmarks/results/<device>.csv
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "gpu.sh: torch sees no CUDA device"; exit 2; }
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))')
results=${1:-benchmarks/results/$device.csv}
step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

left() { echo $((540 - SECONDS > 1 ? 540 - SECONDS : 1)); }  # seconds of the nine minutes

step "build for this GPU"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
FASTOPS_BUILD=cuda timeout "$(left)" "$python" setup.py build_ext --inplace > "$log" 2>&1 || { tail -40 "$log"; exit 1; }
"$python" -m fastops
"$python" -c 'import fastops, sys; sys.exit(fastops.build_info()["cuda_library"] != "loaded")'

step "tests on CUDA (C++ kernels) and Triton"
timeout "$(left)" "$python" -m pytest -q -x -m cuda \
  tests/ops/test_{ops,mish,se,xcorr,adaptive,affine_mish,mish_max_pool2d,logistic_loss,box_loss,centralize,crop,response,optim,backends}.py \
  tests/tracker/test_{pipeline,batch_tracker,augment}.py
timeout "$(left)" "$python" -m pytest -q -x tests/ops/test_triton.py tests/ops/test_triton_{centralize,crop,response}.py

step "compute-sanitizer memcheck and racecheck over the sample table"
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    timeout "$(left)" compute-sanitizer --tool $tool --error-exitcode 1 --log-file /dev/stderr \
      "$python" -m benchmarks.sanitize --seconds 45
  done
else
  echo "compute-sanitizer is not on PATH: left out"
fi

step "ops"
timeout "$(left)" "$python" -m benchmarks.ops --device cuda --dtype float32 bfloat16 --budget 0.2 --csv "$results"
step "optim"
timeout "$(left)" "$python" -m benchmarks.optim --device cuda --csv "$results"
step "fps"
if "$python" -c 'import cv2' 2> /dev/null; then
  timeout "$(left)" "$python" -m benchmarks.fps --device cuda --dtype float32 bfloat16 float16 --csv "$results"
  timeout "$(left)" "$python" -m benchmarks.stages --device cuda --dtype float16 float32 --csv "$results"
  step "train"
  for precision in float32 bfloat16; do
    timeout "$(left)" "$python" -m benchmarks.train --device cuda --precision $precision --budget 10 --csv "$results"
  done
else
  echo "OpenCV is not installed: fps, stages and train are left out (pip install opencv-python-headless)"
fi
step "done: $results"
