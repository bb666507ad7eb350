"""The symbols that torch_npu's wheel needs from CANN.

The wheel's libraries refer to them and no other library defines them. `nm` lists them, so another
version of torch_npu needs no change here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_SYSTEM: Final = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1")
_COMPILER: Final = ("libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2")


def wanted_by_torch_npu(site: Path) -> set[str]:
    """Symbols that must exist when torch_npu is imported."""
    package = site / "torch_npu"
    core = [*package.glob("_C*.so"), *(package / "lib").glob("*.so")]
    return _wanted([path for path in core if path.name != _ATB], core, site)


def wanted_by_atb(site: Path) -> set[str]:
    """C++ symbols that must exist when torch_npu's plugin for ATB is loaded."""
    package = site / "torch_npu"
    core = [*package.glob("_C*.so"), *(package / "lib").glob("*.so")]
    wanted = _wanted([package / "lib" / _ATB], core, site)
    return {name for name in wanted if name.startswith("_ZN3atb")}


_ATB: Final = "libop_plugin_atb.so"


def _wanted(of: Iterable[Path], beside: Iterable[Path], site: Path) -> set[str]:
    wanted = {name for path in of for name in _symbols(path, "--undefined-only")}
    others = [*beside, *(site / "torch" / "lib").glob("*.so*"), *_libraries(), _python()]
    return wanted - {name for path in others for name in defined(path)}


def defined(library: Path) -> set[str]:
    """Names that a shared library defines for others."""
    return _symbols(library, "--defined-only")


def _symbols(library: Path, which: str) -> set[str]:
    command = ["nm", "--dynamic", "--format=posix", which, str(library)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    # A weak reference may stay open.
    found = [line.split() for line in lines]
    return {words[0].partition("@")[0] for words in found if words[1] not in ("w", "v")}


def _libraries() -> list[Path]:
    """The C and C++ libraries that this machine's loader would take."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    paths = dict(re.findall(r"^\s*(\S+) \(.*x86-64.*\) => (\S+)$", listed.stdout, re.MULTILINE))
    return [Path(paths[name]) for name in (*_SYSTEM, *_COMPILER) if name in paths]


def _python() -> Path:
    """What holds the interpreter's C functions: this program, or its library."""
    program = Path(sys.executable).resolve()
    linked = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True)
    found = re.search(r"libpython\S+ => (\S+)", linked.stdout)
    return Path(found[1]) if found else program
