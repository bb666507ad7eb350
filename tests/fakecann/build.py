"""Builds the emulated CANN into the environment that runs this: `python tests/fakecann/build.py`.

The libraries go to `site-packages/torch_npu.libs`, where the loader looks for what torch_npu needs:
no variable has to be set. An up-to-date build is kept.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))

import symbols

HERE: Final = Path(__file__).parent
SITE: Final = Path(sysconfig.get_path("purelib"))
LIBRARIES: Final = SITE / "torch_npu.libs"

ONLY_TO_LOAD: Final = ("ge_runner", "graph", "acl_tdt_channel")
"""Libraries that torch_npu names and takes nothing from."""

_COMPILE: Final = (
    *("g++", "-std=c++17", "-O1", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror"),
    *("-isystem", str(SITE / "torch_npu/include/third_party/acl/inc")),
    *("-isystem", str(SITE / "torch_npu/include")),
)

_REFUSING: Final = """// Made by build.py: what torch_npu links to and the emulation does not have.
#include "{here}/src/refusals.h"
extern "C" {{
{functions}
}}
"""


class BuildError(Exception):
    """The emulation could not be built."""


def main() -> None:
    if not (SITE / "torch_npu").is_dir():
        raise SystemExit(f"no torch_npu in {SITE}: `make test-ascend` installs it")
    started = time.monotonic()
    stamp = LIBRARIES / ".built"
    newest = max(path.stat().st_mtime for path in _inputs())
    if stamp.exists() and stamp.stat().st_mtime >= newest:
        return
    try:
        refused = build()
    except BuildError as error:
        raise SystemExit(str(error)) from None
    stamp.touch()
    took = time.monotonic() - started
    print(f"built the emulated CANN in {took:.0f} s; {refused} functions only refuse")


def build() -> int:
    """Make all libraries. Returns how many functions are only there to refuse."""
    objects = LIBRARIES / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    sources = [*HERE.glob("src/*/*.cpp"), HERE / "src/compiler.cpp"]
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda source: _compile(source, objects), sources)
        made = dict(zip(sources, compiled, strict=True))
    acl = [made[source] for source in sources if source.parent.name == "acl"]
    hccl = [made[source] for source in sources if source.parent.name == "hccl"]

    # Linked twice: the first libraries tell which functions are still missing.
    _link("ascendcl", acl)
    _link("hccl", hccl, needs=("ascendcl",))
    _link("acl_op_compiler", [made[HERE / "src/compiler.cpp"]], needs=("ascendcl",))
    have = {
        name
        for library in ("ascendcl", "hccl", "acl_op_compiler")
        for name in symbols.defined(LIBRARIES / f"lib{library}.so")
    }
    missing = sorted(symbols.wanted_by_torch_npu(SITE) - have)
    returns = _return_types()
    _link("ascendcl", [*acl, _refusing("refused", missing, returns, objects)])
    # torch_npu looks for grouped operations in this one.
    _link("hcomm", [], needs=("hccl",))
    atb = sorted(symbols.wanted_by_atb(SITE) - have)
    _link("atb", [_refusing("refused_atb", atb, returns, objects)], needs=("ascendcl",))
    for name in ONLY_TO_LOAD:
        _link(name, [])
    return len(missing) + len(atb)


def _inputs() -> list[Path]:
    torch_npu = SITE / "torch_npu/lib/libtorch_npu.so"
    return [torch_npu, *HERE.glob("*.py"), *HERE.glob("src/**/*.cpp"), *HERE.glob("src/**/*.h")]


def _return_types() -> dict[str, str]:
    """What CANN's functions return, by their names, as the headers in the wheel say."""
    headers = (SITE / "torch_npu/include/third_party").rglob("*.h")
    declaration = re.compile(r"^(?:ACL_FUNC_VISIBILITY|extern)\s+(.*?[\s*])(\w+)\(", re.MULTILINE)
    return {
        name: kind.strip()
        for header in headers
        for kind, name in declaration.findall(header.read_text(errors="replace"))
    }


def _refusing(name: str, functions: Sequence[str], returns: dict[str, str], objects: Path) -> Path:
    """An object with functions that say their names and fail, as their return types allow."""
    source = objects / f"{name}.cpp"
    lines = []
    for function in functions:
        kind = returns.get(function, "")
        if kind in ("aclError", "HcclResult"):
            body = f'return fakecann::refuse_function("{function}");'
            lines.append(f"int {function}() {{ {body} }}")
        elif kind.endswith("*"):
            body = f'fakecann::refuse_function("{function}"); return nullptr;'
            lines.append(f"void *{function}() {{ {body} }}")
        else:
            body = f'fakecann::stop_at_function("{function}");'
            lines.append(f"void {function}() {{ {body} }}")
    source.write_text(_REFUSING.format(here=HERE.resolve(), functions="\n".join(lines)))
    return _compile(source, objects)


def _compile(source: Path, objects: Path) -> Path:
    made = objects / f"{source.parent.name}_{source.stem}.o"
    _run([*_COMPILE, "-c", str(source), "-o", str(made)])
    return made


def _link(name: str, objects: Sequence[Path], needs: Sequence[str] = ()) -> None:
    _run(
        [
            *("g++", "-shared", "-pthread", f"-Wl,-soname,lib{name}.so", "-Wl,-rpath,$ORIGIN"),
            *(str(path) for path in objects),
            *("-o", str(LIBRARIES / f"lib{name}.so"), f"-L{LIBRARIES}", "-Wl,--no-as-needed"),
            *(f"-l{library}" for library in needs),
        ]
    )


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(
            f"{command[0]} is not installed, which the emulation is built with"
        ) from None
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    main()
