"""Back-off: how often somebody who does not answer is asked again, by one member and by all.

The pause follows from how long the silence has lasted, so nobody has to count tries. A day of
silence costs about 40 tries when the pause grows from a minute to an hour.
"""

from __future__ import annotations

GROWTH = 4.0
"""A pause is a quarter of the silence so far, so it doubles when the silence does."""


def backed_off(silent_s: float, first_s: float, last_s: float) -> float:
    """Seconds until the next try, after a silence of `silent_s` seconds."""
    return min(last_s, max(first_s, silent_s / GROWTH))


def shared(pause_s: float, members: int, most_s: float) -> float:
    """The pause of one of `members` that all ask the same, so that together they keep `pause_s`.

    At most `most_s`, because some other member may not know what I know.
    """
    return min(max(pause_s, most_s), pause_s * max(1, members))
