"""Prefixes that outer headers have their sources from, and the machine that they are routed to: it has none of them."""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from appliance.model import IPNetwork

Interface = IPv4Interface | IPv6Interface


class MachineError(Exception):
    """The machine cannot be looked at; the text says why."""


def shown_by_ip() -> Sequence[Mapping[str, Any]]:
    """This machine's interfaces and their addresses, as iproute2 shows them.

    Raises:
        MachineError: it does not.
    """
    try:
        output = subprocess.run(["ip", "-json", "address"], check=True, capture_output=True, text=True, timeout=10)
        return list(json.loads(output.stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise MachineError(f"cannot ask iproute2 for this machine's interfaces: {error}") from error


def addresses_of(shown: Sequence[Mapping[str, Any]]) -> tuple[Interface, ...]:
    """Addresses with the lengths of their prefixes, of what iproute2 has shown."""
    return tuple(
        ip_interface(f"{one['local']}/{one['prefixlen']}")
        for link in shown
        for one in link.get("addr_info", ())
        if "local" in one
    )


def not_routed(prefixes: Iterable[IPNetwork], here: Sequence[Interface]) -> Iterator[str]:
    """Why `director.outer_source_prefixes` cannot be used on a machine with these addresses; nothing where they can."""
    for prefix in prefixes:
        own = sorted(one.ip for one in here if one.version == prefix.version and one.ip in prefix)
        segments = sorted({one.network for one in here if one.version == prefix.version})
        overlapped = [segment for segment in segments if segment.overlaps(prefix)]
        remedy = "use a prefix that is routed to this director, and of which no machine has an address"
        if own:
            yield f"director.outer_source_prefixes: {own[0]} of {prefix} is an address of this machine; {remedy}"
        elif overlapped:
            yield (
                f"director.outer_source_prefixes: {prefix} overlaps {overlapped[0]}, which is on a segment of this "
                f"machine: neighbours would ask each other for its addresses instead of a router; {remedy}"
            )
