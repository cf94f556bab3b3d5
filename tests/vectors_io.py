"""Reading tests/vectors/*.json: packets and sequences of them for every data plane, hashes for every implementation."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from appliance.forwarding import (
    NO_CHOICES,
    NO_MEMBER,
    SLOTS,
    ChoiceArray,
    ChoiceOrder,
    ForwardingTables,
    NextHop,
    Placement,
    QuicServers,
    SlotArray,
    TableMember,
    TableService,
)
from appliance.model import (
    OUTER_TTL,
    Delivery,
    DfPolicy,
    DsrType,
    Encapsulation,
    HashMode,
    OuterSource,
    PortRange,
    Protection,
    Protocol,
    QuicConfig,
    Rate,
    TtlPolicy,
)
from appliance.packet.action import Action, By, Reason, Reply, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress
from appliance.packet.fragments import Waiting
from appliance.packet.headers import is_extension
from appliance.ring.hash import FlowKey
from appliance.ring.slots import RingMember, build_slots, pack

DIRECTORY = Path(__file__).parent / "vectors"
NOT_PACKETS = ("hash", "schema")
"""Files that have no packets in them."""


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
class Step:
    """Something that happens in the course of a sequence."""

    at: float
    """Seconds from its beginning."""

    tables: ForwardingTables | None
    """To be followed from now on. None: a frame arrives, or nothing does."""

    frame: bytes = b""
    action: Action | None = None
    """Of the frame; None when none arrives."""

    released: tuple[Action, ...] = ()
    """Of frames that need not wait any longer: for this one where there is one, else at all."""

    waited: bool = False
    """Whether the frame was held before, and is not to be held again."""


@dataclass(frozen=True)
class Sequence:
    """Frames one after the other, of which a data plane remembers something."""

    id: str
    """See `Vector`, as for what has the same name there."""

    sentence: str
    ingress: Ingress
    ident: int
    steps: tuple[Step, ...]


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
    """All packet vectors, in the order of their files' names."""
    return tuple(vector for path in packet_files() for vector in read(_load(path)))


@cache
def sequences() -> tuple[Sequence, ...]:
    """All sequences, in the order of their files' names."""
    return tuple(sequence for path in sequence_files() for sequence in read_sequences(_load(path)))


def packet_files() -> list[Path]:
    """The files with packet vectors."""
    return [path for path in _files() if "vectors" in _load(path)]


def sequence_files() -> list[Path]:
    """The files with sequences."""
    return [path for path in _files() if "sequences" in _load(path)]


def _files() -> list[Path]:
    return [path for path in sorted(DIRECTORY.glob("*.json")) if path.stem not in NOT_PACKETS]


@cache
def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def run_sequence(
    sequence: Sequence,
    wait: Callable[[float], None],
    follow: Callable[[ForwardingTables], None],
    forward: Callable[[Step], Action],
) -> str:
    """Hold a data plane that remembers nothing yet to a sequence.

    Args:
        sequence: what is to happen.
        wait: lets so many seconds pass for the plane.
        follow: gives it other tables.
        forward: gives it a step's frame; returns what it did with it.

    Returns:
        How what it did differs from what was expected; empty when it did right all the way.
    """
    now = 0.0
    waiting: Waiting[bytes] = Waiting()
    for number, step in enumerate(sequence.steps):
        if step.at > now:
            wait(step.at - now)
            now = step.at
        if step.tables is not None:
            follow(step.tables)
        elif text := _run_step(step, waiting, forward):
            return f"step {number}, at {step.at} s: {text}"
    return ""


