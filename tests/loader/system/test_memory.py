from __future__ import annotations

from pathlib import Path

import pytest

from netloader.system import memory
from netloader.system.memory import Available, available, free, hierarchies, parse_meminfo, text

GIB = 2**30

MEMINFO = """\
MemTotal:       16777216 kB
MemFree:         2097152 kB
MemAvailable:    8388608 kB
Active(file):    1048576 kB
HugePages_Total:       0
"""
NODE = """\
Node 1 MemTotal:        8388608 kB
Node 1 MemFree:         1048576 kB
Node 1 Active(file):     524288 kB
Node 1 Inactive(file):   524288 kB
Node 1 SReclaimable:          0 kB
Node 1 HugePages_Free:        0
"""
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n"
)


def tree(**files: str) -> dict[str, str]:
    """Contents by path, of a machine of 16 GiB with 8 GiB left, and what more is given."""
    return {"/proc/meminfo": MEMINFO, **files}


def v2(path: str, files: dict[str, dict[str, object]], mountinfo: str = V2) -> dict[str, str]:
    """A machine whose process is in `path`; `files` by group, below /sys/fs/cgroup."""
    found = tree()
    found |= {"/proc/self/cgroup": f"0::{path}\n", "/proc/self/mountinfo": mountinfo}
    for group, contents in files.items():
        for name, content in contents.items():
            found[f"/sys/fs/cgroup{group}/{name}"] = f"{content}\n"
    return found


def v1(path: str, files: dict[str, dict[str, object]]) -> dict[str, str]:
    found = tree()
    cgroup = f"9:name=systemd:/\n4:memory:{path}\n3:cpuset:/\n"
    found |= {"/proc/self/cgroup": cgroup, "/proc/self/mountinfo": V1}
    for group, contents in files.items():
        for name, content in contents.items():
            found[f"/sys/fs/cgroup/memory{group}/{name}"] = f"{content}\n"
    return found


def usage(max_: object, current: int, inactive_file: int = 0, **more: object) -> dict[str, object]:
    return {
        "memory.max": max_,
        "memory.current": current,
        "memory.stat": f"anon 5\ninactive_file {inactive_file}\nactive_file 77",
        **more,
    }


def usage_v1(limit: int, used: int, inactive: int = 0, **more: object) -> dict[str, object]:
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}\ntotal_rss 9"
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": stat,
        **more,
    }


class TestMachine:
    def test_the_kernels_estimate_counts(self) -> None:
        assert available(read=tree().get) == Available(8 * GIB, "the machine")

    def test_without_an_estimate_free_memory_and_file_cache_count(self) -> None:
        assert free(parse_meminfo(NODE)) == 2 * GIB

    def test_a_system_that_does_not_say_is_not_guessed(self) -> None:
        assert available(read={}.get) is None

    def test_the_node_that_memory_is_bound_to_counts(self) -> None:
        files = {**tree(), "/sys/devices/system/node/node1/meminfo": NODE}
        assert available(node=1, read=files.get) == Available(2 * GIB, "NUMA node 1")
        assert available(node=0, read=files.get) == Available(8 * GIB, "the machine")

    def test_processes_that_fill_up_together_share_the_machine_not_the_node(self) -> None:
        files = {**tree(), "/sys/devices/system/node/node1/meminfo": NODE}
        assert available(node=1, sharers=2, read=files.get) == Available(2 * GIB, "NUMA node 1")
        assert available(node=1, sharers=8, read=files.get) == Available(
            GIB, "the machine, for each of 8 processes,"
        )

    def test_lines_that_are_no_sizes_are_ignored(self) -> None:
        assert parse_meminfo("MemFree: 7 kB\nMemTotal: x kB\n:\nHugePages: 3\n\nA B") == {
            "MemFree": 7 * 1024
        }


class TestVersion2:
    def test_file_cache_that_can_be_dropped_is_not_used(self) -> None:
        files = v2("/pod", {"/pod": usage(4 * GIB, 3 * GIB, 2 * GIB)})
        assert available(read=files.get) == Available(3 * GIB, "memory.max of /pod")

    @pytest.mark.parametrize("tight", ["", "/a", "/a/b"])
    def test_the_tightest_of_all_ancestors_counts(self, tight: str) -> None:
        groups = {group: usage("max", 5 * GIB) for group in ("", "/a", "/a/b")}
        groups[tight] = usage(6 * GIB, 5 * GIB)
        assert available(read=v2("/a/b", groups).get) == Available(
            GIB, f"memory.max of {tight or '/'}"
        )

    def test_slowing_down_is_a_limit_too(self) -> None:
        files = v2("/pod", {"/pod": usage(4 * GIB, GIB, **{"memory.high": 2 * GIB})})
        assert available(read=files.get) == Available(GIB, "memory.high of /pod")

    def test_a_group_above_its_limit_leaves_nothing(self) -> None:
        files = v2("/pod", {"/pod": usage(GIB, 2 * GIB)})
        assert available(read=files.get) == Available(0, "memory.max of /pod")

    def test_groups_that_have_no_memory_files_are_passed_over(self) -> None:
        files = v2("/a/b", {"/a": usage(2 * GIB, GIB)})
        assert available(read=files.get) == Available(GIB, "memory.max of /a")

    def test_no_limit_leaves_it_to_the_machine(self) -> None:
        files = v2("/", {"": {"memory.stat": "inactive_file 3"}})
        assert available(read=files.get) == Available(8 * GIB, "the machine")

    def test_a_group_is_shared_by_its_processes(self) -> None:
        files = v2("/pod", {"/pod": usage(4 * GIB, 0)})
        found = available(sharers=4, read=files.get)
        assert found == Available(GIB, "memory.max of /pod, for each of 4 processes,")


