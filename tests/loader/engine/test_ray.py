"""Our settings are named to vLLM, which copies them to workers that Ray starts.

`tests/e2e/test_plugin.py` has vLLM copy them.
"""

from __future__ import annotations

import pytest

from netloader.engine.ray import NAMES, PREFIX, keep_apart, share_settings
from netloader.program import ENV_PREFIX

SEEDS = "NETLOADER_MESH_SEEDS"


def shared(**environ: str) -> dict[str, str]:
    share_settings(environ)
    share_settings(environ)
    return environ


def test_the_prefix_is_that_of_the_settings() -> None:
    assert PREFIX == ENV_PREFIX


def test_without_settings_nothing_is_named() -> None:
    assert shared(HOME="/") == {"HOME": "/"}


def test_ours_are_named_beside_the_operator_s() -> None:
    environ = shared(**{NAMES: " ONE , TWO", SEEDS: "a", "NETLOADER_MESH_NAME": "b"})
    assert environ[NAMES] == f"NETLOADER_MESH_NAME,{SEEDS},ONE,TWO"


@pytest.mark.parametrize("name", ["BIND", "MESH_ADVERTISE", "METRICS_HOST"])
def test_what_is_true_of_one_host_stays_there(name: str) -> None:
    assert NAMES not in shared(**{f"{ENV_PREFIX}{name}": "10.0.0.1"})


def test_what_the_operator_names_himself_is_copied(name: str = "NETLOADER_MESH_ADVERTISE") -> None:
    assert shared(**{NAMES: name, name: "10.0.0.1", SEEDS: "a"})[NAMES] == f"{name},{SEEDS}"


def apart(**environ: str) -> set[str]:
    kept = {"THEIRS"}
    keep_apart(kept, environ)
    keep_apart(kept, environ)
    return kept


def test_what_is_true_of_one_host_is_copied_to_nobody() -> None:
    assert apart() == {
        "THEIRS",
        "NETLOADER_BIND",
        "NETLOADER_MESH_ADVERTISE",
        "NETLOADER_METRICS_HOST",
    }


def test_unless_the_operator_has_named_it() -> None:
    assert "NETLOADER_BIND" not in apart(**{NAMES: "NETLOADER_BIND"})
