"""Random forwarding tables, written in the form that vector files have: what is found can be published as it is."""

import random
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from appliance.forwarding import SLOTS
from appliance.model import QUIC_LENGTH
from tests.unit.dataplane.frames import VIPS

OUR_MAC = "02:71:00:00:00:02"
EGRESS_MACS = (OUR_MAC, "02:71:00:00:00:03")
MTUS = (1500, 1500, 1480, 1400, 1280, 576, 68, 2000, 9000, 65536)
INGRESS_MTUS = (1500, 1500, 1500, 1280, 576, 2000)
MODES = ("five_tuple", "source_ip", "source_ip_port")
IDLE = (300, 300, 60, 20, 1, 0, 3600)
CHOOSING = ("placement", "choices", "choice_order")
NOBODY = 0xFFFF
PREFIXES = {
    4: ("198.51.96.0/20", "198.51.100.64/26", "198.51.100.252/30", "255.255.255.0/24"),
    6: ("2001:db8::/32", "2001:db8:d:1::/64", "2001:db8:d:1::ffff:0/112", "2001:db8:d:1::ff00/120"),
}
"""Of outer sources."""

TICK_NS = 1 << 30
"""Clocks here move by whole ticks, so what lasts an odd number of half ones is over beyond doubt, or is not."""

Raw = dict[str, Any]


def random_ingress(rnd: random.Random) -> Raw:
    return {"ifindex": 7, "mac": OUR_MAC, "mtu": rnd.choice(INGRESS_MTUS)}


def random_tables(rnd: random.Random) -> Raw:
    """One to twenty services that share a few VIPs, ports and ranges of which overlap; members of every delivery and
    family, some of whom own no slot; slots that nobody owns; some in transition. In a part of all tables, services
    choose members flow by flow or packet by packet, and packets are never too big, since that would need a turn of
    somebody's."""
    choosing = rnd.random() < 0.4
    learned = rnd.random() < 0.3
    members = [_member(rnd, number, index, learned=learned) for number, index in enumerate(_indices(rnd))]
    slots = {f"pool{number}": _slots(rnd, members) for number in range(rnd.choice((1, 2, 4)))}
    vips = [rnd.choice(VIPS) for _ in range(rnd.choice((1, 2, 6)))]
    pins = [rnd.randrange(1, 65535) for _ in range(2)]
    services = [
        {
            "name": f"s{number}",
            "vip": rnd.choice(vips),
            "protocol": rnd.choice(("tcp", "udp")),
            "ports": [_ports(rnd, pins) for _ in range(rnd.choice((1, 1, 2, 4)))],
            "hash": rnd.choice(MODES),
            "slots": rnd.choice(sorted(slots)),
            "idle_timeout": rnd.choice(IDLE),
        }
        for number in range(rnd.choice((1, 2, 6, 20)))
    ]
    if rnd.random() < 0.3:
        for service in services:
            service["hash"] = services[0]["hash"]
    if choosing:
        for member in members:
            member["next_hop"]["mtu"] = 65536
            member.pop("path_mtu", None)
        services = [service | _choosing(rnd, service, members) for service in services]
    if rnd.random() < 0.4:
        services = [service | _protection(rnd, service) for service in services]
    for service in services:
        if rnd.random() < 0.1:
            service["rejects"] = True
        if service["protocol"] == "udp" and service.get("placement") != "per_packet" and rnd.random() < 0.4:
            service["quic"] = _quic(rnd, members)
    answering = sorted({service["vip"] for service in services if rnd.random() < 0.2})
    return {
        "secret": rnd.randbytes(16).hex(),
        "members": members,
        "slots": slots,
        "services": services,
        "answering": answering,
    }


