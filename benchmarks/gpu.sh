#!/usr/bin/env bash
# The checks and measurements on a CUDA machine that is available for only a quarter of an hour:
#
#   benchmarks/gpu.sh prepare     here: build for sm_90 into build/gpu, with the files that `first` needs to run without nvcc
#   benchmarks/gpu.sh first       there, <= 360 s: the most important tests, limits of the GPU, frames, ops, the other tests
#   benchmarks/gpu.sh second      there, <= 240 s, after fixes: the failed tests, torch.compile, sanitizer, final results
#   benchmarks/gpu.sh all         on your own GPU: build and everything, without the limits of the two calls
#
# Each step has its own time limit, and the remaining time of its call is a limit too. If a step fails, it is listed and
# the next one starts. All results go to one folder, $OUT (default: results/gpu), as soon as they exist; the summary comes
# last. With --dry-run after the name the steps are dry runs, on any machine. Copy the folder build/gpu to the GPU
# machine. The failed tests of `first` (failed.txt in its folder) go into it for `second`. Uses the python on PATH, or
# $PYTHON.
set -uo pipefail
cd "$(dirname "$0")/.."
call=${1:-help}
dry=${2:-}
python=${PYTHON:-python3}
carried=build/gpu
carried_limit=$((30 * 1024 * 1024))

usage() { sed -n '2,/^set /p' "$0" | sed '$d;s/^# \{0,1\}//'; }
case "$call" in prepare | first | second | all) ;; *) usage; exit 2 ;; esac
case "$dry" in "" | --dry-run) ;; *) usage; exit 2 ;; esac

if [ "$call" = prepare ]; then
  set -e
  run=${dry:+echo}
  FASTOPS_BUILD=cuda TORCH_CUDA_ARCH_LIST=9.0 FASTOPS_PYTHONS=${FASTOPS_PYTHONS:-python3.12} \
    $run "$python" setup.py build_ext --inplace
  $run mkdir -p "$carried"
  $run cp fastops/_cpu.so fastops/_cuda.so fastops/_host.*.so "$carried"
  $run "$python" -m benchmarks.predict --write "$carried/loops.json"
  [ -n "$dry" ] && exit 0
  size=$(cat "$carried"/* tracker/weights/*.safetensors | wc -c)
  echo "$carried: $((size / 1024)) KiB with the network's weights"
  ls "$carried"/_host.cpython-312-*.so > /dev/null 2>&1 || echo "no _host for Python 3.12 in it: \`first\` will build there, in its own time"
  [ "$size" -le "$carried_limit" ] || { echo "gpu.sh: $carried must be at most $((carried_limit / 1024)) KiB"; exit 1; }
  exit 0
fi

case "$call" in first) limit=350 ;; second) limit=230 ;; all) limit=3600 ;; esac
out=${OUT:-results/gpu}
mkdir -p "$out"
rows="$out/results.csv"
echo "step,status,seconds" > "$out/steps.csv"
export OMP_NUM_THREADS=1 FASTOPS_COMMIT=${FASTOPS_COMMIT:-$(git rev-parse --short=10 HEAD 2> /dev/null || echo unknown)}

# step SECONDS NAME COMMAND...: its output goes to NAME.log
step() {
  local left=$((limit - SECONDS)) most=$1 name=$2 begin=$SECONDS status
  shift 2
  [ "$most" -lt "$left" ] || most=$left
  if [ "$most" -le 2 ]; then
    echo "$name,left out: no time,0" >> "$out/steps.csv"
    return
  fi
  if [ -n "$dry" ]; then printf 'step %s (%s s): %s\n' "$name" "$most" "$*" | tee -a "$out/$name.log"; fi
  timeout -k 5 "$most" "$@" >> "$out/$name.log" 2>&1
  status=$?
  case $status in 0) status=ok ;; 124 | 137) status="cut at $most s" ;; *) status="failed ($status)" ;; esac
  echo "$name,$status,$((SECONDS - begin))" >> "$out/steps.csv"
  echo "$name: $status, $((SECONDS - begin)) s"
}

bench() { # SECONDS NAME MODULE ARGUMENTS...
  local most=$1 name=$2 module=$3
  shift 3
  step "$most" "$name" "$python" -m "benchmarks.$module" ${dry:+--dry-run} "$@"
}

tests() { # SECONDS NAME ARGUMENTS...
  local most=$1 name=$2
  shift 2
  local parallel=()
  if "$python" -c 'import xdist' 2> /dev/null; then parallel=(-n "${WORKERS:-14}"); fi
  if [ -n "$dry" ]; then parallel=(--collect-only); fi
  step "$most" "$name" "$python" -m pytest -q --maxfail=300 -rf -p no:cacheprovider "${parallel[@]}" "$@"
  sed -n 's/^FAILED \(.*\) - .*/\1/p; s/^FAILED \([^ ]*\)$/\1/p' "$out/$name.log" >> "$out/failed.txt"
}

