"""Transports by way of host memory on an NPU, and their choice beside HCCL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ascend.processes import START_S, Process

# The machine may be busy, and each process imports torch_npu.
pytestmark = pytest.mark.timeout(600)

LITTLE = {"FAKECANN_MEMORY_MB": "96"}
"""Room for the toy model, and none for the buffers of HCCL."""


@contextmanager
def end(
    home: Path, name: str, device: str, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    with Process("tests.ascend.staged_end", home, name, env=env, device=device) as process:
        yield process


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """Two on an NPU and one without, for all tests of this file."""
    home = tmp_path_factory.mktemp("ends")
    with (
        end(home, "npu", "npu") as npu,
        end(home, "other-npu", "npu") as other,
        end(home, "cpu", "cpu") as cpu,
    ):
        made = {"npu": npu, "other npu": other, "cpu": cpu}
        for one in made.values():
            one.answer(START_S)
        yield made


@pytest.mark.parametrize("transport", ["tcp", "gloo"])
@pytest.mark.parametrize(
    ("source", "replica", "kind"),
    [
        ("npu", "other npu", "reduce"),
        ("npu", "cpu", "reduce"),
        ("cpu", "npu", "xxh3"),
    ],
)
def test_host_memory_carries_a_model_between_any_two_devices(
    ends: dict[str, Process], source: str, replica: str, kind: str, transport: str
) -> None:
    held = ends[source].ask("serve", seed=7, only=[transport])
    pulled = ends[replica].ask("pull", endpoint=held["endpoint"])
    assert pulled["sha256"] == held["sha256"]
    assert pulled["where"] == [replica.split()[-1]]
    assert (pulled["transports"], pulled["kind"]) == ([transport], kind)


def test_only_device_memory_is_staged(ends: dict[str, Process]) -> None:
    assert ends["npu"].ask("stages") is True
    assert ends["cpu"].ask("stages") is False


def test_the_host_buffers_are_pinned(ends: dict[str, Process]) -> None:
    held = ends["npu"].ask("serve", seed=10, only=["tcp"])
    ends["other npu"].ask("pull", endpoint=held["endpoint"])
    for name in ("npu", "other npu"):
        assert "TCP carries device memory by way of host memory" in ends[name].output()
        assert "no pinned memory" not in ends[name].output()


def test_hccl_is_preferred_where_both_have_it(ends: dict[str, Process]) -> None:
    assert ends["npu"].ask("transports") == ["hccl", "tcp", "gloo", "tcp-sealed"]
    held = ends["npu"].ask("serve", seed=8)
    pulled = ends["other npu"].ask("pull", endpoint=held["endpoint"])
    assert pulled["sha256"] == held["sha256"]
    assert (pulled["transports"], pulled["failures"]) == (["hccl"], [])


@pytest.mark.parametrize("short", ["source", "replica"])
def test_without_memory_for_hccl_the_same_pull_goes_on_over_tcp(
    ends: dict[str, Process], tmp_path: Path, short: str
) -> None:
    with end(tmp_path, "short", "npu", LITTLE) as little:
        little.answer(START_S)
        source, replica = (little, ends["npu"]) if short == "source" else (ends["npu"], little)
        held = source.ask("serve", seed=9)
        pulled = replica.ask("pull", endpoint=held["endpoint"])
    assert pulled["sha256"] == held["sha256"]
    assert pulled["transports"] == ["tcp"]
    (failure,) = pulled["failures"]
    assert "no process group by hccl" in failure
