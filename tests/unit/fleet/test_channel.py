"""Directors on one machine tell each other of flows, by real sockets, with a bad network and bad people between."""

import asyncio
import random
import select
import socket
import time
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest
import structlog

from appliance.fleet.channel import (
    OPENINGS,
    OPENINGS_AT_ONCE,
    SURE_NS,
    UNSENT_NS,
    ChannelStatus,
    PeerState,
    PeerStatus,
    PinChannel,
    Presence,
)
from appliance.fleet.wire import NAMES
from appliance.packet.placement import Pin, PinState
from tests.unit.fleet.ends import SECRET, directors, flow, hashes, keep, known, members, network, running, table, until


def channel(me, others, pins, first=0, secret=SECRET, **settings):
    made = PinChannel(me, others, secret, pins, **settings)
    made.set_members(members(first))
    return made


def peer(one: PinChannel, number: int = 0) -> PeerStatus:
    return one.status().peers[number]


def met(*channels: PinChannel) -> bool:
    return all(status.state is PeerState.JOINED for one in channels for status in one.status().peers)


@pytest.mark.parametrize("version", [4, 6])
def test_what_one_director_knows_all_know(run, version):
    """Three directors tell each other of new flows within a fraction of a second."""

    async def main():
        specs = directors("a", "b", "c", version=version)
        tables = [table() for _ in specs]
        channels = [
            channel(me, [peer for peer in specs if peer is not me], pins, 10 * i)
            for i, (me, pins) in enumerate(zip(specs, tables, strict=True))
        ]
        async with running(*channels):
            await until(lambda: met(*channels), "all have met")
            for i, pins in enumerate(tables):
                keep(pins, range(100 * i, 100 * i + 100), member=10 * i + 1)
            everything = hashes(range(300))
            await until(lambda: all(known(pins).keys() == everything for pins in tables), "all flows everywhere", 1.0)
            assert set(known(tables[2]).values()) == {21}
            for one in channels:
                assert all(status.trouble == "" for status in one.status().peers)
                assert sum(sum(status.refused.values()) for status in one.status().peers) <= 4  # while they meet

    run(main())


def test_a_director_that_joins_gets_everything_first(run):
    """`joined` returns when the pins of all peers that answer are there; those that do not are named."""

    async def main():
        a, b, dead = directors("a", "b", "dead")
        old, new = table(1 << 14), table(1 << 14)
        keep(old, range(8000))
        expected = known(old)
        there = channel(a, [b, dead], old)
        async with running(there):
            await until(lambda: there.status().counts["datagrams_sent"], "it runs")
            joining = channel(b, [a, dead], new)
            async with running(joining):
                facts = await joining.joined(timeout_s=0.5)
                assert known(new).keys() == expected.keys()
                assert facts.pins == {"a": len(expected)}
                assert facts.missing == ("dead",)
                assert 0.5 <= facts.seconds < 5
                assert peer(joining, 1).state is PeerState.SILENT
                assert "nothing is heard of dead" in peer(joining, 1).trouble

    run(main())


def test_a_new_connection_is_told_at_once(run):
    """It is on its way before `tell` returns, without a round of the event loop; and it is told once more as news."""

    async def main():
        a, b = directors("a", "b")
        mine, yours = table(), table()
        one, other = channel(a, [b], mine), channel(b, [a], yours, 10)
        mine.herald = one
        assert not one.is_heard
        assert one.grant(5000) == 5000, "there is nobody to be told"
        async with running(one, other):
            await until(lambda: met(one, other) and one.is_heard, "they have met")
            sent = one.status().counts["datagrams_sent"]
            for number in range(40):
                mine.keep(Pin(2, PinState.NEW), flow(number), mine.now(), tell=True)
            mine.tell_all(np.array([flow(number).hash64 for number in range(40)], np.uint64))
            counts = one.status().counts
            assert (counts["openings"], counts["datagrams_sent"]) == (80, sent)
            await until(lambda: known(yours) == {flow(number).hash64: 12 for number in range(40)}, "it is known")
            assert peer(other).received >= 80
            await until(lambda: peer(other).received >= 120, "it is told again")
            assert peer(other).refused == peer(one).refused == {}

    run(main())


