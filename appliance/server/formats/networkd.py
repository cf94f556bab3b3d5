"""systemd-networkd. Pure."""

from appliance.packet.encap import GUE_PORT
from appliance.server.formats.base import (
    File,
    Settings,
    about_vip,
    decap_files,
    firewall_files,
    head,
    inside,
    modules_file,
    sysctl_file,
    wrapped,
)
from appliance.server.plan import Plan, Tunnel

FOLDER = "/etc/systemd/network"


def render(plan: Plan, settings: Settings) -> tuple[File, ...]:
    """Files of networkd, sysctl.d and modules-load.d, and units.

    The interface towards the network is left alone: a second file for it would not be read. So the MSS is set by the
    firewall and not by a route.
    """
    return (
        _loopback(plan),
        *(file for tunnel in plan.tunnels for file in tunnel_files(plan, tunnel)),
        *gue_files(plan),
        sysctl_file(plan),
        *modules_file(plan),
        *firewall_files(plan, mss=True),
        *decap_files(plan),
    )


def _loopback(plan: Plan) -> File:
    lines = [*head(plan, "VIPs"), *about_vip(plan), "[Match]", "Name=lo"]
    for vip in plan.vips:
        lines += ["", "[Address]", f"Address={vip}/{vip.max_prefixlen}"]
        if vip.version == 6:
            lines += ["# Directors and other members have it, too.", "DuplicateAddressDetection=none"]
    return File(f"{FOLDER}/10-onward-lo.network", "\n".join(lines) + "\n")


def tunnel_files(plan: Plan, tunnel: Tunnel) -> tuple[File, ...]:
    name = tunnel.device
    device = [
        *head(plan, f"Takes packets to {tunnel.local} out of their encapsulation"),
        "[NetDev]",
        f"Name={name}",
        f"Kind={tunnel.kind}",
        "",
        "[Tunnel]",
        "# Without it the device would be made only when another file names it.",
        "Independent=yes",
        f"Local={tunnel.local}",
        "# From anybody; the firewall says who that is.",
        "Remote=any",
    ]
    if tunnel.mode:
        device.append(f"Mode={tunnel.mode}")
    network = [
        *head(plan, f"Brings {name} up"),
        "[Match]",
        f"Name={name}",
        "",
        "[Network]",
        "LinkLocalAddressing=no",
        "IPv6AcceptRA=no",
        "ConfigureWithoutCarrier=yes",
        "",
        "[Link]",
        "# No replies leave by it, so nobody has to wait for it at the start.",
        "RequiredForOnline=no",
    ]
    if address := inside(tunnel):
        network += [
            "",
            "[Address]",
            *wrapped("For the reverse-path filter, which drops everything by a device without an IPv4 address."),
            f"Address={address}",
            "Scope=host",
        ]
    return (
        File(f"{FOLDER}/10-{name}.netdev", "\n".join(device) + "\n"),
        File(f"{FOLDER}/10-{name}.network", "\n".join(network) + "\n"),
    )


def gue_files(plan: Plan) -> tuple[File, ...]:
    found = []
    for version in plan.gue:
        lines = [
            *head(plan, f"Opens GUE over IPv{version}; the tunnel devices get what is inside"),
            "[NetDev]",
            f"Name=onward-gue{version}",
            "Kind=fou",
            "",
            "[FooOverUDP]",
            "Encapsulation=GenericUDPEncapsulation",
            f"Port={GUE_PORT}",
        ]
        if version == 6:
            lines.append(f"Local={plan.own(6)}")
        found.append(File(f"{FOLDER}/10-onward-gue{version}.netdev", "\n".join(lines) + "\n"))
    return tuple(found)
