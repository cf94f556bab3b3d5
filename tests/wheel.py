"""Build the wheel, install it into an empty environment elsewhere, and use it there: what users get."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = [
    "appliance/api/page.css",
    "appliance/api/page.html",
    "appliance/api/page.js",
    "appliance/dataplane/bpf/balance.bpf.o",
    "appliance/config/onward.schema.json",
    "appliance/config/example.toml",
    "appliance/decap/decap.bpf.o",
    "appliance/ARCHITECTURE.md",
    "appliance/web/dist/index.html",
    "bgp/guard.py",
    "health/checks/tcp.py",
]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="onward-wheel-") as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch], check=True, cwd=ROOT)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        missing = [name for name in SHIPPED if name not in names]
        missing += [] if any(name.startswith("appliance/web/dist/assets/") for name in names) else ["web assets"]
        foreign = [name for name in names if name.startswith(("tests/", "containerlab/")) or "node_modules" in name]
        if missing or foreign:
            raise SystemExit(f"wheel: missing {missing}, should not be there {foreign}")
        # The dependencies are those of this environment; only our own packages must come from the wheel.
        venv = folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(venv)], check=True)
        python = venv / "bin" / "python"
        subprocess.run([python, "-m", "pip", "-q", "install", "--no-deps", "--no-index", str(wheel)], check=True)
        site = next((Path(sys.executable).parent.parent / "lib").glob("python*/site-packages"))
        (next((venv / "lib").glob("python*/site-packages")) / "zz-dependencies.pth").write_text(f"{site}\n")
        run = subprocess.run(
            [python, "-c", "import appliance, sys; print(appliance.__file__)"],
            check=True,
            capture_output=True,
            text=True,
            cwd=scratch,
        )
        if not run.stdout.startswith(str(venv)):
            raise SystemExit(f"wheel: imported from {run.stdout.strip()}, not from the wheel")
        for command in (["--help"], ["version"], ["check", "appliance/config/example.toml"]):
            cwd = next((venv / "lib").glob("python*/site-packages"))
            subprocess.run([venv / "bin" / "onward", *command], check=True, cwd=cwd, stdout=subprocess.DEVNULL)
        print(f"{wheel.name}: {len(names)} files, complete, runs outside the checkout")


if __name__ == "__main__":
    main()
