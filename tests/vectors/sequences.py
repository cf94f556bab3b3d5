"""Writes the files of sequences beside it: `python tests/vectors/sequences.py`. Same output every time.

Where each packet goes is written down twice: by hand, packet for packet, and by the small model below, which is made
from packets.md, section 7. They have to agree before anything is written. Nothing of the appliance is imported.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from generate import (
    CLIENT,
    HERE,
    INGRESS,
    SLOTS,
    VIP,
    dropped,
    exceeded,
    flow_hash,
    flow_of,
    icmp_reply,
    ip,
    ipip_member,
    l2_member,
    l2_out,
    segment,
    service,
    tables,
    tag,
    too_big,
    tunnel_out,
)
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6ExtHdrFragment
from scapy.packet import Raw

NOBODY = 0xFFFF
HELD = "held"
PORT = {"tcp": 80, "udp": 53}
NUMBER = {"tcp": 6, "udp": 17}

Key = tuple[str, str, int, int, int]


# ---- the model ------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """What is remembered of a flow."""

    member: int
    state: str
    used: float


@dataclass
class Memory:
    """Flows and turns, and the rules that both obey. Times in seconds."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    turns: dict[tuple[str, str], int] = field(default_factory=dict)
    datagrams: dict[tuple[str, int], tuple[int, int, float]] = field(default_factory=dict)
    """Of datagrams whose first fragment was sent: its member, its source port, and when."""

    def live(self, key: Key, idle: float, members: set[int], now: float) -> Entry | None:
        entry = self.entries.get(key)
        if entry is None or entry.member not in members:
            return None
        lifetime = {"RST": 2.0, "FIN": min(idle or 60.0, 60.0)}.get(entry.state, idle or float("inf"))
        return entry if now - entry.used <= lifetime else None

    def next_choice(self, rules: dict[str, Any]) -> int:
        choices = rules["choices"]
        if not choices:
            return NOBODY
        name = rules["name"], rules["vip"]
        at = self.turns.get(name, 0)
        self.turns[name] = (at + 1) % len(choices)
        return int(choices[at])

    def place(
        self,
        key: Key,
        kind: str,
        word: tuple[int, int],
        rules: dict[str, Any],
        members: set[int],
        now: float,
        sent: bool,
    ) -> tuple[int, str]:
        """Who takes a packet, and why; *sent*: whether it will go out, for only then it is remembered."""
        primary, previous = word
        fall, why = (primary, "slot") if previous in (NOBODY, primary) else (previous, "previous")
        placement = rules.get("placement", "hash")
        if kind == "PIECE":
            return fall, why
        if placement == "per_packet":
            return (self.next_choice(rules), "choice") if kind == "UDP" else (fall, why)
        if placement == "hash" and primary == previous:
            return primary, "slot"

        def remember(member: int, state: str) -> None:
            if sent and member != NOBODY:
                self.entries[key] = Entry(member, state, now)

        entry = self.live(key, rules.get("idle_timeout", 300), members, now)
        if kind == "SYN":
            if entry and entry.state in ("NEW", "OPEN") and now - entry.used < 3:
                return entry.member, "pin"
            to, why = (self.next_choice(rules), "choice") if placement == "per_flow" else (primary, "slot")
            remember(to, "NEW")
            return to, why
        if entry:
            order = ("NEW", "OPEN", "FIN", "RST")
            said = {"PLAIN": "OPEN", "UDP": "OPEN", "FIN": "FIN", "RST": "RST"}.get(kind)
            if said:
                remember(entry.member, max(said, entry.state, key=order.index))
            return entry.member, "pin"
        if placement == "per_flow" and kind == "UDP":
            to, why = self.next_choice(rules), "choice"
            remember(to, "NEW")
            return to, why
        if kind in ("PLAIN", "UDP", "FIN"):
            remember(fall, "FIN" if kind == "FIN" else "NEW")
        return fall, why


# ---- packets --------------------------------------------------------------------------------------------------------

KINDS = {"S": "SYN", "A": "PLAIN", "PA": "PLAIN", "FA": "FIN", "F": "FIN", "R": "RST", "RA": "RST"}
"""Kinds by TCP flags, as Scapy writes them; all others are odd."""


@dataclass(frozen=True)
class Way:
    """How members are reached, and by which IP version clients come."""

    version: int
    delivery: str

    @property
    def name(self) -> str:
        return f"ipv{self.version}-{self.delivery}"

    def member(self, number: int) -> dict[str, Any]:
        if self.delivery == "l2":
            return l2_member(31 + number)
        return ipip_member(31 + number, 4 if self.delivery == "over4" else 6)


WAYS = (Way(4, "l2"), Way(6, "l2"), Way(4, "over4"), Way(6, "over6"))
MIXED = (Way(4, "over6"), Way(6, "over4"))


class File:
    def __init__(self, name: str, about: str) -> None:
        self.name, self.about = name, about
        self.tables: dict[str, dict[str, Any]] = {}
        self.sequences: list[dict[str, Any]] = []

    def write(self) -> None:
        text = {"about": self.about, "tables": self.tables, "sequences": self.sequences}
        (HERE / f"{self.name}.json").write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")
        print(f"{self.name}.json  {len(self.sequences)} sequences")


