from netmesh.core.accusation_limits import REMEMBERED, AccusationLimits
from netmesh.core.records import MemberId
from netmesh.core.settings import ProtocolSettings

SETTINGS = ProtocolSettings()
LIAR = MemberId("10.0.0.9:17946")


def test_a_burst_of_deaths_is_believed_and_then_one_a_second() -> None:
    limits = AccusationLimits(SETTINGS)
    believed = sum(limits.may_declare_dead(LIAR, 100.0) for _ in range(1000))
    assert believed == SETTINGS.accuser_burst
    assert limits.may_declare_dead(LIAR, 101.5)
    assert not limits.may_declare_dead(LIAR, 101.5)


def test_who_is_refuted_too_often_is_not_believed_until_it_is_forgotten() -> None:
    limits = AccusationLimits(SETTINGS)
    assert limits.trusted(LIAR, 0.0)
    for _ in range(20):
        limits.refuted(LIAR, 0.0)
    assert not limits.trusted(LIAR, 1.0)
    assert limits.trusted(LIAR, 61.0)


def test_a_few_mistakes_are_forgiven() -> None:
    limits = AccusationLimits(SETTINGS)
    for _ in range(8):
        limits.refuted(LIAR, 0.0)
    assert limits.trusted(LIAR, 0.0)


def test_invented_accusers_do_not_fill_the_memory() -> None:
    limits = AccusationLimits(SETTINGS)
    for _ in range(20):
        limits.refuted(LIAR, 0.0)
    for index in range(REMEMBERED - 1):
        limits.may_declare_dead(MemberId(f"10.0.{index % 256}.{index // 256}:1"), 0.0)
    assert not limits.trusted(LIAR, 0.0)
    limits.may_declare_dead(MemberId("10.1.0.0:1"), 0.0)
    assert limits.trusted(LIAR, 0.0), "its account should have been the first to go"
