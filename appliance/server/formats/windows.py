"""Windows, which can be a member of L2 DSR only. Pure."""

from appliance.server.formats.base import File, FormatError, Settings, head, wrapped
from appliance.server.plan import Plan
from appliance.server.points import MANY_PORTS

_ADAPTER = "Onward VIP"


def render(plan: Plan, settings: Settings) -> tuple[File, ...]:
    """A PowerShell script, to be called as administrator.

    Raises:
        FormatError: the member is reached by a tunnel.
    """
    if plan.encapsulated:
        names = ", ".join(service.name for service in plan.encapsulated)
        raise FormatError(
            f'Windows takes nothing out of tunnels, and {names} comes in one; use L2 DSR (`dsr = {{ type = "l2" }}`), '
            "or a proxy on Linux in front"
        )
    lines = [
        *head(plan, "VIPs"),
        *wrapped("Call it as administrator; it may be called again."),
        '$ErrorActionPreference = "Stop"',
        f'$nic = "{plan.interface}"',
        f'$vip = "{_ADAPTER}"',
        "",
        *wrapped(
            "VIPs stand on the KM-TEST loopback adapter, where nobody hears of them. Add it once: hdwwiz.exe, install "
            "manually, Network adapters, Microsoft, Microsoft KM-TEST Loopback Adapter."
        ),
        "if (-not (Get-NetAdapter -Name $vip -ErrorAction SilentlyContinue)) {",
        '    $found = Get-NetAdapter -InterfaceDescription "*KM-TEST Loopback*" | Select-Object -First 1',
        '    if (-not $found) { throw "add the Microsoft KM-TEST Loopback Adapter first (hdwwiz.exe)" }',
        "    Rename-NetAdapter -Name $found.Name -NewName $vip",
        "}",
        "",
        *wrapped("No source for connections of its own (SkipAsSource), and no question whether somebody else has it."),
        *(
            f"if (-not (Get-NetIPAddress -IPAddress {vip} -ErrorAction SilentlyContinue)) {{\n"
            f"    New-NetIPAddress -InterfaceAlias $vip -IPAddress {vip} -PrefixLength {vip.max_prefixlen} "
            "-SkipAsSource $true\n}"
            for vip in plan.vips
        ),
        "",
        *wrapped(
            "Packets for the VIP come by the network card and replies leave by it, though the address is the "
            "adapter's: the weak host model on both, and on the adapter for sending as well."
        ),
    ]
    for version in sorted({vip.version for vip in plan.vips}):
        lines += [
            f"netsh interface ipv{version} set interface $nic weakhostreceive=enabled",
            f"netsh interface ipv{version} set interface $vip weakhostreceive=enabled weakhostsend=enabled",
        ]
        if version == 6:
            lines.append("netsh interface ipv6 set interface $vip dadtransmits=0")
    lines += ["", *wrapped("The firewall lets clients in.")]
    for service in plan.services:
        every = any(span.width > MANY_PORTS for span in service.ports)
        ports = "Any" if every else ",".join(map(str, service.ports))
        local = ",".join(map(str, service.vips))
        name = f"Onward {service.name}"
        lines += [
            f'if (-not (Get-NetFirewallRule -DisplayName "{name}" -ErrorAction SilentlyContinue)) {{',
            f'    New-NetFirewallRule -DisplayName "{name}" -Direction Inbound -Action Allow `',
            f"        -Protocol {str(service.protocol).upper()} -LocalAddress {local} -LocalPort {ports}",
            "}",
        ]
    return (File("onward-member.ps1", "\n".join(lines) + "\n"),)
