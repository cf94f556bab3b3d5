"""Writes the vector files beside it: `python tests/vectors/generate.py`. Same output every time.

Expected frames are built by Scapy from what packets.md says, and hashes by the few lines below from what the hash's
documentation says. Nothing of the appliance is imported, so that a vector is a second opinion and not an echo.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from scapy.config import conf

conf.verb = 0
conf.ipv6_enabled = True
from scapy.fields import BitField, ByteField, XShortField  # noqa: E402
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR, fragment  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH  # noqa: E402
from scapy.layers.l2 import ARP, GRE, Ether  # noqa: E402
from scapy.packet import Packet, Raw  # noqa: E402

HERE = Path(__file__).parent
SECRET = bytes(range(16))
SLOTS = 65537

C4, C6 = "203.0.113.9", "2001:db8:c::9"
V4, V6 = "198.51.100.7", "2001:db8:f::7"
D4, D6 = "192.0.2.1", "2001:db8:1::1"
CLIENT = {4: C4, 6: C6}
VIP = {4: V4, 6: V6}

US = "02:00:00:00:00:d1"
US_EGRESS = "02:00:00:00:00:d2"
ROUTER = "02:00:00:00:00:01"
INGRESS = {"ifindex": 2, "mac": US, "mtu": 1500}
TCP_NUMBER, UDP_NUMBER = 6, 17
TYPE = {4: 0x0800, 6: 0x86DD}
MARTIANS = {
    4: (
        ("zero", "0.0.0.0"),
        ("this-network", "0.255.255.255"),
        ("loopback", "127.0.0.1"),
        ("multicast", "224.0.0.5"),
        ("reserved", "240.0.0.1"),
        ("broadcast", "255.255.255.255"),
        ("vip", V4),
    ),
    6: (
        ("unspecified", "::"),
        ("loopback", "::1"),
        ("compatible", "::192.0.2.1"),
        ("mapped", "::ffff:192.0.2.1"),
        ("multicast", "ff02::1"),
        ("vip", V6),
    ),
}
NEARLY_MARTIANS = {
    4: ("1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "198.51.100.6"),
    6: ("0:0:0:0:1::", "::1:0:0:0", "64:ff9b::192.0.2.1", "feff::", "2001:db8:f::8", "2001:db8:e::7"),
}
"""Sources that somebody may have."""


# ---- the hash, a second time ----------------------------------------------------------------------------------------


def keys_of(secret: bytes) -> list[int]:
    material = hashlib.blake2b(secret, digest_size=64, person=b"onward-flow-hash").digest()
    stream = b"".join(hashlib.blake2b(bytes([i]) + bytes(7), key=material, digest_size=64).digest() for i in range(2))
    return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(11)]


def words_of(source: str, destination: str, sport: int, dport: int, protocol: int, mode: str) -> list[int]:
    if mode == "source_ip":
        destination, sport, dport, protocol = str(ip_address(bytes(len(ip_address(source).packed)))), 0, 0, 0
    elif mode == "source_ip_port":
        destination, dport, protocol = str(ip_address(bytes(len(ip_address(source).packed)))), 0, 0
    layout = ip_address(source).packed + ip_address(destination).packed
    layout += bytes([sport >> 8, sport & 255, dport >> 8, dport & 255]) + bytes([protocol, 0, 0, 0])
    return [int.from_bytes(layout[i : i + 4], "little") for i in range(0, len(layout), 4)]


def hash_of(keys: list[int], words: list[int]) -> int:
    total = keys[0]
    for pair in range(len(words) // 2):
        total += (keys[2 * pair + 1] + words[2 * pair]) * (keys[2 * pair + 2] + words[2 * pair + 1])
    total %= 1 << 64
    for _ in range(2):
        total = (total ^ total >> 32) * 0xD6E8FEB86659FD93 % (1 << 64)
    return total >> 32


KEYS = keys_of(SECRET)


def flow_hash(source: str, destination: str, sport: int, dport: int, protocol: int, mode: str) -> int:
    return hash_of(KEYS, words_of(source, destination, sport, dport, protocol, mode))


# ---- tables ---------------------------------------------------------------------------------------------------------


def l2_member(number: int, *, address: str | None = None, mtu: int = 1500, ifindex: int = 2) -> dict[str, Any]:
    hop = {
        "ifindex": ifindex,
        "interface": f"eth{ifindex - 1}",
        "source_mac": US if ifindex == 2 else US_EGRESS,
        "mac": f"02:00:00:00:01:{number:02x}",
        "mtu": mtu,
        "source": D4,
        "direct": True,
    }
    return {"id": f"web/l2-{number}", "address": address or f"192.0.2.{number}", "next_hop": hop}


def tunnel_member(
    number: int, version: int, encapsulation: str, *, mtu: int = 1500, ttl: str = "router", **outer: Any
) -> dict[str, Any]:
    """*outer*: how the outer header is not the usual one."""
    hop = {
        "ifindex": 3,
        "interface": "eth2",
        "source_mac": US_EGRESS,
        "mac": "02:00:00:00:02:fe",
        "mtu": mtu,
        "source": D4 if version == 4 else D6,
        "direct": False,
    }
    address = f"203.0.113.{number}" if version == 4 else f"2001:db8:2::{number}"
    return {
        "id": f"web/{encapsulation}{version}-{number}",
        "address": address,
        "encapsulation": encapsulation,
        "ttl": ttl,
        **outer,
        "next_hop": hop,
    }


def ipip_member(number: int, version: int, **more: Any) -> dict[str, Any]:
    return tunnel_member(number, version, "ipip", **more)


def service(
    name: str, version: int, protocol: str, ports: Any, slots: str, mode: str = "five_tuple", vip: str | None = None
) -> dict[str, Any]:
    ranges = [[port, port] if isinstance(port, int) else list(port) for port in ports]
    return {
        "name": name,
        "vip": vip or VIP[version],
        "protocol": protocol,
        "ports": ranges,
        "hash": mode,
        "slots": slots,
    }


def usual_services(slots: str, mode: str = "five_tuple") -> list[dict[str, Any]]:
    """Numbers 0 to 3: IPv4 TCP 80 and UDP 53, IPv6 TCP 80 and UDP 53."""
    return [
        service(f"{name}{version}", version, protocol, [port], slots, mode)
        for version in (4, 6)
        for name, protocol, port in (("web", "tcp", 80), ("dns", "udp", 53))
    ]


def protected(protection: dict[str, Any]) -> list[dict[str, Any]]:
    return [one | {"protection": protection} for one in usual_services("pool")]


USUAL = {(4, "tcp"): 0, (4, "udp"): 1, (6, "tcp"): 2, (6, "udp"): 3}


def tables(
    members: list[dict[str, Any]], slots: dict[str, Any] | None = None, services: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {
        "secret": SECRET.hex(),
        "members": members,
        "slots": slots or {"pool": {"all": 0}},
        "services": services or usual_services("pool"),
    }


# ---- frames ---------------------------------------------------------------------------------------------------------


def ip(
    version: int, *, source: str | None = None, destination: str | None = None, ttl: int = 57, **more: Any
) -> Packet:
    source, destination = source or CLIENT[version], destination or VIP[version]
    if version == 4:
        defaults = {"id": 0x1234, "flags": "DF"}
        return IP(src=source, dst=destination, ttl=ttl, **(defaults | more))
    if "tos" in more:
        more["tc"] = more.pop("tos")
    return IPv6(src=source, dst=destination, hlim=ttl, **({"fl": 0xABCDE} | more))


def segment(protocol: str, *, sport: int = 40000, dport: int | None = None, **more: Any) -> Packet:
    if protocol == "tcp":
        return TCP(sport=sport, dport=80 if dport is None else dport, **({"flags": "S", "seq": 1} | more))
    return UDP(sport=sport, dport=53 if dport is None else dport, **more)


def tag(
    packet: Packet | bytes, version: int, *tags: tuple[int, int], source: str = ROUTER, destination: str = US
) -> bytes:
    """An Ethernet frame as it arrives; tags are (TPID, TCI) from the outside in."""
    head = bytes.fromhex((destination + source).replace(":", ""))
    for tpid, tci in tags:
        head += tpid.to_bytes(2, "big") + tci.to_bytes(2, "big")
    return head + TYPE[version].to_bytes(2, "big") + bytes(packet)


def l2_out(member: dict[str, Any], packet: Packet | bytes, version: int) -> bytes:
    hop = member["next_hop"]
    return bytes(Ether(dst=hop["mac"], src=hop["source_mac"], type=TYPE[version]) / Raw(bytes(packet)))


class GUE(Packet):
    """draft-ietf-intarea-gue, section 3: the header of variant 0."""

    fields_desc = [
        BitField("variant", 0, 2),
        BitField("control", 0, 1),
        BitField("hlen", 0, 5),
        ByteField("protocol", 0),
        XShortField("flags", 0),
    ]


def outer_source(member: dict[str, Any], hash32: int) -> str:
    """The next hop's, or that of a prefix whose host is one more than what the hash has of these bits: all that are
    free, without the second lowest."""
    if "outer_prefix" not in member:
        return str(member["next_hop"]["source"])
    prefix = ip_network(member["outer_prefix"])
    free = min(32, prefix.max_prefixlen - prefix.prefixlen)
    return str(prefix[1 + sum(hash32 & 1 << bit for bit in range(free) if bit != 1)])


def tunnel_out(
    member: dict[str, Any],
    inner: Packet | bytes,
    inner_version: int,
    hash32: int,
    *,
    tos: int = 0,
    ident: int | None = None,
) -> bytes:
    """The frame towards a tunnelled member; *ident* is given exactly when the inner packet has DF clear."""
    hop, ttl, ours = member["next_hop"], member.get("outer_ttl", 64), outer_source(member, hash32)
    ip_in_ip = 4 if inner_version == 4 else 41
    protocol, between = {
        "ipip": (ip_in_ip, Raw(b"")),
        "gre": (47, GRE(proto=TYPE[inner_version])),
        "gue": (17, UDP(sport=49152 + hash32 % (1 << 14), dport=6080, chksum=0) / GUE(protocol=ip_in_ip)),
    }[member["encapsulation"]]
    if ":" in member["address"]:
        label = hash32 % (1 << 20) or 1
        outer: Packet = IPv6(src=ours, dst=member["address"], tc=tos, fl=label, nh=protocol, hlim=ttl)
        outer_version = 6
    else:
        fragmentation = {"flags": "DF", "id": 0} if ident is None else {"flags": 0, "id": ident}
        outer = IP(src=ours, dst=member["address"], tos=tos, ttl=ttl, proto=protocol, **fragmentation)
        outer_version = 4
    packet = outer / between / Raw(bytes(inner))
    return bytes(Ether(dst=hop["mac"], src=hop["source_mac"], type=TYPE[outer_version]) / packet)


def icmp_reply(frame: bytes, offset: int, version: int, original: bytes, message: Packet, source: str) -> bytes:
    """An ICMP error in answer to *frame*, whose IP packet *original* begins at *offset*."""
    if version == 4:
        head = IP(src=VIP[4], dst=source, tos=0xC0, id=0, flags="DF", ttl=64)
        error = head / message / Raw(original[:548])
    else:
        error = IPv6(src=VIP[6], dst=source, hlim=64) / message / Raw(original[:1232])
    return frame[6:12] + frame[0:6] + frame[12:offset] + bytes(error)


def too_big(version: int, mtu: int) -> Packet:
    return ICMP(type=3, code=4, nexthopmtu=mtu) if version == 4 else ICMPv6PacketTooBig(mtu=mtu)


def exceeded(version: int) -> Packet:
    return ICMP(type=11, code=0) if version == 4 else ICMPv6TimeExceeded(code=0)


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass
class File:
    name: str
    about: str
    tables: dict[str, dict[str, Any]]
    vectors: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        name: str,
        sentence: str,
        frame: bytes | Packet,
        action: dict[str, Any],
        *,
        using: str | None = None,
        ingress: dict[str, Any] | None = None,
        ident: int = 0x4242,
    ) -> None:
        using = using or next(iter(self.tables))
        self.vectors.append(
            {
                "id": name,
                "sentence": sentence,
                "tables": using,
                "ingress": ingress or INGRESS,
                "ident": ident,
                "frame": bytes(frame).hex(),
                "action": action,
            }
        )

    def sent(
        self,
        frame: bytes,
        *,
        flow: tuple[str, str, int, int, int],
        service: int,
        member: int = 0,
        using: str | None = None,
    ) -> dict[str, Any]:
        raw = self.tables[using or next(iter(self.tables))]
        hash32 = flow_hash(*flow, raw["services"][service]["hash"])
        return {
            "verdict": "transmit",
            "service": service,
            "member": member,
            "slot": hash32 * SLOTS >> 32,
            "by": "slot",
            "ifindex": raw["members"][member]["next_hop"]["ifindex"],
            "frame": frame.hex(),
        }

    def write(self) -> None:
        text = json.dumps(
            {"about": self.about, "tables": self.tables, "vectors": self.vectors}, indent=1, ensure_ascii=False
        )
        (HERE / f"{self.name}.json").write_text(text + "\n")


def passed(reason: str) -> dict[str, Any]:
    return {"verdict": "pass", "reason": reason}


def dropped(reason: str, **more: Any) -> dict[str, Any]:
    return {"verdict": "drop", "reason": reason} | more


def flow_of(
    version: int, protocol: str, sport: int = 40000, dport: int | None = None, source: str | None = None
) -> tuple[str, str, int, int, int]:
    default = 80 if protocol == "tcp" else 53
    number = TCP_NUMBER if protocol == "tcp" else UDP_NUMBER
    return source or CLIENT[version], VIP[version], sport, default if dport is None else dport, number


def drop_with_flow(
    file: File,
    reason: str,
    flow: tuple[str, str, int, int, int],
    service: int,
    *,
    member: int | None = 0,
    using: str | None = None,
    reply: tuple[bytes, str] | None = None,
) -> dict[str, Any]:
    """A drop after the slot was looked up."""
    raw = file.tables[using or next(iter(file.tables))]
    hash32 = flow_hash(*flow, raw["services"][service]["hash"])
    action = dropped(reason, service=service, slot=hash32 * SLOTS >> 32)
    if member is not None:
        action |= {"member": member, "by": "slot"}
    if reply is not None:
        action["reply"] = {"frame": reply[0].hex(), "kind": reply[1]}
    return action


# ---- L2 -------------------------------------------------------------------------------------------------------------


def l2_file() -> File:
    near, far = l2_member(21), l2_member(22, ifindex=7)
    file = File(
        "l2",
        "Direct server return on the segment (packets.md, section 3).",
        {
            "near": tables([near]),
            "far": tables([far]),
            "nobody": tables([near], {"pool": {"none": True}}),
            "ring": tables(
                [near, far],
                {
                    "pool": {
                        "ring": [
                            {"id": "web1", "weight": 1, "index": 0, "eligible": False},
                            {"id": "web2", "weight": 1, "index": 1, "eligible": True},
                        ]
                    }
                },
            ),
        },
    )
    for version in (4, 6):
        for protocol in ("tcp", "udp"):
            packet = ip(version) / segment(protocol) / Raw(b"one payload")
            file.add(
                f"L1-ipv{version}-{protocol}",
                "Only the MAC addresses change.",
                tag(packet, version),
                file.sent(
                    l2_out(near, packet, version), flow=flow_of(version, protocol), service=USUAL[version, protocol]
                ),
            )
        for ttl in (0, 1, 255):
            packet = ip(version, ttl=ttl) / segment("tcp")
            file.add(
                f"L1-ipv{version}-ttl-{ttl}",
                "A bridge does not touch the TTL or hop limit, whatever it is.",
                tag(packet, version),
                file.sent(l2_out(near, packet, version), flow=flow_of(version, "tcp"), service=USUAL[version, "tcp"]),
            )
        packet = ip(version, tos=0xBB) / segment("tcp", flags="A") / Raw(bytes(range(256)))
        file.add(
            f"L1-ipv{version}-dscp-ecn",
            "DSCP and ECN stay as they are.",
            tag(packet, version),
            file.sent(l2_out(near, packet, version), flow=flow_of(version, "tcp"), service=USUAL[version, "tcp"]),
        )
        packet = ip(version) / segment("tcp", flags="A") / Raw(b"\x5a" * (1500 - (40 if version == 4 else 60)))
        file.add(
            f"L1-ipv{version}-full-size",
            "A packet of exactly the link's MTU fits.",
            tag(packet, version),
            file.sent(l2_out(near, packet, version), flow=flow_of(version, "tcp"), service=USUAL[version, "tcp"]),
        )
        packet = ip(version) / segment("tcp")
        file.add(
            f"L4-ipv{version}-other-interface",
            "A member on another interface is reached through that, with that one's MAC address as source.",
            tag(packet, version),
            file.sent(
                l2_out(far, packet, version), flow=flow_of(version, "tcp"), service=USUAL[version, "tcp"], using="far"
            ),
            using="far",
        )
        for name, sentence, source in (
            ("member", "An L2 member that sends a packet to the VIP itself would loop it.", near["next_hop"]["mac"]),
            ("ourselves", "A frame with our own MAC address as source has come back.", US),
        ):
            file.add(
                f"L5-ipv{version}-{name}",
                sentence,
                tag(packet, version, source=source),
                dropped("loop", service=USUAL[version, "tcp"]),
            )
        file.add(
            f"C8-ipv{version}-no-member",
            "Without any eligible member, packets are dropped.",
            tag(packet, version),
            drop_with_flow(
                file, "no_member", flow_of(version, "tcp"), USUAL[version, "tcp"], member=None, using="nobody"
            ),
            using="nobody",
        )
    packet = ip(4) / segment("tcp")
    file.add(
        "L5-egress-mac",
        "Our MAC address on any interface is our own.",
        tag(packet, 4, source=US_EGRESS),
        dropped("loop", service=0),
        using="far",
    )
    file.add(
        "L5-no-service-first",
        "A port without a service is named before a loop is.",
        tag(ip(4) / segment("tcp", dport=81), 4, source=near["next_hop"]["mac"]),
        dropped("no_service"),
    )
    file.add(
        "C8-ring-one-left",
        "When only one of two members is eligible, it owns every slot.",
        tag(packet, 4),
        file.sent(l2_out(far, packet, 4), flow=flow_of(4, "tcp"), service=0, member=1, using="ring"),
        using="ring",
    )
    return file


# ---- tunnels --------------------------------------------------------------------------------------------------------


NO_LABEL = "2001:db8:c::d:2858"
"""Found by trying: a source whose hash has no flow label in its low bits."""

PREFIXES = (
    *("198.51.96.0/20", "198.51.100.64/26", "198.51.100.64/30"),
    *("2001:db8::/32", "2001:db8:d:1::/64", "2001:db8:d:1::ff00/120"),
)
"""Of sources of outer headers: the longest and the shortest that there may be among them."""

PREFIX_ENDS = {
    4: ("prefix4-26", 63, (0, 2, 61, 63)),
    6: ("prefix6-120", 255, (0, 2, 253, 255)),
}
"""By the outer version: tables, the mask of the bits that their prefix leaves free, and what of a hash makes the first
host (twice) and the last one."""

AddTunnelled = Callable[..., None]
BETWEEN = {"ipip": 0, "gre": 4, "gue": 12}


def tunnel_file(encapsulation: str, about: str) -> tuple[File, AddTunnelled]:
    """What all encapsulations have in common, and a function that adds a vector of a packet that is sent."""
    outer_df = tunnel_member(23, 4, encapsulation, outer_df="clear")
    file = File(
        encapsulation,
        about,
        {
            "over4": tables([tunnel_member(21, 4, encapsulation)]),
            "over6": tables([tunnel_member(21, 6, encapsulation)]),
            "transparent4": tables([tunnel_member(22, 4, encapsulation, ttl="transparent")]),
            "transparent6": tables([tunnel_member(22, 6, encapsulation, ttl="transparent")]),
            "source-ip": tables([tunnel_member(21, 6, encapsulation)], services=usual_services("pool", "source_ip")),
            "clear4": tables([outer_df]),
            "ttl4": tables([tunnel_member(24, 4, encapsulation, outer_ttl=9)]),
            "ttl6": tables([tunnel_member(24, 6, encapsulation, outer_ttl=255)]),
        }
        | {
            f"prefix{ip_network(prefix).version}-{prefix.partition('/')[2]}": tables(
                [tunnel_member(25, ip_network(prefix).version, encapsulation, outer_prefix=prefix)]
            )
            for prefix in PREFIXES
        },
    )

    def add(
        name: str,
        sentence: str,
        inner: int,
        outer: int,
        protocol: str,
        build: Callable[[int], Packet],
        *,
        ttl: int = 57,
        tos: int = 0,
        ident: int | None = None,
        flow: tuple[str, str, int, int, int] | None = None,
        using: str | None = None,
    ) -> None:
        """*build* makes the inner packet for a TTL."""
        using = using or f"over{outer}"
        member = file.tables[using]["members"][0]
        flow = flow or flow_of(inner, protocol)
        service_index = USUAL[inner, protocol]
        hash32 = flow_hash(*flow, file.tables[using]["services"][service_index]["hash"])
        out = ttl - 1 if member["ttl"] == "router" else ttl
        frame = tunnel_out(member, build(out), inner, hash32, tos=tos, ident=ident)
        file.add(
            name,
            sentence,
            tag(build(ttl), inner),
            file.sent(frame, flow=flow, service=service_index, using=using),
            using=using,
            ident=ident or 0,
        )

    for inner in (4, 6):
        for outer in (4, 6):
            mix = f"{encapsulation.upper()}-{inner}in{outer}"
            for protocol in ("tcp", "udp"):

                def usual(ttl: int, inner: int = inner, protocol: str = protocol) -> Packet:
                    return ip(inner, ttl=ttl) / segment(protocol) / Raw(b"payload")

                add(
                    f"{mix}-{protocol}",
                    "The whole packet goes into another; its TTL is one less, its payload the same.",
                    inner,
                    outer,
                    protocol,
                    usual,
                )
                add(
                    f"{mix}-{protocol}-transparent",
                    "A transparent director does not touch the TTL.",
                    inner,
                    outer,
                    protocol,
                    usual,
                    ttl=1,
                    using=f"transparent{outer}",
                )
            for name, tos in (("ect0", 0xBA), ("ect1", 0x01), ("ce", 0x03), ("dscp", 0xB8)):

                def marked(ttl: int, inner: int = inner, tos: int = tos) -> Packet:
                    return ip(inner, ttl=ttl, tos=tos) / segment("tcp", flags="A")

                add(
                    f"{mix}-{name}",
                    "DSCP and ECN are copied to the outer header (RFC 6040, normal mode).",
                    inner,
                    outer,
                    "tcp",
                    marked,
                    tos=tos,
                )
            room = (1480 if outer == 4 else 1460) - BETWEEN[encapsulation]

            def full(ttl: int, inner: int = inner, room: int = room) -> Packet:
                payload = b"\xa5" * (room - (40 if inner == 4 else 60))
                return ip(inner, ttl=ttl) / segment("tcp", flags="A") / Raw(payload)

            add(f"{mix}-full-size", "The largest inner packet fills the link's MTU exactly.", inner, outer, "tcp", full)
            add(
                f"{mix}-last-hop",
                "TTL 2 becomes 1 and goes on.",
                inner,
                outer,
                "udp",
                lambda ttl, inner=inner: ip(inner, ttl=ttl) / segment("udp"),
                ttl=2,
            )
            for ttl in (0, 1):
                original = bytes(ip(inner, ttl=ttl) / segment("tcp") / Raw(b"x" * 600))
                frame = tag(original, inner)
                reply = icmp_reply(frame, 14, inner, original, exceeded(inner), CLIENT[inner])
                file.add(
                    f"{mix}-ttl-{ttl}",
                    "The inner packet's life ends here; its sender is told, with the packet as it arrived quoted.",
                    frame,
                    drop_with_flow(
                        file,
                        "ttl_expired",
                        flow_of(inner, "tcp"),
                        USUAL[inner, "tcp"],
                        using=f"over{outer}",
                        reply=(reply, "icmp_time_exceeded"),
                    ),
                    using=f"over{outer}",
                )
    for protocol in ("tcp", "udp"):

        def clear(ttl: int, protocol: str = protocol) -> Packet:
            return ip(4, ttl=ttl, flags=0) / segment(protocol)

        add(
            f"{encapsulation.upper()}-4in4-{protocol}-df-clear",
            "DF clear is copied, and the outer packet then has an identification of its own.",
            4,
            4,
            protocol,
            clear,
            ident=0xBEEF,
        )
        add(
            f"{encapsulation.upper()}-4in6-{protocol}-df-clear",
            "An outer IPv6 header has no identification.",
            4,
            6,
            protocol,
            clear,
            ident=0xBEEF,
        )
    for inner in (4, 6):
        for outer in (4, 6):
            add(
                f"{encapsulation.upper()}-{inner}in{outer}-outer-ttl",
                "The outer header's TTL or hop limit is what the delivery says, whatever the inner one's.",
                inner,
                outer,
                "udp",
                lambda ttl, inner=inner: ip(inner, ttl=ttl) / segment("udp"),
                ttl=2,
                using=f"ttl{outer}",
            )
        add(
            f"{encapsulation.upper()}-{inner}in4-outer-df-clear",
            "A delivery that clears DF does so although the inner packet must not be fragmented.",
            inner,
            4,
            "tcp",
            lambda ttl, inner=inner: ip(inner, ttl=ttl) / segment("tcp"),
            ident=0xBEEF,
            using="clear4",
        )
        for outer in (4, 6):
            for prefix in (one for one in PREFIXES if ip_network(one).version == outer):
                length = prefix.partition("/")[2]
                add(
                    f"{encapsulation.upper()}-{inner}in{outer}-prefix-{length}",
                    "The outer source is of the prefix, and says by bits of the flow's hash which flow it is.",
                    inner,
                    outer,
                    "tcp",
                    lambda ttl, inner=inner: ip(inner, ttl=ttl) / segment("tcp"),
                    using=f"prefix{outer}-{length}",
                )
            using, mask, ends = PREFIX_ENDS[outer]
            for bits in ends:
                port = next(
                    port
                    for port in range(1024, 65536)
                    if flow_hash(*flow_of(inner, "udp", port), "five_tuple") & mask == bits
                )
                add(
                    f"{encapsulation.upper()}-{inner}in{outer}-prefix-bits-{bits}",
                    "Whatever bits of the hash are set, the source is not the first and not the last of its prefix.",
                    inner,
                    outer,
                    "udp",
                    lambda ttl, inner=inner, port=port: ip(inner, ttl=ttl) / segment("udp", sport=port),
                    flow=flow_of(inner, "udp", port),
                    using=using,
                )
    add(
        f"{encapsulation.upper()}-4in4-prefix-df-clear",
        "The outer checksum counts both an identification of its own and the chosen source.",
        4,
        4,
        "udp",
        lambda ttl: ip(4, ttl=ttl, flags=0) / segment("udp"),
        ident=0xBEEF,
        using="prefix4-20",
    )
    return file, add


def ipip_file() -> File:
    near = ipip_member(21, 4)
    file, add = tunnel_file("ipip", "Direct server return inside an outer IP packet (packets.md, section 1).")
    file.tables["mixed"] = tables([near, l2_member(23)])
    # The header checksum before the decrement is near the ends of one's complement arithmetic.
    for wanted in (0x0000, 0x0001, 0xFEFE, 0xFEFF, 0xFF00, 0xFFFE):
        without = int.from_bytes(bytes(ip(4, id=0) / segment("tcp"))[10:12], "big")
        ident = (without - wanted) % 0xFFFF
        assert int.from_bytes(bytes(ip(4, id=ident) / segment("tcp"))[10:12], "big") == wanted
        add(
            f"IPIP-ttl-checksum-{wanted:04x}",
            "The incremental update of the header checksum equals a new computation at the ends of the number range.",
            4,
            4,
            "tcp",
            lambda ttl, ident=ident: ip(4, id=ident, ttl=ttl) / segment("tcp"),
        )
    assert flow_hash(NO_LABEL, V6, 0, 0, 0, "source_ip") % (1 << 20) == 0
    add(
        "IPIP-6in6-label-zero",
        "A hash without low bits still makes a flow label other than zero.",
        6,
        6,
        "tcp",
        lambda ttl: ip(6, ttl=ttl, source=NO_LABEL) / segment("tcp"),
        flow=flow_of(6, "tcp", source=NO_LABEL),
        using="source-ip",
    )
    file.add(
        "L5-ourselves-ingress",
        "Our MAC address on the ingress interface is our own, even if nothing leaves there.",
        tag(ip(4) / segment("tcp"), 4, source=US),
        dropped("loop", service=0),
    )
    file.add(
        "L5-l2-member-of-any-pool",
        "A member that any service reaches by L2 is a member on the segment: its packets to a VIP are loops.",
        tag(ip(4) / segment("tcp"), 4, source="02:00:00:00:01:17"),
        dropped("loop", service=0),
        using="mixed",
    )
    packet = ip(4, ttl=57) / segment("tcp")
    file.add(
        "L5-router-of-l3-member",
        "The router towards an L3 member may well be the one that brings the clients' packets.",
        tag(packet, 4, source="02:00:00:00:02:fe"),
        file.sent(
            tunnel_out(near, ip(4, ttl=56) / segment("tcp"), 4, flow_hash(*flow_of(4, "tcp"), "five_tuple")),
            flow=flow_of(4, "tcp"),
            service=0,
        ),
    )
    return file


def gre_file() -> File:
    file, add = tunnel_file("gre", "Direct server return by GRE (packets.md, section 1; RFC 2784, RFC 7676).")
    add(
        "GRE-6in6-label-zero",
        "A hash without low bits still makes a flow label other than zero.",
        6,
        6,
        "tcp",
        lambda ttl: ip(6, ttl=ttl, source=NO_LABEL) / segment("tcp"),
        flow=flow_of(6, "tcp", source=NO_LABEL),
        using="source-ip",
    )
    return file


def gue_file() -> File:
    file, add = tunnel_file(
        "gue", "Direct server return by GUE (packets.md, section 1; draft-ietf-intarea-gue, variant 0)."
    )
    # Found by trying: sources whose hash has the lowest and the highest 14 bits.
    for source, port in (("2001:db8:c::7de", 49152), ("2001:db8:c::1927", 65535)):
        assert flow_hash(source, V6, 0, 0, 0, "source_ip") % (1 << 14) == port - 49152
        add(
            f"GUE-6in6-port-{port}",
            "The outer source port comes from the low 14 bits of the flow's hash.",
            6,
            6,
            "tcp",
            lambda ttl, source=source: ip(6, ttl=ttl, source=source) / segment("tcp"),
            flow=flow_of(6, "tcp", source=source),
            using="source-ip",
        )
    return file


# ---- parsing --------------------------------------------------------------------------------------------------------


def parsing_file() -> File:
    near, tunnelled = l2_member(21), ipip_member(21, 4)
    file = File(
        "parsing",
        "What is read of a frame, and what is wrong with some (packets.md, section 2).",
        {"l2": tables([near]), "ipip": tables([tunnelled])},
    )

    def both(
        name: str,
        sentence: str,
        version: int,
        protocol: str,
        build: Callable[[int], Packet | bytes],
        *tags: tuple[int, int],
        padding: bytes = b"",
    ) -> None:
        """Forwarded by L2 and by IPIP; *build* makes the packet for a TTL."""
        flow, service_index = flow_of(version, protocol), USUAL[version, protocol]
        frame = tag(build(57), version, *tags) + padding
        file.add(
            f"{name}-l2",
            sentence,
            frame,
            file.sent(l2_out(near, build(57), version), flow=flow, service=service_index, using="l2"),
            using="l2",
        )
        outer = tunnel_out(tunnelled, build(56), version, flow_hash(*flow, "five_tuple"))
        file.add(
            f"{name}-ipip",
            sentence,
            frame,
            file.sent(outer, flow=flow, service=service_index, using="ipip"),
            using="ipip",
        )

    def bad(name: str, sentence: str, version: int, packet: Packet | bytes, reason: str = "malformed") -> None:
        for using in ("l2", "ipip"):
            file.add(f"{name}-{using}", sentence, tag(packet, version), dropped(reason), using=using)

    def tcp_packet(version: int) -> Callable[[int], Packet]:
        return lambda ttl: ip(version, ttl=ttl) / segment("tcp")

    for version in (4, 6):
        for name, source in MARTIANS[version]:
            for protocol in ("tcp", "udp"):
                packet = ip(version, source=source) / segment(protocol)
                bad(
                    f"P2-ipv{version}-martian-{name}-{protocol}",
                    "Nobody has such an address.",
                    version,
                    packet,
                    "martian",
                )
        for number, source in enumerate(NEARLY_MARTIANS[version]):
            flow = flow_of(version, "tcp", source=source)
            packet = ip(version, source=source) / segment("tcp")
            file.add(
                f"P2-ipv{version}-no-martian-{number}",
                "The addresses beside those that nobody has may come.",
                tag(packet, version),
                file.sent(l2_out(near, packet, version), flow=flow, service=USUAL[version, "tcp"]),
            )

    # P1
    both(
        "P1-syn",
        "The IP length counts: a SYN's padding is not carried along.",
        4,
        "tcp",
        tcp_packet(4),
        padding=bytes(6),
    )
    both(
        "P1-junk",
        "Padding need not be zeros.",
        4,
        "udp",
        lambda ttl: ip(4, ttl=ttl) / segment("udp"),
        padding=b"\xde\xad" * 9,
    )
    both("P1-ipv6-trailer", "Bytes behind an IPv6 packet are padding.", 6, "tcp", tcp_packet(6), padding=b"trailer")

    # P2
    bad("P2-longer-than-frame", "The IP length says more than the frame has.", 4, bytes(ip(4, len=41) / segment("tcp")))
    bad("P2-shorter-than-header", "The IP length says less than the header's own.", 4, ip(4, len=19) / segment("tcp"))
    bad("P2-length-zero", "An IP length of zero is less than the header's own.", 4, ip(4, len=0) / segment("tcp"))
    bad("P2-ipv6-longer-than-frame", "The payload length says more than there is.", 6, ip(6, plen=21) / segment("tcp"))
    bad("P2-ipv6-empty", "No payload at all has no TCP header.", 6, ip(6, plen=0, nh=6) / segment("tcp"))

    # P3, P4
    bad("P3-ihl-4", "A header cannot be shorter than 20 bytes.", 4, _short_header())
    bad("P3-ihl-beyond-length", "Options cannot be longer than the packet.", 4, ip(4, ihl=15) / segment("tcp"))
    bad("P3-version-6-in-ipv4", "The version contradicts the Ethernet type.", 4, _version(ip(4) / segment("tcp"), 6))
    bad("P3-version-4-in-ipv6", "The version contradicts the Ethernet type.", 6, _version(ip(6) / segment("tcp"), 4))
    options = [IPOption_RR(routers=["0.0.0.0"] * 3), IPOption_NOP()]
    for protocol in ("tcp", "udp"):
        both(
            f"P3-options-{protocol}",
            "With options, the ports are where the header really ends.",
            4,
            protocol,
            lambda ttl, protocol=protocol: ip(4, ttl=ttl, options=options) / segment(protocol),
        )
    both(
        "P3-options-like-ports",
        "Options that look like a TCP header are not one.",
        4,
        "tcp",
        lambda ttl: _raw_options(bytes(TCP(sport=40000, dport=81)), ttl),
    )
    bad("P4-checksum", "A wrong header checksum is not repaired.", 4, ip(4, chksum=0x1234) / segment("tcp"))
    good = bytes(ip(4) / segment("tcp"))
    for bit in (0, 15):
        chksum = int.from_bytes(good[10:12], "big") ^ (1 << bit)
        bad(f"P4-checksum-bit-{bit}", "One wrong bit is enough.", 4, ip(4, chksum=chksum) / segment("tcp"))
    bad(
        "P4-checksum-options",
        "Options count in the checksum.",
        4,
        _flip(bytes(ip(4, options=options) / segment("tcp")), 25),
    )

    # P5
    for version in (4, 6):
        for name, sentence, tags in (
            ("vlan", "A tag is taken off; the egress segment's is the kernel's to add.", [(0x8100, 100)]),
            ("priority", "A priority tag is a tag.", [(0x8100, 0xE000)]),
            ("qinq", "Two tags are taken off.", [(0x88A8, 100), (0x8100, 200)]),
            ("two-customer-tags", "Two tags of the same kind are taken off.", [(0x8100, 100), (0x8100, 0x6FFF)]),
        ):
            both(f"P5-ipv{version}-{name}", sentence, version, "tcp", tcp_packet(version), *tags)
        file.add(
            f"P5-ipv{version}-three-tags",
            "More than two tags are not looked behind.",
            tag(tcp_packet(version)(57), version, (0x88A8, 1), (0x88A8, 2), (0x8100, 3)),
            passed("not_ip"),
        )
    file.add("P5-cut-tag", "A frame may end within a tag.", tag(b"", 4, (0x8100, 100))[:-2], passed("not_ip"))

    # P6
    chains: list[tuple[str, str, Callable[[], Packet]]] = [
        ("hop-by-hop", "Hop-by-hop options are walked over.", lambda: IPv6ExtHdrHopByHop()),
        ("destination-options", "Destination options are walked over.", lambda: IPv6ExtHdrDestOpt()),
        (
            "routing-4",
            "A routing header other than type 0 is walked over.",
            lambda: IPv6ExtHdrRouting(type=4, segleft=0, addresses=["2001:db8::5"]),
        ),
        (
            "ah",
            "An authentication header is walked over.",
            lambda: AH(nh=6, payloadlen=4, spi=1, seq=2, icv=b"\x11" * 12),
        ),
    ]
    for name, sentence, chain in chains:
        both(
            f"P6-{name}",
            sentence,
            6,
            "tcp",
            lambda ttl, chain=chain: ip(6, ttl=ttl) / chain() / segment("tcp"),
        )
    both("P6-all", "A chain of several is walked over.", 6, "tcp", _all_extensions)
    both(
        "P6-udp-behind-options",
        "UDP behind extension headers is UDP.",
        6,
        "udp",
        lambda ttl: ip(6, ttl=ttl) / IPv6ExtHdrDestOpt() / segment("udp"),
    )
    both("P6-eight", "Eight extension headers are walked over.", 6, "tcp", lambda ttl: _destination_options(8, ttl))
    bad("P6-nine", "Nine are too many.", 6, _destination_options(9, 57), "unsupported_header")
    bad(
        "P6-routing-0",
        "Routing type 0 is dropped (RFC 5095).",
        6,
        ip(6) / IPv6ExtHdrRouting(type=0, segleft=1, addresses=["2001:db8::5"]) / segment("tcp"),
        "unsupported_header",
    )
    bad(
        "P6-late-hop-by-hop",
        "Hop-by-hop options are allowed right after the IPv6 header only.",
        6,
        ip(6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / segment("tcp"),
        "unsupported_header",
    )
    for number in (135, 253):
        bad(
            f"P6-unknown-{number}",
            "An extension header that is not known hides what follows.",
            6,
            ip(6, nh=number) / Raw(bytes([6, 0]) + bytes(6)) / segment("tcp"),
            "unsupported_header",
        )
    bad(
        "P6-beyond-packet",
        "An extension header cannot be longer than the packet.",
        6,
        ip(6, nh=60) / Raw(bytes([6, 9]) + bytes(26)),
    )
    bad("P6-cut", "An extension header has at least eight bytes.", 6, ip(6, nh=60) / Raw(bytes([6, 0]) + bytes(2)))
    bad(
        "P6-nothing-follows",
        "No next header is not TCP.",
        6,
        ip(6, nh=60) / Raw(bytes([59, 0, 1, 4]) + bytes(4)),
        "protocol",
    )

    # P7
    for version in (4, 6):
        prefix = f"P7-ipv{version}"
        tcp_bytes = bytes(tcp_packet(version)(57))[20 if version == 4 else 40 :]
        number = {"proto": 6} if version == 4 else {"nh": 6}
        udp_number = {"proto": 17} if version == 4 else {"nh": 17}
        bad(
            f"{prefix}-tcp-cut",
            "A TCP header has at least 20 bytes.",
            version,
            ip(version, **number) / Raw(tcp_bytes[:19]),
        )
        bad(f"{prefix}-tcp-none", "A packet may end with its IP header.", version, ip(version, **number))
        bad(
            f"{prefix}-tcp-offset-4",
            "A data offset below five is a contradiction.",
            version,
            ip(version) / segment("tcp", dataofs=4),
        )
        bad(
            f"{prefix}-tcp-offset-beyond",
            "TCP options cannot be longer than the packet.",
            version,
            ip(version) / segment("tcp", dataofs=6),
        )
        udp_bytes = bytes(ip(version) / segment("udp"))[20 if version == 4 else 40 :]
        bad(
            f"{prefix}-udp-cut",
            "A UDP header has eight bytes.",
            version,
            ip(version, **udp_number) / Raw(udp_bytes[:7]),
        )
        bad(
            f"{prefix}-udp-length-7",
            "A UDP length below eight is a contradiction.",
            version,
            ip(version) / segment("udp", len=7),
        )
        bad(
            f"{prefix}-udp-length-beyond",
            "A UDP length beyond the packet is a contradiction.",
            version,
            ip(version) / segment("udp", len=13) / Raw(b"four"),
        )
        both(
            f"{prefix}-udp-length-short",
            "A UDP length below the packet's leaves room for UDP options, which are none of our business.",
            version,
            "udp",
            lambda ttl, version=version: ip(version, ttl=ttl) / segment("udp", len=8) / Raw(b"options"),
        )
        both(
            f"{prefix}-tcp-options",
            "TCP options are carried along.",
            version,
            "tcp",
            lambda ttl, version=version: (
                ip(version, ttl=ttl) / segment("tcp", options=[("MSS", 1400), ("SAckOK", b"")])
            ),
        )
        # P8, P9
        for flags, name in (("SF", "syn-fin"), ("SR", "syn-rst"), ("", "null"), ("FPU", "xmas")):
            both(
                f"P8-ipv{version}-{name}",
                "Odd flags are the member's to judge.",
                version,
                "tcp",
                lambda ttl, version=version, flags=flags: ip(version, ttl=ttl) / segment("tcp", flags=flags),
            )
        both(
            f"P9-ipv{version}-udp-no-checksum",
            "A UDP checksum of zero is forwarded unchanged.",
            version,
            "udp",
            lambda ttl, version=version: ip(version, ttl=ttl) / segment("udp", chksum=0) / Raw(b"data"),
        )
        both(
            f"P9-ipv{version}-udp-wrong-checksum",
            "A wrong L4 checksum is the member's to judge.",
            version,
            "udp",
            lambda ttl, version=version: ip(version, ttl=ttl) / segment("udp", chksum=0x1111) / Raw(b"data"),
        )

        # P14
        head = 40 if version == 4 else 60
        super_frame = ip(version) / segment("tcp", flags="A") / Raw(b"s" * (4000 - head))
        bad(f"P14-ipv{version}-super-frame", "No wire carries this frame.", version, super_frame, "oversized_frame")
        one_more = ip(version) / segment("tcp", flags="A") / Raw(b"s" * (1501 - head))
        bad(f"P14-ipv{version}-one-byte", "One byte more than the link's MTU.", version, one_more, "oversized_frame")
        both(
            f"P14-ipv{version}-tags-do-not-count",
            "VLAN tags come on top of the MTU.",
            version,
            "tcp",
            lambda ttl, version=version, head=head: (
                ip(version, ttl=ttl) / segment("tcp", flags="A") / Raw(b"s" * (1480 - head))
            ),
            (0x88A8, 1),
            (0x8100, 2),
        )
    full = ip(4) / segment("tcp", flags="A") / Raw(b"s" * 1460)
    file.add(
        "P14-tagged-full-size",
        "Two tags do not make a packet of the link's MTU too large.",
        tag(full, 4, (0x88A8, 1), (0x8100, 2)),
        file.sent(l2_out(near, full, 4), flow=flow_of(4, "tcp"), service=0, using="l2"),
        using="l2",
    )
    file.add(
        "P14-before-lengths",
        "A super-frame is named as such even if its IP length is zero, as that of BIG TCP is.",
        tag(ip(4, len=0) / segment("tcp", flags="A") / Raw(b"s" * 3960), 4),
        dropped("oversized_frame"),
    )

    # P15
    syn = tcp_packet(4)(57)
    elsewhere = {4: "198.51.100.8", 6: "2001:db8:f::8"}
    file.add(
        "P15-arp-broadcast",
        "ARP is the kernel's; as a broadcast it is not even for our MAC address.",
        Ether(dst="ff:ff:ff:ff:ff:ff", src=ROUTER) / ARP(op=1, hwsrc=ROUTER, psrc=C4, pdst=V4),
        passed("not_vip"),
    )
    file.add(
        "P15-arp-unicast",
        "ARP is the kernel's.",
        Ether(dst=US, src=ROUTER) / ARP(op=2, hwsrc=ROUTER, psrc=C4, hwdst=US, pdst=D4),
        passed("not_ip"),
    )
    file.add(
        "P15-llc",
        "A frame with a length for a type is not IP.",
        bytes.fromhex((US + ROUTER).replace(":", "")) + b"\x00\x26\x42\x42\x03" + bytes(35),
        passed("not_ip"),
    )
    file.add("P15-no-type", "A frame may end before its type.", tag(b"", 4)[:13], passed("not_ip"))
    file.add("P15-empty", "A frame may be empty.", b"", passed("not_vip"))
    for version in (4, 6):
        packet = tcp_packet(version)(57)
        file.add(
            f"P15-ipv{version}-not-vip",
            "Another destination is the kernel's.",
            tag(ip(version, destination=elsewhere[version]) / segment("tcp"), version),
            passed("not_vip"),
        )
        file.add(
            f"P15-ipv{version}-other-mac",
            "A frame for another MAC address is not ours, even if it is for a VIP.",
            tag(packet, version, destination="02:00:00:00:00:99"),
            passed("not_vip"),
        )
        file.add(
            f"P15-ipv{version}-broadcast-mac",
            "A VIP behind a broadcast MAC address is not ours.",
            tag(packet, version, destination="ff:ff:ff:ff:ff:ff"),
            passed("not_vip"),
        )
        file.add(
            f"P15-ipv{version}-cut-before-address",
            "A frame that ends within the destination address is not for a VIP.",
            tag(packet, version)[: 14 + (19 if version == 4 else 39)],
            passed("not_vip"),
        )
        file.add(
            f"P15-ipv{version}-only-header",
            "A frame that ends with the IP header contradicts the length in it.",
            tag(packet, version)[: 14 + (20 if version == 4 else 40)],
            dropped("malformed"),
        )
    file.add(
        "P15-malformed-not-vip",
        "What is not for a VIP is not checked.",
        tag(ip(4, destination=elsewhere[4], chksum=1, len=9) / segment("tcp"), 4),
        passed("not_vip"),
    )
    file.add(
        "P15-super-frame-not-vip",
        "What is not for a VIP may be of any size.",
        tag(ip(4, destination=elsewhere[4]) / segment("tcp") / Raw(bytes(3000)), 4),
        passed("not_vip"),
    )
    file.add(
        "P15-vip-as-source",
        "A VIP as source means nothing.",
        tag(ip(4, source=V4, destination=C4) / segment("tcp"), 4),
        passed("not_vip"),
    )
    file.add(
        "P15-mapped",
        "A VIP written as an IPv6 address is not that VIP.",
        tag(ip(6, destination="::ffff:" + V4) / segment("tcp"), 6),
        passed("not_vip"),
    )

    # neither TCP nor UDP
    bad("P10-ipv4-gre", "GRE to a VIP is not forwarded.", 4, ip(4, proto=47) / Raw(bytes(8)), "protocol")
    bad("P10-ipv4-ipip", "An IP packet inside a packet to a VIP is not looked at.", 4, ip(4, proto=4) / syn, "protocol")
    bad("P10-ipv6-esp", "What ESP hides cannot be forwarded.", 6, ip(6, nh=50) / Raw(bytes(24)), "protocol")
    return file


def _version(packet: Packet, version: int) -> bytes:
    """The packet with another version in its first byte; the IPv4 checksum is made right for it."""
    raw = bytearray(bytes(packet))
    change = ((version << 4) - (raw[0] & 0xF0)) << 8
    raw[0] = version << 4 | raw[0] & 15
    if version == 6:
        folded = int.from_bytes(raw[10:12], "big") - change
        raw[10:12] = (folded % 0xFFFF).to_bytes(2, "big")
    return bytes(raw)


def _raw_options(options: bytes, ttl: int) -> Packet:
    """A SYN behind an IPv4 header with these bytes for options, a multiple of four."""
    syn = bytes(ip(4) / segment("tcp"))[20:]
    head = bytes(ip(4, ttl=ttl, ihl=5 + len(options) // 4, len=20 + len(options) + len(syn), proto=6, chksum=0))
    total = sum(int.from_bytes((head + options)[i : i + 2], "big") for i in range(0, 20 + len(options), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return Raw(head[:10] + (0xFFFF - total).to_bytes(2, "big") + head[12:] + options + syn)


def _with_options(options: bytes, body: bytes, ttl: int, offset: int, *, more: bool) -> bytes:
    """A piece of a packet with these options, a multiple of four bytes."""
    head = IP(src=C4, dst=V4, ttl=ttl, id=0x1234, flags="MF" if more else 0, frag=offset, proto=6)
    head.options = [Raw(options)]
    return bytes(head / Raw(body))


def _short_header() -> bytes:
    """A header length of 16 bytes, all else being right for that: the checksum, and a UDP length where it would be."""
    raw = bytearray(bytes(ip(4, ihl=4, chksum=0) / segment("udp", sport=12)))
    total = sum(int.from_bytes(raw[i : i + 2], "big") for i in range(0, 16, 2))
    raw[10:12] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
    return bytes(raw)


def _flip(packet: bytes, position: int) -> bytes:
    return packet[:position] + bytes((packet[position] ^ 0x10,)) + packet[position + 1 :]


def _destination_options(count: int, ttl: int) -> bytes:
    """That many destination options headers of eight bytes before a SYN."""
    plain = bytes(ip(6, ttl=ttl) / segment("tcp"))
    chain = b"".join(bytes([60 if left else 6, 0, 1, 4, 0, 0, 0, 0]) for left in range(count - 1, -1, -1))
    length = (len(chain) + 20).to_bytes(2, "big")
    return plain[:4] + length + bytes([60]) + plain[7:40] + chain + plain[40:]


def _all_extensions(ttl: int) -> bytes:
    """Hop-by-hop, destination options, routing, authentication, a longer destination options header, and a SYN."""
    chain = (
        bytes([60, 0, 1, 4, 0, 0, 0, 0])
        + bytes([43, 0, 1, 4, 0, 0, 0, 0])
        + bytes([51, 0, 4, 0, 0, 0, 0, 0])
        + bytes([60, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2])
        + b"\x11" * 12
        + bytes([6, 2, 1, 20])
        + bytes(20)
    )
    syn = bytes(ip(6, ttl=ttl) / segment("tcp"))[40:]
    return bytes(ip(6, ttl=ttl, nh=0, plen=len(chain) + len(syn)) / Raw(chain + syn))


# ---- services and hash modes ----------------------------------------------------------------------------------------


def refusals(file: File) -> None:
    """Ports that no service has, of VIPs that answer there."""

    def refused(name: str, sentence: str, version: int, packet: Packet | bytes, reset: dict[str, Any] | None) -> None:
        """Answered by a TCP reset of that kind, or by an ICMP error where there is none."""
        frame = tag(packet, version)
        if reset is None:
            unreachable = ICMP(type=3, code=3) if version == 4 else ICMPv6DestUnreach(code=4)
            reply, kind = (
                icmp_reply(frame, 14, version, bytes(packet), unreachable, CLIENT[version]),
                "icmp_port_unreachable",
            )
        else:
            ends = {"source": VIP[version], "destination": CLIENT[version], "ttl": 64}
            head = ip(version, **ends, **({"id": 0} if version == 4 else {"fl": 0}))
            answer = head / TCP(sport=81, dport=40000, window=0, **reset)
            reply, kind = frame[6:12] + frame[:6] + frame[12:14] + bytes(answer), "tcp_reset"
        action = dropped("no_service") | {"reply": {"frame": reply.hex(), "kind": kind}}
        file.add(f"P10-{name}-ipv{version}", sentence, frame, action, using="rejecting")

    def silent(name: str, sentence: str, version: int, packet: Packet | bytes) -> None:
        file.add(f"P10-{name}-ipv{version}", sentence, tag(packet, version), dropped("no_service"), using="rejecting")

    for version in (4, 6):

        def tcp(flags: str, data: bytes = b"", version: int = version, **more: Any) -> Packet:
            return ip(version) / segment("tcp", dport=81, flags=flags, **more) / Raw(data)

        refused("reject-syn", "A connection is refused at once.", version, tcp("S", seq=7), {"flags": "RA", "ack": 8})
        refused(
            "reject-ecn",
            "A SYN that offers ECN is a SYN.",
            version,
            tcp("SEC", seq=7),
            {"flags": "RA", "ack": 8},
        )
        refused(
            "reject-wrap",
            "Data and FIN count, and numbers go round the corner.",
            version,
            tcp("F", b"data", seq=0xFFFFFFFE),
            {"flags": "RA", "ack": 3},
        )
        refused(
            "reject-ack",
            "Who acknowledges gets a reset with the number that it waits for.",
            version,
            tcp("PA", b"data", seq=7, ack=99),
            {"flags": "R", "seq": 99, "ack": 0},
        )
        silent("reject-rst", "A reset is never answered.", version, tcp("RA", seq=7, ack=99))
        silent("reject-damaged", "Nothing damaged is answered.", version, tcp("S", chksum=0x1234))
        datagram = ip(version) / UDP(sport=40000, dport=81) / Raw(b"d" * 1400)
        refused(
            "reject-udp", "A datagram is answered by an error, with as much of it as fits.", version, datagram, None
        )
        sumless = ip(version) / UDP(sport=40000, dport=81, chksum=0) / Raw(b"data")
        refused("reject-udp-no-checksum", "Also one without a checksum.", version, sumless, None)
        damaged = ip(version) / UDP(sport=40000, dport=81, chksum=0x1234) / Raw(b"data")
        silent("reject-udp-damaged", "A datagram that is damaged is not answered.", version, damaged)
    options = ip(4, options=[IPOption_NOP()] * 4) / segment("tcp", dport=81, seq=7)
    refused("reject-options", "IPv4 options make no difference.", 4, options, {"flags": "RA", "ack": 8})
    first = ip(4, flags="MF") / segment("tcp", dport=81) / Raw(bytes(16))
    silent("reject-fragment", "A fragment is not answered.", 4, first)
    other = ip(4, destination="198.51.100.8") / segment("tcp", dport=81)
    silent("reject-other-vip", "A VIP that does not say so is silent.", 4, other)
    nobody = ip(4, source="198.51.100.7") / segment("tcp", dport=81)
    file.add("P10-reject-martian", "Nobody is not answered.", tag(nobody, 4), dropped("martian"), using="rejecting")


def services_file() -> File:
    members = [l2_member(21 + number) for number in range(4)]
    every = {f"m{number}": {"all": number} for number in range(4)} | {"cycle": {"cycle": [0, 1, 2, 3]}}
    precedence = [
        service(f"{kind}{version}{protocol}", version, protocol, ports, slots)
        for version in (4, 6)
        for protocol in ("tcp", "udp")
        for kind, ports, slots in (
            ("any", [(1, 65535)], "m0"),
            ("wide", [(8000, 9000)], "m1"),
            ("narrow", [(8080, 8090), 9500], "m2"),
            ("exact", [8085, 443], "m3"),
        )
    ]
    modes = ("source_ip", "source_ip_port", "five_tuple")
    by_mode = {
        mode: tables(
            members,
            every,
            [service(f"{mode}{v}{p}", v, p, [(1, 1000)], "cycle", mode) for v in (4, 6) for p in ("tcp", "udp")],
        )
        for mode in modes
    }
    file = File(
        "services",
        "Which virtual service a packet belongs to (P10, P11), and which slot (section 7).",
        {
            "precedence": tables(members, every, precedence),
            "two": tables(members, every, [service("web", 4, "tcp", [80], "m0"), service("dns", 6, "udp", [53], "m1")]),
            "rejecting": tables(
                members,
                every,
                [
                    service("web", 4, "tcp", [80, (8000, 9000)], "m0") | {"rejects": True},
                    service("dns", 6, "udp", [53], "m1") | {"rejects": True},
                    service("silent", 4, "tcp", [80], "m2", vip="198.51.100.8"),
                ],
            ),
        }
        | by_mode,
    )
    for version in (4, 6):
        for protocol in ("tcp", "udp"):
            base = 4 * ((version == 6) * 2 + (protocol == "udp"))
            for port, kind in (
                (1, 0),
                (65535, 0),
                (7999, 0),
                (8000, 1),
                (8079, 1),
                (8080, 2),
                (8084, 2),
                (8085, 3),
                (8090, 2),
                (8091, 1),
                (9000, 1),
                (9001, 0),
                (9500, 2),
                (443, 3),
            ):
                packet = ip(version) / segment(protocol, dport=port)
                file.add(
                    f"P11-ipv{version}-{protocol}-{port}",
                    "An exact port beats a range, a narrow range a wide one, any range the wildcard.",
                    tag(packet, version),
                    file.sent(
                        l2_out(members[kind], packet, version),
                        flow=flow_of(version, protocol, dport=port),
                        service=base + kind,
                        member=kind,
                    ),
                )
            file.add(
                f"P11-ipv{version}-{protocol}-0",
                "Port 0 is not even in the wildcard.",
                tag(ip(version) / segment(protocol, dport=0), version),
                dropped("no_service"),
            )
    for name, sentence, version, packet in (
        ("other-port", "A VIP without a service on the port drops.", 4, ip(4) / segment("tcp", dport=81)),
        (
            "other-protocol",
            "The same port of the other protocol is another service.",
            4,
            ip(4) / segment("udp", dport=80),
        ),
        ("other-vip", "A port of one VIP is not one of another.", 6, ip(6) / segment("tcp", dport=80)),
        ("source-port", "The source port chooses nothing.", 4, ip(4) / segment("tcp", sport=80, dport=1234)),
    ):
        file.add(f"P10-{name}", sentence, tag(packet, version), dropped("no_service"), using="two")
    refusals(file)

    sources = {
        4: ["203.0.113.1", "203.0.113.2", "192.0.2.200", "10.255.0.1"],
        6: ["2001:db8:c::1", "2001:db8:c::2", "2001:db8:c:1::1", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"],
    }
    for mode in modes:
        for version in (4, 6):
            for protocol in ("tcp", "udp"):
                for source in sources[version]:
                    for sport, dport in ((1024, 80), (1025, 80), (1024, 443)):
                        flow = flow_of(version, protocol, sport, dport, source)
                        slot = flow_hash(*flow, mode) * SLOTS >> 32
                        packet = ip(version, source=source) / segment(protocol, sport=sport, dport=dport)
                        file.add(
                            f"hash-{mode}-{protocol}-{source}-{sport}-{dport}",
                            "The hash mode decides what of the flow chooses the slot.",
                            tag(packet, version),
                            file.sent(
                                l2_out(members[slot % 4], packet, version),
                                flow=flow,
                                service=2 * (version == 6) + (protocol == "udp"),
                                member=slot % 4,
                                using=mode,
                            ),
                            using=mode,
                        )
    return file


# ---- fragments ------------------------------------------------------------------------------------------------------


def fragments_file() -> File:
    near, tunnelled, other = l2_member(21), ipip_member(22, 4), l2_member(23)
    every = {"a": {"all": 0}, "b": {"all": 1}, "c": {"all": 2}}

    def pair(first: tuple[str, str], second: tuple[str, str]) -> list[dict[str, Any]]:
        return [
            service(f"{name}{version}{protocol}", version, protocol, [port], slots, mode)
            for version in (4, 6)
            for protocol in ("tcp", "udp")
            for name, port, (slots, mode) in (("one", 80, first), ("two", 53, second))
        ]

    def made(first: tuple[str, str], second: tuple[str, str]) -> dict[str, Any]:
        return tables([near, tunnelled, other], every, pair(first, second))

    file = File(
        "fragments",
        "Fragments (packets.md, section 6). Every VIP has TCP and UDP services on ports 80 and 53.",
        {
            "l2": made(("a", "source_ip"), ("a", "source_ip")),
            "ipip": made(("b", "source_ip"), ("b", "source_ip")),
            "two-pools": made(("a", "source_ip"), ("c", "source_ip")),
            "two-modes": made(("a", "source_ip"), ("a", "five_tuple")),
            "five_tuple": made(("a", "five_tuple"), ("a", "five_tuple")),
            "source_ip_port": made(("a", "source_ip_port"), ("a", "source_ip_port")),
            "tcp4-only": tables([near], {"a": {"all": 0}}, [service("web", 4, "tcp", [80], "a", "source_ip")]),
        },
    )
    number_of = {"tcp": 6, "udp": 17}

    def fragment(version: int, protocol: str, part: str, ttl: int = 57) -> bytes:
        """A first or later fragment of a segment with 100 bytes of data."""
        whole = bytes(ip(version, ttl=ttl) / segment(protocol) / Raw(b"d" * 100))
        payload = whole[20 if version == 4 else 40 :]
        piece, position, more = (payload[:64], 0, 1) if part == "first" else (payload[64:], 8, 0)
        if version == 4:
            return bytes(ip(4, ttl=ttl, flags=more, frag=position, proto=number_of[protocol], id=7) / Raw(piece))
        header = IPv6ExtHdrFragment(nh=number_of[protocol], offset=position, m=more, id=7)
        return bytes(ip(6, ttl=ttl) / header / Raw(piece))

    for version in (4, 6):
        for protocol in ("tcp", "udp"):
            base = 2 * ((version == 6) * 2 + (protocol == "udp"))
            # A first fragment's service is found by its port (53 is the second one's); for later ones the first stands.
            for part in ("first", "later"):
                index = base + (1 if protocol == "udp" and part == "first" else 0)
                name = f"ipv{version}-{protocol}-{part}"
                packet = fragment(version, protocol, part)
                file.add(
                    f"F0-{name}-l2",
                    "With the source address alone in the hash, every fragment has its member.",
                    tag(packet, version),
                    file.sent(
                        l2_out(near, packet, version), flow=flow_of(version, protocol), service=index, using="l2"
                    ),
                    using="l2",
                )
                hash32 = flow_hash(*flow_of(version, protocol), "source_ip")
                outer = tunnel_out(
                    tunnelled,
                    fragment(version, protocol, part, 56),
                    version,
                    hash32,
                    ident=0x4242 if version == 4 else None,
                )
                file.add(
                    f"F0-{name}-ipip",
                    "A fragment is encapsulated as the packet that it is.",
                    tag(packet, version),
                    file.sent(outer, flow=flow_of(version, protocol), service=index, member=1, using="ipip"),
                    using="ipip",
                )
                for mode in ("five_tuple", "source_ip_port"):
                    if part == "first":
                        sentence = "A first fragment is placed as a whole packet of its flow."
                        expected = file.sent(
                            l2_out(near, packet, version), flow=flow_of(version, protocol), service=index, using=mode
                        )
                    else:
                        sentence = "With ports in the hash, a later fragment alone says nothing about its member."
                        expected = dropped("fragment")
                    file.add(f"F1-{name}-{mode}", sentence, tag(packet, version), expected, using=mode)
            packet = fragment(version, protocol, "later")
            for using, sentence in (
                ("two-pools", "Services with different pools do not agree on a later fragment's member."),
                ("two-modes", "One service that hashes ports spoils later fragments for all of the VIP and protocol."),
            ):
                file.add(
                    f"F2-ipv{version}-{protocol}-{using}",
                    sentence,
                    tag(packet, version),
                    dropped("fragment"),
                    using=using,
                )
            # F5
            whole = bytes(ip(version) / segment(protocol) / Raw(b"d" * 100))[20 if version == 4 else 40 :]
            for cut in (16, 8) if protocol == "tcp" else (4,):
                if version == 4:
                    tiny = ip(4, flags=1, proto=number_of[protocol]) / Raw(whole[:cut])
                else:
                    tiny = ip(6) / IPv6ExtHdrFragment(nh=number_of[protocol], m=1, id=7) / Raw(whole[:cut])
                file.add(
                    f"F5-ipv{version}-{protocol}-{cut}",
                    "A first fragment that cuts the L4 header is dropped.",
                    tag(tiny, version),
                    dropped("fragment"),
                    using="l2",
                )
        options = bytes(ip(version) / segment("tcp", options=[("MSS", 1400)]))[20 if version == 4 else 40 :][:20]
        if version == 4:
            tiny = ip(4, flags=1, proto=6) / Raw(options)
        else:
            tiny = ip(6) / IPv6ExtHdrFragment(nh=6, m=1, id=7) / Raw(options)
        file.add(
            f"F5-ipv{version}-tcp-options",
            "A first fragment that cuts the TCP options is dropped.",
            tag(tiny, version),
            dropped("fragment"),
            using="l2",
        )
    file.add(
        "F5-ipv6-chain",
        "A first fragment that ends within its extension headers is dropped.",
        tag(ip(6) / IPv6ExtHdrFragment(nh=60, m=1, id=7) / Raw(bytes([6, 3]) + bytes(6)), 6),
        dropped("fragment"),
        using="l2",
    )
    # F6
    for mode in ("l2", "five_tuple"):
        atomic = ip(6) / IPv6ExtHdrFragment(nh=6, id=7) / segment("tcp")
        file.add(
            f"F6-{mode}",
            "An atomic fragment is a whole packet and goes on as it came.",
            tag(atomic, 6),
            file.sent(l2_out(near, atomic, 6), flow=flow_of(6, "tcp"), service=4, using=mode),
            using=mode,
        )
    file.add(
        "F6-twice",
        "A second fragment header makes no sense.",
        tag(ip(6) / IPv6ExtHdrFragment(nh=44, id=7) / IPv6ExtHdrFragment(nh=6, id=7) / segment("tcp"), 6),
        dropped("unsupported_header"),
        using="l2",
    )
    later = ip(6) / IPv6ExtHdrFragment(nh=60, offset=8, id=7) / Raw(bytes(16))
    file.add(
        "F2-ipv6-hidden-protocol",
        "A later fragment whose protocol stands in the first one cannot be placed.",
        tag(later, 6),
        dropped("fragment"),
        using="l2",
    )
    file.add(
        "F2-no-service",
        "A later fragment of a protocol without any service on the VIP.",
        tag(fragment(4, "udp", "later"), 4),
        dropped("no_service"),
        using="tcp4-only",
    )
    file.add(
        "F2-icmp",
        "A later fragment of ICMP.",
        tag(ip(4, flags=0, frag=8, proto=1) / Raw(bytes(16)), 4),
        dropped("fragment"),
        using="l2",
    )
    file.add(
        "F1-no-service",
        "A first fragment to a port without a service.",
        tag(ip(4, flags=1) / segment("tcp", dport=81) / Raw(bytes(12)), 4),
        dropped("no_service"),
        using="l2",
    )
    ttl_one = fragment(4, "tcp", "later", 1)
    file.add(
        "F0-later-ttl-1",
        "A later fragment gets no ICMP error (RFC 1122).",
        tag(ttl_one, 4),
        drop_with_flow(file, "ttl_expired", flow_of(4, "tcp"), 0, member=1, using="ipip"),
        using="ipip",
    )
    return file


# ---- MTU ------------------------------------------------------------------------------------------------------------


def mtu_file() -> File:
    file = File(
        "mtu",
        "Packets that are larger than the way to their member (packets.md, section 4).",
        {
            "over4": tables([ipip_member(21, 4)]),
            "over6": tables([ipip_member(21, 6)]),
            "small4": tables([ipip_member(21, 4, mtu=1280)]),
            "small6": tables([ipip_member(21, 6, mtu=1280)]),
            "tiny4": tables([ipip_member(21, 4, mtu=100)]),
            "l2-small": tables([l2_member(21, mtu=1400)]),
            "transparent": tables([ipip_member(21, 4, ttl="transparent")]),
            "clear4": tables([ipip_member(21, 4, outer_df="clear")]),
            "path4": tables([ipip_member(21, 4, path_mtu=1200)]),
            "path6": tables([ipip_member(21, 6, path_mtu=1280)]),
            "path4-gue": tables([tunnel_member(21, 4, "gue", path_mtu=576)]),
            "over4-source": tables([ipip_member(21, 4)], services=usual_services("pool", "source_ip")),
        }
        | {
            f"{encapsulation}{outer}": tables([tunnel_member(21, outer, encapsulation)])
            for encapsulation in ("gre", "gue")
            for outer in (4, 6)
        }
        | {"gue-small6": tables([tunnel_member(21, 6, "gue", mtu=1320)])},
    )

    def sized(version: int, size: int, **more: Any) -> bytes:
        head = 40 if version == 4 else 60
        source = more.pop("source", None)
        return bytes(ip(version, source=source, **more) / segment("tcp", flags="A") / Raw(b"q" * (size - head)))

    def add(
        name: str,
        sentence: str,
        version: int,
        packet: bytes,
        told: int | None,
        using: str,
        *tags: tuple[int, int],
        source: str | None = None,
        source_mac: str = ROUTER,
        ingress: dict[str, Any] | None = None,
        padding: bytes = b"",
    ) -> None:
        """Dropped as too big; *told* is the MTU in the answer, if there is one."""
        frame = tag(packet, version, *tags, source=source_mac) + padding
        source = source or CLIENT[version]
        reply = None
        if told is not None:
            answer = icmp_reply(frame, 14 + 4 * len(tags), version, packet, too_big(version, told), source)
            reply = (answer, "icmp_too_big")
        file.add(
            name,
            sentence,
            frame,
            drop_with_flow(
                file,
                "too_big",
                flow_of(version, "tcp", source=source),
                USUAL[version, "tcp"],
                using=using,
                reply=reply,
            ),
            using=using,
            ingress=ingress,
        )

    usual = "The client is told the largest packet that fits, and the packet as it arrived is quoted."
    add("M1-4in4", usual, 4, sized(4, 1481), 1480, "over4")
    add("M1-4in6", usual, 4, sized(4, 1461), 1460, "over6")
    add("M2-6in4", usual, 6, sized(6, 1481), 1480, "over4")
    add("M2-6in6", usual, 6, sized(6, 1461), 1460, "over6")
    for encapsulation in ("gre", "gue"):
        for outer in (4, 6):
            using = f"{encapsulation}{outer}"
            room = (1480 if outer == 4 else 1460) - BETWEEN[encapsulation]
            add(f"M1-4in{outer}-{using}", usual, 4, sized(4, room + 1), room, using)
            add(f"M2-6in{outer}-{using}", usual, 6, sized(6, room + 1), room, using)
    add("M2-floor-gue", "To IPv6, no less than 1280 is told.", 6, sized(6, 1269), 1280, "gue-small6")
    add(
        "M1-outer-df-clear",
        "A client that sets DF is told so, whatever becomes of DF outside.",
        4,
        sized(4, 1481),
        1480,
        "clear4",
    )
    add("M1-full-frame", usual, 4, sized(4, 1500), 1480, "over4")
    add("M2-full-frame", usual, 6, sized(6, 1500), 1460, "over6")
    add("M1-l2", "A member behind a smaller link counts, too.", 4, sized(4, 1401), 1400, "l2-small")
    add("M2-l2", "A member behind a smaller link counts, too.", 6, sized(6, 1401), 1400, "l2-small")
    add("M1-transparent", "Transparency is about the TTL only.", 4, sized(4, 1481), 1480, "transparent")
    add("M1-short-quote", "A packet shorter than the quote may be is quoted whole.", 4, sized(4, 81), 80, "tiny4")
    add("M1-padding", "Padding is not quoted.", 4, sized(4, 81), 80, "tiny4", padding=b"padding")
    add("M1-quote-limit", "An error has at most 576 bytes.", 4, sized(4, 549), 80, "tiny4")
    add("M1-options", "Options are quoted.", 4, sized(4, 1485, options=[IPOption_NOP()] * 4), 1480, "over4")
    add("M1-vlan", "The answer carries the tags that the frame had.", 4, sized(4, 1481), 1480, "over4", (0x8100, 100))
    add(
        "M2-qinq",
        "The answer carries the tags that the frame had.",
        6,
        sized(6, 1481),
        1480,
        "over4",
        (0x88A8, 1),
        (0x8100, 2),
    )
    jumbo = INGRESS | {"mtu": 9000}
    add("M1-jumbo", "A jumbo packet is judged by the way out.", 4, sized(4, 9000), 1480, "over4", ingress=jumbo)
    add("M2-jumbo", "A jumbo packet is judged by the way out.", 6, sized(6, 9000), 1460, "over6", ingress=jumbo)
    add("M2-floor-6in4", "To IPv6, no less than 1280 is told.", 6, sized(6, 1281), 1280, "small4")
    add("M2-floor-6in6", "To IPv6, no less than 1280 is told.", 6, sized(6, 1241), 1280, "small6")
    for version, ttl_name in ((4, "M1"), (6, "M2")):
        add(
            f"{ttl_name}-ttl-2",
            "The quote shows the TTL before any change.",
            version,
            sized(version, 1481, ttl=2),
            1480,
            "over4",
        )
    for version, sources in MARTIANS.items():
        for name, source in sources:
            file.add(
                f"M{1 if version == 4 else 2}-no-answer-{name}",
                "A source that is no single host gets no answer, and gets nowhere.",
                tag(sized(version, 1481, source=source), version),
                dropped("martian"),
                using="over4",
            )
    add(
        "M1-no-answer-group-mac",
        "A frame from a group MAC address gets no answer.",
        4,
        sized(4, 1481),
        None,
        "over4",
        source_mac="03:00:00:00:00:01",
    )

    def split(
        name: str,
        sentence: str,
        packet: bytes,
        room: int,
        using: str,
        *,
        pieces: list[bytes] | None = None,
        ingress: dict[str, Any] | None = None,
    ) -> None:
        """Sent in pieces of at most *room* bytes: those that Scapy makes, or the given ones."""
        member = file.tables[using]["members"][0]
        after = IP(packet)
        if "encapsulation" in member and member["ttl"] == "router":
            after.ttl -= 1
            del after.chksum
        pieces = pieces or [bytes(piece) for piece in fragment(IP(bytes(after)), room - after.ihl * 4)]
        flow = flow_of(4, "tcp")
        hash32 = flow_hash(*flow, file.tables[using]["services"][USUAL[4, "tcp"]]["hash"])
        out = [
            tunnel_out(member, piece, 4, hash32, ident=0x4242 + number)
            if "encapsulation" in member
            else l2_out(member, piece, 4)
            for number, piece in enumerate(pieces)
        ]
        action = file.sent(out[0], flow=flow, service=USUAL[4, "tcp"], using=using)
        action["further"] = [frame.hex() for frame in out[1:]]
        file.add(name, sentence, tag(packet, 4), action, using=using, ingress=ingress)

    may = "A packet that may be fragmented is, and each piece has an outer packet of its own."
    split("M3-df-clear", may, sized(4, 1481, flags=0), 1480, "over4")
    split("M3-df-clear-over6", may, sized(4, 1461, flags=0), 1460, "over6")
    for encapsulation in ("gre", "gue"):
        for outer in (4, 6):
            room = (1480 if outer == 4 else 1460) - BETWEEN[encapsulation]
            split(f"M3-{encapsulation}{outer}", may, sized(4, 1500, flags=0), room, f"{encapsulation}{outer}")
    split("M3-outer-df-clear", may, sized(4, 1500, flags=0), 1480, "clear4")
    split("M3-transparent", "Transparency is about the TTL only.", sized(4, 1500, flags=0), 1480, "transparent")
    split("M3-df-clear-l2", "A smaller link without a tunnel.", sized(4, 1401, flags=0), 1400, "l2-small")
    split("M3-many", "As many pieces as it takes.", sized(4, 1000, flags=0), 80, "tiny4")
    split("M3-jumbo", "As many pieces as it takes.", sized(4, 9000, flags=0), 1480, "over4", ingress=jumbo)
    split("M3-path", "What a router on the way has said counts.", sized(4, 1500, flags=0), 1180, "path4")
    piece = {"flags": 0, "frag": 0}
    for name, part, sentence in (
        ("first", {"flags": "MF"}, "A first fragment becomes a first one and one in the middle."),
        ("middle", {"flags": "MF", "frag": 185}, "A fragment in the middle stays there."),
        ("last", {"flags": 0, "frag": 370}, "The last piece of the last fragment is the last one."),
    ):
        split(f"M3-fragment-{name}", sentence, sized(4, 1500, **(piece | part)), 1480, "over4-source")
    # Loose source route and record route: the former is copied into all fragments, the latter is not (RFC 791, 3.1).
    kept, first_only = bytes((0x83, 7, 8)) + bytes(4), bytes((7, 7, 4)) + bytes(4)
    body = bytes(segment("tcp", flags="A") / Raw(b"q" * 1444))
    whole = _with_options(first_only + b"\x01" + kept + b"\x00", body, 57, 0, more=False)
    room = 1480 - 36
    split(
        "M3-options",
        "Every piece has the options that are to be copied, the first has all.",
        whole,
        1480,
        "over4",
        pieces=[
            _with_options(first_only + b"\x01" + kept + b"\x00", body[: room // 8 * 8], 56, 0, more=True),
            _with_options(kept + b"\x00", body[room // 8 * 8 :], 56, room // 8, more=False),
        ],
    )
    for using, outer in (("path4", 4), ("path6", 6), ("path4-gue", 4)):
        packet = sized(6, 1280)
        flow = flow_of(6, "tcp")
        hash32 = flow_hash(*flow, file.tables[using]["services"][USUAL[6, "tcp"]]["hash"])
        member = file.tables[using]["members"][0]
        out = tunnel_out(member, sized(6, 1280, ttl=56), 6, hash32, ident=0x4242 if outer == 4 else None)
        file.add(
            f"M5-ipv6-least-{using}",
            "Whatever is said of the way, 1280 bytes of IPv6 are sent; over IPv4, routers may fragment them.",
            tag(packet, 6),
            file.sent(out, flow=flow, service=USUAL[6, "tcp"], using=using),
            using=using,
        )
        add(f"M5-ipv6-more-{using}", "A byte more is too big.", 6, sized(6, 1281), 1280, using)
    for version, name in ((4, "M1"), (6, "M2")):
        add(
            f"{name}-path",
            "What a router on the way has said counts, and the client is told the largest packet that fits.",
            version,
            sized(version, 1301),
            1180 if version == 4 else 1280,
            "path4",
        )
    for version in (4, 6):
        packet = sized(version, 1500, ttl=1)
        frame = tag(packet, version)
        reply = icmp_reply(frame, 14, version, packet, exceeded(version), CLIENT[version])
        file.add(
            f"M1-ipv{version}-ttl-first",
            "Where both are at their end, the TTL is named.",
            frame,
            drop_with_flow(
                file,
                "ttl_expired",
                flow_of(version, "tcp"),
                USUAL[version, "tcp"],
                using="over4",
                reply=(reply, "icmp_time_exceeded"),
            ),
            using="over4",
        )
        size = 1400
        packet = sized(version, size)
        file.add(
            f"M1-ipv{version}-l2-exact",
            "A packet of exactly the smaller link's MTU fits.",
            tag(packet, version),
            file.sent(
                l2_out(file.tables["l2-small"]["members"][0], packet, version),
                flow=flow_of(version, "tcp"),
                service=USUAL[version, "tcp"],
                using="l2-small",
            ),
            using="l2-small",
        )
    return file


# ---- ICMP from the world --------------------------------------------------------------------------------------------


def icmp_file() -> File:
    modes = ("source_ip", "source_ip_port", "five_tuple")
    members = [l2_member(21), l2_member(22), l2_member(23, ifindex=7), l2_member(24)]
    near, over4, over6 = l2_member(21), ipip_member(21, 4), ipip_member(21, 6)
    file = File(
        "icmp",
        "ICMP errors about flows, from anywhere (packets.md, section 5).",
        {
            "l2": tables([near]),
            "over4": tables([over4]),
            "over6": tables([over6]),
            "gre4": tables([tunnel_member(21, 4, "gre")]),
            "gre6": tables([tunnel_member(21, 6, "gre")]),
            "gue4": tables([tunnel_member(21, 4, "gue")]),
            "gue6": tables([tunnel_member(21, 6, "gue")]),
            "transparent": tables([ipip_member(21, 4, ttl="transparent")]),
            "small4": tables([ipip_member(21, 4, mtu=100)]),
            "nobody": tables([near], {"pool": {"none": True}}),
            "up": tables([near]) | {"answering": [V4, V6]},
            "up-4": tables([near]) | {"answering": [V4]},
            "up-6": tables([near]) | {"answering": [V6]},
            "no-client": tables([near], services=protected({"deny": [f"{C4}/32", f"{C6}/128"]})),
            "no-hop": tables([near], services=protected({"deny": ["192.0.2.0/24", "2001:db8:7::/64"]})),
        }
        | {mode: tables(members, {"pool": {"cycle": [0, 1, 2, 3]}}, usual_services("pool", mode)) for mode in modes},
    )
    hop = {4: "192.0.2.77", 6: "2001:db8:7::77"}  # a router on the way to the client: not the client itself

    def answer(version: int, protocol: str, size: int = 1500, **more: Any) -> bytes:
        """What a member sent to the client as the VIP, as it arrived at that router."""
        port = 80 if protocol == "tcp" else 53
        more = {"source": VIP[version], "destination": CLIENT[version], "ttl": 61} | more
        head = ip(version, **more) / segment(protocol, sport=port, dport=40000, **_flags(protocol))
        return bytes(head / Raw(b"r" * (size - len(head))))

    def error(version: int, message: Packet, quote: bytes, ttl: int = 57, **more: Any) -> bytes:
        head = {"tos": 0xC0, "source": hop[version], "ttl": ttl} | ({"flags": 0} if version == 4 else {}) | more
        return bytes(ip(version, **head) / message / Raw(quote))

    def relayed(
        name: str,
        sentence: str,
        version: int,
        make: Callable[[int], bytes],
        protocol: str = "tcp",
        *,
        using: str = "l2",
        client: str | None = None,
        sport: int = 40000,
        tos: int = 0xC0,
    ) -> None:
        """Delivered like the flow's own packets; *make* builds the error for a TTL."""
        flow = flow_of(version, protocol, sport, source=client)
        raw = file.tables[using]
        hash32 = flow_hash(*flow, raw["services"][USUAL[version, protocol]]["hash"])
        index = (hash32 * SLOTS >> 32) % len(raw["members"])
        member = raw["members"][index]
        if "encapsulation" in member:
            inner = make(57 if member["ttl"] == "transparent" else 56)
            # An error has DF clear in these vectors, so the outer IPv4 header needs an identification.
            out = tunnel_out(member, inner, version, hash32, tos=tos, ident=0x4242 if version == 4 else None)
        else:
            out = l2_out(member, make(57), version)
        file.add(
            name,
            sentence,
            tag(make(57), version),
            file.sent(out, flow=flow, service=USUAL[version, protocol], member=index, using=using),
            using=using,
        )

    def bad(name: str, sentence: str, version: int, packet: bytes, reason: str, *, using: str = "l2") -> None:
        file.add(name, sentence, tag(packet, version), dropped(reason), using=using)

    usual = "The error goes whole and unchanged to the member that the flow's own packets go to."
    for version in (4, 6):
        name = f"ipv{version}"
        header = 20 if version == 4 else 40
        room = 548 if version == 4 else 1232
        for protocol in ("tcp", "udp"):
            for using in ("l2", "over4", "over6", "transparent", "gre4", "gre6", "gue4", "gue6"):
                relayed(
                    f"I1-{name}-{protocol}-{using}",
                    usual,
                    version,
                    lambda ttl, version=version, protocol=protocol, room=room: error(
                        version, too_big(version, 1400), answer(version, protocol)[:room], ttl
                    ),
                    protocol,
                    using=using,
                )
            for cut, what in ((8, "the eight bytes of L4 that RFC 792 asks for"), (4, "nothing but the ports")):
                relayed(
                    f"I1-{name}-{protocol}-quote-{cut}",
                    f"A quote may have {what}; its total length is that of the packet before it was cut.",
                    version,
                    lambda ttl, version=version, protocol=protocol, end=header + cut: error(
                        version, too_big(version, 1400), answer(version, protocol)[:end], ttl
                    ),
                    protocol,
                )
            denied = error(version, too_big(version, 1400), answer(version, protocol)[:room])
            file.add(
                f"I1-{name}-{protocol}-denied-client",
                "An error about a flow of a client that may not come goes no further.",
                tag(denied, version),
                dropped("denied", service=USUAL[version, protocol]),
                using="no-client",
            )
            relayed(
                f"I1-{name}-{protocol}-denied-router",
                "Of an error, the flow's client counts, and not who sends it.",
                version,
                lambda ttl, version=version, protocol=protocol, room=room: error(
                    version, too_big(version, 1400), answer(version, protocol)[:room], ttl
                ),
                protocol,
                using="no-hop",
            )
            bad(
                f"I1-{name}-{protocol}-quote-3",
                "A quote without both ports names no flow.",
                version,
                error(version, too_big(version, 1400), answer(version, protocol)[: header + 3]),
                "malformed",
            )
            for mode in modes:
                for number, (client, sport) in enumerate(
                    ((None, 40000), (None, 40001), (f"203.0.113.{10 + 4}" if version == 4 else "2001:db8:c::e", 40000))
                ):

                    def about(
                        ttl: int,
                        version: int = version,
                        protocol: str = protocol,
                        client: str | None = client,
                        sport: int = sport,
                    ) -> bytes:
                        port = 80 if protocol == "tcp" else 53
                        head = ip(version, source=VIP[version], destination=client or CLIENT[version], ttl=61)
                        quote = head / segment(protocol, sport=port, dport=sport, **_flags(protocol))
                        return error(version, too_big(version, 1400), bytes(quote), ttl)

                    relayed(
                        f"I1-{name}-{protocol}-{mode}-{number}",
                        "Hash and slot are those of the quoted tuple turned round, whoever sent the error.",
                        version,
                        about,
                        protocol,
                        using=mode,
                        client=client,
                        sport=sport,
                    )
        quote = answer(version, "tcp")[: header + 8]

        def message(kind: str, version: int = version) -> Packet:
            if version == 4:
                return {
                    "unreachable": ICMP(type=3, code=1),
                    "port-unreachable": ICMP(type=3, code=3),
                    "time-exceeded": ICMP(type=11, code=0),
                    "parameter-problem": ICMP(type=12, code=0, ptr=20),
                }[kind]
            return {
                "unreachable": ICMPv6DestUnreach(code=0),
                "port-unreachable": ICMPv6DestUnreach(code=4),
                "time-exceeded": ICMPv6TimeExceeded(code=0),
                "parameter-problem": ICMPv6ParamProblem(code=1, ptr=6),
            }[kind]

        for kind in ("unreachable", "port-unreachable", "time-exceeded", "parameter-problem"):
            relayed(
                f"I3-{name}-{kind}",
                "Errors of other types are relayed alike.",
                version,
                lambda ttl, version=version, kind=kind, quote=quote, message=message: error(
                    version, message(kind), quote, ttl
                ),
            )
        tagged = error(version, too_big(version, 1400), quote)
        file.add(
            f"I1-{name}-vlan",
            "Tags in front of an error make no difference.",
            tag(tagged, version, (0x8100, 5)),
            file.sent(l2_out(near, tagged, version), flow=flow_of(version, "tcp"), service=USUAL[version, "tcp"]),
        )
        file.add(
            f"I1-{name}-padding",
            "Padding behind an error is not part of it.",
            tag(tagged, version) + b"padding",
            file.sent(l2_out(near, tagged, version), flow=flow_of(version, "tcp"), service=USUAL[version, "tcp"]),
        )
        relayed(
            f"I1-{name}-l2-ttl-1",
            "A bridge does not look at the TTL or hop limit of an error either.",
            version,
            lambda ttl, version=version, quote=quote: error(version, too_big(version, 1400), quote, ttl - 56),
        )

        # nothing is answered to an error
        file.add(
            f"I1-{name}-ttl-1",
            "An error whose life ends here is not answered with another (RFC 1122, RFC 4443).",
            tag(error(version, too_big(version, 1400), quote, 1), version),
            drop_with_flow(file, "ttl_expired", flow_of(version, "tcp"), USUAL[version, "tcp"], using="over4"),
            using="over4",
        )
        long = {"flags": "DF"} if version == 4 else {}
        file.add(
            f"I1-{name}-too-big",
            "An error that is too big for the way is not answered with another, DF or not.",
            tag(error(version, too_big(version, 1400), answer(version, "tcp")[:500], **long), version),
            drop_with_flow(file, "too_big", flow_of(version, "tcp"), USUAL[version, "tcp"], using="small4"),
            using="small4",
        )

        # where it does not go
        file.add(
            f"I1-{name}-no-member",
            "Nobody is there to be told.",
            tag(error(version, too_big(version, 1400), quote), version),
            drop_with_flow(
                file, "no_member", flow_of(version, "tcp"), USUAL[version, "tcp"], member=None, using="nobody"
            ),
            using="nobody",
        )
        strange = ip(version, source=VIP[version], destination=CLIENT[version]) / segment("tcp", sport=81, dport=80)
        bad(
            f"I1-{name}-no-service",
            "The service is found by the source port of the quote: what would be its destination means nothing.",
            version,
            error(version, too_big(version, 1400), bytes(strange)),
            "no_service",
        )
        other = ip(version, source=VIP[version], destination=CLIENT[version]) / segment("udp", sport=80, dport=40000)
        bad(
            f"I1-{name}-other-protocol",
            "The protocol of the quote counts, too.",
            version,
            error(version, too_big(version, 1400), bytes(other)),
            "no_service",
        )
        file.add(
            f"I1-{name}-loop",
            "A member of an L2 pool that sends the error back to the VIP would loop it.",
            tag(error(version, too_big(version, 1400), quote), version, source=near["next_hop"]["mac"]),
            dropped("loop", service=USUAL[version, "tcp"]),
        )
        for what, source in (("client", CLIENT[version]), ("stranger", hop[version])):
            bad(
                f"I4-{name}-{what}",
                "An error about a packet that the VIP did not send is a forgery.",
                version,
                error(version, too_big(version, 1400), answer(version, "tcp", source=source)[: header + 8]),
                "spoofed",
            )
        bad(
            f"I4-{name}-other-direction",
            "An error about the client's own packet is not the VIP's to receive.",
            version,
            error(version, too_big(version, 1400), bytes(ip(version) / segment("tcp"))[: header + 8]),
            "spoofed",
        )

        # wrong in itself
        right = error(version, too_big(version, 1400), quote)
        at = header + 2
        bad(
            f"I1-{name}-checksum",
            "A wrong ICMP checksum.",
            version,
            right[:at] + bytes((right[at] ^ 1,)) + right[at + 1 :],
            "malformed",
        )
        bad(f"I1-{name}-damaged", "A damaged quote.", version, right[:-1] + bytes((right[-1] ^ 1,)), "malformed")
        bad(
            f"I1-{name}-empty",
            "An error that quotes nothing.",
            version,
            error(version, message("unreachable"), b""),
            "malformed",
        )
        bad(
            f"I1-{name}-half-header",
            "A quote that ends within its IP header.",
            version,
            error(version, message("unreachable"), quote[: header - 1]),
            "malformed",
        )
        number = {"proto": 1} if version == 4 else {"nh": 58}
        for size in (0, 1, 7):
            bad(
                f"I1-{name}-cut-{size}",
                "An ICMP error has eight bytes before the quote.",
                version,
                bytes(ip(version, **number) / Raw(b"\x03" * size)),
                "malformed",
            )
        bad(
            f"I1-{name}-quotes-other-version",
            "A quote of the other IP version cannot be.",
            version,
            error(version, message("unreachable"), answer(10 - version, "tcp")[:100]),
            "malformed",
        )
        own = {"source": VIP[version], "destination": CLIENT[version]}
        bad(
            f"I1-{name}-quotes-icmp",
            "An error about neither TCP nor UDP, here the VIP's own ICMP.",
            version,
            error(version, message("unreachable"), bytes(ip(version, **own, **number) / Raw(bytes(16)))),
            "protocol",
        )

    # the error itself in pieces
    whole = error(4, too_big(4, 1400), answer(4, "tcp")[:548])[20:]
    for name, fields, piece in (
        ("first", {"flags": 1}, whole[:512]),
        ("later", {"flags": 0, "frag": 64}, whole[512:]),
    ):
        packet = ip(4, source=hop[4], proto=1, id=9, **fields) / Raw(piece)
        bad(f"I1-ipv4-fragment-{name}", "An error in fragments is not put together.", 4, bytes(packet), "fragment")
    whole = error(6, too_big(6, 1400), answer(6, "tcp")[:1232])[40:]
    for name, offset, more, piece in (("first", 0, 1, whole[:512]), ("later", 64, 0, whole[512:])):
        cut = ip(6, source=hop[6]) / IPv6ExtHdrFragment(nh=58, offset=offset, m=more, id=9) / Raw(piece)
        bad(f"I1-ipv6-fragment-{name}", "An error in fragments is not put together.", 6, bytes(cut), "fragment")

    # IPv4 options and IPv6 extension headers, in the quote and in front of the error
    def with_options(ttl: int) -> bytes:
        return error(4, too_big(4, 1400), answer(4, "tcp", options=[IPOption_NOP()] * 12)[: 20 + 12 + 8], ttl)

    relayed("I2-ipv4-options", "The ports stand behind the quote's IP options.", 4, with_options)
    relayed(
        "I2-ipv4-options-full",
        "An IP header of 60 bytes is the longest.",
        4,
        lambda ttl: error(4, too_big(4, 1400), answer(4, "tcp", options=[IPOption_NOP()] * 40)[:68], ttl),
    )
    relayed(
        "I1-ipv4-outer-options",
        "Options of the error itself are carried along.",
        4,
        lambda ttl: error(4, too_big(4, 1400), answer(4, "tcp")[:28], ttl, options=[IPOption_NOP()] * 4),
        using="over4",
    )
    bad(
        "I2-ipv4-options-cut",
        "A quote that ends within its options.",
        4,
        error(4, too_big(4, 1400), answer(4, "tcp", options=[IPOption_NOP()] * 12)[:28]),
        "malformed",
    )
    short = b"\x44" + answer(4, "tcp")[1:28]
    bad("I2-ipv4-ihl", "A quoted header cannot be that short.", 4, error(4, too_big(4, 1400), short), "malformed")
    relayed(
        "I1-ipv4-quoted-checksum",
        "The quoted IP header's checksum is not looked at: routers change the TTL before they quote.",
        4,
        lambda ttl: error(4, too_big(4, 1400), answer(4, "tcp", chksum=0x1234)[:28], ttl),
    )
    relayed(
        "I1-ipv4-quoted-first-fragment",
        "A quoted first fragment has the ports.",
        4,
        lambda ttl: error(4, ICMP(type=11, code=1), answer(4, "udp", flags=1)[:28], ttl),
        "udp",
    )
    later = ip(4, source=V4, destination=C4, flags=0, frag=64, proto=6) / Raw(segment("tcp", sport=80, dport=40000))
    bad(
        "I2-ipv4-later-fragment",
        "A quoted later fragment has payload where ports would be.",
        4,
        error(4, ICMP(type=11, code=1), bytes(later)),
        "fragment",
    )

    def pinged(
        name: str,
        sentence: str,
        version: int,
        packet: bytes,
        *tags: tuple[int, int],
        reason: str = "echo",
        using: str = "up",
        data: bytes = b"ping",
        **head: Any,
    ) -> None:
        """An echo request, answered where the reason is `echo`."""
        frame = tag(packet, version, *tags)
        action = dropped(reason)
        if reason == "echo":
            reply: Packet = (
                IP(src=V4, dst=C4, id=0, flags="DF", ttl=64, **head) / ICMP(type=0, id=7, seq=3)
                if version == 4
                else IPv6(src=V6, dst=C6, hlim=64, **head) / ICMPv6EchoReply(id=7, seq=3)
            )
            out = frame[6:12] + frame[0:6] + frame[12 : 14 + 4 * len(tags)] + bytes(reply / Raw(data))
            action["reply"] = {"frame": out.hex(), "kind": "icmp_echo_reply"}
        file.add(name, sentence, frame, action, using=using)

    def ping(version: int, data: bytes = b"ping", **more: Any) -> bytes:
        request: Packet = ICMP(type=8, id=7, seq=3) if version == 4 else ICMPv6EchoRequest(id=7, seq=3)
        return bytes(ip(version, **more) / request / Raw(data))

    for version in (4, 6):
        name = f"I5-ipv{version}"
        pinged(f"{name}-echo", "A ping of a VIP that is up is answered.", version, ping(version))
        pinged(
            f"{name}-down",
            "A ping of a VIP that is not is dropped.",
            version,
            ping(version),
            reason="protocol",
            using="l2",
        )
        pinged(
            f"{name}-other-vip",
            "That another VIP is up does not matter.",
            version,
            ping(version),
            reason="protocol",
            using=f"up-{10 - version}",
        )
        pinged(
            f"{name}-vlan",
            "The answer carries the tag that the frame had.",
            version,
            ping(version),
            (0x8100, 100),
        )
        pinged(f"{name}-empty", "A ping may be without data.", version, ping(version, b""), data=b"")
        large = bytes(range(256)) * 5
        pinged(f"{name}-large", "As much comes back as came.", version, ping(version, large), data=large)
        service = {"tos": 0xB8} if version == 4 else {"tc": 0xB8}
        pinged(f"{name}-dscp", "DSCP comes back, ECN does not.", version, ping(version, tos=0xBB), **service)
        pinged(f"{name}-ttl", "It goes no further, so its TTL may end here.", version, ping(version, ttl=1))
        damaged = ping(version)
        pinged(
            f"{name}-damaged",
            "A ping with a wrong checksum is not answered.",
            version,
            damaged[:-1] + bytes((damaged[-1] ^ 1,)),
            reason="protocol",
        )
        none = "224.0.0.1" if version == 4 else "::"
        pinged(
            f"{name}-no-host",
            "A source that is no single host gets no answer.",
            version,
            ping(version, source=none),
            reason="martian",
        )
    pinged("I5-ipv4-options", "Options do not come back.", 4, ping(4, options=[IPOption_NOP()] * 4))
    for what, part in (("first", {"flags": "MF"}), ("later", {"flags": 0, "frag": 1})):
        pinged(f"I5-ipv4-{what}-fragment", "Fragments of a ping are dropped.", 4, ping(4, **part), reason="fragment")
    header = {"nh": 58}
    request = bytes(ip(6) / ICMPv6EchoRequest(id=7, seq=3, data=b"ping"))[40:]
    for what, m, offset in (("first", 1, 0), ("later", 0, 1)):
        pinged(
            f"I5-ipv6-{what}-fragment",
            "Fragments of a ping are dropped.",
            6,
            bytes(ip(6) / IPv6ExtHdrFragment(id=7, m=m, offset=offset, **header) / Raw(request)),
            reason="fragment",
        )
    for kind, what in ((0, "echo-reply"), (4, "source-quench"), (5, "redirect"), (13, "timestamp"), (17, "mask")):
        bad(
            f"I6-ipv4-{what}",
            "Only unreachable, time exceeded and parameter problem are relayed.",
            4,
            error(4, ICMP(type=kind, ts_ori=1, ts_rx=2, ts_tx=3), answer(4, "tcp")[:28]),
            "protocol",
        )
    for kind in (0, 5, 100, 127, 129, 137):
        raw = bytes((kind, 0)) + bytes(6)
        bad(
            f"I6-ipv6-type-{kind}",
            "Only unreachable, packet too big, time exceeded and parameter problem are relayed.",
            6,
            bytes(ip(6, source=hop[6], nh=58) / Raw(raw + answer(6, "tcp")[:48])),
            "protocol",
        )
    for version, number in ((4, {"proto": 58}), (6, {"nh": 1})):
        packet = ip(version, **number) / Raw(bytes((3, 1)) + bytes(6) + answer(version, "tcp")[:60])
        bad(f"I6-ipv{version}-other-icmp", "ICMP of the other IP version.", version, bytes(packet), "protocol")

    chains: dict[str, Callable[[], Packet]] = {
        "hop-by-hop": lambda: IPv6ExtHdrHopByHop(),
        "destination": lambda: IPv6ExtHdrDestOpt(),
        "routing-4": lambda: IPv6ExtHdrRouting(type=4),
        "atomic": lambda: IPv6ExtHdrFragment(id=7),
        "first-fragment": lambda: IPv6ExtHdrFragment(id=7, m=1),
        "two": lambda: IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
    }

    def behind(chain: Callable[[], Packet]) -> bytes:
        head = ip(6, source=V6, destination=C6) / chain()
        return bytes(head / segment("tcp", sport=80, dport=40000, flags="A"))[: len(head) + 8]

    for name, chain in chains.items():
        relayed(
            f"I2-ipv6-{name}",
            "The ports stand behind the quote's extension headers.",
            6,
            lambda ttl, chain=chain: error(6, too_big(6, 1400), behind(chain), ttl),
        )
        bad(
            f"I2-ipv6-{name}-cut",
            "A quote that ends within its extension headers names no flow.",
            6,
            error(6, too_big(6, 1400), behind(chain)[:44]),
            "malformed",
        )
    relayed(
        "I1-ipv6-outer-chain",
        "Extension headers of the error itself are walked and carried along.",
        6,
        lambda ttl: _with_chain(error(6, too_big(6, 1400), answer(6, "tcp")[:48], ttl)),
        using="over6",
    )
    for name, sentence, chain, reason in (
        (
            "later-fragment",
            "A quoted later fragment has no ports.",
            lambda: IPv6ExtHdrFragment(id=7, offset=9),
            "fragment",
        ),
        (
            "routing-0",
            "A routing header of type 0 is not walked.",
            lambda: IPv6ExtHdrRouting(type=0),
            "unsupported_header",
        ),
    ):
        bad(f"I2-ipv6-{name}", sentence, 6, error(6, too_big(6, 1400), behind(chain)), reason)
    return file


