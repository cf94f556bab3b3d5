"""netplan, of all releases since 0.104 (Ubuntu 22.04). Pure."""

from appliance.server.formats import networkd
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
    remote,
    sysctl_file,
    wrapped,
)
from appliance.server.plan import Plan, Tunnel

ADVERTISED_MSS = (1, 1)
"""The first release that has `advertised-mss`; older ones refuse the whole file with it."""


def render(plan: Plan, settings: Settings) -> tuple[File, ...]:
    """A file of netplan, and what netplan has no words for: settings of the kernel, the firewall, some tunnels.

    `local` always stands there, since releases up to 0.107 want it.
    """
    own = [tunnel for tunnel in plan.tunnels if tunnel.mode != "any"]
    rest = [tunnel for tunnel in plan.tunnels if tunnel.mode == "any"]
    by_route = _routes(plan, settings)
    lines = [*head(plan, "VIPs and tunnels"), "network:", "  version: 2", "  ethernets:", "    lo:"]
    lines += [f"      {line}" for line in about_vip(plan)]
    lines += ["      renderer: networkd", "      match: {name: lo}", "      addresses:"]
    lines += [f'        - "{address}"' for address in addresses(plan)]
    lines += by_route
    if own:
        lines.append("  tunnels:")
        for tunnel in own:
            lines += _tunnel(tunnel)
    return (
        # netplan complains of files that others can read: keys of WireGuard may be in them.
        File("/etc/netplan/60-onward.yaml", "\n".join(lines) + "\n", mode=0o600),
        *(file for tunnel in rest for file in networkd.tunnel_files(plan, tunnel)),
        *networkd.gue_files(plan),
        sysctl_file(plan),
        *modules_file(plan),
        *firewall_files(plan, mss=not by_route),
        *decap_files(plan),
    )


def _tunnel(tunnel: Tunnel) -> list[str]:
    lines = [
        f"    {tunnel.device}:",
        "      renderer: networkd",
        f"      mode: {tunnel.mode or tunnel.kind}",
        f'      local: "{tunnel.local}"',
        f'      remote: "{remote(tunnel)}"  # anybody; the firewall says who that is',
        "      link-local: []",
    ]
    if address := inside(tunnel):
        why = "For the reverse-path filter, which drops everything by a device without an IPv4 address."
        lines += [*wrapped(why, "      # "), f'      addresses: ["{address}"]']
    return lines


def _routes(plan: Plan, settings: Settings) -> list[str]:
    """The MSS by a route of its own for what VIPs send; empty where it must be set by the firewall."""
    versions = {vip.version for vip in plan.mss}
    known = {gateway.version for gateway in settings.gateways} & {network.version for network in settings.networks}
    if settings.release < ADVERTISED_MSS or not versions or not versions <= known:
        return []
    routes, rules = [], []
    for size, table in plan.route_tables.items():
        for version in sorted({vip.version for vip, wanted in plan.mss.items() if wanted == size}):
            more = f"table: {table}, advertised-mss: {size}"
            routes += [
                f'        - {{to: "{network}", scope: link, {more}}}'
                for network in settings.networks
                if network.version == version
            ]
            everything = "0.0.0.0/0" if version == 4 else "::/0"
            routes += [
                f'        - {{to: "{everything}", via: "{gateway}", {more}}}'
                for gateway in settings.gateways
                if gateway.version == version
            ]
        rules += [
            f'        - {{from: "{vip}/{vip.max_prefixlen}", table: {table}, priority: {table}}}'
            for vip, wanted in plan.mss.items()
            if wanted == size
        ]
    why = "Clients' segments have to fit the tunnel: what VIPs send goes by routes that advertise a smaller MSS."
    return [
        f"    {plan.interface}:",
        *wrapped(why, "      # "),
        "      routes:",
        *routes,
        "      routing-policy:",
        *rules,
    ]
