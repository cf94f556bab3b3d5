"""Loads, fills and attaches the decapsulation program (decap.bpf.c), and reads its counters."""

import errno
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from types import TracebackType

from appliance.bpf.libbpf import Attach, BpfError, Link, Object, XdpMode, attach

OBJECT = Path(__file__).with_name("decap.bpf.o")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Mode(Enum):
    """Where packets are taken out of their encapsulation."""

    AUTO = "auto"
    """Native XDP where the driver has it, else generic XDP."""
    NATIVE = "native"
    GENERIC = "generic"
    TC = "tc"
    """Behind GRO, as tcx program (Linux 6.6): for interfaces whose offloads cannot be switched off."""


class DecapError(Exception):
    """Decapsulation cannot start or go on; the text says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """What is taken out of its encapsulation."""

    interface: str
    directors: tuple[Network, ...]
    """Sources of encapsulated packets."""
    vips: tuple[Address, ...]
    """Inner destinations."""
    addresses: tuple[Address, ...] = ()
    """Outer destinations; the interface's own addresses when empty."""
    mode: Mode = Mode.AUTO


def loaded(program: str, directors: Iterable[Network], addresses: Iterable[Address], vips: Iterable[Address]) -> Object:
    """The object in the kernel, with its tables filled, not attached anywhere.

    Raises:
        BpfError: the kernel refuses.
    """
    decap = Object(OBJECT)
    try:
        decap.only(program)
        decap.load()
        table = decap.map("directors")
        for network in directors:
            length = network.prefixlen + (96 if network.version == 4 else 0)
            table.update(struct.pack("I", length) + mapped(network.network_address), b"\1")
        for name, keys in (("addresses", addresses), ("vips", vips)):
            table = decap.map(name)
            for key in keys:
                table.update(mapped(key), b"\1")
    except BaseException:
        decap.close()
        raise
    return decap


class Counters:
    """The counters of a loaded object, under the names they have in the program."""

    def __init__(self, decap: Object) -> None:
        self._map = decap.map("counters")
        self._names = {
            name.removeprefix("COUNT_").lower(): struct.pack("I", number)
            for name, number in decap.enum("count").items()
            if name.startswith("COUNT_")
        }

    def read(self) -> dict[str, int]:
        return {name: self._map.lookup_sum(key) for name, key in self._names.items()}


class Decap:
    """The program, attached. It is detached by `close`, or when the process ends, however it ends."""

    def __init__(self, settings: Settings) -> None:
        """Load and attach.

        Raises:
            DecapError: no such interface, no privilege, or the kernel refuses.
        """
        try:
            self._ifindex = socket.if_nametoindex(settings.interface)
        except OSError:
            raise DecapError(f"there is no interface {settings.interface}; see `ip link`") from None
        self.settings = settings
        self.why_generic = ""
        """Why mode auto could not have native XDP."""
        self.addresses = settings.addresses or addresses_of(settings.interface)
        if not self.addresses:
            raise DecapError(f"{settings.interface} has no address; give it one, or use --address")
        try:
            program = "decap_tc" if settings.mode is Mode.TC else "decap_xdp"
            self._object = loaded(program, settings.directors, self.addresses, settings.vips)
            try:
                self._counters = Counters(self._object)
                self.mode, self._link = self._attach()
            except BaseException:
                self._object.close()
                raise
        except BpfError as error:
            raise DecapError(f"{settings.interface}: {error}") from None

    def _attach(self) -> tuple[Mode, Link]:
        if self.settings.mode is Mode.TC:
            try:
                return Mode.TC, attach(self._object.program("decap_tc"), self._ifindex, Attach.TCX_INGRESS)
            except BpfError as error:
                if error.errno == errno.EINVAL:
                    raise DecapError("this kernel has no tcx (Linux 6.6); use another --mode") from None
                raise
        program = self._object.program("decap_xdp")
        if self.settings.mode is not Mode.GENERIC:
            try:
                return Mode.NATIVE, attach(program, self._ifindex, Attach.XDP, XdpMode.NATIVE)
            except BpfError as error:
                if error.errno in (errno.EBUSY, errno.EEXIST):
                    raise DecapError(
                        f"{self.settings.interface} has an XDP program already; take it off "
                        f"(`ip link set dev {self.settings.interface} xdp off`), or use --mode tc"
                    ) from None
                # A driver without XDP, or one that cannot at this MTU or with these queues.
                if self.settings.mode is Mode.NATIVE or error.errno == errno.EPERM:
                    raise
                self.why_generic = os.strerror(error.errno)
        return Mode.GENERIC, attach(program, self._ifindex, Attach.XDP, XdpMode.GENERIC)

    def counters(self) -> dict[str, int]:
        """Packets by what happened to them, since the start."""
        return self._counters.read()

    def attached(self) -> bool:
        """Whether the interface is still the one we are attached to."""
        try:
            return socket.if_nametoindex(self.settings.interface) == self._ifindex
        except OSError:
            return False

    def close(self) -> None:
        self._link.close()
        self._object.close()

    def __enter__(self) -> "Decap":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def mapped(address: Address) -> bytes:
    """16 bytes in network order; IPv4 as RFC 4291, 2.5.5.2 maps it."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def addresses_of(interface: str) -> tuple[Address, ...]:
    """The addresses of an interface, without link-local ones.

    Raises:
        DecapError: `ip` cannot tell.
    """
    result = subprocess.run(
        ["ip", "-json", "address", "show", "dev", interface], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise DecapError(f"ip address show dev {interface}: {result.stderr.strip()}")
    found = (
        ip_address(address["local"]) for link in json.loads(result.stdout) for address in link.get("addr_info", ())
    )
    return tuple(address for address in found if not address.is_link_local)


def overlapping(settings: Settings) -> Iterable[str]:
    """What is allowed but hardly meant."""
    for address in settings.vips:
        for network in settings.directors:
            if address.version == network.version and address in network:
                yield f"VIP {address} lies in {network}, where directors are"
    for network in settings.directors:
        if network.prefixlen == 0:
            yield f"--from {network} lets everybody in: what comes out of the encapsulation has passed no filter"
