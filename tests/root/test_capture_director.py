"""A running director explains and captures: what it writes to the file is what comes by the wire, read by others; and
what it explains of each packet in the file is that, to the last byte."""

import json
import random
import struct
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import PcapNgReader, RawPcapNgReader

from appliance.cli.orders import OrderError, ask
from appliance.explain.question import Tcp, frame_of, packet_of
from appliance.model import Protocol
from appliance.packet.checksum import checksum
from appliance.ring.hash import FlowKey
from tests.netns import until
from tests.root.plane_rig import REPOSITORY, Rig, mac, rig
from tests.vectors_io import canonical

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

CONFIG = """
schema_version = 1

[director]
name = "d"
interfaces = ["d0"]
plane = "{plane}"
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"

[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
dsr = {{ type = "l3", encapsulation = "{encapsulation}" }}

[[network_profile]]
name = "udp"
type = "udp_fast_path"
dsr = {{ type = "l2" }}

[[pool]]
name = "web"
{members}
[[pool]]
name = "dns"
[[pool.member]]
name = "ns1"
address = "203.0.113.2"

[[virtual_service]]
name = "web"
vips = ["198.51.100.7", "2001:db8:f::7"]
ports = [80, "8000-8999"]
network_profile = "tcp"
pool = "web"

[[virtual_service]]
name = "dns"
vips = ["198.51.100.7"]
ports = [53]
network_profile = "udp"
pool = "dns"
"""
VIP = "198.51.100.7"


class Director:
    def __init__(self, bench: Rig, folder: Path) -> None:
        self.bench = bench
        self.socket = folder / "run" / "control.sock"
        words = bench.director.command(sys.executable, "-m", "appliance", "run", str(folder / "onward.toml"))
        self.process = subprocess.Popen(words, cwd=REPOSITORY)

    def await_forwarding(self) -> None:
        until(lambda: self.socket.exists() and self.ask(1)["forwarded"], "it forwards", 90)

    def onward(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "appliance", *words, "--socket", str(self.socket)]

    def run(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(self.onward(*words), cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def ask(self, port: int, tcp: Tcp = Tcp.SYN) -> Any:
        """What becomes of a packet of a client's, without starting a command for it."""
        key = FlowKey(ip_address("192.0.2.9"), ip_address(VIP), Protocol.TCP, port, 80)
        question = {"interface": None, "frames": [b64encode(frame_of(packet_of(key, 0, tcp))).decode()]}
        try:
            return ask(self.socket, "POST", "/v1/explain", question, timeout_s=30)["packets"][0]
        except OrderError:
            return {"forwarded": False}  # it has just started

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


@contextmanager
def director(bench: Rig, folder: Path, plane: str, encapsulation: str) -> Iterator[Director]:
    members = "".join(f'[[pool.member]]\nname = "web{n}"\naddress = "203.0.113.{n}"\n' for n in (2, 12, 13))
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    text = CONFIG.format(plane=plane, folder=folder, members=members, encapsulation=encapsulation)
    (folder / "onward.toml").write_text(text)
    made = Director(bench, folder)
    try:
        made.await_forwarding()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module", params=[("raw", "gre"), ("xdp", "ipip")], ids=lambda param: param[0])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    plane, encapsulation = request.param
    with rig(plane) as bench:
        for number in (12, 13):
            bench.member.ip(f"address add 203.0.113.{number}/24 dev s0")
        with director(bench, tmp_path_factory.mktemp(plane), plane, encapsulation) as made:
            yield made


def random_tuple(rnd: random.Random) -> bytes:
    """A packet from anywhere: to services mostly, and some to ports that none has."""
    version = rnd.choice((4, 4, 6))
    protocol = 6 if version == 6 else rnd.choice((6, 6, 17))
    port = 53 if protocol == 17 else rnd.choice((80, rnd.randrange(8000, 9000)))
    port = rnd.randrange(1, 65536) if rnd.random() < 0.05 else port
    ports = struct.pack("!HH", rnd.randrange(1, 65536), port)
    payload = rnd.randbytes(rnd.randrange(40))
    if protocol == 6:
        flags = rnd.choice((0x02, 0x10, 0x18, 0x11, 0x04))
        segment = ports + struct.pack("!IIBBHHH", rnd.randrange(1 << 32), 7, 0x50, flags, 500, 1, 0) + payload
    else:
        segment = ports + struct.pack("!HH", 8 + len(payload), 1) + payload
    if version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(segment), protocol, rnd.randrange(2, 255))
        head += bytes.fromhex("20010db8") + rnd.randbytes(12) + bytes.fromhex("20010db8000f0000" + "00" * 7 + "07")
        return mac("d0") + mac("c0") + b"\x86\xdd" + head + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, rnd.randrange(2, 255), protocol, 0)
    head += bytes((rnd.randrange(1, 100),)) + rnd.randbytes(3) + bytes((198, 51, 100, 7))
    return mac("d0") + mac("c0") + b"\x08\x00" + head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + segment