def _run_step(step: Step, waiting: Waiting[bytes], forward: Callable[[Step], Action]) -> str:
    """A frame, if any, and those that need not wait any longer."""
    now_ns = round(step.at * 1e9)
    if step.action is None:
        released = waiting.due(now_ns)
    else:
        got = forward(step)
        if text := difference(step.action, got):
            return text
        if got.verdict is Verdict.HOLD and got.datagram is not None:
            waiting.add(got.datagram, step.frame, len(step.frame), now_ns)
        released = waiting.release(got.datagram) if got.verdict is Verdict.TRANSMIT and got.datagram else []
    if len(released) != len(step.released):
        return f"{len(released)} frames need not wait any longer, expected {len(step.released)}"
    for frame, action in zip(released, step.released, strict=True):
        if text := difference(action, forward(Step(step.at, None, frame, action, waited=step.action is None))):
            return f"one that was held: {text}"
    return ""


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

    What has decided on the member is compared where the plane tells. Two liberties are allowed that no receiver
    notices: bytes behind the IP packet (a plane that rewrites in place keeps the padding), and another identification
    in an outer IPv4 header that may be fragmented.
    """
    for name in ("verdict", "reason", "service", "member", "slot", "ifindex"):
        if getattr(expected, name) != getattr(got, name):
            return f"{name} is {getattr(got, name)}, expected {getattr(expected, name)}"
    if got.by not in (None, expected.by):
        return f"{got.by} has decided, expected {expected.by}"
    for wanted, made in zip_longest((expected.frame, *expected.further), (got.frame, *got.further), fillvalue=b""):
        if canonical(wanted) != canonical(made):
            return f"frame is\n{made.hex()}, expected\n{wanted.hex()}"
    if expected.reply != got.reply:
        return f"reply is\n{got.reply}, expected\n{expected.reply}"
    return ""


_GUE_PORT = (6080).to_bytes(2, "big")


def canonical(frame: bytes) -> bytes:
    """A frame out of a director without the liberties that `difference` allows."""
    ethertype = frame[12:14]
    if ethertype == b"\x86\xdd":
        return frame[: 54 + int.from_bytes(frame[18:20], "big")]
    if ethertype != b"\x08\x00":
        return frame
    frame = frame[: 14 + int.from_bytes(frame[16:18], "big")]
    tunnel = frame[23] in (4, 41, 47) or (frame[23] == 17 and frame[36:38] == _GUE_PORT)
    if tunnel and not frame[20] & 0x40 and checksum(frame[14:34]) == 0:
        head = frame[14:18] + bytes(2) + frame[20:24] + bytes(2) + frame[26:34]
        frame = frame[:14] + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + frame[34:]
    return frame


SMALL_FRAME = 68
"""Frames up to this size may have Ethernet's padding, two tags included, and the XDP program may leave it in place."""

_AFTER_LOOPS = (Reason.TTL_EXPIRED, Reason.TOO_BIG)
_PROTECTION = (Reason.DENIED, Reason.SERVICE_RATE, Reason.VIP_RATE, Reason.SOURCE_RATE)


def excuses(frame: bytes, action: Action, *, encrypted: bool = False, rejecting: bool = False) -> set[str]:
    """The ways to the slow path that the XDP program may take with a frame, by their names in `enum exit`.

    There are none for plain packets, which the program has to decide, nor for what it has to leave to the kernel.

    Args:
        frame: for a VIP or not.
        action: what the reference does with it.
        encrypted: whether some service's connection IDs are, so that the program cannot read them.
        rejecting: whether a VIP answers on ports that no service has.
    """
    if action.verdict is Verdict.PASS or action.reason is Reason.OVERSIZED_FRAME:
        return set()
    found = set()
    if action.reason in _AFTER_LOOPS:
        found.add(f"slow_{action.reason}")
    if action.further:
        found.add("slow_too_big")
    if rejecting and action.reason is Reason.NO_SERVICE:
        found.add("slow_refused")
    offset = 12
    while frame[offset : offset + 2] in (b"\x81\x00", b"\x88\xa8"):
        offset += 4
    packet = frame[offset + 2 :]
    if frame[offset : offset + 2] == b"\x08\x00":
        protocol, length, icmp = packet[9], int.from_bytes(packet[2:4], "big"), 1
        if 0x46 <= packet[0] <= 0x4F:
            found.add("slow_options")
        if int.from_bytes(packet[6:8], "big") & 0x3FFF:
            found.add("slow_fragment")
    else:
        protocol, length, icmp = packet[6], 40 + int.from_bytes(packet[4:6], "big"), 58
        if is_extension(protocol):
            found.add("slow_extension_header")
    if protocol == icmp:
        found.add("slow_icmp")
    if protocol == Protocol.UDP and encrypted:
        found.add("slow_quic")
    judged_last = action.verdict is Verdict.TRANSMIT or action.reason in (*_AFTER_LOOPS, *_PROTECTION, Reason.NO_MEMBER)
    if judged_last and len(frame) > SMALL_FRAME and len(packet) > length:
        found.add("slow_trailer")
    return found


