import json

import pytest

from netsim import SCENARIOS, RunOptions, RunReport, run
from netsim.cli import main

KEYS = {
    "scenario",
    "members",
    "seed",
    "p50_s",
    "p99_s",
    "max_s",
    "false_deaths",
    "faults_fired",
    "bytes_per_member_s_mean",
    "bytes_per_member_s_p99",
    "messages_per_member_s",
    "protocol",
}


def play(scenario: str, members: int = 16, **more: object) -> RunReport:
    options = RunOptions(scenario, members, checked=True, settle_s=3.0, **more)  # type: ignore[arg-type]
    report = run(options)
    assert report.problems == ()
    assert report.members == members
    assert report.faults_fired > 0 or scenario == "quiet"
    return report


def test_a_crash_is_known_to_all() -> None:
    report = play("crash", faults=2)
    assert report.faults_fired == 2 and report.samples == 2 * 14
    assert report.p99_s is not None and report.p99_s < 3.0
    assert report.false_deaths == 0


@pytest.mark.slow
def test_a_host_crash_is_known_to_all() -> None:
    report = play("host-crash", workers_per_host=4)
    assert report.details["workers"] == 4 and report.samples == 4 * 12
    assert report.p99_s is not None and report.p99_s < 12.0


@pytest.mark.slow
def test_a_stalled_member_is_shown_and_survives() -> None:
    report = play("stall", duration_s=20.0, faults=1)
    assert report.false_deaths == 0 and report.samples == 15
    assert report.p50_s is not None and report.p50_s < 3.0


def test_who_leaves_is_gone_at_once_and_never_called_dead() -> None:
    report = play("leave", faults=2)
    assert report.details["called_dead"] == 0
    assert report.p50_s is not None and report.p50_s < 1.0


@pytest.mark.slow
def test_loss_kills_nobody() -> None:
    report = play("loss", 12, duration_s=60.0)
    assert report.false_deaths == 0 and report.details["lost"] > 0


@pytest.mark.slow
def test_one_way_flapping_kills_nobody_that_can_be_reached() -> None:
    assert play("flap", 12, duration_s=40.0).false_deaths == 0


@pytest.mark.slow
def test_halves_find_each_other_and_nobody_is_resurrected() -> None:
    report = play("partition", 12, duration_s=40.0)
    assert report.details["separated"] == 8
    assert report.max_s is not None and report.max_s < 30.0


@pytest.mark.slow
def test_churn_is_followed() -> None:
    report = play("churn", duration_s=24.0)
    assert report.false_deaths == 0 and report.details["views_missing_after_10_s"] == 0


def test_a_cold_start_converges() -> None:
    report = play("join")
    assert report.samples == 16 and report.max_s is not None and report.max_s < 20.0


@pytest.mark.slow
def test_slow_members_harm_healthy_ones_under_swim_and_not_here() -> None:
    ours = play("slow", 24, duration_s=20.0, spell_s=9.0)
    swim = run(RunOptions("slow", 24, duration_s=20.0, spell_s=9.0, protocol="swim"))
    assert swim.false_deaths >= 50 * max(1, ours.false_deaths)


def test_a_crash_is_found_while_messages_are_lost() -> None:
    report = play("crash", loss=0.05, faults=2)
    assert report.false_deaths == 0 and report.p99_s is not None and report.p99_s < 3.0


def test_a_third_killed_at_one_moment_is_known_to_all() -> None:
    """More than one accuser may report at once: the limits of distrust must not delay it."""
    report = play("third", 24)
    assert report.samples == 8 * 16 and report.false_deaths == 0
    assert report.p99_s is not None and report.p99_s < 3.0


@pytest.mark.slow
def test_a_join_wave_while_others_die_converges() -> None:
    report = play("wave")
    assert report.samples == 30 and report.false_deaths == 0
    assert report.max_s is not None and report.max_s < 20.0


def test_one_of_two_processes_at_one_address_stands() -> None:
    report = play("twins", 8, duration_s=120.0)
    assert report.details["outbids"] <= 20
    assert report.details["log_lines"] <= 16
    assert report.details["refuted"] == 0, "the one that is reached was never doubted"


def test_of_six_processes_at_one_address_five_move_and_all_see_all() -> None:
    report = play("movers", 8, duration_s=30.0, faults=5)
    assert report.samples == 5 and report.details["refuted"] == 0
    assert report.max_s is not None and report.max_s < 15.0
    assert report.details["log_lines"] <= 30


def test_looking_for_the_dead_costs_all_members_together_one_connect_a_minute_each() -> None:
    report = play("dead", faults=6)
    assert 0 < report.details["connects_per_dead_and_minute"] <= 2.5


@pytest.mark.soak
def test_looking_for_the_dead_costs_no_more_among_two_thousand() -> None:
    report = run(RunOptions("dead", 2000, faults=64, duration_s=60.0))
    assert report.problems == ()
    assert 0 < report.details["connects_per_dead_and_minute"] <= 2.0


def test_quiet_costs_little() -> None:
    report = play("quiet", duration_s=10.0, faults=2)
    assert report.bytes_per_member_s_mean < 1500
    assert report.messages_per_member_s > 0


@pytest.mark.parametrize("protocol", ["memberlist", "swim"])
def test_the_comparison_plays_by_its_own_rules(protocol: str) -> None:
    report = run(RunOptions("crash", 16, protocol=protocol, checked=True, faults=2, settle_s=1.0))
    assert report.problems == () and report.protocol == protocol
    # One probe, and a suspicion of 4 x log10(16) s that confirmations have shortened.
    assert report.p50_s is not None and 4.8 < report.p50_s < 30.0


def test_every_message_survives_its_encoding() -> None:
    play("join", 12, through_wire=True)


def test_the_line_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crash", "--members", "8", "--json", "--settle", "1"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert set(json.loads(line)) >= KEYS


def test_scenarios_have_the_promised_names() -> None:
    promised = "join crash host-crash stall loss flap partition churn leave slow"
    assert set(promised.split()) <= set(SCENARIOS)


@pytest.mark.parametrize("wrong", [("crash", 2, "netmesh"), ("crash", 8, "raft")])
def test_wrong_options_are_refused(wrong: tuple[str, int, str]) -> None:
    with pytest.raises(ValueError, match=r"raft|too few"):
        run(RunOptions(wrong[0], wrong[1], protocol=wrong[2]))
