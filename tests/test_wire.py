"""The bytes of both protocols are what they were: `wire.json` was written before the house was
rebuilt, by protocol versions that are still spoken. Later versions have added theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from netloader.protocol import messages
from netmesh.core.wire import HEADER, Codec
from tests.fuzz import seeds

RECORDED: dict[str, Any] = orjson.loads(Path(__file__).with_name("wire.json").read_bytes())
CODEC = Codec("mesh")


def frames(recorded: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in recorded["frames"]]


@pytest.mark.parametrize("at", range(len(seeds.MESH)))
def test_message_of_the_mesh(at: int) -> None:
    recorded, message = RECORDED["mesh_version_2"][at], seeds.MESH[at]
    assert recorded["message"] == type(message).__name__
    assert list(CODEC.encode(message)) == frames(recorded)
    assert CODEC.decode(frames(recorded)) == message
    assert CODEC.newest(frames(recorded)) == 2


@pytest.mark.parametrize("at", range(len(RECORDED["mesh"])))
def test_message_of_the_mesh_in_version_1_is_understood(at: int) -> None:
    recorded, message = RECORDED["mesh"][at], seeds.MESH[at]
    assert CODEC.decode(frames(recorded)) == message
    assert CODEC.newest(frames(recorded)) == 1


@pytest.mark.parametrize("at", range(len(RECORDED["mesh"])))
def test_version_1_finds_its_own_bytes_in_a_message_of_version_2(at: int) -> None:
    """It ignores flags that it does not know, and members of the body."""
    header, body = frames(RECORDED["mesh_version_2"][at])
    fields = list(HEADER.unpack(header))
    assert fields[3] >> 8 == 2
    fields[3] &= 0xFF
    assert [HEADER.pack(*fields), body] == frames(RECORDED["mesh"][at])


def test_a_target_is_all_that_version_2_adds_to_a_ping() -> None:
    with_target = frames(RECORDED["mesh_version_2"][len(RECORDED["mesh"])])
    body = orjson.loads(with_target[1])
    assert body.pop("to") == seeds.ME
    assert body == orjson.loads(frames(RECORDED["mesh"][1])[1])


@pytest.mark.parametrize("at", range(len(seeds.CONTROL_MESSAGES)))
def test_message_of_a_session(at: int) -> None:
    recorded, message = RECORDED["control"][at], seeds.CONTROL_MESSAGES[at]
    assert recorded["message"] == type(message).__name__
    assert messages.encode(message) == frames(recorded)
    assert messages.decode(frames(recorded))[0] == message


def test_attachment_manifest_and_advert() -> None:
    accept = seeds.CONTROL_MESSAGES[1]
    with_manifest = [bytes.fromhex(frame) for frame in RECORDED["accept_with_manifest"]]
    assert messages.encode(accept, seeds.MANIFEST) == with_manifest
    assert messages.decode(with_manifest) == (accept, seeds.MANIFEST)
    assert seeds.MANIFEST.hex() == RECORDED["manifest"]
    # Adverts name the release since; older members ignore it.
    advert = orjson.loads(seeds.HOLDING)
    assert advert.pop("release")
    assert advert == orjson.loads(bytes.fromhex(RECORDED["advert"]))


def test_no_message_is_without_a_record() -> None:
    assert len(RECORDED["mesh_version_2"]) == len(seeds.MESH)
    assert len(RECORDED["control"]) == len(seeds.CONTROL_MESSAGES)