class Sequence:
    """Packets one after the other, to one kind of members by one IP version."""

    def __init__(self, file: File, way: Way, name: str, sentence: str) -> None:
        self._file, self._way = file, way
        self._memory, self._now = Memory(), 0.0
        self._steps: list[dict[str, Any]] = []
        self._set: dict[str, Any] = {}
        self._held: list[tuple[tuple[str, int], str, int, Callable[[int], bytes]]] = []
        self._buckets: dict[tuple[str, Any], tuple[float, float]] = {}
        head, _, tail = name.partition("-")
        raw = {
            "id": "-".join(part for part in (head, way.name, tail) if part),
            "sentence": sentence,
            "ingress": INGRESS,
            "ident": 0x4242,
        }
        file.sequences.append(raw | {"steps": self._steps})

    def after(self, seconds: float) -> None:
        """Time passes."""
        self._now = round(self._now + seconds, 3)

    def set(
        self,
        primary: int | list[int],
        previous: int | list[int] | None = None,
        *,
        without: tuple[int, ...] = (),
        mode: str = "five_tuple",
        idle: int | None = None,
        **more: Any,
    ) -> None:
        """Other tables. What is said of services is said of all."""
        owners = primary if isinstance(primary, list) else [primary]
        slots: dict[str, Any] = {"cycle": owners}
        if previous is not None:
            slots["previous"] = previous if isinstance(previous, list) else [previous]
        services = []
        for protocol in ("tcp", "udp"):
            rules = service(f"{protocol}", self._way.version, protocol, [PORT[protocol]], "pool", mode)
            rules["idle_timeout"] = (300 if protocol == "tcp" else 30) if idle is None else idle
            if not (more.get("placement") == "per_packet" and protocol == "tcp"):
                rules |= more
            if protocol == "tcp":
                rules.pop("quic", None)
            services.append(rules)
        members = [self._way.member(number) | {"index": number} for number in range(3) if number not in without]
        made = tables(members, {"pool": slots}, services)
        known = next((name for name, other in self._file.tables.items() if other == made), None)
        if known is None:
            known = f"t{len(self._file.tables)}"
            self._file.tables[known] = made
        for rules in services:
            before = next((one for one in self._set.get("services", ()) if one["name"] == rules["name"]), {})
            if before.get("choices") != rules.get("choices"):
                self._memory.turns.pop((rules["name"], rules["vip"]), None)
        self._set = made
        self._steps.append({"at": self._now, "set": known})

    def tcp(self, flags: str, to: int | None, by: str = "", *, client: int = 40000) -> None:
        """A segment, whom it goes to (None: it is dropped) and what decides that."""
        kind = KINDS.get(flags, "ODD")
        self._packet("tcp", kind, client, to, by, lambda ttl: bytes(self._ip(ttl) / self._tcp(flags, client)))

    def comes(
        self,
        source: str,
        refused: str = "",
        *,
        flags: str = "S",
        protocol: str = "tcp",
        client: int = 40000,
        to: int = 0,
        by: str = "slot",
        by_hand: bool = False,
    ) -> None:
        """A packet from somewhere, and why it goes no further, if it does not. *by_hand*: the model is not asked, which
        knows nothing of limits that others have come before."""
        version, number = self._way.version, ("tcp", "udp").index(protocol)
        assert by_hand or self._refusal(number, protocol, flags, source) == refused, self._file.sequences[-1]["id"]

        def packet(ttl: int) -> bytes:
            head = self._tcp(flags, client) if protocol == "tcp" else segment("udp", sport=client)
            return bytes(ip(version, source=source, ttl=ttl) / head)

        if refused:
            action = dropped(refused, service=number)
        else:
            kind = "UDP" if protocol == "udp" else KINDS.get(flags, "ODD")
            _, hash32, slot = self._place(protocol, kind, client, to, by, source=source)
            action = self._sent(protocol, hash32, slot, to, by, packet, ident=False)
        self._steps.append({"at": self._now, "frame": tag(packet(57), version).hex(), "action": action})

    @property
    def version(self) -> int:
        return self._way.version

    def _refusal(self, number: int, protocol: str, flags: str, source: str) -> str:
        """What protection makes of a packet: prefixes one by one, and buckets that fill as time goes on."""
        rules = self._set["services"][number].get("protection", {})
        address = ip_address(source)
        longest = [
            (net.prefixlen, name)
            for name in ("deny", "allow")
            for net in map(ip_network, rules.get(name, ()))
            if address in net
        ]
        if longest and max(longest)[1] == "deny":
            return "denied"
        if protocol == "udp" or "S" not in flags or "A" in flags:
            return ""
        sender: Any = source if address.version == 4 else int(address) >> 64
        asked = [("service", None), ("vip", None), ("source", sender)]
        left = {}
        for scope, who in asked:
            rate = rules.get(f"per_{scope}")
            if rate is None:
                continue
            tokens, at = self._buckets.get((scope, who), (rate["burst"], self._now))
            tokens = min(rate["burst"], tokens + (self._now - at) * rate["per_s"])
            if tokens < 1:
                return f"{scope}_rate"
            left[scope, who] = tokens - 1, self._now
        self._buckets |= left
        return ""

    def udp(self, to: int | None, by: str = "", *, client: int = 40000, payload: bytes = b"payload") -> None:
        """A datagram."""
        packet = lambda ttl: bytes(self._ip(ttl) / segment("udp", sport=client) / Raw(payload))  # noqa: E731
        self._packet("udp", "UDP", client, to, by, packet)

    def quic(self, to: int, *, client: int = 40000, mark: int = 0) -> None:
        """A QUIC datagram whose connection ID names a member."""
        payload = bytes((0x40, 0x07, 0xC4, 0x60, to, mark, 2, 3, 4)) + bytes(20)
        packet = lambda ttl: bytes(self._ip(ttl) / segment("udp", sport=client) / Raw(payload))  # noqa: E731
        hash32 = flow_hash(*flow_of(self._way.version, "udp", client), self._set["services"][1]["hash"])
        action = self._sent("udp", hash32, hash32 * SLOTS >> 32, to, "connection_id", packet, ident=False)
        self._steps.append({"at": self._now, "frame": tag(packet(57), self._way.version).hex(), "action": action})

    def error(self, protocol: str, to: int | None, by: str = "", *, client: int = 40000) -> None:
        """An ICMP error about what the VIP has sent to the client."""
        version = self._way.version
        flags = {"flags": "A"} if protocol == "tcp" else {}
        answer = ip(version, source=VIP[version], destination=CLIENT[version], ttl=61)
        quote = bytes(answer / segment(protocol, sport=PORT[protocol], dport=client, **flags))
        message = (
            ICMP(type=3, code=1) / Raw(quote[:28]) if version == 4 else ICMPv6DestUnreach(code=3) / Raw(quote[:60])
        )
        router = {4: "192.0.2.250", 6: "2001:db8:1::250"}[version]

        def packet(ttl: int) -> bytes:
            return bytes(ip(version, source=router, ttl=ttl) / message)

        self._packet(protocol, "ERROR", client, to, by, packet)

    def first(
        self,
        to: int | None,
        by: str,
        *,
        client: int = 40000,
        ident: int = 7,
        protocol: str = "udp",
        flags: str = "S",
        freed: int = 0,
    ) -> None:
        """A first fragment; *freed*: how many have waited for it, and follow it."""
        version = self._way.version

        def packet(ttl: int) -> bytes:
            head = segment("udp", sport=client, len=96) if protocol == "udp" else self._tcp(flags, client)
            body = (bytes(head) + bytes(72))[:72]
            if version == 4:
                return bytes(ip(4, ttl=ttl, flags=1, proto=NUMBER[protocol], id=ident) / Raw(body))
            return bytes(self._ip(ttl) / IPv6ExtHdrFragment(nh=NUMBER[protocol], m=1, id=ident) / Raw(body))

        kind = "UDP" if protocol == "udp" else KINDS.get(flags, "ODD")
        self._packet(protocol, kind, client, to, by, packet, ident=True)
        name = self._datagram(protocol, ident)
        if to is not None and not (self._is_free(protocol) and by == "slot"):
            self._memory.datagrams[name] = to, client, self._now
        waiting = [one for one in self._held if one[0] == name]
        assert len(waiting) == freed
        self._held = [one for one in self._held if one[0] != name]
        if freed:
            self._steps[-1]["released"] = [self._follow(*one[1:]) for one in waiting]

    def later(
        self, to: int | str | None, by: str = "first", *, ident: int = 7, protocol: str = "udp", size: int = 24
    ) -> None:
        """A later fragment. It follows its first where that is known (*by* first), goes by its slot, or is `HELD`."""
        version = self._way.version

        def packet(ttl: int) -> bytes:
            if version == 4:
                return bytes(ip(4, ttl=ttl, flags=0, frag=9, proto=NUMBER[protocol], id=ident) / Raw(bytes(size)))
            return bytes(self._ip(ttl) / IPv6ExtHdrFragment(nh=NUMBER[protocol], offset=9, id=ident) / Raw(bytes(size)))

        name = self._datagram(protocol, ident)
        _, _, since = self._memory.datagrams.get(name, (0, 0, -100.0))
        if self._now - since <= 30:
            assert by == "first"
            action = self._follow(protocol, ident, packet)
            assert action.get("member") == to
        elif to == HELD:
            assert not self._is_free(protocol) or self._set["slots"]["pool"].keys() & {"previous"}
            self._held.append((name, protocol, ident, packet))
            action = {"verdict": "hold", "reason": "fragment"}
        else:
            assert self._is_free(protocol)
            assert not isinstance(to, str)
            self._packet(protocol, "PIECE", 0, to, by, packet, ident=True)
            return
        self._steps.append({"at": self._now, "frame": tag(packet(57), version).hex(), "action": action})

    def give_up(self, to: int | None = None, by: str = "") -> None:
        """What has waited for 2 ms goes by its slot, or is dropped when *to* is None."""
        self.after(0.005)
        released = []
        for _, protocol, _, packet in self._held:
            if to is None:
                assert self._set["services"][0]["hash"] != "source_ip"
                released.append(dropped("fragment"))
            else:
                _, hash32, slot = self._place(protocol, "PIECE", 0, to, by)
                released.append(self._sent(protocol, hash32, slot, to, by, packet, ident=True))
        self._held = []
        assert released
        self._steps.append({"at": self._now, "released": released})

    def _datagram(self, protocol: str, ident: int) -> tuple[str, int]:
        return protocol if self._way.version == 4 else "", ident

    def _is_free(self, protocol: str) -> bool:
        """Whether the address alone says who takes a packet, while the slot is steady."""
        rules = self._set["services"][("tcp", "udp").index(protocol)]
        return rules["hash"] == "source_ip" and rules.get("placement", "hash") == "hash"

    def _follow(self, protocol: str, ident: int, packet: Callable[[int], bytes]) -> dict[str, Any]:
        """What becomes of a later fragment whose first is known."""
        version, number = self._way.version, ("tcp", "udp").index(protocol)
        to, client, _ = self._memory.datagrams[self._datagram(protocol, ident)]
        hash32 = flow_hash(*flow_of(version, protocol, client), self._set["services"][number]["hash"])
        slot = hash32 * SLOTS >> 32
        if to not in {member["index"] for member in self._set["members"]}:
            return dropped("no_member", service=number, slot=slot)
        if len(packet(57)) > {"l2": 1500, "over4": 1480, "over6": 1460}[self._way.delivery]:
            return dropped("too_big", service=number, member=to, slot=slot, by="first")
        return self._sent(protocol, hash32, slot, to, "first", packet, ident=True)

    def expired(self, flags: str, to: int, by: str, *, client: int = 40000) -> None:
        """A segment whose TTL ends here."""
        version = self._way.version
        packet = bytes(self._ip(1) / self._tcp(flags, client))
        reply = icmp_reply(tag(packet, version), 14, version, packet, exceeded(version), CLIENT[version])
        self._dropped(packet, KINDS[flags], client, to, by, "ttl_expired", (reply, "icmp_time_exceeded"))

    def large(self, flags: str, to: int, by: str, *, client: int = 40000) -> None:
        """A segment that does not fit into the tunnel."""
        version = self._way.version
        head = bytes(self._ip(57) / self._tcp(flags, client))
        packet = bytes(self._ip(57) / self._tcp(flags, client) / Raw(bytes(1500 - len(head))))
        limit = 1480 if self._way.delivery == "over4" else 1460
        reply = icmp_reply(tag(packet, version), 14, version, packet, too_big(version, limit), CLIENT[version])
        self._dropped(packet, KINDS[flags], client, to, by, "too_big", (reply, "icmp_too_big"))

    def client_in_slot(self, remainder: int, modulus: int, protocol: str = "tcp") -> int:
        """The first client port of a flow in such a slot."""
        version = self._way.version
        ports = range(41000, 42000)
        slots = {port: flow_hash(*flow_of(version, protocol, port), "five_tuple") * SLOTS >> 32 for port in ports}
        return next(port for port, slot in slots.items() if slot % modulus == remainder)

    def _ip(self, ttl: int) -> Any:
        return ip(self._way.version, ttl=ttl)

    @staticmethod
    def _tcp(flags: str, client: int) -> Any:
        return segment("tcp", sport=client, flags="" if flags == "none" else flags)

    def _place(
        self,
        protocol: str,
        kind: str,
        client: int,
        to: int | None,
        by: str,
        *,
        sent: bool = True,
        source: str | None = None,
    ) -> tuple[dict[str, Any], int, int]:
        """The service, the hash and the slot; the model has to agree with what was written down."""
        number = ("tcp", "udp").index(protocol)
        rules = self._set["services"][number]
        key = flow_of(self._way.version, protocol, client, source=source)
        hash32 = flow_hash(*key, rules["hash"])
        slot = hash32 * SLOTS >> 32
        pool = self._set["slots"]["pool"]
        owners, earlier = pool["cycle"], pool.get("previous", pool["cycle"])
        word = owners[slot % len(owners)], earlier[slot % len(earlier)]
        members = {member["index"] for member in self._set["members"]}
        assert {*word} - {NOBODY} <= members
        got = self._memory.place(key, kind, word, rules, members, self._now, sent)
        wanted = (NOBODY, got[1]) if to is None else (to, by)
        assert got == wanted, f"{self._file.sequences[-1]['id']}, {self._now}: {got}, and by hand {wanted}"
        return rules, hash32, slot

    def _packet(
        self,
        protocol: str,
        kind: str,
        client: int,
        to: int | None,
        by: str,
        packet: Callable[[int], bytes],
        *,
        ident: bool = False,
    ) -> None:
        _, hash32, slot = self._place(protocol, kind, client, to, by)
        number, version = ("tcp", "udp").index(protocol), self._way.version
        if to is None:
            action = dropped("no_member", service=number, slot=slot)
        else:
            action = self._sent(protocol, hash32, slot, to, by, packet, ident=ident)
        self._steps.append({"at": self._now, "frame": tag(packet(57), version).hex(), "action": action})

    def _sent(
        self,
        protocol: str,
        hash32: int,
        slot: int,
        to: int,
        by: str,
        packet: Callable[[int], bytes],
        *,
        ident: bool,
    ) -> dict[str, Any]:
        """A packet on its way to a member; *ident*: whether it may be fragmented further."""
        version = self._way.version
        member = next(one for one in self._set["members"] if one["index"] == to)
        if "encapsulation" in member:
            clear = 0x4242 if ident and version == 4 else None
            out = tunnel_out(member, packet(56), version, hash32, ident=clear)
        else:
            out = l2_out(member, packet(57), version)
        return {
            "verdict": "transmit",
            "service": ("tcp", "udp").index(protocol),
            "member": to,
            "slot": slot,
            "by": by,
            "ifindex": member["next_hop"]["ifindex"],
            "frame": out.hex(),
        }

    def _dropped(
        self, packet: bytes, kind: str, client: int, to: int, by: str, reason: str, reply: tuple[bytes, str]
    ) -> None:
        _, _, slot = self._place("tcp", kind, client, to, by, sent=False)
        told = {"frame": reply[0].hex(), "kind": reply[1]}
        action = dropped(reason, service=0, member=to, slot=slot, by=by, reply=told)
        self._steps.append({"at": self._now, "frame": tag(packet, self._way.version).hex(), "action": action})


