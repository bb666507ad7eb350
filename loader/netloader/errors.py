"""Everything that can go wrong while a model is loaded.

    NetloaderError
    ├── ConfigError            a setting is wrong; the start is stopped
    ├── UnsupportedError       this vLLM was not checked; the start is stopped
    ├── IdentityError          this worker cannot say which weights it needs
    │   └── NotAtHand          because the checkpoint's files are not on this host
    ├── LeftoverError          storage left bytes of an abandoned pull; the model is built again
    ├── ListenError            the source's port cannot be listened on; this worker serves nobody
    ├── ManifestError          two models that should be alike are not, or a manifest is malformed
    ├── TransferError          a pull from one source failed; another source or storage is next
    │   ├── Refused            the source said no, and why
    │   ├── SourceLost         connection broken, source dead or silent
    │   │   ├── Unanswered     nothing answers a connect to its control port
    │   │   ├── Broken         the control connection broke, before or after something was heard
    │   │   └── Unreachable    whoever listens at the endpoint is no source for this worker
    │   └── DigestMismatch     the source sent bytes that are not the promised ones
    ├── TransportError         a process group is broken, or could not be opened
    │   └── BlockedPort        nothing answers a connect to the session's data port
    ├── NoSourceLeft           a pull ended before everything had come; storage is next
    ├── NothingToLoadError     neither peers nor storage have the weights; the start is stopped
    └── ProtocolError          the peer sent something that is not in the grammar

Only `ConfigError`, `UnsupportedError` and `NothingToLoadError` reach the operator as a failed
start. The others end one attempt: the loader logs them in one line and takes the next source, or
storage.
"""

from __future__ import annotations

from collections.abc import Sequence


class NetloaderError(Exception):
    """Base of every error that Netloader raises on purpose."""


class ConfigError(NetloaderError):
    """A setting is unknown or has a bad value."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        self.key = key
        self.value = value
        self.allowed = allowed
        super().__init__(f"{key}={value!r} is not valid: {allowed}")


class UnsupportedError(NetloaderError):
    """Netloader was not checked with the installed vLLM."""

    def __init__(self, version: str, supported: str, remedy: str) -> None:
        self.version = version
        super().__init__(
            f"netloader-mesh works with vLLM {supported}, and this is vLLM {version}: install "
            f"another version of either, start with another --load-format, or {remedy}"
        )


class IdentityError(NetloaderError):
    """The checkpoint could not be read well enough to say which weights it holds."""


class NotAtHand(IdentityError):
    """The files of the checkpoint, or some of them, are not on this host."""


class ManifestError(NetloaderError):
    """Two manifests that should describe the same tensors differ, or one contradicts itself."""


class TransferError(NetloaderError):
    """A pull from one source failed."""

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = reason
        super().__init__(f"source {source}: {reason}")


class Refused(TransferError):
    """The source declined the session.

    `retry_after_s` is the source's own estimate of when asking again makes sense; None means that
    asking again is pointless. `code` is the refusal's, empty where there was none.
    """

    def __init__(
        self, source: str, reason: str, retry_after_s: float | None, code: str = ""
    ) -> None:
        self.retry_after_s = retry_after_s
        self.code = code
        super().__init__(source, f"refused: {reason}")


class SourceLost(TransferError):
    """The source died, went silent or broke the connection."""


class Unanswered(SourceLost):
    """Nothing answers a connect to the control port, not even with a refusal."""


class DigestMismatch(TransferError):
    """A chunk arrived whose bytes are not those that the source has promised."""

    def __init__(self, source: str, chunk: int, expected: str, got: str) -> None:
        self.chunk = chunk
        super().__init__(source, f"chunk {chunk} has digest {got}, the source promised {expected}")


class TransportError(NetloaderError):
    """A process group is broken: its peer died or was silent for too long, or this side aborted.

    It never leaves a session: each end turns it into what became of the session.
    """


class BlockedPort(TransportError):
    """Nothing answers a connect to the data port of a session, not even with a refusal."""


class NoSourceLeft(NetloaderError):
    """A pull ended before everything had come: nobody was left to ask, or storage is sooner."""

    def __init__(self, reason: str, failures: Sequence[object]) -> None:
        self.reason = reason
        super().__init__("; ".join([reason, *map(str, failures)]))


class NothingToLoadError(NetloaderError):
    """No peer holds what this worker wants, and its storage has no weights either."""


class ListenError(NetloaderError):
    """The source's port cannot be listened on."""


class ProtocolError(NetloaderError):
    """The peer sent a control message that is not in the grammar."""
