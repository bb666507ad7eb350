"""Kubernetes' variables are told from an operator's."""

from __future__ import annotations

import pytest

from netmesh.errors import SettingsError
from netmesh.program import Program
from netmesh.services import is_of_service
from netmesh.settings import MeshSettings

CREW = Program(prefix="CREW_")

WRITTEN = {
    "CREW_MESH_PORT": "tcp://10.96.0.1:17946",
    "CREW_MESH_SERVICE_HOST": "10.96.0.1",
    "CREW_MESH_SERVICE_PORT": "17946",
    "CREW_MESH_SERVICE_PORT_GOSSIP": "17946",
    "CREW_MESH_PORT_17946_TCP": "tcp://10.96.0.1:17946",
    "CREW_MESH_PORT_17946_TCP_PROTO": "tcp",
    "CREW_MESH_PORT_17946_TCP_PORT": "17946",
    "CREW_MESH_PORT_17946_TCP_ADDR": "10.96.0.1",
}
"""All that Kubernetes writes for a Service `crew-mesh` with a port named `gossip`."""


def test_a_services_variables_are_no_settings() -> None:
    assert MeshSettings.load({}, WRITTEN, CREW) == MeshSettings(program=CREW)


@pytest.mark.parametrize(
    "value", ["tcp://[fd00::1]:17946", "udp://10.96.0.1:53", "sctp://10.96.0.1:9"]
)
def test_each_protocol_and_family(value: str) -> None:
    assert is_of_service("CREW_MESH_PORT", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CREW_MESH_PORT", "banana"),
        ("CREW_MESH_PORT", "17946"),
        ("CREW_MESH_PORT", "tcp://10.96.0.1"),
        ("CREW_MESH_PORT", "http://10.96.0.1:80"),
        ("CREW_MESH_PORT", " tcp://10.96.0.1:80"),
        ("CREW_MESH_SEEDS", "tcp://10.96.0.1:17946"),
    ],
)
def test_what_an_operator_wrote_stays_his(name: str, value: str) -> None:
    assert not is_of_service(name, value)


@pytest.mark.parametrize("value", ["banana", "tcp://10.96.0.1"])
def test_nonsense_of_an_operators_still_stops_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="MESH_PORT"):
        MeshSettings.load({}, {"CREW_MESH_PORT": value}, CREW)


def test_beside_the_operators_own_the_settings_are_his() -> None:
    with pytest.raises(SettingsError, match="MESH_PORT"):
        MeshSettings.load({"MESH_PORT": WRITTEN["CREW_MESH_PORT"]}, {}, CREW)
    assert MeshSettings.load({"MESH_PORT": 5000}, WRITTEN, CREW).port == 5000
