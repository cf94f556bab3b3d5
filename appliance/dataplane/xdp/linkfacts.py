"""What the kernel says of an interface's driver, XDP program and VLAN, by netlink and ioctl. None: it does not say."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

from appliance.dataplane.raw.kernel import ethtool

_NETLINK_ROUTE, _NETLINK_GENERIC = 0, 16
_NLMSG_ERROR, _NLM_F_REQUEST = 2, 1
_NESTED = 0x3FFF
"""Attribute types without their flag bits."""

_GENL_CTRL, _CTRL_GETFAMILY, _CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 16, 3, 1, 2
_NETDEV_DEV_GET, _NETDEV_IFINDEX, _NETDEV_XDP_FEATURES = 1, 1, 3
_RTM_GETLINK, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_XDP = 18, 5, 18, 43
_INFO_KIND, _INFO_DATA, _VLAN_ID, _VLAN_PROTOCOL = 1, 2, 1, 5
_XDP_ATTACHED, _XDP_PROG_ID, _XDP_DRV_PROG_ID = 2, 4, 5
_ETHTOOL_GDRVINFO = 3
_MODES = {1: "native", 2: "generic", 3: "offloaded", 4: "multiple"}
_TIMEOUT_S = 1.0


class XdpFeature(IntFlag):
    """enum netdev_xdp_act (Linux 6.3)."""

    BASIC = 1
    REDIRECT = 2
    NDO_XMIT = 4
    """Sends frames that XDP programs redirect to it. A veth has this while its peer takes them: with an XDP program or
    GRO."""
    XSK_ZEROCOPY = 8
    HW_OFFLOAD = 16
    RX_SG = 32
    NDO_XMIT_SG = 64


@dataclass(frozen=True)
class Attached:
    """The XDP program on an interface."""

    mode: str
    """`native`, `generic`, `offloaded`, or `multiple`."""

    program_id: int
    """Of the native one, when there are several."""


@dataclass(frozen=True)
class Vlan:
    """What a VLAN device stands for."""

    parent_ifindex: int
    protocol: int
    """Type of the tag: 0x8100 or 0x88A8."""
    tag: int
    """VLAN number."""


def driver_of(name: str) -> str:
    """The name of an interface's driver; empty when there is none to be named."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = ethtool(any_socket, name, struct.pack("I", _ETHTOOL_GDRVINFO).ljust(196, b"\0"))
        except OSError:
            return ""
    return answer[4:36].split(b"\0")[0].decode(errors="replace")


def xdp_features(ifindex: int) -> XdpFeature | None:
    """What an interface can do with XDP. None before Linux 6.3, and when it is gone."""
    family = _netdev_family()
    if family is None:
        return None
    request = struct.pack("=BBH", _NETDEV_DEV_GET, 1, 0) + _attribute(_NETDEV_IFINDEX, struct.pack("=I", ifindex))
    answer = _ask(_NETLINK_GENERIC, family, request)
    if answer is None:
        return None
    features = dict(attributes(answer[4:])).get(_NETDEV_XDP_FEATURES)
    return XdpFeature(_number(features) & 0x7F) if features else None


def attached(ifindex: int) -> Attached | None:
    """The XDP program on an interface; None when there is none."""
    answer = _link(ifindex)
    if answer is None:
        return None
    return parse_attached(answer)


def vlan_of(ifindex: int) -> Vlan | None:
    """What an interface stands for if it is a VLAN device."""
    answer = _link(ifindex)
    if answer is None:
        return None
    return parse_vlan(answer)


def parse_attached(link: bytes) -> Attached | None:
    """From the attributes of an RTM_NEWLINK message."""
    xdp = dict(attributes(dict(attributes(link)).get(_IFLA_XDP, b"")))
    mode = _MODES.get(_number(xdp.get(_XDP_ATTACHED, b"")))
    if mode is None:
        return None
    return Attached(mode, _number(xdp.get(_XDP_PROG_ID) or xdp.get(_XDP_DRV_PROG_ID) or b""))


def parse_vlan(link: bytes) -> Vlan | None:
    """From the attributes of an RTM_NEWLINK message."""
    outer = dict(attributes(link))
    info = dict(attributes(outer.get(_IFLA_LINKINFO, b"")))
    if info.get(_INFO_KIND, b"").rstrip(b"\0") != b"vlan" or _IFLA_LINK not in outer:
        return None
    data = dict(attributes(info.get(_INFO_DATA, b"")))
    if _VLAN_ID not in data:
        return None
    protocol = int.from_bytes(data.get(_VLAN_PROTOCOL, b"\x81\x00")[:2], "big")
    return Vlan(
        parent_ifindex=_number(outer[_IFLA_LINK]),
        protocol=protocol,
        tag=_number(data[_VLAN_ID]),
    )


def attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of netlink attributes in a row; what is cut off or contradictory ends them."""
    while len(raw) >= 4:
        length, kind = struct.unpack_from("=HH", raw)
        if not 4 <= length <= len(raw):
            return
        yield kind & _NESTED, raw[4:length]
        raw = raw[(length + 3) & ~3 :]


def _number(payload: bytes) -> int:
    return int.from_bytes(payload, sys.byteorder)


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _link(ifindex: int) -> bytes | None:
    answer = _ask(_NETLINK_ROUTE, _RTM_GETLINK, struct.pack("=BxHiII", 0, 0, ifindex, 0, 0))
    return answer[16:] if answer is not None else None


def _netdev_family() -> int | None:
    # What is built in keeps its number while the kernel runs. That it is missing is worth remembering as well: at every
    # question for an unknown family the kernel starts modprobe.
    if not _families:
        request = struct.pack("=BBH", _CTRL_GETFAMILY, 1, 0) + _attribute(_CTRL_FAMILY_NAME, b"netdev\0")
        try:
            answer = _exchange(_NETLINK_GENERIC, _GENL_CTRL, request)
        except OSError as error:
            if error.errno == errno.ENOENT:
                _families.append(None)
            return None
        _families.append(_number(dict(attributes(answer[4:]))[_CTRL_FAMILY_ID]))
    return _families[0]


_families: list[int | None] = []


def _ask(protocol: int, kind: int, payload: bytes) -> bytes | None:
    try:
        return _exchange(protocol, kind, payload)
    except OSError:
        return None


def _exchange(protocol: int, kind: int, payload: bytes) -> bytes:
    """One request, one answer: its payload.

    Raises:
        OSError: the kernel refuses, or says nothing.
    """
    message = struct.pack("=IHHII", 16 + len(payload), kind, _NLM_F_REQUEST, 1, 0) + payload
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.sendto(message, (0, 0))
        answer = netlink.recv(1 << 16)
    length, kind = struct.unpack_from("=IH", answer)
    if kind == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(number, os.strerror(number))
    return answer[16:length]
