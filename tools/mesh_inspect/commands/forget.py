"""`mesh-inspect forget MEMBER`: a dead member will not come back."""

from __future__ import annotations

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Arguments, Means, log_to_stderr, say
from mesh_inspect.render import escape
from netmesh import MemberId, Status


def run(options: Arguments, means: Means) -> InspectExit:
    settings, member = options.settings, MemberId(options.member)
    with log_to_stderr():
        status = means.bury(settings, member, options.timeout_s, seeds_only=options.seeds_only)
    if status is Status.LEFT:
        print(escape(f"{member} is forgotten"))
        return InspectExit.OK
    if status is None:
        say(f"mesh {settings.name!r} knows no member {member}")
    else:
        say(f"{member} is {status.name.lower()}: only a dead member can be forgotten")
    return InspectExit.NOTHING_MATCHES
