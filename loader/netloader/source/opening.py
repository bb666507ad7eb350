"""How a source opens a session for an admitted replica."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from netloader.identity.identity import known
from netloader.protocol import messages
from netloader.protocol.ranges import ranges
from netloader.source.listener import Exposure
from netloader.source.offer import Offer
from netloader.source.session import Session, SessionOutcome, SessionTerms
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Throttle
from netloader.transport import Backend, Rendezvous
from netloader.weights import digests


@dataclass(frozen=True)
class Opener:
    """Opens the sessions of one source."""

    host: str
    """The address at which replicas reach the rendezvous."""
    exposure: Exposure
    """How its port is bound."""
    generation: Callable[[], int]
    settings: SourceSettings
    throttle: Throttle | None
    on_end: Callable[[Session, SessionOutcome], None]
    """Called once for each session, from its thread."""

    def open(
        self, replica: str, offer: Offer, backend: Backend, *, near: bool = False
    ) -> tuple[Session, messages.Accept]:
        """A session that waits for its replica, and the message that tells the replica how to join
        by this `backend`. `near`: the replica says that it is on this host.

        Raises `OSError` when no port is free, and `pydantic.ValidationError` for an offer that no
        message can carry. After an error nothing is left open.
        """
        rendezvous = Rendezvous(
            self.host, self.settings.rendezvous_timeout_s, listen=self.exposure.listen
        )
        try:
            session = Session(
                SessionTerms(secrets.token_hex(16), replica, backend, near),
                offer,
                rendezvous,
                self.settings,
                self.on_end,
                throttle=self.throttle,
            )
            have: tuple[tuple[int, int], ...] = ((0, len(offer.chunks)),)
            if offer.available is not None:
                offer.available.overheard = offer.available.overheard or near
                gained = offer.available.since(0)
                have = ranges(gained)
                session.told = len(gained)
                if len(have) > messages.MAX_IDS:
                    session.told, have = 0, ()  # `Have` brings them, in as many as are needed.
            accept = messages.Accept(
                session=session.id,
                generation=self.generation(),
                identity=offer.identity.digest,
                manifest=offer.manifest_hash,
                attributes=dict(offer.attributes),
                content=known(offer.identity.content),
                computed=dict(offer.computed),
                host=rendezvous.host,
                port=rendezvous.port,
                secret=rendezvous.secret,
                have=have,
                message_bytes=session.message_bytes,
                digest=digests.kind_of(offer.weights),
            )
            session.start()
        except BaseException:
            rendezvous.close()
            raise
        return session, accept
