import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from netmesh.address import Address
from netmesh.bootstrap.resolve import Resolver
from netmesh.bootstrap.sources import FEW_HOSTS, Bootstrap
from netmesh.errors import SettingsError
from netmesh.program import Program
from netmesh.seeds import DnsSeed, HostSeed, Seed
from netmesh.settings import WELL_KNOWN_PORT, MeshSettings, well_known_ports

LOG = logging.getLogger("netmesh.test")
ME = Address("10.0.0.1", 17946)


def bootstrap(
    tmp_path: Path,
    *seeds: str,
    environ: Mapping[str, str] | None = None,
    allowed: bool = True,
    port: int | None = None,
    resolver: Resolver | None = None,
) -> Bootstrap:
    settings = MeshSettings(seeds=seeds, directory=tmp_path / "d", port=port)
    return Bootstrap.of(settings, environ or {}, LOG, remote_allowed=allowed, resolver=resolver)


def test_explicit_seeds_come_before_the_scheduler(tmp_path: Path) -> None:
    environ = {"SLURM_JOB_NODELIST": "n[1-2]"}
    assert bootstrap(tmp_path, "a:7", environ=environ).seeds == (HostSeed(Address("a", 7)),)
    found = bootstrap(tmp_path, environ=environ).seeds
    assert {seed.address.host for seed in found if isinstance(seed, HostSeed)} == {"n1", "n2"}


def found_at(made: Bootstrap) -> set[Address]:
    return {address for source in made.sources() for address in source.find()}


def test_a_seed_without_a_port_is_asked_at_the_ports_of_the_mesh(tmp_path: Path) -> None:
    seeds = ("10.0.0.1", "10.0.0.2:7")
    assert found_at(bootstrap(tmp_path, *seeds)) == {
        Address("10.0.0.2", 7),
        *(Address("10.0.0.1", port) for port in well_known_ports("default")),
    }
    alone = bootstrap(tmp_path, *seeds, port=5000)
    assert found_at(alone) == {Address("10.0.0.1", 5000), Address("10.0.0.2", 7)}


def test_a_name_with_many_hosts_is_asked_at_the_usual_port_only(tmp_path: Path) -> None:
    def lookup(address: Address) -> list[Address]:
        return [Address(f"10.0.1.{n}", address.port) for n in range(FEW_HOSTS + 1)]

    found = found_at(bootstrap(tmp_path, "dns://pods", resolver=Resolver(lookup)))
    assert {address.port for address in found} == {WELL_KNOWN_PORT}
    assert len(found) == FEW_HOSTS + 1


def test_a_schedulers_nonsense_is_not_the_operators_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert bootstrap(tmp_path, environ={"SLURM_JOB_NODELIST": "n[1-"}).seeds == ()
    assert "SLURM_JOB_NODELIST" in caplog.text


@pytest.mark.parametrize("seed", ["10.0.0.1", "name", "dns://name", "dns+srv://name"])
def test_no_key_no_remote_seed(tmp_path: Path, seed: str) -> None:
    with pytest.raises(SettingsError, match=r"MESH_SEEDS.*MESH_KEY_FILE"):
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
    # Loopback leads somewhere else on every host, but an observer is on this one.
    assert not keyed.accepts(local, ME) and keyed.accepts(local)
    assert keyed.accepts(local, Address("127.0.0.1", 6))
    assert not keyed.accepts(remote, Address("127.0.0.1", 6))


def test_a_member_is_no_contact_of_itself(tmp_path: Path) -> None:
    made = bootstrap(tmp_path, "10.0.0.1", "10.0.0.2")
    found = [address for source in made.sources(announce=lambda: ME) for address in source.find()]
    assert Address("10.0.0.2", 17946) in found
    assert ME not in found


def test_a_start_does_not_wait_for_a_hanging_resolver(tmp_path: Path) -> None:
    answered = threading.Event()

    def lookup(address: Address) -> list[Address]:
        if address.host == "slow":
            answered.wait(30)
        return [ME]

    made = bootstrap(tmp_path, "dns://slow:1", "10.0.0.1:1", resolver=Resolver(lookup))
    try:
        assert made.resolve_now(timeout_s=0.5) == [ME]
        assert not answered.is_set()
    finally:
        answered.set()


def test_the_service_is_the_operators_else_the_programs(tmp_path: Path) -> None:
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "POD_NAMESPACE": "team"}
    settings = MeshSettings(directory=tmp_path, program=Program(service="crew"))

    def seeds(settings: MeshSettings) -> tuple[Seed, ...]:
        return Bootstrap.of(settings, inside, LOG, remote_allowed=True).seeds

    assert seeds(settings) == (DnsSeed(Address("crew.team.svc", 0)),)
    named = settings.model_copy(update={"kubernetes_service": "mine"})
    assert seeds(named) == (DnsSeed(Address("mine.team.svc", 0)),)


def test_a_program_says_how_its_keys_are_made(tmp_path: Path) -> None:
    settings = MeshSettings(seeds=("10.0.0.1",), program=Program(keygen="crew key"))
    with pytest.raises(SettingsError, match="make a key with `crew key`"):
        Bootstrap.of(settings, {}, LOG, remote_allowed=False)
