from dataclasses import replace

import pytest

from netmesh.core.claims import Claim
from netmesh.core.events import Connection, Contacts, Received
from netmesh.core.messages import Gossip
from netmesh.core.records import (
    MAX_COUNTER,
    MAX_GENERATION,
    Advert,
    Generation,
    MemberId,
    Status,
    new_generation,
)
from netmesh.core.settings import ProtocolSettings
from netsim.world import EPOCH_MS

from .town import Town

LIAR = MemberId("10.6.6.6:666")
WIRE = Connection(b"wire")


def tell(town: Town, to: MemberId, *claims: Claim, sender: MemberId = LIAR) -> None:
    town.give(to, Received(WIRE, Gossip(sender, new_generation(EPOCH_MS, 1), claims)))


def test_a_forged_death_is_refuted_by_the_living() -> None:
    town = Town()
    ids = town.grow(6)
    record = town.engine(ids[0]).record(ids[3])
    assert record is not None
    forged = Claim(ids[3], record.generation, record.incarnation, Status.DEAD, record.version)
    for told in ids[:3]:
        tell(town, told, forged)
    assert Status.DEAD in town.statuses(ids[3])
    assert town.until(lambda: town.statuses(ids[3]) == {Status.ALIVE}, 3.0)
    assert town.until(town.converged, 5.0)


def test_a_forged_goodbye_is_refuted_by_the_living() -> None:
    town = Town()
    ids = town.grow(4)
    record = town.engine(ids[0]).record(ids[3])
    assert record is not None
    tell(town, ids[0], Claim(ids[3], record.generation, 50, Status.LEFT, 1))
    assert town.until(lambda: town.statuses(ids[3]) == {Status.ALIVE}, 4.0)


def test_who_accuses_everybody_is_soon_not_believed() -> None:
    tight = replace(ProtocolSettings(), accuser_burst=4, accuser_refuted_limit=8.0)
    town = Town(settings=tight)
    ids = town.grow(12)
    target = ids[0]
    died = set()
    for _ in range(5):
        claims = []
        for victim in ids[1:]:
            record = town.engine(target).record(victim)
            assert record is not None
            claims.append(
                Claim(victim, record.generation, record.incarnation, Status.DEAD, 1, None, (LIAR,))
            )
        tell(town, target, *claims)
        died.add(sum(town.status(target, v) is Status.DEAD for v in ids))
        town.run(3.0)
        assert all(town.status(target, v) is Status.ALIVE for v in ids)
    assert max(died) <= town.settings.accuser_burst
    assert min(died) == 0


def test_a_claim_to_my_address_by_a_newer_process_is_outbid_once_a_second() -> None:
    town = Town()
    ids = town.grow(3)
    before = town.engine(ids[1]).generation
    twin = Claim(ids[1], Generation(before + 5), 0, Status.ALIVE, 9, Advert(b'{"twin":1}'))
    tell(town, ids[1], twin)
    after = town.engine(ids[1]).generation
    assert after > before + 5
    tell(town, ids[1], Claim(ids[1], Generation(after + 5), 0, Status.ALIVE, 9, Advert(b"{}")))
    assert town.engine(ids[1]).generation == after
    assert town.until(town.converged, 5.0)


def test_extreme_numbers_about_me_do_no_harm() -> None:
    town = Town()
    ids = town.grow(3)
    me = town.engine(ids[1])
    tell(town, ids[1], Claim(ids[1], me.generation, MAX_COUNTER, Status.DEAD, MAX_COUNTER))
    town.run(2.0)
    tell(town, ids[1], Claim(ids[1], Generation(MAX_GENERATION), 0, Status.DEAD, 1))
    town.run(2.0)
    assert town.until(town.converged, 5.0)


def test_an_advert_of_mine_that_i_never_published_is_overruled() -> None:
    town = Town()
    ids = town.grow(3)
    me = town.engine(ids[1]).record(ids[1])
    assert me is not None
    forged = Claim(ids[1], me.generation, 0, Status.ALIVE, me.version + 7, Advert(b'{"x":1}'))
    tell(town, ids[0], forged)
    assert town.until(
        lambda: all(
            (r := town.engine(v).record(ids[1])) is not None and r.advert == me.advert for v in ids
        ),
        5.0,
    )


