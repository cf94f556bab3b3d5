"""NetworkManager. Pure."""

from appliance.server.formats.base import (
    File,
    Settings,
    about_vip,
    addresses,
    decap_files,
    firewall_files,
    head,
    inside,
    modules_file,
    plain_tunnels,
    remote,
    sysctl_file,
    wrapped,
)
from appliance.server.plan import Plan

SCRIPT = "/usr/local/sbin/onward-member-nmcli"


def render(plan: Plan, settings: Settings) -> tuple[File, ...]:
    """A script of nmcli commands to be called once, and what NetworkManager has no words for.

    VIPs are on a dummy device, since NetworkManager before 1.42 leaves `lo` alone: nobody hears of them there either.

    Raises:
        FormatError: GUE, or both families in IPv6.
    """
    lines = [
        "#!/bin/sh",
        *head(plan, "VIPs and tunnels"),
        *wrapped(
            "Call it once; NetworkManager keeps the connections. Every command is tried, also where some are there."
        ),
        "set -u",
        "",
        *about_vip(plan),
        _add(
            "type dummy ifname onward-vip con-name onward-vip",
            {
                "ipv4.method": "manual" if any(":" not in one for one in addresses(plan)) else "disabled",
                "ipv4.addresses": ",".join(one for one in addresses(plan) if ":" not in one),
                "ipv6.method": "manual" if any(":" in one for one in addresses(plan)) else "disabled",
                "ipv6.addresses": ",".join(one for one in addresses(plan) if ":" in one),
            },
        ),
    ]
    for tunnel in plain_tunnels(plan, "NetworkManager"):
        address = inside(tunnel)
        lines += ["", *wrapped(f"Takes packets to {tunnel.local} out of their encapsulation.")]
        if address:
            lines += wrapped(
                "Its address is for the reverse-path filter, which drops everything by a device without one."
            )
        lines.append(
            _add(
                f"type ip-tunnel ifname {tunnel.device} con-name {tunnel.device}",
                {
                    "ip-tunnel.mode": tunnel.mode or str(tunnel.kind),
                    "ip-tunnel.local": str(tunnel.local),
                    "ip-tunnel.remote": remote(tunnel),
                    "ipv4.method": "manual" if address else "disabled",
                    "ipv4.addresses": address or "",
                    "ipv6.method": "disabled",
                },
            )
        )
    return (
        File(SCRIPT, "\n".join(lines) + "\n", mode=0o755),
        sysctl_file(plan),
        *modules_file(plan),
        *firewall_files(plan, mss=True),
        *decap_files(plan),
    )


def _add(head_words: str, properties: dict[str, str]) -> str:
    words = " ".join(f"{name} {value}" for name, value in properties.items() if value)
    return f"nmcli connection add {head_words} \\\n\t{words}"
