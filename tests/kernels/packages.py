"""Which kernels apt offers, and one of them unpacked in a folder: nothing is installed."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Debian: 6.1.0-47-amd64, 6.12.48+deb13-amd64, 6.1.0-47-rt-amd64; Ubuntu: 5.15.0-105-generic. Not the packages that
# only point to another one (6.12-amd64), and not Debian's cloud flavour: it has no 9p.
NAME = re.compile(
    r"linux-image-(?P<release>(?P<series>\d+\.\d+)\.\d+(?!.*cloud)[-+.0-9a-z]*?(?P<rt>-rt)?-(amd64|generic))"
)


@dataclass(frozen=True)
class Kernel:
    """A kernel that apt offers."""

    release: str
    """What `uname -r` says in it."""
    series: str
    """6.1, or 6.1-rt for the PREEMPT_RT flavour."""

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.series.removesuffix("-rt").split(".")
        return int(major), int(minor)


class KernelsError(Exception):
    """Kernels cannot be had or run here; the text says why and what to do."""


def newest(names: Iterable[str]) -> list[Kernel]:
    """The newest kernel of each series among package names, oldest series first, PREEMPT_RT behind the plain one."""
    best: dict[str, Kernel] = {}
    for match in filter(None, map(NAME.fullmatch, names)):
        kernel = Kernel(match["release"], match["series"] + (match["rt"] or ""))
        if kernel.series not in best or _numbers(kernel) > _numbers(best[kernel.series]):
            best[kernel.series] = kernel
    return sorted(best.values(), key=lambda kernel: (kernel.version, kernel.series))


def _numbers(kernel: Kernel) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", kernel.release)]


def offered() -> list[Kernel]:
    """The newest kernel of each series that apt offers."""
    return newest(_run("apt-cache", "pkgnames", "linux-image-").split())


def cache() -> Path:
    """Where unpacked kernels and logs stay."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onward" / "kernels"


def unpacked(kernel: Kernel) -> Path:
    """The folder with boot/ and lib/modules/ of this kernel; downloaded when it is not there yet.

    One release of each series is kept: a newer one takes the place of the older.
    """
    place = cache() / kernel.series
    if (place / "release").exists() and (place / "release").read_text() == kernel.release:
        return place
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        # Ubuntu has the modules in packages of their own.
        wanted = [f"linux-image-{kernel.release}"]
        if kernel.release.endswith("-generic"):
            wanted += [f"linux-modules-{kernel.release}", f"linux-modules-extra-{kernel.release}"]
        _run("apt-get", "-q", "download", *wanted, cwd=scratch)
        for package in Path(scratch).glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), str(tree))
        if not (tree / "lib").exists():  # packages of newer releases have everything under /usr
            (tree / "lib").symlink_to("usr/lib")
        _run("depmod", "-b", str(tree), kernel.release)
        tree.chmod(0o755)
        (tree / "release").write_text(kernel.release)
        shutil.rmtree(place, ignore_errors=True)
        tree.rename(place)
    return place


def _run(*command: str, cwd: str | None = None) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout
    except FileNotFoundError:
        raise KernelsError(f"{command[0]} is missing: kernels come from apt, on Debian or Ubuntu") from None
    except subprocess.CalledProcessError as error:
        raise KernelsError(
            f"{' '.join(command)}: {error.stderr.strip()}\nan old package list? apt-get update"
        ) from None
