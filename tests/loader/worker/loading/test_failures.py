"""What a failure costs: the table that the code runs is the one that its docstring draws."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable

import pytest
import torch
from tests.loader.support import TamperedBackend, offer_of, serving, wrong_byte_in
from tests.loader.worker.loading.whole_load import (
    WEIGHTS,
    FakeEngine,
    load,
    no_garbage_collector,
    sources,
)

from netloader import errors
from netloader.errors import (
    ConfigError,
    IdentityError,
    ManifestError,
    NoSourceLeft,
    NothingToLoadError,
)
from netloader.identity.identity import Evidence
from netloader.plain import Plain
from netloader.transport.tcp import TcpBackend
from netloader.weights.poison import LeftoverError
from netloader.worker.loading import failures
from netloader.worker.loading.failures import RULES, Cost, Failed, Step, attempt, price
from netloader.worker.loading.serve import Served

SAMPLES = (
    ConfigError("KEY", 1, "2"),
    IdentityError("unknown"),
    errors.NotAtHand("not here"),
    ManifestError("differs"),
    NoSourceLeft("no source could be used", ()),
    NothingToLoadError("nothing"),
    LeftoverError("left over"),
    ValueError("a surprise"),
)


def drawn() -> dict[str, tuple[set[str], set[str], set[str]]]:
    """The table of the docstring: by step its own errors, their cost, and that of any other."""
    found = {}
    for row in str(failures.__doc__).splitlines():
        cells = re.split(r" {2,}", row.strip())
        if len(cells) == 4 and cells[0] in set(Step):
            own, cost, surprise = (set(cell.split(", ")) - {"-", "nothing"} for cell in cells[1:])
            found[cells[0]] = (own, cost, surprise)
    return found


def words(cost: Cost) -> set[str]:
    return {str(one.name).lower() for one in cost}


@pytest.mark.parametrize("step", Step)
def test_the_docstring_draws_the_rule_that_runs(step: Step) -> None:
    rule = RULES[step]
    names = {error.__name__ for error in rule.own}
    assert drawn()[step] == (names, words(rule.cost), words(rule.surprise))


def test_every_step_has_a_rule_and_a_row() -> None:
    assert set(RULES) == set(Step)
    assert set(drawn()) == set(Step)


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_costs_what_the_table_says(step: Step, error: Exception) -> None:
    own, cost, surprise = drawn()[step]
    if isinstance(error, (ConfigError, NothingToLoadError)):
        expected = {"start"}
    elif any(kind.__name__ in own for kind in type(error).__mro__):
        expected = cost
    else:
        expected = surprise
    assert words(price(step, error)) == expected


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_what_costs_the_start_is_raised_as_it_is_and_no_other(step: Step, error: Exception) -> None:
    def fail() -> str:
        raise error

    if Cost.START in price(step, error):
        with pytest.raises(type(error)) as caught:
            attempt(step, fail)
        assert caught.value is error
        return
    failed = attempt(step, fail)
    assert isinstance(failed, Failed)
    assert (failed.cost, failed.kind) == (price(step, error), type(error))
    assert getattr(error, "reason", str(error)) in failed.reason


def test_what_failed_is_not_held() -> None:
    class Heavy:
        """Stands for a model."""

    def fail() -> None:
        heavy = Heavy()
        seen.append(weakref.ref(heavy))
        raise ManifestError("differs")

    seen: list[weakref.ref[Heavy]] = []
    with no_garbage_collector():
        failed = attempt(Step.KEEP, fail)
        assert isinstance(failed, Failed)
        assert seen[0]() is None


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1)])
def test_nothing_keeps_a_process_from_being_stopped(stop: BaseException) -> None:
    def fail() -> str:
        raise stop

    with pytest.raises(type(stop)):
        attempt(Step.PULL, fail)


def test_a_step_that_works_returns_what_it_made() -> None:
    assert attempt(Step.KEEP, lambda: 5) == 5


def honest(tag: int, data: torch.Tensor) -> torch.Tensor:
    return data


def in_question(name: str, error: Exception) -> Callable[[str], object]:
    """Fails when the engine is asked `name` for the first time."""
    left = [error]

    def fail(question: str) -> None:
        if question == name and left:
            raise left.pop()

    return fail


def surprised(name: str) -> FakeEngine:
    return FakeEngine(fails_in=in_question(name, ZeroDivisionError(name)))


class TestWholeLoads:
    """Surprises in a whole load: the model is right in the end, whatever else is lost."""

    @pytest.mark.parametrize(
        ("question", "reason"),
        [
            ("identity", "cannot tell which weights it needs"),
            ("device_type", "cannot tell which weights it needs"),
            ("built_parts", "cannot tell which weights it needs"),
            ("wanted", "cannot tell which weights it needs"),
            ("opened_beyond", "cannot tell which weights it needs"),
        ],
    )
    def test_before_the_model_is_filled_it_costs_peers_and_source(
        self, question: str, reason: str
    ) -> None:
        with sources(honest) as endpoints:
            one = load(endpoints, surprised(question))
        assert (one.origin, one.right, one.built) == ("storage", True, 1)
        assert one.reason == f"{reason}: ZeroDivisionError({question!r})"
        assert one.skipped == (one.reason,)

    def test_half_way_through_the_layout_the_model_as_well(self) -> None:
        with sources(honest) as endpoints:
            one = load(endpoints, surprised("host_memory"))
        assert (one.origin, one.right, one.built) == ("storage", True, 2)
        assert "its tensors cannot be laid out" in one.reason

    def test_looking_for_peers_costs_the_peers_alone(self) -> None:
        def unreadable() -> str:
            raise ZeroDivisionError("evidence")

        with sources(honest) as endpoints:
            one = load(endpoints, FakeEngine(makers={Evidence.BLOBS: unreadable}))
        assert (one.origin, one.right, one.reason) == ("storage", True, "")
        assert one.skipped == ("looking for peers failed: ZeroDivisionError('evidence')",)

    def test_after_the_model_was_filled_it_costs_the_source_alone(self) -> None:
        one = load([], surprised("files_read"))
        assert (one.origin, one.right, one.built) == ("storage", True, 1)
        assert one.reason == "cannot tell what was loaded: ZeroDivisionError('files_read')"

    def test_storage_costs_the_start(self) -> None:
        with pytest.raises(ZeroDivisionError):
            load([], FakeEngine(error=ZeroDivisionError()))

    def test_a_setting_costs_the_start_wherever_it_is_found_out(self) -> None:
        for question in ("identity", "wanted", "host_memory", "files_read"):
            error = ConfigError("KEY", 1, "2")
            with pytest.raises(ConfigError, match="KEY=1"):
                load([], FakeEngine(fails_in=in_question(question, error)))

    @pytest.mark.parametrize("spoilt", [{"nowhere.flag": True}, {}])
    def test_a_pull_costs_the_peers_alone(self, spoilt: dict[str, Plain]) -> None:
        fault = honest if spoilt else wrong_byte_in(0)
        offer = offer_of(WEIGHTS, backend=TamperedBackend(fault, TcpBackend()), attributes=spoilt)
        with serving(offer) as source:
            one = load([source.endpoint], SOURCE_TIMEOUT=0)
        assert (one.origin, one.right, one.reason) == ("storage", True, "")
        assert isinstance(one.end, Served)
        assert any("nowhere" in reason or "digest" in reason for reason in one.skipped)


class TestLeftovers:
    """Storage does not fill what a pull has left half received."""

    def test_the_model_is_built_once_more_and_filled_without_peers(self) -> None:
        filled: list[str] = []

        def first_time(name: str) -> bool:
            filled.append(name)
            return name == "embed.weight" and filled.count(name) == 1

        with sources(wrong_byte_in(0)) as endpoints:
            one = load(endpoints, FakeEngine(leaves_out=first_time), SOURCE_TIMEOUT=0)
        assert (one.origin, one.right, one.built) == ("storage", True, 2)
        assert any("half received" in reason for reason in one.skipped)
        assert one.reason == ""

    def test_without_peers_there_is_nothing_to_leave(self) -> None:
        one = load([], FakeEngine(leaves_out=lambda name: name == "embed.weight"))
        assert (one.origin, one.right, one.built) == ("storage", False, 1)
