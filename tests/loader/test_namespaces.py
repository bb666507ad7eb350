"""Pulls between hosts as clusters have them: behind NAT, behind firewalls, with IPv6."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.loader.hosts import PUBLIC, Hosts, published, two_hosts
from tests.mesh.support import until

from netloader.replica.settings import PullSettings

pytestmark = pytest.mark.slow

BUDGET_S = PullSettings().peer_budget_s
CONSTANT_S = 10.0
"""Mesh start, discovery, a busy test machine, and a model of a few megabytes from storage."""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with two_hosts(tmp_path) as made:
        yield made


def pulled(said: list[dict[str, Any]], endpoint: str) -> None:
    (one,) = said
    assert (one["origin"], one["right"], one["not_served"]) == ("peers", True, ""), one
    assert list(one["delivered"]) == [endpoint]


def from_storage_in_time(said: list[dict[str, Any]], *words: str) -> None:
    (one,) = said
    assert (one["origin"], one["right"]) == ("storage", True), one
    assert one["seconds"] < BUDGET_S + CONSTANT_S
    assert all(any(word in reason for reason in one["skipped"]) for word in words), one["skipped"]


def test_published_ports_make_a_working_source(hosts: Hosts) -> None:
    hosts.container()
    inside = {
        "MESH_PORT": 7000,
        "MESH_ADVERTISE": f"{PUBLIC}:17000",
        "LISTEN_PORT": 7100,
        "LISTEN_ADVERTISE": 17100,
        "PORT_RANGE": "7200-7209",
    }
    data = [(port, port) for port in range(7200, 7210)]
    with (
        published(hosts, (17000, 7000), (17100, 7100), *data),
        hosts.workers("c", inside) as first,
    ):
        assert first[0]["member"] == f"{PUBLIC}:17000"
        assert (first[0]["endpoint"], first[0]["not_served"]) == (f"{PUBLIC}:17100", "")
        with hosts.workers("b", {"MESH_SEEDS": f"{PUBLIC}:17000"}) as second:
            pulled(second, f"{PUBLIC}:17100")


def test_data_ports_that_are_not_published_cost_seconds_and_are_named(hosts: Hosts) -> None:
    hosts.container()
    inside = {
        "MESH_PORT": 7000,
        "MESH_ADVERTISE": f"{PUBLIC}:7000",
        "LISTEN_PORT": 7100,
        "PORT_RANGE": "7200-7209",
    }
    hosts.drop("a", "7200-7209")
    with (
        published(hosts, (7000, 7000), (7100, 7100)),
        hosts.workers("c", inside),
        hosts.workers("b", {"MESH_SEEDS": f"{PUBLIC}:7000"}) as second,
    ):
        from_storage_in_time(second, f"its data port {PUBLIC}:72")


def test_a_firewall_that_lets_only_the_range_through(hosts: Hosts) -> None:
    ports = {"PORT_RANGE": "20000-20019"}
    for host in ("a", "b"):
        hosts.drop(host, "1024-19999", "20020-32767")  # Above are the ports of clients.
    with (
        hosts.workers("a", {"MESH_SEEDS": "10.97.0.1", **ports}) as first,
        hosts.workers("b", {"MESH_SEEDS": "10.97.0.1", **ports}) as second,
    ):
        pulled(second, first[0]["endpoint"])
        for one in (*first, *second):
            for address in (one["member"], one["endpoint"]):
                assert 20000 <= int(address.rpartition(":")[2]) <= 20019


@pytest.mark.soak
def test_one_of_24_members_whose_data_ports_are_open(hosts: Hosts) -> None:
    members = [
        {"MESH_SEEDS": "10.97.0.1:7000", "MESH_PORT": 7000 + number, "LISTEN_PORT": 7100 + number}
        | {"PORT_RANGE": f"{20000 + 10 * number}-{20009 + 10 * number}"}
        for number in range(24)
    ]
    with hosts.workers("a", *members) as sources:
        assert [one["not_served"] for one in sources] == [""] * 24
        hosts.drop("a", "20000-20129", "20140-20239")
        with hosts.workers("b", {"MESH_SEEDS": "10.97.0.1:7000"}) as second:
            pulled(second, "10.97.0.1:7113")
            assert second[0]["seconds"] < BUDGET_S


@pytest.mark.parametrize("seed", ["[fd97::1]", "nodes"])
def test_addresses_of_ipv6_alone(hosts: Hosts, seed: str) -> None:
    hosts.only_v6()
    names = "127.0.0.1 localhost\n::1 localhost\nfd97::1 nodes\nfd97::2 nodes\n"
    with (
        hosts.workers("a", {"MESH_SEEDS": seed}, names=names) as first,
        hosts.workers("b", {"MESH_SEEDS": seed}, names=names) as second,
    ):
        assert first[0]["endpoint"].startswith("[fd97::1]:")
        pulled(second, first[0]["endpoint"])


def test_a_name_with_addresses_of_both_kinds(hosts: Hosts) -> None:
    names = "127.0.0.1 localhost\n" + "".join(
        f"{address} nodes\n" for address in ("10.97.0.1", "fd97::1", "10.97.0.2", "fd97::2")
    )
    with (
        hosts.workers("a", {"MESH_SEEDS": "nodes"}, names=names) as first,
        hosts.workers("b", {"MESH_SEEDS": "nodes"}, names=names) as second,
    ):
        pulled(second, first[0]["endpoint"])


def test_of_a_name_to_advertise_the_seeds_choose_the_address(hosts: Hosts) -> None:
    names = "".join(f"{one} a-host\n" for one in ("fd97::1", "10.97.0.9", "10.97.0.1"))
    seeds = {"MESH_SEEDS": "10.97.0.1"}
    with hosts.workers("a", seeds | {"MESH_ADVERTISE": "a-host"}, names=names) as first:
        assert first[0]["member"].startswith("10.97.0.1:")
        with hosts.workers("b", seeds) as second:
            pulled(second, first[0]["endpoint"])


@pytest.mark.soak
def test_a_path_that_drops_large_packets_costs_the_budget(hosts: Hosts) -> None:
    hosts.container()
    hosts.narrow()
    seeds = {"MESH_SEEDS": "172.31.0.2:17946"}
    with (
        hosts.workers("c", seeds) as first,
        hosts.workers("b", seeds | {"PEER_BUDGET": 5}) as second,
    ):
        from_storage_in_time(second, f"(PEER_BUDGET); asked last: {first[0]['endpoint']}")
        assert second[0]["seconds"] < 5 + CONSTANT_S


@pytest.mark.soak
def test_a_connection_that_a_firewall_forgets_costs_the_budget(hosts: Hosts) -> None:
    seeds = {"MESH_SEEDS": "10.97.0.1"}
    slow = {"RATE_LIMIT": 1_000_000}
    with hosts.workers("a", seeds | slow) as first:

        def cut_off() -> None:
            until(lambda: hosts.received("b") > 2_000_000)
            hosts.cut_off("b")

        cut = Thread(target=cut_off)
        cut.start()
        with hosts.workers("b", seeds | {"PEER_BUDGET": 5}) as second:
            from_storage_in_time(second, f"asked last: {first[0]['endpoint']}")
            assert second[0]["seconds"] < 5 + 5 + CONSTANT_S
        cut.join()


@pytest.mark.soak
def test_an_interface_that_vanishes_comes_back_with_its_source(hosts: Hosts) -> None:
    seeds = {"MESH_SEEDS": "10.97.0.1"}
    with hosts.workers("a", seeds) as first:
        hosts.ip("a", "link set eth0 down")
        with hosts.workers("b", seeds | {"PEER_BUDGET": 5}) as second:
            from_storage_in_time(second)
        hosts.ip("a", "link del eth0")
        hosts.wire()
        with hosts.workers("b", seeds) as second:
            pulled(second, first[0]["endpoint"])


def test_members_of_other_fabrics_never_transfer(hosts: Hosts) -> None:
    seeds = {"MESH_SEEDS": "10.97.0.1"}
    with hosts.workers("a", seeds | {"FABRIC": "rail-1"}) as first:
        with hosts.workers("b", seeds | {"FABRIC": "rail-2"}) as second:
            from_storage_in_time(second, "FABRIC: mine rail-2, theirs rail-1")
        with hosts.workers("b", seeds | {"FABRIC": "rail-1"}) as third:
            pulled(third, first[0]["endpoint"])
