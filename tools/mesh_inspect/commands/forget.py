"""`mesh-inspect forget MEMBER`: a dead member will not come back."""

from __future__ import annotations

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import MEMBER, asks_mesh, subcommand
from mesh_inspect.output.text import escape
from netmesh import MemberId, Status


@subcommand("forget 10.0.0.7:17946")
@click.argument("member", metavar="MEMBER", type=MEMBER)
@asks_mesh
def command(inquiry: Inquiry, member: str) -> InspectExit:
    """Tell the mesh that a dead member will not come back.

    MEMBER is HOST:PORT, as `mesh-inspect -o wide` shows it.
    """
    with inquiry.observer() as observer:
        status = observer.forget(MemberId(member), inquiry.timeout_s)
    if status is Status.LEFT:
        print(escape(f"{member} is forgotten"))
        return InspectExit.OK
    if status is None:
        say(f"mesh {inquiry.settings.name!r} knows no member {member}")
    else:
        say(f"{member} is {status.name.lower()}: only a dead member can be forgotten")
    return InspectExit.NOTHING_MATCHES
