"""cloud-init: user data for a machine that is to be a member from its first start. Pure."""

from appliance.server.formats.base import ONWARD, SCRIPT, File, Settings, head, unit, wrapped
from appliance.server.formats.shell import script
from appliance.server.plan import Plan

_UNIT = "/etc/systemd/system/onward-member.service"


def render(plan: Plan, settings: Settings) -> tuple[File, ...]:
    """The script of the format `shell`, and a unit that calls it at every start."""
    service = unit(
        plan,
        "VIPs, tunnels and firewall of a member",
        ["Type=oneshot", "RemainAfterExit=yes", f"ExecStart={SCRIPT} up", f"ExecStop={SCRIPT} down"],
        before="",
    )
    lines = ["#cloud-config", *head(plan, "User data"), "packages: [iproute2, nftables]", "write_files:"]
    for path, mode, text in ((SCRIPT, "0755", script(plan)), (_UNIT, "0644", service)):
        lines += [f"  - path: {path}", f'    permissions: "{mode}"', "    content: |"]
        lines += [f"      {line}" if line else "" for line in text.splitlines()]
    if plan.decap_arguments():
        lines += wrapped(f"It needs {ONWARD} to take packets out of their encapsulation: install it in the image.")
    lines += ["runcmd:", "  - [systemctl, daemon-reload]", "  - [systemctl, enable, --now, onward-member.service]"]
    return (File("user-data", "\n".join(lines) + "\n"),)