def in_all(file: File, ways: tuple[Way, ...], name: str, sentence: str) -> Iterator[Sequence]:
    """The same sequence for each way."""
    for way in ways:
        yield Sequence(file, way, name, sentence)


# ---- transitions ----------------------------------------------------------------------------------------------------


def transitions_file() -> File:
    file = File("transitions", "Slots that change their owner while flows go on (packets.md, section 7).")
    old, new, third = 0, 1, 2

    for run in in_all(
        file, (*WAYS, *MIXED), "window-new", "In a window, new flows go to the new owner and stay there."
    ):
        run.set(old)
        run.after(5)
        run.set(new, old)
        run.tcp("S", new, "slot")
        run.after(0.1)
        run.tcp("A", new, "pin")
        run.after(200)
        run.tcp("PA", new, "pin")
        run.after(1)
        run.tcp("FA", new, "pin")

    for run in in_all(file, (*WAYS, *MIXED), "window-old", "In a window, flows from before stay with the old owner."):
        run.set(old)
        run.tcp("S", old, "slot")
        run.tcp("A", old, "slot")
        run.after(5)
        run.set(new, old)
        run.after(1)
        run.tcp("PA", old, "previous")
        run.after(1)
        run.tcp("PA", old, "pin")

    for run in in_all(
        file, WAYS, "tail", "When the window is over, those that spoke in it stay where they are; others have moved."
    ):
        run.set(new, old)
        run.tcp("A", old, "previous", client=40001)
        run.tcp("S", new, "slot", client=40002)
        run.after(100)
        run.set(new, NOBODY)
        run.tcp("A", old, "pin", client=40001)
        run.tcp("A", new, "pin", client=40002)
        run.tcp("A", new, "slot", client=40003)
        run.after(1)
        run.tcp("A", new, "pin", client=40003)
        run.after(298)
        run.tcp("A", old, "pin", client=40001)

    for run in in_all(
        file,
        WAYS,
        "tail-new",
        "In the tail, new flows go to the owner, and are remembered for the sake of other directors.",
    ):
        run.set(new, NOBODY)
        run.tcp("S", new, "slot")
        run.tcp("A", new, "pin")

    for run in in_all(
        file,
        WAYS,
        "tail-reopened",
        "In the tail, a new connection takes the place of what is remembered of an old one.",
    ):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.after(20)
        run.set(new, NOBODY)
        run.tcp("A", old, "pin")
        run.after(20)
        run.tcp("S", new, "slot")
        run.tcp("A", new, "pin")

    for run in in_all(
        file, WAYS, "steady", "In a steady slot, nothing is remembered and nothing that is remembered is asked for."
    ):
        run.set(new, old)
        run.tcp("A", old, "previous", client=40001)
        run.set(new)
        run.tcp("A", new, "slot", client=40001)
        run.tcp("S", new, "slot", client=40002)
        run.tcp("A", new, "slot", client=40002)
        run.after(1)
        run.set(third, new)
        run.tcp("A", new, "previous", client=40002)
        run.tcp("A", new, "pin", client=40002)

    for run in in_all(
        file,
        WAYS,
        "steady-between",
        "What was remembered before a steady time counts again after it, as long as it is young.",
    ):
        run.set(new, old)
        run.tcp("S", new, "slot")
        run.after(10)
        run.set(new)
        run.tcp("A", new, "slot")
        run.after(10)
        run.set(third, new)
        run.tcp("A", new, "pin")

    for run in in_all(file, WAYS, "drain", "A member that drains keeps its flows and gets no new ones."):
        run.set(old)
        run.tcp("A", old, "slot", client=40001)
        run.set(new, old)
        run.tcp("A", old, "previous", client=40001)
        run.tcp("S", new, "slot", client=40002)
        run.after(30)
        run.tcp("A", old, "pin", client=40001)
        run.tcp("A", new, "pin", client=40002)

    for run in in_all(
        file, WAYS, "recovery", "A member that comes back gets new flows; its heir keeps those that it has."
    ):
        run.set(new, without=(old,))
        run.tcp("S", new, "slot", client=40001)
        run.after(5)
        run.set(old, new)
        run.tcp("A", new, "previous", client=40001)
        run.tcp("S", old, "slot", client=40002)
        run.tcp("A", old, "pin", client=40002)

    for run in in_all(file, WAYS, "addition", "A member that is added takes no flow from those that were there."):
        run.set([old, new], without=(third,))
        first, second = run.client_in_slot(0, 2), run.client_in_slot(1, 2)
        run.tcp("A", old, "slot", client=first)
        run.tcp("A", new, "slot", client=second)
        run.set([third, new], [old, new])
        run.tcp("A", old, "previous", client=first)
        run.tcp("A", new, "slot", client=second)
        run.after(5)
        run.tcp("S", third, "slot", client=first)

    for run in in_all(file, WAYS, "weight", "Another weight moves some slots; in all others nothing is remembered."):
        run.set([old, new])
        moved, kept = run.client_in_slot(1, 2), run.client_in_slot(0, 2)
        run.tcp("A", new, "slot", client=moved)
        run.tcp("A", old, "slot", client=kept)
        run.after(3)
        run.set([old, old], [old, new])
        run.tcp("A", new, "previous", client=moved)
        run.tcp("A", old, "slot", client=kept)
        run.after(3)
        run.tcp("A", new, "pin", client=moved)
        run.tcp("A", old, "slot", client=kept)

    for run in in_all(
        file, WAYS, "double-change", "After two changes within a window, flows of three owners are each at theirs."
    ):
        run.set(old)
        run.tcp("S", old, "slot", client=40001)
        run.after(10)
        run.set(new, old)
        run.tcp("S", new, "slot", client=40002)
        run.after(10)
        run.set(third, old)
        run.tcp("S", third, "slot", client=40003)
        run.tcp("A", old, "previous", client=40001)
        run.tcp("A", new, "pin", client=40002)
        run.tcp("A", third, "pin", client=40003)
        run.after(250)
        run.set(third, NOBODY)
        run.tcp("A", old, "pin", client=40001)
        run.tcp("A", new, "pin", client=40002)
        run.tcp("A", third, "pin", client=40003)

    for run in in_all(file, WAYS, "change-back", "A change that is taken back within its window strands nobody."):
        run.set(old)
        run.tcp("S", old, "slot", client=40001)
        run.set(new, old)
        run.tcp("S", new, "slot", client=40002)
        run.after(10)
        run.set(old, NOBODY)
        run.tcp("A", old, "slot", client=40001)
        run.tcp("A", new, "pin", client=40002)
        run.tcp("S", old, "slot", client=40003)
        run.after(10)
        run.tcp("A", new, "pin", client=40002)

    for run in in_all(
        file, WAYS, "all-draining", "When all members drain, new flows are dropped and all others go on."
    ):
        run.set(new, old)
        run.tcp("S", new, "slot", client=40002)
        run.after(10)
        run.set(NOBODY, old)
        run.tcp("S", None, client=40003)
        run.tcp("A", old, "previous", client=40001)
        run.tcp("A", new, "pin", client=40002)
        run.tcp("A", old, "pin", client=40001)
        run.after(10)
        run.tcp("S", None, client=40001)
        run.tcp("A", old, "pin", client=40001)

    for run in in_all(
        file, WAYS, "all-draining-over", "When members take new flows again, old ones are where they were."
    ):
        run.set(NOBODY, old)
        run.tcp("A", old, "previous", client=40001)
        run.after(10)
        run.set(new, old)
        run.tcp("A", old, "pin", client=40001)
        run.tcp("A", old, "previous", client=40002)
        run.tcp("S", new, "slot", client=40003)

    for run in in_all(
        file, WAYS, "all-draining-death", "When all drain and the old owner dies, flows of the others go on."
    ):
        run.set(new, old)
        run.tcp("S", new, "slot", client=40002)
        run.after(10)
        run.set(NOBODY, old)
        run.tcp("A", new, "pin", client=40002)
        run.after(10)
        run.set(NOBODY, new, without=(old,))
        run.tcp("A", new, "pin", client=40002)
        run.tcp("S", None, client=40003)

    for run in in_all(
        file, WAYS, "C8-nobody", "Where nobody takes new flows and nobody has old ones, everything is dropped."
    ):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.after(1)
        run.set(NOBODY, without=(0, 1, 2))
        run.tcp("A", None)
        run.tcp("S", None)

    for run in in_all(
        file, WAYS, "dead-previous", "When the old owner dies, all its flows move at once; those of the new one stay."
    ):
        run.set(new, old)
        run.tcp("A", old, "previous", client=40001)
        run.tcp("S", new, "slot", client=40002)
        run.after(10)
        run.set(new, NOBODY, without=(old,))
        run.tcp("A", new, "slot", client=40001)
        run.tcp("A", new, "pin", client=40001)
        run.tcp("A", new, "pin", client=40002)
        run.tcp("A", new, "slot", client=40003)

    for run in in_all(
        file,
        WAYS,
        "dead-pin",
        "A flow whose member has died is on the old owner from then on, also when the dead one is back.",
    ):
        run.set(new, old)
        run.tcp("S", new, "slot")
        run.after(10)
        run.set(third, old, without=(new,))
        run.tcp("A", old, "previous")
        run.tcp("A", old, "pin")
        run.after(10)
        run.set(new, old)
        run.tcp("A", old, "pin")

    for run in in_all(
        file, WAYS, "dead-pin-new", "A new connection of a flow whose member has died is remembered at the owner."
    ):
        run.set(new, old)
        run.tcp("S", new, "slot")
        run.after(1)
        run.set(third, old, without=(new,))
        run.tcp("S", third, "slot")
        run.tcp("A", third, "pin")

    for run in in_all(file, WAYS, "dead-new", "When the new owner dies, flows of the old one do not notice."):
        run.set(new, old)
        run.tcp("A", old, "previous", client=40001)
        run.after(10)
        run.set(old, NOBODY, without=(new,))
        run.tcp("A", old, "pin", client=40001)
        run.tcp("A", old, "slot", client=40002)

    for run in in_all(
        file,
        WAYS,
        "udp-window",
        "Datagrams of flows that nobody knows go to the old owner in the window, and stay there.",
    ):
        run.set(old)
        run.udp(old, "slot")
        run.after(5)
        run.set(new, old)
        run.udp(old, "previous")
        run.after(5)
        run.udp(old, "pin")
        run.after(20)
        run.set(new, NOBODY)
        run.udp(old, "pin")
        run.udp(new, "slot", client=40001)
        run.after(1)
        run.udp(new, "pin", client=40001)
        run.after(28)
        run.udp(old, "pin")

    for run in in_all(
        file,
        (Way(4, "over4"), Way(6, "over6")),
        "unsent-ttl",
        "What is not sent is not remembered: a TTL that ends here.",
    ):
        run.set(new, old)
        run.expired("S", new, "slot")
        run.tcp("A", old, "previous")
        run.expired("A", old, "pin")

    for run in in_all(
        file,
        (*(Way(4, "over4"), Way(6, "over6")), *MIXED),
        "unsent-too-big",
        "What is not sent is not remembered: a packet that is too big.",
    ):
        run.set(new, old)
        run.large("A", old, "previous")
        run.after(1)
        run.set(new, NOBODY)
        run.tcp("A", new, "slot")
    return file


