"""A source on loopback that says what a test wants it to say, and never sends a byte of weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from netloader.protocol import messages
from netloader.weights.capture import Weights


@contextmanager
def played(weights: Weights, manifest: bytes | None = None, **accept: Any) -> Iterator[str]:
    """Its endpoint. It accepts whoever knows the manifest of `weights`, with these fields, and
    refuses everybody else with `manifest`, or that of `weights`."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    port = router.bind_to_random_port("tcp://127.0.0.1")
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            if not router.poll(20):
                continue
            who, *frames = router.recv_multipart()
            asked, _ = messages.decode(frames)
            if not isinstance(asked, messages.Hello):
                continue
            if asked.manifest == weights.manifest.hash:
                said = messages.Accept(
                    session="0" * 32,
                    generation=asked.generation or 0,
                    identity=asked.identity,
                    manifest=asked.manifest,
                    attributes={},
                    host="127.0.0.1",
                    secret="s",
                    have=((0, len(weights.manifest.chunks())),),
                    **accept,
                )
                digests = bytes(16 * len(weights.manifest.chunks()))
                router.send_multipart([who, *messages.encode(said, digests)])
            else:
                refusal = messages.Refuse(code="manifest", reason="our tensors differ")
                router.send_multipart(
                    [who, *messages.encode(refusal, manifest or weights.manifest.encode())]
                )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()
        context.destroy(linger=0)