def test_how_many_new_connections_can_be_told_of():
    """So many at once, and so many a second; what is refused is counted."""
    a, b = directors("a", "b")
    ns = 10**9
    one = channel(a, [b], table(), clock_ns=lambda: ns)
    one._reach = tuple(one._peers.values()), ()
    ns += 10**9
    assert one.grant(OPENINGS_AT_ONCE + 5) == OPENINGS_AT_ONCE
    assert one.grant(1) == 0
    ns += 10**6
    assert one.grant(100) == OPENINGS // 1000
    assert one.status().counts["openings_refused"] == 5 + 1 + 100 - OPENINGS // 1000


def test_an_icmp_error_keeps_no_connection_from_being_told(run):
    """Whoever says that nobody listens there, in answer to an earlier datagram, does not cost the next one."""

    async def main():
        a, b = directors("a", "b")
        mine = table()
        one = channel(a, [b], mine)
        mine.herald = one
        async with running(one):
            await until(lambda: one.status().counts["datagrams_sent"] >= 2, "greetings that nobody hears")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
                sock = one._peers["b"].sock
                one._reach = tuple(one._peers.values()), ()
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                sock.send(b"nobody listens")
                with pytest.raises(ConnectionRefusedError):  # so an error waits for the next datagram
                    sock.send(b"nobody listens")
                sock.send(b"nobody listens")
                listening.bind((str(b.address), b.port))
                listening.settimeout(1)
                mine.keep(Pin(2, PinState.NEW), flow(1), mine.now(), tell=True)
                assert flow(1).hash64.to_bytes(8, "little") in listening.recv(2048)
                assert one.status().counts["openings"] == 1
                assert one.status().counts["openings_unsent"] == 0

    run(main())


def test_connections_that_cannot_be_told_of_are_counted_and_no_more_begin(run):
    """With a socket that takes nothing, they begin with the previous owner for a while; then it is tried again."""
    a, b = directors("a", "b")
    ns = 10**9
    mine = table()
    one = channel(a, [b], mine, clock_ns=lambda: ns)
    mine.herald = one
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        fill(ours)
        one._peers["b"].sock = ours
        one._reach = tuple(one._peers.values()), ()
        ns += 10**9
        assert one.grant(1) == 1
        mine.keep(Pin(2, PinState.NEW), flow(1), mine.now(), tell=True)
        counts = one.status().counts
        assert (counts["openings"], counts["openings_unsent"]) == (0, 1)
        ns += UNSENT_NS - 1
        assert one.grant(3) == 0
        assert one.status().counts["openings_refused"] == 3
        while not select.select([], [ours], [], 0)[1]:
            theirs.recv(1000, socket.MSG_DONTWAIT)
        ns += 1
        assert one.grant(3) == 3
        mine.keep(Pin(2, PinState.NEW), flow(2), mine.now(), tell=True)
        assert one.status().counts["openings"] == 1


def fill(sock: socket.socket) -> None:
    while True:
        try:
            sock.send(bytes(1000))
        except BlockingIOError:
            return


def test_nobody_to_wait_for(run):
    """A director alone, or one whose peers are all dead, begins without pins."""

    async def main():
        a, dead = directors("a", "dead")
        for others, missing in (([], ()), ([dead], ("dead",))):
            alone = channel(a, others, table())
            async with running(alone):
                facts = await alone.joined(timeout_s=0.2)
            assert (facts.pins, facts.missing) == ({}, missing)

    run(main())


def test_loss_reordering_repetition_and_delay_do_no_harm(run):
    """On a bad network everything arrives all the same, later, and nothing twice or wrong."""

    async def main():
        a, b, a_seen, b_seen = directors("a", "b", "a", "b")
        here, there = table(1 << 16), table(1 << 16)
        keep(here, range(3000))
        faults = {"loss": 0.05, "repeat": 0.2, "delay_s": 0.03}
        async with network(a, b, {"a": b_seen, "b": a_seen}, **faults):
            one, other = channel(a, [b_seen], here), channel(b, [a_seen], there, 50)
            async with running(one, other):
                facts = await other.joined(timeout_s=5)
                assert facts.missing == ()
                assert known(there).keys() == known(here).keys()
                for begin in range(3000, 3500, 25):
                    keep(here, range(begin, begin + 25), member=2)
                    await asyncio.sleep(0.01)
                await until(lambda: known(there).keys() == known(here).keys(), "all that was lost is told again", 40)
                assert set(known(there).values()) == {50, 52}
                assert peer(other).refused["replayed"] > 0
                assert peer(other).refused.keys() <= {"replayed", "other_life", "unasked"}

    run(main())


