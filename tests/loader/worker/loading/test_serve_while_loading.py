"""Two workers that load at once: the second finds the first in the mesh, and pulls from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fastest import HANG_S
from tests.loader.partial_source import partial_source
from tests.loader.support import Toy, identity, until
from tests.loader.worker.loading.whole_load import (
    WEIGHTS,
    FakeEngine,
    advert,
    load_with,
    member,
    toy,
)
from torch import nn

from netloader.transport.tcp import TcpBackend

NBYTES = WEIGHTS.manifest.nbytes


def test_the_second_gets_chunks_before_and_after_post_processing_of_the_first(
    tmp_path: Path,
) -> None:
    second_had: list[int] = []

    def pack(model: nn.Module) -> None:
        """As vLLM does on CPUs: other tensors take the place of those that were loaded."""
        second_had.append(advert(second).held)
        assert isinstance(model, Toy)
        for module, name in ((model.embed, "weight"), (model, "packed"), (model, "permuted")):
            original = getattr(module, name)
            setattr(module, name, nn.Parameter(original.data + 1, requires_grad=False))

    with (
        partial_source(WEIGHTS, [0], backend=TcpBackend()) as source,
        ThreadPoolExecutor(2) as pool,
    ):
        listed = [{"device_id": 0, "sources": [source.source.endpoint]}]
        # Slowly, so that the second lacks something when the first has all of it.
        with (
            member(tmp_path, 0, SOURCE=listed, RATE_LIMIT=3_000_000) as first,
            member(tmp_path, 1) as second,
        ):
            begun = pool.submit(load_with, first, FakeEngine(process=pack), toy)
            until(lambda: first.membership.holding("target") and advert(first).sharing)
            until(lambda: second.peers.find(identity(), ("tcp",)))
            followed = pool.submit(load_with, second, FakeEngine(), toy)
            until(lambda: second.membership.holding("target") and advert(second).held)
            assert source.log.sent == [0]
            source.gain_all()
            one, other = begun.result(HANG_S), followed.result(HANG_S)
            endpoint = advert(first).endpoint
    assert (one.origin, one.right, one.reason) == ("peers", True, "")
    assert (other.origin, other.right, other.reason) == ("peers", True, "")
    assert other.delivered == {endpoint: NBYTES}
    assert 0 < second_had[0] < NBYTES
    # The session outlived the post-processing.
    assert [reason for reason in other.skipped if endpoint in reason] == []
