"""Who takes part in the data-plane benchmark, how each is started, and the proof that it forwards what it should."""

import json
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from tests.bench.rig import DIRECTOR_CPU, FAMILIES, GENERATOR_CPU, HERE, BenchError, Family, Rig, mac, run

ROOT = HERE.parent.parent
API_PORT = 8080
"""Of the complete program, in its namespace."""

ETH_P_ALL = 3
PACKET_IGNORE_OUTGOING, SOL_PACKET = 23, 263


@dataclass(frozen=True)
class Setting:
    """What a director is configured for: it is started anew for each."""

    mode: Literal["l2", "l3"]
    family_name: Literal["v4", "v6"]

    @property
    def family(self) -> Family:
        return FAMILIES[self.family_name]

    def __str__(self) -> str:
        return f"{self.mode} {self.family_name}"


Process = subprocess.Popen[str]
Start = Callable[[Rig, Setting, ExitStack], Process | None]
"""Starts a contender; returns its process, None for the kernel itself. It ends with the stack."""


def start_ours(rig: Rig, setting: Setting, stack: ExitStack) -> Process:
    """The complete program, as an operator starts it."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onward-bench-")))
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    (folder / "fleet.key").chmod(0o600)
    (folder / "onward.toml").write_text(configuration(setting, folder))
    log = stack.enter_context((folder / "log").open("w+"))

    def show_log(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, BenchError):
            log.seek(0)
            print(log.read()[-3000:], file=sys.stderr)

    stack.push(show_log)
    program = [sys.executable, "-m", "appliance", "run", folder / "onward.toml"]
    return rig.start(stack, "director", program, cpu=DIRECTOR_CPU, ready=False, cwd=ROOT, stderr=log)


def configuration(setting: Setting, folder: Path) -> str:
    """A director with one virtual service, eight members and a health check of each: of its own address, since the
    members' machine takes nothing out of IP in IP, and whatever arrives there is compared with what was sent."""
    family = setting.family
    members = "\n".join(f'[[pool.member]]\nname = "m{i}"\naddress = "{a}"' for i, a in enumerate(family.members))
    return f"""\
schema_version = 1
[director]
name = "bench"
interfaces = ["d0"]
plane = "raw"
runtime_dir = "{folder}/run"
[api]
port = {API_PORT}
[fleet]
secret_file = "{folder}/fleet.key"
[[network_profile]]
name = "bench"
type = "udp_fast_path"
dsr = {{ type = "{setting.mode}" }}
[[health_monitor]]
name = "port"
type = "tcp"
vantage = "direct"
send_interval = 2
monitor_port = 80
successful_checks = 1
failed_checks = 3
[[pool]]
name = "bench"
hash = "five_tuple"
health_monitors = ["port"]
{members}
[[virtual_service]]
name = "bench"
vips = ["{family.vip}"]
ports = [80]
network_profile = "bench"
pool = "bench"
"""


def driver(rig: Rig, setting: Setting, stack: ExitStack, **more: object) -> Process:
    """Start tests/bench/driver.py.

    Args:
        more: further fields of its `Spec`.
    """
    links = json.loads(run("ip", "-j", "-n", rig.namespace("director"), "link", "show", "d1"))
    family = setting.family
    spec = {"vip": family.vip, "mode": setting.mode, "source": family.director_member,
            "members": family.members, "ifindex": links[0]["ifindex"], **more}  # fmt: skip
    program = [sys.executable, "-m", "tests.bench.driver", json.dumps(spec)]
    return rig.start(stack, "director", program, cpu=DIRECTOR_CPU, cwd=ROOT)


def start_plane(rig: Rig, setting: Setting, stack: ExitStack) -> Process:
    """Our data plane alone, without the program around it."""
    return driver(rig, setting, stack)