def changed_tables(rnd: random.Random, raw: Raw) -> Raw:
    """Other tables of the same services: owners change, windows begin and end, members go, choices are others."""
    members = raw["members"]
    if len(members) > 1 and rnd.random() < 0.3:
        gone = rnd.randrange(len(members))
        members = members[:gone] + members[gone + 1 :]
    there = {member["index"] for member in members}
    slots = {name: _moved(rnd, description, members) for name, description in raw["slots"].items()}
    services = []
    for service in raw["services"]:
        if rnd.random() < 0.1:
            service = service | {"idle_timeout": rnd.choice(IDLE)}
        if "placement" in service and rnd.random() < 0.3:
            service = {key: value for key, value in service.items() if key not in CHOOSING}
            service |= _choosing(rnd, service, members)
        if "quic" in service:
            # Members go, and come to other names.
            quic = [
                one | {"servers": {name: index for name, index in one["servers"].items() if index in there}}
                for one in service["quic"]
            ]
            service = service | {"quic": quic if rnd.random() < 0.8 else _quic(rnd, members)}
            if service.get("placement") == "per_packet":
                del service["quic"]
        if not set(service.get("choices", ())) <= there:
            service = service | {"choices": [index for index in service["choices"] if index in there]}
        if rnd.random() < 0.2 and "protection" in raw["services"][0]:
            service = {key: value for key, value in service.items() if key != "protection"}
        services.append(service)
    return raw | {"members": members, "slots": slots, "services": services}