# ---- pins -----------------------------------------------------------------------------------------------------------


def pins_file() -> File:
    file = File("pins", "What is remembered of single flows, and for how long (packets.md, section 7).")
    old, new, third = 0, 1, 2

    for run in in_all(
        file, WAYS, "C3-retransmission", "A SYN that is sent again within 3 s goes where the first one went."
    ):
        run.set(new, old)
        run.tcp("S", new, "slot")
        run.after(0.5)
        run.set(third, old)
        run.after(1)
        run.tcp("S", new, "pin")
        run.after(0.3)
        run.tcp("A", new, "pin")

    for run in in_all(
        file, WAYS, "C3-reuse", "A SYN on a flow that has been quiet for longer than 3 s is a new connection."
    ):
        run.set(new, old)
        run.tcp("S", new, "slot")
        run.tcp("A", new, "pin")
        run.after(0.5)
        run.set(third, old)
        run.after(5)
        run.tcp("S", third, "slot")
        run.tcp("A", third, "pin")

    for run in in_all(file, WAYS, "C3-retransmissions-age", "Retransmissions do not keep each other young."):
        run.set(new, old)
        run.tcp("S", new, "slot")
        run.after(0.5)
        run.set(third, old)
        run.after(1)
        run.tcp("S", new, "pin")
        run.after(4)
        run.tcp("S", third, "slot")

    for run in in_all(file, WAYS, "C3-learned", "A SYN right behind a packet of the flow goes where the flow is, too."):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.after(1)
        run.tcp("S", old, "pin")
        run.after(5)
        run.tcp("S", new, "slot")
        run.tcp("A", new, "pin")

    for run in in_all(file, WAYS, "C3-after-fin", "A SYN behind a FIN is a new connection at once."):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.tcp("FA", old, "pin")
        run.after(0.5)
        run.tcp("S", new, "slot")
        run.tcp("A", new, "pin")

    for run in in_all(file, WAYS, "C3-after-rst", "A SYN behind an RST is a new connection at once."):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.tcp("R", old, "pin")
        run.after(0.5)
        run.tcp("S", new, "slot")
        run.tcp("A", new, "pin")

    for run in in_all(file, WAYS, "C5-fin", "After a FIN the flow is remembered for a minute from its last packet on."):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.tcp("FA", old, "pin")
        run.set(new, NOBODY)
        run.after(57)
        run.tcp("A", old, "pin")
        run.after(57)
        run.tcp("A", old, "pin")
        run.after(64)
        run.tcp("A", new, "slot")

    for run in in_all(
        file, WAYS, "C5-fin-unknown", "A FIN of a flow that nobody has remembered is remembered, for a minute."
    ):
        run.set(new, old)
        run.tcp("FA", old, "previous")
        run.set(new, NOBODY)
        run.after(57)
        run.tcp("A", old, "pin")
        run.after(64)
        run.tcp("A", new, "slot")

    for run in in_all(file, WAYS, "C5-rst", "After an RST the flow is remembered for 2 s."):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.tcp("R", old, "pin")
        run.set(new, NOBODY)
        run.after(1)
        run.tcp("RA", old, "pin")
        run.after(5)
        run.tcp("A", new, "slot")

    for run in in_all(file, WAYS, "C5-rst-stays", "Whatever comes behind an RST, the flow stays closed."):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.tcp("RA", old, "pin")
        run.tcp("FA", old, "pin")
        run.tcp("A", old, "pin")
        run.set(new, NOBODY)
        run.after(5)
        run.tcp("A", new, "slot")

    for run in in_all(
        file,
        WAYS,
        "C5-rst-unknown",
        "An RST of a flow that nobody has remembered goes to the old owner and is not remembered.",
    ):
        run.set(new, old)
        run.tcp("R", old, "previous")
        run.set(new, NOBODY)
        run.tcp("R", new, "slot")
        run.set(new, old)
        run.tcp("A", old, "previous")

    for run in in_all(file, WAYS, "C5-fin-short-idle", "A FIN does not make a flow live longer than its idle timeout."):
        run.set(new, old, idle=20)
        run.tcp("FA", old, "previous")
        run.set(new, NOBODY, idle=20)
        run.after(18)
        run.tcp("A", old, "pin")
        run.after(24)
        run.tcp("A", new, "slot")

    for run in in_all(file, WAYS, "idle-tcp", "A connection is over when it has been quiet for its idle timeout."):
        run.set(new, old)
        run.tcp("A", old, "previous")
        run.set(new, NOBODY)
        run.after(297)
        run.tcp("A", old, "pin")
        run.after(297)
        run.tcp("A", old, "pin")
        run.after(306)
        run.tcp("A", new, "slot")

    for run in in_all(
        file, WAYS, "idle-window", "In a window, a connection that was forgotten is found again at the old owner."
    ):
        run.set(new, old)
        run.tcp("S", new, "slot", client=40001)
        run.tcp("A", old, "previous", client=40002)
        run.after(306)
        run.tcp("A", old, "previous", client=40002)
        run.tcp("A", old, "previous", client=40001)

    for run in in_all(
        file, WAYS, "idle-udp", "A flow of datagrams is over when it has been quiet for its idle timeout."
    ):
        run.set(new, old)
        run.udp(old, "previous")
        run.set(new, NOBODY)
        run.after(28)
        run.udp(old, "pin")
        run.after(28)
        run.udp(old, "pin")
        run.after(35)
        run.udp(new, "slot")
        run.udp(new, "pin")

    for run in in_all(file, WAYS, "idle-never", "With an idle timeout of 0, a flow is never over."):
        run.set(new, old, idle=0)
        run.tcp("A", old, "previous")
        run.set(new, NOBODY, idle=0)
        run.after(4000)
        run.tcp("A", old, "pin")

    for way in WAYS:
        for flags in ("SF", "SR", "SA", "none", "U", "SFRPAU"):
            what = flags.lower()
            run = Sequence(
                file, way, f"P8-flags-{what}", "Odd flags lead to no memory of a flow, and do not keep one young."
            )
            run.set(new, old)
            run.tcp(flags, old, "previous", client=40001)
            run.tcp("A", old, "previous", client=40002)
            run.tcp(flags, old, "pin", client=40002)
            run.after(200)
            run.set(new, NOBODY)
            run.tcp(flags, new, "slot", client=40001)
            run.tcp(flags, old, "pin", client=40002)
            run.after(106)
            run.tcp("A", new, "slot", client=40002)

    for protocol in ("tcp", "udp"):
        for way in (*WAYS, *MIXED):
            run = Sequence(file, way, f"I1-{protocol}", "An ICMP error goes where its flow is, and leaves no trace.")
            idle = 300 if protocol == "tcp" else 30

            def say(to: int, by: str, client: int, protocol: str = protocol, run: Sequence = run) -> None:
                if protocol == "tcp":
                    run.tcp("A", to, by, client=client)
                else:
                    run.udp(to, by, client=client)

            run.set(new, old)
            run.error(protocol, old, "previous", client=40001)
            say(old, "previous", 40002)
            run.error(protocol, old, "pin", client=40002)
            run.after(idle * 0.7)
            run.set(new, NOBODY)
            run.error(protocol, new, "slot", client=40001)
            run.error(protocol, old, "pin", client=40002)
            run.after(idle * 0.3 + 5)
            run.error(protocol, new, "slot", client=40002)
            say(new, "slot", 40002)

    for run in in_all(file, WAYS, "I1-draining", "When nobody takes new flows, ICMP errors still go to the old owner."):
        run.set(NOBODY, old)
        run.error("tcp", old, "previous")

    for run in in_all(
        file,
        WAYS,
        "one-client",
        "Flows of one client are remembered each by itself, also where the slot goes by its address.",
    ):
        run.set(new, old, mode="source_ip")
        run.tcp("S", new, "slot", client=40001)
        run.tcp("A", old, "previous", client=40002)
        run.udp(old, "previous", client=40001)
        run.after(2)
        run.set(new, NOBODY, mode="source_ip")
        run.tcp("A", new, "pin", client=40001)
        run.tcp("A", old, "pin", client=40002)
        run.udp(old, "pin", client=40001)
    return file


