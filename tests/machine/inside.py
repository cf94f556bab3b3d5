"""What is tried on a machine whose PID 1 is systemd: it runs inside, as root, and prints its findings as JSON.

usage: python -m tests.machine.inside RELEASE NEXT-RELEASE
The machine is the only director; router (BIRD), client and member are namespaces on it.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.failures.stage import Stage, cable, write_files
from tests.netns import Namespace, namespaces, until

CONFIG = Path("/etc/onward/onward.toml")
LIBBPF = ctypes.CDLL("libbpf.so.1")
STEADY_S = 1.0


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}{journal()}")
    return done.stdout


def fails(*command: str) -> str:
    """What it says, which has to be a failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode, f"{' '.join(command)} did not fail: {done.stdout}"
    return done.stdout + done.stderr


def journal() -> str:
    return subprocess.run(
        ["journalctl", "-u", "onward", "-o", "cat", "-n", "40", "--no-pager"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def shown(name: str) -> str:
    return run("systemctl", "show", "-p", name, "--value", "onward").strip()


def main_pid() -> int:
    return int(shown("MainPID"))


def well(stage: Stage) -> None:
    """The unit is up, the router has route, session and BFD."""
    until(lambda: shown("ActiveState") == "active", f"the unit is up; {shown('ActiveState')}", 60.0)
    stage.gets_well(60.0)


def lost(stage: Stage, happens: Callable[[], object]) -> Mapping[str, Any]:
    """What a client and the router miss while something happens, and until all is well again."""
    with stage.traffic() as said, stage.never_without_a_route():
        time.sleep(STEADY_S)
        happens()
        well(stage)
        time.sleep(STEADY_S)
    return {"sent": said["sent"], "lost": said["lost"], "outages": said["outages"]}


def killed(stage: Stage) -> None:
    """By somebody else than systemd, which starts it again."""
    before = main_pid()
    os.kill(before, signal.SIGKILL)
    until(lambda: main_pid() not in (0, before) and shown("ActiveState") == "active", "it runs again", 60.0)


def keeper_stands() -> bool:
    """Whether this director's own has been told of the tables, and the supervisor of the keeper."""
    return "plane.keeper_stands" in run("journalctl", f"_PID={main_pid()}", "-o", "cat", "--no-pager")


def hung(stage: Stage) -> Mapping[str, Any]:
    before, began = main_pid(), time.monotonic()
    os.kill(before, signal.SIGSTOP)
    until(lambda: main_pid() not in (0, before), "the watchdog has ended it", 60.0)
    well(stage)
    text = run("journalctl", "-u", "onward", "-o", "cat", "--no-pager")
    return {"seconds": time.monotonic() - began, "by watchdog": "Watchdog timeout" in text}


def reloads(stage: Stage) -> Mapping[str, Any]:
    """A good file, a bad one, and the first one again: what is in force after each."""
    first, pid = CONFIG.read_text(), main_pid()
    digests = [stage.status("d1")["config"]["digest"]]

    def in_force() -> None:
        time.sleep(1.0)  # all who ask share one look at the state, which is that old at most
        digests.append(stage.status("d1")["config"]["digest"])

    CONFIG.write_text(first.replace('"udp_fast_path"', '"udp_fast_path"\nsession_idle_timeout = 77'))
    run("systemctl", "reload", "onward")
    in_force()
    CONFIG.write_text(first.replace("ports = [53]", "ports = [530000]"))
    said = fails("systemctl", "reload", "onward")
    refused = {"said": said, "status": shown("StatusText"), "state": shown("ActiveState")}
    in_force()
    CONFIG.write_text(first)
    run("systemctl", "reload", "onward")
    in_force()
    well(stage)
    return {"digests": digests, "refused": refused, "same process": pid == main_pid()}


def members() -> Mapping[str, Any]:
    """Units of members: VIPs of both families, decapsulation."""
    vips = ["onward-vip@198.51.100.77-32.service", "onward-vip@2001:db8:f::77-128.service"]
    run("systemctl", "start", *vips)
    up = run("ip", "address", "show", "dev", "lo")
    run("systemctl", "enable", vips[0])
    run("systemctl", "stop", *vips)
    down = run("ip", "address", "show", "dev", "lo")
    run("ip", "link", "add", "eth7", "type", "veth", "peer", "name", "eth8")
    run("ip", "address", "add", "192.0.2.129/28", "dev", "eth7")
    run("ip", "link", "set", "eth7", "up")
    Path("/etc/onward/decap-eth7.conf").write_text("OPTIONS=--from 203.0.113.0/24 --vip 198.51.100.77\n")
    # No udev here that would tell systemd of the device, so this instance does not wait for it.
    unit = Path("/etc/systemd/system/onward-decap@.service")
    lines = [line for line in unit.read_text().splitlines() if "sys-subsystem-net" not in line]
    unit.with_name("onward-decap@eth7.service").write_text("\n".join(lines))
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "onward-decap@eth7")
    until(lambda: "xdp" in run("ip", "-d", "link", "show", "eth7"), "it decapsulates", 20.0)
    run("systemctl", "stop", "onward-decap@eth7")
    left = run("ip", "-d", "link", "show", "eth7")
    run("ip", "link", "del", "eth7")
    unit.with_name("onward-decap@eth7.service").unlink()
    Path("/etc/onward/decap-eth7.conf").unlink()
    return {
        "up": [vip in up for vip in ("198.51.100.77/32", "2001:db8:f::77/128")],
        "down": [vip in down for vip in ("198.51.100.77/32", "2001:db8:f::77/128")],
        "program left": "prog/xdp" in left,
    }


def facts() -> Mapping[str, object]:
    """Of the machine's kernel, all that a director touches: what must be the same after as before."""
    unsteady = re.compile(r"(gc_|conntrack_count|random|neigh.*\.gc|netdev_rss|perf_|\.stable_secret)")
    # Some settings cannot be read by anybody, which it tells by its exit code.
    settings = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, check=False).stdout.splitlines()
    links = json.loads(run("ip", "-j", "-d", "link", "show"))
    return {
        "links": {link["ifname"]: (link["flags"], link["mtu"], link.get("xdp")) for link in links},
        "addresses": run("ip", "-o", "address", "show"),
        "routes": run("ip", "route", "show", "table", "all") + run("ip", "-6", "route", "show", "table", "all"),
        "rules": run("ip", "rule", "show") + run("ip", "-6", "rule", "show"),
        "nftables": run("nft", "list", "ruleset"),
        "traffic control": run("tc", "qdisc", "show"),
        "offloads": run("ethtool", "-k", "eth1"),
        "sysctl": [line for line in settings if line.startswith(("net.", "kernel.bpf")) and not unsteady.search(line)],
        "processes": sorted(name for name in processes() if name),
        "runtime": sorted(path.name for path in Path("/run").glob("onward*")),
    }


