"""A member's configuration for one network manager each. Pure: from a plan to the texts of files."""

from collections.abc import Callable, Mapping

from appliance.server.formats import cloudinit, ifupdown, netplan, networkd, nmcli, shell, windows
from appliance.server.formats.base import File, Settings
from appliance.server.plan import Plan

FORMATS: Mapping[str, Callable[[Plan, Settings], tuple[File, ...]]] = {
    "netplan": netplan.render,
    "networkd": networkd.render,
    "ifupdown": ifupdown.render,
    "shell": shell.render,
    "nmcli": nmcli.render,
    "cloud-init": cloudinit.render,
    "windows": windows.render,
}
"""A new format is a file and a line. Each raises FormatError for what it cannot say."""
