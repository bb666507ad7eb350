"""Our threads keep off the cores that inference is bound to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from tests.fastest import HANG_S

from netloader.system import affinity
from netloader.system.affinity import ENVIRONMENT, Running, away_from, originally

T = TypeVar("T")
ALL = frozenset(range(4))


def bound(*numbers: int, ours: bool = False) -> Running:
    return Running(frozenset(numbers), ours)


def test_bound_cores_are_left_to_inference() -> None:
    threads = [bound(0), bound(1), bound(0, 1, 2, 3), bound(0)]
    assert away_from(ALL, threads) == {2, 3}


def test_nothing_is_bound_without_a_narrower_set() -> None:
    assert away_from(ALL, [bound(0, 1, 2, 3)] * 3) == ALL
    assert away_from(ALL, []) == ALL


def test_when_nothing_is_left_all_cores_are_shared() -> None:
    assert away_from(ALL, [bound(0, 1), bound(2, 3)]) == ALL
    assert away_from(frozenset({0}), [bound(0)]) == {0}


def test_threads_of_ours_are_not_taken_for_inference() -> None:
    assert away_from(ALL, [bound(0), bound(1, 2, 3, ours=True)]) == {1, 2, 3}


def test_a_sibling_with_cores_of_its_own_is_none_of_our_business() -> None:
    assert away_from(ALL, [bound(0), bound(7), bound(3, 4)]) == {1, 2, 3}


def test_bound_by_openmp_the_first_processs_cores_count() -> None:
    own = frozenset({0})
    noted = {ENVIRONMENT: "0,1,2"}
    for name in ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND"):
        assert originally(own, noted | {name: "x"}) == {0, 1, 2}
    # Narrower for another reason (numactl, a scheduler): that was meant.
    assert originally(own, noted) == own


@pytest.mark.parametrize("noted", ["", "0,x", "1,2", ",", "-"])
def test_what_cannot_be_our_cores_is_not_believed(noted: str) -> None:
    own = frozenset({0})
    assert originally(own, {ENVIRONMENT: noted, "OMP_PLACES": "x"}) == own
    assert originally(own, {"OMP_PLACES": "x"}) == own


def in_process(code: str, **environ: str) -> object:
    """What a fresh interpreter, which no server has told of cores, prints as JSON."""
    own = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=own | environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    )
    return json.loads(done.stdout)


needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux and two cores",
)

_IN_A_WORKER = """
import json, os, sys, threading
from netloader.system import affinity
first = sorted(os.sched_getaffinity(0))
affinity.remember()
os.environ["GOMP_CPU_AFFINITY"] = str(first[0])
os.sched_setaffinity(0, first[:1])  # As OpenMP does when the worker is started.
if {how!r} == "fork":
    if os.fork():
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    affinity.remember()
elif "child" not in sys.argv:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-c", {code!r}, "child"])
seen = []
def look():
    def child():
        seen.append(sorted(os.sched_getaffinity(0)))
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    def both():
        child()
        inner = threading.Thread(target=child)
        inner.start(); inner.join()
    affinity.step_aside(background={background})
    child()
    if {background}:
        affinity.elsewhere(both)
before = os.getpriority(os.PRIO_PROCESS, 0)
for _ in range(2):  # The second must not take the first for inference, nor sink lower.
    thread = threading.Thread(target=look, name="netloader-test")
    thread.start(); thread.join()
