"""The vectorised path against the reference, on slots in plain memory."""

import random
import struct
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest

from appliance.dataplane.raw import bpf
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.idents import Idents
from appliance.dataplane.raw.layout import ETHERNET, Columns, Frames, stride_for
from appliance.dataplane.raw.single import SinglePath
from appliance.dataplane.raw.vector import Outcome, VectorPath
from appliance.forwarding import SLOTS, ForwardingTables, NextHop, TableMember, TableService
from appliance.model import DfPolicy, HashMode, PortRange, Protocol
from appliance.packet.action import Action, Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import PacketPath
from tests.unit.dataplane.frames import CLIENT_MAC, INGRESS, L3, cycle, random_frame, random_tables
from tests.vectors_io import canonical

BATCH = 64


def plain_program(tables: ForwardingTables) -> bpf.Program:
    return bpf.classifier(sorted(tables.vips_v4), sorted(tables.vips_v6), INGRESS.mtu, bpf.Class.PLAIN)[0]


def slots_with(frames: list[bytes]) -> Frames:
    slots = np.zeros((BATCH, stride_for(1500)), np.uint8)
    for row, frame in enumerate(frames):
        slots[row, ETHERNET : ETHERNET + len(frame)] = np.frombuffer(frame, np.uint8)
    return slots


def sent(slots: Frames, outcome: Outcome) -> dict[int, tuple[int, bytes]]:
    """By row: where it leaves, and the frame."""
    frames = {}
    for send in outcome.sends:
        rows = range(send.rows.start, send.rows.stop) if isinstance(send.rows, slice) else send.rows.tolist()
        assert len(rows) == len(send.lengths)
        for row, length in zip(rows, send.lengths.tolist(), strict=True):
            assert row not in frames
            frames[row] = send.ifindex, slots[row, send.start : send.start + length].tobytes()
    return frames


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_the_reference(seed: int) -> None:
    """Whatever the tables and the mixture of frames: same frames, interfaces, drops and counters, byte for byte."""
    rnd = random.Random(seed)
    tables = random_tables(rnd)
    program = plain_program(tables)
    frames = [random_frame(rnd, tables) for _ in range(rnd.choice((1, 3, 10, 3 * BATCH)))]
    frames = [frame for frame in frames if bpf.run(program, frame)][:BATCH]
    if not frames:
        return
    assert_agrees(tables, frames)


@pytest.mark.parametrize("seed", range(20))
def test_agrees_where_all_frames_are_alike(seed: int) -> None:
    """The same for batches from one router to one VIP and port, where much is done once for all; some of them loop."""
    rnd = random.Random(seed)
    tables = random_tables(rnd)
    program = plain_program(tables)
    alike: dict[tuple[object, bytes], list[bytes]] = {}
    for frame in (random_frame(rnd, tables, wrong=0) for _ in range(15 * BATCH)):
        action = PacketPath(tables).forward(frame, INGRESS)
        if bpf.run(program, frame) and action.verdict is Verdict.TRANSMIT:
            port = frame[36:38] if frame[12:14] == b"\x08\x00" else frame[56:58]
            alike.setdefault((action.service, port), []).append(frame)
    looping = tables.members[min(tables.members)].next_hop.source_mac
    for frames in sorted(alike.values(), key=len)[-4:]:
        assert_agrees(tables, frames[:BATCH])
        macs = [rnd.choice((looping, b"\x02\x99\x99\x99" + looping[4:])) for _ in frames]
        assert_agrees(tables, [f[:6] + mac + f[12:] for f, mac in zip(frames[:BATCH], macs, strict=False)])


def simple(action: Action) -> bool:
    """Whether a frame is sent as one: what is fragmented is left to the reference."""
    return action.verdict is Verdict.TRANSMIT and not action.further


def assert_agrees(tables: ForwardingTables, frames: list[bytes]) -> None:
    path, compiled = PacketPath(tables), Compiled(tables, [INGRESS])
    actions = [path.forward(frame, INGRESS) for frame in frames]
    slots = slots_with(frames)
    vector = VectorPath(Columns(slots), answers=BATCH)
    outcome = vector.forward(slice(0, len(frames)), 0, compiled)
    got = sent(slots, outcome)
    dropped = {row for rows in outcome.dropped for row in rows.tolist()}
    assert sorted([*got, *dropped, *outcome.answer]) == list(range(len(frames)))
    for row, action in enumerate(actions):
        if simple(action):
            ifindex, frame = got[row]
            assert ifindex == action.ifindex
            assert len(frame) == len(action.frame)
            assert canonical(frame) == canonical(action.frame)
        elif action.further or action.reason is Reason.TOO_BIG:
            assert row in outcome.answer
        else:
            assert row in dropped
    drops = Counter(a.reason for a in actions if a.reason not in (None, Reason.TOO_BIG, Reason.NOT_VIP))
    assert +vector.reasons == drops
    assert_counted(compiled, frames, actions)


