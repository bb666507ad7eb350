import logging
from collections.abc import Mapping, Sequence

import pytest

from netmesh.address import Address
from netmesh.bootstrap.advertise import choose_host, is_own, udp_source
from netmesh.errors import SettingsError
from netmesh.program import Program
from netmesh.settings import MeshSettings

LOG = logging.getLogger("test.advertise")
REMOTE = [Address("10.0.0.1", 5)]
LOCAL = [Address("127.0.0.1", 5)]


def choose(
    explicit: str | None = None,
    environ: Mapping[str, str] | None = None,
    seeds: Sequence[Address] = (),
    *,
    open_: bool = True,
    source: str | None = "10.0.0.7",
    networks: str = "",
    named: Sequence[str] = ("10.9.9.9",),
    sources: Mapping[str, str] | None = None,
    elsewhere: Sequence[str] = (),
    bind: str | None = None,
) -> Address:
    return choose_host(
        MeshSettings(
            advertise=explicit,
            networks=networks,
            bind=bind,
            program=Program(host_variables=("MY_IP", "POD_IP")),
        ),
        environ or {},
        seeds,
        remote_allowed=open_,
        source_of=lambda target: (sources or {}).get(target.host, source),
        lookup=lambda address: (
            [address] if address.ip else [Address(host, address.port) for host in named]
        ),
        is_ours=lambda host: host not in elsewhere,
        log=LOG,
    )


def test_order_of_the_candidates() -> None:
    both = {"MY_IP": "10.0.0.2", "POD_IP": "10.0.0.3"}
    assert choose("10.0.0.4", both, REMOTE).host == "10.0.0.4"
    assert choose(None, both, REMOTE).host == "10.0.0.2"
    assert choose(None, {"POD_IP": "10.0.0.3"}, REMOTE).host == "10.0.0.3"
    assert choose(None, {}, REMOTE).host == "10.0.0.7"
    assert choose(None, {}, []).host == "10.0.0.7"
    assert choose(None, {}, [], source=None).host == "127.0.0.1"


def test_names_become_addresses_and_a_port_is_kept() -> None:
    assert choose("node", seeds=REMOTE) == Address("10.9.9.9", 0)
    assert choose("node:99", seeds=REMOTE) == Address("10.9.9.9", 99)


@pytest.mark.parametrize("named", [("fd00::9", "10.9.9.8", "10.9.9.9", "fd00::8")])
def test_of_a_names_addresses_the_seeds_and_then_the_interfaces_choose(
    named: Sequence[str],
) -> None:
    v6 = [Address("fd00::1", 5)]
    assert choose("node:9", seeds=REMOTE, named=named).host == "10.9.9.8"
    assert choose("node:9", seeds=v6, named=named).host == "fd00::9"
    elsewhere = ["10.9.9.8", "fd00::9"]
    assert choose("node", seeds=REMOTE, named=named, elsewhere=elsewhere).host == "10.9.9.9"
    assert choose("node", seeds=v6, named=named, elsewhere=elsewhere).host == "fd00::8"
    assert choose("node", named=named, elsewhere=named[:3]).host == "fd00::8"
    assert choose("node", seeds=v6, named=["10.9.9.9"]).host == "10.9.9.9"


def test_a_name_without_an_address_is_refused_with_what_to_do() -> None:
    with pytest.raises(SettingsError, match=r"'node' cannot be used: it does not resolve.*correct"):
        choose("node", seeds=REMOTE, named=())


@pytest.mark.parametrize(
    "bad", ["0.0.0.0", "127.0.0.1", "fe80::7", "not an address", "224.0.0.1", ""]
)
def test_unusable_environment_is_passed_over(bad: str) -> None:
    environ = {"MY_IP": bad, "POD_IP": "10.0.0.3"}
    assert choose(None, environ, REMOTE).host == "10.0.0.3"


@pytest.mark.parametrize("bad", ["0.0.0.0", "[::]", "127.0.0.1", "[::1]:5", "224.0.0.1", "fe80::7"])
def test_unusable_explicit_address_is_refused(bad: str) -> None:
    with pytest.raises(SettingsError, match="MESH_ADVERTISE"):
        choose(bad, {}, REMOTE)


def test_no_route_to_a_remote_seed_is_refused() -> None:
    for source in (None, "0.0.0.0", "127.0.0.1"):
        with pytest.raises(SettingsError, match=r"10\.0\.0\.1:5"):
            choose(None, {}, REMOTE, source=source)