def _forwarder(program: list[object], rig: Rig, setting: Setting, stack: ExitStack) -> Process:
    """forward.c and naive.py take the same arguments; somebody else keeps the packets from the director's stack."""
    family = setting.family
    rig.start(stack, "director", [rig.programs / "hook", "d0", "vip", family.vip], cpu=GENERATOR_CPU)
    arguments = ["d0", "d1", family.vip, setting.mode, mac("s0").hex(":"), family.director_member, *family.members]
    return rig.start(stack, "director", [*program, *arguments], cpu=DIRECTOR_CPU)


def start_c(rig: Rig, setting: Setting, stack: ExitStack) -> Process:
    return _forwarder([rig.programs / "forward"], rig, setting, stack)


def start_naive(rig: Rig, setting: Setting, stack: ExitStack) -> Process:
    return _forwarder([sys.executable, HERE / "naive.py"], rig, setting, stack)


def start_kernel(rig: Rig, setting: Setting, stack: ExitStack) -> None:
    """Plain routing to one member: no hash, no table, no encapsulation."""
    family, namespace = setting.family, rig.namespace("director")
    run("ip", "-n", namespace, "route", "replace", family.vip, "via", family.members[0])
    stack.callback(run, "ip", "-n", namespace, "route", "del", family.vip)


CONTENDERS: dict[str, Start] = {"ours": start_ours, "c": start_c, "naive": start_naive, "kernel": start_kernel}


def start(name: str, rig: Rig, setting: Setting, stack: ExitStack, patience_s: float = 20.0) -> int | None:
    """Start a contender and wait until it forwards as it should: members must be found, and be seen healthy, first.

    Returns:
        Its process id, None for the kernel itself.

    Raises:
        BenchError: it ended, or it does not forward (or not rightly) after *patience_s*.
    """
    process = CONTENDERS[name](rig, setting, stack)
    end = time.monotonic() + patience_s
    while True:
        try:
            prove(name, rig, setting)
        except BenchError:
            if time.monotonic() > end:
                raise
        else:
            return process.pid if process else None
        if process and process.poll() is not None:
            raise BenchError(f"{name}, {setting}: it ended with exit code {process.poll()}")


def prove(name: str, rig: Rig, setting: Setting) -> None:
    """Send some good frames and some bad ones, and compare what arrives at the member.

    Raises:
        BenchError: a frame was changed wrongly, is missing, or arrived though it should not have.
    """
    chance = random.Random(1)
    good = [frame_to_vip(setting.family, 1024 + 7 * i, chance.choice((64, 65, 333, 1400))) for i in range(100)]
    bad = [
        frame_to_vip(setting.family, 9, 64, destination=setting.family.client),
        frame_to_vip(setting.family, 9, 64, damage="length"),
    ]
    if setting.family.version == 4:
        bad.append(frame_to_vip(setting.family, 9, 64, damage="checksum"))
    if name != "kernel":
        bad.append(frame_to_vip(setting.family, 9, 64, destination_port=81))
    arrived = _exchange(rig, setting, good + bad, len(good))
    mode = "routed" if name == "kernel" else setting.mode
    expected = {frame[54 if setting.family.version == 6 else 34 :][:2]: frame for frame in good}
    used = set()
    for frame in arrived:
        inner, member = _unwrapped(frame, setting, mode)
        used.add(member)
        port = inner[40:42] if setting.family.version == 6 else inner[20:22]
        sent = expected.pop(port, None)
        if sent is None:
            raise BenchError(f"{name}, {setting}: a frame arrived that should not have: {frame.hex()}")
        want = sent[14:] if mode == "l2" else _one_hop_further(sent[14:])
        if inner != want:
            raise BenchError(f"{name}, {setting}: the packet was changed\nis   {inner.hex()}\nwant {want.hex()}")
    if expected:
        raise BenchError(f"{name}, {setting}: {len(expected)} of {len(good)} frames did not arrive")
    if mode == "l3" and len(used) != len(setting.family.members):
        raise BenchError(f"{name}, {setting}: only {len(used)} members got anything")