@pytest.mark.parametrize("seed", range(60))
def test_one_by_one_agrees_with_the_reference(seed: int) -> None:
    """The quick way for single frames makes what the reference transmits, and leaves the rest untouched."""
    rnd = random.Random(seed)
    tables = random_tables(rnd)
    path, compiled, program = PacketPath(tables), Compiled(tables, [INGRESS]), plain_program(tables)
    frames = [random_frame(rnd, tables) for _ in range(3 * BATCH)]
    frames = [frame for frame in frames if bpf.run(program, frame)][:BATCH]
    actions = [path.forward(frame, INGRESS) for frame in frames]
    slots = slots_with(frames)
    single = SinglePath(slots)
    for row, (frame, action) in enumerate(zip(frames, actions, strict=True)):
        made = single.forward(row, 0, compiled)
        assert (made is None) != simple(action)
        if made is None:
            assert slots[row, ETHERNET : ETHERNET + len(frame)].tobytes() == frame
        else:
            assert made.ifindex == action.ifindex
            assert len(single.bytes_of(made)) == len(action.frame)
            assert canonical(bytes(single.bytes_of(made))) == canonical(action.frame)
    assert_counted(compiled, frames, actions)


def test_ttl_checksums_at_the_edge() -> None:
    """The incremental checksum goes round the corner like the reference's, in batches and one by one."""
    tables = one_service()
    path, compiled = PacketPath(tables), Compiled(tables, [INGRESS])
    frames = []
    for wanted in (0xFEFE, 0xFEFF, 0xFFFE, 0xFFFF, 0x0000, 0xFF00):
        frame = bytearray(random_frame(random.Random(5), tables, wrong=0)[:120].ljust(60, b"\0"))
        frame[14:34] = bytes.fromhex("450000000000400040110000c0000202") + tables.services[0].vip.packed
        frame[16:18] = (len(frame) - 14).to_bytes(2, "big")
        # The identification makes the checksum whatever it is to be.
        ident = (0xFFFF - (0xFFFF - checksum(bytes(frame[14:34]))) - wanted) % 0xFFFF
        frame[18:20] = ident.to_bytes(2, "big")
        frame[24:26] = wanted.to_bytes(2, "big")
        assert checksum(bytes(frame[14:34])) == 0
        frame[36:40] = b"\0P" + (len(frame) - 34).to_bytes(2, "big")
        frames.append(bytes(frame))
    slots = slots_with(frames)
    got = sent(slots, VectorPath(Columns(slots)).forward(slice(0, len(frames)), 0, compiled))
    slots = slots_with(frames)
    single = SinglePath(slots)
    for row, frame in enumerate(frames):
        wanted_frame = path.forward(frame, INGRESS).frame
        assert got[row][1] == wanted_frame
        made = single.forward(row, 0, compiled)
        assert made is not None
        assert bytes(single.bytes_of(made)) == wanted_frame


def assert_counted(compiled: Compiled, frames: list[bytes], actions: list[Action]) -> None:
    pairs = [(f, a) for f, a in zip(frames, actions, strict=True) if simple(a)]
    for service in compiled.tables.services:
        mine = [frame for frame, action in pairs if action.service == service.index]
        traffic = compiled.traffic.service(service.index)
        assert traffic.packets == len(mine)
        assert traffic.bytes == sum(ip_length(frame) for frame in mine)
        assert traffic.new_flows == sum(opens_flow(frame) for frame in mine)
    for way, member in enumerate(compiled.members):
        mine = [frame for frame, action in pairs if action.member == member.index]
        traffic = compiled.traffic.way(way)
        assert (traffic.packets, traffic.new_flows) == (len(mine), sum(map(opens_flow, mine)))


def ip_length(frame: bytes) -> int:
    if frame[12:14] == b"\x08\x00":
        return int.from_bytes(frame[16:18], "big")
    return 40 + int.from_bytes(frame[18:20], "big")


def opens_flow(frame: bytes) -> bool:
    protocol, at = (frame[23], 34) if frame[12:14] == b"\x08\x00" else (frame[20], 54)
    return protocol == Protocol.TCP and frame[at + 13] & 0x12 == 0x02