def processes() -> list[str]:
    """Command lines of all that belongs to us."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "/opt/onward" in words and "tests.machine" not in words:  # which is this script's own
            found.append(words)
    return found


def bpf_objects(process: int) -> set[tuple[str, int]]:
    """Programs, maps and links that a process has descriptors of, by the kernel's numbers."""
    found = set()
    for path in Path(f"/proc/{process}/fdinfo").iterdir():
        try:
            text = path.read_text()
        except OSError:
            continue  # it was closed meanwhile
        found |= {
            (kind, int(number)) for kind, number in re.findall(r"^(prog|map|link)_id:\t(\d+)", text, re.MULTILINE)
        }
    return found


def there(kind: str, number: int) -> bool:
    """Whether the kernel, whoever asks for it, has such an object: bpf(2), BPF_*_GET_FD_BY_ID."""
    fd = int(getattr(LIBBPF, f"bpf_{kind}_get_fd_by_id")(number))
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def use(release: str) -> None:
    """What `install` does when it has made a release."""
    run("bash", "-c", f"source {Path.cwd()}/systemd/install && use {release}")


def broken(release: str) -> Mapping[str, Any]:
    """An upgrade to a version that does not start; what runs after it."""
    place = Path(release).with_name("broken")
    (place / "bin").mkdir(parents=True)
    for name, first in (("python", ""), ("onward", '[ "$1" != run ] || exit 1')):
        command = place / "bin" / name
        command.write_text(f'#!/bin/sh\n{first}\nexec {release}/bin/{name} "$@"\n')
        command.chmod(0o755)
    said = fails(
        "bash", "-c", f"source {Path.cwd()}/systemd/install && new_release() {{ echo {place}; }} && install_it '' yes"
    )
    return {
        "said": said,
        "in use": run("readlink", "-f", "/opt/onward/bin/onward").strip(),
        "state": shown("ActiveState"),
    }


