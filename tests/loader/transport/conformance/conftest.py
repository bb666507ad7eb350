"""What every transport has to do: the promises of `transport/base.py`, one test each.

A new backend becomes one entry of `CARRIERS` in `carriers.py`. It has to provide

- a `Backend` that opens a group between two threads of this process, over a store of the
  rendezvous, and between two processes unless `crosses_processes` is false;
- the device on which its tensors lie;
- where the device is missing, what is missing: its tests are then skipped with these words.

Nothing else is known of it here. What is particular to one backend is tested beside, in a file of
its name.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.loader.transport.carriers import CARRIERS, Carrier, GroupPair, open_pair


@pytest.fixture(params=CARRIERS, ids=lambda carrier: carrier.name)
def carrier(request: pytest.FixtureRequest) -> Carrier:
    found: Carrier = request.param
    if found.missing:
        pytest.skip(found.missing)
    return found


@pytest.fixture
def pair(carrier: Carrier) -> Iterator[GroupPair]:
    made = open_pair(carrier.make())
    yield made
    made.abort()
