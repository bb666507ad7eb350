from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.loader.discovery.test_advert import holding

from netloader.discovery.advert import MAX_ACCUSED, MAX_TEXT, Holding
from netloader.identity.identity import Role
from netloader.worker.accusations import Accusations


class Published:
    """The latest holding of each role, as readers see it."""

    def __init__(self) -> None:
        self.holdings: dict[Role, Holding] = {}
        self.times = 0

    def __call__(self, role: Role, accused: tuple[object, ...]) -> None:
        self.holdings[role] = holding(role=role).changed(accuses=accused)
        self.times += 1

    def accused(self, role: Role = "target") -> list[tuple[str, int]]:
        return [(one.endpoint, one.generation) for one in self.holdings[role].accuses]


def test_an_accused_process_is_published_once() -> None:
    told = Published()
    accusations = Accusations(told)
    accusations.add("target", ("a:1", 7))
    accusations.add("target", ("a:1", 7))
    assert told.accused() == [("a:1", 7)]
    assert told.times == 1


def test_each_model_has_accusations_of_its_own_and_all_count() -> None:
    told = Published()
    accusations = Accusations(told)
    accusations.add("target", ("a:1", 7))
    accusations.add("draft", ("b:1", 7))
    assert (told.accused("target"), told.accused("draft")) == ([("a:1", 7)], [("b:1", 7)])
    assert accusations.processes == {("a:1", 7), ("b:1", 7)}


def test_the_latest_are_published_and_none_is_forgotten() -> None:
    told = Published()
    accusations = Accusations(told)
    everybody = [(f"a:{number}", number) for number in range(MAX_ACCUSED + 3)]
    for process in everybody:
        accusations.add("target", process)
    assert told.accused() == everybody[3:]
    assert accusations.processes == set(everybody)


def test_an_address_that_no_advert_can_hold_is_avoided_all_the_same() -> None:
    told = Published()
    accusations = Accusations(told)
    accusations.add("target", ("a" * MAX_TEXT + ":1", 7))
    accusations.add("target", ("b:1", 7))
    assert told.accused() == [("b:1", 7)]
    assert len(accusations.processes) == 2


def test_threads_that_accuse_at_once_lose_nothing() -> None:
    told = Published()
    accusations = Accusations(told)
    everybody = [("a:1", number) for number in range(MAX_ACCUSED)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda process: accusations.add("target", process), everybody * 4))
    assert sorted(told.accused()) == everybody