# ---- algorithms -----------------------------------------------------------------------------------------------------


def algorithms_file() -> File:
    file = File("algorithms", "Algorithms that decide flow by flow or packet by packet (packets.md, section 7).")

    def flows(choices: list[int], **more: Any) -> dict[str, Any]:
        return {"placement": "per_flow", "choices": choices} | more

    for run in in_all(file, (*WAYS, *MIXED), "turns", "New flows take turns; each stays where it began."):
        run.set(0, **flows([1, 0, 2]))
        for client, to in ((40001, 1), (40002, 0), (40003, 2), (40004, 1)):
            run.tcp("S", to, "choice", client=client)
        for client, to in ((40004, 1), (40003, 2), (40002, 0), (40001, 1)):
            run.tcp("A", to, "pin", client=client)
        run.after(297)
        run.tcp("FA", 2, "pin", client=40003)
        run.tcp("S", 0, "choice", client=40005)

    for run in in_all(file, WAYS, "turns-weights", "A member may have several of the turns."):
        run.set(0, **flows([2, 2, 1]))
        for client, to in ((40001, 2), (40002, 2), (40003, 1), (40004, 2)):
            run.tcp("S", to, "choice", client=client)

    for run in in_all(
        file, WAYS, "C3-no-turn", "A SYN that is sent again takes no turn; a new connection of the same flow does."
    ):
        run.set(0, **flows([1, 0, 2]))
        run.tcp("S", 1, "choice", client=40001)
        run.after(1)
        run.tcp("S", 1, "pin", client=40001)
        run.tcp("S", 0, "choice", client=40002)
        run.after(5)
        run.tcp("S", 2, "choice", client=40001)
        run.tcp("A", 2, "pin", client=40001)

    for run in in_all(file, WAYS, "C5-no-turn", "After a FIN or an RST, a SYN is a new connection at once."):
        run.set(0, **flows([1, 0, 2]))
        run.tcp("S", 1, "choice", client=40001)
        run.tcp("FA", 1, "pin", client=40001)
        run.tcp("S", 0, "choice", client=40001)
        run.tcp("R", 0, "pin", client=40001)
        run.tcp("S", 2, "choice", client=40001)

    for run in in_all(
        file,
        WAYS,
        "known-by-slot",
        "A connection that nobody has remembered is on its slot's owner, and remembered there.",
    ):
        run.set(0, **flows([1]))
        run.tcp("A", 0, "slot", client=40001)
        run.tcp("FA", 0, "slot", client=40002)
        run.after(1)
        run.set(2, **flows([1]))
        run.tcp("A", 0, "pin", client=40001)
        run.tcp("A", 0, "pin", client=40002)
        run.tcp("A", 2, "slot", client=40003)

    for run in in_all(file, WAYS, "known-by-previous", "In a window it is on the old owner, in the tail on the owner."):
        run.set(2, 0, **flows([1]))
        run.tcp("A", 0, "previous", client=40001)
        run.tcp("A", 0, "pin", client=40001)
        run.set(2, NOBODY, **flows([1]))
        run.tcp("A", 2, "slot", client=40002)
        run.tcp("A", 0, "pin", client=40001)

    for run in in_all(
        file,
        WAYS,
        "P8-C5-unknown",
        "RST, odd flags and errors of unknown connections go by slot and are not remembered.",
    ):
        run.set(0, **flows([1]))
        run.tcp("R", 0, "slot")
        run.tcp("SF", 0, "slot")
        run.tcp("SA", 0, "slot")
        run.error("tcp", 0, "slot")
        run.set(2, **flows([1]))
        run.tcp("A", 2, "slot")

    for run in in_all(
        file, WAYS, "turns-udp", "The first datagram takes a turn, and so does the first one after the idle timeout."
    ):
        run.set(0, **flows([1, 2]))
        run.udp(1, "choice", client=40001)
        run.udp(2, "choice", client=40002)
        run.after(28)
        run.udp(1, "pin", client=40001)
        run.after(28)
        run.udp(1, "pin", client=40001)
        run.udp(1, "choice", client=40002)
        run.after(35)
        run.udp(2, "choice", client=40001)
        run.error("udp", 2, "pin", client=40001)

    for run in in_all(file, WAYS, "no-choices", "Without choices, new flows are dropped and all others go on."):
        run.set(0, **flows([1]))
        run.tcp("S", 1, "choice", client=40001)
        run.udp(1, "choice", client=40001)
        run.after(5)
        run.set(0, **flows([]))
        run.tcp("S", None, client=40002)
        run.udp(None, client=40002)
        run.tcp("A", 1, "pin", client=40001)
        run.udp(1, "pin", client=40001)
        run.tcp("A", 0, "slot", client=40003)
        run.after(5)
        run.tcp("S", None, client=40001)

    for run in in_all(file, WAYS, "new-choices", "New choices are taken from their beginning; flows do not notice."):
        run.set(0, **flows([1, 0, 2]))
        run.tcp("S", 1, "choice", client=40001)
        run.tcp("S", 0, "choice", client=40002)
        run.after(1)
        run.set(0, **flows([2, 0]))
        run.tcp("S", 2, "choice", client=40003)
        run.tcp("A", 1, "pin", client=40001)
        run.tcp("A", 0, "pin", client=40002)

    for run in in_all(file, WAYS, "two-services", "Each service has turns of its own."):
        run.set(0, **flows([1, 2]))
        run.tcp("S", 1, "choice", client=40001)
        run.udp(1, "choice", client=40001)
        run.udp(2, "choice", client=40002)
        run.tcp("S", 2, "choice", client=40002)

    for run in in_all(file, WAYS, "random-of-one", "Chance has no choice among one."):
        run.set(0, **flows([2], choice_order="random"))
        run.tcp("S", 2, "choice", client=40001)
        run.tcp("S", 2, "choice", client=40002)
        run.tcp("A", 2, "pin", client=40001)

    for run in in_all(file, WAYS, "turns-drain", "A member that drains is none of the choices, and keeps its flows."):
        run.set(0, **flows([1]))
        run.tcp("S", 1, "choice", client=40001)
        run.set(0, **flows([2]))
        run.after(10)
        run.tcp("A", 1, "pin", client=40001)
        run.tcp("S", 2, "choice", client=40002)

    for run in in_all(file, WAYS, "turns-death", "Flows of a member that has died go by slot, or take another turn."):
        run.set(0, **flows([1]))
        run.tcp("S", 1, "choice", client=40001)
        run.udp(1, "choice", client=40001)
        run.after(1)
        run.set(0, **flows([2]), without=(1,))
        run.tcp("A", 0, "slot", client=40001)
        run.tcp("A", 0, "pin", client=40001)
        run.udp(2, "choice", client=40001)
        run.udp(2, "pin", client=40001)

    for run in in_all(
        file, WAYS, "to-hash", "When a pool goes over to hashing, flows stay where they are until they end."
    ):
        run.set(0, **flows([1]))
        run.tcp("S", 1, "choice", client=40001)
        run.udp(1, "choice", client=40001)
        run.after(5)
        run.set(0, NOBODY)
        run.tcp("A", 1, "pin", client=40001)
        run.udp(1, "pin", client=40001)
        run.tcp("S", 0, "slot", client=40002)

    for run in in_all(
        file,
        WAYS,
        "from-hash",
        "When a pool goes over from hashing, connections are found by their slots once, and remembered.",
    ):
        run.set(0)
        run.tcp("S", 0, "slot", client=40001)
        run.after(5)
        run.set(0, **flows([1]))
        run.tcp("A", 0, "slot", client=40001)
        run.tcp("S", 1, "choice", client=40002)
        run.after(5)
        run.set(2, **flows([1]))
        run.tcp("A", 0, "pin", client=40001)
        run.tcp("A", 1, "pin", client=40002)

    for run in in_all(
        file, (*WAYS, *MIXED), "packets", "Packet by packet, each datagram takes a turn, and nothing is remembered."
    ):
        run.set(0, placement="per_packet", choices=[1, 2, 0])
        for to in (1, 2, 0, 1):
            run.udp(to, "choice")
        run.udp(2, "choice", client=40001)
        run.error("udp", 0, "slot")
        run.after(1)
        run.set(0, NOBODY)
        run.udp(0, "slot")

    for run in in_all(file, WAYS, "packets-nobody", "Without choices, each datagram is dropped; errors go by slot."):
        run.set(2, 0, placement="per_packet", choices=[])
        run.udp(None)
        run.error("udp", 0, "previous")
    return file


