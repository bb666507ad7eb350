"""One end of a transfer between the two Netloaders, moved by a test command by command.

Upstream's classes are those of the installed vllm-ascend, unmodified. The model is made here: some
megabytes in several types and formats.
"""

from __future__ import annotations

import socket
from typing import Any

import torch
from torch import nn

from tests.ascend.commands import arguments, serve
from tests.ascend.rank import pattern, sha256

NAME = "/models/m"
LIMIT_S = 30.0


class Model(nn.Module):
    """Parameters as upstream can move them: all with dimensions, some of them none too round."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [
            ((1024, 1024), torch.bfloat16),
            ((17, 33), torch.float32),
            ((1,), torch.int64),
            ((300, 700), torch.int8),
            ((2048, 1024), torch.bfloat16),
            ((513,), torch.float16),
        ]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.zeros(shape, dtype=dtype, device="npu:0"), requires_grad=False)
            for shape, dtype in shapes
        )


class End:
    """The commands."""

    def __init__(self, seed: int) -> None:
        # Now, because a start may take longer than any command.
        from vllm_ascend.model_loader.netloader import load  # noqa: F401

        torch.npu.set_device(0)
        self.model = Model()
        self.sources: list[Any] = []
        self.fill(seed)

    def run(self, do: str, /, **arguments: Any) -> Any:
        return getattr(self, do)(**arguments)

    def fill(self, seed: int) -> None:
        for number, one in enumerate(self.model.parameters()):
            made = pattern(one.numel(), one.dtype, seed + number).reshape(one.shape)
            one.data.copy_(made)
        torch.npu.synchronize()

    def digests(self) -> dict[str, str]:
        return {name: sha256(one.cpu()) for name, one in self.model.named_parameters()}

    def serve_theirs(self, draft: bool) -> int:
        """Start upstream's server; its port."""
        from vllm_ascend.model_loader.netloader.interaction.elastic import ElasticServer

        port = _free_port()
        group = "netloader_draft" if draft else "netloader"
        server = ElasticServer(
            "127.0.0.1", port, self.model, 0, NAME, 1, 1, "no", None, group_name=group
        )
        server.start()
        self.sources.append(server)
        return port

    def pull_theirs(self, port: int, draft: bool, model_path: str = NAME) -> str:
        """Load by upstream's client. Returns `nothing` when it got nothing."""
        from vllm_ascend.model_loader.netloader.load import elastic_load

        sources = [{"device_id": 0, "sources": [f"127.0.0.1:{port}"]}]
        group = "netloader_draft" if draft else "netloader"
        loaded = elastic_load(self.model, 0, model_path, sources, 1, 1, group)
        return "nothing" if loaded is None else ""

    def serve_ours(self, draft: bool) -> int:
        """Start a source of ours that serves upstream's replicas; its port."""
        from netloader.source.offer import Offer
        from netloader.transport import backends_for
        from netloader.upstream.group import carrier_for
        from netloader.weights import digests
        from netloader.weights.capture import capture

        weights = capture(self.model)
        offer = Offer(
            _identity("draft" if draft else "target"),
            weights,
            digests.of_weights(weights, weights.manifest.chunks()),
            {},
            backends_for("npu"),
        )
        source = self._source(_listener(door=True, has_key=False), True, carrier_for("npu"))
        source.serve(offer)
        return int(source.port)

    def listen_without(self, door: bool, has_key: bool) -> int:
        """Start a source that does not serve upstream's replicas; its port."""
        return int(self._source(_listener(door=door, has_key=has_key), False, None).port)

    def _source(self, listener: Any, serves: bool, carrier: Any) -> Any:
        from netloader.source.service import Source
        from netloader.source.settings import SourceSettings
        from netloader.source.upstream import UpstreamService, UpstreamSettings
        from netloader.upstream.admission import Access

        settings = UpstreamSettings(Access(serves, False, False, False), 0, LIMIT_S, LIMIT_S)
        source = Source(
            listener,
            lambda: 1,
            SourceSettings(),
            upstream=lambda current: UpstreamService(current, settings, carrier),
        )
        self.sources.append(source)
        return source

    def pull_ours(self, port: int, draft: bool) -> str:
        """Pull from upstream's server by our code. Returns why that failed."""
        from netloader.errors import SourceLost
        from netloader.replica.upstream import UpstreamRequest, pull_upstream
        from netloader.upstream.group import carrier_for
        from netloader.weights.capture import capture

        carrier = carrier_for("npu")
        assert carrier is not None
        request = UpstreamRequest(0, NAME, 1, 1, draft, carrier, LIMIT_S, LIMIT_S)
        try:
            pull_upstream(f"127.0.0.1:{port}", capture(self.model), request)
        except SourceLost as error:
            return str(error)
        return ""

    def look(self, port: int, patience_s: float = LIMIT_S) -> str:
        """What our look finds there; `nobody` when it finds nothing."""
        from netloader.errors import SourceLost
        from netloader.replica.probe import look

        try:
            return look(f"127.0.0.1:{port}", LIMIT_S, patience_s).name
        except SourceLost:
            return "nobody"

    def greet_as_zeromq(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"\xff" + bytes(8) + b"\x7f\x03")
            plain.recv(1)

    def synchronize(self) -> None:
        """Wait for the whole device. Raises the error of any stream that has failed."""
        torch.npu.synchronize()


def _listener(door: bool, has_key: bool) -> Any:
    from netloader.source.listener import Listener
    from netmesh import SocketSecurity

    keys = (b"k" * 32,) if has_key else ()
    security = SocketSecurity.from_keys(keys, "mesh", "netloader")
    return Listener("127.0.0.1", None, security, 3.0, has_door=door)


def _identity(role: Any) -> Any:
    from netloader.identity.identity import Evidence, Identity, Names

    return Identity(
        names=Names("", "", NAME),
        architecture="Toy",
        dtype="bfloat16",
        quantization="",
        config={},
        built={"tp_size": 1, "tp_rank": 0, "pp_size": 1, "pp_rank": 0},
        role=role,
        content={Evidence.SAMPLE: "a" * 32},
    )


def _free_port() -> int:
    from tests.free_ports import free_port

    return free_port()


def main() -> None:
    channel, given = arguments()
    serve(channel, End(**given).run)


if __name__ == "__main__":
    main()
