"""Meters in memory: how many there are, whose they are, and what is forgotten."""

import random
from dataclasses import replace
from ipaddress import IPv4Network, ip_address

import numpy as np
import pytest

from appliance.dataplane.meters import METERS, PLACES, MeterTable
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.layout import ETHERNET, Columns, stride_for
from appliance.dataplane.raw.vector import VectorPath
from appliance.forwarding import ForwardingTables
from appliance.model import IPNetwork, Protection, Protocol, Rate
from appliance.packet.action import Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import PacketPath
from appliance.packet.protection import Guard
from tests.unit.dataplane.frames import CLIENT_MAC, INGRESS
from tests.unit.dataplane.test_vector_path import one_service

SECRET = bytes(range(16))
SLOW = Rate(0.001, 3)


def guard(name: str = "web", vip: str = "198.51.100.7", **limits: Rate) -> Guard:
    made = Protection(**limits)
    return Guard(made, name, ip_address(vip).packed, (made.per_service, made.per_vip, made.per_source))


def source(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4, "big")


def meters_for(*guards: Guard, sets: int = 16) -> MeterTable:
    meters = MeterTable.in_memory(lambda: 10**15, sets)
    meters.assign(guards, SECRET)
    return meters


def test_many_sources_make_it_forget_and_keep_nobody_out() -> None:
    """With far more sources than places, whoever comes for the first time is taken, and so is whoever was forgotten."""
    one = guard(per_source=SLOW)
    meters = meters_for(one)
    assert all(meters.admit(one, source(number)) is None for number in range(100 * 16 * PLACES))
    assert meters.forgotten > 90 * 16 * PLACES


def test_who_has_most_to_wait_is_remembered_longest() -> None:
    """A source that has used all it may is not displaced by those that come once."""
    one = guard(per_source=SLOW)
    meters = meters_for(one, sets=1)
    assert [meters.admit(one, source(1)) for _ in range(4)] == [None, None, None, Reason.SOURCE_RATE]
    assert all(meters.admit(one, source(number)) is None for number in range(2, 1000))
    assert meters.admit(one, source(1)) is Reason.SOURCE_RATE


def test_to_look_takes_nothing() -> None:
    """Asked a hundred times what would become of a connection, all limits have as much as before."""
    one = guard(per_source=SLOW, per_vip=SLOW, per_service=SLOW)
    meters = meters_for(one)
    assert all(meters.admit(one, source(1), look_only=True) is None for _ in range(100))
    assert [meters.admit(one, source(1)) for _ in range(4)] == [None, None, None, Reason.SERVICE_RATE]


def test_limits_of_other_services_and_vips_are_others() -> None:
    """Every virtual service has its meter, every VIP of it, and its sources."""
    guards = [guard(name, vip, per_vip=SLOW) for name in ("web", "api") for vip in ("198.51.100.7", "2001:db8:f::7")]
    meters = meters_for(*guards)
    for one in guards:
        assert [meters.admit(one, source(1)) for _ in range(4)] == [None, None, None, Reason.VIP_RATE]
    shared = [guard("web", vip, per_service=SLOW) for vip in ("198.51.100.7", "198.51.100.8")]
    meters = meters_for(*shared)
    assert [meters.admit(shared[turn % 2], source(1)) for turn in range(4)] == [None, None, None, Reason.SERVICE_RATE]


def test_a_reload_keeps_what_meters_say() -> None:
    """Services that stay keep their meters whatever comes and goes beside them; those of tables before still work."""
    rnd, stays = random.Random(1), guard("stays", per_vip=SLOW)
    meters = meters_for(stays)
    assert [meters.admit(stays, source(1)) for _ in range(3)] == [None] * 3
    gone = stays
    for turn in range(200):
        others = [guard(f"s{turn}-{number}", per_vip=SLOW) for number in range(rnd.randrange(1, 200))]
        place = rnd.randrange(len(others))
        meters.assign([*others[:place], stays, *others[place:]], SECRET)
        assert meters.admit(stays, source(1)) is Reason.VIP_RATE
        assert meters.admit(others[0], source(1)) is None
        meters.admit(gone, source(1))
        gone = others[0]


