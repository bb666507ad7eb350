"""Two thousand simulated peers in one process: they listen, answer pings and hand out the table.

    python -m tests.mesh.crowd MESH COUNT INBOUND [ADVERT] TARGET-ID-FOLLOWS-ON-STDIN

Each peer is an address on a port of its own, so a real member needs a connection for each. They
echo the asker's root, so it believes their tables equal to its own. INBOUND is how many links the
peers keep to the member under test, as peers of its own size would; with 0 there is none. ADVERT is
what each of them publishes, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import zmq

from netmesh import Generation, MemberId, RemoteProtocolError, Status
from netmesh.core.claims import Claim
from netmesh.core.messages import Ack, Join, Message, Observe, Ping, Relay, Relayed, State
from netmesh.core.records import new_generation, pack_advert
from netmesh.core.wire import Codec

PAGE = 120


def main() -> None:
    mesh, count, inbound = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4096)
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    ids = []
    for _ in range(count):
        router.bind("tcp://127.0.0.1:*")
        endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
        ids.append(MemberId(endpoint.removeprefix("tcp://")))
    print(ids[0], flush=True)
    codec = Codec(mesh)
    generation = new_generation(time.time_ns() // 1_000_000, 7)
    published = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {"model": "m" * 500}
    advert = pack_advert(published)
    claims = [Claim(one, generation, 0, Status.ALIVE, 1, advert) for one in ids]
    target = sys.stdin.readline().strip() if inbound else ""
    dealers = []
    for _ in range(inbound):
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://{target}")
        dealers.append(dealer)
    sequence = 0
    while True:
        if router.poll(100):
            connection, *frames = router.recv_multipart()
            try:
                asked = codec.decode(frames)
            except RemoteProtocolError:
                continue  # Two thousand ports: somebody else's message may come to one.
            answer = respond(asked, ids[0], generation, claims)
            if answer is not None:
                router.send_multipart([connection, *codec.encode(answer)])
        elif dealers:
            sequence += 1
            dealer = dealers[sequence % len(dealers)]
            sender = ids[sequence % len(ids)]
            dealer.send_multipart(
                list(codec.encode(Ping(sender, generation, sequence, 0, len(ids)))), zmq.DONTWAIT
            )


def respond(
    message: Message, me: MemberId, generation: Generation, claims: list[Claim]
) -> Message | None:
    if isinstance(message, Ping):
        return Ack(message.target or me, generation, message.sequence, message.root, message.size)
    if isinstance(message, Relay):
        return Relayed(me, generation, message.sequence, True)
    if isinstance(message, Join | Observe):
        page = claims[message.cursor : message.cursor + PAGE]
        end = message.cursor + PAGE
        cursor = end if end < len(claims) else None
        return State(
            sender=me,
            generation=generation,
            sequence=message.sequence if isinstance(message, Join) else 0,
            root=0,
            size=len(claims) + 1,
            claims=tuple(page),
            cursor=cursor,
        )
    return None


if __name__ == "__main__":
    main()
