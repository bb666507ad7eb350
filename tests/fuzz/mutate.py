"""Changes to the JSON part of an input that leave it JSON: bytes flipped at random rarely do."""

from __future__ import annotations

import random
from copy import deepcopy

import orjson

NASTY: tuple[object, ...] = (
    *(None, True, False, -1, 0, 1, 4, 255, 256, 65536, 2**31, 2**32, 2**53, 2**63, 2**64 - 1),
    *(0.0, -0.0, 1.5, 1e308, 5e-324, "", "x", "0" * 32, "é" * 64, "\0", "host:0", "a:1", "[::]:9"),
    *([], {}, [[]], {"": {}}, [None] * 9, ["a:1"], {"a": [{}]}, "hello", "ready", 3, 2**22, 1e15),
)

_PLACES = 400
"""Places looked at in one value; more of them are not more interesting."""

Container = list[object] | dict[str, object]


def _places(value: object) -> list[tuple[Container, int | str]]:
    found: list[tuple[Container, int | str]] = []
    waiting = [value]
    while waiting and len(found) < _PLACES:
        one = waiting.pop()
        if isinstance(one, dict):
            found += [(one, key) for key in one]
            waiting += one.values()
        elif isinstance(one, list):
            found += [(one, index) for index in range(len(one))]
            waiting += one
    return found


def mutate_json(text: bytes, rng: random.Random) -> bytes | None:
    """*text* with one to three values replaced, removed, doubled, wrapped or moved.

    None when it is no JSON or has nothing to change.
    """
    try:
        value = orjson.loads(text)
    except ValueError:
        return None
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(value)
        if not places:
            break
        _change(places, rng)
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError):
        return None  # deeper than can be written


def _change(places: list[tuple[Container, int | str]], rng: random.Random) -> None:
    holder, key = rng.choice(places)
    other, place = rng.choice(places)
    what = rng.randrange(6)
    if isinstance(holder, list):
        assert isinstance(key, int)
        if what == 0:
            del holder[key]
        elif what == 1:
            holder.insert(key, deepcopy(holder[key]))
        elif what == 2:
            holder += deepcopy(holder)[:64]
        elif what == 3:
            holder[key] = [holder[key]]
        else:
            holder[key] = _value(other, place, rng)
    else:
        assert isinstance(key, str)
        if what == 0:
            del holder[key]
        elif what == 1:
            holder[rng.choice(("", "x" * 40, "claims", "type", "version"))] = deepcopy(holder[key])
        else:
            holder[key] = _value(other, place, rng)


def _value(other: Container, place: int | str, rng: random.Random) -> object:
    if rng.random() < 0.3:
        return deepcopy(other[place])  # type: ignore[index]
    return deepcopy(rng.choice(NASTY))
