"""Another director's XDP program, held to the vectors that need no memory. `README.md` beside the vectors describes it.

What another director cannot know is left out or not looked at: which member its own hash would choose (so only tables
where one member owns every slot), what it counts and calls things, and the bits of an outer header that follow from the
hash. What remains is what arrives at a member, byte for byte, and what must not.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from appliance.bpf.libbpf import Object, TestRunner
from appliance.dataplane.xdp.program import LONGEST_TEST_FRAME
from appliance.forwarding import ForwardingTables, Placement, TableMember
from appliance.model import DfPolicy, DsrType, Encapsulation
from appliance.packet.action import Verdict
from appliance.packet.forward import Ingress
from appliance.packet.headers import ETH_IPV6
from tests.vectors_io import Vector, canonical, packet_vectors

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4


class Adapter(Protocol):
    """What has to be known of a program. One for each kind; registered in ADAPTERS."""

    section: str
    """Name of the program in the object."""

    def prepare(self, opened: Object) -> None:
        """Before the object is loaded: size its maps, set its constants."""

    def able(self, vector: Vector, member: TableMember) -> str:
        """Why it cannot be held to a vector, in a few words that are counted; empty when it can.

        Args:
            vector: of those that need no memory.
            member: the one that all flows of its tables go to.
        """

    def fill(self, loaded: Object, tables: ForwardingTables, ingress: Ingress) -> None:
        """Make these the tables in force, instead of those before; packets arrive by that interface."""


@dataclass
class Result:
    held: int = 0
    """Vectors that were tried."""
    failures: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """By reason."""


def hold(compiled: Path, adapter: Adapter) -> Result:
    """Hold a program to all vectors that it can be held to.

    Raises:
        BpfError: it cannot be loaded, or has not what the adapter looks for.
    """
    result = Result()
    with closing(Object(compiled)) as loaded:
        loaded.only(adapter.section)
        adapter.prepare(loaded)
        loaded.load()
        runner = TestRunner(loaded.program(adapter.section), LONGEST_TEST_FRAME)
        for vector, member in without_memory(result):
            if why := adapter.able(vector, member):
                result.left_out[why] += 1
                continue
            adapter.fill(loaded, vector.tables, vector.ingress)
            run = runner.run(vector.frame)
            result.held += 1
            if text := differs(vector, run.verdict, run.frame):
                result.failures.append(f"{vector.id}: {text}\n    {vector.sentence}")
    return result


def without_memory(result: Result) -> Iterator[tuple[Vector, TableMember]]:
    """The vectors that any director can be asked, and the member of each; the others are counted."""
    known: dict[int, TableMember | None] = {}  # by identity: vectors of a file share tables
    for vector in packet_vectors():
        if id(vector.tables) not in known:
            known[id(vector.tables)] = the_member(vector.tables)
        member = known[id(vector.tables)]
        if not 14 <= len(vector.frame) <= LONGEST_TEST_FRAME:
            result.left_out["too short or too long for a test run"] += 1
        elif member is None:
            result.left_out["which member it is depends on the hash, or nobody is"] += 1
        elif vector.action.reply is not None or vector.action.further:
            result.left_out["it takes an answer, or more than one packet"] += 1
        elif any(service.quic for service in vector.tables.services):
            result.left_out["connection IDs of QUIC"] += 1
        else:
            yield vector, member


def the_member(tables: ForwardingTables) -> TableMember | None:
    """The member that owns every slot of every service; None where there is none."""
    owners: set[int] = set()
    for service in tables.services:
        if service.placement is not Placement.HASH:
            return None
        owners |= set(np.unique(service.slots & 0xFFFF).tolist()) | set(np.unique(service.slots >> 16).tolist())
    return tables.members.get(owners.pop()) if len(owners) == 1 else None


def differs(vector: Vector, verdict: int, frame: bytes) -> str:
    """How what a program did differs from a vector; empty where it does not."""
    wanted = vector.action
    names = {XDP_DROP: "drop", XDP_PASS: "pass", XDP_TX: "transmit", XDP_REDIRECT: "transmit"}
    got = names.get(verdict, f"XDP verdict {verdict}")
    if got != wanted.verdict:
        return f"{got}, expected {wanted.verdict} {wanted.reason or ''}".rstrip()
    if wanted.verdict is Verdict.TRANSMIT and without_hash(frame) != without_hash(wanted.frame):
        return f"frame is\n    {frame.hex()}, expected\n    {wanted.frame.hex()}"
    if wanted.verdict is Verdict.PASS and frame != vector.frame:
        return f"passed, and changed to\n    {frame.hex()}"
    return ""


def without_hash(frame: bytes) -> bytes:
    """The canonical form without the outer flow label: it follows from the hash."""
    frame = canonical(frame)
    if frame[12:14] == ETH_IPV6.to_bytes(2, "big") and len(frame) > 21 and frame[20] in (4, 41, 47):
        return frame[:15] + bytes((frame[15] & 0xF0, 0, 0)) + frame[18:]
    return frame


class Simple:
    """For `simple.bpf.c` beside this file: a small director of the usual form (a hash map of VIPs, an array of real
    servers, IP in IP), which we have written for this test. It shows how little an adapter is; it is no other project's
    program, and says nothing about any."""

    section = "director"

    def prepare(self, opened: Object) -> None:
        """Its maps have the size that they have."""

    def able(self, vector: Vector, member: TableMember) -> str:
        delivery, action = member.delivery, vector.action
        if delivery.dsr_type is not DsrType.L3 or delivery.encapsulation is not Encapsulation.IPIP:
            return "it knows IP in IP only"
        if delivery.outer_df is not DfPolicy.COPY_INNER or delivery.ttl.value != "router" or member.outer_prefix:
            return "it has no such settings"
        if member.path_mtu is not None:
            return "it learns nothing of the way to its server"
        if any(other.delivery.dsr_type is DsrType.L2 for other in vector.tables.members.values()):
            return "it knows IP in IP only"
        if vector.frame[12:14] not in (b"\x08\x00", b"\x86\xdd") and action.verdict is not Verdict.PASS:
            return "it knows no VLAN tags"
        if _takes_more(vector.frame):
            return "it leaves options, fragments, extension headers and ICMP to somebody else"
        if any(ports.width > 1 for service in vector.tables.services for ports in service.ports):
            return "it knows no ranges of ports"
        return ""

    def fill(self, loaded: Object, tables: ForwardingTables, ingress: Ingress) -> None:
        vips, reals, here = loaded.map("vips"), loaded.map("reals"), loaded.map("here")
        for key in list(vips.keys()):
            vips.delete(key)
        member = the_member(tables)
        if member is None:
            raise ValueError("tables without one member for all")
        for vip in tables.vips:  # port and protocol 0: it is a VIP
            vips.update(struct.pack("=16sHHI", vip.packed.ljust(16, b"\0"), 0, 0, vip.version), struct.pack("=I", 0))
        for service in tables.services:
            key = service.vip.packed.ljust(16, b"\0")
            for ports in service.ports:
                port = struct.pack("!H", ports.first)
                vips.update(
                    key + port + struct.pack("=HI", service.protocol, service.vip.version), struct.pack("=I", 1)
                )
        hop = member.next_hop
        macs = hop.mac + hop.source_mac
        addresses = hop.source.packed.ljust(16, b"\0") + member.address.packed.ljust(16, b"\0")
        rest = struct.pack("=BBH", member.address.version, member.delivery.outer_ttl, min(member.inner_mtu, 0xFFFF))
        reals.update(struct.pack("=I", 0), macs + rest + addresses)
        own = {hop.source_mac, *(one.next_hop.source_mac for one in tables.members.values()), ingress.mac}
        loops = b"".join(sorted(own)).ljust(24, b"\0")[:24]
        here.update(struct.pack("=I", 0), ingress.mac + bytes(2) + struct.pack("=I", ingress.mtu) + loops)


def _takes_more(frame: bytes) -> bool:
    """Whether a packet is one of those that a small director does not look into."""
    packet = frame[14:]
    if frame[12:14] == b"\x08\x00":
        return len(packet) >= 20 and (
            0x46 <= packet[0] <= 0x4F or packet[9] not in (6, 17) or bool(int.from_bytes(packet[6:8], "big") & 0x3FFF)
        )
    return frame[12:14] == b"\x86\xdd" and len(packet) >= 40 and packet[6] not in (6, 17)


ADAPTERS: dict[str, type[Adapter]] = {"simple": Simple}
"""By the name that `--adapter` takes."""
