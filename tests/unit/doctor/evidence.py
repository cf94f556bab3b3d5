"""Evidence for tests: a member that is well, by tunnel and by MAC address, and a director that is."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from appliance.doctor.evidence import Asked, DirectorSeen, IcmpError, MemberSeen, PathSeen, Reply
from appliance.doctor.member import Address, Device, Listener, MemberReport, Persisted, Seen
from appliance.model import Protocol
from tests.builders import L2, L3, hop

VIP, VIP6, MEMBER, DIRECTOR, ROUTER = map(
    ip_address, ("198.51.100.7", "2001:db8:f::7", "203.0.113.2", "203.0.113.1", "203.0.113.254")
)
MAC = "02:00:00:00:01:01"
WELL = Asked(Reply.ANSWERED, VIP, MAC, 1440)
REFUSED = Asked(Reply.REFUSED, VIP, MAC)
SILENT = Asked()


def error(kind: int, code: int, sender: str, *, outer: bool) -> Asked:
    found = IcmpError(kind, code, ip_address(sender), outer)
    return Asked(Reply.ERROR, found.sender, MAC, errors=(found,))


def path(**changes: Any) -> PathSeen:
    values: dict[str, Any] = {
        "vip": VIP,
        "port": 80,
        "protocol": Protocol.TCP,
        "small": WELL,
        "direct": replace(WELL, source=MEMBER),
        "full": WELL,
        "full_length": 1480,
        "kernel": "",
        "mss_limit": 1440,
        "stranger": SILENT,
        "stranger_source": ip_address("192.0.2.254"),
    }
    return PathSeen(**values | changes)


def report(**changes: Any) -> MemberReport:
    values: dict[str, Any] = {
        "observed": True,
        "addresses": (Address(str(MEMBER), "eth0"), Address(str(VIP), "lo"), Address(str(VIP6), "lo")),
        "devices": {"eth0": Device(mac=MAC), "lo": Device()},
        "sysctls": {"ipv4.conf.all.arp_ignore": 1, "ipv4.conf.all.arp_announce": 2, "ipv4.conf.all.rp_filter": 0},
        "persisted": Persisted(
            True,
            {f"net.ipv4.conf.all.{name}": f"{value} /etc/sysctl.d/90" for name, value in _PERSISTED.items()},
            {str(VIP): "/etc/netplan/90", str(VIP6): "/etc/netplan/90"},
        ),
        "listeners": (Listener("tcp", "::", 80), Listener("udp", "0.0.0.0", 80)),
        "watched": True,
        "seen": {str(VIP): Seen(outer=2, inner=2, replies=2)},
    }
    return MemberReport(**values | changes)


_PERSISTED = {"arp_ignore": 1, "arp_announce": 2, "rp_filter": 0}


def member(*paths: PathSeen, **changes: Any) -> MemberSeen:
    """By a tunnel, beside the director, with its own view."""
    values: dict[str, Any] = {
        "service": "web",
        "member": "web/web1",
        "address": MEMBER,
        "delivery": L3,
        "hop": hop(1, direct=True, source=DIRECTOR),
        "hop_macs": (MAC,),
        "vip_macs": {VIP: ()},
        "paths": paths or (path(),),
        "report": report(),
    }
    return MemberSeen(**values | changes)


def flat(*paths: PathSeen, **changes: Any) -> MemberSeen:
    """By MAC address."""
    return member(*(paths or (path(stranger=None, mss_limit=1460),)), delivery=L2, **changes)


def director(**changes: Any) -> DirectorSeen:
    values: dict[str, Any] = {"vips": (VIP,), "asked_segments": ("eth1",)}
    return DirectorSeen(**values | changes)
