"""Members and adverts as workers would publish them."""

from __future__ import annotations

from netloader.advert import Holding, encode
from netloader.identity import Evidence, Identity, Parallel
from netmesh import Generation, JsonObject, Member, MemberId, Status

GENERATION = Generation((1_780_000_000_000 << 22) | 17)


def holding(
    model: str = "org/model-7b", parallel: Parallel | None = None, **changes: object
) -> Holding:
    """A ready source of `model`, as `changes` say otherwise."""
    identity = Identity(
        model=model,
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        quantization="",
        quantization_config="",
        config="c",
        parallel=parallel or Parallel(),
        vllm_version="0.32.0",
        content={Evidence.SAMPLE: "c0ffee"},
    )
    values: dict[str, object] = {
        "role": identity.role,
        "state": "ready",
        "identity": identity.digest,
        "fields": identity.fields(),
        "content": {str(kind): value for kind, value in identity.content.items()},
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