class TestVersion1:
    UNLIMITED = 9223372036854771712

    def test_file_cache_of_the_group_and_those_below_is_not_used(self) -> None:
        files = v1("/docker/x", {"/docker/x": usage_v1(4 * GIB, 3 * GIB, 2 * GIB)})
        assert available(read=files.get) == Available(3 * GIB, "memory.limit_in_bytes of /docker/x")

    def test_ancestors_count(self) -> None:
        files = v1(
            "/docker/x",
            {
                "/docker/x": usage_v1(self.UNLIMITED, GIB),
                "/docker": usage_v1(2 * GIB, GIB, **{"memory.use_hierarchy": 1}),
                "": usage_v1(self.UNLIMITED, 5 * GIB, **{"memory.use_hierarchy": 1}),
            },
        )
        assert available(read=files.get) == Available(GIB, "memory.limit_in_bytes of /docker")

    def test_an_ancestor_that_keeps_no_account_of_its_children_does_not(self) -> None:
        files = v1(
            "/docker/x",
            {
                "/docker/x": usage_v1(4 * GIB, GIB),
                "/docker": usage_v1(GIB, GIB, **{"memory.use_hierarchy": 0}),
            },
        )
        assert available(read=files.get) == Available(3 * GIB, "memory.limit_in_bytes of /docker/x")

    def test_no_limit_leaves_it_to_the_machine(self) -> None:
        files = v1("/x", {"/x": usage_v1(self.UNLIMITED, GIB)})
        assert available(read=files.get) == Available(8 * GIB, "the machine")


class TestHierarchies:
    def where(self, cgroup: str, mountinfo: str) -> list[tuple[int, str, str]]:
        return [(h.version, h.mount, h.path) for h in hierarchies(cgroup, mountinfo)]

    def test_both_versions_on_one_host(self) -> None:
        both = V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
        assert self.where("4:memory:/a\n0::/b\n", both) == [
            (1, "/sys/fs/cgroup/memory", "/a"),
            (2, "/sys/fs/cgroup/unified", "/b"),
        ]

    def test_a_container_that_sees_its_own_group_only(self) -> None:
        mount = V1.replace("0:32 / ", "0:32 /docker/x ")
        mounted = "/sys/fs/cgroup/memory"
        assert self.where("4:memory:/docker/x/y\n", mount) == [(1, mounted, "/y")]
        assert self.where("4:memory:/docker/x\n", mount) == [(1, mounted, "")]
        assert self.where("4:memory:/docker/xy\n", mount) == [(1, mounted, "")]

    def test_a_group_outside_its_namespace_is_read_where_it_is_mounted(self) -> None:
        assert self.where("0::/../other\n", V2) == [(2, "/sys/fs/cgroup", "")]

    def test_controllers_that_are_mounted_together(self) -> None:
        mount = V1.replace("rw,memory", "rw,cpu,memory")
        assert self.where("4:cpu,memory:/a\n", mount) == [(1, "/sys/fs/cgroup/memory", "/a")]

    def test_a_path_with_colons_and_a_mount_with_blanks(self) -> None:
        mount = V2.replace("/sys/fs/cgroup", r"/my\040groups")
        assert self.where("0::/a:b\n", mount) == [(2, "/my groups", "/a:b")]

    def test_what_is_no_such_file_says_nothing(self) -> None:
        assert self.where("garbage\n0:\n", "more garbage\n - \n1 2 3 - cgroup2") == []
        assert self.where("0::/a\n", V1) == []


class TestPlannedMemory:
    """Where vLLM sizes the KV cache by what its part of all memory leaves."""

    STATUS = "Name: x\nVmRSS:\t 1048576 kB\nThreads: 1\n"

    def test_a_part_of_all_memory_less_what_this_process_has(self) -> None:
        files = tree() | {"/proc/self/status": self.STATUS}
        assert available(utilization=0.25, read=files.get) == Available(
            3 * GIB, "gpu_memory_utilization 0.25 of 16.00 GiB"
        )

    def test_all_memory_is_what_a_group_may_have(self) -> None:
        files = v2("/pod", {"/pod": usage(4 * GIB, 0, **{"memory.high": GIB * 3})})
        files["/proc/self/status"] = self.STATUS
        assert available(utilization=0.5, read=files.get) == Available(
            GIB, "gpu_memory_utilization 0.5 of 4.00 GiB"
        )

    def test_a_process_beyond_its_part_has_nothing_left(self) -> None:
        files = tree() | {"/proc/self/status": self.STATUS}
        found = available(utilization=0.01, read=files.get)
        assert found is not None and found.bytes == 0

    def test_the_other_bounds_still_hold(self) -> None:
        files = tree() | {"/proc/self/status": self.STATUS}
        assert available(utilization=0.9, read=files.get) == Available(8 * GIB, "the machine")


def test_this_machine_says_what_is_left() -> None:
    total = parse_meminfo(Path("/proc/meminfo").read_text())["MemTotal"]
    found = available()
    assert found is not None and 0 < found.bytes < total


def test_a_file_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert memory.read_file(str(tmp_path)) is None
    assert memory.read_file(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(
    ("nbytes", "words"), [(0, "0.0 MiB"), (3 * 2**19, "1.5 MiB"), (3 * 2**29, "1.50 GiB")]
)
def test_sizes_are_told_in_units_that_people_read(nbytes: int, words: str) -> None:
    assert text(nbytes) == words
