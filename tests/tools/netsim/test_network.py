from random import Random

from netmesh.core.records import MemberId
from netsim.network import Block, LinkQuality, Network

A, B = MemberId("10.0.0.1:1"), MemberId("10.0.0.2:1")


def test_loss_hits_its_share_and_is_counted() -> None:
    network = Network(Random(1), LinkQuality(loss=0.2))
    arrived = sum(len(network.delays(A, B, reliable=False)) for _ in range(5000))
    assert network.lost == 5000 - arrived
    assert 900 < network.lost < 1100


def test_on_a_stream_a_loss_costs_only_time() -> None:
    network = Network(Random(1), LinkQuality(loss=1.0))
    (delay,) = network.delays(A, B, reliable=True)
    assert delay > network.link.resend_s


def test_duplicates_and_held_messages_are_counted() -> None:
    network = Network(Random(1), LinkQuality(duplication=0.5, reordering=0.5))
    copies = [network.delays(A, B, reliable=False) for _ in range(1000)]
    assert network.duplicated == sum(len(c) == 2 for c in copies) > 400
    assert network.held == sum(c[0] > network.link.held_s for c in copies) > 400


def test_one_link_can_differ_from_the_others() -> None:
    network = Network(Random(1), LinkQuality())
    network.special[(A, B)] = LinkQuality(latency_s=0.1)
    assert network.delays(A, B, reliable=False)[0] > 0.1 > network.delays(B, A, reliable=False)[0]


def test_a_block_has_a_direction() -> None:
    network = Network(Random(1))
    network.blocks.append(Block(frozenset((A,)), frozenset((B,))))
    assert network.delays(A, B, reliable=True) == ()
    assert network.delays(B, A, reliable=True)
    assert network.connects(A, B) is network.connects(B, A) is None, "a connect needs both"
    assert network.blocked == 3
