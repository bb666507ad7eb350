"""Tests of the Ascend stack over the emulated CANN. Each prints which operators ran by fallback.

Nothing here is collected in an environment without torch_npu: `make test-unit` and `make test-e2e`
see no test of this folder, `make test-ascend` runs them all.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

HAS_NPU = importlib.util.find_spec("torch_npu") is not None

if not HAS_NPU:
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Settings that torch_npu reads when torch is imported, and a file for all processes."""
    if not HAS_NPU:
        return
    # In this process an operator raises at its own call. The processes that tests start keep
    # torch_npu's default, a queue that reports errors later.
    os.environ["TASK_QUEUE_ENABLE"] = "0"
    descriptor, path = tempfile.mkstemp(prefix="fallback-")
    os.close(descriptor)
    os.environ["FAKECANN_RECORD"] = path
    config.add_cleanup(Path(path).unlink)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test of this folder its marker."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ascend)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Print which operators ran by fallback in a test, here or in a process that it started.

    A process that serves several tests records each operator once, in the first of them.
    pytest calls this for the tests of all folders, once it has read this file.
    """
    if HERE not in item.path.parents:
        return (yield)
    from fakecann import record

    record.start_again()
    path = Path(os.environ["FAKECANN_RECORD"])
    before = len(path.read_text())
    outcome = yield
    names = sorted(set(path.read_text()[before:].split()))
    reporter = item.config.pluginmanager.get_plugin("terminalreporter")
    if names and reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(f"    by fallback, so no NPU kernel: {', '.join(names)}")
    return outcome
