"""What the running kernel can do with BPF, against what its version promises. Run inside by `tests/run kernels`.

Not part of the usual tests: a kernel with features of later ones put back is right, and would fail here.
"""

import ctypes
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.bpf.libbpf import Object, possible_cpus
from tests.kernels.targets import ROOT
from tests.netns import Namespace, namespaces, veth
from tests.root.plane_rig import inside

pytestmark = pytest.mark.root

SYS_BPF = 321  # x86-64, the only machine that is emulated
MAP_CREATE, PROG_LOAD, PROG_TEST_RUN, LINK_CREATE = 0, 5, 10, 28
PROG_TYPE_SCHED_CLS, PROG_TYPE_XDP = 3, 6
XDP_HAS_FRAGS = 1 << 5
TEST_XDP_LIVE_FRAMES = 1 << 1
XDP, TCX_INGRESS = 37, 46
XDP_NATIVE = 1 << 2
RETURN_1 = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 1; exit

RELEASE = platform.release()
VERSION = tuple(int(part) for part in RELEASE.split("-")[0].split("+")[0].split(".")[:2])


def bpf(command: int, attributes: bytes) -> int:
    """The system call; OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    result: int = libc.syscall(SYS_BPF, command, buffer, len(buffer))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def load(kind: int, flags: int = 0) -> int:
    """A program that returns 1 (XDP_DROP); its file descriptor."""
    code = ctypes.create_string_buffer(RETURN_1, len(RETURN_1))
    licence = ctypes.create_string_buffer(b"GPL")
    head = struct.pack("<IIQQ", kind, len(RETURN_1) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    return bpf(PROG_LOAD, head + struct.pack("<IIQII", 0, 0, 0, 0, flags))


def attach(space: Namespace, program: int, interface: str, where: int, flags: int = 0) -> None:
    """Attach in a namespace and detach again."""
    index = int(space.run("cat", f"/sys/class/net/{interface}/ifindex"))
    link = inside(space, lambda: bpf(LINK_CREATE, struct.pack("<IIII", program, index, where, flags)))
    os.close(link)


def tcx(space: Namespace) -> None:
    attach(space, load(PROG_TYPE_SCHED_CLS), "a0", TCX_INGRESS)


def xdp_features(space: Namespace) -> None:
    """The generic netlink family in which drivers tell what XDP they have."""
    if subprocess.run(["genl", "ctrl", "get", "name", "netdev"], capture_output=True, check=False).returncode:
        raise OSError("no netlink family netdev")


def frags(space: Namespace) -> None:
    load(PROG_TYPE_XDP, XDP_HAS_FRAGS)


def native_xdp_on_jumbo_veth(space: Namespace) -> None:
    """A packet that is larger than a page goes through a program that takes fragments."""
    space.ip("link set a0 mtu 9000")
    attach(space, load(PROG_TYPE_XDP, XDP_HAS_FRAGS), "a0", XDP, XDP_NATIVE)


def live_frames(space: Namespace) -> None:
    program = load(PROG_TYPE_XDP)
    frame = ctypes.create_string_buffer(64)
    run = struct.pack("<IIIIQQII", program, 0, 64, 0, ctypes.addressof(frame), 0, 1, 0)
    run += struct.pack("<IIQQIII", 0, 0, 0, 0, TEST_XDP_LIVE_FRAMES, 0, 0)
    bpf(PROG_TEST_RUN, run)


def xdp_link(space: Namespace) -> None:
    attach(space, load(PROG_TYPE_XDP), "a0", XDP, XDP_NATIVE)


def _map(kind: int, key: int, value: int, flags: int = 0) -> None:
    os.close(bpf(MAP_CREATE, struct.pack("<IIIII", kind, key, value, 16, flags)))


def mmapable_array(space: Namespace) -> None:
    _map(2, 4, 8, 1 << 10)


def devmap_hash(space: Namespace) -> None:
    _map(25, 4, 8)  # with a program at each entry: 5.8


@dataclass(frozen=True)
class Feature:
    since: tuple[int, int]
    use: Callable[[Namespace], None]


FEATURES = (
    Feature((5, 8), devmap_hash),
    Feature((5, 5), mmapable_array),
    Feature((5, 9), xdp_link),
    Feature((5, 18), frags),
    Feature((5, 18), native_xdp_on_jumbo_veth),
    Feature((5, 18), live_frames),
    Feature((6, 3), xdp_features),
    Feature((6, 6), tcx),
)


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    with namespaces("a", "b", prefix="owK") as (a, b):
        veth(a, "a0", b, "b0")
        yield a


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.use.__name__)
def test_a_feature_is_there_since_its_version(space: Namespace, feature: Feature) -> None:
    """A kernel can do what came with its version or an earlier one, and refuses what came later."""
    if feature.since <= VERSION:
        feature.use(space)
    else:
        with pytest.raises(OSError):
            feature.use(space)


@pytest.mark.parametrize("path", sorted(ROOT.glob("appliance/**/*.bpf.o")), ids=lambda path: path.name)
def test_our_objects_load(path: Path) -> None:
    """The verifier of this kernel takes every program that we ship."""
    with Object(path) as compiled:
        compiled.load()
    assert possible_cpus() >= 1


def test_decap_says_that_tcx_is_missing(space: Namespace) -> None:
    """`--mode tc` works since Linux 6.6; an older kernel refuses it with a sentence that says so."""
    space.ip("address add 203.0.113.2/24 dev a0")
    arguments = ["--from", "203.0.113.1/32", "--vip", "198.51.100.7", "--mode", "tc"]
    onward = str(Path(sys.executable).with_name("onward"))
    command = space.command(onward, "decap", "run", "--interface", "a0", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.terminate()
        _, said = process.communicate(timeout=10)
    if VERSION >= (6, 6):
        assert "decapsulating in tc mode" in first
    else:
        assert "this kernel has no tcx (Linux 6.6); use another --mode" in said
