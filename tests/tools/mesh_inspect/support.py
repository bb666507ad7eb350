"""Members and adverts as workers would publish them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from mesh_inspect.looking import Means
from mesh_inspect.view.rows import RankPlace
from netloader.discovery.advert import Holding, encode
from netloader.identity.identity import Evidence, Identity, Names, known
from netmesh import Generation, JsonObject, Member, MemberId, MeshSettings, NoMeshError, Status

ALONE = RankPlace(1, 0, 1, 0, 1, 0)

GENERATION = Generation((1_780_000_000_000 << 22) | 17)


def holding(
    model: str = "org/model-7b", place: RankPlace | None = None, **changes: object
) -> Holding:
    """A ready source of `model`, as `changes` say otherwise."""
    identity = Identity(
        Names("", model, f"/cache/{model}"),
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        quantization="",
        built=asdict(place or ALONE),
        content={Evidence.SAMPLE: "c0ffee"},
    )
    values: dict[str, object] = {
        "role": identity.role,
        "state": "ready",
        "identity": identity.digest,
        "names": identity.names.travelling(),
        "fields": identity.fields(),
        "content": known(identity.content),
        "endpoint": "10.0.0.1:31000",
        "backend": "gloo",
        "nbytes": 3 << 29,
        "origin": "storage",
    }
    return Holding.model_validate(values | changes)


def advert(*holdings: Holding) -> JsonObject:
    return encode(holdings)


def member(
    *holdings: Holding,
    id: str = "10.0.0.1:17946",
    status: Status = Status.ALIVE,
    raw: JsonObject | None = None,
    age_s: float = 125.25,
) -> Member:
    """A member that publishes these holdings, or `raw` in their place."""
    published = advert(*holdings) if raw is None else raw
    return Member(MemberId(id), GENERATION, 0, status, 1, published, age_s)


Members = Iterable[Member]


class PlayedMesh:
    """A mesh that is another one with each look, and a clock that only waiting moves.

    A look at None finds nobody. The last look stays.
    """

    def __init__(self, *looks: Members | Exception | None) -> None:
        self.now = 0.0
        self.asked_s: list[float] = []
        """How long each look would have waited."""
        self.seeds_only: bool | None = None
        self.answer: Status | None = None
        """What is said to whoever buries a member."""
        self.buried: list[tuple[str, float]] = []
        """Whom somebody buried, and how long they would have waited."""
        self.closed = 0
        self.answered_by = "10.0.0.1:17946"
        self.paused: Callable[[], None] = lambda: None
        """Called at the end of each pause."""
        self._looks: Iterator[Members | Exception | None] = iter(looks)
        self._last: Members | Exception | None = None
        self._settings = MeshSettings()

    def __call__(self, settings: MeshSettings, *, seeds_only: bool) -> PlayedMesh:
        self._settings, self.seeds_only = settings, seeds_only
        return self

    def look(self, timeout_s: float = 3.0) -> tuple[Member, ...]:
        self.asked_s.append(timeout_s)
        self._last = next(self._looks, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        if self._last is None:
            self.now += timeout_s
            raise NoMeshError(self._settings.name, ("10.0.0.9:1",), timeout_s)
        return tuple(self._last)

    def forget(self, member: MemberId, timeout_s: float = 3.0) -> Status | None:
        self.buried.append((member, timeout_s))
        return self.answer

    def close(self) -> None:
        self.closed += 1

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.paused()

    @property
    def means(self) -> Means:
        return Means(
            observer=self,
            monotonic=lambda: self.now,
            pause=self.pause,
            wall_s=lambda: 1_780_000_000.0 + self.now,
        )


def seeing(members: Members) -> Means:
    """Every look shows these members."""
    return PlayedMesh(tuple(members)).means
