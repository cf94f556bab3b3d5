"""Captures: what planes tell of frames is what came by the wire, and what they explain."""

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from appliance.dataplane.recording import Captured, Wanted
from appliance.forwarding import ForwardingTables
from appliance.model import DfPolicy, PortRange, Protocol
from appliance.packet.action import Action, Reason, Verdict
from tests.netns import until
from tests.root.plane_child import KINDS
from tests.root.plane_rig import Plane, Rig, rig
from tests.root.test_planes import VIP4, member, tables, udp
from tests.unit.dataplane.frames import L2, L3, random_frame, random_tables
from tests.vectors_io import canonical

pytestmark = pytest.mark.root

ROUND = 500


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(str(request.param)) as made:
        yield made


def captured(
    bench: Rig, plane: Plane, used: ForwardingTables, frames: list[bytes], wanted: Wanted, expected: int
) -> tuple[list[Captured], list[bytes]]:
    """What was captured of some frames, and frames of ours at the member's end of the cable."""
    bench.far.receive(0)
    plane.ask("record_for_test", wanted)
    bench.near.send(*frames)
    found, lost = plane.ask("recorded", expected, used)
    out = sum(not sent.kind for one in found for sent in one.sent)
    got = bench.far.receive(out, keep=lambda frame: frame[6:11] == bytes((2, 0, 0, 0, 2)))
    assert lost == 0
    return found, got


def test_explained_captured_and_sent_are_the_same(bench: Rig, pytestconfig: pytest.Config) -> None:
    """Of random frames, the capture has those that left as they came by the wire, and the drops with their reason; and
    what the plane explains of each frame is that, to the member and the last byte."""
    rnd = random.Random(4)
    rounds = 20 if pytestconfig.getoption("--long") else 1
    with bench.plane() as plane:
        for _ in range(rounds):
            used = random_tables(rnd, ifindexes=(bench.ifindex("d1"),))
            plane.set(used)
            made = (random_frame(rnd, used, wrong=0.02) for _ in range(2 * ROUND))
            frames = list({frame: None for frame in made if len(frame) <= 1514})[:ROUND]
            actions: list[Action] = plane.ask("explain_all", frames, "d0")
            ours = {
                frame: action
                for frame, action in zip(frames, actions, strict=True)
                if action.verdict is not Verdict.PASS
            }
            assert len(ours) > ROUND // 2
            found, wire = captured(bench, plane, used, frames, Wanted(), len(ours))
            sent = [one.frame for each in found for one in each.sent if not one.kind]
            assert sorted(map(canonical, sent)) == sorted(map(canonical, wire))
            assert len(found) == len(ours)
            assert {one.frame for one in found} == set(ours)
            for one in found:
                assert difference(one, ours[one.frame], used) == ""


def difference(one: Captured, action: Action, used: ForwardingTables) -> str:
    """Between what was captured and what was explained of a frame; empty for none."""
    if action.verdict is Verdict.HOLD:  # no first fragment has come: it goes by its slot, if that will do, or nowhere
        ends = one.verdict is Verdict.TRANSMIT or one.reason == Reason.FRAGMENT
        return "" if ends else f"held, and then {one.verdict} {one.reason}"
    if action.further and one.reason == Reason.TOO_BIG:  # more packets of a batch to be fragmented than it may have
        return "" if not one.sent else "dropped, and sent"
    sent = [canonical(sent.frame) for sent in one.sent if not sent.kind]
    expected = [canonical(frame) for frame in (action.frame, *action.further) if frame]
    said: list[tuple[str, object, object]] = [
        ("verdict", one.verdict, action.verdict),
        ("reason", one.reason, str(action.reason or "")),
        ("frames", sent, expected),
    ]
    if action.verdict is Verdict.TRANSMIT and action.member is not None and action.service is not None:
        said += [
            ("member", one.member, used.members[action.member].id),
            ("service", one.service, used.services[action.service].name),
            ("slot", one.slot, action.slot),
        ]
        if one.by:
            said.append(("by", one.by, str(action.by)))
    return "; ".join(f"{what}: {got} instead of {want}" for what, got, want in said if got != want)


