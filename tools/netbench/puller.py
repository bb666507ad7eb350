"""A replica without a model, which pulls the weights of some server again and again.

It learns from the mesh who holds weights, and from a refusal which tensors these are: a source that
is asked with another manifest answers with its own.

    python -m netbench.puller '{"directory": the mesh's same-host directory}'
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from netbench.child import Json, obey, say
from netbench.common import OPEN, SETTINGS
from netloader.discovery import advert
from netloader.discovery.advert import Holding
from netloader.discovery.candidate import Candidate
from netloader.identity.identity import Evidence, Identity, Names
from netloader.program import PROGRAM
from netloader.protocol import messages
from netloader.replica.handshake import greet
from netloader.replica.pull import Pull
from netloader.replica.request import Request
from netloader.transport.tcp import TcpBackend
from netloader.weights import manifest
from netloader.weights.capture import Weights
from netmesh import MeshSettings, NoMeshError, observe

_FIND_TIMEOUT_S = 60.0


class PullerError(Exception):
    """No source answered, or an answer was unexpected."""


def main() -> None:
    torch.set_num_threads(1)
    spec = json.loads(sys.argv[1])
    holding = _find(Path(spec["directory"]))
    weights = _weights_of(_ask_manifest(holding))
    request = Request(_identity_of(holding), (TcpBackend(),), lambda: OPEN, "netbench")

    def pull_for(seconds: float) -> Json:
        """Pull everything again and again until the time is over. The last pull is finished."""
        started = time.perf_counter()
        pulls = 0
        while time.perf_counter() - started < seconds:
            pull = Pull(weights, request, SETTINGS)
            pull.run(lambda: [Candidate(holding.endpoint, "netbench")])
            pulls += 1
        took = time.perf_counter() - started
        return {"pulls": pulls, "bytes": pulls * weights.manifest.nbytes, "seconds": took}

    say({"bytes": weights.manifest.nbytes, "tensors": len(weights.tensors)})
    obey({"pull": pull_for})


def _find(directory: Path) -> Holding:
    """The holding of the first member that is ready."""
    settings = MeshSettings.load({"MESH_DIRECTORY": str(directory)}, program=PROGRAM)
    deadline = time.monotonic() + _FIND_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            for member in observe(settings, 3.0):
                for holding in advert.decode(member.advert):
                    if holding.state == "ready":
                        return holding
        except NoMeshError:
            pass
        time.sleep(0.2)
    raise PullerError(f"nobody in {directory} holds weights")


def _ask_manifest(holding: Holding) -> manifest.Manifest:
    identity = _identity_of(holding)
    hello = messages.Hello(
        replica="netbench",
        generation=None,
        identity=identity.digest,
        fields=identity.fields(),
        names=dict(holding.names),
        content=dict(holding.content),
        manifest="0" * 32,
        chunk_bytes=holding.chunk_bytes or manifest.CHUNK_BYTES,
        backend=holding.backend,
    )
    with greet(holding.endpoint, lambda: OPEN, hello, SETTINGS) as (_, answer, attachment):
        if not isinstance(answer, messages.Refuse) or answer.code != "manifest":
            raise PullerError(f"the source did not say which tensors it has: {answer}")
        return manifest.decode(attachment)


def _weights_of(found: manifest.Manifest) -> Weights:
    """Memory for these tensors, already touched."""
    return Weights(found, tuple(torch.zeros(t.nbytes, dtype=torch.uint8) for t in found.tensors))


def _identity_of(holding: Holding) -> Identity:
    # These came over the network; the source compares them with its own.
    rest = dict(holding.fields)
    return Identity(
        Names(**holding.names),
        architecture=str(rest.pop("architecture")),
        dtype=str(rest.pop("dtype")),
        quantization=str(rest.pop("quantization")),
        built=rest,
        content={Evidence(kind): text for kind, text in holding.content.items()},
    )


if __name__ == "__main__":
    main()