seen.append(sorted(os.sched_getaffinity(0)))
seen.append(os.getpriority(os.PRIO_PROCESS, 0) - before)
print(json.dumps(seen)); sys.stdout.flush()
os._exit(0)
"""

_CHILD = """
import json, os, sys, threading
from netloader.system import affinity
affinity.remember()
print(json.dumps([sorted(affinity.original())]))
"""


@needs_two_cores
@pytest.mark.parametrize("background", [True, False])
def test_a_thread_of_a_bound_worker_gets_the_cores_that_are_free(background: bool) -> None:
    code = _IN_A_WORKER.format(how="fork", code="", background=background)
    everything = sorted(os.sched_getaffinity(0))
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    # The thread itself, one that makes something elsewhere, and one started there.
    expected: list[object] = [everything[1:], normal] * 3 if background else [everything, normal]
    seen = in_process(code)
    assert isinstance(seen, list)
    # Twice; the main thread stays bound.
    assert seen == expected * 2 + [everything[:1], 0]


@needs_two_cores
def test_a_spawned_worker_learns_from_the_environment_what_its_server_was_given() -> None:
    code = _IN_A_WORKER.format(how="spawn", code=_CHILD, background=True)
    assert in_process(code) == [sorted(os.sched_getaffinity(0))]


@needs_two_cores
def test_the_server_of_one_core_shares_it() -> None:
    first = str(min(os.sched_getaffinity(0)))
    code = (
        f"import os; os.sched_setaffinity(0, {{{first}}})\n"
        "import json, threading\n"
        "from netloader.system import affinity\n"
        "affinity.remember()\n"
        "affinity.step_aside(background=True)\n"
        "print(json.dumps(sorted(os.sched_getaffinity(0))))"
    )
    assert in_process(code) == [int(first)]


def in_thread(function: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


_BESIDE_THE_MODEL = """
import json, os, threading
from netloader.system import affinity
affinity.remember()
cores = sorted(os.sched_getaffinity(0))[{free}:]
bound, over = threading.Barrier(len(cores) + 1, timeout=120), threading.Event()
def infer(core):
    os.sched_setaffinity(0, {{core}})
    bound.wait()
    over.wait(120)
for core in cores:
    threading.Thread(target=infer, args=[core]).start()
bound.wait()
here = os.getpriority(os.PRIO_PROCESS, 0)
there = affinity.elsewhere(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
over.set()
print(json.dumps([here, there]))
"""


@needs_two_cores
@pytest.mark.parametrize("free", [0, 1])
def test_priority_is_lower_only_where_the_model_has_every_core(free: int) -> None:
    seen = in_process(_BESIDE_THE_MODEL.format(free=free))
    assert isinstance(seen, list)
    here, there = seen
    assert there == (here if free else min(19, here + affinity.NICE))


def test_crowded_means_that_no_core_is_left() -> None:
    assert affinity.crowded(ALL, [bound(0, 1), bound(2, 3)])
    assert not affinity.crowded(ALL, [bound(0, 1), bound(2)])
    assert not affinity.crowded(ALL, [bound(0, 1), bound(2, 3, ours=True)])
    assert not affinity.crowded(ALL, [])


def test_what_is_made_elsewhere_may_fail() -> None:
    with pytest.raises(ZeroDivisionError):
        affinity.elsewhere(lambda: 1 // 0)


def test_what_is_forbidden_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise PermissionError("no")

    for name in ("sched_setaffinity", "setpriority", "getpriority"):
        monkeypatch.setattr(os, name, forbidden, raising=False)
    in_thread(lambda: affinity.step_aside(background=True))
    in_thread(lambda: affinity.step_aside(background=False))


def test_a_system_that_knows_no_affinity_is_left_alone() -> None:
    code = (
        "import json, os\n"
        "for name in ('sched_getaffinity', 'sched_setaffinity'):\n"
        "    vars(os).pop(name, None)\n"
        "from netloader.system import affinity\n"
        "affinity.remember()\n"
        "affinity.step_aside(background=True)\n"
        f"print(json.dumps([sorted(affinity.original()), {ENVIRONMENT!r} in os.environ]))"
    )
    assert in_process(code) == [[], False]


@needs_affinity
def test_what_was_noted_first_stays() -> None:
    code = (
        "import json, os\n"
        "from netloader.system import affinity\n"
        "affinity.remember()\n"
        f"print(json.dumps([sorted(affinity.original()), os.environ[{ENVIRONMENT!r}]]))"
    )
    noted = {ENVIRONMENT: "0,1,2,3"}
    assert in_process(code, **noted) == [sorted(os.sched_getaffinity(0)), "0,1,2,3"]