def test_no_connections_begin_that_a_peer_would_not_hear_of(run):
    """What is lost on the way to it is known from its answers: connections stay with the previous owner meanwhile."""

    async def main():
        a, b, a_seen, b_seen = directors("a", "b", "a", "b")
        here, there = table(), table()
        async with network(a, b, {"a": b_seen, "b": a_seen}) as (to_b, _):
            one, other = channel(a, [b_seen], here), channel(b, [a_seen], there)
            async with running(one, other):
                await until(lambda: met(one, other) and one.is_heard, "they have met")
                await asyncio.sleep(0.3)
                assert one.grant(1) == 1
                to_b.loss = 0.5
                for number in range(100):
                    keep(here, [number])
                    await asyncio.sleep(0.01)
                await until(lambda: peer(one).lost_out > 0.2, "it is told what is lost")
                assert peer(other).lost_in > 0.2
                assert peer(one).lost_in == peer(other).lost_out == 0
                assert "of our datagrams" in peer(one).trouble
                assert one.grant(5) == 0
                assert one.status().counts["openings_refused"] == 5
                await until(lambda: other.grant(1) == 1, "the other way nothing is lost, but some answers", 2)
                to_b.loss = 0
                await until(lambda: one.grant(1) == 1, "it is over")
                assert peer(one).trouble == ""

    run(main())


def test_no_connections_begin_while_a_peer_may_not_hear_of_them(run):
    """The way is cut, in both directions or in one: from the first missing answers on, until it counts as gone; and
    longer, when somebody knows that it lives."""

    async def main():
        a, b, a_seen, b_seen = directors("a", "b", "a", "b")
        ahead_ns = 0
        async with network(a, b, {"a": b_seen, "b": a_seen}) as (to_b, to_a):
            one = channel(a, [b_seen], table(), clock_ns=lambda: time.monotonic_ns() + ahead_ns)
            other = channel(b, [a_seen], table())
            async with running(one, other):
                await until(lambda: met(one, other) and one.is_heard, "they have met")
                for cut in ([to_b], [to_a]):
                    await until(lambda: one.grant(1) == 1, "they hear each other")
                    for way in cut:
                        way.cut = True
                    await until(lambda: one.grant(1) == 0, "no answers any more", 2)
                    assert peer(one).state is PeerState.JOINED
                    for way in cut:
                        way.cut = False
                await until(lambda: one.grant(1) == 1, "they hear each other again")
                to_a.cut = to_b.cut = True
                ahead_ns = 5 * 10**9
                await until(lambda: peer(one).state is PeerState.SILENT and not one.is_heard, "it may be gone")
                assert one.grant(100) == 100
                one.set_living({"a", "b"})
                await until(lambda: one.is_heard, "it lives")
                assert one.grant(1) == 0
                assert "says that it lives" in peer(one).trouble
                one.set_living({"a"})
                await until(lambda: one.grant(1) == 1, "it is gone")
                one.set_living({"a", "b"})
                to_a.cut = to_b.cut = False
                await until(lambda: met(one, other) and one.grant(1) == 1, "they have met again")

    run(main())


def test_when_a_peer_was_asked_that_has_answered():
    """What counts is when the question was asked, not when the answer came or anything else was heard."""
    a, b = directors("a", "b")
    ns = 10**9
    one = channel(a, [b], table(), clock_ns=lambda: ns)
    one._reach = tuple(one._peers.values()), ()
    session = one._peers["b"].session
    session.answered_ns = session.heard_ns = ns
    ns += SURE_NS
    assert one.grant(1) == 1
    session.heard_ns = ns = ns + 1
    assert one.grant(1) == 0
    session.answered_ns = ns
    assert one.grant(1) == 1