def one_service(delivery_mtu: int = 1500, **changes: object) -> ForwardingTables:
    hop = NextHop(2, "d1", bytes(6), b"\2\0\0\0\1\1", delivery_mtu, ip_address("192.0.2.1"), True)
    member = TableMember(7, "web/m", ip_address("203.0.113.1"), L3, hop)
    service = TableService(
        0, "web", ip_address("198.51.100.7"), Protocol.UDP, (PortRange(80, 80),), HashMode.FIVE_TUPLE, cycle(7)
    )
    return ForwardingTables(bytes(16), (replace(service, **changes),), {7: member})


def test_protocols_of_one_port_are_told_apart() -> None:
    """TCP and UDP services of one VIP and port, in one batch that is otherwise all alike."""
    tables = one_service()
    udp = tables.services[0]
    tcp = replace(udp, index=1, name="web-tcp", protocol=Protocol.TCP)
    both = ForwardingTables(bytes(16), (udp, tcp), tables.members)
    rnd, program = random.Random(6), plain_program(both)
    frames: list[bytes] = []
    while len(frames) < 40:
        frame = random_frame(rnd, both, wrong=0)
        if bpf.run(program, frame) and frame[36:38] == b"\0P":
            frames.append(frame)
    assert {frame[23] for frame in frames} == {Protocol.TCP, Protocol.UDP}
    assert_agrees(both, frames)


def test_only_some_oversized_packets_are_left_to_be_answered() -> None:
    """A flood of packets that are too big costs a bounded number of answers a batch; the rest is counted at once."""
    tables = one_service(delivery_mtu=60)
    rnd = random.Random(1)
    program = plain_program(tables)
    frames: list[bytes] = []
    while len(frames) < 20:
        frame = random_frame(rnd, tables, wrong=0)
        if bpf.run(program, frame) and ip_length(frame) > 40 and frame[36:38] == b"\0P":
            frames.append(frame)
    vector = VectorPath(Columns(slots_with(frames)), answers=8)
    outcome = vector.forward(slice(0, 20), 0, Compiled(tables, [INGRESS]))
    assert outcome.sends == []
    assert outcome.answer == list(range(8))
    assert vector.reasons == {Reason.TOO_BIG: 12}


def test_fragmentable_outer_packets_get_different_identifications() -> None:
    """RFC 6864: identifications of outer packets that may be fragmented do not repeat soon; others have none."""
    tables = one_service()
    rnd = random.Random(2)
    frames: list[bytes] = []
    while len(frames) < 40:
        frame = random_frame(rnd, tables, wrong=0)
        if frame[36:38] == b"\0P" and ip_length(frame) < 1400:
            frames.append(frame)
    slots = slots_with(frames)
    vector = VectorPath(Columns(slots))
    got = sent(slots, vector.forward(slice(0, 40), 0, Compiled(tables, [INGRESS])))
    idents = {row: int.from_bytes(frame[18:20], "big") for row, (_, frame) in got.items()}
    may = [row for row, (_, frame) in got.items() if not frame[20] & 0x40]
    assert 5 < len(may) < 40
    assert len({idents[row] for row in may}) == len(may)
    assert all(idents[row] == 0 for row in got if row not in may)


@pytest.mark.parametrize("version", [4, 6])
def test_batches_and_single_frames_share_identifications(version: int) -> None:
    """Where DF is cleared on purpose, no two of the outer packets have the same one, whichever way they took."""
    vip = ip_address("198.51.100.7" if version == 4 else "2001:db8:f::7")
    tables = one_service(vip=vip)
    member = replace(tables.members[7], delivery=replace(L3, outer_df=DfPolicy.CLEAR))
    compiled = Compiled(replace(tables, members={7: member}), [INGRESS])
    rnd, program = random.Random(4), plain_program(tables)
    frames = [random_frame(rnd, tables, wrong=0) for _ in range(400)]
    frames = [frame for frame in frames if bpf.run(program, frame) and len(frame) < 1400 and b"\0P" in frame[36:58]]
    frames = [f for f in frames if PacketPath(tables).forward(f, INGRESS).verdict is Verdict.TRANSMIT][:60]
    slots, idents = slots_with(frames), Idents()
    vector, single = VectorPath(Columns(slots), idents=idents), SinglePath(slots, idents)
    got = [frame for _, frame in sent(slots, vector.forward(slice(0, 30), 0, compiled)).values()]
    for row in range(30, 60):
        made = single.forward(row, 0, compiled)
        assert made is not None
        got.append(bytes(single.bytes_of(made)))
    assert not any(frame[20] & 0x40 for frame in got)
    assert len({frame[18:20] for frame in got}) == len(got) == 60