def test_two_adverts_under_one_version_end_as_the_owners() -> None:
    town = Town()
    ids = town.grow(3)
    me = town.engine(ids[1]).record(ids[1])
    assert me is not None
    tell(
        town, ids[0], Claim(ids[1], me.generation, 0, Status.ALIVE, me.version, Advert(b'{"z":1}'))
    )
    tell(
        town, ids[1], Claim(ids[1], me.generation, 0, Status.ALIVE, me.version, Advert(b'{"z":1}'))
    )

    def mine() -> bool:
        records = [town.engine(v).record(ids[1]) for v in ids]
        return all(r is not None and r.advert == me.advert for r in records)

    assert town.until(mine, 5.0)


def accused(town: Town, target: MemberId, *, crash: tuple[MemberId, ...]) -> list[Claim]:
    """A suspicion against everybody else, seen by these."""
    claims = []
    for victim in town.running():
        record = town.engine(target).record(victim)
        assert record is not None
        if victim != target:
            claims.append(
                Claim(
                    *(victim, record.generation, record.incarnation, Status.SUSPECT),
                    *(record.version, None, crash[:1], crash),
                )
            )
    return claims


def test_crash_witnesses_told_one_by_one_are_limited_like_a_death() -> None:
    town = Town(settings=replace(ProtocolSettings(), accuser_burst=4))
    ids = town.grow(12)
    tell(town, ids[0], *accused(town, ids[0], crash=(LIAR,)))
    tell(town, ids[0], *accused(town, ids[0], crash=(MemberId("10.6.6.7:666"),)))
    dead = sum(town.status(ids[0], v) is Status.DEAD for v in ids)
    assert dead == town.settings.accuser_burst
    town.run(3.0)
    assert all(town.status(ids[0], v) is Status.ALIVE for v in ids)


def test_in_a_tiny_mesh_one_liar_is_limited_too() -> None:
    town = Town(settings=replace(ProtocolSettings(), accuser_burst=1))
    ids = town.grow(3)
    tell(town, ids[0], *accused(town, ids[0], crash=(LIAR,)))
    assert sum(town.status(ids[0], v) is Status.DEAD for v in ids) == 1


def test_the_death_of_an_invented_restart_is_limited_like_any_other() -> None:
    town = Town(settings=replace(ProtocolSettings(), accuser_burst=4))
    ids = town.grow(12)
    claims = []
    for victim in ids[1:]:
        record = town.engine(ids[0]).record(victim)
        assert record is not None
        newer = Generation(record.generation + 1)
        claims.append(Claim(victim, newer, 0, Status.DEAD, 1, Advert(b"{}"), (LIAR,)))
    tell(town, ids[0], *claims)
    dead = sum(town.status(ids[0], v) is Status.DEAD for v in ids)
    assert dead == town.settings.accuser_burst
    assert town.until(lambda: all(town.statuses(v) == {Status.ALIVE} for v in ids), 10.0)


def say_goodbye_for_everybody(town: Town, ids: list[MemberId]) -> None:
    """Tell each member that all the others left; nothing but the mesh itself brings it back."""
    for told in ids:
        town.give(told, Contacts(()))
        claims = []
        for victim in ids:
            record = town.engine(told).record(victim)
            assert record is not None
            if victim != told:
                claims.append(Claim(victim, record.generation, 9, Status.LEFT, record.version))
        tell(town, told, *claims)
        assert town.engine(told).size == 1


def test_goodbyes_forged_in_the_name_of_all_are_taken_back_by_all() -> None:
    # With one seed in ten nobody says a word to some member any more, and it stays alone.
    town = Town(seed=2)
    ids = town.grow(16)
    say_goodbye_for_everybody(town, ids)
    assert town.until(lambda: all(town.engine(v).size == 16 for v in ids), 10.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_such_goodbyes_the_next_round_of_bootstrap_leaves_nobody_alone(seed: int) -> None:
    town = Town(seed=seed)
    ids = town.grow(16)
    say_goodbye_for_everybody(town, ids)
    town.run(10.0)
    for member in ids:
        town.give(member, Contacts((ids[0],)))
    assert town.until(lambda: all(town.engine(v).size == 16 for v in ids), 5.0)
