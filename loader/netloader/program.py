"""The loader's names for its operators, in the form that the mesh asks for.

Code that starts a member, or looks at the workers' mesh, uses these names.
"""

from __future__ import annotations

from typing import Final

from netmesh import Program

ENV_PREFIX: Final = "NETLOADER_"
"""Prefix of a configuration key that is given as an environment variable."""

PROGRAM: Final = Program(
    prefix=ENV_PREFIX,
    service="netloader-mesh",
    # vLLM's own variable first: an operator who set it said which network the workers use.
    host_variables=("VLLM_HOST_IP", "POD_IP"),
    keygen="mesh-inspect keygen",
    exposed=(
        "read what this member advertises, forge members and send replicas to a source of his own"
    ),
)