def test_ipv6_that_everybody_may_send_is_no_matter_for_closer_looks() -> None:
    """However small somebody says that the way is, a whole batch of 1280 bytes goes on at once: over IPv4 without DF,
    each with an identification of its own. So false errors cost IPv6 nothing but DF."""
    vip = ip_address("2001:db8:f::7")
    tables = one_service(vip=vip)
    tables = replace(tables, members={7: replace(tables.members[7], path_mtu=576)})
    frames = []
    for number in range(BATCH):
        segment = struct.pack("!HHHH", 1024 + number, 80, 1240, 1) + bytes(1232)
        source = ip_address("2001:db8:1::9").packed
        packet = b"\x60\0\0\0" + len(segment).to_bytes(2, "big") + b"\x11\x40" + source + vip.packed + segment
        assert len(packet) == 1280
        frames.append(INGRESS.mac + CLIENT_MAC + b"\x86\xdd" + packet)
    assert_agrees(tables, frames)
    slots, compiled = slots_with(frames), Compiled(tables, [INGRESS])
    outcome = VectorPath(Columns(slots)).forward(slice(0, BATCH), 0, compiled)
    got = [frame for _, frame in sent(slots, outcome).values()]
    assert len(got) == BATCH
    assert not any(frame[20] & 0x40 for frame in got)
    assert len({frame[18:20] for frame in got}) == BATCH


@pytest.mark.parametrize("together", [True, False], ids=["all-alike", "mixed"])
def test_a_few_of_those_for_no_service_are_answered(together: bool) -> None:
    """Where a VIP says so, some of a batch are left to the caller, and others dropped and counted; where it does not,
    all are dropped."""
    for rejects, asked in ((True, 4), (False, 0)):
        tables = one_service(rejects=rejects)
        packet = bytes.fromhex("4500001c000000004011000000000000") + tables.services[0].vip.packed
        packet = packet[:12] + bytes((192, 0, 2, 9)) + packet[16:]
        packet = packet[:10] + checksum(packet).to_bytes(2, "big") + packet[12:]
        ports = [81] * 20 if together else [80, 81] * 10
        frames = [
            INGRESS.mac + CLIENT_MAC + b"\x08\0" + packet + struct.pack("!HHHH", 1024, port, 8, 0) for port in ports
        ]
        vector = VectorPath(Columns(slots_with(frames)))
        outcome = vector.forward(slice(0, 20), 0, Compiled(tables, [INGRESS]))
        nobody = ports.count(81)
        assert len(outcome.answer) == asked
        assert vector.reasons[Reason.NO_SERVICE] == nobody - asked
        dropped = [row for rows in outcome.dropped for row in rows.tolist()]
        assert sorted([*dropped, *outcome.answer]) == [row for row, port in enumerate(ports) if port == 81]


def test_frames_for_vips_that_are_no_longer_ours_are_left_alone() -> None:
    """A frame that was admitted by an earlier filter is neither sent nor counted as a drop of anything."""
    old = one_service()
    rnd = random.Random(3)
    frames = [random_frame(rnd, old, wrong=0) for _ in range(5)]
    for tables in (ForwardingTables(), one_service(vip=ip_address("198.51.100.8")), one_service(vip=ip_address("::1"))):
        slots = slots_with(frames)
        vector = VectorPath(Columns(slots))
        outcome = vector.forward(slice(0, 5), 0, Compiled(tables, [INGRESS]))
        assert outcome.sends == outcome.answer == []
        assert sorted(row for rows in outcome.dropped for row in rows.tolist()) == list(range(5))
        assert not vector.reasons


def test_slots_that_name_no_member_are_nobodys() -> None:
    """An index without a member drops the packet instead of sending it somewhere."""
    tables = one_service(slots=cycle(9))
    rnd = random.Random(4)
    frames = [frame for frame in (random_frame(rnd, tables, wrong=0) for _ in range(50)) if frame[36:38] == b"\0P"]
    vector = VectorPath(Columns(slots_with(frames[:10])))
    vector.forward(slice(0, 10), 0, Compiled(tables, [INGRESS]))
    assert vector.reasons == {Reason.NO_MEMBER: 10}


def test_slot_count_is_the_default() -> None:
    """The tables of these tests have the real size."""
    assert len(one_service().services[0].slots) == SLOTS