def _flags(protocol: str) -> dict[str, Any]:
    return {"flags": "A"} if protocol == "tcp" else {}


def _with_chain(packet: bytes) -> bytes:
    """An IPv6 packet with a destination options header put in front of what it carries."""
    payload = bytes((packet[6], 0, 1, 4)) + bytes(4) + packet[40:]
    return packet[:4] + len(payload).to_bytes(2, "big") + bytes((60,)) + packet[7:40] + payload


# ---- QUIC -----------------------------------------------------------------------------------------------------------

QUIC_KEY = "8f95f09245765f80256934e50c66207f"
"""Of the test vectors in draft-ietf-quic-load-balancers; connection IDs and server IDs below are those of that list."""

QUIC_PLAIN = "07c4605e4504cc4f"
QUIC_ENCRYPTED = {
    "three-rounds": "0720b1d07b359d3c",
    "four-rounds": "2fcc381bc74cb4fbad2823a3d1f8fed2",
    "one-block": "504dd2d05a7b0de9b2b9907afb5ecf8cc3",
    "four-rounds-even": "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
}


def quic_config(config_id: int, lengths: tuple[int, int], servers: dict[str, int], **more: Any) -> dict[str, Any]:
    server, nonce = lengths
    config = {"config_id": config_id, "server_id_length": server, "nonce_length": nonce, "encode_length": True}
    return config | more | {"servers": servers}


