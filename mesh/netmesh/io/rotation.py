"""Keys change while members run: each member reads its key file again and again.

A rotation has three steps: append the new key to the old one, swap the two, remove the old one.
Each step may reach the members at any pace. No member restarts, and none is cut off.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from netmesh.errors import SettingsError
from netmesh.io.security import SocketSecurity
from netmesh.settings import MeshSettings


class KeyWatch:
    """Calls `changed` (on a thread of its own) when the key file holds other keys than before."""

    def __init__(
        self,
        settings: MeshSettings,
        current: SocketSecurity,
        changed: Callable[[SocketSecurity], None],
        log: logging.Logger,
        purpose: str = "mesh",
    ) -> None:
        """`current` has the keys of `settings` for `purpose`, as in `SocketSecurity`."""
        self._settings = settings
        self._current = current
        self._changed = changed
        self._log = log
        self._purpose = purpose
        self._stop = threading.Event()

    @property
    def current(self) -> SocketSecurity:
        """The keys that were read last."""
        return self._current

    def start(self) -> None:
        """Do nothing without a key file, because a key in the environment cannot change."""
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
                # The file is being replaced, or has a mistake. The present keys still work.
                if str(error) != complaint:
                    self._log.warning("%s: still using the previous keys: %s", self._purpose, error)
                complaint = str(error)
                continue
            complaint = ""
            if found != self._current:
                self._current = found
                self._log.info("%s: keys changed; %d accepted now", self._purpose, len(found.rings))
                self._changed(found)
