"""What formats have in common: files, and those that are the same in several of them. Pure."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.model import Decapsulator, IPAddress, IPNetwork
from appliance.packet.encap import GUE_PORT
from appliance.server.firewall import FAMILY, accepts, ruleset
from appliance.server.plan import INSIDE, TABLE, Plan, Tunnel

ONWARD = "/opt/onward/bin/onward"
FIREWALL_FILE = "/etc/onward/member.nft"
SCRIPT = "/usr/local/sbin/onward-member"


class FormatError(Exception):
    """A format has no words for what a plan needs; the text says what else to use."""


@dataclass(frozen=True)
class File:
    path: str
    """Where it belongs on the member."""
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Settings:
    """What the configuration does not know of the member's machine, for formats that can make use of it."""

    release: tuple[int, ...] = ()
    """Of the program that will read the files; the oldest in use when empty."""
    gateways: tuple[IPAddress, ...] = ()
    """The member's routers towards clients."""
    networks: tuple[IPNetwork, ...] = ()
    """On the member's own segment."""


def wrapped(text: str, prefix: str = "# ", width: int = 100) -> list[str]:
    """A sentence as comment lines."""
    lines, line = [], prefix
    for word in text.split():
        if len(line) + len(word) > width:
            lines.append(line.rstrip())
            line = prefix
        line += f"{word} "
    return [*lines, line.rstrip()]


def head(plan: Plan, purpose: str) -> list[str]:
    """The first lines of every file."""
    names = ", ".join(service.name for service in plan.services)
    return [*wrapped(f"{purpose}; member {plan.member}, for {names}."), *wrapped("Made by `onward server-setup`.")]


def about_vip(plan: Plan) -> list[str]:
    return wrapped(
        "The VIPs: this machine takes their packets, and nobody may learn by ARP or neighbour discovery that it has "
        "them, so they are on no interface that leads outside."
    )


def sysctl_file(plan: Plan) -> File:
    lines = [*head(plan, "What makes this machine keep quiet about the VIPs, and take what comes out of tunnels"), ""]
    for key, value, why in plan.sysctls():
        lines += [f"# {why}", f"{key} = {value}"]
    if tunnels := plan.tunnel_sysctls():
        lines += [
            "",
            *wrapped(
                "Of tunnel devices: loose, since clients are reached by another interface. The larger of this value "
                "and that of `all` counts; loose mode wants an IPv4 address on the device, too. These keys are there "
                "only when the devices are: udev sets them then (99-systemd.rules)."
            ),
        ]
        lines += [f"{key} = {value}" for key, value, _ in tunnels]
    return File("/etc/sysctl.d/90-onward.conf", "\n".join(lines) + "\n")


def modules_file(plan: Plan) -> Iterator[File]:
    names = modules(plan)
    if names:
        text = "\n".join([*head(plan, "Modules for tunnels"), *names]) + "\n"
        yield File("/etc/modules-load.d/onward.conf", text)


def modules(plan: Plan) -> list[str]:
    found = [tunnel.module for tunnel in plan.tunnels]
    return [*dict.fromkeys(found), *(["fou", *(["fou6"] if 6 in plan.gue else [])] if plan.gue else [])]


def firewall_files(plan: Plan, *, mss: bool) -> Iterator[File]:
    """The rules, and the unit that loads them."""
    rules = firewall_text(plan, mss=mss)
    if not rules:
        return
    yield File(FIREWALL_FILE, rules)
    yield File(
        "/etc/systemd/system/onward-member-firewall.service",
        unit(
            plan,
            "Firewall rules of a member",
            [
                "Type=oneshot",
                "RemainAfterExit=yes",
                f"ExecStart=/usr/sbin/nft -f {FIREWALL_FILE}",
                f"ExecStop=/usr/sbin/nft delete table {FAMILY} {TABLE}",
            ],
            before="network-pre.target",
        ),
    )


def firewall_text(plan: Plan, *, mss: bool) -> str:
    rules = ruleset(plan, mss=mss)
    if not rules:
        return ""
    lines = [*head(plan, "Who may send in tunnels, and how large clients' segments may be"), "#"]
    lines += wrapped("This lets nothing in that another table refuses. A firewall of your own has to accept:")
    lines += [f"#   {rule}" for rule in accepts(plan)]
    return "\n".join(lines) + f"\n{rules}"


def decap_files(plan: Plan) -> Iterator[File]:
    if words := plan.decap_arguments():
        yield File(
            "/etc/systemd/system/onward-decap.service",
            unit(
                plan,
                "Takes packets of directors out of their encapsulation",
                [
                    f"ExecStart={ONWARD} decap run {shlex.join(words)}",
                    "Restart=always",
                    "RestartSec=1",
                    "CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN CAP_PERFMON",
                    "NoNewPrivileges=yes",
                ],
                before="",
            ),
        )


def unit(plan: Plan, description: str, service: Iterable[str], *, before: str) -> str:
    order = (
        [
            f"Before={before}",
            f"Wants={before}",
            "DefaultDependencies=no",
            "After=systemd-modules-load.service",
            "Conflicts=shutdown.target",
            "Before=shutdown.target",
        ]
        if before
        else ["After=network-online.target", "Wants=network-online.target"]
    )
    lines = [
        *head(plan, description),
        "[Unit]",
        f"Description=Onward: {description.lower()}",
        *order,
        "",
        "[Service]",
        *service,
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def inside(tunnel: Tunnel) -> str | None:
    """The address that a tunnel device needs, for the sake of the reverse-path filter."""
    return INSIDE if tunnel.filtered else None


def remote(tunnel: Tunnel) -> str:
    return "0.0.0.0" if tunnel.local.version == 4 else "::"  # noqa: S104 - nothing is bound


def plain_tunnels(plan: Plan, who: str) -> tuple[Tunnel, ...]:
    """The tunnels, for programs that cannot open GUE and have no device for both families in IPv6.

    Raises:
        FormatError: the plan needs one of these.
    """
    if plan.gue:
        raise FormatError(
            f"{who} cannot open GUE (UDP port {GUE_PORT}); use --decapsulator {Decapsulator.ONWARD}, or --format shell"
        )
    for tunnel in plan.tunnels:
        if tunnel.mode == "any":
            raise FormatError(
                f"{who} has no device for both IPv4 and IPv6 inside of IPv6; use --decapsulator {Decapsulator.ONWARD}, "
                "or --format shell"
            )
    return plan.tunnels


def addresses(plan: Plan) -> list[str]:
    """The VIPs with the length of single addresses."""
    return [f"{vip}/{vip.max_prefixlen}" for vip in plan.vips]
