"""Process 1 of a lab node: makes the node's namespaces and keeps them; killed, it takes everything in them along.

Started as a program of its own (standard library only, so that a node costs little):

1. standard input brings one JSON line: hostname, sysctls, binds;
2. namespaces are made (network, mount, UTS, IPC, PID), and the child in them becomes the node's process 1;
3. standard output gives the child's PID as this machine sees it, then `ready`, or what failed;
4. the child waits for `go`. The runner says it once the PID is on record; one that dies before leaves nothing behind.

Private to the node: all of /run, and changes to /etc and /var/tmp (overlays, gone with the node). The routers' and the
director's own folders start empty. All else is this machine's file system, so that files can be handed around by path.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

OVERLAID = ("/etc", "/var/tmp")  # noqa: S108 - a private view of it, which is what the rule is about
EMPTY = ("/etc/frr", "/etc/onward", "/etc/bird", "/var/tmp/frr", "/var/lib/frr", "/var/lib/onward")  # noqa: S108
"""FRR names files in /var/tmp/frr by PID, and PIDs repeat across PID namespaces."""

BASELINE = {
    # A new network namespace takes IPv4 settings over from this machine; nodes should not depend on them.
    "net.ipv4.ip_forward": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.arp_ignore": "0",
    "net.ipv4.conf.default.arp_ignore": "0",
    "net.ipv4.conf.all.arp_announce": "0",
    "net.ipv4.conf.default.arp_announce": "0",
    # Addresses are ours and unique; waiting a second for duplicate address detection proves nothing.
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None)
    _check(_libc.mount(*arguments), f"mount {kind or 'bind'} {source} on {target}")


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    try:
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET), "unshare")
    except OSError as error:
        print(f"0\n{error}", flush=True)
        return
    told, telling = os.pipe()
    child = os.fork()
    if child:
        print(child, flush=True)
        os._exit(0)
    # Not a word before the parent has said its line: its exit closes the pipe.
    os.close(telling)
    os.read(told, 1)
    os.close(told)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        _prepare(settings)
    except OSError as error:
        print(error, flush=True)
        os._exit(1)
    print("ready", flush=True)
    if sys.stdin.readline() != "go\n":
        os._exit(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    while True:
        signal.sigwait({signal.SIGCHLD})
        _reap()


def _reap() -> None:
    """Orphans of the node are ours."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def _prepare(settings: dict[str, Any]) -> None:
    # Sources are opened first: later mounts may hide them.
    binds = [(os.open(source, os.O_PATH), target, read_only) for source, target, read_only in settings["binds"]]
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _forget_mounts_below("/run/")
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    for folder in OVERLAID:
        scratch = f"/run/.overlay{folder.replace('/', '-')}"
        for part in ("upper", "work"):
            Path(scratch, part).mkdir(parents=True)
        Path(scratch, "upper").chmod(Path(folder).stat().st_mode & 0o7777)
        _mount("overlay", folder, "overlay", 0, f"lowerdir={folder},upperdir={scratch}/upper,workdir={scratch}/work")
    for folder in EMPTY:
        # Where making it would leave a trace on this machine it is left alone, unless somebody made it before.
        if folder.startswith(("/etc/", "/var/tmp/")):  # noqa: S108
            Path(folder).mkdir(parents=True, exist_ok=True)
        if Path(folder).is_dir():
            _mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    for descriptor, target, read_only in binds:
        _bind(descriptor, target, read_only)
        os.close(descriptor)
    socket.sethostname(settings["hostname"])
    for key, value in {**BASELINE, **settings["sysctls"]}.items():
        _sysctl(key, value)
    _loopback_up()


def _forget_mounts_below(folder: str) -> None:
    """Our copies of other labs' mounted namespaces would keep those alive after their end."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = line.split(" ")[4]
        if place.startswith(folder):
            # One that went with its parent is gone already, which is as good.
            _libc.umount2(place.encode().decode("unicode_escape").encode(), MNT_DETACH)


def _bind(source: int, target: str, read_only: bool) -> None:
    origin = f"/proc/self/fd/{source}"
    place = Path(target)
    if not place.exists():
        if not target.startswith(("/etc/", "/var/tmp/", "/run/")):  # noqa: S108
            raise FileNotFoundError(
                f"bind: {target} does not exist, and would have to be made on this machine; bind below /etc or /run"
            )
        if Path(origin).is_dir():
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    _mount(origin, target, "", MS_BIND | MS_REC)
    if read_only:
        _mount("none", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY)


def _sysctl(key: str, value: str) -> None:
    try:
        Path("/proc/sys", key.replace(".", "/")).write_text(value)
    except FileNotFoundError:
        if key not in BASELINE:
            raise FileNotFoundError(
                f"sysctl {key}: this kernel has none of that name (interfaces do not exist yet; use exec for theirs)"
            ) from None
    except OSError as error:
        raise OSError(error.errno, f"sysctl {key}={value}: {error.strerror}") from None


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(control, SIOCGIFFLAGS, request))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


if __name__ == "__main__":
    main()
