"""Predicts the time of a kernel from its instructions and bytes. It is a model to compare with measurements.

    predicted = the sum over an op's kernels of max(bytes / copy rate, iterations x cycles / (SMs x clock))

The bytes are each input and result once per pass, and the copy rate is measured. The cycles are those of one warp's
iteration of the kernel's main loop, on its busiest pipe. The main loop is the innermost loop with 16-byte loads in the
machine code. The CUDA C++ Programming Guide has the instructions per cycle of an SM, for compute capability 9.0.

The model ignores launches, waiting for memory and the last partial wave. If a measurement is much above the prediction,
look there. If it is below, the model is wrong.

    python -m benchmarks.predict [--write FILE.json]      the main loops of the library's kernels
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from benchmarks.harness import ROOT, compare, copy_of

LIBRARY = ROOT / "fastops" / "_cuda.so"
#: Written on a machine with cuobjdump (`benchmarks/gpu.sh prepare`), for machines without it.
LOOPS = ROOT / "build" / "gpu" / "loops.json"
CLOCK = 1.7e9  # Hz, of a busy H100 or H200

#: Instructions per cycle of an SM, by their pipe. One instruction is for a whole warp.
PER_CYCLE = {
    "issue": 4.0,
    "fma": 4.0,
    "alu": 2.0,
    "imad": 2.0,
    "fp64": 2.0,
    "special": 0.5,
    "memory": 1.0,
    "tensor": 0.5,
}
PIPES = {
    "fma": r"FFMA|FMUL|FADD|HFMA2|HADD2|HMUL2",
    "imad": r"IMAD|IMUL",
    "fp64": r"DFMA|DADD|DMUL|DSETP|DMNMX",
    "special": r"MUFU|F2F|I2F|F2I|FRND|POPC|FLO",
    "tensor": r"HMMA|IMMA|DMMA",
    "memory": r"LD|ST|LDG|STG|LDS|STS|LDL|STL|SHFL|ATOM|RED",
    "alu": r"FSEL|FSETP|FMNMX|FCHK|ISETP|IADD3|LOP3|PLOP3|SHF|SHL|SHR|LEA|PRMT|SEL|MOV|F2FP|I2FP|IMNMX|VIADD|VIMNMX"
    r"|IABS|HSETP2|HMNMX2",
}


@dataclass(frozen=True)
class Loop:
    """The main loop of a kernel."""

    bytes: int  # of global memory per lane and iteration
    instructions: int
    cycles: float  # of an SM, per warp and iteration, on the busiest pipe
    pipe: str


def _width(instruction: str) -> int:
    """The bytes that a lane moves."""
    bits = re.search(r"\.(\d+)\b", instruction)
    if bits and bits[1] in ("64", "128"):
        return int(bits[1]) // 8
    return 1 if re.search(r"\.[US]8\b", instruction) else 2 if re.search(r"\.[US]16\b", instruction) else 4


def main_loop(sass: str) -> Loop | None:
    """The innermost loop with a 16-byte load of global memory, or None."""
    code = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,6})\*/\s+([^;]*);", sass)]
    bodies = []
    for at, text in code:
        target = re.search(r"\bBRA(?:\.\w+)*\s+(?:\w+,\s*)?(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < at:
            body = [t for a, t in code if int(target[1], 16) <= a <= at]
            if any(re.search(r"\bLDG\.\S*128\b", t) for t in body):
                bodies.append(body)
    if not bodies:
        return None
    body = min(bodies, key=len)
    names = [re.sub(r"^@!?U?P\w+\s+", "", text.strip()).split()[0] for text in body]
    used = dict.fromkeys(PER_CYCLE, 0.0)
    for name in names:
        used["issue"] += 1
        pipe = next((pipe for pipe, pattern in PIPES.items() if re.fullmatch(pattern, name.partition(".")[0])), None)
        if pipe:  # a 16-byte access takes four turns
            used[pipe] += max(1, _width(name) // 4) if pipe == "memory" else 1
    pipe = max(used, key=lambda pipe: used[pipe] / PER_CYCLE[pipe])
    moved = sum(_width(name) for name in names if re.match(r"(LDG|STG)\b", name))
    return Loop(moved, len(names), used[pipe] / PER_CYCLE[pipe], pipe)


def loops_of(library: Path, cuobjdump: Path, arch: str = "sm_90") -> dict[str, Loop]:
    """The main loops of a library's kernels, by name and template arguments."""
    from tests.support import kernel_resources

    run = subprocess.run([cuobjdump, "-sass", "-arch", arch, library], capture_output=True, text=True, check=True)
    _, *parts = re.split(r"Function : (\w+)", run.stdout)
    found = {}
    for name, sass in zip(kernel_resources.demangle(parts[::2]), parts[1::2], strict=True):
        if loop := main_loop(sass):
            found[name] = loop
    return found


def find_cuobjdump() -> Path | None:
    try:
        import triton
    except ImportError:
        return None
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return path if path.exists() else None


