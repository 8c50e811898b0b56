"""A table of each CUDA kernel's registers, shared memory, stack and spills, by architecture, from the log of ptxas.

python -m tests.support.kernel_resources      reads build/ptxas.log, which setup.py writes where it finds nvcc
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

LOG = ROOT / "build" / "ptxas.log"


@dataclass(frozen=True)
class Kernel:
    name: str  # with its template arguments, such as mish_kernel<float>
    arch: str  # sm_90
    registers: int
    shared: int  # bytes, static
    stack: int
    spills: int  # bytes stored and loaded

    @property
    def base(self) -> str:
        return self.name.partition("<")[0]


def demangle(names: list[str]) -> list[str]:
    """kernel<arguments> of each mangled name, without namespaces and parameters."""
    run = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = []
    for line in run.stdout.splitlines():
        line = re.sub(r"\(anonymous namespace\)::|fastops::|\([\w:]*\)(?=\w)", "", line).removeprefix("void ")
        line = line.replace("__nv_bfloat16", "bfloat16").replace("__half", "half")
        name, angle, rest = line.partition("<")
        depth, end = bool(angle), 0
        while angle and depth:  # to the bracket that closes the first
            depth += {"<": 1, ">": -1}.get(rest[end], 0)
            end += 1
        short.append(f"{name}<{rest[:end]}" if angle else name.partition("(")[0])
    return short


def read(log: Path = LOG) -> list[Kernel]:
    kernels, mangled, entry, stack, spills = [], [], None, 0, 0
    for line in log.read_text().splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            entry = match.groups()
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, spills = int(match[1]), int(match[2]) + int(match[3])
        elif (match := re.search(r"Used (\d+) registers", line)) and entry:
            shared = re.search(r"(\d+) bytes smem", line)
            mangled.append(entry[0])
            kernels.append((entry[1], int(match[1]), int(shared[1]) if shared else 0, stack, spills))
            entry = None
    return [Kernel(name, *rest) for name, rest in zip(demangle(mangled), kernels, strict=True)]


def table(kernels: list[Kernel]) -> str:
    archs = sorted({k.arch for k in kernels}, key=lambda arch: int(re.sub(r"\D", "", arch)))
    by_name: dict[str, dict[str, Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault(kernel.name, {})[kernel.arch] = kernel
    width = max(map(len, by_name))
    lines = [
        f"{'registers of':{width}} " + " ".join(f"{a:>7}" for a in archs) + "   shared  stack  spills (bytes, most)"
    ]
    for name, row in sorted(by_name.items()):
        cells = " ".join(f"{row[a].registers if a in row else '-':>7}" for a in archs)
        shared, stack, spills = (max(getattr(k, f) for k in row.values()) for f in ("shared", "stack", "spills"))
        lines.append(f"{name:{width}} {cells}  {shared:7} {stack:6} {spills:7}")
    return "\n".join(lines)


if __name__ == "__main__":
    if not LOG.exists():
        sys.exit(f"{LOG.name} is missing: it is written by a build with a CUDA toolkit")
    print(table(read()))
