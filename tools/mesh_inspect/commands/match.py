"""`mesh-inspect match`: who could feed a worker, and why each other member could not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import MEMBER, asks_mesh, output, subcommand
from mesh_inspect.output.documents import ascii_json
from mesh_inspect.output.text import escape
from mesh_inspect.view.entries import API_VERSION
from mesh_inspect.view.pairs import prospects_like
from mesh_inspect.view.rows import RankPlace, place_of
from mesh_inspect.view.words import human_bytes, short_layout
from netloader.discovery.advert import decode
from netloader.discovery.prospect import Match, Prospect, match
from netloader.errors import NetloaderError


@subcommand(
    "match --like 10.0.0.2:17946",
    "match Qwen/Qwen3-8B --tensor-parallel-size 2 --dtype bfloat16",
    "match -o json --seed 10.0.0.1 Qwen/Qwen3-8B",
    # All that stands behind MODEL is vLLM's.
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--like",
    metavar="MEMBER",
    type=MEMBER,
    help="A worker that needs what this member has: HOST:PORT, as `-o wide` shows it.",
)
@click.argument(
    "model_and_flags",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[MODEL [VLLM FLAG]...]",
)
@output("table", "json")
@asks_mesh
def command(
    inquiry: Inquiry, like: str | None, model_and_flags: Sequence[str], form: str
) -> InspectExit:
    """Say who could feed a worker, and why each other member could not.

    MODEL and the flags behind it are what would follow `vllm serve`: vLLM is asked what such a
    worker would need, so it must be installed here. Options of this command stand before MODEL.
    """
    if (like is None) == (not model_and_flags):
        raise click.UsageError("match takes a MODEL with vLLM's flags, or --like MEMBER")
    members = inquiry.everybody()
    held = [(member, decode(member.advert)) for member in members]
    if like is not None:
        alike = [member for member in members if member.id == like]
        prospects = [one for each in alike for one in prospects_like(each, inquiry.settings)]
        if not prospects:
            say(f"no member {like} with a model in mesh {inquiry.settings.name!r}")
            return InspectExit.NOTHING_MATCHES
    else:
        try:
            prospects = _as_vllm_says(model_and_flags)
        except ImportError as error:
            say(
                f"vLLM cannot be asked here: {error}; run this where vLLM is installed, or name a "
                "member that has what the worker would need: --like MEMBER"
            )
            return InspectExit.FAILED
        except NetloaderError as error:
            say(str(error))
            return InspectExit.FAILED
    matches = [match(held, prospect) for prospect in prospects]
    if form == "json":
        print(_document(matches, inquiry, like))
    else:
        print("\n".join(escape(line) for one in matches for line in _told(one)))
    fed = all(one.sources for one in matches)
    return InspectExit.OK if fed else InspectExit.NOTHING_MATCHES


def _as_vllm_says(model_and_flags: Sequence[str]) -> list[Prospect]:
    """One for each rank of `vllm serve MODEL FLAGS`. Raises `NetloaderError`, and ImportError
    where there is no vLLM."""
    from netloader.engine.prospects import prospects

    return prospects(model_and_flags, sys.stderr)


def _title(prospect: Prospect) -> str:
    identity = prospect.identity
    rank = short_layout(place_of(identity.fields()))
    return f"{identity.model or 'a model'} ({identity.role}{', ' + rank if rank else ''})"


def _told(one: Match) -> list[str]:
    could = "nobody could feed it" if not one.sources else f"{len(one.sources)} could feed it"
    lines = [f"{_title(one.prospect)}: {could}"]
    for source in one.sources:
        holding = source.holding
        doubt = "; accused of wrong bytes, so it is asked last" if source.accused else ""
        lines.append(
            f"  {source.member.id}: {human_bytes(holding.nbytes)} at {holding.endpoint} by "
            f"{', '.join(holding.offered)}, serving {holding.serving}{doubt}"
        )
    if one.others:
        lines.append(f"  not these {len(one.others)}:")
        lines += [f"  {other.member}: {_reason(other.model, other.reason)}" for other in one.others]
    return lines


def _reason(model: str, reason: str) -> str:
    return f"{reason} ({model})" if model else reason


def _document(matches: Sequence[Match], inquiry: Inquiry, like: str | None) -> str:
    """Keys are never missing; unknown values are null."""
    document = {
        "apiVersion": API_VERSION,
        "mesh": inquiry.settings.name,
        "like": like,
        "workers": [_worker(one) for one in matches],
    }
    return ascii_json(document)


def _worker(one: Match) -> dict[str, object]:
    identity = one.prospect.identity
    place: RankPlace = place_of(identity.fields())
    return {
        "model": identity.model or None,
        "role": identity.role,
        "layout": asdict(place),
        "identity": identity.digest,
        "sources": [
            {
                "id": source.member.id,
                "generation": source.member.generation,
                "endpoint": source.holding.endpoint,
                "transports": list(source.holding.offered),
                "serving": source.holding.serving,
                "accused": source.accused,
            }
            for source in one.sources
        ],
        "others": [
            {"id": other.member, "model": other.model or None, "reason": other.reason}
            for other in one.others
        ],
    }
