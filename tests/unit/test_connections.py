"""What is written down of flows that are over."""

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path, PurePath
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from appliance.connections import HIDDEN, ConnectionLogStatus, Connections, Services, ends
from appliance.dataplane.logged import LoggedFlows, Sighting
from appliance.decide import Desired, decide
from appliance.model import ConnectionLog, NetworkProfile, PortRange, ProfileType
from appliance.packet.placement import FlowFacts
from tests.builders import L3, config, member, pool, service, snapshot

SECOND = 1_000_000_000
AHEAD_S = 1_800_000_000.0
VIP = ip_address("198.51.100.7")


class Rig:
    """A table with a clock that is moved by hand, and a log of it."""

    def __init__(self, settings: ConnectionLog, desired: Desired) -> None:
        self.ns = 100 * SECOND
        self.table = LoggedFlows.in_memory(lambda: self.ns)
        self.log = Connections(lambda: self.table, lambda: desired, "d1", lambda: AHEAD_S + self.ns / 1e9)
        self.log.follow(settings)
        self.index = next(iter(desired.tables.members))

    def see(self, flags: int, port: int = 80, protocol: int = 6, number: int = 1, packets: int = 1) -> None:
        flow = FlowFacts(
            bytes((192, 0, 2, number)), VIP.packed, (40000).to_bytes(2, "big") + port.to_bytes(2, "big"), protocol,
            number << 40 | protocol << 32, 0, 0,
        )  # fmt: skip
        syns = packets if flags & 0x12 == 0x02 else 0
        self.table.see(flow, self.index, Sighting(packets, 100 * packets, flags, syns, flags & 0x12 == 0x10))

    def look(self) -> None:
        """What `run` does every second."""
        self.log._look(self.table, desired(), ends)


def desired() -> Desired:
    web = service(vips=(VIP,), ports=(PortRange(80, 80), PortRange(8000, 8099)))
    dns = service(
        name="dns",
        vips=(VIP,),
        ports=(PortRange(53, 53),),
        profile=NetworkProfile("udp", ProfileType.UDP_FAST_PATH, L3, 10),
        pool=pool(member(9), name="dns"),
    )
    return decide(snapshot(config(web, dns)))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(ConnectionLog(100, PurePath(tmp_path / "flows.jsonl")), desired())


def lines(rig: Rig) -> list[dict[str, Any]]:
    path = rig.log._settings.file
    assert path is not None
    text = Path(path).read_text() if Path(path).exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def test_a_connection(rig: Rig) -> None:
    """All that can be known of one from its clients' side, and null for what cannot."""
    for flags, after in ((0x02, 0.012), (0x10, 0.5), (0x18, 1.0), (0x11, 0.25), (0x10, 0)):
        rig.see(flags)
        rig.ns += int(after * SECOND)
    rig.look()
    assert lines(rig) == []  # what the client still has to say may come
    rig.ns += 6 * SECOND
    rig.look()
    (line,) = lines(rig)
    found = rig.log._applied()
    assert found is not None
    to = found.tables.members[rig.index]
    assert line == {
        "start": "2027-01-15T08:01:40.000+00:00",
        "duration_s": 1.762,
        "end": "fin",
        "director": "d1",
        "protocol": "tcp",
        "client": "192.0.2.1",
        "client_port": 40000,
        "vip": "198.51.100.7",
        "port": 80,
        "service": "web",
        "member": to.id,
        "member_address": str(to.address),
        "packets": 5,
        "bytes": 500,
        "syns": 1,
        "handshake_ms": 12.0,
        "moves": 0,
        "one_of": 100,
        "packets_to_client": None,
        "bytes_to_client": None,
        "response_ms": None,
    }
    assert rig.log.status() == ConnectionLogStatus(written=1)


def test_how_flows_end(rig: Rig) -> None:
    """By FIN, by RST, or by silence: as long as the network profile of their virtual service says."""
    rig.see(0x12 & 0x02, number=1)
    rig.see(0x14, number=2)
    rig.see(0, port=53, protocol=17, number=3)
    rig.ns += 9 * SECOND
    rig.look()
    assert [(line["client"], line["end"]) for line in lines(rig)] == [("192.0.2.2", "rst")]
    rig.ns += 2 * SECOND
    rig.look()
    assert [(line["service"], line["end"]) for line in lines(rig)[1:]] == [("dns", "idle")]
    rig.ns += 288 * SECOND
    rig.look()
    assert len(lines(rig)) == 2
    rig.ns += 2 * SECOND
    rig.look()
    assert [(line["client"], line["end"]) for line in lines(rig)[2:]] == [("192.0.2.1", "idle")]


def test_an_unsure_handshake_is_none(rig: Rig) -> None:
    """Nobody knows which of two SYNs was answered; and of a flow that was there before, nothing was seen."""
    rig.see(0x02, number=1)
    rig.ns += SECOND
    rig.see(0x02, number=1)
    rig.see(0x10, number=1)
    rig.see(0x10, number=2)
    rig.log.close()
    assert [(line["syns"], line["handshake_ms"], line["end"]) for line in lines(rig)] == [
        (2, None, "director_stopped"),
        (0, None, "director_stopped"),
    ]


def test_a_flow_whose_service_is_gone(rig: Rig) -> None:
    """It is over, and nothing is said of what is not known any more."""
    rig.see(0x10, port=99)
    rig.ns += SECOND
    rig.look()
    (line,) = lines(rig)
    assert (line["service"], line["port"], line["end"]) == (None, 99, "idle")


def test_the_narrowest_range_has_a_port() -> None:
    """As the data planes choose virtual services."""
    all_ports = service(name="all", vips=(VIP,), ports=(PortRange(1, 65535),), pool=pool(name="all"))
    some = service(name="some", vips=(VIP,), ports=(PortRange(80, 90),))
    services = Services(decide(snapshot(config(all_ports, some))))
    found = [services.find(VIP.packed, 6, port) for port in (79, 80, 90, 91)]
    assert [one.name if one else None for one in found] == ["all", "some", "some", "all"]
    assert services.find(VIP.packed, 17, 80) is None


def test_without_a_file_they_are_events() -> None:
    """In the director's own log, with the same fields."""
    rig = Rig(ConnectionLog(1), desired())
    rig.see(0x02)
    with capture_logs() as logged:
        rig.log.close()
    structlog.reset_defaults()
    (event,) = logged
    assert (event["event"], event["client"], event["end"]) == ("flow.ended", "192.0.2.1", "director_stopped")
    assert event.keys() >= HIDDEN.keys()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """It is said once and counted; when it can be written again, it is."""
    folder = tmp_path / "later"
    rig = Rig(ConnectionLog(1, PurePath(folder / "flows.jsonl")), desired())
    with capture_logs() as logged:
        for number in (1, 2):
            rig.see(0x14, number=number)
            rig.ns += 6 * SECOND
            rig.look()
    assert [event["event"] for event in logged] == ["flow.not_written"]
    assert rig.log.status() == ConnectionLogStatus(written=0, lost=2)
    folder.mkdir()
    rig.see(0x14, number=3)
    rig.ns += 6 * SECOND
    rig.look()
    assert [line["client"] for line in lines(rig)] == ["192.0.2.3"]
    assert rig.log.status() == ConnectionLogStatus(written=1, lost=2)


def test_it_can_be_turned_on_and_off(rig: Rig) -> None:
    """What is in the table when it is turned off is still written."""
    rig.log.follow(replace(rig.log._settings, one_of=0))
    assert rig.table.below == 0
    rig.log.follow(replace(rig.log._settings, one_of=4))
    assert rig.table.below == 1 << 30