install() { # what was carried, or a build
  if [ -n "$dry" ]; then step 60 install "$python" -m fastops; return; fi
  [ -d "$carried" ] && cp "$carried"/*.so fastops/
  if ! "$python" -c 'import fastops, sys; sys.exit(fastops.build_info()["cuda_library"] != "loaded")' 2> "$out/import.log"; then
    TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
    export TORCH_CUDA_ARCH_LIST FASTOPS_BUILD=cuda
    step 90 build "$python" setup.py build_ext --inplace
  fi
  step 20 install "$python" -m fastops
}

ops="tests/ops"
kernels_first=("$ops/test_ops.py" "$ops/test_crop.py" "$ops/test_response.py" "$ops/test_optim.py"
  tests/tracker/test_pipeline.py tests/tracker/test_batch_tracker.py)
chosen_ops=(mish adaptive_tanh affine_mish mish_max_pool2d se_attention xcorr)

run_first() {
  tests 70 tests_first -m cuda "${kernels_first[@]}" -k "forward or backward or not test_ops"
  bench 30 device device --csv "$rows"
  bench 45 fps fps --device cuda --dtype float32 bfloat16 float16 --no-compile --frames 120 --csv "$rows"
  bench 40 stages stages --device cuda --size VGA --targets 1 64 --dtype float16 float32 --csv "$rows"
  bench 40 ops_large ops --device cuda --large --no-compile --dtype bfloat16 float32 --budget 0.1 --csv "$rows"
  bench 20 ops_small ops --device cuda --no-compile --dtype float16 --budget 0.1 --csv "$rows"
  tests 70 tests_rest -m cuda "$ops" tests/tracker -k "not (test_forward or test_backward)"
  tests 70 triton "$ops/test_triton.py" "$ops/test_triton_centralize.py" "$ops/test_triton_crop.py" "$ops/test_triton_response.py"
}

run_second() {
  local again=()
  [ -f "$carried/failed.txt" ] && mapfile -t again < "$carried/failed.txt"
  if [ ${#again[@]} -gt 0 ]; then tests 40 tests_again "${again[@]}"; fi
  bench 80 compile ops --device cuda --op "${chosen_ops[@]}" --dtype bfloat16 --budget 0.1 --csv "$rows"
  if [ -n "$dry" ] || command -v compute-sanitizer > /dev/null; then
    local tool=(compute-sanitizer --error-exitcode 1 --tool)
    [ -n "$dry" ] && tool=(echo compute-sanitizer)
    step 35 memcheck "${tool[@]}" memcheck "$python" -m benchmarks.sanitize --seconds 25
    step 25 racecheck "${tool[@]}" racecheck "$python" -m benchmarks.sanitize --seconds 15 --op xcorr
  else
    echo "sanitizer,left out: no compute-sanitizer,0" >> "$out/steps.csv"
  fi
  bench 15 optim optim --device cuda --budget 0.5 --csv "$rows"
  bench 45 fps_final fps --device cuda --dtype float16 float32 --frames 320 --csv "$rows"
}

: > "$out/failed.txt"
install
if [ "$call" = second ]; then run_second; else run_first; fi
if [ "$call" = all ]; then
  run_second
  for precision in float32 bfloat16; do
    bench 120 "train_$precision" train --device cuda --precision $precision --budget 10 --csv "$rows"
  done
fi
"$python" -m benchmarks.summary "$out" > "$out/summary.md" 2> "$out/summary.log" || cat "$out/summary.log"
cat "$out/summary.md"
[ -s "$out/summary.md" ]
