"""Each worker process has a place of its own, whatever started it."""

from __future__ import annotations

from netloader.worker.position import EnginePlace, Position, Rank


def on_one_host(
    engines: int, workers: int, *, shares_world: bool, host_wide: bool
) -> list[Position]:
    """All workers, as vLLM numbers those of dense models, and those of models with experts."""
    return [
        Position.of(
            Rank(
                engine * workers + number if shares_world else number,
                engine * workers + number if host_wide else number,
            ),
            EnginePlace(engine, engine, workers, shares_world),
        )
        for engine in range(engines)
        for number in range(workers)
    ]


def test_engines_of_a_dense_model_do_not_collide() -> None:
    for host_wide in (False, True):
        found = on_one_host(2, 2, shares_world=False, host_wide=host_wide)
        assert [one.rank for one in found] == [0, 1, 2, 3]
        assert [one.part for one in found] == [0, 1, 0, 1]
        assert [one.on_host for one in found] == [0, 1, 2, 3]


def test_engines_of_a_model_with_experts_have_torchs_ranks() -> None:
    for host_wide in (False, True):
        found = on_one_host(2, 2, shares_world=True, host_wide=host_wide)
        assert [one.rank for one in found] == [one.part for one in found] == [0, 1, 2, 3]
        assert [one.on_host for one in found] == [0, 1, 2, 3]


def test_the_first_worker_of_each_host_has_the_port_that_seeds_name() -> None:
    second_host = Position.of(Rank(8, 0), EnginePlace(1, 0, 8, shares_world=True))
    assert (second_host.rank, second_host.on_host) == (8, 0)
    half_of_an_engine = Position.of(Rank(8, 0), EnginePlace(0, 0, 16, shares_world=False))
    assert (half_of_an_engine.rank, half_of_an_engine.on_host) == (8, 0)


def test_one_engine_alone() -> None:
    assert Position.alone(3) == Position.of(Rank(3, 3), EnginePlace(0, 0, 4, shares_world=False))
