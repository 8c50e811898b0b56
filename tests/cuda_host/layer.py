"""Builds the CUDA kernels for the CPU: csrc/cuda/*.cu, unmodified, with g++ and the CUDA names of include/.

python tests/cuda_host/layer.py      prints the paths

AddressSanitizer and UndefinedBehaviorSanitizer are compiled in: the program that loads the library must have their
runtimes preloaded (run.py does it).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "cuda_host"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined"
FLAGS = (
    "-std=c++20 -O1 -g1 -fPIC -fvisibility=hidden -fno-extern-tls-init -DTORCH_TARGET_VERSION=0x020b000000000000 "
    "-DUSE_CUDA -Wall -Wextra -Wno-unused-parameter -Wno-unknown-pragmas -Wno-missing-field-initializers"
)


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def build() -> tuple[Path, Path]:
    """The library of all kernels, and the program of faults.cu; built where out of date."""
    import ninja

    torch_root = Path(torch.__file__).parent
    includes = f"-I{HERE / 'include'} -isystem {torch_root / 'include'}"
    compile_ = f"{compiler()} -MMD -MF $out.d {FLAGS} {SANITIZERS} {includes} -x c++ $extra -c $in -o $out"
    torch_link = f"-Wl,-Bsymbolic -L{torch_root / 'lib'} -Wl,--no-as-needed -ltorch"
    lines = [
        "ninja_required_version = 1.5",
        f"rule compile\n  command = {compile_}\n  depfile = $out.d\n  deps = gcc",
        f"rule link\n  command = {compiler()} {SANITIZERS} $in -o $out $extra",
    ]

    def edge(target: str, rule: str, sources: list[Path], extra: str = "") -> Path:
        lines.append(f"build {FOLDER / target}: {rule} {' '.join(map(str, sources))}\n  extra = {extra}")
        return FOLDER / target

    layer = edge("cuda_host.o", "compile", [HERE / "cuda_host.cpp"])
    instructions = edge("ptx.o", "compile", [HERE / "ptx.cpp"])
    under_cpu_key = f"-include {HERE / 'under_cpu_key.h'}"
    kernels = [
        edge(f"{source.stem}.o", "compile", [source], under_cpu_key)
        for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    ]
    library = edge("libcuda_host.so", "link", [layer, instructions, *kernels], f"-shared {torch_link}")
    faults = edge("faults", "link", [layer, edge("faults.o", "compile", [HERE / "faults.cu"])])
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "build.ninja").write_text("\n".join(lines) + "\n")
    subprocess.run([str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(FOLDER), "--quiet"], check=True, stdout=sys.stderr)
    return library, faults


if __name__ == "__main__":
    print(*build())
