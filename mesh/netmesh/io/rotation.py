"""Keys change while everybody runs: the key file is read again and again.

A rotation has three steps, each of which may reach the members at any pace: put the new key behind
the old one, swap them, take the old one away. Nobody restarts and nobody is cut off.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from netmesh.errors import SettingsError
from netmesh.io.security import SocketSecurity
from netmesh.settings import MeshSettings


class KeyWatch:
    """Calls *changed* (on a thread of its own) when the key file holds other keys than before."""

    def __init__(
        self,
        settings: MeshSettings,
        current: SocketSecurity,
        changed: Callable[[SocketSecurity], None],
        log: logging.Logger,
        purpose: str = "mesh",
    ) -> None:
        """*current* are the keys of *settings* for *purpose*, as ``SocketSecurity`` names it."""
        self._settings = settings
        self._current = current
        self._changed = changed
        self._log = log
        self._purpose = purpose
        self._stop = threading.Event()

    def start(self) -> None:
        """Does nothing without a key file: a key in the environment cannot change."""
        if self._settings.key_file is not None and self._current.enabled:
            threading.Thread(target=self._run, name="netmesh-keys", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        complaint = ""
        while not self._stop.wait(self._settings.read_key_again_s):
            try:
                found = SocketSecurity.from_settings(self._settings, self._purpose)
            except SettingsError as error:
                # A file that is being replaced, or a mistake: the keys we have still work.
                if str(error) != complaint:
                    self._log.warning(
                        "%s: still using the keys from before: %s", self._purpose, error
                    )
                complaint = str(error)
                continue
            complaint = ""
            if found != self._current:
                self._current = found
                self._log.info("%s: keys changed; %d accepted now", self._purpose, len(found.rings))
                self._changed(found)