def short_header(cid: str, behind: int = 20) -> bytes:
    return b"\x5a" + bytes.fromhex(cid) + bytes(range(behind))


def long_header(cid: str, *, length: int | None = None, behind: int = 20, version: int = 1) -> bytes:
    """RFC 8999, section 5.1."""
    name = bytes.fromhex(cid)
    told = len(name) if length is None else length
    return b"\xe3" + version.to_bytes(4, "big") + bytes((told,)) + name + bytes(range(behind))


def quic_file() -> File:
    members = [l2_member(21), l2_member(22), l2_member(23)]
    tunnels = [
        ipip_member(21, 4),
        ipip_member(22, 6),
        tunnel_member(23, 4, "gre"),
        tunnel_member(24, 6, "gre"),
        tunnel_member(25, 4, "gue"),
        tunnel_member(26, 6, "gue", mtu=1400),
    ]
    plain = quic_config(0, (3, 4), {"c4605e": 1, "c4605f": 2, "000000": 0})
    loose = plain | {"encode_length": False}
    encrypted = [
        quic_config(0, (3, 4), {"ed793a": 1}, key=QUIC_KEY),
        quic_config(1, (10, 5), {"ed793a51d49b8f5fab65": 1}, key=QUIC_KEY),
        quic_config(2, (8, 8), {"ed793a51d49b8f5f": 1}, key=QUIC_KEY),
        quic_config(3, (9, 9), {"ed793a51d49b8f5fab": 1}, key=QUIC_KEY),
        quic_config(5, (15, 4), {"ff" * 15: 2, "00" * 15: 0, "00" * 8 + "01" + "00" * 6: 1}),
    ]

    def quic_services(*configs: dict[str, Any], mode: str = "five_tuple") -> list[dict[str, Any]]:
        return [
            one | ({"quic": list(configs)} if one["protocol"] == "udp" else {}) for one in usual_services("pool", mode)
        ]

    named = {f"c4605{number}": number for number in range(6)}
    file = File(
        "quic",
        "Connection IDs of QUIC that name their member (packets.md, C13; draft-ietf-quic-load-balancers).",
        {
            "plain": tables(members, services=quic_services(plain)),
            "loose": tables(members, services=quic_services(loose)),
            "encrypted": tables(members, services=quic_services(*encrypted)),
            "tunnels": tables(tunnels, services=quic_services(quic_config(0, (3, 4), named))),
            "window": tables(members, {"pool": {"cycle": [0], "previous": [2]}}, quic_services(plain)),
            "nobody": tables(members, {"pool": {"none": True}}, quic_services(plain)),
            "source": tables(members, services=quic_services(plain, mode="source_ip")),
        },
    )

    def add(
        name: str,
        sentence: str,
        payload: bytes,
        to: int,
        *,
        by: str = "connection_id",
        using: str = "plain",
        version: int = 4,
        sport: int = 40000,
        source: str | None = None,
        tags: tuple[tuple[int, int], ...] = (),
        **more: Any,
    ) -> None:
        udp = {key: more.pop(key) for key in ("len",) if key in more}
        packet = ip(version, source=source, **more) / segment("udp", sport=sport, **udp) / Raw(payload)
        flow = flow_of(version, "udp", sport, source=source)
        service_number = USUAL[version, "udp"]
        member = file.tables[using]["members"][to]
        if "encapsulation" in member:
            hash32 = flow_hash(*flow, "five_tuple")
            inner = packet.copy()
            setattr(inner, "ttl" if version == 4 else "hlim", (inner.ttl if version == 4 else inner.hlim) - 1)
            out = tunnel_out(member, bytes(inner), version, hash32)
        else:
            out = l2_out(member, packet, version)
        action = file.sent(out, flow=flow, service=service_number, member=to, using=using) | {"by": by}
        file.add(name, sentence, tag(packet, version, *tags), action, using=using)

    headers: dict[str, Callable[..., bytes]] = {"short": short_header, "long": long_header}
    for version in (4, 6):
        for form, header in headers.items():
            add(
                f"C13-ipv{version}-{form}",
                "A connection ID names the member that has made it.",
                header(QUIC_PLAIN),
                1,
                version=version,
            )
        add(
            f"C13-ipv{version}-moved",
            "A client that comes from another address and port stays at its member.",
            short_header(QUIC_PLAIN),
            1,
            version=version,
            sport=51000,
            source={4: "192.0.2.99", 6: "2001:db8:77::5"}[version],
        )
        for name, cid in QUIC_ENCRYPTED.items():
            for form, header in headers.items():
                add(
                    f"C13-ipv{version}-{name}-{form}",
                    "An encrypted connection ID of the draft's list names its member.",
                    header(cid),
                    1,
                    using="encrypted",
                    version=version,
                )
        for number, member in enumerate(tunnels):
            add(
                f"C13-ipv{version}-in-{member['encapsulation']}-over-{4 if '.' in member['address'] else 6}",
                "In a tunnel, too; the outer header has the hash of addresses and ports.",
                long_header(f"07c4605{number}4504cc4f"),
                number,
                using="tunnels",
                version=version,
            )
    for name, cid, to in (("first", "00" * 15, 0), ("middle", "00" * 8 + "01" + "00" * 6, 1), ("last", "ff" * 15, 2)):
        add(
            f"C13-longest-server-id-{name}",
            "Fifteen bytes of server ID are told apart, in whichever half they differ.",
            short_header("b3" + cid + "01020304"),
            to,
            using="encrypted",
        )
    for name, sentence, payload in (
        ("config-7", "Config ID 7 says that the ID names nobody.", short_header("e7c4605e4504cc4f")),
        ("config-unknown", "A config ID that is not configured names nobody.", short_header("27c4605e4504cc4f")),
        ("server-unknown", "A server ID that nobody has names nobody.", short_header("07c460604504cc4f")),
        ("long-short", "An ID of fewer bytes than configured is a client's own.", long_header("06c4605e4504cc")),
        ("long-none", "A long header may have no ID at all.", long_header("")),
        ("long-cut", "An ID that goes on behind the datagram is none.", long_header(QUIC_PLAIN, length=20, behind=11)),
        ("short-cut", "Too few bytes behind a short header.", short_header("07c4605e4504cc", behind=0)),
        ("long-head-cut", "A long header that ends before its ID.", long_header("")[:5]),
        ("long-head-only", "A long header that ends with the length of its ID.", long_header(QUIC_PLAIN)[:6]),
        ("one-byte", "A datagram of one byte.", b"\x40"),
        ("empty", "A datagram of nothing.", b""),
        ("length-told-less", "The length in the first byte is less than configured.", short_header("06c4605e4504cc4f")),
        (
            "length-told-other",
            "The length in the first byte is not that of the header.",
            long_header(QUIC_PLAIN + "00"),
        ),
    ):
        add(f"C13-{name}", sentence + " It goes by its slot.", payload, 0, by="slot")
    add("C13-short-just-enough", "The ID ends with the datagram.", short_header(QUIC_PLAIN, behind=0), 1)
    add("C13-long-just-enough", "The ID ends with the datagram.", long_header(QUIC_PLAIN, behind=0), 1)
    add("C13-length-told-more", "Servers may append bytes to their IDs.", long_header("09c4605e4504cc4faabb"), 1)
    add("C13-short-told-more", "Servers may append bytes to their IDs.", short_header("1fc4605e4504cc4faabb"), 1)
    chance = long_header("13c4605e4504cc4faa")
    add("C13-length-by-chance", "Where servers do not tell it, five bits are chance.", chance, 1, using="loose")
    other = long_header(QUIC_PLAIN, version=0xFACEB00C)
    add("C13-unknown-version", "IDs stand at the same place in all versions.", other, 1)
    tampered, clear = short_header("0720b1d07b359d3d"), short_header("07ed793aee080dbf")
    add("C13-tampered", "A changed encrypted ID names nobody.", tampered, 0, by="slot", using="encrypted")
    add("C13-in-clear", "Where there is a key, an ID in clear names nobody.", clear, 0, by="slot", using="encrypted")
    sentence = "What is behind the datagram's own length is no part of its ID."
    add("C13-udp-length", sentence, short_header(QUIC_PLAIN), 0, by="slot", len=8 + 8)
    add("C13-window", "It counts more than a slot that is changing hands.", short_header(QUIC_PLAIN), 1, using="window")
    add("C13-window-unroutable", "Who names nobody goes where flows from before the change are.",
        short_header("e7c4605e4504cc4f"), 2, by="previous", using="window")  # fmt: skip
    add("C13-no-owner", "It counts where nobody owns the slot.", short_header(QUIC_PLAIN), 1, using="nobody")
    add("C13-tagged", "Behind VLAN tags.", short_header(QUIC_PLAIN), 1, tags=((0x88A8, 5), (0x8100, 6)))
    add("C13-tagged-ipv6", "Behind VLAN tags.", long_header(QUIC_PLAIN), 1, tags=((0x88A8, 5), (0x8100, 6)), version=6)
    add("C13-options", "Behind IPv4 options.", short_header(QUIC_PLAIN), 1, options=[IPOption_NOP()] * 4)
    add("C13-df-clear", "With DF clear, as with DF.", short_header(QUIC_PLAIN), 1, flags=0)
    flow = flow_of(4, "udp")
    file.add(
        "C13-no-owner-unroutable",
        "Who names nobody has nobody where nobody owns the slot.",
        tag(ip(4) / segment("udp") / Raw(short_header("e7c4605e4504cc4f")), 4),
        drop_with_flow(file, "no_member", flow, USUAL[4, "udp"], member=None, using="nobody"),
        using="nobody",
    )
    packet = ip(4) / segment("tcp", flags="A") / Raw(short_header(QUIC_PLAIN))
    file.add(
        "C13-tcp",
        "TCP on the same VIP has no connection IDs.",
        tag(packet, 4),
        file.sent(l2_out(members[0], packet, 4), flow=flow_of(4, "tcp"), service=USUAL[4, "tcp"]),
    )
    whole = ip(4, flags=0) / segment("udp") / Raw(short_header(QUIC_PLAIN, behind=200))
    first, later = fragment(whole, fragsize=104)[:2]
    file.add(
        "C13-first-fragment",
        "A first fragment goes where its ID says.",
        tag(first, 4),
        file.sent(l2_out(members[1], first, 4), flow=flow, service=USUAL[4, "udp"], member=1) | {"by": "connection_id"},
    )
    file.add(
        "C13-later-fragment",
        "A later fragment has no ID, so that its address alone does not say where it goes, whatever the hash.",
        tag(later, 4),
        dropped("fragment"),
        using="source",
    )
    answer = ip(4, source=V4, destination=C4, ttl=61) / UDP(sport=53, dport=40000) / Raw(short_header(QUIC_PLAIN))
    about = ip(4, source="192.0.2.250") / ICMP(type=3, code=1) / Raw(bytes(answer)[:28])
    file.add(
        "C13-icmp-error",
        "An error about a flow goes by addresses and ports: of the ID that it may quote, the client is the owner.",
        tag(about, 4),
        file.sent(l2_out(members[0], about, 4), flow=flow, service=USUAL[4, "udp"]),
    )
    for version in (4, 6):
        size = 1400 - 52 + 1 - (28 if version == 4 else 48)
        big = ip(version) / segment("udp") / Raw(long_header("07c460554504cc4f").ljust(size, b"\0"))
        frame = tag(big, version)
        mtu = 1400 - 52
        reply = icmp_reply(frame, 14, version, bytes(big), too_big(version, mtu), CLIENT[version])
        file.add(
            f"C13-ipv{version}-too-big",
            "How large a packet may be is a matter of the member that it names.",
            frame,
            drop_with_flow(
                file, "too_big", flow_of(version, "udp"), USUAL[version, "udp"], member=5, using="tunnels",
                reply=(reply, "icmp_too_big"),
            ) | {"by": "connection_id"},
            using="tunnels",
        )  # fmt: skip
    return file