def test_a_peer_that_restarts(run):
    """It is recognised as a new one, gets all pins from us, and nothing of its earlier life is taken any more."""

    async def main():
        a, b, a_seen, b_seen = directors("a", "b", "a", "b")
        here, there = table(), table()
        async with network(a, b, {"a": b_seen, "b": a_seen}) as (_, from_b):
            one = channel(a, [b_seen], here)
            async with running(one):
                async with running(other := channel(b, [a_seen], there)):
                    await until(lambda: met(one, other), "they have met")
                    keep(there, range(100), member=1)
                    await until(lambda: len(known(here)) == 100, "news")
                recorded = list(from_b.passed)
                keep(here, range(100), member=2)
                again = table()
                async with running(other := channel(b, [a_seen], again)):
                    await until(lambda: len(known(again)) == 100 and met(one, other), "a new life with all pins")
                    assert set(known(again).values()) == {2}
                    for data in recorded:
                        from_b.send(data)
                    await until(lambda: peer(one).dropped + sum(peer(one).refused.values()) > 0, "the recording")
                    await asyncio.sleep(0.2)
                    assert met(one, other)
                    assert set(known(here).values()) == {2}
                    keep(again, [500])
                    await until(lambda: known(here).keys() == known(again).keys(), "the new life goes on")

    run(main())


def test_others_hear_of_vips_that_routers_do_not_have_from_us(run):
    """At once, again and again, all of them also when there are many; and no more when they have them."""
    vips = [f"2001:db8::{number:x}" for number in range(2 * NAMES + 1)]

    async def main():
        a, b = directors("a", "b")
        one, other = channel(a, [b], table()), channel(b, [a], table())
        async with running(one, other):
            await until(lambda: met(one, other), "they have met")
            for each in (one, other):
                each.set_absent(vips, [])
            assert one.presence() == Presence(frozenset({"b"}), {"b": {}})
            other.set_absent(vips, vips)
            await until(lambda: one.presence().absent["b"].keys() == set(vips), "all are told", 0.9)
            await asyncio.sleep(1.5)
            assert max(one.presence().absent["b"].values()) < 1.4, "told again"
            other.set_absent(vips, vips[:1])
            await until(lambda: one.presence().absent["b"][vips[1]] > 1.5, "the others are not told again", 5.0)
            assert one.presence().absent["b"][vips[0]] < 1.4
            one.set_absent(vips[1:], [])
            assert other.presence().absent == {"a": {}}

    run(main())


def test_a_peer_whose_process_is_gone_is_missed_sooner_than_one_that_is_silent(run):
    """Its machine says that nobody has the port, which counts for presence only: pins are told on."""

    async def main():
        a, b = directors("a", "b")
        one = channel(a, [b], table())
        async with running(one):
            async with running(other := channel(b, [a], table())):
                await until(lambda: met(one, other), "they have met")
                assert one.presence().heard == {"b"}
            await until(lambda: not one.presence().heard, "it is missed", 2.4)
            assert peer(one).state is PeerState.JOINED

    run(main())


def test_recordings_of_an_earlier_life_of_ours(run):
    """After our own restart, what was sent to us before is worthless, even while the peer is gone."""

    async def main():
        a, b, a_seen, b_seen = directors("a", "b", "a", "b")
        here, there = table(), table()
        async with network(a, b, {"a": b_seen, "b": a_seen}) as (_, from_b):
            async with running(one := channel(a, [b_seen], here), other := channel(b, [a_seen], there)):
                await until(lambda: met(one, other), "they have met")
                keep(there, range(100))
                await until(lambda: len(known(here)) == 100, "news")
            recorded = list(from_b.passed)
            again = table()
            async with running(one := channel(a, [b_seen], again)):
                await until(lambda: one.status().counts["datagrams_sent"], "it runs")
                for data in recorded * 3:
                    from_b.send(data)
                await until(lambda: one.status().counts["datagrams_received"] > 0, "greetings get through the filter")
                await asyncio.sleep(0.3)
                assert known(again) == {}
                assert peer(one).state is PeerState.SILENT

    run(main())