@cache
def library_loops() -> dict[str, Loop]:
    """The loops in the file that `prepare` wrote, else those of the library, else none."""
    if LOOPS.exists():
        return {name: Loop(**loop) for name, loop in json.loads(LOOPS.read_text()).items()}
    cuobjdump = find_cuobjdump()
    return loops_of(LIBRARY, cuobjdump) if cuobjdump and LIBRARY.exists() else {}


# ---- the passes of an op: pattern of a kernel's name, values moved in units of the first input ---------------------

SIZES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
TYPES = {"float32": "float", "float64": "double", "float16": "half", "bfloat16": "bfloat16"}
ADAPTIVE = {"adaptive_sigmoid": 0, "adaptive_tanh": 1, "adaptive_relu": 2}


def passes(op: str, dtype: str, backward: bool, channels_last: bool) -> list[tuple[str, float]]:
    """(pattern, values) of each pass of an op's forward or backward. Without a match only the bytes of a pass count."""
    t, wide = TYPES[dtype], "double" if dtype == "float64" else "float"
    how, vector = ("pixels", rf", {16 // SIZES[dtype]}") if channels_last else ("rows", "")
    if op == "mish":
        return [(f"mish_backward_kernel<{t}>", 3)] if backward else [(f"mish_kernel<{t}>", 2)]
    if op in ADAPTIVE:
        kind = rf"AdaptiveActivation<{ADAPTIVE[op]}\b[^>]*>"
        return [(f"adaptive_rows_kernel<{kind}, {str(backward).lower()}, {t}>", 3 if backward else 2)]
    mapped = f"map_{how}_kernel<{t}, {{}}, {{}}{vector}>"
    summed = f"channel_{how}_kernel<{t}, {{}}, {{}}{vector}>"
    if op == "affine_mish":
        return [(summed.format(t, 2), 3)] if backward else [(mapped.format(t, "false"), 2)]
    if op == "batch_norm_mish" and backward:
        return [(summed.format(wide, 1), 2), (mapped.format(wide, "true"), 3)]
    if op == "batch_norm_mish":
        return [(summed.format(wide, 0), 1), (mapped.format(wide, "false"), 2)]
    scaled, passed = f"scale_{how}_kernel<{t}, {{}}{vector}>", f"pass_{how}_kernel<{t}, {{}}{vector}>"
    if op == "se_scale":
        return [(passed.format(1), 3)] if backward else [(scaled.format(t), 2)]
    if op == "se_attention":
        return [(passed.format(2 if backward else 0), 2 if backward else 1), (scaled.format(wide), 2)]
    if op == "bias_activation":
        return [(f"bias_activation_kernel<{t}, {t}, {t}{vector}>", 2)]
    if op == "bias_activation pooled":
        return [("", 1.25)]
    if op == "mish_max_pool2d":
        return [("", 2.25 if backward else 1.25)]
    return []


class Predictor:
    """Predictions for one GPU."""

    def __init__(self, loops: dict[str, Loop] | None = None, rate: float | None = None, sms: int | None = None) -> None:
        """`rate`: bytes per second of a copy, by default measured. `sms`: number of SMs, by default this GPU's."""
        self.loops = library_loops() if loops is None else loops
        if rate is None:
            moved = 2**29
            rate = moved / compare({"copy": copy_of("cuda", moved)}, "cuda", 0.1)["copy"].median
        if sms is None:
            import torch

            sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.rate, self.sms = rate, sms

    def seconds(self, op: str, values: int, dtype: str, backward: bool, channels_last: bool) -> float | None:
        """The seconds of an op whose first input has `values` values; None if the model does not have the op."""
        total = 0.0
        found = passes(op, dtype, backward, channels_last)
        for pattern, moved in found:
            moved_bytes = moved * values * SIZES[dtype]
            loop = next((loop for name, loop in self.loops.items() if pattern and re.fullmatch(pattern, name)), None)
            computing = 0.0
            if loop and loop.bytes:
                computing = moved_bytes / (32 * loop.bytes) * loop.cycles / (self.sms * CLOCK)
            total += max(moved_bytes / self.rate, computing)
        return total if found else None

    def text(self, case, dtype: str, direction: str) -> str:
        """The microseconds of a case of benchmarks.cases, as text; empty if the model does not have it."""
        values = case.inputs(device="meta")[0].numel()
        parts = [self.seconds(case.op, values, dtype, False, case.channels_last)]
        if direction != "forward":
            parts.append(self.seconds(case.op, values, dtype, True, case.channels_last))
        return f"{1e6 * sum(parts):.1f}" if None not in parts else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the loops to this file")
    args = parser.parse_args()
    cuobjdump = find_cuobjdump()
    if cuobjdump is None or not LIBRARY.exists():
        raise SystemExit("predict: needs fastops/_cuda.so and the cuobjdump of the triton package")
    loops = loops_of(LIBRARY, cuobjdump)
    if args.write:
        from tracker.io.files import replacing

        with replacing(args.write) as temporary:
            temporary.write_text(json.dumps({name: asdict(loop) for name, loop in loops.items()}, indent=0))
    for name, loop in sorted(loops.items()):
        print(f"{name}: {loop.instructions} instructions, {loop.bytes} bytes, {loop.cycles:.1f} cycles ({loop.pipe})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
