"""What the kernel says of real interfaces."""

import platform
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.bpf.libbpf import Attach, Object, XdpMode, attach, program_info
from appliance.dataplane.xdp.linkfacts import Attached, XdpFeature, attached, driver_of, vlan_of, xdp_features
from appliance.decap import decap
from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import inside

pytestmark = pytest.mark.root

OBJECT = Path(decap.__file__).with_name("decap.bpf.o")
KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
NOBODY = 999_999
"""No interface has this number."""


@dataclass(frozen=True)
class Cable:
    a: Namespace
    b: Namespace
    ifindex: int
    """Of a0, in a; its peer is b0, in b."""

    def features(self) -> XdpFeature | None:
        return inside(self.a, lambda: xdp_features(self.ifindex))

    def attached(self) -> Attached | None:
        return inside(self.a, lambda: attached(self.ifindex))


@pytest.fixture
def cable() -> Iterator[Cable]:
    with namespaces("a", "b", prefix="owL") as (a, b):
        veth(a, "a0", b, "b0")
        yield Cable(a, b, inside(a, lambda: socket.if_nametoindex("a0")))


@pytest.fixture(scope="module")
def program() -> Iterator[int]:
    with Object(OBJECT) as opened:
        opened.only("decap_xdp")
        opened.load()
        yield opened.program("decap_xdp")


def test_drivers_have_names(cable: Cable) -> None:
    """A veth says what it is; the loopback interface and one that is not there have no name to give."""
    assert inside(cable.a, lambda: driver_of("a0")) == "veth"
    assert driver_of("lo") == driver_of("no-such-thing") == ""


def test_a_veth_takes_frames_when_its_peer_does(cable: Cable, program: int) -> None:
    """Redirected frames get through a veth exactly while its peer has GRO or an XDP program; told since Linux 6.3."""
    cable.b.run("ethtool", "-K", "b0", "gro", "off")
    features = cable.features()
    if KERNEL < (6, 3):
        assert features is None
        return
    assert features is not None
    assert features & XdpFeature.BASIC
    assert features & XdpFeature.REDIRECT
    assert not features & XdpFeature.NDO_XMIT
    cable.b.run("ethtool", "-K", "b0", "gro", "on")
    assert (cable.features() or XdpFeature(0)) & XdpFeature.NDO_XMIT
    cable.b.run("ethtool", "-K", "b0", "gro", "off")
    assert not (cable.features() or XdpFeature(0)) & XdpFeature.NDO_XMIT
    link = inside(cable.b, lambda: attach(program, socket.if_nametoindex("b0"), Attach.XDP, XdpMode.NATIVE))
    assert (cable.features() or XdpFeature(0)) & XdpFeature.NDO_XMIT
    link.close()


@pytest.mark.parametrize("mode", [XdpMode.NATIVE, XdpMode.GENERIC])
def test_the_program_on_an_interface(cable: Cable, program: int, mode: XdpMode) -> None:
    """Its number and mode are told while it is attached, and nothing before and after."""
    assert cable.attached() is None
    link = inside(cable.a, lambda: attach(program, cable.ifindex, Attach.XDP, mode))
    assert cable.attached() == Attached(mode.name.lower(), program_info(program).id)
    link.close()
    until(lambda: cable.attached() is None, "the program is detached")


def test_what_is_no_vlan_device(cable: Cable) -> None:
    """A veth has an interface below it as well, and is no VLAN device."""
    assert inside(cable.a, lambda: vlan_of(cable.ifindex)) is None


def test_an_interface_that_is_gone(cable: Cable) -> None:
    """Nothing is known of it, and asking is no error."""
    cable.a.ip("link delete a0")
    for ifindex in (cable.ifindex, NOBODY):
        gone = inside(cable.a, lambda ifindex=ifindex: (xdp_features(ifindex), attached(ifindex), vlan_of(ifindex)))
        assert gone == (None, None, None)