def frame_to_vip(
    family: Family,
    port: int,
    length: int,
    *,
    destination: str = "",
    destination_port: int = 80,
    damage: Literal["length", "checksum"] | None = None,
) -> bytes:
    """A UDP frame of *length* bytes, built the long way round: nothing here is shared with what is being tested."""
    source, target = ip_address(family.client).packed, ip_address(destination or family.vip).packed
    ethernet = mac("d0") + mac("c0") + (b"\x08\x00" if family.version == 4 else b"\x86\xdd")
    size = length - 14 - (20 if family.version == 4 else 40)
    payload = bytes(i & 0xFF for i in range(size - 8))
    udp = struct.pack("!HHHH", port, destination_port, size, 0)
    if family.version == 4:
        total = length - 14 + (100 if damage == "length" else 0)
        header = struct.pack("!BBHHBBBBH4s4s", 0x45, 0, total, 0, 0x40, 0, 64, 17, 0, source, target)
        check = checksum(header) ^ (0x0101 if damage == "checksum" else 0)
        return ethernet + header[:10] + struct.pack("!H", check) + header[12:] + udp + payload
    check = checksum(source + target + struct.pack("!II", size, 17) + udp + payload) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", check)
    header = struct.pack("!IHBB16s16s", 6 << 28, size + (100 if damage == "length" else 0), 17, 64, source, target)
    return ethernet + header + udp + payload


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _one_hop_further(packet: bytes) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes((packet[7] - 1,)) + packet[8:]
    header = packet[:8] + bytes((packet[8] - 1,)) + packet[9:10] + b"\0\0" + packet[12:20]
    return header[:10] + struct.pack("!H", checksum(header)) + packet[12:20] + packet[20:]


def _unwrapped(frame: bytes, setting: Setting, mode: str) -> tuple[bytes, bytes]:
    """(the client's packet, the member it was wrapped for)."""
    v6 = setting.family.version == 6
    if frame[:14] != mac("s0") + mac("d1") + (b"\x86\xdd" if v6 else b"\x08\x00"):
        raise BenchError(f"{setting}: wrong Ethernet header {frame[:14].hex()}")
    packet = frame[14:]
    if mode != "l3":
        return packet, b""
    outer, inner = (packet[:40], packet[40:]) if v6 else (packet[:20], packet[20:])
    source, member = (outer[8:24], outer[24:40]) if v6 else (outer[12:16], outer[16:20])
    if v6:
        fine = outer[0] >> 4 == 6 and outer[4:8] == struct.pack("!HBB", len(inner), 41, 64)
    else:
        fine = outer[:2] == b"\x45\0" and outer[2:4] == struct.pack("!H", len(packet)) and outer[6:8] == b"\x40\0"
        fine = fine and outer[8:10] == bytes((64, 4)) and checksum(outer) == 0
    members = [ip_address(member).packed for member in setting.family.members]
    if not fine or source != ip_address(setting.family.director_member).packed or member not in members:
        raise BenchError(f"{setting}: wrong outer header {outer.hex()}")
    return inner, member


def _exchange(rig: Rig, setting: Setting, frames: list[bytes], want: int, patience_s: float = 0.5) -> list[bytes]:
    """Send frames from the client; returns the UDP and IP-in-IP frames that arrive at the member."""
    arrived = []
    with rig.socket("member", "s0", ETH_P_ALL) as member, rig.socket("client", "c0", 0) as client:
        member.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        for i, frame in enumerate(frames):
            client.send(frame)
            if i % 16 == 15:
                time.sleep(0.001)
        end = time.monotonic() + patience_s
        while (left := end - time.monotonic()) > 0:
            member.settimeout(left)
            try:
                frame = member.recv(2048)
            except TimeoutError:
                break
            protocol = frame[20] if frame[12:14] == b"\x86\xdd" else frame[23] if frame[12:14] == b"\x08\x00" else 0
            if protocol in {socket.IPPROTO_UDP, socket.IPPROTO_IPIP, socket.IPPROTO_IPV6}:
                arrived.append(frame)
                if len(arrived) == want:
                    end = time.monotonic() + 0.05  # there must not be more
    return arrived
