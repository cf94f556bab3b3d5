"""The rows of the packet rules that vectors are named after."""

import re

from tests.vectors_io import DIRECTORY

ROWS = {
    "IPIP": "IP in IP: outer headers, four family mixes",
    "GRE": "the same with GRE",
    "GUE": "the same with GUE",
    "P1": "Ethernet padding",
    "P2": "IP lengths",
    "P3": "IPv4 options",
    "P4": "IPv4 header checksum",
    "P5": "VLAN tags",
    "P6": "IPv6 extension headers",
    "P7": "TCP and UDP headers",
    "P8": "odd TCP flags",
    "P9": "zero UDP checksum",
    "P10": "port without a service",
    "P11": "exact port, range, wildcard",
    "P13": "VLAN tag as metadata",
    "P14": "super-frames, partial checksums",
    "P15": "not ours",
    "L1": "L2 DSR: the rewrite",
    "L2": "member's MAC address unknown",
    "L3": "member's MAC address changes",
    "L4": "member behind another interface",
    "L5": "loops",
    "L6": "a member answers for the VIP",
    "M1": "too big, IPv4",
    "M2": "too big, IPv6",
    "M3": "too big, to be fragmented",
    "M4": "GSO aggregates",
    "M5": "path MTU of a member",
    "M6": "false and flooding errors",
    "I1": "ICMP errors about flows",
    "I2": "quotes with options, extension headers",
    "I3": "unreachable, time exceeded, parameter problem",
    "I4": "errors about others' packets",
    "I5": "pings of a VIP",
    "I6": "other ICMP",
    "F0": "fragments, hash of the source",
    "F1": "first fragments",
    "F2": "later fragments of known datagrams",
    "F3": "later fragments that come first",
    "F5": "first fragments without ports",
    "F6": "atomic fragments",
    "C3": "a SYN on a remembered flow",
    "C5": "RST and FIN",
    "C8": "no member",
    "C9": "panic",
    "C13": "connection IDs of QUIC",
    "flows": "section 7 without rows: windows, tails, turns",
}

README = DIRECTORY / "README.md"


def row_of(name: str) -> str:
    """The row of a vector, by its id."""
    head = name.partition("-")[0]
    return head if head in ROWS else "flows"


def justified(text: str | None = None) -> dict[str, str]:
    """Rows that have no vectors, and why, as the format's README has it."""
    text = README.read_text() if text is None else text
    part = text.partition("## Rows without vectors")[2].partition("\n## ")[0]
    return {row: why.strip() for row, why in re.findall(r"(?m)^\| (\w+) \| (.+) \|$", part) if row in ROWS}


def gaps(counts: dict[str, int], listed: dict[str, str]) -> list[str]:
    """What is wrong with the rows that have no vectors.

    Args:
        counts: vectors by row.
        listed: rows without, and why.
    """
    missing = [f"row {row} ({ROWS[row]}) has no vector, and no reason" for row in ROWS if not counts.get(row)]
    missing = [text for text in missing if text.split()[1] not in listed]
    return missing + [
        f"row {row} is listed as without vectors, and has {counts[row]}" for row in listed if counts.get(row)
    ]
