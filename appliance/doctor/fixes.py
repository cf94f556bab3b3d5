"""Commands that set something right, for a shell on that machine: now, and for its next boot. Pure."""

from collections.abc import Mapping, Sequence

from appliance.doctor.finding import Fix, Site
from appliance.doctor.member import Platform
from appliance.model import Delivery, Encapsulation, IPAddress

SYSCTL_FILE = "/etc/sysctl.d/90-onward.conf"
"""Behind 50-default.conf, which sets rp_filter by a wildcard on many systems."""

MANAGERS = ("netplan", "networkd", "ifupdown", "networkmanager")


def sysctls(wanted: Mapping[str, int], text: str) -> Fix:
    """
    Args:
        wanted: values by name behind `net.`.
        text: what it is for.
    """
    settings = [f"net.{name}={value}" for name, value in wanted.items()]
    lines = "".join(f"{setting}\\n" for setting in settings)
    return Fix(Site.MEMBER, text, (f"sysctl -w {' '.join(settings)}", f"printf '{lines}' >> {SYSCTL_FILE}"))


def vip_on_loopback(vips: Sequence[IPAddress], platform: Platform | None) -> Fix:
    """VIPs as addresses of the loopback interface, where nobody on a segment is told of them."""
    commands = [
        f"ip {'-6 ' if vip.version == 6 else ''}address add {_host(vip)} dev lo{' nodad' if vip.version == 6 else ''}"
        for vip in vips
    ]
    manager = platform.manager if platform is not None else ""
    commands += _persist(vips, manager)
    known = f" ({manager})" if manager in MANAGERS else ""
    return Fix(Site.MEMBER, f"add the VIP to the loopback interface, now and for the next boot{known}", tuple(commands))


def _host(vip: IPAddress) -> str:
    return f"{vip}/{vip.max_prefixlen}"


def _persist(vips: Sequence[IPAddress], manager: str) -> list[str]:
    hosts = [_host(vip) for vip in vips]
    match manager:
        case "netplan":
            quoted = ", ".join(f'"{host}"' for host in hosts)
            return [f"netplan set --origin-hint 90-onward 'ethernets.lo.addresses=[{quoted}]' && netplan apply"]
        case "networkd":
            lines = "".join(f"Address={host}\\n" for host in hosts)
            return [
                f"printf '[Match]\\nName=lo\\n[Network]\\n{lines}' > /etc/systemd/network/10-onward-lo.network",
                "networkctl reload",
            ]
        case "ifupdown":
            return [
                f"printf 'auto lo\\niface lo inet loopback\\n    up ip address replace {host} dev lo\\n' "
                ">> /etc/network/interfaces.d/onward"
                for host in hosts
            ]
        case "networkmanager":
            return [
                f"nmcli connection modify lo +ipv{vip.version}.addresses {_host(vip)} && nmcli connection up lo"
                for vip in vips
            ]
    return []


def decapsulate(
    delivery: Delivery, vip: IPAddress, member: IPAddress, director: str, device: str, *, loaded: bool
) -> Fix:
    """Something that takes packets out of their encapsulation.

    Args:
        delivery: how they come.
        vip: that is inside.
        member: the outer destination.
        director: the outer source, or its prefix.
        device: the interface that they come in by.
        loaded: whether the kernel's module is there, and only no device that wants these packets.
    """
    ours = f"onward decap run --interface {device} --from {director} --vip {vip}"
    kind = {(4, 4): "ipip", (6, 6): "ip6tnl", (4, 6): "ip6tnl", (6, 4): "sit"}[vip.version, member.version]
    tunnel = {"ipip": "tunl0", "ip6tnl": "ip6tnl0", "sit": "sit0"}[kind]
    module = {"ipip": "ipip", "ip6tnl": "ip6_tunnel", "sit": "sit"}[kind]
    if delivery.encapsulation is Encapsulation.GRE:
        module, tunnel = ("ip_gre", "gre0") if member.version == 4 else ("ip6_gre", "ip6gre0")
    if delivery.encapsulation is Encapsulation.GUE:
        text = "take packets out of GUE: in XDP, which needs no device"
        return Fix(Site.MEMBER, text, (ours,))
    up = [f"ip link set {tunnel} up", f"ip address add 127.0.0.42/32 dev {tunnel}"]
    what = "bring the tunnel device up" if loaded else "load the tunnel's module and bring its device up"
    text = f"{what}; or, without a device and without rp_filter in the way: {ours}"
    return Fix(Site.MEMBER, text, tuple(up if loaded else [f"modprobe {module}", *up]))


def advertise(vip: IPAddress, mss: int) -> Fix:
    """A smaller MSS towards clients, for what the VIP sends and for nothing else."""
    six = "-6 " if vip.version == 6 else ""
    return Fix(
        Site.MEMBER,
        f"advertise an MSS of {mss} for what {vip} sends, by a routing table of its own (with the routes to the "
        "member's own segments in it as well)",
        (
            f"ip {six}rule add from {_host(vip)} table 77",
            f"ip {six}route replace $(ip {six}route show default | head -n1) table 77 advmss {mss}",
        ),
    )