# ---- datagrams in fragments -----------------------------------------------------------------------------------------


def datagrams_file() -> File:
    file = File("datagrams", "Datagrams in fragments, one after the other (packets.md, section 6).")
    old, new, third = 0, 1, 2

    for run in in_all(
        file,
        WAYS,
        "F0-steady",
        "Where the slot follows from the address alone and is steady, nobody waits for anybody.",
    ):
        run.set(new, mode="source_ip")
        run.later(new, "slot")
        run.first(new, "slot")
        run.later(new, "slot")
        run.later(new, "slot", protocol="tcp")

    for run in in_all(
        file, WAYS, "F0-window", "In a window, later fragments wait for their first, and go by their slot in the end."
    ):
        run.set(new, old, mode="source_ip")
        run.first(old, "previous", ident=1)
        run.later(old, ident=1)
        run.later(HELD, ident=2, protocol="tcp")
        run.give_up(old, "previous")
        run.after(5)
        run.set(new, NOBODY, mode="source_ip")
        run.later(HELD, ident=3)
        run.first(old, "pin", ident=3, freed=1)
        run.later(old, ident=3)
        run.later(HELD, ident=4)
        run.give_up(new, "slot")

    for run in in_all(
        file, WAYS, "F1-opening", "The first fragment of a SYN opens the connection, and the others follow it."
    ):
        run.set(new, old)
        run.first(new, "slot", protocol="tcp", ident=8)
        run.later(new, protocol="tcp", ident=8)
        run.after(1)
        run.tcp("A", new, "pin")
        run.first(new, "pin", protocol="tcp", flags="A", ident=9)
        run.later(new, protocol="tcp", ident=9)

    for run in in_all(
        file, (*WAYS, *MIXED), "F1-turns", "Where algorithms decide, the first fragment takes a turn for all of them."
    ):
        run.set(0, placement="per_flow", choices=[1, 0, 2])
        for client, to in ((40001, 1), (40002, 0), (40003, 2)):
            run.first(to, "choice", client=client, ident=client)
        for client, to in ((40002, 0), (40003, 2), (40001, 1)):
            run.later(to, ident=client)
            run.later(to, ident=client)
        run.first(0, "pin", client=40002, ident=3)
        run.later(0, ident=3)

    for run in in_all(file, WAYS, "F1-packets", "Packet by packet, fragments of one datagram stay together."):
        run.set(0, placement="per_packet", choices=[1, 2])
        run.first(1, "choice", ident=1)
        run.first(2, "choice", ident=2)
        run.later(1, ident=1)
        run.later(2, ident=2)

    for run in in_all(
        file, (*WAYS, *MIXED), "F2-in-order", "With ports in the hash, later fragments follow their first in any order."
    ):
        run.set([old, new, third])
        flows = [run.client_in_slot(remainder, 3, "udp") for remainder in range(3)]
        for to, client in enumerate(flows):
            run.first(to, "slot", client=client, ident=100 + to)
        for to in (2, 0, 1, 1, 0, 2):
            run.later(to, ident=100 + to)

    for run in in_all(
        file, WAYS, "F2-change", "Later fragments stay with their first while slots change, and its member serves."
    ):
        run.set(old)
        run.first(old, "slot")
        run.later(old)
        run.set(new)
        run.later(old)
        run.set(new, without=(old,))
        run.later(None)

    for run in in_all(file, WAYS, "F2-30s", "What was decided on a first fragment is known for 30 s."):
        run.set(old)
        run.first(old, "slot")
        run.after(29)
        run.later(old)
        run.after(3)
        run.later(HELD)
        run.give_up()

    for run in in_all(file, WAYS, "F2-again", "When an identification is used again, the new first fragment counts."):
        run.set([old, new, third])
        one, other = (run.client_in_slot(remainder, 3, "udp") for remainder in (0, 1))
        run.first(old, "slot", client=one)
        run.later(old)
        run.first(new, "slot", client=other)
        run.later(new)

    for run in in_all(
        file, (Way(4, "l2"), Way(4, "over4")), "F2-protocols", "In IPv4, every protocol has its own identifications."
    ):
        run.set([old, new, third])
        run.first(old, "slot", client=run.client_in_slot(0, 3, "udp"))
        run.first(new, "slot", client=run.client_in_slot(1, 3, "tcp"), protocol="tcp")
        run.later(old)
        run.later(new, protocol="tcp")

    for run in in_all(
        file, (Way(6, "over6"), Way(6, "over4")), "F2-large", "A later fragment that is too big gets no answer."
    ):
        run.set(old)
        run.first(old, "slot")
        run.later(old, size=1448)

    for run in in_all(
        file, (*WAYS, *MIXED), "F3-early", "Fragments that come before their first wait for it, and then follow it."
    ):
        run.set([old, new, third])
        flows = [run.client_in_slot(remainder, 3, "udp") for remainder in range(3)]
        for ident in (102, 101, 102, 100):
            run.later(HELD, ident=ident)
        for to, freed in ((1, 1), (2, 2), (0, 1)):
            run.first(to, "slot", client=flows[to], ident=100 + to, freed=freed)
            run.later(to, ident=100 + to)

    for run in in_all(file, WAYS, "F3-in-vain", "A fragment whose first does not come is dropped after 2 ms."):
        run.set(old)
        run.later(HELD)
        run.later(HELD, protocol="tcp", ident=8)
        run.give_up()
        run.first(old, "slot")
        run.later(old)
    return file


