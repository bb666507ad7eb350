"""`mesh-inspect completion SHELL`: what makes a shell complete the command line."""

from __future__ import annotations

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.options import subcommand


@subcommand(
    "completion bash >> ~/.bash_completion",
    "completion zsh > ~/.zfunc/_mesh-inspect",
    "completion fish > ~/.config/fish/completions/mesh-inspect.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> InspectExit:
    """Print what makes a shell complete the command line.

    Commands, options and their values are completed, and so are members and models of the mesh
    that answers.
    """
    from mesh_inspect.completion import source

    print(source(ctx.find_root().command, shell))
    return InspectExit.OK
