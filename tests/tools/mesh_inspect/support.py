"""Members and adverts as workers would publish them."""

from __future__ import annotations

from dataclasses import asdict

from mesh_inspect.rows import RankPlace
from netloader.discovery.advert import Holding, encode
from netloader.identity.identity import Evidence, Identity, Names, known
from netmesh import Generation, JsonObject, Member, MemberId, Status

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
