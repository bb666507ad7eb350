from dataclasses import replace

from netsim.evidence import TARGETS
from netsim.scenarios import SCENARIOS, run


def test_every_target_names_a_scenario_and_a_size() -> None:
    assert {target.options.scenario for target in TARGETS} <= set(SCENARIOS)
    assert max(target.options.members for target in TARGETS) == 2000


def test_a_target_is_met_or_missed_by_its_report() -> None:
    crash = TARGETS[0]
    report = run(replace(crash.options, members=8, settle_s=1.0))
    assert crash.met(report)
    assert not crash.met(replace(report, p99_s=3.1))
    assert not crash.met(replace(report, p99_s=None))
