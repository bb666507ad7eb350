"""The peers that this worker can ask for weights: sources that its operator lists, then the
mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from netloader.config import Config
from netloader.discovery import advert, election, selection
from netloader.discovery.advert import Holding
from netloader.discovery.candidate import Candidate
from netloader.discovery.election import Electorate
from netloader.identity.identity import Identity, Role, content_id
from netloader.worker.accusations import Accusations
from netloader.worker.membership import Membership
from netloader.worker.position import Position
from netmesh import Member, MemberId

_Version = tuple[int, int]
"""Generation and version: no two adverts of a member have both in common."""


class Peers:
    """Everybody who may have what this worker needs. Thread safe."""

    def __init__(
        self,
        config: Config,
        position: Position,
        membership: Membership,
        accusations: Accusations,
        own_endpoint: Callable[[Role], str | None],
    ) -> None:
        """`own_endpoint` tells where this worker's own source for a role listens, if there is
        one."""
        self._config = config
        self._position = position
        self._membership = membership
        self._accusations = accusations
        self._own_endpoint = own_endpoint
        self._read: dict[MemberId, tuple[_Version, tuple[Holding, ...]]] = {}

    def candidates(
        self, identity: Identity, transports: Sequence[str]
    ) -> tuple[tuple[Candidate, ...], list[str]]:
        """Sources for these weights, best first, and why others were skipped.

        The order is `SOURCE` of `CONFIG_FILE`, `SOURCE` of the extra config, the mesh. Waits at
        most `DISCOVERY_TIMEOUT`, and no longer than `PEER_BUDGET`, for the mesh to answer. May read
        the checkpoint to compare it.
        """
        static = self._static(identity.role)
        skipped: list[str] = []
        listed = bool(self._config.source or self._config.file_source)
        if listed and not static:
            skipped.append(f"SOURCE has no entry for rank {self._position.rank}")
        absent = self._membership.absent
        if absent:
            return static, [*skipped, f"mesh: {absent}"]
        timeout_s = min(self._config.discovery_timeout_s, self._config.pull_settings.peer_budget_s)
        if not self._membership.wait_joined(timeout_s):
            skipped.append(f"mesh: no contact answered within {timeout_s:g} s")
        choice = self._choose(identity, transports, explain=True)
        skipped += [f"mesh: {reason}" for reason in choice.rejected]
        if not choice.candidates and not choice.rejected:
            skipped.append(f"mesh: nobody else holds {identity.model} ({identity.role})")
        return static + choice.candidates, skipped

    def find(self, identity: Identity, transports: Sequence[str]) -> tuple[Candidate, ...]:
        """The same sources as they are known right now. Never waits."""
        static = self._static(identity.role)
        return static + self._choose(identity, transports, explain=False).candidates

    @property
    def may_come(self) -> bool:
        """Whether this worker can hear about sources that appear later."""
        return not self._membership.absent or bool(self._listed())

    @property
    def loading(self) -> int:
        """How many members load a model now, this worker included."""
        return sum(
            member.status.live and any(one.state == "loading" for one in holdings)
            for member, holdings in self._everybody()
        )

    def survey(self, identity: Identity, transports: Sequence[str]) -> Electorate:
        """Who else loads these weights now. Never waits."""
        config, reaches = self._config, self._membership.reaches
        return election.survey(
            self._everybody(),
            identity,
            lambda holding: (
                bool(holding.endpoint)
                and selection.no_transfer(holding, transports, config.chunk_bytes, config.fabric)
                is None
                and reaches(holding.endpoint)
            ),
        )

    def offers(self, identity: Identity) -> list[str]:
        """Holdings in the mesh that fit `identity` in everything but content, in words, with the
        content ids that `CONTENT` takes."""
        fields = identity.fields()
        return [
            f"{member.id} has {holding.model} as CONTENT={content_id(holding.content)}"
            for member, holding in self._ready()
            if holding.role == identity.role and holding.fields == fields
        ]

    def alike(self, identity: Identity) -> list[Holding]:
        """Holdings of members that may turn out to be these weights once the model is built:
        everything known so far is equal. Waits at most `DISCOVERY_TIMEOUT` for the mesh to
        answer."""
        if not self._membership.wait_joined(self._config.discovery_timeout_s):
            return []
        mine = replace(identity, built={}).fields().items()
        return [holding for _, holding in self._ready() if mine <= holding.fields.items()]

    def listed(self, role: Role) -> tuple[str, ...]:
        """Endpoints of the sources that the operator lists for this worker."""
        return tuple(candidate.endpoint for candidate in self._static(role))

    def _static(self, role: Role) -> tuple[Candidate, ...]:
        own = self._own_endpoint(role)
        return tuple(
            Candidate(endpoint, origin)
            for endpoint, origin in self._listed(draft=role == "draft")
            # A list shared by all hosts names this worker too.
            if endpoint != own
        )

    def _listed(self, *, draft: bool = False) -> tuple[tuple[str, str], ...]:
        """Data-parallel engines of a dense model may share one entry: their weights are equal."""
        own = self._config.sources_of(self._position.rank, draft=draft)
        return own or self._config.sources_of(self._position.part, draft=draft)

    def _choose(
        self, identity: Identity, transports: Sequence[str], *, explain: bool
    ) -> selection.Choice:
        held = {member.id: (member, holdings) for member, holdings in self._everybody()}
        return selection.choose(
            [member for member, _ in held.values()],
            identity,
            transports,
            self._config.chunk_bytes,
            fabric=self._config.fabric,
            caught=self._accusations.processes,
            read=lambda member: held[member.id][1],
            reaches=self._membership.reaches,
            explain=explain,
        )

    def _ready(self) -> Iterator[tuple[Member, Holding]]:
        """Holdings of others that are ready to be served and whose content is known."""
        for member, holdings in self._everybody():
            if member.me or not member.selectable:
                continue
            for holding in holdings:
                if holding.state == "ready" and holding.content:
                    yield member, holding

    def _everybody(self) -> Sequence[tuple[Member, tuple[Holding, ...]]]:
        """All members and what they hold. Each version of an advert is read once, because a pull
        asks several times a second. Members that are gone are forgotten."""
        before, now = self._read, dict[MemberId, tuple[_Version, tuple[Holding, ...]]]()
        members = self._membership.members()
        for member in members:
            version = (int(member.generation), member.version)
            known = before.get(member.id)
            if known is None or known[0] != version:
                known = (version, advert.decode(member.advert))
            now[member.id] = known
        self._read = now
        return [(member, now[member.id][1]) for member in members]
