"""One model on its way into a worker: what is known of it, and each step of its story.

`loader.py` tells the story; this is what happens in each sentence. Every step decides what its
failure costs: a peer, being a source, or, for settings only, the start. None but a bad setting
stops a worker that storage can still serve.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import nn
from tqdm.auto import tqdm

from netloader.checkpoint import evidence
from netloader.checkpoint.hostcache import HostCache
from netloader.checkpoint.wanted import Files, Wanted, content_id, held
from netloader.discovery.advert import Holding
from netloader.discovery.candidate import Candidate
from netloader.errors import (
    IdentityError,
    ManifestError,
    NoSourceLeft,
    NotAtHand,
    NothingToLoadError,
)
from netloader.identity.identity import (
    Evidence,
    Fields,
    Identity,
    LazyContent,
    Names,
    Role,
    content_mismatch,
    known,
)
from netloader.model import attributes, buffers
from netloader.plain import Plain
from netloader.replica.pull import Delivery, Pull, PullObserver
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.source.service import Source
from netloader.source.session import Offer
from netloader.system import affinity, memory
from netloader.system.threads import TransferThread
from netloader.transport import Backend
from netloader.weights import digests, retain
from netloader.weights.capture import Weights, capture
from netloader.weights.coalesce import arrange, zero_gaps
from netloader.weights.poison import LeftoverError, Poison
from netloader.weights.retain import Kept, Plan
from netloader.worker.report import Report
from netloader.worker.worker import Worker

_log = logging.getLogger(__name__)
_VOUCH_SHARE = 0.25
"""Part of the time in which a source reads its files to check what they are named. Nobody waits
for it but replicas that have no files, and the model wants the core and the disk."""


class MadeOf(Protocol):
    """What only the engine can say of the model that is being loaded, and do with it."""

    def built(self, model: nn.Module) -> Fields:
        """Parts of the identity that the built model tells. Raises `IdentityError`."""

    def wanted(self, model: nn.Module) -> Wanted:
        """The content it needs. Raises `IdentityError` when that is not known."""

    def wanted_early(self) -> Wanted:
        """The same as its class tells before there is a model, which may not be all. Raises
        `IdentityError`."""

    def fill(self, model: nn.Module) -> None:
        """Fill it from storage, the ordinary way."""

    def read(self) -> Files | None:
        """What `fill` has read; None when that is not known."""

    def commit(self, model: nn.Module) -> str | None:
        """The commit that its checkpoint is said to be."""

    def beyond(self, covered: Files | None) -> list[str]:
        """Files that were opened since the model was begun, may hold weights, and are not among
        those that are covered."""

    def memory(self) -> tuple[memory.Available | None, int]:
        """What host memory is left, and how much of it vLLM will take besides weights, in bytes."""

    @property
    def cache(self) -> HostCache | None:
        """What is remembered of files on this host."""


@dataclass
class ModelLoad:
    """One model being loaded by one worker."""

    worker: Worker
    names: Names
    role: Role
    use_tqdm: bool
    made_of: MadeOf
    identity: Identity | None = None
    backend: Backend | None = None
    source: Source | None = None
    cannot_share: str = ""
    """Why neither peers are asked nor served; empty while nothing speaks against it."""
    origin: Literal["storage", "peers"] = "storage"
    seconds: float = 0.0
    """Of the step that filled the tensors."""
    nbytes: int = 0
    deliveries: tuple[Delivery, ...] = ()
    skipped: list[str] = field(default_factory=list)
    """Why each source that was not used was not."""
    offering: TransferThread | None = None
    """What makes a source of this worker while vLLM goes on."""
    _attributes: dict[str, Plain] = field(default_factory=dict)
    _computed: dict[str, str] = field(default_factory=dict)
    """Persistent buffers that no checkpoint filled."""
    _digests: tuple[bytes, ...] = ()
    _plan: Plan | None = None
    _kept: Kept | None = None
    _wanted: Wanted | None = None
    _content: LazyContent = field(default_factory=lambda: LazyContent({}))
    """Evidence of what the model was filled with."""
    _read: Files | None = None
    _commit: str | None = None
    _absent: str = ""
    """Why there are no files on this host."""
    _ask_peers: bool = True
    _stopping: threading.Event = field(default_factory=threading.Event)

    def announce(self, identity: Identity, backend: Backend | None, device_type: str) -> None:
        """Say in the mesh that these weights are being loaded, and listen for those who want them.

        Raises `ConfigError` for a `LISTEN_PORT` that leaves the range.
        """
        self.identity = identity
        self.backend = backend
        self.source = self.worker.listen(self.role)
        if backend is None:
            self.cannot_share = f"no transport for {device_type} devices yet"
        self.worker.announce(
            Holding(
                role=self.role,
                state="loading",
                names=identity.names.travelling(),
                identity=identity.digest,
                fields=identity.fields(),
                content={},
                endpoint=self.source.endpoint if self.source is not None else "",
                backend=backend.name if backend is not None else "",
                chunk_bytes=self.worker.config.chunk_bytes,
            )
        )
        if backend is not None:
            TransferThread(self._look_ahead, f"{affinity.OURS}evidence").start()

    def _look_ahead(self) -> None:
        """While vLLM builds the model: read what will be compared with a peer, so that this host's
        cache has it by then. Whatever goes wrong here is met again, and told, when it counts."""
        affinity.step_aside(background=False)
        try:
            assert self.identity is not None
            alike = self.worker.alike(self.identity)
            if not alike:
                return
            wanted = self.made_of.wanted_early()
            for holding in alike:
                if content_mismatch(wanted.content, holding.content) is None:
                    return
        except IdentityError as error:
            _log.debug("no evidence yet: %s", error)
        except Exception:  # noqa: BLE001
            _log.debug("looking ahead failed", exc_info=True)

    def without_peers(self, reason: str) -> None:
        """Fill the next model from storage alone."""
        self.skipped.append(reason)
        self._ask_peers = False

    def fill(self, model: nn.Module) -> None:
        """Fill `model` from peers, else from storage, and hold on to what peers will be served.

        vLLM calls this under a default device, and its parameters have classes of their own. Where
        a model is looked through, torch is told not to go through Python for both.

        Raises `ConfigError` when `CONTENT` contradicts the files, `NothingToLoadError` when nobody
        has the weights, and what vLLM raises.
        """
        self._complete(model)
        weights = self._arrange(model)
        with torch._C.DisableTorchFunction():
            as_built = buffers.snapshot(model) if weights is not None else {}
        pull = None
        if self._ask_peers and weights is not None:
            pull = self._pull(model, weights, as_built)
        if self.origin == "storage":
            if weights is not None:
                weights.put_back_all()
            self._from_storage(model, pull, as_built)
        try:
            self._keep(model)
        except ManifestError as error:
            self.cannot_share = self.cannot_share or str(error)
        except Exception as error:  # noqa: BLE001
            # The weights are in place; what fails here only keeps them from others.
            _log.exception("cannot prepare to serve peers")
            self.cannot_share = repr(error)

    def serve(self, model: nn.Module) -> None:
        """After post-processing: become a source, or say why not.

        What needs to read all weights or files is done by a thread, while vLLM goes on.
        """
        held_weights = None
        try:
            held_weights = self._settle(model)
        except ManifestError as error:
            self.cannot_share = str(error)
        except Exception as error:  # noqa: BLE001
            # The model is loaded and right; not being a source is no reason to lose it.
            _log.exception("this worker cannot be a source")
            self.cannot_share = repr(error)
        if held_weights is None:
            self.not_a_source()
            return
        ready = held_weights
        epoch = self.worker.epoch(self.role)
        self.offering = TransferThread(
            lambda: self._become_source(ready, epoch), "netloader-offer", stop=self._stopping.set
        )
        self.offering.start()

    def not_a_source(self) -> None:
        """Say so, with the reason, and write the report."""
        _log.warning("not a source of %s: %s", self.names.shown, self.cannot_share)
        self.worker.update(
            self.role, state="unavailable", reason=self.cannot_share[:1024], origin=self.origin
        )
        self._report(None)

    def _report(self, served: Weights | None) -> None:
        """Write the record that `REPORT_PREFIX` asks for."""
        config = self.worker.config
        if config.report_prefix is None:
            return
        report = Report(
            model=self.names.shown,
            role=self.role,
            rank=self.worker.rank,
            origin=self.origin,
            nbytes=self.nbytes,
            seconds=self.seconds,
            endpoint=self.source.endpoint if self.source is not None and served is not None else "",
            deliveries=self.deliveries,
            skipped=tuple(self.skipped),
            content=known(self._content),
            not_a_source=self.cannot_share,
            tensors=served.sha256() if served is not None and config.report_tensors else {},
        )
        try:
            report.write(config.report_prefix)
        except OSError as error:
            _log.warning("REPORT_PREFIX: cannot write the report: %s", error)

    def _complete(self, model: nn.Module) -> None:
        """Add to the identity what only the built model knows, and find out what it needs."""
        self._wanted = None
        if self.cannot_share or self.identity is None:
            return
        try:
            with torch._C.DisableTorchFunction():
                self.identity = replace(self.identity, built=self.made_of.built(model))
            self._wanted = self.made_of.wanted(model)
            self._absent = self._wanted.absent
            self.identity = replace(self.identity, content=self._wanted.content)
            unknown = self.made_of.beyond(self._wanted.files)
        except IdentityError as error:
            self.cannot_share = str(error)
            if isinstance(error, NotAtHand):
                self._absent = str(error)
        except Exception as error:  # noqa: BLE001
            # This vLLM keeps something elsewhere than we look: it can still load from storage.
            _log.exception("cannot tell which weights %s needs", self.names.shown)
            self.cannot_share = f"cannot tell which weights it needs: {error!r}"
        else:
            if unknown:
                self.cannot_share = (
                    f"while it was built it opened {', '.join(unknown[:3])}, and nothing says "
                    "whether peers have the same"
                )
        self.worker.update(self.role, identity=self.identity.digest, fields=self.identity.fields())

    def _arrange(self, model: nn.Module) -> Weights | None:
        """Lay the empty model out as chunks travel. None when its tensors cannot travel.

        What little it holds must be put back before storage fills it. Raises `LeftoverError`.
        """
        if self.cannot_share or self.identity is None or self.backend is None:
            self.skipped.append(self.cannot_share)
            return None
        config = self.worker.config
        try:
            left, reserve = self.made_of.memory()
            self._plan = retain.plan(
                model, config.int8_cache, config.int8_cache_name, left, reserve
            )
            if not self._plan.may_share:
                return capture(model, chunk_bytes=config.chunk_bytes)
            return arrange(model, config.chunk_bytes, leave_empty=True)
        except ManifestError as error:
            # What has no bytes of its own yet (online quantisation) has others afterwards.
            self.cannot_share = str(error)
            self.skipped.append(self.cannot_share)
            return None
        except Exception as error:
            # Some of what the model held may be lost: it has to be built again.
            _log.exception("cannot lay out the model's tensors")
            self.cannot_share = f"its tensors cannot be laid out: {error!r}"
            raise LeftoverError(self.cannot_share) from error

    def _pull(self, model: nn.Module, weights: Weights, as_built: buffers.Digests) -> Pull | None:
        """Fill `model` from peers as far as they go; `origin` says whether all of it came.

        None when nobody could be asked.
        """
        if self.identity is None or self.backend is None or self._wanted is None:
            return None
        candidates = self._candidates(self.identity, self._wanted, self.backend)
        # Whoever has no files has nothing better to do than to wait for a peer.
        must_wait = self._wanted.files is None and self.worker.may_find
        if not candidates and not must_wait:
            return None
        with tqdm(
            total=weights.manifest.nbytes,
            unit="B",
            unit_scale=True,
            desc="Pulling weights from peers",
            disable=not self.use_tqdm or self.worker.rank != 0,
        ) as bar:
            config = self.worker.config
            pull = Pull(
                weights,
                Request(
                    self.identity, self.backend, lambda: self.worker.security, self.worker.name
                ),
                PullSettings(
                    timeout_s=config.transfer_timeout_s,
                    max_sources=config.max_sources,
                    source_timeout_s=config.source_timeout_s,
                    verify=config.verify,
                ),
                PullObserver(
                    progress=bar.update,
                    accused=lambda process: self.worker.accuse(self.role, process),
                    sources=lambda count: self.worker.update(self.role, pulling=count),
                ),
            )
            self._run(pull, self.identity, self.backend, model, as_built, must_wait=must_wait)
        return pull

    def _candidates(
        self, identity: Identity, wanted: Wanted, backend: Backend
    ) -> tuple[Candidate, ...]:
        try:
            candidates, found = self.worker.candidates(identity, backend.name)
            if any(candidate.listed for candidate in candidates):
                # What such a source knows of its content, only it can say: say all that we know.
                wanted.content.make_all()
        except Exception as error:  # noqa: BLE001
            # Nothing was received yet, and storage needs no peers.
            _log.exception("looking for peers failed")
            candidates, found = (), [repr(error)]
        self.skipped += found
        for reason in self.skipped:
            _log.info("not used: %s", reason)
        return candidates

    def _run(
        self,
        pull: Pull,
        identity: Identity,
        backend: Backend,
        model: nn.Module,
        as_built: buffers.Digests,
        *,
        must_wait: bool,
    ) -> None:
        """Fetch what the peers have, and say how that went."""
        started = time.monotonic()
        try:
            pull.run(lambda: self.worker.find(identity, backend.name), wait_for_one=must_wait)
            buffers.check_equal(as_built, pull.computed)
            attributes.apply(model, pull.attributes)
            self.origin = "peers"
        except NoSourceLeft as error:
            _log.warning("%s", error.reason)
            self.skipped += [*map(str, pull.failures), error.reason]
        except ManifestError as error:
            self.skipped.append(str(error))
        except Exception as error:  # noqa: BLE001
            # A fault of ours must cost the peers, not the start: storage is still there.
            _log.exception("pulling failed")
            self.skipped.append(repr(error))
        else:
            self.skipped += map(str, pull.failures)
        self.deliveries = pull.deliveries
        if self.origin == "peers":
            self.seconds = time.monotonic() - started
            self._digests, self._attributes = pull.digests, dict(pull.attributes)
            self._computed = dict(pull.computed)
            self._content = _learnt(identity, pull)
            _log.info(
                "pulled %s in %.2f s (%.2f GB/s) from %s",
                _size(pull.nbytes),
                self.seconds,
                pull.nbytes / self.seconds / 1e9,
                ", ".join(
                    f"{delivery.endpoint} ({_size(delivery.nbytes)})"
                    for delivery in pull.deliveries
                ),
            )

    def _from_storage(self, model: nn.Module, pull: Pull | None, as_built: buffers.Digests) -> None:
        _log.info(
            "loading %s from storage: %s", self.names.shown, "; ".join(self.skipped) or "no source"
        )
        if self._wanted is not None:
            self._wanted.check_demanded(self.made_of.cache)
        poison = Poison.over(pull.weights, pull.unverified()) if pull is not None else None
        with torch._C.DisableTorchFunction():
            before = attributes.snapshot(model) if not self.cannot_share else None
        started = time.monotonic()
        self._read_storage(model)
        self.seconds = time.monotonic() - started
        if poison is not None:
            poison.check_gone(model)
        if self.cannot_share or before is None:
            return
        try:
            with torch._C.DisableTorchFunction():
                self._attributes = attributes.changes(model, before)
                self._computed = buffers.computed(model, as_built, buffers.snapshot(model))
            self.cannot_share = self._what_was_read(model)
        except ManifestError as error:
            self.cannot_share = str(error)
        except Exception as error:  # noqa: BLE001
            # The weights are in place; what fails here only keeps them from others.
            _log.exception("cannot tell what was loaded")
            self.cannot_share = f"cannot tell what was loaded: {error!r}"

    def _read_storage(self, model: nn.Module) -> None:
        try:
            self.made_of.fill(model)
        except Exception as error:
            if not self._absent:
                raise
            raise NothingToLoadError(self._nothing(error)) from error

    def _nothing(self, error: Exception) -> str:
        """Why there is nothing to load, and what to do about it."""
        reasons = "; ".join(self.skipped) or "nobody was asked"
        ids = content_id(self._wanted.content.known) if self._wanted is not None else ""
        wants = f"wants {ids}, and no" if ids else "does not know which content it wants, so no"
        offers = self.worker.offered(self.identity) if self.identity is not None else []
        found = f" In this mesh now: {'; '.join(offers[:4])}." if offers else ""
        return (
            f"{self.names.shown}: this worker {wants} peer could give it ({reasons}); and storage "
            f"has none ({error}). Put the weight files there, start a source first, or "
            "set CONTENT to the content id that a source prints when it is ready to serve."
            f"{found}"
        )

    def _what_was_read(self, model: nn.Module) -> str:
        """Why others cannot be told what the model was filled with; empty when they can."""
        read, wanted = self.made_of.read(), self._wanted
        if read is None:
            return "it is not known which files storage was read from"
        if wanted is not None and wanted.files is not None and wanted.files.paths != read.paths:
            return "storage was read from other files than vLLM had named"
        unknown = self.made_of.beyond(read)
        if unknown:
            return (
                f"while it was loaded {', '.join(unknown[:3])} was opened, and nothing says "
                "whether peers have the same"
            )
        full = self.worker.config.digest == "full"
        self._content, problem = held(read, wanted, self.made_of.cache, full=full)
        self._read, self._commit = read, self.made_of.commit(model)
        return problem or ""

    def _keep(self, model: nn.Module) -> None:
        """Between loading and post-processing: take what peers will be served."""
        weights = capture(model, chunk_bytes=self.worker.config.chunk_bytes)
        self.nbytes = weights.manifest.nbytes
        if self.cannot_share or self._plan is None:
            return
        if self.origin == "storage":
            zero_gaps(weights)
            self._digests = digests.of_weights(weights, weights.manifest.chunks())
        names = self.worker.config.int8_cache_name
        self._kept = retain.keep(weights, self._plan.mode, names)

    def _settle(self, model: nn.Module) -> retain.Originals | None:
        """What can be served of the post-processed model. Raises `ManifestError`."""
        kept, self._kept = self._kept, None
        if self.cannot_share or kept is None or self.identity is None or self.backend is None:
            return None
        if self.source is None:
            raise ManifestError("its port cannot be listened on")
        try:
            return retain.settle(kept, model)
        except ManifestError as error:
            reason = self._plan.reason if self._plan is not None else ""
            raise ManifestError(reason or str(error)) from None

    def _become_source(self, ready: retain.Originals, epoch: int) -> None:
        """Check what is held once more, say what it is, and serve it. Runs in a thread."""
        try:
            affinity.step_aside(background=False)
            self.cannot_share = self._check(ready)
            if not self.cannot_share:
                self._offer(ready, epoch)
                return
        except Exception as error:  # noqa: BLE001
            # The model is loaded and right; not being a source is no reason to lose it.
            _log.exception("this worker cannot be a source")
            self.cannot_share = repr(error)
        if not self._stopping.is_set():
            self.not_a_source()

    def _check(self, ready: retain.Originals) -> str:
        """Why this cannot be served after all; empty when it can."""
        changed = retain.changed(ready.weights, self._digests)
        if changed:
            return f"post-processing rewrote {len(changed)} tensors in place ({changed[0]} first)"
        if self._read is not None:
            # All of it, while the files are still warm: peers may know any of it.
            self._content.make_all()
            moved = evidence.changed_since(self._read.stamps)
            if moved is not None:
                return f"{moved} after it had been loaded"
        if not self._content.known:
            return "; ".join(["nothing is known of its content", *self._content.problems])
        return ""

    def _offer(self, ready: retain.Originals, epoch: int) -> None:
        identity, backend = self.identity, self.backend
        assert identity is not None and backend is not None
        offered = LazyContent({}, self._content.known)
        offer = Offer(
            replace(identity, content=offered),
            ready.weights,
            self._digests,
            self._attributes,
            backend,
            self._computed,
        )
        self.worker.update(self.role, origin=self.origin, content=known(offered))
        if not self.worker.serve(self.role, offer, epoch):
            self._report(None)
            return
        self._report(ready.weights)
        _log.info(
            "ready to serve %s of %s at %s, generation %d; content %s; originals kept for peers "
            "cost %s",
            _size(ready.weights.manifest.nbytes),
            self.names.shown,
            self.source.endpoint if self.source is not None else "",
            self.worker.generation,
            content_id(offered.known),
            _size(ready.cost_bytes),
        )
        self._vouch(offered)

    def _vouch(self, offered: LazyContent) -> None:
        """Claim the commit that the files are said to be, once they have been checked against the
        hashes by which the Hub's cache names them."""
        if self._read is None or self._commit is None or Evidence.BLOBS not in offered.known:
            return
        since = time.monotonic()

        def pace(nbytes: int) -> None:
            nonlocal since
            took = time.monotonic() - since
            if self._stopping.wait(took * (1 / _VOUCH_SHARE - 1)):
                raise IdentityError("this process ends")
            since = time.monotonic()

        try:
            wrong = evidence.wrong_blob(self._read.files, self.made_of.cache, on_read=pace)
            wrong = wrong or evidence.changed_since(self._read.stamps)
        except IdentityError as error:
            wrong = str(error)
        if wrong is not None:
            _log.warning("not claiming to be %s: %s", self._commit, wrong)
            return
        offered.add({Evidence.COMMIT: self._commit})
        self._content.add({Evidence.COMMIT: self._commit})
        self.worker.update(self.role, content=known(offered))


def _learnt(identity: Identity, pull: Pull) -> LazyContent:
    """What a replica knows of what it has pulled: what it has read itself, and what the source
    says. Its own commit is what it wanted: only a source can have checked it."""
    own = {
        Evidence(kind): text
        for kind, text in known(identity.content).items()
        if kind != Evidence.COMMIT
    }
    theirs = {Evidence(kind): text for kind, text in pull.content.items() if kind in set(Evidence)}
    return LazyContent({}, theirs | own)


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"
