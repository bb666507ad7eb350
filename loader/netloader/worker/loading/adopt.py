"""Taking weights as post-processing left them, from peers that no longer hold what they loaded.

Such weights fit only into a model that was post-processed alike. So the model is filled with
dummies, and gets what `load_weights` had set at the source. vLLM post-processes that, which makes
all objects, kernels and tensors, and then every tensor gets the source's bytes. Three comparisons
decide whether the result is the source's model: of the identity before, of the manifest, and of the
state besides tensors after. If one of them fails, the model is built again and filled from storage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from netloader.discovery.candidate import Candidate
from netloader.errors import ManifestError
from netloader.identity.identity import Identity
from netloader.model import attributes, numbers, processed, spelling
from netloader.model.processed import Processed
from netloader.plain import Plain
from netloader.replica.inquiry import ask
from netloader.replica.pull import Pull
from netloader.weights import dummies
from netloader.worker.loading.build import Built
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.plan import BuildAgain, Planned, Tried
from netloader.worker.loading.pull import Goal, NotPulled, Pulled, fetch, request_for

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model of dummies, which vLLM is to post-process. Weights come after that."""

    built: Built
    identity: Identity
    """Of the wanted weights, in the `runtime` layout."""
    loaded: Mapping[str, Plain]
    """What the source's `load_weights` had set besides tensors, and post-processing may read."""
    numbers: Mapping[str, float]
    """Numbers beside the tensors, before post-processing."""
    tried: Tried
    spent_s: float
    """Seconds that looking for peers has taken so far."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A post-processed model that peers have filled completely."""

    pulled: Pulled
    processed: Processed


def prepare(built: Built, model: nn.Module, before: NotPulled) -> Prepared | BuildAgain | NotPulled:
    """Fill `model` with dummies if a peer has its weights as post-processing left them.

    `before` is what is left of the pull of weights as they were loaded. Nothing is touched when no
    peer has them.
    """
    identity = built.processed
    if not before.may_ask or isinstance(identity, str):
        return before
    found = attempt(Step.ASK, lambda: _find(built, identity, before))
    if isinstance(found, Failed):
        return replace(before, tried=before.tried.but(found.reason))
    chosen, skipped = found
    tried = before.tried.but(*skipped)
    if chosen is None:
        return replace(before, tried=tried)
    source, loaded = chosen
    _log.info(
        "%s has these weights as post-processing left them: post-processing dummies first",
        source.endpoint,
    )

    def fill() -> dict[str, float]:
        built.arrangement.weights.put_back_all()
        dummies.fill(model)
        attributes.apply(model, loaded)
        return processed.numbers_of(model)

    held = attempt(Step.ADOPT, fill)
    if isinstance(held, Failed):
        return _again(built, tried, held.reason)
    return Prepared(built, identity, loaded, held, tried, time.monotonic() - before.began)


def adopt(prepared: Prepared, model: nn.Module) -> Adopted | BuildAgain:
    """Fill the post-processed `model` with the weights of peers."""
    built = prepared.built
    chunk_bytes = built.request.worker.config.chunk_bytes
    mine = attempt(Step.ADOPT, lambda: processed.take(model, chunk_bytes))
    if isinstance(mine, Failed):
        return _again(built, prepared.tried, mine.reason)
    held = mine

    def finish(one: Pull) -> None:
        mended = numbers.restored(prepared.numbers, held.floats) | dict(one.attributes)
        attributes.apply(model, mended)
        differing = spelling.difference(processed.state(model), one.computed)
        if differing is not None:
            raise ManifestError(
                f"post-processing has left other things than tensors in {differing or 'the model'} "
                "at the source, which depend on its weights or settings and do not travel"
            )

    if held.weights.device_type != "cpu":
        # vLLM's last work on these tensors must not come after the bytes that threads receive.
        torch.get_device_module(held.weights.device_type).synchronize()
    # Post-processing is not the time of peers.
    began = time.monotonic() - prepared.spent_s
    goal = Goal(built, prepared.identity, held.weights, finish, began)
    pulled = fetch(goal, Step.ADOPT, prepared.tried)
    if isinstance(pulled, NotPulled):
        return _again(built, pulled.tried, pulled.tried.skipped[-1])
    return Adopted(pulled, held)


def spoilt(prepared: Prepared, error: Exception) -> BuildAgain:
    """Post-processing dummies has failed, in vLLM."""
    reason = f"post-processing of dummies failed: {error!r:.300}"
    return _again(prepared.built, prepared.tried, reason)


def _again(built: Built, tried: Tried, reason: str) -> BuildAgain:
    tried = tried if tried.skipped[-1:] == (reason,) else tried.but(reason)
    plan = Planned(built.request, built.identity, built.backends, tried, from_peers=False)
    return BuildAgain(plan, reason)


_Chosen = tuple[Candidate, Mapping[str, Plain]]
"""A source, and what its `load_weights` had set."""


def _find(built: Built, identity: Identity, before: NotPulled) -> tuple[_Chosen | None, list[str]]:
    """The first source that has the weights, and why others were skipped."""
    worker = built.request.worker
    candidates, skipped = worker.peers.candidates(identity, built.transports)
    # What was said when weights as loaded were looked for is not said again.
    skipped = [reason for reason in skipped if reason not in before.tried.skipped]
    request, settings = request_for(built, identity), worker.config.pull_settings
    deadline = before.began + settings.peer_budget_s
    for candidate in candidates:
        answer = ask(candidate, request, settings, worker.config.chunk_bytes)
        if not isinstance(answer, str):
            return (candidate, answer), skipped
        skipped.append(f"{candidate.found_by}: source {candidate.endpoint}: runtime: {answer}")
        if time.monotonic() >= deadline:
            break  # Each may be silent for a while, and storage is at hand.
    return None, skipped