def main(release: str, following: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    folder = Path("/run/stage")
    folder.mkdir()
    folder.chmod(0o777)
    write_files(folder, ("d1",), "xdp", bfd=True, ha='ha = "active_active"\n', peers="")
    text = (folder / "d1.toml").read_text().replace(f'runtime_dir = "{folder}/d1"\n', "")
    CONFIG.write_text(text)
    Path("/dev/net/tun").chmod(0o666)  # as udev has it, which does not run here
    run("ip", "netns", "attach", "onward-host", "1")
    with ExitStack() as stack:
        hosts = {"m": 21, "r": 1, "d1": 11}
        wire, client, member, router = stack.enter_context(namespaces("w", "c", "m", "r", prefix="owy"))
        spaces = {"w": wire, "c": client, "m": member, "r": router, "d1": Namespace("onward-host")}
        cable(spaces, hosts)
        stage = Stage(folder, "bird", spaces, ("d1",), ("d1",), (), True)
        stack.callback(stage.end)
        stage.start_router()
        stage.start_member()
        # The link's own address and its routes come a moment after the link.
        until(
            lambda: re.search(r"fe80::\S+ scope link(?! tentative)", run("ip", "-6", "address", "show", "eth1")), "DAD"
        )
        time.sleep(STEADY_S)
        before = facts()
        began = time.monotonic()
        run("systemctl", "start", "onward")
        found["start"] = {"seconds": time.monotonic() - began, "status": shown("StatusText")}
        well(stage)
        found["user"] = run("ps", "-o", "user=", "-p", str(main_pid())).strip()
        found["kept"] = int(shown("NFileDescriptorStore"))
        found["plane"] = stage.status("d1")["plane"]["facts"]
        found["reload"] = reloads(stage)
        found["killed"] = lost(stage, lambda: killed(stage))
        found["restarted"] = lost(stage, lambda: run("systemctl", "restart", "onward"))
        use(following)
        found["upgraded"] = lost(stage, lambda: run("systemctl", "restart", "onward"))
        found["version"] = Path(f"/proc/{main_pid()}/exe").exists() and any(following in line for line in processes())
        found["hung"] = hung(stage)
        use(release)
        found["upgraded to a broken one"] = broken(release)
        well(stage)
        found["journal"] = run("journalctl", "-u", "onward", "-p", "warning", "-o", "cat", "--no-pager")
        objects = bpf_objects(main_pid())
        found["bpf"] = sorted({kind for kind, number in objects if there(kind, number)})
        run("systemctl", "stop", "onward")
        until(lambda: not processes(), "no process is left", 10.0)
        # The kernel lets go of them when nobody can be looking at them any more.
        until(lambda: not any(there(*one) for one in objects), "no program, map or link is left", 10.0)
        found["left"] = differences(before, facts())
        CONFIG.write_text(text.replace('plane = "xdp"', 'plane = "raw"'))
        run("systemctl", "start", "onward")
        well(stage)
        found["raw plane"] = stage.status("d1")["plane"]["facts"]["kind"]
        use(following)
        found["raw restarted"] = lost(stage, lambda: run("systemctl", "restart", "onward"))
        until(keeper_stands, "a keeper stands by", 30.0)
        found["raw killed"] = lost(stage, lambda: killed(stage))
        run("systemctl", "stop", "onward")
        until(lambda: not processes(), "no process is left", 10.0)
        found["left by raw"] = differences(before, facts())
        use(release)
        found["members"] = members()
    return found


if __name__ == "__main__":
    try:
        print("JSON " + json.dumps(main(*sys.argv[1:]), default=sorted))
    except BaseException:
        print(journal())
        raise
