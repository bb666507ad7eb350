from math import isnan

from netmesh.core.claims import head, whole
from netmesh.core.messages import Ack, Gossip, Message, Ping, Relay, State
from netmesh.core.records import Generation, MemberId, new_record
from netmesh.core.wire import Codec
from netsim.report import percentile
from netsim.traffic import Meter

A, B = MemberId("10.0.0.1:1"), MemberId("10.0.0.2:17946")
RECORD = new_record(B, Generation(7), {"model": "m"})


def messages() -> list[Message]:
    g = Generation(7)
    return [
        Ping(A, g, 1, 2**63, 9),
        Ping(A, g, 2**31, 0, 2000),
        Ack(A, g, 1, 5, 9),
        Ping(B, g, 1, 5, 9, (head(RECORD, (A,), (A,)),)),
        Gossip(A, g, (whole(RECORD),)),
        Gossip(A, g, (head(RECORD),)),
        Relay(A, g, 3, B),
        State(A, g, 1, 2, 3, (whole(RECORD),), None),
    ]


def test_sizes_are_those_of_the_encoded_frames_however_often_asked() -> None:
    codec = Codec("sim")
    meter = Meter(codec)
    for message in [*messages(), *reversed(messages()), *messages()]:
        assert meter.size(message) == sum(map(len, codec.encode(message)))


def test_a_second_counts_silent_members_as_zero() -> None:
    meter = Meter(Codec("sim"))
    size = meter.size(messages()[0])
    meter.sent(A, messages()[0])
    meter.sent(A, messages()[0])
    meter.second(3)
    assert sorted(meter.cells) == [0, 0, 2 * size] and meter.messages == 2


def test_percentiles_are_nearest_rank() -> None:
    values = [float(v) for v in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert isnan(percentile([], 0.5))
