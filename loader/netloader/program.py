"""What the loader calls things towards its operators, in the words that the mesh asks for.

Whoever starts a member, or looks at the mesh of the workers, uses these.
"""

from __future__ import annotations

from typing import Final

from netmesh import Program

ENV_PREFIX: Final = "NETLOADER_"
"""Stands in front of a key of the configuration where the key is an environment variable."""

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