def test_too_many_limits_are_refused() -> None:
    """One more than there are meters is an error, and what was there goes on."""
    one = guard(per_vip=SLOW)
    meters = meters_for(one)
    many = [guard("many", str(ip_address(0x0A000000 + number)), per_vip=SLOW) for number in range(METERS)]
    with pytest.raises(ValueError, match=f"more than {METERS} virtual services and VIPs with limits"):
        meters.assign(many, SECRET)
    assert meters.admit(one, source(1)) is None


def syn(client: int, flags: int = 0x02, size: int = 0) -> bytes:
    segment = (1000 + client % 60000).to_bytes(2, "big") + (80).to_bytes(2, "big") + bytes(8) + bytes((0x50, flags))
    segment += bytes(6 + size)
    head = bytes((0x45, 0)) + (20 + len(segment)).to_bytes(2, "big") + bytes((0, 1, 0x40, 0, 64, 6, 0, 0))
    head += source(client) + ip_address("198.51.100.7").packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return INGRESS.mac + CLIENT_MAC + b"\x08\x00" + head + segment


def protected(protection: Protection, mtu: int = 1500) -> ForwardingTables:
    return one_service(mtu, protocol=Protocol.TCP, protection=protection)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_is_judged_as_its_frames_one_by_one(seed: int) -> None:
    """Limits of all kinds and prefixes, few sources and many, some frames too big to go on: whatever the batch, the
    same frames go, for the same reasons others do not, and the meters say the same afterwards."""
    rnd = random.Random(seed)
    rates = {name: Rate(0.001, rnd.choice((1, 3, 30))) for name in ("per_source", "per_vip", "per_service")}
    chosen = {name: rate for name, rate in rates.items() if rnd.random() < 0.6}
    deny: tuple[IPNetwork, ...] = ()
    if rnd.random() < 0.5:
        deny = tuple(ip_network_of(rnd) for _ in range(3))
    tables = protected(Protection(deny, **chosen), mtu=200)
    batch, reference = (MeterTable.in_memory(lambda: 10**15, 64) for _ in range(2))
    compiled = Compiled(tables, [INGRESS], meters=batch)
    path = PacketPath(tables, meters=reference)
    for _ in range(5):
        frames = [
            syn(rnd.randrange(rnd.choice((2, 50))), rnd.choice((0x02, 0x02, 0x12, 0x10)), rnd.choice((0, 0, 0, 400)))
            for _ in range(60)
        ]
        slots = np.zeros((64, stride_for(1500)), np.uint8)
        for row, frame in enumerate(frames):
            slots[row, ETHERNET : ETHERNET + len(frame)] = np.frombuffer(frame, np.uint8)
        vector = VectorPath(Columns(slots), answers=64)
        outcome = vector.forward(slice(0, len(frames)), 0, compiled)
        actions = [path.forward(frame, INGRESS) for frame in frames]
        sent = {row for send in outcome.sends for row in np.arange(64)[send.rows].tolist()}
        assert sent == {row for row, action in enumerate(actions) if action.verdict is Verdict.TRANSMIT}
        reasons = [action.reason for action in actions]
        for reason in (Reason.DENIED, Reason.SERVICE_RATE, Reason.VIP_RATE, Reason.SOURCE_RATE):
            assert vector.reasons[reason] == reasons.count(reason)
        for row in outcome.answer:
            assert compiled.path.forward(frames[row], INGRESS).reason is Reason.TOO_BIG
        assert np.array_equal(batch._dues, reference._dues)
        assert np.array_equal(batch._sources, reference._sources)


def ip_network_of(rnd: random.Random) -> IPNetwork:
    return IPv4Network((0x0A000000 + rnd.randrange(50), 32))


def test_no_limits_without_meters() -> None:
    """Whoever only explains has no meters: all connections may come, and prefixes count all the same."""
    deny = (IPv4Network("10.0.0.5/32"),)
    tables = protected(Protection(deny, per_source=Rate(0.001, 1)))
    path = PacketPath(tables)
    assert all(path.forward(syn(1), INGRESS).verdict is Verdict.TRANSMIT for _ in range(5))
    assert path.forward(syn(5), INGRESS).reason is Reason.DENIED
    assert replace(tables.services[0], protection=None) != tables.services[0]
