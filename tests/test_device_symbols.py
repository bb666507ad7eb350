"""The pages on devices list every name that our code uses, and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.device_symbols import ASCEND, CUDA, Family, listed, symbols, table

ROOT = Path(__file__).parents[1]
PAGES = pytest.mark.parametrize("family", [ASCEND, CUDA], ids=["ascend", "cuda"])


@PAGES
def test_the_page_lists_what_the_code_uses(family: Family) -> None:
    assert listed(family.page.read_text()) == table(family), "run `python -m tests.device_symbols`"


@PAGES
def test_every_claim_names_a_test_that_exists(family: Family) -> None:
    part = family.page.read_text().partition("\n## What is proved by what\n")[2]
    rows = [row for row in part.partition("\n## ")[0].splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 5
    for row in rows:
        named = re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", row)
        assert named, f"no test stands for this claim: {row}"
        for file, test in named:
            whole = ROOT / file
            files = sorted(whole.glob("test_*.py")) if whole.is_dir() else [whole]
            assert files, f"{file} has no tests"
            defined = {
                node.name
                for one in files
                for node in ast.walk(ast.parse(one.read_text()))
                if isinstance(node, ast.FunctionDef)
            }
            assert not test or test in defined, f"{file} has no {test}"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("npu.set_device(1)", {"torch_npu.npu.set_device"}),
        ("x = ProcessGroupHCCL.Options()", {"torch_npu._C.ProcessGroupHCCL.Options"}),
        ("torch.ops.npu.npu_format_cast(x, 2)", {"torch.ops.npu.npu_format_cast"}),
        ("call('HcclSend', 'aclrtSetDevice')", {"HcclSend", "aclrtSetDevice"}),
        ("lib.aclrtDestroyEvent(x)", {"aclrtDestroyEvent"}),
        ("os.environ['P2P_HCCL_BUFFSIZE']", {"P2P_HCCL_BUFFSIZE"}),
        ("npu.device(0); self._group.abort()", {"torch_npu.npu.device", "abort"}),
        ("npu.device(0); self._group.mine()", {"torch_npu.npu.device"}),
        ("self._group.abort()", set()),
        ('"""Says HcclSend."""', set()),
    ],
)
def test_names_are_found(line: str, names: set[str]) -> None:
    imports = "import torch\nfrom torch_npu import npu\nfrom torch_npu._C import ProcessGroupHCCL\n"
    assert symbols(imports + line, ASCEND, {"mine"}) == names
