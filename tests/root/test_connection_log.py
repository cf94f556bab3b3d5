"""A running director logs connections: what is in its file is what went by the wire, on both planes, and the same
sample of it; and Prometheus has no complaint about what it tells meanwhile."""

import json
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.orders import OrderError, ask
from appliance.dataplane.logged import PLACES, SETS, below
from appliance.model import HashMode
from appliance.packet.checksum import checksum
from appliance.ring.hash import derive_pin_keys, flow_words, pin_hash
from tests.monitoring import promtool
from tests.netns import until
from tests.root.plane_rig import REPOSITORY, Rig, mac, rig

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

SECRET = bytes(range(32))
VIP4, VIP6 = ip_address("198.51.100.7").packed, ip_address("2001:db8:f::7").packed
CONFIG = """
schema_version = 1

[director]
name = "d"
interfaces = ["d0"]
plane = "{plane}"
runtime_dir = "{folder}/run"

[connection_log]
one_of = {one_of}
file = "{folder}/flows.jsonl"

[fleet]
secret_file = "fleet.key"

[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
dsr = {{ type = "l3" }}

[[network_profile]]
name = "udp"
type = "udp_fast_path"
session_idle_timeout = 2
dsr = {{ type = "l2" }}

[[pool]]
name = "web"
[[pool.member]]
name = "web2"
address = "203.0.113.2"
[[pool.member]]
name = "web12"
address = "203.0.113.12"

[[virtual_service]]
name = "web"
vips = ["198.51.100.7", "2001:db8:f::7"]
ports = [80]
network_profile = "tcp"
pool = "web"

[[virtual_service]]
name = "dns"
vips = ["198.51.100.7"]
ports = [53]
network_profile = "udp"
pool = "web"
"""


@dataclass
class Client:
    """A flow, and what was sent of it."""

    source: bytes
    port: int
    protocol: int
    packets: int = 0
    size: int = 0
    """Bytes of all packets."""
    frames: list[bytes] = field(default_factory=list)

    def send(self, flags: int = 0, payload: bytes = b"") -> None:
        ports = struct.pack("!HH", self.port, 80 if self.protocol == 6 else 53)
        if self.protocol == 6:
            segment = ports + struct.pack("!IIBBHHH", 5, 7, 0x50, flags, 500, 1, 0) + payload
        else:
            segment = ports + struct.pack("!HH", 8 + len(payload), 1) + payload
        if len(self.source) == 16:
            packet = struct.pack("!IHBB", 6 << 28, len(segment), self.protocol, 64) + self.source + VIP6 + segment
            kind = b"\x86\xdd"
        else:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, self.protocol, 0)
            head += self.source + VIP4
            packet, kind = head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + segment, b"\x08\x00"
        self.packets += 1
        self.size += len(packet)
        self.frames.append(mac("d0") + mac("c0") + kind + packet)

    def hash64(self) -> int:
        ports = struct.pack("!HH", self.port, 80 if self.protocol == 6 else 53)
        vip = VIP6 if len(self.source) == 16 else VIP4
        words = flow_words(self.source, vip, ports, self.protocol, HashMode.FIVE_TUPLE)
        return pin_hash(derive_pin_keys(SECRET), words)

    @property
    def name(self) -> str:
        return f"{ip_address(self.source)} {self.port}"


class Director:
    def __init__(self, bench: Rig, folder: Path, plane: str) -> None:
        self.bench, self.folder, self.plane = bench, folder, plane
        self.socket = folder / "run" / "control.sock"
        (folder / "fleet.key").write_bytes(SECRET)
        self.write(1)
        words = bench.director.command(sys.executable, "-m", "appliance", "run", str(folder / "onward.toml"))
        self.process = subprocess.Popen(words, cwd=REPOSITORY)

    def write(self, one_of: int) -> None:
        text = CONFIG.format(plane=self.plane, folder=self.folder, one_of=one_of)
        (self.folder / "onward.toml").write_text(text)

    def reload(self, one_of: int) -> None:
        self.write(one_of)
        words = [sys.executable, "-m", "appliance", "reload", "--socket", str(self.socket)]
        subprocess.run(words, cwd=REPOSITORY, check=True)

    def serves(self) -> bool:
        try:
            members = ask(self.socket, "GET", "/v1/members")["members"]
        except OrderError:
            return False  # it has just started
        return len(members) == 2 and all(one["state"] == "in_rotation" for one in members)

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "flows.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def metrics(self) -> str:
        program = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
        return self.bench.director.run(sys.executable, "-c", program)

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


