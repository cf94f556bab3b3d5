"""Keeps the kernel's own stack away from packets for VIPs: an nftables chain at ingress, behind our taps.

Packet sockets get their copy before the ingress hook. What the chain then drops the kernel never answers (RST, ICMP)
nor forwards, though the VIP is no local address. Only destinations that are VIPs are touched: ARP and neighbour
discovery go on as ever.
"""

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterable
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address

from appliance.dataplane.base import DataPlaneError

_PRIORITY = -500
"""Ahead of whatever else filters at ingress."""

_NETLINK_NETFILTER = 12
_GETGEN = 10 << 8 | 16
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN."""


class KernelGuard:
    """One table of the netdev family, for one set of interfaces. Every change is one transaction."""

    def __init__(self, interfaces: tuple[str, ...]) -> None:
        """The table is named after the interfaces: the same director finds what an earlier run of it left behind."""
        self._interfaces = interfaces
        self.table = "onward_" + blake2b("\0".join(sorted(interfaces)).encode(), digest_size=4).hexdigest()
        self._listing = ""
        self._generation = -1

    def install(self, vips4: Iterable[IPv4Address] = (), vips6: Iterable[IPv6Address] = ()) -> None:
        """Create the table with these VIPs, in place of one that is there already.

        Raises:
            DataPlaneError: nftables is missing or refused.
        """
        devices = ", ".join(f'"{name}"' for name in self._interfaces)
        self._run(f"""
            table netdev {self.table}
            delete table netdev {self.table}
            table netdev {self.table} {{
                set vips4 {{ type ipv4_addr; }}
                set vips6 {{ type ipv6_addr; }}
                chain ingress {{
                    type filter hook ingress devices = {{ {devices} }} priority {_PRIORITY}; policy accept;
                    ip daddr @vips4 drop
                    ip6 daddr @vips6 drop
                }}
            }}
            {self._elements(vips4, vips6)}
        """)

    def known(self) -> bool:
        """Whether the table is as `adopt` or the last change has left it: for that, nft is not needed."""
        try:
            return bool(self._listing) and not self.changed()
        except DataPlaneError:
            return False

    def adopt(self) -> bool:
        """Go on with the table that an earlier process has left, VIPs and all; False when there is none like it."""
        try:
            generation, listing = _generation(), self._list()
        except DataPlaneError:
            return False
        parts = ["set vips4", "set vips6", "ip daddr @vips4 drop", "ip6 daddr @vips6 drop"]
        if any(part not in listing for part in (*parts, *(f'"{name}"' for name in self._interfaces))):
            return False
        self._generation, self._listing = generation, listing
        return True

    def set(self, vips4: Iterable[IPv4Address], vips6: Iterable[IPv6Address]) -> None:
        """Drop packets to exactly these addresses from now on.

        Raises:
            DataPlaneError: nftables refused; nothing has changed.
        """
        self._run(self._elements(vips4, vips6))

    def _elements(self, vips4: Iterable[IPv4Address], vips6: Iterable[IPv6Address]) -> str:
        lines = []
        for name, vips in (("vips4", vips4), ("vips6", vips6)):
            lines.append(f"flush set netdev {self.table} {name}")
            elements = ", ".join(str(vip) for vip in sorted(vips))
            if elements:
                lines.append(f"add element netdev {self.table} {name} {{ {elements} }}")
        return "\n".join(lines)

    def remove(self, other: str = "") -> None:
        """Leave nothing behind. Not there any more is fine.

        Args:
            other: the table of other interfaces, which an earlier process has left.
        """
        table = other or self.table
        self._run(f"table netdev {table}\ndelete table netdev {table}", gone=not other)

    def changed(self) -> bool:
        """Whether any nftables rule of this network namespace changed since `verify`. Cheap.

        Raises:
            DataPlaneError: the kernel does not say.
        """
        return _generation() != self._generation

    def verify(self) -> None:
        """Make sure that the table is as it was made.

        Raises:
            DataPlaneError: it is not.
        """
        generation = _generation()
        try:
            listing = self._list()
        except DataPlaneError:
            listing = ""
        if listing != self._listing:
            raise DataPlaneError(
                f"nftables table netdev {self.table} was {'changed' if listing else 'deleted'} by someone else, "
                "so the kernel may answer for VIPs; find out who flushes nftables rules"
            )
        self._generation = generation

    def _run(self, script: str, *, gone: bool = False) -> None:
        _nft(["-f", "-"], script)
        # Read before the listing: a change in between is then found by the next look.
        self._generation = _generation()
        self._listing = "" if gone else self._list()

    def _list(self) -> str:
        return _nft(["list", "table", "netdev", self.table], "")


def _nft(arguments: list[str], script: str) -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=script, capture_output=True, text=True, check=False, timeout=30
        )
    except FileNotFoundError:
        raise DataPlaneError("nft is not installed; the raw data plane needs the package nftables") from None
    except OSError as error:
        raise DataPlaneError(f"nft cannot be started: {error}") from error
    except subprocess.TimeoutExpired:
        raise DataPlaneError("nft does not answer within 30 s; is another program holding nftables?") from None
    if done.returncode != 0:
        text = done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"exit code {done.returncode}"
        if "Operation not permitted" in text:
            text += "; it takes CAP_NET_ADMIN"
        raise DataPlaneError(f"nft {' '.join(arguments)}: {text}")
    return done.stdout


def _generation() -> int:
    """The number of the ruleset's last transaction."""
    request = struct.pack("=IHHIIBBH", 20, _GETGEN, 1, 1, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
            netlink.settimeout(1.0)
            netlink.sendto(request, (0, 0))
            reply = netlink.recv(4096)
    except OSError as error:
        raise DataPlaneError(f"nftables does not answer over netlink: {error}") from error
    kind = struct.unpack_from("=H", reply, 4)[0]
    if kind == 2:  # NLMSG_ERROR
        number = -struct.unpack_from("=i", reply, 16)[0]
        hint = "; it takes CAP_NET_ADMIN" if number == errno.EPERM else ""
        raise DataPlaneError(f"nftables does not answer over netlink: {os.strerror(number)}{hint}")
    return int(struct.unpack_from("!I", reply, 24)[0])  # the first attribute is NFTA_GEN_ID
