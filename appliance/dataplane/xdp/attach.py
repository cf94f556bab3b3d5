"""Where the program is attached, how, and by which interfaces it can send."""

import errno
import socket
from collections.abc import Set
from dataclasses import dataclass
from enum import StrEnum

from appliance.bpf.libbpf import Attach, BpfError, Link, XdpMode, attach
from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.linkfacts import XdpFeature, attached, driver_of, vlan_of, xdp_features
from appliance.dataplane.xdp.tables import Egress
from appliance.forwarding import NextHop

VETH = "veth"
LONGEST_BUFFER = 3498
"""MTU up to which a frame, headroom and the kernel's own data fit into a page of 4096 bytes (veth's limit; others' are
about the same)."""

_TAKEN = (errno.EBUSY, errno.EEXIST)


class Mode(StrEnum):
    """Where in the kernel the program runs."""

    AUTO = "auto"
    """Native where the driver has it, else generic. Only to be asked for; nothing is attached as auto."""
    NATIVE = "native"
    """In the driver, before the kernel has made a packet buffer of the frame."""
    GENERIC = "generic"
    """Behind the driver: works with every interface, and is slower."""


@dataclass
class Attachment:
    """The program on one interface."""

    interface: Interface
    link: Link
    mode: Mode
    why_generic: str = ""
    """Why it is not native, although that was preferred."""

    may_change: bool = False
    """Whether that reason is one that can go away."""

    def alive(self) -> bool:
        """Whether the program is still attached to this very interface."""
        try:
            return self.link.info().ifindex == self.interface.ifindex
        except BpfError:
            return False

    @property
    def port_flags(self) -> int:
        """What the program has to know of this interface."""
        flags, veth = 0, driver_of(self.interface.name) == VETH
        if self.mode is Mode.NATIVE and veth:
            # XDP_TX puts frames into the peer's queue and, when the peer receives by NAPI only because of GRO, wakes
            # nobody (veth_xdp_flush looks for a program there); redirecting always does.
            flags |= layout.PORT_NO_TRANSMIT
        if self.mode is Mode.GENERIC or veth:
            # Neighbours on the same machine may leave checksums to their device. No network card does.
            flags |= layout.PORT_PARTIAL
        return flags


def attach_to(interface: Interface, program_fd: int, wanted: Mode) -> Attachment:
    """Attach the program.

    Raises:
        DataPlaneError: another program is there, privileges are missing, or the wanted mode is not possible.
    """
    why_generic, may_change = "", False
    if wanted is not Mode.GENERIC:
        why_generic = why_not_native(interface)
        may_change = bool(why_generic)
        if not why_generic:
            try:
                link = attach(program_fd, interface.ifindex, Attach.XDP, XdpMode.NATIVE)
                return Attachment(interface, link, Mode.NATIVE)
            except BpfError as error:
                _refuse_taken(interface, error)
                # A driver without XDP, or one that cannot with this MTU, these queues or these offloads.
                why_generic = str(error)
        if wanted is Mode.NATIVE:
            raise DataPlaneError(f"{interface.name} cannot have native XDP: {why_generic}")
    try:
        link = attach(program_fd, interface.ifindex, Attach.XDP, XdpMode.GENERIC)
    except BpfError as error:
        _refuse_taken(interface, error)
        raise DataPlaneError(f"{interface.name} cannot have an XDP program: {error}") from error
    return Attachment(interface, link, Mode.GENERIC, why_generic, may_change)


def adopt(interface: Interface, link: Link, wanted: Mode) -> Attachment | None:
    """Take over the link that an earlier process has left, whatever its mode; None, and it is closed, when it is not
    attached to this interface any more."""
    found = attached(interface.ifindex)
    if found and found.mode == Mode.NATIVE:
        adopted = Attachment(interface, link, Mode.NATIVE)
    else:
        why_generic = why_not_native(interface) if wanted is not Mode.GENERIC else ""
        adopted = Attachment(interface, link, Mode.GENERIC, why_generic, may_change=True)
    if adopted.alive():
        return adopted
    link.close()
    return None


def _refuse_taken(interface: Interface, error: BpfError) -> None:
    if error.errno in _TAKEN:
        other = attached(interface.ifindex)
        which = f" (id {other.program_id}, {other.mode})" if other else ""
        # Without a mode, ip means the driver's wherever that has XDP.
        where = "xdpgeneric" if other and other.mode == Mode.GENERIC else "xdp"
        raise DataPlaneError(
            f"{interface.name} has another XDP program already{which}; see `bpftool net`, and take it off with "
            f"`ip link set dev {interface.name} {where} off` or by ending the program that holds it"
        ) from error
    if error.errno in (errno.EPERM, errno.EACCES):
        raise DataPlaneError(
            f"not permitted to attach an XDP program to {interface.name}: it takes CAP_NET_ADMIN and CAP_BPF"
        ) from error


def why_not_native(interface: Interface) -> str:
    """What is in the way of native XDP, empty for nothing. The kernel would attach all the same, and lose frames."""
    features = xdp_features(interface.ifindex)
    if features is None:
        return ""  # Linux before 6.3 does not tell
    driver = driver_of(interface.name)
    if not features & XdpFeature.BASIC:
        return f"its driver ({driver or 'unknown'}) has no XDP"
    if interface.mtu > LONGEST_BUFFER and not features & XdpFeature.RX_SG:
        return f"its driver ({driver or 'unknown'}) has no XDP for an MTU of {interface.mtu}"
    # Network cards have this only once they have a program; with a veth it is up to the other end.
    return _why_no_xmit(driver, features) if driver == VETH else ""


def _why_no_xmit(driver: str, features: XdpFeature) -> str:
    if features & XdpFeature.NDO_XMIT:
        return ""
    if driver == VETH:
        return "its peer does not take XDP frames; on the peer's side: ethtool -K PEER gro on"
    return f"its driver ({driver or 'unknown'}) does not send frames of XDP programs"


def egress_of(hop: NextHop, native: Set[int]) -> Egress:
    """How the program sends to a next hop.

    Args:
        hop: from the forwarding tables.
        native: numbers of the interfaces where packets for VIPs arrive and the program runs in the driver.
    """
    if not native:
        return Egress(hop.ifindex)  # generic XDP sends like everybody else
    ifindex, name, tag = hop.ifindex, hop.interface, bytes(4)
    vlan = vlan_of(ifindex)
    if vlan is not None:
        # The driver below knows nothing of the VLAN device, so the tag is written by the program.
        ifindex, tag = vlan.parent_ifindex, vlan.protocol.to_bytes(2, "big") + vlan.tag.to_bytes(2, "big")
        name = _name_of(ifindex)
    features, driver = xdp_features(ifindex), driver_of(name)
    if features is None or (native == {ifindex} and driver != VETH):
        return Egress(ifindex, tag)  # the kernel does not tell; or frames leave where they came in, by XDP_TX
    return Egress(ifindex, tag, _why_no_xmit(driver, features), linear=not features & XdpFeature.NDO_XMIT_SG)


def open_for_frames(ifindex: int, program_fd: int) -> Link | None:
    """Attach the program where nothing for us arrives: many drivers send frames of programs only if they have one.

    Returns:
        None when the driver is not of that kind or has another program.
    """
    features = xdp_features(ifindex)
    if features is None or not features & XdpFeature.BASIC or driver_of(_name_of(ifindex)) == VETH:
        return None
    try:
        return attach(program_fd, ifindex, Attach.XDP, XdpMode.NATIVE)
    except BpfError:
        return None


def _name_of(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return ""  # gone meanwhile