TUPLES = 10_000
"""On each plane."""


def test_explain_agrees_with_the_capture(running: Director, tmp_path: Path) -> None:
    """For ten thousand random tuples: as many in the file as were sent, each with the frame that came to the member's
    end of the wire; and explained to the same verdict, service, slot, member and bytes."""
    rnd, file, bench = random.Random(8), tmp_path / "all.pcapng", running.bench
    frames = list({random_tuple(rnd): None for _ in range(TUPLES)})
    bench.far.receive(0)
    words = running.onward("capture", str(file), "--count", str(len(frames)), "--seconds", "200")
    capture = subprocess.Popen(words, cwd=REPOSITORY)
    until(lambda: file.exists() and file.stat().st_size, "it captures", 20)
    wire = []
    for at in range(0, len(frames), 500):
        bench.near.send(*frames[at : at + 500])
        wire += bench.far.receive(0, 1.0, keep=lambda frame: frame[6:12] == mac("d1"))
    assert capture.wait(200) == 0
    with RawPcapNgReader(str(file)) as reader:
        found = [(data, meta.comments[0].decode(), meta.direction, meta.ifname) for data, meta in reader]
    arrived = [(data, comment) for data, comment, direction, name in found if (direction, name) == (1, b"d0")]
    left = [data for data, _, direction, name in found if (direction, name) == (2, b"d1")]
    assert sorted(data for data, _ in arrived) == sorted(frames)
    assert sorted(map(canonical, left)) == sorted(map(canonical, [frame for frame in wire if is_forwarded(frame)]))

    code, text = running.run("explain", "--pcap", str(file), "-o", "json")
    assert code == 0, text
    document = json.loads(text)
    assert len(document["packets"]) == len(arrived) > 0.99 * TUPLES
    sent = iter(left)
    for (_, comment), explained in zip(arrived, document["packets"], strict=True):
        assert explained["compared"] is True
        assert explained["differences"] == []
        assert comment.split()[0] == explained["verdict"]
        facts = dict(word.split("=") for word in comment.split()[1:])
        assert facts.get("reason") == explained["reason"]
        if explained["forwarded"]:
            assert facts["service"] == explained["virtual_service"]
            assert facts["member"] == explained["member"]["id"]
            assert int(facts["slot"]) == explained["slot"]
            ethernet, outer = taken_apart(next(sent))
            assert explained["out"][0][0]["destination"] == ethernet
            if explained["member"]["encapsulation"]:
                assert explained["out"][0][1]["destination"] == outer == explained["member"]["address"]
    assert next(sent, None) is None


def taken_apart(frame: bytes) -> tuple[str, str]:
    """Destinations of an Ethernet and of an IPv4 header."""
    return frame[:6].hex(":"), ".".join(map(str, frame[30:34]))


def is_forwarded(frame: bytes) -> bool:
    """Not a frame of the director's own: to a member, in a tunnel or for the VIP."""
    if frame[12:14] != b"\x08\x00":
        return False
    return frame[23] in (4, 41, 47) or (frame[23] == 17 and frame[30:34] == bytes((198, 51, 100, 7)))