def test_a_peer_that_comes_back_is_asked_for_all(run):
    """What happened while nothing was heard of it is caught up with at once, not at the next round of telling."""

    async def main():
        a, b, a_seen, b_seen = directors("a", "b", "a", "b")
        here, there = table(), table()
        now = [0]
        clock = {"clock_ns": lambda: real() + now[0]}
        real = here.clock_ns
        async with network(a, b, {"a": b_seen, "b": a_seen}) as relays:
            one, other = channel(a, [b_seen], here, **clock), channel(b, [a_seen], there, **clock)
            async with running(one, other):
                await until(lambda: met(one, other), "they have met")
                for relay in relays:
                    relay.cut = True
                now[0] += 6_000_000_000  # nothing was heard for so long
                await until(lambda: peer(one).state is peer(other).state is PeerState.SILENT, "silence is noticed")
                keep(here, range(100))
                keep(there, range(100, 200))
                await asyncio.sleep(0.1)
                assert one.status().counts["news"] == 0
                for relay in relays:
                    relay.cut = False
                await until(lambda: len(known(here)) == len(known(there)) == 200, "both know all", 3.0)

    run(main())


def test_forged_datagrams_change_nothing(run):
    """Noise, foreign and damaged datagrams from a peer's own address: counted by reason, and no pin is made of them."""

    async def main():
        a, b, a_seen, b_seen = directors("a", "b", "a", "b")
        here, there = table(), table()
        chance = random.Random(3)
        async with network(a, b, {"a": b_seen, "b": a_seen}) as (_, from_b):
            one, other = channel(a, [b_seen], here), channel(b, [a_seen], there)
            async with running(one, other):
                await until(lambda: met(one, other), "they have met")
                keep(there, range(34))
                await until(lambda: len(known(here)) == 34, "news")
                before = dict(known(here))
                genuine = [data for data in from_b.passed if len(data) > 1000]
                for number in range(3000):
                    data = bytearray(chance.choice(genuine))
                    kind = number % 4
                    if kind == 0:
                        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                    elif kind == 1:
                        del data[chance.randrange(len(data)) :]
                    elif kind == 2:
                        data = bytearray(chance.randbytes(chance.randrange(1400)))
                    from_b.send(bytes(data))
                    if number % 30 == 0:
                        await asyncio.sleep(0.001)
                keep(there, range(34, 68), member=3)
                await until(lambda: len(known(here)) == 68, "genuine news in between")
                status = peer(one)
                assert status.refused["replayed"] >= 100
                assert status.refused["forged"] >= 100
                assert status.refused["truncated"] >= 100
                assert status.dropped >= 100  # by the filter: the fleet's number was wrong
                assert {key: known(here)[key] for key in before} == before
                assert met(one, other)

    run(main())


def test_a_fleet_with_another_secret(run):
    """They do not understand each other, and the status says what to look at."""

    async def main():
        a, b = directors("a", "b")
        one, other = channel(a, [b], table()), channel(b, [a], table(), secret=b"another secret, of others")
        async with running(one, other):
            await until(lambda: peer(one).dropped and peer(other).dropped, "greetings were dropped")
            assert not peer(one).refused
            assert peer(one).state is PeerState.SILENT
            assert "the same fleet secret" in peer(one).trouble

    run(main())


def test_a_director_that_hears_before_it_has_tables(run):
    """It joins at once, and what it has heard takes effect with its first tables."""

    async def main():
        a, b = directors("a", "b")
        here, there = table(), table()
        keep(here, range(500), member=3)
        one, other = channel(a, [b], here), PinChannel(b, [a], SECRET, there)
        async with running(one, other):
            facts = await other.joined()
            assert facts.pins == {"a": 500}
            assert known(there) == {}
            assert other.set_members(members(20)) == 500
            assert known(there) == dict.fromkeys(hashes(range(500)), 23)

    run(main())


