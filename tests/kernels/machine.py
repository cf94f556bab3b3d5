"""A virtual machine with another kernel and this machine's files: what boots it, and what comes back."""

import contextlib
import lzma
import re
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.packages import Kernel, KernelsError, cache

HERE = Path(__file__).parent
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What it takes to reach the root file system; the rest is loaded from there."""
CPUS = 2
MEMORY_MB = 3072
POLL_S = 0.05


@dataclass(frozen=True)
class Accelerator:
    """How the processor is emulated, and how long a machine may run with it."""

    name: str
    cpu: str
    boot_limit_s: float
    limit_s: float
    test_limit_s: int
    """The longest that a single test may take."""
    patience: int
    """How many times longer than usual a test may wait for something."""


KVM = Accelerator("KVM", "host", 60, 360, 120, 1)
# A processor without AVX: emulated AVX of QEMU 7.2 was seen to read text wrongly, now and then.
TCG = Accelerator("TCG", "Nehalem", 180, 1200, 600, 6)


def accelerator() -> Accelerator:
    """KVM where this user may have it and the processor carries it, else emulation.

    There are machines with /dev/kvm whose processor shows neither vmx nor svm. Such a KVM runs only kernels that were
    made for it, and leaves others hanging before their first line.
    """
    try:
        Path("/dev/kvm").open("r+b", buffering=0).close()
    except OSError:
        return TCG
    return KVM if re.search(r"^flags\b.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE) else TCG


@dataclass(frozen=True)
class Ran:
    """A machine that has ended."""

    boot_s: float | None
    """From the start to the command's; None: it did not come that far."""
    total_s: float
    exit: int | None
    """Exit code of the command; None: it did not end."""
    output: str
    """What the command printed."""
    console: str
    """What the kernel printed, and where the emulator could not start, that."""


def run(kernel: Kernel, tree: Path, command: Sequence[str], folder: Path, how: Accelerator) -> Ran:
    """Boot *kernel*, unpacked in *tree*, run *command* inside in *folder*, as root, and wait for its end.

    The folder is seen inside as it is here, read-only with a layer in memory that takes writes. Logs stay in the cache.
    """
    results = cache() / "logs" / kernel.series
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    (results / "command").write_text(f"cd {shlex.quote(str(folder))} && exec {shlex.join(command)}\n")
    shutil.copy(HERE / "inside.sh", results)
    initramfs = results / "initramfs"
    initramfs.write_bytes(_initramfs(kernel, tree))
    console = results / "console"
    emulator = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"q35,accel={how.name.lower()}", "-cpu", how.cpu, "-smp", str(CPUS), "-m", str(MEMORY_MB)),
        *("-kernel", str(tree / "boot" / f"vmlinuz-{kernel.release}"), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 panic=-1"),
        *("-serial", f"file:{console}", "-device", "virtio-rng-pci"),
        *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"),
        *("-virtfs", f"local,path={str(results).replace(',', ',,')},mount_tag=results,security_model=none"),
    ]
    start = time.monotonic()
    boot_s = None
    with (results / "emulator").open("wb") as said:
        try:
            machine = subprocess.Popen(emulator, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        except FileNotFoundError:
            raise KernelsError(f"{emulator[0]} is missing; apt-get install qemu-system-x86") from None
        try:
            while machine.poll() is None:
                if boot_s is None and (results / "started").exists():
                    boot_s = time.monotonic() - start
                if time.monotonic() - start > (how.boot_limit_s if boot_s is None else how.limit_s):
                    break
                time.sleep(POLL_S)
        finally:
            machine.kill()
            machine.wait()
    exit_code = _read(results / "exit")
    return Ran(
        boot_s,
        time.monotonic() - start,
        int(exit_code) if exit_code else None,
        _read(results / "output"),
        _read(console) + _read(results / "emulator"),
    )


def _read(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(errors="replace")
    return ""


def _initramfs(kernel: Kernel, tree: Path) -> bytes:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise KernelsError("busybox is missing; apt-get install busybox-static")
    folder = stat.S_IFDIR | 0o755
    executable = stat.S_IFREG | 0o755
    entries = [(name, folder, b"") for name in ("bin", "dev", "proc", "sys", "modules")]
    # The kernel opens it for process 1 before anything is mounted.
    entries += [
        ("bin/busybox", executable, Path(busybox).read_bytes()),
        ("init", executable, (HERE / "boot.sh").read_bytes()),
        ("settings", stat.S_IFREG | 0o644, f"MODULES={shlex.quote(str(tree / 'lib/modules'))}\n".encode()),
    ]
    order = []
    for path in _modules(kernel, tree):
        name = path.name.split(".")[0]
        order.append(name)
        entries.append((f"modules/{name}", stat.S_IFREG | 0o644, _decompressed(path)))
    entries.append(("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in order).encode()))
    return archive(entries)


def _modules(kernel: Kernel, tree: Path) -> list[Path]:
    """Files of the modules in an order in which they can be loaded; those that are built in are not among them."""
    command = ["modprobe", "-d", str(tree), "-S", kernel.release, "--show-depends", "-a", *MODULES]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode:
        raise KernelsError(f"{kernel.release} cannot boot from this machine's files: {shown.stderr.strip()}")
    words = [line.split() for line in shown.stdout.splitlines()]
    return list(dict.fromkeys(Path(line[1]) for line in words if line[0] == "insmod"))


def _decompressed(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc", str(path)], check=True, capture_output=True).stdout
    return path.read_bytes()


def archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Files (name, mode, content) as cpio "newc", the form of an initramfs.

    Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
    """
    out = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        path = name.encode() + b"\0"
        # Magic, then: inode, mode, user, group, links, time, size, device ×4, length of the name, checksum (unused).
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)
