from netmesh.core.health import SAMPLES, LocalHealth, RoundTrips
from netmesh.core.settings import ProtocolSettings

SETTINGS = ProtocolSettings()


def test_the_multiplier_stays_within_one_and_eight() -> None:
    health = LocalHealth(SETTINGS)
    health.better()
    assert health.multiplier == 1
    for _ in range(20):
        health.worse()
    assert health.multiplier == SETTINGS.local_health_max == 8


def test_the_timeout_follows_the_slowest_recent_round_trip() -> None:
    trips = RoundTrips(SETTINGS)
    assert trips.timeout_s(1) == SETTINGS.probe_timeout_max_s
    trips.add(0.1)
    assert trips.timeout_s(1) == 0.4
    assert trips.timeout_s(3) == 3 * 0.4
    for _ in range(SAMPLES):
        trips.add(0.001)
    assert trips.timeout_s(1) == SETTINGS.probe_timeout_min_s
    trips.add(5.0)
    assert trips.timeout_s(1) == SETTINGS.probe_timeout_max_s
