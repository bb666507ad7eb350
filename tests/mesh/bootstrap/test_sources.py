import logging
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from netmesh.bootstrap import sources as module
from netmesh.bootstrap.address import Address
from netmesh.bootstrap.seeds import DnsSeed, HostSeed, Seed
from netmesh.bootstrap.sources import Bootstrap
from netmesh.errors import ConfigError
from netmesh.settings import MeshSettings

LOG = logging.getLogger("netmesh.test")
ME = Address("10.0.0.1", 17946)


def bootstrap(
    tmp_path: Path,
    *seeds: str,
    environ: Mapping[str, str] | None = None,
    allowed: bool = True,
    port: int | None = None,
) -> Bootstrap:
    settings = MeshSettings(seeds=seeds, directory=tmp_path / "d", port=port)
    return Bootstrap.of(settings, environ or {}, LOG, remote_allowed=allowed)


def test_explicit_seeds_come_before_the_scheduler(tmp_path: Path) -> None:
    environ = {"SLURM_JOB_NODELIST": "n[1-2]"}
    assert bootstrap(tmp_path, "a", environ=environ).seeds == (HostSeed(Address("a", 17946)),)
    found = bootstrap(tmp_path, environ=environ, port=5000).seeds
    assert set(found) == {HostSeed(Address("n1", 5000)), HostSeed(Address("n2", 5000))}


def test_a_schedulers_nonsense_is_not_the_operators_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert bootstrap(tmp_path, environ={"SLURM_JOB_NODELIST": "n[1-"}).seeds == ()
    assert "SLURM_JOB_NODELIST" in caplog.text


@pytest.mark.parametrize("seed", ["10.0.0.1", "name", "dns://name", "dns+srv://name"])
def test_no_key_no_remote_seed(tmp_path: Path, seed: str) -> None:
    with pytest.raises(ConfigError, match=r"MESH_SEEDS.*MESH_KEY_FILE"):
        bootstrap(tmp_path, seed, allowed=False)


def test_no_key_and_a_scheduler_is_just_this_host(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "RAY_ADDRESS": "10.0.0.1:6379"}
    made = bootstrap(tmp_path, environ=environ, allowed=False)
    assert made.seeds == ()
    assert len(made.sources()) == 1


def test_what_may_become_a_contact(tmp_path: Path) -> None:
    local, remote = Address("127.0.0.1", 5), Address("10.0.0.2", 5)
    keyless = bootstrap(tmp_path, allowed=False)
    assert keyless.accepts(local)
    assert not keyless.accepts(remote)
    keyed = bootstrap(tmp_path)
    assert keyed.accepts(remote, ME)
    assert not keyed.accepts(Address("fe80::2", 5), ME)


def test_a_member_is_no_contact_of_itself(tmp_path: Path) -> None:
    made = bootstrap(tmp_path, "10.0.0.1", "10.0.0.2")
    found = [address for source in made.sources(announce=ME) for address in source.find()]
    assert found == [Address("10.0.0.2", 17946)]


def test_a_start_does_not_wait_for_a_hanging_resolver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESOLVE_S", 0.05)

    def resolve(seed: Seed, _: int) -> list[Address]:
        if isinstance(seed, DnsSeed):
            time.sleep(1)
        return [ME]

    monkeypatch.setattr(module, "resolve", resolve)
    started = time.monotonic()
    assert bootstrap(tmp_path, "dns://slow", "10.0.0.1").resolve_now() == [ME]
    assert time.monotonic() - started < 0.5