# ---- protection -----------------------------------------------------------------------------------------------------


CLIENTS = {
    4: ("203.0.113.9", "203.0.113.10", "192.0.2.77"),
    6: ("2001:db8:c::9", "2001:db8:d::9", "2001:db8:e:1::1"),
}


def protection_file() -> File:
    file = File("protection", "Whose packets a virtual service does not take, and how many new connections.")
    old, new = 0, 1
    for run in in_all(file, WAYS, "R1-source", "A source has so many new connections, and others have theirs."):
        one, other, _ = CLIENTS[run.version]
        run.set(old, protection={"per_source": {"per_s": 0.1, "burst": 2}})
        run.comes(one)
        run.comes(one, client=40001)
        run.comes(one, "source_rate", client=40002)
        run.comes(other)
        run.comes(one, flags="A")
        run.comes(one, flags="FA", client=40001)
        run.after(9)
        run.comes(one, "source_rate", client=40002)
        run.after(2)
        run.comes(one, client=40002)
        run.comes(one, "source_rate", client=40003)
        run.after(100)
        run.comes(one, client=40003)
        run.comes(one, client=40004)
        run.comes(one, "source_rate", client=40005)

    for scope in ("vip", "service"):
        for run in in_all(file, WAYS, f"R2-{scope}", "All sources together have so many, and UDP is no connection."):
            one, other, third = CLIENTS[run.version]
            run.set(old, protection={f"per_{scope}": {"per_s": 0.1, "burst": 2}})
            run.comes(one)
            run.comes(other)
            run.comes(third, f"{scope}_rate")
            run.comes(third, protocol="udp")
            run.comes(third, flags="A")
            run.after(5)
            for port in range(40010, 40015):
                run.comes(third, f"{scope}_rate", client=port)
            run.after(6)
            run.comes(third)
            run.comes(one, f"{scope}_rate", client=40001)

    for run in in_all(
        file, WAYS[:2], "R3-order", "The widest limit says no first, and what one of them refuses no other counts."
    ):
        one, other, _ = CLIENTS[run.version]
        rates = {"per_source": 1, "per_vip": 2, "per_service": 3}
        run.set(old, protection={name: {"per_s": 0.01, "burst": burst} for name, burst in rates.items()})
        run.comes(one)
        run.comes(one, "source_rate")
        run.comes(one, "source_rate")
        run.comes(other)
        run.comes(one, "vip_rate")
        run.set(old, protection={"per_source": {"per_s": 0.01, "burst": 1}, "per_service": {"per_s": 0.01, "burst": 2}})
        run.comes(one, "service_rate", by_hand=True)

    for run in in_all(
        file, WAYS[:2], "R4-flags", "Every SYN without ACK counts, whatever other flags it has; none else."
    ):
        one = CLIENTS[run.version][0]
        run.set(old, protection={"per_source": {"per_s": 0.01, "burst": 3}})
        for flags in ("SA", "A", "R", "F", "none", "PA"):
            run.comes(one, flags=flags)
        for flags in ("S", "SF", "SR"):
            run.comes(one, flags=flags)
        for flags in ("S", "SF", "SR", "SEC"):
            run.comes(one, "source_rate", flags=flags)
        run.comes(one, flags="SA")

    for run in in_all(
        file, WAYS[:2], "R5-reload", "Other limits go on with what has come; what an earlier, slower one left is over."
    ):
        one = CLIENTS[run.version][0]
        run.set(old, protection={"per_source": {"per_s": 0.1, "burst": 2}})
        run.comes(one)
        run.comes(one)
        run.set(old, protection={"per_source": {"per_s": 0.1, "burst": 3}})
        run.comes(one, by_hand=True)
        run.comes(one, "source_rate", by_hand=True)
        run.set(old)
        run.comes(one, by_hand=True)
        run.set(old, protection={"per_source": {"per_s": 0.1, "burst": 3}})
        run.comes(one, "source_rate", by_hand=True)
        run.set(old, protection={"per_source": {"per_s": 10, "burst": 5}})
        run.comes(one, by_hand=True)

    for run in in_all(file, WAYS[:1], "R6-address", "In IPv4, an address is a source."):
        run.set(old, protection={"per_source": {"per_s": 0.01, "burst": 1}})
        for last in (1, 2, 3):
            run.comes(f"192.0.2.{last}")
        run.comes("192.0.2.2", "source_rate")

    for run in in_all(file, WAYS[1:2], "R6-prefix", "In IPv6, the upper 64 bits are a source."):
        run.set(old, protection={"per_source": {"per_s": 0.01, "burst": 1}})
        run.comes("2001:db8:5:5::1")
        run.comes("2001:db8:5:5:ffff::2", "source_rate")
        run.comes("2001:db8:5:4::1")
        run.comes("2001:db8:4:5::1")

    for run in in_all(file, WAYS, "R7-window", "In a window, a connection that is refused is not remembered."):
        one = CLIENTS[run.version][0]
        run.set(new, old, protection={"per_source": {"per_s": 0.01, "burst": 1}})
        run.comes(one, to=new)
        run.after(5)
        run.comes(one, "source_rate", client=40001)
        run.comes(one, flags="A", client=40001, to=old, by="previous")
        run.comes(one, flags="A", to=new, by="pin")

    nested = {
        4: {
            "deny": ["192.0.2.0/24", "203.0.113.128/25", "203.0.113.9/32"],
            "allow": ["192.0.2.64/26", "203.0.113.192/26", "0.0.0.0/0"],
        },
        6: {"deny": ["2001:db8::/32", "2001:db8:a:b::/64"], "allow": ["2001:db8:a::/48", "2001:db8:a:b::8/128"]},
    }
    asked = {
        4: {
            "192.0.1.255": "",
            "192.0.2.0": "denied",
            "192.0.2.63": "denied",
            "192.0.2.64": "",
            "192.0.2.127": "",
            "192.0.2.128": "denied",
            "192.0.2.255": "denied",
            "192.0.3.0": "",
            "203.0.113.8": "",
            "203.0.113.9": "denied",
            "203.0.113.10": "",
            "203.0.113.127": "",
            "203.0.113.128": "denied",
            "203.0.113.192": "",
            "203.0.113.255": "",
            "1.0.0.0": "",
            "223.255.255.255": "",
        },
        6: {
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff": "",
            "2001:db8::": "denied",
            "2001:db8:9:ffff:ffff:ffff:ffff:ffff": "denied",
            "2001:db8:a::": "",
            "2001:db8:a:a:ffff:ffff:ffff:ffff": "",
            "2001:db8:a:b::": "denied",
            "2001:db8:a:b::7": "denied",
            "2001:db8:a:b::8": "",
            "2001:db8:a:b::9": "denied",
            "2001:db8:a:b:ffff:ffff:ffff:ffff": "denied",
            "2001:db8:a:c::": "",
            "2001:db8:b::": "denied",
            "2001:db9::": "",
            "fe00::": "",
        },
    }
    for run in in_all(file, WAYS, "D1-longest", "Of prefixes that hold a client's address, the longest one decides."):
        run.set(old, protection=nested[run.version])
        for source, refused in asked[run.version].items():
            for protocol, flags in (("tcp", "S"), ("tcp", "A"), ("udp", "")):
                run.comes(source, refused, protocol=protocol, flags=flags)

    everybody = {4: "0.0.0.0/0", 6: "::/0"}
    for run in in_all(file, WAYS[:2], "D2-nobody-but", "With everybody denied, only those come that are allowed."):
        one, other, third = CLIENTS[run.version]
        bits = 32 if run.version == 4 else 128
        run.set(old, protection={"deny": [everybody[run.version]], "allow": [f"{one}/{bits}"]})
        run.comes(one)
        run.comes(other, "denied")
        run.comes(third, "denied", protocol="udp")
        run.set(old)
        run.comes(third)

    for run in in_all(file, WAYS[:2], "D3-family", "Prefixes of the other family mean nothing."):
        run.set(old, protection={"deny": [everybody[10 - run.version]]})
        run.comes(CLIENTS[run.version][0])
    return file


