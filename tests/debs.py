"""Programs of the distribution that are not to be installed on the machine that tests: unpacked into a cache.

Network managers would take the network over as soon as they are installed, and all that is wanted are their parsers.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGES = {
    "netplan": ("netplan.io", "netplan-generator?", "libnetplan0?", "libnetplan1?", "libyaml-0-2"),
    "ifupdown": ("ifupdown",),
    "nmcli": ("network-manager", "libnm0", "libndp0", "libjansson4"),
    "cloud-init": (
        *("cloud-init", "python3-jsonschema", "python3-attr", "python3-pyrsistent?", "python3-pkg-resources?"),
        *("python3-referencing?", "python3-rpds-py?", "python3-jsonschema-specifications?"),
    ),
}
"""Some have other names, or other parts, from one release to the next: with a question mark, where there are any."""


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onward" / "debs"


def unpacked(name: str) -> Path:
    """The folder with what is in the packages of one of PACKAGES; downloaded when it is not there yet.

    Raises:
        AssertionError: apt cannot get them; the text says why.
    """
    place = cache() / name
    if place.exists():
        return place
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        wanted = [
            package.rstrip("?") for package in PACKAGES[name] if not package.endswith("?") or _is_there(package[:-1])
        ]
        got = subprocess.run(
            ["apt-get", "-q", "download", *wanted], cwd=scratch, capture_output=True, text=True, check=False
        )
        assert got.returncode == 0, f"{got.stderr}\nan old package list? apt-get update"
        tree = Path(scratch) / "tree"
        tree.mkdir()
        for package in sorted(Path(scratch).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
        try:
            tree.rename(place)
        except OSError:  # another worker was faster
            shutil.rmtree(tree)
    return place


def _is_there(package: str) -> bool:
    return bool(subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).stdout)


def libraries(place: Path) -> dict[str, str]:
    """The environment in which programs find the libraries that came with them."""
    found = sorted({str(path.parent) for path in place.rglob("lib*.so.*")})
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(found)}
