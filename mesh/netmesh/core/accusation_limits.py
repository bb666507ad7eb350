"""Accusation limits: whose bad news to believe, and how much of it.

A member that is cut off, overloaded or malicious accuses everybody. Two limits keep such an accuser
from doing harm. Deaths are believed only at the rate at which members really die. An accuser that
is refuted too often is not believed for a while.
"""

from __future__ import annotations

from netmesh.core.records import MemberId
from netmesh.core.settings import ProtocolSettings

REMEMBERED = 1024
"""Accusers kept; the one that has been quiet longest is forgotten first."""


class _Account:
    __slots__ = ("refuted", "refuted_at", "tokens", "tokens_at")

    def __init__(self, tokens: float, now: float) -> None:
        self.tokens = tokens
        self.tokens_at = now
        self.refuted = 0.0
        self.refuted_at = now


class AccusationLimits:
    """Keeps an account for each accuser."""

    __slots__ = ("_accounts", "_settings")

    def __init__(self, settings: ProtocolSettings) -> None:
        self._settings = settings
        self._accounts: dict[MemberId, _Account] = {}

    def may_declare_dead(self, accuser: MemberId, now: float) -> bool:
        """True when one more death is believed on this member's word; counts that death."""
        account = self._account(accuser, now)
        gained = (now - account.tokens_at) * self._settings.accuser_per_s
        account.tokens = min(float(self._settings.accuser_burst), account.tokens + gained)
        account.tokens_at = now
        if account.tokens < 1.0:
            return False
        account.tokens -= 1.0
        return True

    def refuted(self, accuser: MemberId, now: float) -> None:
        """Note that a member accused by `accuser` is alive."""
        account = self._account(accuser, now)
        account.refuted = self._decayed(account, now) + 1.0
        account.refuted_at = now

    def trusted(self, accuser: MemberId, now: float) -> bool:
        """False while too many of its accusations were wrong."""
        account = self._accounts.get(accuser)
        if account is None:
            return True
        return self._decayed(account, now) < self._settings.accuser_refuted_limit

    def _decayed(self, account: _Account, now: float) -> float:
        halvings = (now - account.refuted_at) / self._settings.accuser_half_life_s
        return float(account.refuted * 0.5**halvings)

    def _account(self, accuser: MemberId, now: float) -> _Account:
        account = self._accounts.pop(accuser, None)
        if account is None:
            account = _Account(float(self._settings.accuser_burst), now)
            if len(self._accounts) >= REMEMBERED:
                del self._accounts[next(iter(self._accounts))]
        self._accounts[accuser] = account
        return account
