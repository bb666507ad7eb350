"""One end of the pulls in `test_staged.py`: a source or a replica of a toy model, on any device."""

from __future__ import annotations

import logging
from typing import Any

import torch

from netloader.replica.pull import Pull
from netloader.source.service import Source
from netloader.transport import Backend, backends_for
from netloader.transport.staged import StagedBackend
from netloader.weights.capture import Weights, capture
from tests.ascend.commands import arguments, serve
from tests.loader.support import CHUNK, Toy, candidate, offer_of, pull_from, pull_into, start_source

_TIMEOUT_S = 60.0


class End:
    """Holds what it has served or pulled."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._sources: list[Source] = []

    def run(self, name: str, **given: Any) -> Any:
        return getattr(self, name)(**given)

    def transports(self) -> list[str]:
        """What the registry has for this device, best first."""
        return [one.name for one in self._backends()]

    def serve(self, seed: int, only: list[str] | None = None) -> dict[str, Any]:
        """Serve a model of random bytes by all transports of the device, or some."""
        weights = self._weights(seed)
        source = start_source(_TIMEOUT_S)
        source.serve(offer_of(weights, backends=self._backends(only)))
        self._sources.append(source)
        return {"endpoint": source.endpoint, "sha256": weights.sha256()}

    def pull(self, endpoint: str, only: list[str] | None = None) -> dict[str, Any]:
        """Pull a model from there into this device."""
        weights = self._weights(None)
        pull = pull_into(weights, backends=self._backends(only), timeout_s=_TIMEOUT_S)
        source = candidate(_Endpoint(endpoint))  # type: ignore[arg-type]
        pull_from(pull, source)
        return {
            "sha256": weights.sha256(),
            "where": sorted({data.device.type for data in weights.tensors}),
            **_told(pull),
        }

    def _backends(self, only: list[str] | None = None) -> tuple[Backend, ...]:
        made = backends_for(self._device)
        return tuple(one for one in made if only is None or one.name in only)

    def stages(self) -> bool:
        """Whether Gloo goes by way of host memory here."""
        return isinstance(self._backends(["gloo"])[0], StagedBackend)

    def _weights(self, seed: int | None) -> Weights:
        return capture(Toy(seed).to(self._device), chunk_bytes=CHUNK)


class _Endpoint:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint


def _told(pull: Pull) -> dict[str, Any]:
    return {
        "transports": [one.transport for one in pull.deliveries],
        "nbytes": sum(one.nbytes for one in pull.deliveries),
        "failures": [str(one) for one in pull.failures],
        "kind": pull.digest_kind,
    }


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    channel, given = arguments()
    if given["device"] == "npu":
        torch.npu.set_device(0)
    channel.say(value=True)
    serve(channel, End(given["device"]).run)


if __name__ == "__main__":
    main()
