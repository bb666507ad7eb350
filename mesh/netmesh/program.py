"""Names and words that a program which uses the mesh shows to its operators."""

from __future__ import annotations

from dataclasses import dataclass

from netmesh.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Program:
    """Names and words of one program. The defaults suit a program without a name."""

    prefix: str = ""
    """Comes before a setting's key in the name of its environment variable."""

    service: str = "netmesh"
    """Kubernetes service to ask when the operator names none."""

    host_variables: tuple[str, ...] = ("POD_IP",)
    """Environment variables that may hold this host's address; the first usable one wins."""

    keygen: str = 'python -c "import netmesh; print(netmesh.generate_key())"'
    """Command that prints a new cluster key."""

    exposed: str = "read what this member advertises and forge members"
    """What a stranger can do in a mesh without a key, after "anybody who reaches it can"."""

    def needs_key(self, setting: str, value: object) -> SettingsError:
        """The error for a setting that leads off this host although there is no cluster key."""
        return SettingsError(
            setting,
            value,
            "without a cluster key the mesh stays on loopback: set MESH_KEY_FILE (make a key with "
            f"`{self.keygen}`), or MESH_INSECURE=1 to let everybody in",
        )