def read(text: dict[str, Any]) -> list[Vector]:
    """The vectors of a file's JSON text."""
    tables = {name: read_tables(raw) for name, raw in text["tables"].items()}
    return [_vector(raw, tables) for raw in text["vectors"]]


def read_sequences(text: dict[str, Any]) -> list[Sequence]:
    """The sequences of a file's JSON text."""
    tables = {name: read_tables(raw) for name, raw in text["tables"].items()}
    return [
        Sequence(
            id=raw["id"],
            sentence=raw["sentence"],
            ingress=read_ingress(raw["ingress"]),
            ident=raw["ident"],
            steps=tuple(_step(step, tables) for step in raw["steps"]),
        )
        for raw in text["sequences"]
    ]


def write_action(action: Action) -> dict[str, Any]:
    """An action as it stands in a file."""
    raw: dict[str, Any] = {"verdict": str(action.verdict)}
    if action.reason is not None:
        raw["reason"] = str(action.reason)
    for name in ("service", "member", "slot"):
        if getattr(action, name) is not None:
            raw[name] = getattr(action, name)
    if action.by is not None:
        raw["by"] = str(action.by)
    if action.verdict is Verdict.TRANSMIT:
        raw |= {"ifindex": action.ifindex, "frame": action.frame.hex()}
    if action.further:
        raw["further"] = [frame.hex() for frame in action.further]
    if action.reply is not None:
        raw["reply"] = {"frame": action.reply.frame.hex(), "kind": action.reply.kind}
    return raw


def _vector(raw: dict[str, Any], tables: dict[str, ForwardingTables]) -> Vector:
    return Vector(
        id=raw["id"],
        sentence=raw["sentence"],
        tables=tables[raw["tables"]],
        ingress=read_ingress(raw["ingress"]),
        ident=raw["ident"],
        frame=bytes.fromhex(raw["frame"]),
        action=read_action(raw["action"]),
    )


def _step(raw: dict[str, Any], tables: dict[str, ForwardingTables]) -> Step:
    if "set" in raw:
        return Step(raw["at"], tables[raw["set"]])
    released = tuple(map(read_action, raw.get("released", ())))
    if "frame" not in raw:
        return Step(raw["at"], None, released=released)
    return Step(raw["at"], None, bytes.fromhex(raw["frame"]), read_action(raw["action"]), released)


def read_action(raw: dict[str, Any]) -> Action:
    """The reverse of `write_action`."""
    reply = raw.get("reply")
    return Action(
        verdict=Verdict(raw["verdict"]),
        reason=Reason(raw["reason"]) if "reason" in raw else None,
        frame=bytes.fromhex(raw.get("frame", "")),
        further=tuple(map(bytes.fromhex, raw.get("further", ()))),
        ifindex=raw.get("ifindex", 0),
        service=raw.get("service"),
        member=raw.get("member"),
        slot=raw.get("slot"),
        by=By(raw["by"]) if "by" in raw else None,
        reply=Reply(bytes.fromhex(reply["frame"]), reply["kind"]) if reply else None,
    )


def read_ingress(raw: dict[str, Any]) -> Ingress:
    return Ingress(raw["ifindex"], _mac(raw["mac"]), raw["mtu"])


