"""Configurations with a member for every delivery."""

from ipaddress import ip_network
from typing import Any

from appliance.config.load import parse
from appliance.model import Config
from appliance.server.plan import Plan, plan_of

HEAD = """
schema_version = 1
[director]
name = "d1"
interfaces = ["eth1"]
[fleet]
secret_file = "fleet.key"
[[fleet.director]]
name = "d1"
address = "203.0.113.1"
[[fleet.director]]
name = "d2"
address = "203.0.113.3"
"""
POOL = """
[[pool]]
name = "p{version}"
[[pool.member]]
name = "m1"
address = "{address}"
[[pool.member]]
name = "m2"
address = "{other}"
"""
SERVICE = """
[[network_profile]]
name = "{name}"
type = "{kind}_fast_path"
dsr = {{ {dsr} }}
[[virtual_service]]
name = "{name}"
vips = [{vips}]
ports = [{ports}]
network_profile = "{name}"
pool = "p{outer}"
"""
FOUR, SIX = "198.51.100.{n}", "2001:db8:f::{n}"
SERVICES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "l2": ("", 4, (FOUR, SIX)),
    "ipip": ("ipip", 4, (FOUR,)),
    "sit": ("ipip", 4, (SIX,)),
    "ip6ip6": ("ipip", 6, (SIX,)),
    "ipip6": ("ipip", 6, (FOUR,)),
    "any6": ("ipip", 6, (FOUR, SIX)),
    "gre": ("gre", 4, (FOUR, SIX)),
    "gre6": ("gre", 6, (FOUR, SIX)),
    "gue": ("gue", 4, (FOUR, SIX)),
    "gue6": ("gue", 6, (FOUR, SIX)),
}
"""Encapsulation, IP version of the outer header, and VIPs, by service."""

DELIVERIES = {
    "l2": ("l2",),
    "ipip": ("ipip",),
    "ip6ip6": ("ip6ip6",),
    "mixed": ("ipip", "sit", "any6"),
    "gre": ("gre", "gre6"),
    "gue": ("gue",),
    "all": tuple(SERVICES),
}
SOURCES = (ip_network("203.0.113.0/29"), ip_network("2001:db8:2::1/128"))


def config(fleet: str = HEAD) -> Config:
    text = fleet
    text += POOL.format(version=4, address="203.0.113.2", other="203.0.113.4")
    text += POOL.format(version=6, address="2001:db8:2::2", other="2001:db8:2::4")
    for number, (name, (encapsulation, outer, vips)) in enumerate(SERVICES.items(), 7):
        text += SERVICE.format(
            name=name,
            kind="udp" if name == "gue6" else "tcp",
            dsr=f'type = "l3", encapsulation = "{encapsulation}"' if encapsulation else 'type = "l2"',
            vips=", ".join(f'"{vip.format(n=number)}"' for vip in vips),
            ports='80, "8000-8099"' if name == "l2" else "443",
            outer=outer,
        )
    return parse(text, "onward.toml", lambda _: b"0" * 32)


def plan(delivery: str, **how: Any) -> Plan:
    """Of member m1, for the services of one of DELIVERIES."""
    return plan_of(config(), "m1", **{"services": DELIVERIES[delivery], "sources": SOURCES, **how})
