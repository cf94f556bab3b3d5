"""Receive offloads that merge packets into frames no wire could carry: switched off, and on again at the end.

By ethtool's ioctl (include/uapi/linux/ethtool.h): the names of the features, what is active, what is wanted.
"""

import errno
import socket
import struct

from appliance.dataplane.raw import kernel

_GSTRINGS, _GSSET_INFO, _GFEATURES, _SFEATURES = 0x1B, 0x37, 0x3A, 0x3B
_FEATURES_SET = 4
_NAME = 32

MERGING = ("rx-gro", "rx-gro-hw", "rx-lro", "rx-gro-list", "rx-udp-gro-forwarding")


_IN_HARDWARE = ("rx-gro-hw", "rx-lro")
"""These merge before a program in the driver, too."""


def merging(interface: str, *, soft: bool) -> tuple[str, ...]:
    """What merges packets at an interface now.

    Args:
        interface: its name.
        soft: also what the kernel does behind a program in the driver.
    """
    try:
        now = _active(interface)
    except OSError:
        return ()
    return tuple(name for name in (MERGING if soft else _IN_HARDWARE) if now.get(name))


def switch_off(interface: str) -> tuple[str, ...]:
    """Switch off what merges packets at an interface.

    Returns:
        The features that were on, for `restore`.

    Raises:
        OSError: the interface is gone, or not permitted.
    """
    before = _active(interface)
    _set(interface, [name for name in MERGING if before.get(name)], False)
    after = _active(interface)
    return tuple(name for name in MERGING if before.get(name) and not after.get(name))


def restore(interface: str, features: tuple[str, ...]) -> None:
    """Switch on again what `switch_off` returned; an interface that is gone needs nothing."""
    try:
        _set(interface, features, True)
    except OSError:
        pass


def _active(interface: str) -> dict[str, bool]:
    names = _names(interface)
    words = -(-len(names) // 32)
    reply = _ioctl(interface, struct.pack("II", _GFEATURES, words) + bytes(16 * words))
    masks = [struct.unpack_from("I", reply, 8 + 16 * word + 8)[0] for word in range(words)]
    return {name: bool(masks[bit // 32] >> bit % 32 & 1) for bit, name in enumerate(names)}


def _set(interface: str, features: list[str] | tuple[str, ...], on: bool) -> None:
    names = _names(interface)
    words = -(-len(names) // 32)
    masks = [0] * words
    for name in features:
        if name in names:
            bit = names.index(name)
            masks[bit // 32] |= 1 << bit % 32
    if any(masks):
        blocks = b"".join(struct.pack("II", mask, mask if on else 0) for mask in masks)
        _ioctl(interface, struct.pack("II", _SFEATURES, words) + blocks)


def _names(interface: str) -> list[str]:
    info = _ioctl(interface, struct.pack("IIQI", _GSSET_INFO, 0, 1 << _FEATURES_SET, 0))
    (count,) = struct.unpack_from("I", info, 16)
    reply = _ioctl(interface, struct.pack("III", _GSTRINGS, _FEATURES_SET, count) + bytes(_NAME * count))
    names = (reply[12 + _NAME * i : 12 + _NAME * (i + 1)] for i in range(count))
    return [name.split(b"\0", 1)[0].decode() for name in names]


def _ioctl(interface: str, command: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return kernel.ethtool(any_socket, interface, command)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return bytes(len(command))  # a device without features
            raise