# ---- QUIC -----------------------------------------------------------------------------------------------------------


def connections_file() -> File:
    file = File("connections", "QUIC: what connection IDs and what is remembered have to do with each other.")
    config = {"config_id": 0, "server_id_length": 3, "nonce_length": 4, "encode_length": True}
    quic = [config | {"servers": {f"c460{number:02x}": number for number in range(3)}}]

    for run in in_all(file, (*WAYS, *MIXED), "C13-handshake", "First by slot, then by ID, from wherever it comes."):
        run.set(0, quic=quic)
        run.udp(0, "slot")
        run.quic(1)
        run.quic(0, client=40001)
        run.quic(2, client=40002)
        run.udp(0, "slot", client=40001)
        run.tcp("S", 0, "slot")

    for run in in_all(file, WAYS, "C13-window", "In a window nothing is remembered of who goes by an ID."):
        run.set(0, 2, quic=quic)
        run.quic(1)
        run.quic(1, client=40001)
        run.udp(2, "previous", client=40001)
        run.after(2)
        run.quic(0, client=40001)
        run.udp(2, "pin", client=40001)
        run.quic(1, mark=9)

    for run in in_all(file, WAYS, "C13-tail", "In the tail, pins count for those who name nobody."):
        run.set(0, 2, quic=quic)
        run.udp(2, "previous")
        run.after(2)
        run.set(0, NOBODY, quic=quic)
        run.quic(1)
        run.udp(2, "pin")
        run.udp(0, "slot", client=40001)

    for run in in_all(file, WAYS, "C13-turns", "Who goes by an ID takes nobody's turn."):
        run.set(0, quic=quic, placement="per_flow", choices=[1, 0, 2])
        run.udp(1, "choice")
        run.quic(2)
        run.quic(2, client=40001)
        run.udp(0, "choice", client=40001)
        run.after(2)
        run.udp(1, "pin")

    for run in in_all(file, WAYS, "C13-steady", "In a steady slot nothing counts that was remembered before."):
        run.set(0, 2, quic=quic)
        run.udp(2, "previous")
        run.after(2)
        run.set(0, quic=quic)
        run.udp(0, "slot")
        run.quic(1)

    for run in in_all(file, WAYS, "C13-gone", "The ID of a member that is gone names nobody."):
        run.set(0, quic=quic)
        run.quic(1)
        run.after(2)
        left = [config | {"servers": {"c46000": 0, "c46002": 2}}]
        run.set(0, quic=left, without=(1,))
        run.quic(2)
        payload = bytes((0x40, 0x07, 0xC4, 0x60, 1, 0, 2, 3, 4)) + bytes(20)
        run.udp(0, "slot", payload=payload)
    return file


def main() -> None:
    for make in (transitions_file, pins_file, algorithms_file, datagrams_file, protection_file, connections_file):
        make().write()


if __name__ == "__main__":
    main()
