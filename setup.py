"""Builds the native parts of fastops with ninja and prints every decision it takes.

    fastops/_cpu.so    schemas and CPU kernels, each simd/ file once per instruction set   (always)
    fastops/_cuda.so   CUDA kernels                                    (when a CUDA toolkit is found)
    fastops/_host.*    pybind11 module with the build information                          (always)

CUDA code is compiled wherever a CUDA toolkit is, with or without a GPU: for the GPUs that nvidia-smi lists, else for
every architecture below. Environment variables:

    FASTOPS_BUILD=cpu|gpu|cuda  no CUDA | CUDA only where nvidia-smi lists a GPU | CUDA, or fail without a toolkit
    FASTOPS_BUILD=none          compile nothing and keep what is there (the Makefile, which compiles first or later)
    FORCE_CUDA=1                the same as FASTOPS_BUILD=cuda
    TORCH_CUDA_ARCH_LIST        architectures such as "8.0 9.0+PTX", or "all"
    CUDA_HOME, CXX, MAX_JOBS    as everywhere; CXX may be a command with arguments
    FASTOPS_PYTHONS             further interpreters to build `_host` for: one wheel for all of them (`make wheel`)

ninja compiles only what changed. Where ccache is installed it is used, too.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
ALL_ARCHS = "7.5 8.0 8.6 8.9 9.0 10.0"  # and PTX of the last one that nvcc knows, for newer GPUs
STABLE_ABI_TARGET = "0x020b000000000000"  # torch 2.11
PTXAS_LOG = ROOT / "build" / "ptxas.log"  # registers and spills of each kernel for each architecture
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
ISA_FLAGS = {"baseline": [], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"]}
# Threading jumps past the clamps of Mish splits its loops into cases that are blended back under masks: without it
# mish takes 7 % less time, mish_max_pool2d a quarter. The adaptive activations, whose cases differ more, gain from it.
SIMD_FLAGS = dict.fromkeys(("mish", "mish_max_pool2d", "bias_activation", "winograd"), "-fno-thread-jumps")
# Instruction sets that one family of kernels alone is also compiled for: csrc/cpu/capability.h, Int8Isa.
VNNI = [*ISA_FLAGS["avx512"], "-mavx512vnni"]
EXTRA_ISA_FLAGS = {
    "quantized_conv": {
        "avx2_vnni": [*ISA_FLAGS["avx2"], "-mavxvnni"],
        "avx512_vnni": VNNI,
        "avx512_vbmi": [*VNNI, "-mavx512vbmi"],
        "avx512_amx": [*VNNI, "-mavx512vbmi", "-mamx-tile", "-mamx-int8"],
    }
}
if not IS_X86:
    ISA_FLAGS, EXTRA_ISA_FLAGS = {"baseline": []}, {}


def say(message: str) -> None:
    print(f"fastops build: {message}", flush=True)


def first_line(command: list[str], pattern: str = ".") -> str:
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return next((line.strip() for line in lines if re.search(pattern, line)), "unknown")


@lru_cache
def interpreters() -> dict[str, tuple[str, Path]]:
    """Suffix of extension modules and folder of headers, by tag, of the Pythons that `_host` is built for."""
    found = {f"cp3{sys.version_info.minor}": (sysconfig.get_config_var("EXT_SUFFIX"), sysconfig.get_path("include"))}
    code = (
        "import sys, sysconfig as s; "
        "assert sys.implementation.name == 'cpython' and sys.version_info >= (3, 10); "
        "assert not s.get_config_var('Py_GIL_DISABLED'); "
        "print(sys.version_info[1], s.get_config_var('EXT_SUFFIX'), s.get_path('include'))"
    )
    for python in shlex.split(os.environ.get("FASTOPS_PYTHONS", "")):
        run = shutil.which(python) and subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        minor, suffix, include = run.stdout.rstrip().split(" ", 2) if run and run.returncode == 0 else ("", "", "")
        if not (Path(include) / "Python.h").is_file():
            say(f"{python} must be CPython 3.10 or later, with the GIL and Python.h: no _host for it")
        else:
            found.setdefault(f"cp3{minor}", (suffix, include))
    return {tag: (suffix, Path(include)) for tag, (suffix, include) in found.items()}


def available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_cuda_home() -> Path | None:
    candidates = [os.environ.get("CUDA_HOME")]
    if nvcc := shutil.which("nvcc"):  # may be a wrapper script: nvcc itself tells where its toolkit is
        command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        candidates += re.findall(r"^#\$ TOP=(.+)$", answer, re.MULTILINE)
    candidates.append("/usr/local/cuda")
    return next((Path(c).resolve() for c in candidates if c and (Path(c) / "bin" / "nvcc").exists()), None)


def find_static_cudart(cuda_home: Path) -> Path:
    for folder in ("lib64", "lib", f"targets/{platform.machine()}-linux/lib"):
        if (cuda_home / folder / "libcudart_static.a").exists():
            return cuda_home / folder
    sys.exit(f"{cuda_home} has no libcudart_static.a: install it, or leave CUDA out with FASTOPS_BUILD=cpu")


def gpus() -> dict[str, str]:
    """Compute capability -> name of the GPUs that nvidia-smi lists; empty where there is none."""
    command = ["nvidia-smi", "--query-gpu=compute_cap,name", "--format=csv,noheader"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = re.findall(r"^(\d{1,2}\.\d), *(.+?) *$", run.stdout, re.MULTILINE) if run.returncode == 0 else []
    return dict(sorted(lines))


class Cuda(NamedTuple):
    """Whether CUDA code is compiled, for what, and why."""

    home: Path | None  # of the toolkit; None: no CUDA code
    archs: list[str]
    reason: str


def choose_cuda() -> Cuda:
    mode = os.environ.get("FASTOPS_BUILD", "cuda" if os.environ.get("FORCE_CUDA") == "1" else "auto")
    if mode not in ("auto", "cpu", "gpu", "cuda"):
        sys.exit(f"FASTOPS_BUILD must be cpu, gpu or cuda, got {mode!r}")
    if mode == "cpu":
        return Cuda(None, [], "FASTOPS_BUILD=cpu")
    present = gpus()
    if mode == "gpu" and not present:
        return Cuda(None, [], "nvidia-smi lists no GPU; FASTOPS_BUILD=cuda builds the CUDA kernels all the same")
    home = find_cuda_home()
    if home is None:
        if mode == "cuda":
            sys.exit("FASTOPS_BUILD=cuda: no CUDA toolkit found; set CUDA_HOME or put nvcc on PATH")
        return Cuda(None, [], "no CUDA toolkit found; CUDA_HOME or nvcc on PATH tells where one is")

    command = [home / "bin" / "nvcc", "--list-gpu-arch"]
    known = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    def is_known(arch: str) -> bool:
        return f"compute_{arch.partition('+')[0].replace('.', '').rstrip('af')}" in known

    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;,")
    if wanted and wanted.lower() != "all":
        entries = re.split(r"[\s;,]+", wanted)
        for entry in entries:
            if not re.fullmatch(r"\d{1,2}\.\d[af]?(\+PTX)?", entry):
                sys.exit(f"TORCH_CUDA_ARCH_LIST: an entry must look like 9.0 or 9.0+PTX, got {entry!r}")
        archs = [entry for entry in entries if is_known(entry)]
        if not archs:
            sys.exit(f"TORCH_CUDA_ARCH_LIST: an architecture must be known to {command[0]}, got {wanted!r}")
        left_out = [entry for entry in entries if entry not in archs]
        unknown = f"; {' '.join(left_out)} left out, unknown to this nvcc" if left_out else ""
        return Cuda(home, archs, f"TORCH_CUDA_ARCH_LIST{unknown}")
    if not wanted and present and all(map(is_known, present)):
        return Cuda(
            home, list(present), f"for the GPU here, {', '.join(present.values())}; TORCH_CUDA_ARCH_LIST changes it"
        )
    archs = [arch for arch in ALL_ARCHS.split() if is_known(arch)]
    archs[-1:] = [f"{arch}+PTX" for arch in archs[-1:]]
    if wanted:
        reason = "TORCH_CUDA_ARCH_LIST=all"
    elif present:
        reason = f"this nvcc does not know {' '.join(present)} of the GPU here"
    else:
        reason = "nvidia-smi lists no GPU, so for every architecture; TORCH_CUDA_ARCH_LIST=9.0 is for one"
    return Cuda(home, archs, f"{reason}; FASTOPS_BUILD=cpu leaves CUDA out")


def gencode_flags(archs: list[str]) -> list[str]:
    flags = []
    for entry in archs:
        arch, _, ptx = entry.partition("+")
        number = arch.replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def announce(cuda: Cuda, seconds: float) -> str:
    """The first line of the output: what is built, why, about how long, and which variable changes it."""
    what = f"CUDA kernels for {' '.join(cuda.archs)}" if cuda.home else "no CUDA kernels"
    minutes = f"about {max(1, round(seconds / 60))} min" if seconds >= 10 else "nothing much to compile"
    return f"CPU kernels ({', '.join(ISA_FLAGS)}) and {what} ({cuda.reason}): {minutes}"


def compile_seconds(rule: str, archs: int) -> float:
    """What a file takes on one core on average, for the estimate alone (Xeon Sapphire Rapids, GCC 12, nvcc 13.0).

    nvcc takes twice as long for two architectures.
    """
    return {"cxx": 2.0, "simd": 3.0, "nvcc": 10.5 * archs}.get(rule, 0.5)


def collect_ptxas_logs(objects: list[Path]) -> None:
    """One log for the table of tests/support/kernel_resources.py; what else the compiler said is said here."""
    lines = [line for path in objects for line in Path(f"{path}.log").read_text().splitlines()]
    resources = re.compile(r"ptxas info|\s+\d+ bytes stack frame")
    for line in lines:
        if not resources.match(line):
            print(line)
    PTXAS_LOG.parent.mkdir(exist_ok=True)
    PTXAS_LOG.write_text("\n".join(lines) + "\n")


class NinjaFile:
    """Collects rules and edges; the text of build.ninja."""

    def __init__(self) -> None:
        self.lines = ["ninja_required_version = 1.5"]
        self.targets: list[Path] = []

    def rule(self, name: str, command: str, deps: bool = True) -> None:
        self.lines += [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
        if deps:
            self.lines += ["  depfile = $out.d", "  deps = gcc"]

    def build(self, target: Path, rule: str, sources: list[Path], **variables: str) -> Path:
        inputs = " ".join(_escape(s) for s in sources)
        self.targets.append(target)
        self.lines.append(f"build {_escape(target)}: {rule} {inputs}")
        self.lines += [f"  {name} = {value}" for name, value in variables.items()]
        return target


def _escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(":", "$:").replace(" ", "$ ")


class BuildNative(build_ext):
    def run(self) -> None:
        if os.environ.get("FASTOPS_BUILD") == "none":
            return say("nothing is compiled (FASTOPS_BUILD=none)")
        import torch

        torch_root = Path(torch.__file__).parent
        # pip gives an editable build a new folder each time. One folder for all lets ninja compile only what changed.
        folder = f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        out = ROOT / "build" / folder if self.inplace else Path(self.build_temp).resolve()
        out.mkdir(parents=True, exist_ok=True)
        package = ROOT / "fastops" if self.inplace else Path(self.build_lib).resolve() / "fastops"
        package.mkdir(parents=True, exist_ok=True)

        cxx = os.environ.get("CXX", "c++")  # may be a command with arguments
        ccache = f"{found} " if (found := shutil.which("ccache")) and "ccache" not in cxx else ""
        cuda = choose_cuda()
        cuda_home, arch_names = cuda.home, cuda.archs

        common = [
            "-std=c++20",
            "-fPIC",
            "-fvisibility=hidden",
            f"-DTORCH_TARGET_VERSION={STABLE_ABI_TARGET}",
            f"-isystem {_quote(torch_root / 'include')}",
            *(["-DFASTOPS_X86"] if IS_X86 else []),
        ]
        cxx_flags = ["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", *common]
        simd_flags = [
            "-O3 -std=c++20 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi -Wno-maybe-uninitialized",
            # Neither changes a result: errno is not read and no floating-point trap is enabled. Without them a
            # comparison or a rounding keeps a loop from becoming SIMD code.
            "-fno-math-errno -fno-trapping-math -ffp-contract=fast",
        ]
        ninja = NinjaFile()
        ninja.rule("cxx", f"{ccache}{cxx} -MD -MF $out.d {' '.join(cxx_flags)} $extra -c $in -o $out")
        ninja.rule("simd", f"{ccache}{cxx} -MMD -MF $out.d {' '.join(simd_flags)} $extra -c $in -o $out")
        ninja.rule("link", f"{cxx} -shared $in -o $out $extra", deps=False)
        torch_link = f"-L{_quote(torch_root / 'lib')} -Wl,--no-as-needed -ltorch"

        def compile_(name: str, rule: str, source: Path, extra: str = "") -> Path:
            return ninja.build(out / f"{name}.o", rule, [source], extra=extra)

        objects = [compile_("library", "cxx", CSRC / "library.cpp")]
        objects += [compile_(f"cpu_{s.stem}", "cxx", s) for s in sorted((CSRC / "cpu").glob("*.cpp"))]
        for s in sorted((CSRC / "simd").glob("*.cpp")):
            for isa, flags in {**ISA_FLAGS, **EXTRA_ISA_FLAGS.get(s.stem, {})}.items():
                extra = " ".join([*flags, f"-DFASTOPS_ISA={isa}"])
                flags_of_stem = f"{extra} {SIMD_FLAGS.get(s.stem, '')}".rstrip()
                objects.append(compile_(f"simd_{s.stem}_{isa}", "simd", s, flags_of_stem))
        built = {"_cpu.so": ninja.build(out / "_cpu.so", "link", objects, extra=torch_link)}

        nvcc_version = ""
        if cuda_home is not None:
            nvcc = cuda_home / "bin" / "nvcc"
            nvcc_version = first_line([str(nvcc), "--version"], "release")
            host_flags = " ".join(f"-Xcompiler {f}" for f in ("-fPIC", "-fvisibility=hidden"))
            cuda_common = [f for f in common if not f.startswith(("-fPIC", "-fvisibility"))]
            nvcc_command = [
                f"{ccache}{_quote(nvcc)}",
                f"-ccbin {_quote(shlex.split(cxx)[-1])}",
                "-O3 -DUSE_CUDA -diag-suppress 20208",
                *cuda_common,
                host_flags,
                *gencode_flags(arch_names),
            ]
            # What ptxas says of each kernel goes to a log of its own: collect_ptxas_logs.
            command = f"{' '.join(nvcc_command)} -Xptxas -v -MD -MF $out.d -c $in -o $out"
            ninja.rule("nvcc", f"{command} > $out.log 2>&1 || {{ cat $out.log; exit 1; }}")
            cuda_objects = [compile_(f"cuda_{s.stem}", "nvcc", s) for s in sorted((CSRC / "cuda").glob("*.cu"))]
            lib_dir = find_static_cudart(cuda_home)
            # The static runtime: the library then works beside whichever CUDA runtime torch brought along, given a
            # driver for this toolkit's version.
            cuda_link = f"{torch_link} -L{_quote(lib_dir)} -lcudart_static -ldl -lrt -lpthread -Wl,--exclude-libs,ALL"
            built["_cuda.so"] = ninja.build(out / "_cuda.so", "link", cuda_objects, extra=cuda_link)

        import pybind11

        info = {
            "VERSION": self.distribution.get_version(),
            "CXX_COMPILER": first_line([*shlex.split(cxx), "--version"]),
            "CXX_FLAGS": " ".join(f for f in cxx_flags if not f.startswith("-isystem")),
            "SIMD_FLAGS": " ".join(simd_flags),
            "CPU_CAPABILITIES": " ".join(ISA_FLAGS),
            "CUDA_COMPILER": nvcc_version,
            "CUDA_ARCHS": " ".join(arch_names),
            "BUILT_WITH_TORCH": torch.__version__,
            "STABLE_ABI_TARGET": "2.11",
        }
        header = "".join(f'#define FASTOPS_{k} "{_c_string(v)}"\n' for k, v in info.items())
        info_file = out / "build_info.h"
        if not info_file.exists() or info_file.read_text() != header:
            info_file.write_text(header)
        for tag, (suffix, include) in interpreters().items():
            host_flags = " ".join(f"-I{_quote(path)}" for path in (out, pybind11.get_include(), include))
            sources = sorted((CSRC / "host").glob("*.cpp"))
            host_objects = [compile_(f"host_{s.stem}.{tag}", "cxx", s, host_flags) for s in sources]
            host_objects.append(out / "cpu_capability.o")
            built[f"_host{suffix}"] = ninja.build(out / f"_host{suffix}", "link", host_objects, extra="")

        (out / "build.ninja").write_text("\n".join(ninja.lines) + "\n")
        command = [_ninja(), "-C", str(out), *map(str, built.values())]
        jobs = os.environ.get("MAX_JOBS")
        command += ["-j", jobs] if jobs else []
        # Of what ninja would do, without doing it.
        steps = subprocess.run([*command, "-n"], capture_output=True, text=True, check=False).stdout
        rules = re.findall(r"^\[\d+/\d+\] (\w+) ", steps, re.MULTILINE)
        seconds = sum(compile_seconds(rule, len(arch_names)) for rule in rules)
        say(announce(cuda, seconds / min(int(jobs or available_cpus()), available_cpus())))
        say(f"torch {torch.__version__}, {ccache}{cxx}{f', {nvcc_version}' if nvcc_version else ''}")
        start = time.monotonic()
        if subprocess.run(command).returncode != 0:
            hint = "; FASTOPS_BUILD=cpu leaves the CUDA kernels out" if cuda_home is not None else ""
            sys.exit(f"fastops build: compiling failed, see above{hint}")
        say(f"{len(rules)} of {len(ninja.targets)} files made in {time.monotonic() - start:.0f} s")
        if "_cuda.so" in built:
            collect_ptxas_logs(cuda_objects)
        else:
            (package / "_cuda.so").unlink(missing_ok=True)
            if self.inplace:  # a wheel of the CPU kernels leaves what is known of the CUDA kernels here
                PTXAS_LOG.unlink(missing_ok=True)
        for name, path in built.items():
            temporary = package / f".{name}.tmp"
            shutil.copy2(path, temporary)
            os.replace(temporary, package / name)
            say(f"wrote {name} ({path.stat().st_size / 2**20:.1f} MiB)")

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "fastops"
        return [str(p) for p in (*package.glob("_c*.so"), *package.glob("_host*"))]


class Wheel(bdist_wheel):
    """A wheel for the Pythons that it has a `_host` for: what else is compiled knows nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform_tag = super().get_tag()
        tags = sorted(interpreters(), key=lambda tag: int(tag[3:]))
        return (python, abi, platform_tag) if len(tags) == 1 else (".".join(tags), "none", platform_tag)


def _quote(path: Path | str) -> str:
    """A path as a word of a command in build.ninja."""
    return shlex.quote(str(path)).replace("$", "$$")


def _c_string(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _ninja() -> str:
    try:
        import ninja

        return str(Path(ninja.BIN_DIR) / "ninja")
    except (ImportError, AttributeError):
        found = shutil.which("ninja")
        if found is None:
            sys.exit("ninja is needed to build: pip install ninja")
        return found


setup(ext_modules=[Extension("fastops._host", sources=[])], cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel})
