"""Tests of the Ascend stack over the emulated CANN, and which operators each ran by fallback.

Nothing here is collected in an environment without torch_npu: `make test-unit` and `make test-e2e`
see no test of this folder, `make test-ascend` runs them all.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if importlib.util.find_spec("torch_npu") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    # An operator that fails says so at its own call, in this process. Those that tests start keep
    # torch_npu's default, a queue. Read when torch is imported.
    os.environ["TASK_QUEUE_ENABLE"] = "0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test of this folder its marker."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ascend)


@pytest.fixture(autouse=True)
def _fallback_record(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Collects the operators of this process and of all that the test starts."""
    from fakecann import record

    path = tmp_path / "fallback"
    monkeypatch.setenv("FAKECANN_RECORD", str(path))
    record.start_again()
    yield
    if path.exists():
        names = sorted(set(path.read_text().split()))
        print(f"by fallback, so no NPU kernel: {', '.join(names)}")


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print that line also for a test that passed."""
    if report.when == "teardown":
        for line in report.capstdout.splitlines():
            if line.startswith("by fallback"):
                print(f"\n    {line}", flush=True)
