import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from netmesh.core.timers import Timer, Timers

keys = st.tuples(st.sampled_from([Timer.DIRECT, Timer.RELAY]), st.integers(0, 5))


@given(st.lists(st.tuples(keys, st.none() | st.integers(0, 50))))
def test_timers_behave_like_a_sorted_dictionary(steps: list) -> None:
    timers, model = Timers(), {}
    for key, due in steps:
        if due is None:
            timers.cancel(key)
            model.pop(key, None)
        else:
            timers.set(key, due)
            model[key] = due
        assert timers.next() == min(model.values(), default=float("inf"))
        assert all((key in timers) == (key in model) for key, _ in steps)
    popped = []
    while (key := timers.pop(100)) is not None:
        popped.append(model.pop(key))
    assert popped == sorted(popped) and not model


def test_nothing_fires_before_its_time() -> None:
    timers = Timers()
    timers.set((Timer.GOSSIP, 0), 2.0)
    assert timers.pop(1.9) is None
    assert timers.pop(2.0) == (Timer.GOSSIP, 0)


def test_sooner_never_postpones() -> None:
    timers = Timers()
    timers.sooner((Timer.GOSSIP, 0), 2.0)
    timers.sooner((Timer.GOSSIP, 0), 3.0)
    assert timers.next() == 2.0
    timers.sooner((Timer.GOSSIP, 0), 1.0)
    assert timers.next() == 1.0


def test_only_the_named_kinds_are_delayed() -> None:
    timers = Timers()
    timers.set((Timer.SUSPICION, "a:1"), 1.0)
    timers.set((Timer.GOSSIP, 0), 2.0)
    timers.delay((Timer.SUSPICION,), 5.0)
    assert timers.pop(2.0) == (Timer.GOSSIP, 0)
    assert timers.next() == 6.0


def test_moving_one_deadline_ten_thousand_times_costs_no_memory() -> None:
    timers = Timers()
    tracemalloc.start()
    try:
        for due in range(10_000):
            timers.set((Timer.GOSSIP, 0), float(due))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 64 * 1024, "10,000 deadlines take a megabyte"