def read_tables(raw: dict[str, Any]) -> ForwardingTables:
    """The forwarding tables that a file describes."""
    slots = {name: _slots(description) for name, description in raw["slots"].items()}
    members = [_member(member.get("index", number), member) for number, member in enumerate(raw["members"])]
    services = [
        TableService(
            index=index,
            name=service["name"],
            vip=ip_address(service["vip"]),
            protocol=Protocol[service["protocol"].upper()],
            ports=tuple(PortRange(*ports) for ports in service["ports"]),
            hash_mode=HashMode(service["hash"]),
            slots=slots[service["slots"]],
            idle_timeout_s=service.get("idle_timeout", 300),
            placement=Placement(service.get("placement", "hash")),
            choice_order=ChoiceOrder(service.get("choice_order", "sequence")),
            choices=_choices(tuple(service.get("choices", ()))),
            protection=_protection(service["protection"]) if "protection" in service else None,
            quic=tuple(map(_quic, service.get("quic", ()))),
            rejects=service.get("rejects", False),
        )
        for index, service in enumerate(raw["services"])
    ]
    return ForwardingTables(
        bytes.fromhex(raw["secret"]),
        tuple(services),
        {member.index: member for member in members},
        frozenset(map(ip_address, raw.get("answering", ()))),
    )


def _protection(raw: dict[str, Any]) -> Protection:
    rates = {name: Rate(**raw[name]) for name in ("per_source", "per_vip", "per_service") if name in raw}
    deny, allow = (tuple(map(ip_network, raw.get(name, ()))) for name in ("deny", "allow"))
    return Protection(deny, allow, **rates)


def _quic(raw: dict[str, Any]) -> QuicServers:
    key = bytes.fromhex(raw["key"]) if "key" in raw else None
    config = QuicConfig(
        raw["config_id"],
        raw["server_id_length"],
        raw["nonce_length"],
        key,
        encode_length=raw.get("encode_length", False),
    )
    return QuicServers(config, {bytes.fromhex(name): index for name, index in raw["servers"].items()})


def _member(index: int, raw: dict[str, Any]) -> TableMember:
    hop = raw["next_hop"]
    encapsulation = Encapsulation(raw["encapsulation"]) if "encapsulation" in raw else None
    return TableMember(
        index=index,
        id=raw["id"],
        address=ip_address(raw["address"]),
        delivery=Delivery(
            DsrType.L3 if encapsulation else DsrType.L2,
            encapsulation,
            TtlPolicy(raw.get("ttl", "router")),
            DfPolicy(raw.get("outer_df", "copy_inner")),
            raw.get("outer_ttl", OUTER_TTL),
            OuterSource.PREFIX if "outer_prefix" in raw else OuterSource.INTERFACE,
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
        path_mtu=raw.get("path_mtu"),
        outer_prefix=ip_network(raw["outer_prefix"]) if "outer_prefix" in raw else None,
    )


def _slots(description: dict[str, Any]) -> SlotArray:
    """From `{"all": index}`, `{"cycle": [index, ...]}`, `{"none": true}`, `{"ring": members}`: see README.md."""
    size = description.get("size", SLOTS)
    match description:
        case {"ring": list(members)}:
            return build_slots(tuple(RingMember(**member) for member in members))
        case {"cycle": list(indices)}:
            primary = _cycle(indices, size)
        case {"all": int(index)}:
            primary = np.full(SLOTS, index, np.uint32)
        case {"none": True}:
            primary = np.full(SLOTS, NO_MEMBER, np.uint32)
        case _:
            raise ValueError(f"slots of a vector file: {description} is none of all, cycle, none, ring")
    previous = _cycle(description["previous"], size) if "previous" in description else primary
    slots = pack(primary, previous)
    slots.flags.writeable = False
    return slots


@cache
def _choices(indices: tuple[int, ...]) -> ChoiceArray:
    """The same choices are the same array, as in tables that follow one another."""
    choices = np.array(indices, np.uint16)
    choices.flags.writeable = False
    return choices if indices else NO_CHOICES


def _cycle(indices: list[int], size: int) -> SlotArray:
    return np.array(indices, np.uint32)[np.arange(size) % len(indices)]


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
