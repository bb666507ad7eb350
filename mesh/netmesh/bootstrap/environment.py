"""Seeds that a scheduler (Kubernetes, Slurm, Ray) already knows, read from the environment."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from netmesh.address import Address, parse_address
from netmesh.errors import SettingsError
from netmesh.seeds import DnsSeed, HostSeed, Seed

_KEY = "SLURM_JOB_NODELIST"

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where Kubernetes writes a pod's namespace."""

MAX_HOSTS = 4096
"""Hosts taken from one Slurm list: more than the protocol is made for, and a bound on the cost of
`n[0-999999999]`."""

SEEDS_PER_SCHEDULER = 16
"""Hosts of a Slurm job that become seeds. The choice is random, so that the members of a big job
do not all ask its first nodes. Of 16, one is almost certainly up."""


def scheduler_seeds(
    environ: Mapping[str, str],
    *,
    port: int,
    service: str,
    namespace_file: Path = NAMESPACE_FILE,
    rng: random.Random | None = None,
) -> tuple[Seed, ...]:
    """Seeds from the schedulers that this process runs under; empty if there are none.

    `port` is the port where the first member of a host listens.
    """
    seeds: list[Seed] = []
    if environ.get("KUBERNETES_SERVICE_HOST"):
        seeds.append(_kubernetes(environ, port, service, namespace_file))
    nodes = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    if nodes:
        hosts = expand_nodelist(nodes)
        chosen = (rng or random.Random()).sample(hosts, min(len(hosts), SEEDS_PER_SCHEDULER))
        seeds += [HostSeed(Address(host, port)) for host in chosen]
    for key in ("RAY_ADDRESS", "FQ_RAY_IP", "RAY_IP"):
        head = _ray_head(environ.get(key, ""), port)
        if head is not None:
            seeds.append(HostSeed(head))
            break
    return tuple(seeds)


def _kubernetes(
    environ: Mapping[str, str], port: int, service: str, namespace_file: Path
) -> DnsSeed:
    name, _, namespace = service.partition(".")
    if not namespace:
        namespace = environ.get("POD_NAMESPACE", "")
    if not namespace:
        try:
            namespace = namespace_file.read_text("ascii").strip()
        except (OSError, UnicodeError):
            return DnsSeed(Address(name, port))  # the pod's own search list completes it
    return DnsSeed(Address(f"{name}.{namespace}.svc", port))


def _ray_head(value: str, port: int) -> Address | None:
    """The host of `host:port` or `ray://host:port`; Ray's port is not ours."""
    value = value.removeprefix("ray://").split("/")[0]
    if not value or value in ("auto", "local"):
        return None
    try:
        return Address(parse_address(value, port).host, port)
    except SettingsError:
        return None  # an unknown form, but in Ray's setting, so this is not our error


def expand_nodelist(text: str) -> list[str]:
    """Host names of a Slurm node list such as `gpu[001-003,7],login`, in order.

    Raises SettingsError for a text that is not such a list, or that names more than MAX_HOSTS.
    """
    hosts: list[str] = []
    for part in _split_outside_brackets(text):
        for host in _expand(part, text):
            if len(hosts) == MAX_HOSTS:
                raise SettingsError(_KEY, text[:80], f"names more than {MAX_HOSTS} hosts")
            hosts.append(host)
    return hosts


def _split_outside_brackets(text: str) -> list[str]:
    return [part for part in re.split(r",(?![^\[\]]*\])", text.strip()) if part]


def _expand(part: str, whole: str) -> Iterator[str]:
    pieces = re.split(r"\[([^\[\]]*)\]", part)  # literal, ranges, literal, ranges, ..., literal
    if any(sign in piece for piece in pieces for sign in "[]"):
        raise SettingsError(_KEY, whole[:80], "unbalanced brackets")
    choices = [
        [piece] if index % 2 == 0 else list(_ranges(piece, whole))
        for index, piece in enumerate(pieces)
    ]
    return ("".join(choice) for choice in itertools.product(*choices))


def _ranges(text: str, whole: str) -> Iterator[str]:
    for item in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", item)
        if match is None:
            raise SettingsError(_KEY, whole[:80], f"bad range {item[:40]!r}")
        low, high = match[1], match[2] or match[1]
        if not 0 <= int(high) - int(low) < MAX_HOSTS:
            raise SettingsError(_KEY, whole[:80], f"bad range {item[:40]!r}")
        for number in range(int(low), int(high) + 1):
            yield str(number).zfill(len(low))
