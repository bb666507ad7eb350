"""Asking a source whether it has weights, before this worker knows how its own tensors will lie.

A replica of the `runtime` layout has a manifest only after it has post-processed dummies. That is
worth the time if a source has these weights. So the replica says hello with an empty manifest
first. A source compares identities before manifests: one that has the weights refuses the manifest,
and says what its `load_weights` had set besides tensors. Post-processing may read that.
"""

from __future__ import annotations

from collections.abc import Mapping

from netloader.discovery.candidate import Candidate
from netloader.errors import TransferError
from netloader.plain import Plain
from netloader.protocol import messages
from netloader.replica import acceptance
from netloader.replica.handshake import greet
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.weights.manifest import Manifest


def ask(
    source: Candidate, request: Request, settings: PullSettings, chunk_bytes: int
) -> Mapping[str, Plain] | str:
    """What `load_weights` had set where the weights of `request` come from, or why a source does
    not have them.

    Takes `hello_timeout_s` at most.
    """
    offered = source.transports
    transport = next(
        (name for name in request.transports if offered is None or name in offered), None
    )
    if transport is None:
        return "no transport in common"
    empty = Manifest(request.identity.layout, chunk_bytes, ())
    hello = acceptance.hello(request, source.generation, empty, transport)
    try:
        with greet(source.endpoint, request.security, hello, settings) as (connection, answer, _):
            if isinstance(answer, messages.Accept):
                connection.send(messages.Bye(session=answer.session, reason="only asked"))
                return "it holds a model without tensors"
            if isinstance(answer, messages.Refuse):
                return dict(answer.loaded) if answer.code == "manifest" else answer.reason
            return f"answered hello with {answer.type}"
    except TransferError as error:
        return error.reason
