"""ifupdown (Debian). Pure."""

from appliance.packet.encap import GUE_PORT
from appliance.server.firewall import FAMILY
from appliance.server.formats.base import (
    FIREWALL_FILE,
    File,
    Settings,
    about_vip,
    addresses,
    decap_files,
    firewall_text,
    head,
    inside,
    sysctl_file,
    wrapped,
)
from appliance.server.plan import TABLE, Plan, Tunnel
from appliance.server.points import link_add


def render(plan: Plan, settings: Settings) -> tuple[File, ...]:
    """A file for /etc/network/interfaces.d, settings of the kernel, the firewall.

    `lo` has a second stanza, beside its usual one: ifupdown does what both say. The interface towards the network is
    left alone, so the MSS is set by the firewall and not by a route.
    """
    rules = firewall_text(plan, mss=True)
    lines = [*head(plan, "VIPs and tunnels"), ""]
    lines += [*about_vip(plan), "auto lo", "iface lo inet loopback"]
    if rules:
        lines += [
            "    # First of all: nobody but directors gets in by the tunnels.",
            f"    pre-up nft -f {FIREWALL_FILE}",
            f"    post-down nft delete table {FAMILY} {TABLE} || true",
        ]
    lines += [f"    up sysctl -qw {key}={value}" for key, value, _ in plan.sysctls()]
    for address in addresses(plan):
        lines.append(f"    up ip address replace {address} dev lo{' nodad' if ':' in address else ''}")
        lines.append(f"    down ip address del {address} dev lo || true")
    for version in plan.gue:
        family = "-6 " if version == 6 else ""
        lines += [
            "    # Opens GUE; the tunnel devices get what is inside.",
            f"    up modprobe fou{'6' if version == 6 else ''}",
            f"    up ip {family}fou add port {GUE_PORT} gue || true",
            f"    down ip {family}fou del port {GUE_PORT} || true",
        ]
    for tunnel in plan.tunnels:
        lines += ["", *_tunnel(tunnel)]
    return (
        File("/etc/network/interfaces.d/onward", "\n".join(lines) + "\n"),
        sysctl_file(plan),
        *([File(FIREWALL_FILE, rules)] if rules else []),
        *decap_files(plan),
    )


def _tunnel(tunnel: Tunnel) -> list[str]:
    address = inside(tunnel)
    lines = [
        *wrapped(f"Takes packets to {tunnel.local} out of their encapsulation."),
        f"auto {tunnel.device}",
        f"iface {tunnel.device} inet {'static' if address else 'manual'}",
    ]
    if address:
        lines += [
            *wrapped(
                "For the reverse-path filter, which drops everything by a device without an IPv4 address.", "    # "
            ),
            f"    address {address}",
            "    scope host",
        ]
    lines += [
        f"    pre-up modprobe {tunnel.module}",
        f"    pre-up [ -e /sys/class/net/{tunnel.device} ] || {' '.join(link_add(tunnel))}",
        f"    up ip link set {tunnel.device} up",
    ]
    if tunnel.filtered:
        lines.append(f"    up sysctl -qw net.ipv4.conf.{tunnel.device}.rp_filter=2")
    return [*lines, f"    post-down ip link del {tunnel.device} || true"]
