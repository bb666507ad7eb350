"""Do members run versions that share weights with one another?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mesh_inspect.doctor.faults import Area, Check, Fault


@dataclass(frozen=True, slots=True)
class RunBy:
    """What one member runs; empty where it does not say."""

    member: str
    release: str
    """Of netloader-mesh."""
    models: Sequence[tuple[str, str]]
    """Names of its models, each with the version of vLLM."""
    protocol: int | None = None
    """The newest protocol of the mesh that it speaks."""


def judge(running: Sequence[RunBy], mine: str, speaks: tuple[int, int]) -> Check:
    """`mine` is this release of netloader-mesh; `speaks` are its oldest and newest protocol."""
    by_release: defaultdict[str, list[str]] = defaultdict(list)
    by_model: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in running:
        if one.release:
            by_release[one.release].append(one.member)
        for model, version in one.models:
            if version:
                by_model[model][version].append(one.member)
    found = []
    if len(by_release) > 1:
        what = f"members run netloader-mesh {_counted(by_release)}"
        remedy = "finish the upgrade: workers may refuse each other's transfers until then"
        found.append(Fault(Area.VERSIONS, "netloader-mesh", what, remedy))
    for model, versions in by_model.items():
        if len(versions) > 1:
            what = f"its workers run vLLM {_counted(versions)}, and these never share weights"
            found.append(Fault(Area.VERSIONS, model, what, "run one version of vLLM for it"))
    spoken = sorted({one.protocol for one in running if one.protocol is not None})
    summary = f"netloader-mesh {mine} here" + (
        f", {', '.join(sorted(by_release))} there" if by_release else ""
    )
    summary += f"; protocol {speaks[0]} to {speaks[1]} here"
    if spoken:
        summary += f", up to {', '.join(map(str, spoken))} there"
    return Check(Area.VERSIONS, summary, tuple(found))


def _counted(versions: dict[str, list[str]]) -> str:
    """Each version with a member that runs it, the most common first."""
    ordered = sorted(versions.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return ", ".join(f"{version} ({len(who)}, such as {who[0]})" for version, who in ordered)