def _protection(rnd: random.Random, service: Raw) -> Raw:
    """Whose packets a service does not take, and how many connections: none of it, or some."""
    if rnd.random() < 0.3:
        return {}
    protection: Raw = {}
    for name in ("deny", "allow"):
        if rnd.random() < 0.5:
            protection[name] = sorted({_prefix(rnd, service["vip"]) for _ in range(rnd.choice((1, 3, 40)))})
    for name in ("per_source", "per_vip", "per_service"):
        if rnd.random() < 0.4:
            per_s = 1e9 / (TICK_NS * rnd.choice((3, 50, 20_000)) + TICK_NS // 2)
            protection[name] = {"per_s": per_s, "burst": rnd.choice((1, 2, 20))}
    both = set(protection.get("deny", ())) & set(protection.get("allow", ()))
    protection = {
        name: [one for one in said if one not in both] if name == "deny" else said for name, said in protection.items()
    }
    return {"protection": protection} if protection else {}


def _prefix(rnd: random.Random, vip: str) -> str:
    """Mostly one that holds a good part of all addresses; sometimes of the other family."""
    bits = 32 if ("." in vip) == (rnd.random() < 0.95) else 128
    length = rnd.choice((0, 1, 2, 3, 4, 8, 16, 24, bits - 1, bits))
    network = rnd.getrandbits(bits) >> bits - length << bits - length if length else 0
    return f"{(IPv4Address if bits == 32 else IPv6Address)(network)}/{length}"


def _quic(rnd: random.Random, members: list[Raw]) -> list[Raw]:
    """What connection IDs mean: of every length, few of them encrypted, since the program leaves those alone."""
    configs = []
    for config_id in sorted(rnd.sample(range(7), rnd.choice((1, 1, 2, 4)))):
        length = rnd.choice((5, 7, 8, 16, QUIC_LENGTH, rnd.randrange(5, QUIC_LENGTH + 1)))
        server = min(15, rnd.choice((1, length - 4, rnd.randrange(1, length - 3))))
        names = [rnd.randbytes(server) for _ in members]
        if server > 2:  # the same but for one byte
            names = [names[0][:at] + bytes((names[0][at] ^ 1,)) + names[0][at + 1 :] for at in range(server)] + names
        config = {"config_id": config_id, "server_id_length": server, "nonce_length": length - server}
        config["servers"] = {name.hex(): rnd.choice(members)["index"] for name in names}
        if rnd.random() < 0.3:
            config["key"] = rnd.randbytes(16).hex()
        if rnd.random() < 0.5:
            config["encode_length"] = True
        configs.append(config)
    return configs


def _choosing(rnd: random.Random, service: Raw, members: list[Raw]) -> Raw:
    """How a service chooses, if it does."""
    kinds = ("hash", "per_flow", "per_flow", "per_packet") if service["protocol"] == "udp" else ("hash", "per_flow")
    placement = rnd.choice(kinds)
    if placement == "hash":
        return {"placement": placement}
    indices = [member["index"] for member in members]
    choices = [rnd.choice(indices) for _ in range(rnd.choice((0, 1, 2, 7)))]
    # Chance is the same everywhere only where it has no choice.
    order = rnd.choice(("sequence", "random")) if len(set(choices)) < 2 else "sequence"
    return {"placement": placement, "choices": choices, "choice_order": order}


def _moved(rnd: random.Random, slots: Raw, members: list[Raw]) -> Raw:
    """Slots some of which have got other owners."""
    indices = [member["index"] for member in members]
    here = {*indices, NOBODY}
    before = slots.get("cycle", [NOBODY])
    size = {"size": slots["size"]} if "size" in slots else {}
    how = rnd.random()
    if how < 0.4:  # a window
        after = [rnd.choice((*indices, NOBODY)) if rnd.random() < 0.7 else owner for owner in before]
        previous = before
    elif how < 0.6:  # a tail
        after, previous = before, [NOBODY] * len(before)
    elif how < 0.8:  # the end of it
        after, previous = before, before
    else:
        after, previous = before, [rnd.choice((*indices, NOBODY)) for _ in before]
    heir = rnd.choice(indices)
    after = [owner if owner in here else heir for owner in after]
    previous = [owner if owner in here else NOBODY for owner in previous]
    return {"cycle": after, "previous": previous, **size}


def _indices(rnd: random.Random) -> list[int]:
    count = rnd.choice((1, 2, 8, 20))
    if rnd.random() < 0.5:
        return list(range(count))
    return sorted({rnd.choice((0, 65534, rnd.randrange(65535))) for _ in range(count)})


def _member(rnd: random.Random, number: int, index: int, *, learned: bool) -> Raw:
    six = rnd.random() < 0.5
    member = {
        "id": f"pool/m{number}",
        "index": index,
        "address": f"2001:db8::{number + 1:x}" if six else f"203.0.113.{number + 1}",
    }
    encapsulation = rnd.choice((None, None, "ipip", "ipip", "gre", "gue"))
    if encapsulation:
        member |= {"encapsulation": encapsulation, "ttl": rnd.choice(("router", "router", "transparent"))}
        if rnd.random() < 0.3:
            member |= {"outer_df": rnd.choice(("copy_inner", "clear")), "outer_ttl": rnd.choice((1, 64, 128, 255))}
        if rnd.random() < 0.3:
            member["outer_prefix"] = rnd.choice(PREFIXES[6 if six else 4])
        if learned and rnd.random() < 0.5:
            member["path_mtu"] = rnd.choice((552, 576, 1280, 1300, 1400))
    ifindex = rnd.choice((7, 7, 9))
    member["next_hop"] = {
        "ifindex": ifindex,
        "interface": f"d{ifindex}",
        "source_mac": rnd.choice(EGRESS_MACS),
        "mac": f"02:00:00:00:01:{rnd.choice((number, 0x71)):02x}",
        "mtu": rnd.choice(MTUS),
        "source": f"2001:db8:1::{rnd.choice((1, 0xFFFF)):x}" if six else f"192.0.2.{rnd.choice((1, 255))}",
        "direct": True,
    }
    return member


def _slots(rnd: random.Random, members: list[Raw]) -> Raw:
    if rnd.random() < 0.03:
        return {"none": True}
    indices = [member["index"] for member in members]
    owners = rnd.sample(indices, min(len(indices), rnd.randrange(1, 7)))
    if rnd.random() < 0.3:
        owners.append(NOBODY)
    slots: Raw = {"cycle": owners}
    if rnd.random() < 0.3:
        slots["size"] = rnd.choice((1, 2, 251, 4099, SLOTS - 1))
    if rnd.random() < 0.4:
        slots["previous"] = [rnd.choice((*indices, NOBODY)) for _ in range(rnd.choice((1, len(owners))))]
    return slots


def _ports(rnd: random.Random, pins: list[int]) -> list[int]:
    """Around a few points, so that ranges meet, overlap and contain each other."""
    first = max(1, rnd.choice((80, 443, *pins)) + rnd.choice((0, 0, -1, 1, -5)))
    last = rnd.choice((first, first, first + 1, first + 3, first + 4, first + 9, first + 500, 65535))
    if rnd.random() < 0.15:
        first, last = 1, rnd.choice((65535, 65535, 1, 1024))
    return [min(first, 65535), min(last, 65535)]
