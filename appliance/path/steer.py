"""Makes the kernel hand over packets of sockets that have our mark: a TUN device, and a routing rule that leads there.

The mark is on what sockets of ours send, and on nothing else: packets that arrive have none, and neither have those
that the director forwards. So replies take their usual way to the sockets.
"""

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MTU = 65535
"""Larger than any way, so that the kernel takes a member's MSS as it is. What fits is judged packet by packet."""

_QUEUE = "20000"
"""Packets that wait for us at most: those of thousands of checks while the event loop is busy for a second or two."""

_ADVERTISED_MSS = 1220
"""What members may send: it fits every link that carries IPv6."""

_PREFERENCE = 100
"""Of the rule: behind the local table, in front of all else."""


class SteerError(Exception):
    """Probes cannot go through the DSR path; the text says why and what to do."""


class Steering:
    """One TUN device with its rules. The device ends with the process; rules that a dead one leaves lead nowhere."""

    def __init__(self, interfaces: Iterable[str]) -> None:
        """Mark, table and device are named after the interfaces: the same director finds its own rules again."""
        name = "\0".join(sorted(interfaces)).encode()
        low = int.from_bytes(blake2b(name, digest_size=3).digest(), "big")
        self.mark = 0x4F << 24 | low
        self.device = f"onward{low:06x}"
        self.fd = -1

    def open(self) -> None:
        """Make device and rules.

        Raises:
            SteerError: the kernel has no TUN, or we lack privileges.
        """
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SteerError(
                f"/dev/net/tun: {(error.strerror or str(error)).lower()}; health checks through the DSR path take it: "
                'load the module tun, or set vantage = "direct" for all health monitors'
            ) from error
        try:
            request = struct.pack("16sH14x", self.device.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(self.fd, _TUNSETIFF, request)
            self._configure()
        except OSError as error:
            self.close()
            raise SteerError(
                f"cannot make the TUN device {self.device}: {error}; it takes CAP_NET_ADMIN, "
                "and no other director on the same interfaces"
            ) from error
        except SteerError:
            self.close()
            raise

    def close(self) -> None:
        """The device goes, and with it the routes."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        for family in _families():
            _ip(family, "rule", "del", *self._rule(), check=False)

    def _configure(self) -> None:
        _ip("-4", "link", "set", self.device, "addrgenmode", "none", "mtu", str(_MTU), "txqueuelen", _QUEUE, "up")
        try:
            # Only what we write into it comes from there: answers that a packet is too big, which are the VIP's.
            Path(f"/proc/sys/net/ipv4/conf/{self.device}/rp_filter").write_text("0")
        except OSError:
            pass  # somebody keeps /proc/sys from us: packets that are too big get no answer then
        for family in _families():
            _ip(family, "rule", "del", *self._rule(), check=False)
            _ip(family, "rule", "add", *self._rule())
            if family == "-4" or _read(f"/proc/sys/net/ipv6/conf/{self.device}/disable_ipv6") == "0":
                table = ("table", str(self.mark), "advmss", str(_ADVERTISED_MSS))
                _ip(family, "route", "replace", "default", "dev", self.device, *table)

    def _rule(self) -> tuple[str, ...]:
        return "pref", str(_PREFERENCE), "fwmark", str(self.mark), "lookup", str(self.mark)


def _families() -> Iterable[str]:
    return ("-4", "-6") if Path("/proc/sys/net/ipv6").exists() else ("-4",)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _ip(*arguments: str, check: bool = True) -> None:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        raise SteerError("ip is not installed; health checks through the DSR path need the package iproute2") from None
    except subprocess.TimeoutExpired:
        raise SteerError(f"ip {' '.join(arguments)} does not end within 30 s") from None
    if check and done.returncode != 0:
        text = done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"exit code {done.returncode}"
        raise SteerError(f"ip {' '.join(arguments)}: {text}; health checks through the DSR path need it")