def test_what_was_given_up_is_asked_for_again(run):
    """Pins of unknown members for which there was no room come again when their member does."""

    async def main():
        a, b = directors("a", "b")
        here, there = table(1 << 12), table(1 << 10)
        keep(here, range(2000), member=3)
        one, other = channel(a, [b], here), PinChannel(b, [a], SECRET, there)
        async with running(one, other):
            await until(lambda: other.status().counts["unknown_member"] >= len(known(here)), "news of strangers")
            asked = peer(other).received
            taken = other.set_members(members())
            assert taken <= there.capacity
            await until(lambda: peer(other).received >= asked + len(known(here)), "asked again")

    run(main())


def test_peers_come_and_go_by_configuration(run):
    """A director is added to the fleet and taken out of it without disturbing the others."""

    async def main():
        a, b, c = directors("a", "b", "c")
        tables = [table() for _ in range(3)]
        one, two = channel(a, [], tables[0]), channel(b, [a], tables[1])
        three = channel(c, [a], tables[2])
        async with running(one, two, three):
            keep(tables[0], range(10))
            one.set_peers([a, b])
            await until(lambda: met(one, two) and len(known(tables[1])) == 10, "b was added")
            one.set_peers([b, c])
            await until(lambda: met(one, two, three) and len(known(tables[2])) == 10, "c was added")
            asked = two.status().counts["datagrams_sent"]
            one.set_peers([b])
            keep(tables[0], range(10, 20))
            await until(lambda: len(known(tables[1])) == 20, "b still hears")
            assert two.status().counts["datagrams_sent"] - asked < 20
            assert len(known(tables[2])) == 10
            one.set_peers([])
            await asyncio.sleep(0.05)
            keep(tables[0], range(20, 30))
            one.set_peers([b])
            await until(lambda: len(known(tables[1])) == 30, "b is back, and takes what we say")
            one.set_peers([replace(b, address=ip_address("127.0.0.9"))])
            assert peer(one).state is PeerState.SILENT

    run(main())


def test_tables_that_differ_are_noticed(run):
    """Directors compare digests of their tables, however many there are, and say since when which ones differ."""

    async def main():
        a, b = directors("a", "b")
        mine = {f"pool{i}": i for i in range(150)}
        theirs = dict(mine) | {"pool7": 70, "pool149": 0}
        one = channel(a, [b], table(), tables=lambda: mine)
        other = channel(b, [a], table(), tables=lambda: theirs)
        async with running(one, other):
            await until(lambda: set(one.mismatches().get("b", ())) == {"pool7", "pool149"}, "both are found")
            assert all(0 <= seconds < 10 for seconds in one.mismatches()["b"].values())
            assert peer(one).mismatches.keys() == {"pool7", "pool149"}
            theirs["pool7"] = 7
            await until(lambda: set(one.mismatches()["b"]) == {"pool149"}, "one has been put right")
            await until(lambda: one.mismatches()["b"]["pool149"] > 0, "the other was seen twice")
            del mine["pool149"]
            await until(lambda: not one.mismatches(), "what is not here any more does not differ")

    run(main())


def test_every_peer_gets_every_digest():
    """Each in turn, however many peers there are: what one has got is not taken from the others."""
    a, b, c = directors("a", "b", "c")
    one = channel(a, [b, c], table(), tables=lambda: {f"table{number}": number for number in range(128)})
    got = {name: set() for name in "bc"}
    for _ in range(2):
        for name, each in one._peers.items():
            got[name].update(one._next_digests(each, 10**9)["digest"].tolist())
    assert got == {"b": set(range(128)), "c": set(range(128))}


def test_claims_are_heard_of_at_once_and_often(run):
    """What a director claims, others know when it says so, beside any number of tables; of names that they do not claim
    themselves they know nothing. While there are claims, a director is heard several times a second."""

    async def main():
        a, b = directors("a", "b")
        tables = {f"pool{i}": i for i in range(150)}
        mine, theirs = {"arp 192.0.2.1": 1, "arp 192.0.2.2": 7}, {"arp 192.0.2.1": 2**64 - 1, "other": 5}
        one = channel(a, [b], table(), tables=lambda: tables, claims=lambda: mine)
        other = channel(b, [a], table(), tables=lambda: tables, claims=lambda: theirs)
        assert one.claims() == {}
        async with running(one, other):
            await until(lambda: met(one, other), "they have met")
            await until(lambda: one.claims()["b"][1] == {"arp 192.0.2.1": 2**64 - 1}, "it is known")
            assert other.claims()["a"][1] == {"arp 192.0.2.1": 1}
            theirs["arp 192.0.2.1"] = 3
            other.say_claims()
            await until(lambda: one.claims()["b"][1] == {"arp 192.0.2.1": 3}, "it is known anew", 0.2)
            ages = []
            for _ in range(20):
                await asyncio.sleep(0.05)
                ages.append(one.claims()["b"][0])
            assert sorted(ages)[10] < 0.3
            theirs.clear()
            other.say_claims()
            await until(lambda: one.claims()["b"][1] == {}, "nothing is claimed any more", 0.5)

    run(main())


