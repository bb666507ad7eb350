"""Waiting that a signal ends, and nothing else that it could hurt."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import Final, Self

_STOP: Final = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """From its entry on, Ctrl-C and SIGTERM end a wait of this thread, and interrupt nothing else:
    a line is written whole."""

    def __enter__(self) -> Self:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def within(self, seconds: float) -> bool:
        """Whether a signal came before so much time had passed."""
        return signal.sigtimedwait(_STOP, max(0.0, seconds)) is not None