def test_tcpdump_reads_it(running: Director, tmp_path: Path) -> None:
    """Outer and inner headers, and both directions; with filters, only what is wanted."""
    file, rnd = tmp_path / "some.pcapng", random.Random(9)
    frames = [random_tuple(rnd) for _ in range(200)]
    words = ("--verdict", "transmit", "--service", "web", "--member", "web/web2", "--count", "5", "--snaplen", "128")
    capture = subprocess.Popen(running.onward("capture", str(file), *words), cwd=REPOSITORY)
    until(lambda: file.exists() and file.stat().st_size, "it captures", 20)
    running.bench.near.send(*frames)
    assert capture.wait(60) == 0
    with PcapNgReader(str(file)) as reader:
        comments = [packet.comments[0].decode() for packet in reader]
    assert len(comments) == 10
    assert all("service=web member=web/web2" in comment for comment in comments)
    shown = subprocess.run(["tcpdump", "-nr", str(file)], capture_output=True, text=True, check=True).stdout
    assert shown.count(" > 203.0.113.2: ") == 5
    assert len(shown.splitlines()) == 10


def test_a_window_is_explained(running: Director) -> None:
    """After a drain, a connection that begins goes elsewhere than one that goes on, and that is remembered; nothing of
    it changes by asking."""
    port = next(port for port in range(40_000, 40_100) if running.ask(port)["member"]["id"] == "web/web2")
    flow = ("tcp", f"192.0.2.9:{port}", f"{VIP}:80")
    assert running.run("member", "drain", "web/web2")[0] == 0
    try:
        until(lambda: running.ask(port)["phase"] == "window", "the slots change hands", 20)
        for _ in range(2):
            begins, goes_on = running.ask(port), running.ask(port, Tcp.DATA)
            assert begins["by"] == "slot"
            assert begins["member"]["id"] == begins["primary"] != "web/web2"
            why = {one["member"]: one["why"] for one in begins["others"]}
            assert why["web/web2"].startswith("drain")
            assert (goes_on["by"], goes_on["member"]["id"], goes_on["pin"]) == ("previous", "web/web2", None)
        running.bench.near.send(data_of(port))
        until(lambda: running.ask(port, Tcp.DATA)["pin"], "the flow is remembered", 20)
        pinned = running.ask(port, Tcp.DATA)
        assert (pinned["by"], pinned["pin"]["member"], pinned["pin"]["counts"]) == ("pin", "web/web2", True)
        assert pinned["differences"] == []
        code, text = running.run("explain", *flow, "--kind", "data")
        assert code == 0
        assert "remembered       at web/web2, new, idle for " in text
        assert "window until" in text
    finally:
        assert running.run("member", "ready", "web/web2")[0] == 0


def test_the_maps_are_those_that_the_kernel_has(running: Director, request: pytest.FixtureRequest) -> None:
    """Of the program that forwards, with the memory that `status` has; the raw plane says that it has none."""
    code, text = running.run("bpf", "list", "--json")
    assert code == 0
    found = json.loads(text)
    if request.node.callspec.params["running"][0] == "raw":
        assert (found["program"], found["items"]) == (None, [])
        assert "No BPF program forwards here" in running.run("plane", "list")[1]
        return
    maps = {one["name"]: one for one in found["items"]}
    assert found["program"].startswith("balance")
    assert maps["slots"]["entries"] * maps["slots"]["value_bytes"] <= maps["slots"]["bytes"]
    plane = json.loads(running.run("status", "--json")[1])["plane"]
    assert f"{sum(one['bytes'] for one in maps.values()) / (1 << 20):.1f}" == plane["facts"]["map_memory_mib"]


def data_of(port: int) -> bytes:
    segment = struct.pack("!HHIIBBHHH", port, 80, 5, 7, 0x50, 0x10, 500, 1, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + bytes((192, 0, 2, 9, 198, 51, 100, 7))
    return mac("d0") + mac("c0") + b"\x08\x00" + head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + segment