def test_only_what_is_wanted(bench: Rig) -> None:
    """By client and VIP, in one family or the other; and of each frame the first bytes only."""
    used = tables(member(bench, 1, L2), protocol=Protocol.UDP)
    frames = [udp(port, size=400) for port in range(2000, 2020)]
    with bench.plane() as plane:
        plane.set(used)
        for wanted, number in (
            (Wanted(ip_network("192.0.2.0/28"), VIP4, 64), 20),
            (Wanted(ip_network("192.0.2.2/32")), 20),
            (Wanted(ip_network("192.0.2.16/28")), 0),
            (Wanted(ip_network("2001:db8::/32")), 0),
        ):
            plane.ask("record_for_test", wanted)
            bench.near.send(*frames)
            found, lost = plane.ask("recorded", number or 1, used) if number else settled(bench, plane, used)
            assert (len(found), lost) == (number, 0)
            assert all(one.length == 442 for one in found)
            assert all(len(one.frame) == len(one.sent[0].frame) == min(442, wanted.snaplen) for one in found)


def settled(bench: Rig, plane: Plane, used: ForwardingTables) -> tuple[list[Captured], int]:
    """What was captured, when the frames have gone by."""
    bench.far.receive(20)
    found, lost = plane.ask("recorded", 0, used)
    return found, lost


def test_a_capture_leaves_no_trace(bench: Rig) -> None:
    """When it is over, frames go as before, nothing is told of them, and the proof of the plane holds all the while."""
    used = tables(member(bench, 1, L2), protocol=Protocol.UDP)
    with bench.plane() as plane:
        plane.set(used)
        for _ in range(3):
            plane.ask("record_for_test", Wanted())
            plane.check()
            bench.near.send(udp(3000), udp(3001, vip="2001:db8:f::7"))
            found, _ = plane.ask("recorded", 2, used)
            assert [one.service for one in found] == ["web", "web"]
            plane.check()
        bench.far.receive(0)
        bench.near.send(udp(3002))
        assert len(bench.far.receive(1, keep=lambda frame: frame[12:14] == b"\x08\x00")) == 1
        assert plane.ask("recorded", 0, used)[0] == []
        counters = plane.counters()
        assert sum(traffic.packets for traffic in counters.services.values()) == 7
        assert not counters.reasons.get(Reason.TX_FAILED)


def test_a_capture_goes_on_with_larger_maps(bench: Rig) -> None:
    """Tables that outgrow the program's maps come with another program: whoever captures sees what that does."""
    first = tables(member(bench, 1, L2), protocol=Protocol.UDP)
    many = [
        replace(first.services[0], index=number, name=f"s{number}", ports=(PortRange(port, port),))
        for number, port in enumerate(range(10_000, 11_000), len(first.services))
    ]
    second = replace(first, services=(*first.services, *many))
    with bench.plane() as plane:
        plane.set(first)
        plane.ask("record_for_test", Wanted())
        bench.near.send(udp(4000))
        until(lambda: traffic(plane) == 1, "the first frame is forwarded")
        plane.set(second)
        bench.near.send(udp(4001))
        until(lambda: traffic(plane) == 2, "the second one is")
        found, lost = plane.ask("recorded", 1, second)
        seen = [int.from_bytes(one.frame[34:36], "big") for one in found]
        assert (seen[-1], lost) == (4001, 0)
        assert found[-1].member == "web/m1"
        bench.near.send(udp(4002))
        until(lambda: traffic(plane) == 3, "frames are forwarded as before")


def traffic(plane: Plane) -> int:
    return sum(traffic.packets for traffic in plane.counters().services.values())


def test_outer_packets_that_may_be_fragmented_do_not_disprove_the_plane(bench: Rig) -> None:
    """Their identifications are whatever is free; everything else has to be as the reference has it, and a program
    that does so stays where it is."""
    clear = replace(L3, outer_df=DfPolicy.CLEAR)
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1, clear), protocol=Protocol.UDP))
        for _ in range(5):
            plane.check()
        facts = plane.describe()
        assert facts.get("mode_d0") in (None, "native", "generic"), facts
        action = plane.explain(udp(5000))
        assert action.verdict is Verdict.TRANSMIT
        assert not action.frame[20] & 0x40
