import random
from pathlib import Path

import pytest

from netmesh.address import Address
from netmesh.bootstrap.environment import SEEDS_PER_SCHEDULER, expand_nodelist, scheduler_seeds
from netmesh.errors import SettingsError
from netmesh.seeds import DnsSeed, HostSeed, Seed


def seeds(environ: dict[str, str], namespace_file: Path = Path("/nowhere")) -> tuple[Seed, ...]:
    return scheduler_seeds(
        environ, port=7, service="svc", namespace_file=namespace_file, rng=random.Random(1)
    )


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("gpu[001-002,7],login", ["gpu001", "gpu002", "gpu7", "login"]),
        ("r[1-2]n[08-09]-ib", ["r1n08-ib", "r1n09-ib", "r2n08-ib", "r2n09-ib"]),
        ("a,b[1,3],c", ["a", "b1", "b3", "c"]),
    ],
)
def test_slurm_node_lists(text: str, hosts: list[str]) -> None:
    assert expand_nodelist(text) == hosts


@pytest.mark.parametrize("text", ["n[1-", "n]1[", "n[a-b]", "n[3-1]", "n[0-999999999]", "n[]",
                                  "n[0-99]m[0-99]"])  # fmt: skip
def test_bad_or_endless_node_lists(text: str) -> None:
    with pytest.raises(SettingsError, match="SLURM_JOB_NODELIST"):
        expand_nodelist(text)


def test_no_scheduler_no_seeds() -> None:
    assert seeds({}) == ()


def test_kubernetes_asks_the_headless_service(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert seeds(environ) == (DnsSeed(Address("svc", 7)),)
    (tmp_path / "namespace").write_text("team\n")
    assert seeds(environ, tmp_path / "namespace") == (DnsSeed(Address("svc.team.svc", 7)),)
    environ["POD_NAMESPACE"] = "other"
    assert seeds(environ, tmp_path / "namespace") == (DnsSeed(Address("svc.other.svc", 7)),)


def test_a_big_slurm_job_gives_a_sample_of_its_nodes() -> None:
    found = seeds({"SLURM_JOB_NODELIST": "n[0-1999]"})
    assert len(set(found)) == SEEDS_PER_SCHEDULER


@pytest.mark.parametrize("value", ["10.0.0.9:6379", "ray://10.0.0.9:10001", "10.0.0.9"])
def test_ray_head_is_a_seed_on_our_port(value: str) -> None:
    assert seeds({"RAY_ADDRESS": value}) == (HostSeed(Address("10.0.0.9", 7)),)


@pytest.mark.parametrize("value", ["auto", "local", "", "what is this"])
def test_ray_addresses_that_name_no_host(value: str) -> None:
    assert seeds({"RAY_ADDRESS": value}) == ()
