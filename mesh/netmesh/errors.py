"""Everything that can go wrong in the mesh, as one tree.

    MeshError
    +-- SettingsError           a setting cannot be used: names the key, the value, what is allowed
    +-- BindError               the address to listen on is taken or does not exist
    +-- StartError              the process lacks what a member needs: mostly descriptors
    +-- ClosedError             the mesh was left or closed before this call
    +-- NoMeshError             no member answered where a mesh was expected
    +-- LocalProtocolError      our own code asked for something the protocol forbids: a bug here
    +-- RemoteProtocolError     bytes arrived that no correct member sends
        +-- VersionMismatch     a correct member speaks a version that we do not

Callers that can go on without a mesh catch `MeshError`. A receiver catches
`RemoteProtocolError`, counts it and drops the message; `LocalProtocolError` is never caught.
"""


class MeshError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingsError(MeshError):
    """A setting cannot be used."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={value!r} cannot be used: {allowed}")
        self.key = key
        self.value = value
        self.allowed = allowed


class BindError(MeshError):
    """The address to listen on is taken or does not exist on this host."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address
        self.reason = reason


class StartError(MeshError):
    """The process lacks what a member needs, and nobody's setting is wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot start a member of the mesh: {reason}")
        self.reason = reason


class ClosedError(MeshError):
    """The mesh was left or closed, or belongs to the parent of this forked process."""


class NoMeshError(MeshError):
    """No member answered at any of the places where a mesh was expected."""

    def __init__(self, mesh: str, tried: tuple[str, ...], timeout_s: float) -> None:
        places = ", ".join(tried) if tried else "nowhere: no seed and no member on this host"
        super().__init__(f"no member of mesh {mesh!r} answered within {timeout_s:g} s ({places})")
        self.mesh = mesh
        self.tried = tried
        self.timeout_s = timeout_s


class LocalProtocolError(MeshError):
    """This process tried to do something that the protocol forbids: a bug on our side."""


class RemoteProtocolError(MeshError):
    """A received message is malformed, oversized, from another mesh, or otherwise unacceptable."""


class VersionMismatch(RemoteProtocolError):
    """The sender speaks a protocol version that we do not."""

    def __init__(self, theirs: int, oldest: int, newest: int) -> None:
        super().__init__(
            f"peer speaks netmesh protocol version {theirs}, this process speaks {oldest} to "
            f"{newest}: run releases whose versions overlap"
        )
        self.theirs = theirs
        self.oldest = oldest
        self.newest = newest