@pytest.fixture(params=["raw", "xdp"])
def director(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Director]:
    with rig(request.param) as bench:
        bench.member.ip("address add 203.0.113.12/24 dev s0")
        made = Director(bench, tmp_path, request.param)
        try:
            until(made.serves, "its members are in rotation", 60)
            yield made
        finally:
            if made.process.poll() is None:
                made.process.kill()
                made.process.wait()


def clients(rnd: random.Random, number: int) -> list[Client]:
    """Of both protocols and families, each different from all others."""
    made = []
    for port in rnd.sample(range(1024, 65536), number):
        six = rnd.random() < 0.3
        source = bytes.fromhex("20010db8") + rnd.randbytes(12) if six else bytes((192, 0, 2, rnd.randrange(1, 255)))
        made.append(Client(source, port, 6 if six else rnd.choice((6, 17))))
    return made


def test_what_is_logged_is_what_was_sent(director: Director) -> None:
    """Every flow once, with its packets, bytes, SYNs, end and member; then one of four, chosen as the hash says; then
    more flows than there is room for."""
    rnd, bench = random.Random(11), director.bench
    flows = clients(rnd, 60)
    ends = {}
    for one in flows:
        if one.protocol == 17:
            ends[one.name] = "idle"
            for _ in range(rnd.randrange(1, 4)):
                one.send(payload=rnd.randbytes(rnd.randrange(300)))
            continue
        ends[one.name] = end = rnd.choice(("fin", "rst", "director_stopped"))
        one.send(0x02)
        one.send(0x10)
        for _ in range(rnd.randrange(3)):
            one.send(0x18, rnd.randbytes(rnd.randrange(500)))
        if end != "director_stopped":
            one.send({"fin": 0x11, "rst": 0x14}[end])
    # All of a flow in order, but flows in between each other.
    left = [list(one.frames) for one in flows]
    while left:
        some = rnd.choice(left)
        bench.near.send(some.pop(0))
        left = [each for each in left if each]
    early = {name for name, end in ends.items() if end != "director_stopped"}
    until(
        lambda: {f"{line['client']} {line['client_port']}" for line in director.lines()} == early, "they are over", 30
    )

    code, said = promtool("check", "metrics", stdin=(text := director.metrics()))
    assert (code, said) == (0, ""), said
    assert f'onward_connection_log_flows_total{{result="written"}} {float(len(early))}' in text
    assert "onward_connection_log_missed_total 0.0" in text

    director.reload(4)
    many = clients(random.Random(12), 200)
    for one in many:
        one.send(0x10)
        bench.near.send(one.frames[0])
    bench.far.receive(0, 1.0)
    sent = sum(one.packets for one in flows) + len(many)
    until(lambda: packets_of(director) >= sent, "all are forwarded", 20)

    director.reload(1)
    flood = [Client(bytes((10, number >> 8, number & 255, 1)), 1024, 6) for number in range(2 * SETS * PLACES)]
    for one in flood:
        one.send(0x10)
    bench.near.send(*(one.frames[0] for one in flood))
    until(lambda: packets_of(director) >= sent + len(flood), "the flood is forwarded", 30)
    missed = value_of(director.metrics(), "onward_connection_log_missed_total")
    director.end()

    found = by_name(director)
    assert len(found) == len(director.lines())
    # Nobody is pushed out, and who finds no room is counted.
    logged = {name for name in found if name.startswith("10.")}
    assert len(logged) + missed == len(flood)
    assert SETS * PLACES / 2 < len(logged) < SETS * PLACES
    found = {name: line for name, line in found.items() if name not in logged}
    chosen = [one for one in many if one.hash64() & 0xFFFFFFFF < below(4)]
    assert set(found) == {one.name for one in [*flows, *chosen]}
    for one in flows:
        line = found[one.name]
        assert (line["packets"], line["bytes"], line["end"]) == (one.packets, one.size, ends[one.name]), one.name
        assert (line["syns"], line["moves"], line["service"]) == (int(one.protocol == 6), 0, line["service"])
        assert line["service"] == ("web" if one.protocol == 6 else "dns")
        assert line["member"] in ("web/web2", "web/web12")
        assert (line["handshake_ms"] is not None) == (one.protocol == 6)
        assert line["bytes_to_client"] is None
    assert {found[one.name]["one_of"] for one in chosen} == {4}


def by_name(director: Director) -> dict[str, dict[str, Any]]:
    return {f"{line['client']} {line['client_port']}": line for line in director.lines()}


def packets_of(director: Director) -> int:
    return value_of(director.metrics(), "onward_service_packets_total")


def value_of(metrics: str, name: str) -> int:
    """Of all samples of a metric together."""
    found = [line for line in metrics.splitlines() if line.startswith(name)]
    return sum(int(float(line.rpartition(" ")[2])) for line in found)
