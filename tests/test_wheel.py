"""The wheel of `make wheel`, if dist/ has one newer than the sources: its requirements and its use."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT

# The newest of each that a system of that glibc has, as auditwheel's policies say.
GLIBCXX = {(2, 17): (3, 4, 19), (2, 28): (3, 4, 24), (2, 31): (3, 4, 28), (2, 34): (3, 4, 29), (2, 35): (3, 4, 30)}
SMOKE = """
import sys, torch, fastops, tracker
x = torch.randn(1000)
torch.testing.assert_close(fastops.mish(x), fastops.reference.mish(x))
info = fastops.build_info()
assert info["cpu_library"] == "loaded" and info["built_with_torch"], info
assert fastops.__file__.startswith(sys.prefix) and tracker.__file__.startswith(sys.prefix)
print(torch.__version__)
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    found = sorted((ROOT / "dist").glob("siamfc_fastops-*manylinux*.whl"), key=lambda path: path.stat().st_mtime)
    sources = [
        path
        for folder in ("csrc", "fastops", "tracker")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".cpp", ".h")
    ]
    newest = max(path.stat().st_mtime for path in (*sources, ROOT / "setup.py", ROOT / "pyproject.toml"))
    if not found or found[-1].stat().st_mtime < newest:
        pytest.skip("dist/ has no wheel newer than the sources: make wheel")
    return found[-1]


@pytest.fixture(scope="module")
def content(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def undefined(library: Path) -> list[str]:
    """The symbols, with their versions, that a library takes from others."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is not installed")
    command = [nm, "-D", "--undefined-only", "--with-symbol-versions", library]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[-1] for line in lines]


def test_name_tells_pythons_and_system(wheel, content):
    """A `_host` for each Python of the name, no more, and no library of others beside the ops."""
    pythons, abi, _ = re.fullmatch(r".*-((?:cp\d+\.?)+)-(\w+)-(\S+)\.whl", wheel.name).groups()
    libraries = sorted(path.name for path in content.rglob("*.so*"))
    hosts = [re.fullmatch(r"_host\.cpython-(\d+)-.*\.so", name) for name in libraries if name.startswith("_host")]
    assert sorted(f"cp{host[1]}" for host in hosts) == sorted(pythons.split("."))
    assert [name for name in libraries if not name.startswith("_host")] == ["_cpu.so"]
    assert abi == ("none" if len(hosts) > 1 else pythons)


def test_libraries_need_no_newer_system_than_the_name_says(wheel, content):
    # A name may carry several tags; the oldest system of them is what it promises.
    promised = min(tuple(map(int, tag)) for tag in re.findall(r"manylinux_(\d+)_(\d+)", wheel.name))
    compiler = GLIBCXX[max(glibc for glibc in GLIBCXX if glibc <= promised)]
    for library in content.rglob("*.so"):
        versions = re.findall(r"@+(GLIBC|GLIBCXX)_([\d.]+)", "\n".join(undefined(library)))
        assert versions
        for kind, version in versions:
            limit = promised if kind == "GLIBC" else compiler
            assert tuple(map(int, version.split("."))) <= limit, f"{library.name}: {kind}_{version}"


@pytest.mark.slow
def test_wheel_works_in_a_clean_environment(wheel, tmp_path):
    """Installed by pip without its dependencies, which come from the environment of the tests by a .pth file."""
    if f"cp3{sys.version_info.minor}" not in wheel.name:
        pytest.skip("the wheel is not for this Python")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    smoke = subprocess.run([python, "-c", SMOKE], **options)
    assert smoke.stdout.strip() == torch.__version__, smoke.stderr
    command = subprocess.run([tmp_path / "venv" / "bin" / "tracker", "--help"], **options)
    assert command.returncode == 0 and "track" in command.stdout