# ---- hash -----------------------------------------------------------------------------------------------------------


def write_hashes() -> None:
    """Flows and their hashes, for every implementation of the hash."""
    flows = [
        ("0.0.0.0", "0.0.0.0", 0, 0, 0),
        ("255.255.255.255", "255.255.255.255", 65535, 65535, 255),
        (C4, V4, 40000, 80, 6),
        (C4, V4, 40001, 80, 6),
        (C4, V4, 40000, 80, 17),
        ("203.0.113.10", V4, 40000, 443, 6),
        ("::", "::", 0, 0, 0),
        ("ffff:" * 7 + "ffff", "ffff:" * 7 + "ffff", 65535, 65535, 255),
        (C6, V6, 40000, 80, 6),
        (C6, V6, 40001, 53, 17),
        ("2001:db8:c::a", V6, 40000, 443, 6),
    ]
    vectors = []
    for secret in (bytes(16), SECRET, b"a fleet secret of more than sixteen bytes"):
        keys = keys_of(secret)
        for source, destination, sport, dport, protocol in flows:
            for mode in ("source_ip", "source_ip_port", "five_tuple"):
                words = words_of(source, destination, sport, dport, protocol, mode)
                hash32 = hash_of(keys, words)
                vectors.append(
                    {
                        "secret": secret.hex(),
                        "source": source,
                        "destination": destination,
                        "source_port": sport,
                        "destination_port": dport,
                        "protocol": protocol,
                        "mode": mode,
                        "words": [f"{word:08x}" for word in words],
                        "hash32": f"{hash32:08x}",
                        "slot": hash32 * SLOTS >> 32,
                    }
                )
    about = "Published values of the flow hash (appliance/ring/hash.py); slot is of 65537."
    text = json.dumps({"about": about, "vectors": vectors}, indent=1)
    (HERE / "hash.json").write_text(text + "\n")


def main() -> None:
    for make in (
        l2_file,
        ipip_file,
        gre_file,
        gue_file,
        parsing_file,
        services_file,
        fragments_file,
        mtu_file,
        icmp_file,
        quic_file,
    ):
        file = make()
        file.write()
        print(f"{file.name}.json  {len(file.vectors)} vectors")
    write_hashes()


if __name__ == "__main__":
    main()
