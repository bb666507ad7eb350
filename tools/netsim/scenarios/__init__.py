"""The scenarios, by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from netsim.film import Film
from netsim.options import RunOptions
from netsim.protocols import PROTOCOLS
from netsim.report import RunReport
from netsim.scenarios.clashes import movers, twins
from netsim.scenarios.endings import crash, dead, host_crash, leave, stall, third
from netsim.scenarios.growing import churn, join, quiet, wave
from netsim.scenarios.paths import flap, loss, partition
from netsim.scenarios.slowness import slow
from netsim.scenarios.stage import PlayStage
from netsim.trace import Trace

SCENARIOS: Mapping[str, Callable[[PlayStage], None]] = {
    "join": join,
    "crash": crash,
    "host-crash": host_crash,
    "stall": stall,
    "loss": loss,
    "flap": flap,
    "partition": partition,
    "churn": churn,
    "leave": leave,
    "slow": slow,
    "quiet": quiet,
    "third": third,
    "wave": wave,
    "dead": dead,
    "twins": twins,
    "movers": movers,
}


def run(options: RunOptions, trace: Trace | None = None, film: Film | None = None) -> RunReport:
    """Play one scenario; `film` gets what a member sees of it. ValueError for an unknown scenario
    or protocol, or a wrong size."""
    for value, allowed in (
        (options.scenario, list(SCENARIOS)),
        (options.protocol, list(PROTOCOLS)),
    ):
        if value not in allowed:
            raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    if options.members < 4:
        raise ValueError(f"{options.members} members are too few for a scenario: at least 4")
    stage = PlayStage(options, PROTOCOLS[options.protocol](), trace or Trace(), film)
    SCENARIOS[options.scenario](stage)
    return stage.report()
