"""Reading tests/vectors/*.json: packet vectors for every data plane, hash vectors for every implementation."""

import json
import struct
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np

from appliance.forwarding import (
    NO_MEMBER,
    SLOTS,
    ForwardingTables,
    NextHop,
    SlotArray,
    TableMember,
    TableService,
)
from appliance.model import Delivery, DsrType, Encapsulation, HashMode, PortRange, Protocol, TtlPolicy
from appliance.packet.action import Action, Reason, Reply, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress
from appliance.ring.hash import FlowKey
from appliance.ring.slots import RingMember, build_slots, pack

DIRECTORY = Path(__file__).parent / "vectors"
PACKET_FILES = ("l2", "ipip", "parsing", "services", "fragments", "mtu", "icmp")


@dataclass(frozen=True)
class Vector:
    id: str
    """Unique; begins with the id of the row in packets.md where there is one."""

    sentence: str
    tables: ForwardingTables
    """The same object for all vectors of a file that share it."""

    ingress: Ingress
    ident: int
    """Identification to give to an outer packet that may be fragmented."""

    frame: bytes
    action: Action


@dataclass(frozen=True)
class HashVector:
    secret: bytes
    key: FlowKey
    mode: HashMode
    words: tuple[int, ...]
    hash32: int
    slot: int
    """Of SLOTS."""


@cache
def packet_vectors() -> tuple[Vector, ...]:
    """All packet vectors, in the order of their files."""
    return tuple(vector for name in PACKET_FILES for vector in _read_file(DIRECTORY / f"{name}.json"))


@cache
def hash_vectors() -> tuple[HashVector, ...]:
    """The published values of the flow hash."""
    return tuple(
        HashVector(
            secret=bytes.fromhex(raw["secret"]),
            key=FlowKey(
                ip_address(raw["source"]),
                ip_address(raw["destination"]),
                raw["protocol"],
                raw["source_port"],
                raw["destination_port"],
            ),
            mode=HashMode(raw["mode"]),
            words=tuple(int(word, 16) for word in raw["words"]),
            hash32=int(raw["hash32"], 16),
            slot=raw["slot"],
        )
        for raw in json.loads((DIRECTORY / "hash.json").read_text())["vectors"]
    )


def difference(expected: Action, got: Action) -> str:
    """How what a data plane did differs from a vector's action; empty when it did right.

    Two liberties are allowed that no receiver notices: bytes behind the IP packet (a plane that rewrites in place keeps
    the padding), and another identification in an outer IPv4 header that may be fragmented.
    """
    for name in ("verdict", "reason", "service", "member", "slot", "ifindex"):
        if getattr(expected, name) != getattr(got, name):
            return f"{name} is {getattr(got, name)}, expected {getattr(expected, name)}"
    if canonical(expected.frame) != canonical(got.frame):
        return f"frame is\n{got.frame.hex()}, expected\n{expected.frame.hex()}"
    if expected.reply != got.reply:
        return f"reply is\n{got.reply}, expected\n{expected.reply}"
    return ""


def canonical(frame: bytes) -> bytes:
    """A frame out of a director without the liberties that `difference` allows."""
    ethertype = frame[12:14]
    if ethertype == b"\x86\xdd":
        return frame[: 54 + int.from_bytes(frame[18:20], "big")]
    if ethertype != b"\x08\x00":
        return frame
    frame = frame[: 14 + int.from_bytes(frame[16:18], "big")]
    encapsulated = frame[23] in (4, 41)
    if encapsulated and not frame[20] & 0x40:
        head = frame[14:18] + bytes(2) + frame[20:24] + bytes(2) + frame[26:34]
        frame = frame[:14] + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + frame[34:]
    return frame


def _read_file(path: Path) -> list[Vector]:
    text = json.loads(path.read_text())
    tables = {name: _tables(raw) for name, raw in text["tables"].items()}
    return [_vector(raw, tables) for raw in text["vectors"]]


def _vector(raw: dict[str, Any], tables: dict[str, ForwardingTables]) -> Vector:
    ingress, action = raw["ingress"], raw["action"]
    reply = action.get("reply")
    return Vector(
        id=raw["id"],
        sentence=raw["sentence"],
        tables=tables[raw["tables"]],
        ingress=Ingress(ingress["ifindex"], _mac(ingress["mac"]), ingress["mtu"]),
        ident=raw["ident"],
        frame=bytes.fromhex(raw["frame"]),
        action=Action(
            verdict=Verdict(action["verdict"]),
            reason=Reason(action["reason"]) if "reason" in action else None,
            frame=bytes.fromhex(action.get("frame", "")),
            ifindex=action.get("ifindex", 0),
            service=action.get("service"),
            member=action.get("member"),
            slot=action.get("slot"),
            reply=Reply(bytes.fromhex(reply["frame"]), reply["kind"]) if reply else None,
        ),
    )


def _tables(raw: dict[str, Any]) -> ForwardingTables:
    slots = {name: _slots(description) for name, description in raw["slots"].items()}
    members = [_member(index, member) for index, member in enumerate(raw["members"])]
    services = [
        TableService(
            index=index,
            name=service["name"],
            vip=ip_address(service["vip"]),
            protocol=Protocol[service["protocol"].upper()],
            ports=tuple(PortRange(*ports) for ports in service["ports"]),
            hash_mode=HashMode(service["hash"]),
            slots=slots[service["slots"]],
        )
        for index, service in enumerate(raw["services"])
    ]
    return ForwardingTables(bytes.fromhex(raw["secret"]), tuple(services), {member.index: member for member in members})


def _member(index: int, raw: dict[str, Any]) -> TableMember:
    hop = raw["next_hop"]
    encapsulation = Encapsulation(raw["encapsulation"]) if "encapsulation" in raw else None
    return TableMember(
        index=index,
        id=raw["id"],
        address=ip_address(raw["address"]),
        delivery=Delivery(
            DsrType.L3 if encapsulation else DsrType.L2, encapsulation, TtlPolicy(raw.get("ttl", "router"))
        ),
        next_hop=NextHop(
            ifindex=hop["ifindex"],
            interface=hop["interface"],
            source_mac=_mac(hop["source_mac"]),
            mac=_mac(hop["mac"]),
            mtu=hop["mtu"],
            source=ip_address(hop["source"]),
            direct=hop["direct"],
        ),
    )


def _slots(description: dict[str, Any]) -> SlotArray:
    """From `{"all": index}`, `{"cycle": [index, ...]}`, `{"none": true}`, `{"ring": members}`: see README.md."""
    match description:
        case {"ring": list(members)}:
            return build_slots(tuple(RingMember(**member) for member in members))
        case {"cycle": list(indices)}:
            primary = np.resize(np.array(indices, np.uint32), SLOTS)
        case {"all": int(index)}:
            primary = np.full(SLOTS, index, np.uint32)
        case {"none": True}:
            primary = np.full(SLOTS, NO_MEMBER, np.uint32)
        case _:
            raise ValueError(f"slots of a vector file: {description} is none of all, cycle, none, ring")
    slots = pack(primary, primary)
    slots.flags.writeable = False
    return slots


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
