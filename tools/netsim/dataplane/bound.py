"""The least time in which every replica can have everything, whatever the schedule.

For hosts whose links limit them in each direction, and bytes that can be cut as finely as one
likes, the optimum of the linear program has a closed form (R. Kumar and K. W. Ross, Peer-Assisted
File Distribution: The Minimum Distribution Time, 2006). The longest of three times decides:

    the source must send everything once
    the slowest host must receive everything
    all hosts together must send what all receive

Replicas of one host count as one, because they can hand each other everything beside its link.
"""

from __future__ import annotations

from netsim.dataplane.options import PAYLOAD, FanoutOptions


def least_s(options: FanoutOptions) -> float:
    """Seconds, for a fan-out from one source."""

    def rate(host: int) -> float:
        return options.rates.get(host, options.rate) * PAYLOAD

    hosts = sorted(set(options.hosts))
    together = rate(0) + sum(rate(host) for host in hosts)
    return max(
        options.nbytes / rate(0),
        options.nbytes / min(rate(host) for host in hosts),
        options.nbytes * len(hosts) / together,
    )
