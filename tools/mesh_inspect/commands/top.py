"""`mesh-inspect top`: a mesh on the whole screen."""

from __future__ import annotations

import os

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import asks_mesh, subcommand


@subcommand("top", "top --seed 10.0.0.1", "top --no-mouse")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal, to copy text.")
@asks_mesh
def command(inquiry: Inquiry, no_mouse: bool) -> int:
    """Show the members and what moves on the whole screen.

    The mesh is asked once a second. `?` shows the keys.
    """
    from mesh_inspect.top.terminal import run, why_not

    if reason := why_not(os.environ):
        say(
            f"top needs a terminal: {reason}. `mesh-inspect list` and `mesh-inspect transfers` "
            "print lines; with -w they go on, and print what changes"
        )
        return InspectExit.USAGE
    return run(inquiry, mouse=not no_mouse)
