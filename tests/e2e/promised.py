"""What a source promises to send, asked over its control connection as any replica would ask."""

from __future__ import annotations

from netloader.discovery.advert import Holding
from netloader.discovery.candidate import Candidate
from netloader.errors import Refused
from netloader.identity.identity import Identity
from netloader.protocol import messages
from netloader.replica import acceptance
from netloader.replica.acceptance import Promise
from netloader.replica.handshake import greet
from netloader.replica.opening import open_session
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.transport.tcp import TcpBackend
from netloader.weights import manifest
from netloader.weights.manifest import Manifest, Tensor
from netmesh import SocketSecurity

_NO_TENSOR = Tensor("a test's", "buffer", (1,), (1,), "uint8", 1)
"""Makes a manifest that no source has: the refusal brings the right one."""


def promise_of(holding: Holding, security: SocketSecurity) -> Promise:
    """The promise of the source that this holding names. Raises `TransferError`."""
    backend, settings = TcpBackend(), PullSettings()
    source = Candidate(holding.endpoint, "test")
    identity = Identity.of_fields(holding.fields, holding.names, holding.content)
    request = Request(identity, (backend,), lambda: security, "a test")
    unknown = Manifest(identity.layout, holding.chunk_bytes, (_NO_TENSOR,))
    hello = acceptance.hello(request, None, unknown, backend.name)
    with greet(source.endpoint, request.security, hello, settings) as (_, answer, attachment):
        if not isinstance(answer, messages.Refuse) or answer.code != "manifest":
            raise Refused(source.endpoint, f"a wrong manifest with {answer}", None)
        theirs = manifest.decode(attachment)
    with open_session(source, request, theirs, backend, settings) as session:
        promise = session.promise()
        session.conversation.bye("only asked")
        return promise
