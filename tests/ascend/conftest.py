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
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

HERE = Path(__file__).parent

RECORDED = pytest.StashKey[int]()
"""How much of the record there was before a test."""

NEED_VLLM = frozenset(
    f"test_{name}.py"
    for name in (
        *("formats_pull", "generate", "plugins", "pull", "quantised", "runtime_pull"),
        *("upstream", "worker"),
    )
)
"""Files whose processes need vLLM."""

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
    config.pluginmanager.register(_Printer(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test of this folder its marker. What needs vLLM takes longest, so it begins."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ascend)
    items.sort(key=lambda item: item.path.name not in NEED_VLLM)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """One process of pytest-xdist runs all that need vLLM, so vLLM is imported once."""
    return _ByImports(config, log)


class _ByImports(LoadFileScheduling):
    """Each file as a whole, and some files together."""

    def _split_scope(self, nodeid: str) -> str:
        path: str = nodeid.partition("::")[0]
        return "vllm" if Path(path).name in NEED_VLLM else path


RAN = "by fallback"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Have each test of this folder record its operators anew.

    A process that serves several tests records each operator once, in the first of them.
    pytest calls this for the tests of all folders, once it has read this file.
    """
    if HERE in item.path.parents:
        from fakecann import record

        record.start_again()
        item.stash[RECORDED] = len(_record())
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give the last report of a test what ran by fallback in it, here or in a process of its own.

    The report is what reaches the terminal, also from another process of pytest-xdist.
    """
    report = yield
    if call.when == "teardown" and RECORDED in item.stash:
        names = sorted(set(_record()[item.stash[RECORDED] :].split()))
        report.user_properties.append((RAN, ", ".join(names)))
    return report


class _Printer:
    """Prints what reports say."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        names = dict(report.user_properties).get(RAN)
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if names and report.when == "teardown" and reporter is not None:
            # Tests of two processes end in any order, so the line says whose it is.
            test = report.nodeid.rpartition("::")[2]
            reporter.ensure_newline()
            reporter.write_line(f"    by fallback, so no NPU kernel, in {test}: {names}")


def _record() -> str:
    return Path(os.environ["FAKECANN_RECORD"]).read_text()
