"""What a failure costs, decided here for all steps of a load.

    step       its errors                    cost                   any other error costs
    ---------  ----------------------------  ---------------------  ---------------------
    ahead      IdentityError                 nothing                nothing
    plan       IdentityError                 peers, source          peers, source
    build      IdentityError                 peers, source          peers, source
    arrange    ManifestError                 peers, source          peers, source, model
    find       -                             -                      peers
    pull       NoSourceLeft, ManifestError   peers                  peers
    ask        -                             -                      peers
    adopt      NoSourceLeft, ManifestError   peers, model           peers, model
    read       LeftoverError                 peers, model           start
    inspect    ManifestError                 source                 source
    keep       ManifestError                 source                 source
    settle     ManifestError                 source                 source
    offer      -                             -                      source
    claim      IdentityError                 nothing                nothing

    peers      this model is not filled from peers
    source     this worker does not serve it
    model      it has to be built once more
    start      vLLM does not start

A wrong setting (`ConfigError`) costs the start in each step, and so does `NothingToLoadError`. No
other failure stops a worker that storage can still serve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from typing import Final, TypeVar

from netloader.errors import (
    ConfigError,
    IdentityError,
    ManifestError,
    NoSourceLeft,
    NothingToLoadError,
)
from netloader.weights.poison import LeftoverError

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Cost(Flag):
    """What is lost."""

    NOTHING = 0
    PEERS = auto()
    SOURCE = auto()
    MODEL = auto()
    START = auto()


class Step(StrEnum):
    """Parts of a load that fail for reasons of their own."""

    AHEAD = "ahead"
    """Reading evidence while vLLM builds the model."""
    PLAN = "plan"
    """Identifying the weights, and announcing them."""
    BUILD = "build"
    """Asking the built model which content it needs."""
    ARRANGE = "arrange"
    """Laying the empty tensors out as chunks travel."""
    FIND = "find"
    """Looking for peers for the first time."""
    PULL = "pull"
    """Filling the model from peers."""
    ASK = "ask"
    """Looking for peers that have the weights as post-processing left them."""
    ADOPT = "adopt"
    """Post-processing dummies, and taking the weights that such peers have."""
    READ = "read"
    """Filling it from storage."""
    INSPECT = "inspect"
    """Finding out what storage has filled the model with."""
    KEEP = "keep"
    """Holding what peers will be served."""
    SETTLE = "settle"
    """Finding out which originals survived post-processing."""
    OFFER = "offer"
    """Checking the weights once more, and serving them."""
    CLAIM = "claim"
    """Checking the files against the commit that they are said to come from."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What failures of one step cost."""

    own: tuple[type[Exception], ...]
    """Errors that this step raises on purpose."""
    cost: Cost
    """Cost of these errors."""
    surprise: Cost
    """Cost of any other error."""
    saying: str
    """What failed, in words for the operator, when the error is a surprise."""


RULES: Final[Mapping[Step, Rule]] = {
    Step.AHEAD: Rule(
        (IdentityError,), Cost.NOTHING, Cost.NOTHING, "evidence could not be read in advance"
    ),
    Step.PLAN: Rule(
        (IdentityError,),
        Cost.PEERS | Cost.SOURCE,
        Cost.PEERS | Cost.SOURCE,
        "cannot tell which weights it needs",
    ),
    Step.BUILD: Rule(
        (IdentityError,),
        Cost.PEERS | Cost.SOURCE,
        Cost.PEERS | Cost.SOURCE,
        "cannot tell which weights it needs",
    ),
    # Some of the model's values may be lost when this fails halfway.
    Step.ARRANGE: Rule(
        (ManifestError,),
        Cost.PEERS | Cost.SOURCE,
        Cost.PEERS | Cost.SOURCE | Cost.MODEL,
        "its tensors cannot be laid out",
    ),
    Step.FIND: Rule((), Cost.NOTHING, Cost.PEERS, "looking for peers failed"),
    Step.PULL: Rule((NoSourceLeft, ManifestError), Cost.PEERS, Cost.PEERS, "pulling failed"),
    Step.ASK: Rule((), Cost.NOTHING, Cost.PEERS, "looking for post-processed weights failed"),
    # From here on the model holds dummies.
    Step.ADOPT: Rule(
        (NoSourceLeft, ManifestError),
        Cost.PEERS | Cost.MODEL,
        Cost.PEERS | Cost.MODEL,
        "taking post-processed weights failed",
    ),
    Step.READ: Rule((LeftoverError,), Cost.PEERS | Cost.MODEL, Cost.START, ""),
    # From here on the weights are in place: a failure only keeps them from others.
    Step.INSPECT: Rule((ManifestError,), Cost.SOURCE, Cost.SOURCE, "cannot tell what was loaded"),
    Step.KEEP: Rule((ManifestError,), Cost.SOURCE, Cost.SOURCE, "cannot prepare to serve peers"),
    Step.SETTLE: Rule((ManifestError,), Cost.SOURCE, Cost.SOURCE, "cannot serve peers"),
    Step.OFFER: Rule((), Cost.NOTHING, Cost.SOURCE, "cannot serve peers"),
    Step.CLAIM: Rule(
        (IdentityError,), Cost.NOTHING, Cost.NOTHING, "the files could not be checked"
    ),
}

_ALWAYS_STOP = (ConfigError, NothingToLoadError)


@dataclass(frozen=True, slots=True)
class Failed:
    """A step that failed at a price other than the start.

    It does not hold the error itself, which refers to everything the step had in hand, such as a
    model.
    """

    cost: Cost
    kind: type[Exception]
    """The error's class."""
    reason: str


def price(step: Step, error: Exception) -> Cost:
    """What `error` costs when `step` raises it."""
    if isinstance(error, _ALWAYS_STOP):
        return Cost.START
    rule = RULES[step]
    return rule.cost if isinstance(error, rule.own) else rule.surprise


def attempt(step: Step, action: Callable[[], _T]) -> _T | Failed:
    """What `action` returns, or what its failure costs. Raises an error that costs the start.

    A surprise is logged with its traceback: it is our fault, or this vLLM is one we do not know.
    """
    try:
        return action()
    except Exception as error:
        cost = price(step, error)
        if Cost.START in cost:
            raise
        if isinstance(error, NoSourceLeft):
            # The error's text repeats why each source failed.
            return Failed(cost, NoSourceLeft, error.reason)
        if isinstance(error, RULES[step].own):
            return Failed(cost, type(error), str(error))
        # An error that costs nothing here comes up again where it counts.
        level = logging.ERROR if cost else logging.DEBUG
        _log.log(level, "%s", RULES[step].saying, exc_info=True)
        return Failed(cost, type(error), f"{RULES[step].saying}: {error!r}")
