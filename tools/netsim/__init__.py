"""A virtual-time world that runs thousands of members in one process.

    python -m netsim crash --members 256 --seed 1 --json

Nothing here sleeps, opens a socket or reads a clock. The same scenario, size and seed give the
same run, event for event, on every machine. docs/evidence/simulation.md says what is modelled and
what is not, and has the measured figures.
"""

from netsim.options import RunOptions
from netsim.report import RunReport
from netsim.scenarios import SCENARIOS, run

__all__ = ["SCENARIOS", "RunOptions", "RunReport", "run"]