def test_the_address_is_one_in_the_allowed_networks() -> None:
    both = {"MY_IP": "10.0.0.2", "POD_IP": "192.0.2.3"}
    assert choose(None, both, REMOTE, networks="192.0.2.0/24").host == "192.0.2.3"
    routes = {"172.16.0.0": "172.16.5.5"}
    found = choose(None, {}, REMOTE, networks="fd00::/8,172.16.0.0/12", sources=routes)
    assert found.host == "172.16.5.5"
    with pytest.raises(SettingsError, match=r"MESH_NETWORKS.*192\.0\.2\.0/24"):
        choose(None, {}, REMOTE, networks="192.0.2.0/24")
    with pytest.raises(SettingsError, match=r"MESH_ADVERTISE.*192\.0\.2\.0/24"):
        choose("10.0.0.4", {}, networks="192.0.2.0/24")


def test_allowed_networks_say_nothing_about_loopback() -> None:
    assert choose(None, {}, LOCAL, source="127.0.0.1", networks="10.0.0.0/8").host == "127.0.0.1"
    assert choose(None, {}, open_=False, networks="10.0.0.0/8").host == "127.0.0.1"


def test_local_seeds_mean_loopback() -> None:
    assert choose(None, {}, LOCAL, source="127.0.0.1").host == "127.0.0.1"


def test_without_a_key_only_loopback_whatever_the_environment_says() -> None:
    assert choose(None, {"POD_IP": "10.0.0.3"}, open_=False).host == "127.0.0.1"
    assert choose(None, {}, [Address("::1", 5)], open_=False).host == "::1"
    assert choose("127.0.0.2:8", {}, open_=False) == Address("127.0.0.2", 8)
    with pytest.raises(SettingsError, match="MESH_KEY_FILE"):
        choose("10.0.0.4", {}, open_=False)


def test_the_kernel_knows_the_way_to_loopback() -> None:
    assert udp_source(Address("127.0.0.1", 9)) == "127.0.0.1"


def test_an_address_that_no_interface_has_is_passed_over_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {"MY_IP": "192.0.2.9", "POD_IP": "10.0.0.3"}
    assert choose(None, environ, REMOTE, elsewhere=["192.0.2.9"]).host == "10.0.0.3"
    (warning,) = caplog.messages
    assert "MY_IP=192.0.2.9" in warning and "MESH_ADVERTISE" in warning


def test_the_operators_choice_need_not_be_an_address_of_this_host() -> None:
    assert choose("192.0.2.9:80", {}, REMOTE, elsewhere=["192.0.2.9"]) == Address("192.0.2.9", 80)


def test_the_bound_address_is_advertised_if_others_can_use_it() -> None:
    both = {"MY_IP": "10.0.0.2"}
    assert choose(None, both, REMOTE, bind="10.0.0.5").host == "10.0.0.5"
    assert choose("10.0.0.4", both, REMOTE, bind="10.0.0.5").host == "10.0.0.4"
    for nowhere in ("0.0.0.0", "::", "127.0.0.1"):
        assert choose(None, both, REMOTE, bind=nowhere).host == "10.0.0.2"


def test_a_bound_address_that_others_cannot_use_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"BIND='10\.0\.0\.5'.*no interface .* `ip addr`"):
        choose(None, {}, REMOTE, bind="10.0.0.5", elsewhere=["10.0.0.5"])
    with pytest.raises(SettingsError, match=r"BIND='127\.0\.0\.1'.*seed 10\.0\.0\.1:5 is remote"):
        choose(None, {}, REMOTE, bind="127.0.0.1")
    assert choose("10.0.0.4", {}, REMOTE, bind="127.0.0.1").host == "10.0.0.4"
    assert choose(None, {}, LOCAL, bind="127.0.0.1").host == "127.0.0.1"


def test_without_a_key_nothing_is_bound_beyond_loopback() -> None:
    assert choose(None, {}, open_=False, bind="127.0.0.9").host == "127.0.0.9"
    with pytest.raises(SettingsError, match=r"BIND='10.0.0.5'.*MESH_KEY_FILE"):
        choose(None, {}, open_=False, bind="10.0.0.5")


def test_the_kernel_knows_which_addresses_are_ours() -> None:
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.1")
    assert not is_own("2001:db8::1")
