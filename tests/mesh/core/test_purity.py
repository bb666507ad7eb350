import ast
from pathlib import Path

import netmesh.core

CORE = Path(netmesh.core.__file__).parent
FORBIDDEN = {
    "asyncio", "concurrent", "datetime", "multiprocessing", "os", "pathlib", "pickle", "queue",
    "random", "secrets", "select", "selectors", "signal", "socket", "subprocess", "sys",
    "tempfile", "threading", "time", "uuid", "zmq",
}  # fmt: skip
ALLOWED_INSIDE = ("netmesh.core", "netmesh.errors")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found.add(node.module or "")
    return found


def test_core_imports_no_clock_no_randomness_and_no_io() -> None:
    for path in sorted(CORE.glob("*.py")):
        for name in imports(path):
            assert name.partition(".")[0] not in FORBIDDEN, f"{path.name} imports {name}"


def test_core_imports_nothing_else_of_netmesh() -> None:
    for path in sorted(CORE.glob("*.py")):
        for name in imports(path):
            if name.startswith("netmesh"):
                assert name.startswith(ALLOWED_INSIDE), f"{path.name} imports {name}"


def test_the_check_would_notice() -> None:
    source = CORE / "wire.py"
    assert "hashlib" in imports(source) and "netmesh.core" in imports(source)