def test_an_address_that_is_not_here_and_a_port_in_use(run):
    """The channel says what is wrong, tries again, and goes on by itself: nothing of this stops forwarding."""

    async def main():
        a, b = directors("a", "b")
        elsewhere = replace(a, address=ip_address("192.0.2.77"))
        with structlog.testing.capture_logs() as logs:
            one = channel(elsewhere, [b], table())
            async with running(one):
                await until(lambda: "192.0.2.77" in peer(one).trouble, "it says so")
                assert (await one.joined(timeout_s=0.1)).missing == ("b",)
        assert [entry["event"] for entry in logs].count("pins.no_socket") == 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind((str(a.address), a.port))
            one = channel(a, [b], table())
            async with running(one):
                await until(lambda: "port is free" in peer(one).trouble, "it says so")
                taken.close()
                other = channel(b, [a], table())
                async with running(other):
                    await until(lambda: met(one, other), "it tried again", 5.0)

    run(main())


def test_what_is_sent_is_bounded(run):
    """Much news takes its time; it does not take more of the network than it may."""

    async def main():
        a, b = directors("a", "b")
        here, there = table(1 << 14), table(1 << 14)
        one, other = channel(a, [b], here, rate=100_000), channel(b, [a], there)
        async with running(one, other):
            await until(lambda: met(one, other), "they have met")
            keep(here, range(6000))
            loop = asyncio.get_running_loop()
            began, before = loop.time(), one.status().counts["bytes_sent"]
            await until(lambda: one.status().counts["news"] > 1500, "some of it has been told")
            sent, took = one.status().counts["bytes_sent"] - before, loop.time() - began
            assert one.status().counts["waiting"] > 0
            assert sent <= 100_000 * (took + 0.1) + 5000

    run(main())


def test_an_error_ends_the_channel(run):
    """A broken program must not look alive: what fails while a datagram is read is raised by `run`."""

    async def main():
        a, b = directors("a", "b")
        here = table()

        def fails(*args):
            raise RuntimeError("no table")

        one, other = channel(a, [b], here), channel(b, [a], there := table())

        async def fail():
            async with running(one):
                await until(lambda: met(one, other), "they have met")
                here.merge = fails
                keep(there, [1])
                await asyncio.sleep(5)

        async with running(other):
            with pytest.raises(ExceptionGroup) as caught:
                await fail()
            assert caught.group_contains(RuntimeError, match="no table")

    run(main())


def test_closed_flows_are_closed_everywhere(run):
    """A FIN that one director has seen ends the others' copies, too."""

    async def main():
        a, b = directors("a", "b")
        here, there = table(), table()
        one, other = channel(a, [b], here), channel(b, [a], there)
        async with running(one, other):
            await until(lambda: met(one, other), "they have met")
            keep(here, range(20))
            await until(lambda: len(known(there)) == 20, "open")
            keep(here, range(20), state=PinState.FIN)
            await until(lambda: there.live().state.tolist() == [PinState.FIN] * 20, "closed")

    run(main())


def test_the_status_has_names_for_everything():
    """Whoever shows it needs no look into the program, and counts that nothing has happened to are there as zeros."""
    a, b = directors("a", "b")
    status = PinChannel(a, [b], SECRET, table()).status()
    assert isinstance(status, ChannelStatus)
    assert set(status.counts.values()) == {0}
    assert status.peers[0].heard_s_ago is None
    assert status.listening == f"{a.address} port 7117"
