"""How much host memory this process may still take, and what sets that bound.

Four things may set it: the machine, the NUMA node that a CPU worker is bound to, each control group
from this process's own up to the root, and vLLM's plan (`gpu_memory_utilization`). That plan
subtracts a worker's present memory from the KV cache. The lowest bound counts. File cache that the
kernel would drop (`inactive_file`) does not count as used, as in Kubernetes.

Everything is decided from the contents of files; `read` is the only function that opens one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Read = Callable[[str], str | None]
"""Contents of the file at an absolute path; None if it cannot be read."""

_OCTAL = re.compile(r"\\([0-7]{3})")
"""The escapes for blanks and backslashes in paths in /proc/self/mountinfo."""


@dataclass(frozen=True)
class Available:
    """The memory that is left for this process."""

    bytes: int
    """Never negative."""
    by: str
    """What sets the bound, for people: `memory.max of /kubepods/a`, `the machine`."""


@dataclass(frozen=True)
class Hierarchy:
    """This process's place in one hierarchy of control groups that can limit memory."""

    version: Literal[1, 2]
    mount: str
    """Where the hierarchy, or the visible part of it, is mounted."""
    path: str
    """This process's group below `mount`: empty for the mount itself, else `/a/b`."""

    def groups(self) -> Iterator[tuple[str, str]]:
        """This process's group and all above it: the folder of each, and its name for people."""
        path = self.path
        while path:
            yield self.mount + path, path
            path = path.rpartition("/")[0]
        yield self.mount, "/"


def available(
    *,
    node: int | None = None,
    sharers: int = 1,
    utilization: float | None = None,
    read: Read | None = None,
) -> Available | None:
    """The memory that the machine, the control groups and vLLM's plan leave for this process.

    `node`: the NUMA node that this process's memory is bound to; None if it is not bound.
    `sharers`: the number of this server's processes on this host. They all fill up at the same
    time, so the machine's and the groups' memory is divided among them. `utilization`: the fraction
    of all memory that vLLM plans for this worker, if vLLM sizes the KV cache by what is left of it;
    otherwise None. `read` is for tests.

    None if the system does not say (no /proc).
    """
    read = read or read_file
    meminfo = parse_meminfo(read("/proc/meminfo") or "")
    left = free(meminfo)
    if left is None:
        return None
    each = f", for each of {sharers} processes," if sharers > 1 else ""
    bounds = [Available(left // sharers, f"the machine{each}")]
    totals = [meminfo["MemTotal"]] if "MemTotal" in meminfo else []
    if node is not None:
        local = parse_meminfo(read(f"/sys/devices/system/node/node{node}/meminfo") or "")
        here = free(local)
        if here is not None:
            bounds.append(Available(here, f"NUMA node {node}"))
            totals += [local["MemTotal"]] if "MemTotal" in local else []
    for hierarchy in hierarchies(
        read("/proc/self/cgroup") or "", read("/proc/self/mountinfo") or ""
    ):
        for limit in _limits(hierarchy, read):
            room = max(0, limit.bytes - limit.used)
            bounds.append(Available(room // sharers, f"{limit.by}{each}"))
            if limit.hard:
                totals.append(limit.bytes)
    if utilization is not None and totals:
        planned = int(utilization * min(totals)) - resident(read("/proc/self/status") or "")
        by = f"gpu_memory_utilization {utilization:g} of {text(min(totals))}"
        bounds.append(Available(max(0, planned), by))
    return min(bounds, key=lambda bound: bound.bytes)


def read_file(path: str) -> str | None:
    """The contents of a kernel file; None if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # Not every system has every file; the caller decides what that means.
        return None


def parse_meminfo(contents: str) -> dict[str, int]:
    """Bytes by name, from /proc/meminfo or a NUMA node's `meminfo`. Other lines are ignored."""
    found: dict[str, int] = {}
    for line in contents.splitlines():
        name, _, value = line.rpartition(":")
        words = value.split()
        if name and len(words) == 2 and words[1] == "kB" and words[0].isdecimal():
            found[name.split()[-1]] = int(words[0]) * 1024
    return found


def free(meminfo: dict[str, int]) -> int | None:
    """Bytes available without swapping; None when `meminfo` does not say.

    The kernel's own estimate, else (NUMA nodes have none) the sum that vLLM uses.
    """
    if "MemAvailable" in meminfo:
        return meminfo["MemAvailable"]
    if "MemFree" not in meminfo:
        return None
    names = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
    return sum(meminfo.get(name, 0) for name in names)


def resident(status: str) -> int:
    """Bytes of memory that a process has, from its /proc/.../status; 0 if not given there."""
    return parse_meminfo(status).get("VmRSS", 0)


def hierarchies(cgroup: str, mountinfo: str) -> list[Hierarchy]:
    """This process's place, from /proc/self/cgroup and /proc/self/mountinfo.

    On hosts that mount both versions, either may limit memory, so both are returned.
    """
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        place, dash, kind = line.partition(" - ")
        fields, types = place.split(), kind.split()
        if not dash or len(fields) < 5 or len(types) < 3 or types[0] not in paths:
            continue
        if types[0] == "cgroup" and "memory" not in types[2].split(","):
            continue
        root, mount = _unescape(fields[3]), _unescape(fields[4])
        hierarchy = Hierarchy(
            2 if types[0] == "cgroup2" else 1,
            mount.rstrip("/"),
            _below(paths[types[0]], root),
        )
        # Of several mounts, take the one that shows most of the path to the root.
        known = found.get(types[0])
        if known is None or len(hierarchy.path) > len(known.path):
            found[types[0]] = hierarchy
    return list(found.values())


def text(nbytes: int) -> str:
    """A number of bytes, formatted for people."""
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"


@dataclass(frozen=True)
class _Limit:
    bytes: int
    used: int
    hard: bool
    """Whether the kernel enforces the limit by killing, not by slowing down."""
    by: str


def _limits(hierarchy: Hierarchy, read: Read) -> Iterator[_Limit]:
    for folder, name in hierarchy.groups():
        # A version 1 group may not count towards its parent's usage.
        if (
            hierarchy.version == 1
            and folder != hierarchy.mount + hierarchy.path
            and (read(f"{folder}/memory.use_hierarchy") or "1").strip() == "0"
        ):
            return
        usage = "memory.current" if hierarchy.version == 2 else "memory.usage_in_bytes"
        used = _number(read(f"{folder}/{usage}"))
        if used is None:
            continue
        stat = _stat(read(f"{folder}/memory.stat") or "")
        cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
        names = (
            ("memory.max", "memory.high") if hierarchy.version == 2 else ("memory.limit_in_bytes",)
        )
        for file in names:
            limit = _number(read(f"{folder}/{file}"))
            if limit is not None:
                yield _Limit(
                    limit, max(0, used - cache), file != "memory.high", f"{file} of {name}"
                )


def _stat(contents: str) -> dict[str, int]:
    pairs = (line.split() for line in contents.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _number(contents: str | None) -> int | None:
    """None for a file that is missing, and for `max`: no limit."""
    word = (contents or "").strip()
    return int(word) if word.isdecimal() else None


def _below(path: str, root: str) -> str:
    """`path` as seen from a mount that shows the hierarchy from `root` on."""
    root = root.rstrip("/")
    if ".." in path.split("/") or not (path == root or path.startswith(f"{root}/")):
        # The group lies outside the visible part; the mount is the nearest visible group.
        return ""
    return path[len(root) :].rstrip("/")


def _unescape(path: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path)
