"""Each benchmark once, small but real: what it reports, and that it leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from tests.loader.support import until

from netbench import cli, clock, starts, values
from netbench.backends import backends_of
from netbench.hosts import Hosts, HostsError
from netbench.serving import percentile
from netbench.sources import counts_up_to
from netloader.errors import TransportError

SLOW = [pytest.mark.slow, pytest.mark.timeout(300)]  # processes that import torch

Report = dict[str, Any]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "netbench", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def report(*arguments: str, timeout: float = 240) -> Report:
    """A process of its own: some benchmarks change how its memory is handled for good."""
    done = subprocess.run(
        command(*arguments, "--json"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Report = json.loads(done.stdout)
    return found


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == cli.BenchExit.USAGE
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("pair", "--bytes", "much"), "is not a size like 512MB"),
        (("pair", "--bytes", "0"), "is not a size like 512MB"),
        (("pair", "--repeat", "0"), "is not a whole number above 0"),
        (("sources", "--rate", "fast"), "is not a rate like 400mbit"),
        (("pair", "--cold", "frozen"), "invalid choice: 'frozen'"),
        (("kill", "--sources", "1"), "none would be left"),
        (("fanout", "--policy", "gossip"), "invalid choice: 'gossip'"),
        (("fanout", "--churn", "0"), "is not a whole number above 0"),
        (("coldstart", "--storage-rate", "slow"), "is not a rate like 400mbit"),
        (("starts", "--bytes", "0"), "is not a size like 512MB"),
        (("starts", "--executor", "ray"), "invalid choice: 'ray'"),
        (("fly",), "invalid choice"),
    ],
)
def test_a_bad_argument_is_explained(
    arguments: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert what in usage_error(capsys, *arguments)


def test_a_bad_row_list_is_an_error_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows").write_text("a bfloat16\n")
    assert cli.main(["pair", "--shape", str(tmp_path / "rows")]) == cli.BenchExit.USAGE
    assert "rows:1: 'a bfloat16' is not" in capsys.readouterr().err


def test_sizes_are_read_with_their_units() -> None:
    sizes = ("1000", "2KB", "1.5MB", "1GiB")
    assert [values.size(text) for text in sizes] == [1000, 2000, 1_500_000, 1 << 30]


def test_counts_of_sources_double_and_end_with_the_number() -> None:
    assert [counts_up_to(number) for number in (1, 2, 4, 6)] == [
        [1],
        [1, 2],
        [1, 2, 4],
        [1, 2, 4, 6],
    ]


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([float(number) for number in range(200)], 0.99) == 198.0


class TestPair:
    pytestmark = SLOW

    def test_warm_of_a_row_list(self, tmp_path: Path) -> None:
        rows = tmp_path / "rows"
        rows.write_text("a.big bfloat16 3000x700\na.small float32 100\nb float32 -\nc int8 70000\n")
        found = report("pair", "--shape", str(rows), "--repeat", "2")
        assert (found["benchmark"], found["memory"]) == ("pair", "warm")
        assert (found["tensors"], found["bytes"]) == (4, 4_270_404)
        check_pair(found, 2)
        assert "plain_gbps" not in found

    @pytest.mark.bench
    def test_staged_beside_gloo(self) -> None:
        found = report("pair", "--backend", "staged", "--bytes", "8MB", "--repeat", "2")
        assert (found["backend"], found["device"], found["bytes_ok"]) == ("staged", "cpu", True)
        rates = found["repetitions_gbps"]
        assert {name: len(values) for name, values in rates.items()} == dict.fromkeys(
            ("raw_one", "raw_two", "raw_one_copied", "raw_two_copied", "gloo", "staged"), 2
        )
        raw = min(found["raw_gbps"], found["raw_copied_gbps"])
        assert raw > 0 and found["ratio_raw_copied"] == pytest.approx(
            found["raw_copied_gbps"] / found["raw_gbps"], rel=0.01
        )
        assert found["ratio_gloo"] == pytest.approx(
            found["staged_gbps"] / found["gloo_gbps"], rel=0.01
        )

    def test_a_transport_that_the_machine_lacks(self) -> None:
        with pytest.raises(TransportError, match="this machine has no hccl"):
            backends_of("hccl")

    @pytest.mark.bench
    def test_cold(self) -> None:
        found = report("pair", "--bytes", "8MB", "--cold", "--repeat", "1")
        assert (found["memory"], found["prepared"], found["tensors"]) == ("cold", True, 171)
        check_pair(found, 1)
        assert found["untouched"] is True
        assert found["ratio_plain"] == pytest.approx(
            found["netloader_gbps"] / found["plain_gbps"], rel=0.01
        )

    @pytest.mark.bench
    def test_cold_without_preparation(self) -> None:
        found = report("pair", "--bytes", "8MB", "--cold", "unprepared", "--repeat", "1")
        assert (found["memory"], found["prepared"]) == ("cold", False)
        check_pair(found, 1)
        assert found["untouched"] is True

    @pytest.mark.bench
    def test_text_names_the_figures(self) -> None:
        done = subprocess.run(
            command("pair", "--shape", "moe", "--bytes", "2MB", "--repeat", "1"),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
        assert lines["tensors"].strip() == "10"
        assert float(lines["ratio_raw"]) > 0
        assert "repetitions" not in done.stdout


def check_pair(found: Report, repeat: int) -> None:
    assert found["bytes_ok"] is True
    rates = found["repetitions_gbps"]
    assert {len(values) for values in rates.values()} == {repeat}
    typical = {name: pytest.approx(median(values), rel=0.01) for name, values in rates.items()}
    assert found["raw_gbps"] in (typical["raw_one"], typical["raw_two"])
    assert found["netloader_gbps"] == typical["netloader"]
    assert found["upstream_gbps"] == typical["upstream"]
    ratio = found["netloader_gbps"] / found["raw_gbps"]
    assert found["ratio_raw"] == pytest.approx(ratio, rel=0.01)
    ratio = found["netloader_gbps"] / found["upstream_gbps"]
    assert found["ratio_upstream"] == pytest.approx(ratio, rel=0.01)
    assert found["setup_ms"] > 0
    assert {"digest_overhead", "extra_replica_mib", "extra_source_mib"} <= found.keys()


@pytest.fixture
def permitted() -> None:
    try:
        Hosts(1).remove()
    except HostsError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("permitted")
class TestSources:
    pytestmark = SLOW

    @pytest.mark.bench
    def test_every_count_is_run_and_all_sources_deliver(self) -> None:
        found = report(
            *("sources", "--sources", "2", "--rate", "200mbit", "--bytes", "8MB"),
            *("--chunk-bytes", "256KiB", "--repeat", "1"),
        )
        assert set(found["by_sources"]) == {"1", "2"}
        assert found["by_sources"]["1"]["share"] == 1.0
        assert found["by_sources"]["1"]["added_share"] is None
        two = found["by_sources"]["2"]
        assert two["added_share"] == pytest.approx(2 * two["share"] - 1, abs=0.01)
        assert found["by_sources"]["2"]["all_delivered"] is True
        assert found["bytes_ok"] is True
        # The limit holds: nothing was faster than the link, but for what its bucket lets through.
        assert found["raw_seconds"] > 0.8 * found["ideal_s"]
        assert found["by_sources"]["1"]["seconds"] > 0.8 * found["ideal_s"]

    @pytest.mark.bench
    def test_nothing_is_left_when_it_is_interrupted(self) -> None:
        process = subprocess.Popen(
            command("sources", "--bytes", "8MB", "--rate", "1mbit"),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: namespaces(process.pid), 60)
        process.terminate()
        assert process.wait(60) == cli.BenchExit.TERMINATED
        assert not namespaces(process.pid)
        assert not children_of(process.pid)


def namespaces(pid: int) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if line.startswith(f"nb{pid}")]


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def test_without_root_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["sources"]) == cli.BenchExit.NOT_PERMITTED
    err = capsys.readouterr().err
    assert "root" in err or "iproute2" in err


class TestKill:
    pytestmark = SLOW

    @pytest.mark.bench
    def test_a_load_survives_its_source(self) -> None:
        found = report(
            *("kill", "--trials", "2", "--bytes", "64MB", "--chunk-bytes", "1MiB", "--seed", "7")
        )
        assert (found["trials"], found["completed"]) == (2, 2)
        assert found["digests_ok"] is True
        assert found["refetched_chunks"] == 0
        assert len(found["all_trials"]) == 2
        assert found["raw_gbps"] > 0
        assert found["upstream_gbps"] > 0


@pytest.mark.bench
@pytest.mark.usefixtures("permitted")
class TestFanout:
    pytestmark = SLOW

    def test_replicas_feed_each_other(self) -> None:
        found = report(
            *("fanout", "--replicas", "2", "--rate", "200mbit", "--bytes", "16MB"),
            *("--chunk-bytes", "1MiB", "--repeat", "1"),
        )
        assert found["bytes_ok"] is True
        assert set(found["policies"]) == {"upstream", "naive", "swarm"}
        swarm = found["policies"]["swarm"]
        assert swarm["ratio"] == pytest.approx(swarm["makespan_s"] / found["ideal_s"], rel=0.01)
        assert swarm["ratio"] > 0.9, "a link carries no more than it may"
        assert len(swarm["per_replica_s"]) == 2
        assert found["policies"]["naive"]["source_copies"] == 2
        assert swarm["source_copies"] < 2

    def test_others_take_the_places_of_the_killed(self) -> None:
        found = report(
            *("fanout", "--replicas", "2", "--churn", "1", "--rate", "200mbit"),
            *("--bytes", "16MB", "--chunk-bytes", "1MiB", "--policy", "swarm", "--repeat", "1"),
        )
        swarm = found["policies"]["swarm"]
        assert (found["bytes_ok"], found["kills"], swarm["refetched_chunks"]) == (True, 1, 0)
        assert len(swarm["per_replica_s"]) == 2

    def test_one_reads_storage_for_all(self) -> None:
        found = report(
            *("coldstart", "--replicas", "3", "--rate", "200mbit", "--storage-rate", "100mbit"),
            *("--bytes", "16MB", "--chunk-bytes", "1MiB", "--repeat", "1"),
        )
        assert found["bytes_ok"] is True
        assert found["policies"]["storage"]["storage_copies"] == 3
        assert found["policies"]["swarm"]["storage_copies"] in (1, 2)


class TestStarts:
    def test_medians_and_ratios_are_of_the_repetitions(self) -> None:
        seen = {
            "raw": [{"seconds": 0.1}, {"seconds": 0.3}, {"seconds": 0.2}],
            "auto": [{"seconds": 1.0, "cpu_s": 1.5}] * 3,
            "netloader": [
                {"seconds": seconds, "cpu_s": 2.0, "filled_s": 0.5} for seconds in (9.0, 1.0, 1.1)
            ],
            "peer": [{"seconds": 0.5, "cpu_s": 1.0, "filled_s": 0.2}] * 3,
        }
        found = starts.report(seen)
        assert found["ratio_netloader"] == 1.1
        assert found["ratio_peer"] == 0.5
        assert found["ratio_raw"] == 0.2
        assert found["cases"]["netloader"] == {"load_model_s": 1.1, "cpu_s": 2.0, "filled_s": 0.5}
        assert found["cases"]["raw"] == {"load_model_s": 0.2}
        assert found["repetitions_load_model_s"]["netloader"] == [9.0, 1.0, 1.1]
        assert set(found["repetitions_filled_s"]) == {"netloader", "peer"}

    def test_the_raw_limit_reads_every_file(self, tmp_path: Path) -> None:
        files = [tmp_path / name for name in ("a", "b")]
        for file in files:
            file.write_bytes(bytes(3 << 20))
        assert starts.read_into_new_memory(files) > 0

    def test_the_plugin_is_found_and_idle_unless_told_where_to_write(self, tmp_path: Path) -> None:
        variables = clock.install(tmp_path / "plugin")
        code = (
            "from importlib.metadata import entry_points as e; import sys; "
            "(one,) = (p for p in e(group='vllm.general_plugins') if p.name == 'netbench_clock'); "
            "one.load()(); print('vllm' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.strip() == "False", done.stderr

    @pytest.mark.bench
    @pytest.mark.e2e
    @pytest.mark.timeout(1800)
    def test_one_start_of_each(self) -> None:
        pytest.importorskip("vllm")
        found = report(
            *("starts", "--bytes", "40MB", "--repeat", "1", "--executor", "uni"), timeout=1700
        )
        cases = found["cases"]
        assert set(cases) == {"raw", "auto", "netloader", "peer"}
        assert all(case["load_model_s"] > 0 for case in cases.values())
        for name in ("netloader", "peer"):
            assert 0 < cases[name]["filled_s"] < cases[name]["load_model_s"]
        ratio = cases["peer"]["load_model_s"] / cases["auto"]["load_model_s"]
        assert found["ratio_peer"] == pytest.approx(ratio, rel=0.01)
        assert found["bytes"] == pytest.approx(40e6, rel=0.5)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_serving_reports_every_phase() -> None:
    pytest.importorskip("vllm")
    found = report(
        *("serving", "--bytes", "40MB", "--rate-limit", "20MB"),
        *("--seconds", "3", "--repeat", "1"),
    )
    phases = found["phases"]
    idle = {"idle_uncapped", "idle_capped", "idle_again"}
    assert set(phases) == idle | {"uncapped", "raw", "capped"}
    assert all(phase["tokens"] > 0 for phase in phases.values())
    assert phases["uncapped"]["moved_gbps"] > 0
    # A bucket may let one turn more through than its rate.
    assert 0 < phases["capped"]["moved_gbps"] < 0.022
    assert 0 < phases["raw"]["moved_gbps"] < 0.022
