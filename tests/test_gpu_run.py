"""What a short run on a GPU relies on, checked without one: its steps, its results when it is cut, its predictions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

from benchmarks import device, predict, stages
from benchmarks.cases import cases
from benchmarks.harness import Results, full_float32, read_rows
from tests.support.paths import ROOT


def gpu_sh(*arguments: str, out) -> subprocess.CompletedProcess:
    environment = dict(os.environ, PYTHON=sys.executable, OUT=str(out), PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_second_call_starts_each_step(tmp_path):
    done = gpu_sh("second", "--dry-run", out=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = {row["step"]: row["status"] for row in read_rows(tmp_path / "steps.csv")}
    assert steps == dict.fromkeys(("install", "compile", "memcheck", "racecheck", "optim", "fps_final"), "ok")
    assert "would run with device=cuda" in (tmp_path / "compile.log").read_text()
    assert "| compile" in (tmp_path / "summary.md").read_text()


@pytest.mark.slow
def test_the_first_call_starts_each_step(tmp_path):
    done = gpu_sh("first", "--dry-run", out=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = {row["step"]: row["status"] for row in read_rows(tmp_path / "steps.csv")}
    measured = ("device", "fps", "stages", "ops_large", "ops_small")
    assert all(steps[name] == "ok" for name in ("install", *measured)), steps
    # Without a GPU the selection of tests that need one is empty, of which pytest says 5.
    assert all(steps[name] in ("ok", "failed (5)") for name in ("tests_first", "tests_rest", "triton")), steps


def test_a_failed_step_is_listed_and_not_fatal(tmp_path):
    script = (ROOT / "benchmarks" / "gpu.sh").read_text()
    start = script.index("step() {")
    functions = script[start : script.index("\n}\n", start) + 3]
    (tmp_path / "steps.csv").write_text("step,status,seconds\n")
    run = f"set -uo pipefail; out={tmp_path} limit=60 dry=\n{functions}\n"
    run += "step 5 broken false; step 1 slow true; step 3 cut sleep 20; step 5 fine true"
    subprocess.run(["bash", "-c", run], check=True, capture_output=True)
    statuses = {row["step"]: row["status"] for row in read_rows(tmp_path / "steps.csv")}
    assert statuses == {"broken": "failed (1)", "slow": "left out: no time", "cut": "cut at 3 s", "fine": "ok"}


def test_usage_names_the_calls(tmp_path):
    done = gpu_sh("third", out=tmp_path)
    assert done.returncode == 2 and "gpu.sh first" in done.stdout


def test_prepare_says_what_it_would_build(tmp_path):
    done = gpu_sh("prepare", "--dry-run", out=tmp_path)
    assert done.returncode == 0 and "setup.py build_ext --inplace" in done.stdout and "loops.json" in done.stdout


def test_a_killed_run_leaves_its_rows(tmp_path):
    path = tmp_path / "results.csv"
    command = [sys.executable, "-m", "benchmarks.ops", "--device", "cpu", "--no-compile", "--budget", "0.01"]
    run = subprocess.Popen([*command, "--op", "mish", "--csv", str(path)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not read_rows(path):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    rows = read_rows(path)
    assert 1 <= len(rows) < 8 and all(float(row["fastops_us"]) > 0 for row in rows)


def test_rows_of_a_run_are_those_of_the_file(tmp_path):
    path = tmp_path / "results.csv"
    Results(path, {"device": "old"}).add({"benchmark": "ops", "us": 1})
    results = Results(path, {"device": "new"})
    results.add({"benchmark": "ops", "us": 2})
    results.add({"benchmark": "fps", "fps": 3})
    assert [row["us"] for row in results.rows("ops")] == ["2"] and len(read_rows(path)) == 3


def test_full_float32_puts_the_switches_back():
    before = torch.backends.cudnn.allow_tf32
    with full_float32():
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


# ---- predictions ---------------------------------------------------------------------------------------------------

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/              @!P0 FMUL R4, R4, 2 ;
        /*0030*/                   MUFU.EX2 R5, R4 ;
        /*0040*/                   MUFU.RCP R6, R5 ;
        /*0050*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0060*/               @P0 BRA 0x10 ;
        /*0070*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0080*/               @P1 BRA 0x70 ;
        /*0090*/                   EXIT ;
"""


def test_main_loop_is_the_one_with_packs():
    # 32 bytes a lane; two 16-byte accesses are 8 turns of the memory pipe, two MUFU 4 cycles, 6 instructions 1.5.
    assert predict.main_loop(SASS) == predict.Loop(bytes=32, instructions=6, cycles=8.0, pipe="memory")
    assert predict.main_loop(SASS.replace(".128", "")) is None


def test_prediction_is_the_larger_of_bytes_and_instructions():
    moved = 2 * 2 * 2**20  # forward of 2^20 values of 16 bits
    slow = {"mish_kernel<half>": predict.Loop(32, 1000, 250.0, "issue")}
    copying = predict.Predictor(slow, rate=1e6, sms=132).seconds("mish", 2**20, "float16", False, False)
    computing = predict.Predictor(slow, rate=1e15, sms=132).seconds("mish", 2**20, "float16", False, False)
    assert copying == pytest.approx(moved / 1e6)
    assert computing == pytest.approx(moved / (32 * 32) * 250 / (132 * predict.CLOCK))


def test_every_pattern_of_a_pass_has_a_kernel():
    loops = predict.library_loops()
    if not loops:
        pytest.skip("built without CUDA kernels, or no cuobjdump")
    import re

    for case in cases(large=True):
        for dtype in ("float32", "bfloat16"):
            for backward in (False, True):
                for pattern, _ in predict.passes(case.op, dtype, backward, case.channels_last):
                    assert not pattern or any(re.fullmatch(pattern, name) for name in loops), pattern


# ---- what only a GPU runs ------------------------------------------------------------------------------------------


def test_dense_weights_equal_the_grouped():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 5, 5), torch.randn(4, 3, 3, 3)
    grouped = F.conv2d(x, weight, groups=2)
    torch.testing.assert_close(F.conv2d(x, device.dense_weights(weight, 2)), grouped)


def test_stages_of_kernels():
    names = {"Memcpy HtoD (Pinned -> Device)": "upload", "void fastops::crop_kernel<__half>": "crop"}
    names |= {"sm90_xmma_fprop_implicit_gemm": "network", "fastops::correlate_taps_kernel": "xcorr"}
    names |= {"fastops::response_peaks_kernel": "response", "fastops::scale_pixels_kernel": "network"}
    assert {name: stages.stage_of(name) for name in names} == names
