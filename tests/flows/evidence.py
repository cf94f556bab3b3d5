"""What directors got and sent of a broken flow, from captures at the switch they are connected to."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.flows.fleet import DIRECTORS, Fleet
from tests.flows.workload import Broken

MOST = 60
"""Packets told of a flow, from its end."""


@contextmanager
def captured(fleet: Fleet, folder: Path | None) -> Iterator[Mapping[str, Path]]:
    """Capture at every director's port of the switch; files by director. Without a folder nothing is captured."""
    files: dict[str, Path] = {}
    running = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for director in DIRECTORS:
            files[director] = folder / f"{director}.pcap"
            options = ["-s", "110", "-B", "32768", "-n", "-Z", "root", "-w", str(files[director].resolve())]
            running.append(
                fleet.node("tor").popen(
                    [
                        "tcpdump",
                        "-i",
                        director,
                        *options,
                        "net 198.51.100.0/24 or net 2001:db8:f::/48 or proto 4 or proto 41",
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
    try:
        yield files
    finally:
        for process in running:
            process.terminate()
            process.wait(10)


def of(flow: Broken, captures: Mapping[str, Path]) -> list[str]:
    """The flow's packets at the directors, in the order of time, as tcpdump tells them."""
    lines: list[str] = []
    for director, file in captures.items():
        said = subprocess.run(
            ["tcpdump", "-tt", "-n", "-r", str(file), _filter(flow)], capture_output=True, text=True, check=False
        )
        lines += [f"{line.split(' ', 1)[0]} {director} {line.split(' ', 1)[1]}" for line in said.stdout.splitlines()]
    return [f"          {line}" for line in sorted(lines)[-MOST:]]


def _filter(flow: Broken) -> str:
    """Plain, or in another IPv4 header of 20 bytes."""
    plain = f"(host {flow.source} and port {flow.port})"
    if ":" in flow.source:
        number = int.from_bytes(bytes.fromhex(_hex(flow.source))[-4:], "big")
        return f"{plain} or (proto 41 and ip[40:4] = {number} and ip[60:2] = {flow.port})"
    number = int.from_bytes(bytes(int(part) for part in flow.source.split(".")), "big")
    return f"{plain} or (proto 4 and ip[32:4] = {number} and ip[40:2] = {flow.port})"


def _hex(address: str) -> str:
    from ipaddress import IPv6Address

    return IPv6Address(address).packed.hex()
