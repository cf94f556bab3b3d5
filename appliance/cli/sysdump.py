"""`onward sysdump`: one archive for a report of a problem."""

import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

from cyclopts import Parameter

from appliance import __version__
from appliance.cli.connect import UnixConnection
from appliance.cli.orders import RUNTIME_DIR
from appliance.cli.output import Exit, complain, warn
from appliance.cli.status import DEFAULT_URL, URL_VARIABLE
from appliance.config.document import DocumentError, read_document
from appliance.config.merge import merge
from appliance.config.problems import ConfigError
from appliance.model import STATE_DIR
from appliance.redact import files, redacted, secrets, without

CONFIG = Path("/etc/onward/onward.toml")
LONGEST = 8 << 20
"""Bytes of one part: of a longer one the end is kept."""

PATIENCE_S = 10.0
"""For one part."""

JOURNAL_LINES = 20_000

DOCUMENTS = {
    "status.json": "/v1/status",
    "bgp.json": "/v1/bgp",
    "health.json": "/v1/health",
    "mtu.json": "/v1/mtu",
    "samples.json": "/v1/samples",
    "events.json": "/v1/events",
    "doctor.json": "/v1/doctor",
    "revisions.json": "/v1/config/revisions",
    "tables/counters.json": "/v1/counters",
    "tables/neighbours.json": "/v1/neighbours",
    "tables/pins.json": "/v1/pins?limit=10000",
}
"""What the director says, by the name of the part: over its control socket, else by HTTP."""

PAGES = {"metrics.txt": "/metrics", "ready.txt": "/readyz"}
"""What it says by HTTP only."""

SERVICES = 64
"""Virtual services whose slots are shown, at most."""

COMMANDS = {
    "kernel/links.json": "ip -j -d -s link show",
    "kernel/addresses.json": "ip -j address show",
    "kernel/neighbours.json": "ip -j neighbour show",
    "kernel/rules.txt": "ip rule show",
    "kernel/rules6.txt": "ip -6 rule show",
    "kernel/routes.txt": "ip route show table all",
    "kernel/routes6.txt": "ip -6 route show table all",
    "kernel/nftables.txt": "nft list ruleset",
    "kernel/qdiscs.txt": "tc -s qdisc show",
    "kernel/sysctl.txt": "sysctl -a --pattern ^(net|kernel\\.(bpf|unprivileged_bpf))",
    "kernel/sockets.txt": "ss -Hanp",
    "kernel/bpf-net.txt": "bpftool net show",
    "kernel/bpf-programs.txt": "bpftool prog show",
    "kernel/bpf-maps.txt": "bpftool map show",
    "kernel/log.txt": "dmesg --ctime",
    "service/unit.txt": "systemctl cat onward",
    "service/state.txt": "systemctl show onward",
    "service/events.txt": f"journalctl -u onward --no-pager -o short-iso-precise -n {JOURNAL_LINES}",
    "service/versions.txt": "dpkg-query -W frr bird2 nftables iproute2 libbpf1 libbpf0 systemd",
}
PLACES = (
    "/proc/net/snmp",
    "/proc/net/netstat",
    "/proc/net/softnet_stat",
    "/proc/meminfo",
    "/proc/loadavg",
    "/etc/os-release",
)
KEPT = ("history.json", "indices.json")
"""Of the runtime directory: names and numbers only."""

ORDERS = ("orders.json", "drain.json")
"""Of the state directory, likewise."""


@dataclass
class Parts:
    """What has been gathered, and what could not be."""

    hidden: set[str]
    found: dict[str, bytes] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, gather: Callable[[], bytes]) -> None:
        try:
            data = gather()
        except (OSError, subprocess.SubprocessError, URLError, ValueError) as error:
            self.missing[name] = without(str(error), self.hidden)
            return
        self.found[name] = without(data[-LONGEST:].decode(errors="replace"), self.hidden).encode()


def sysdump(
    output: Path | None = None,
    /,
    *,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
    url: str | None = None,
) -> int:
    """Write one archive for a report of a problem: what the director says, its events, and the machine's network.

    Passwords, keys, and what is sent by health checks are not in it; addresses, names and routes are. Have a look
    before you give it to anybody. What cannot be had is left out, and named.

    Parameters
    ----------
    output
        Where to write it; onward-NAME-TIME.tar.gz by default. Only its owner can read it.
    config
        The director's configuration file; /etc/onward/onward.toml by default.
    url
        Where the director's API listens, for metrics, and for all else where its control socket cannot be opened;
        without --config what ONWARD_URL says, else http://127.0.0.1:8080.
    """
    began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = output or Path(f"onward-{platform.node()}-{began}.tar.gz")
    said = os.environ.get(URL_VARIABLE) if config is None else None  # of another director, maybe
    parts = gathered(config or CONFIG, url or said or DEFAULT_URL)
    try:
        _write(target, f"onward-{platform.node()}-{began}", parts)
    except OSError as error:
        complain(f"{target}: {error.strerror or error}")
        return Exit.FAILED
    for name, why in sorted(parts.missing.items()):
        warn(f"without {name}: {why}")
    print(target)
    return Exit.OK


def gathered(config: Path, url: str) -> Parts:
    """All parts.

    Args:
        config: the configuration file.
        url: of the API.
    """
    data, why = _configuration(config)
    parts = Parts(set(_hidden(data, config.parent)))
    director = _table(data, "director")
    if why:
        parts.missing["config.json"] = without(why, parts.hidden)
    else:
        parts.add("config.json", lambda: json.dumps(redacted(data), indent=2, default=str).encode())
    runtime = Path(str(director.get("runtime_dir", RUNTIME_DIR)))
    state = Path(str(director.get("state_dir", STATE_DIR if runtime == RUNTIME_DIR else runtime)))
    ask = partial(_asked, url, runtime / "control.sock")
    for name, resource in DOCUMENTS.items():
        parts.add(f"director/{name}", partial(ask, resource))
    for service in sorted(_services(parts.found.get("director/tables/counters.json", b"")))[:SERVICES]:
        parts.add(
            f"director/tables/slots-{quote(service, '')}.json", partial(ask, f"/v1/services/{quote(service)}/slots")
        )
    for name, page in PAGES.items():
        parts.add(f"director/{name}", partial(_fetched, f"{url.rstrip('/')}{page}"))
    for name, command in COMMANDS.items():
        parts.add(name, partial(_said, command.split()))
    for place in PLACES:
        parts.add(f"kernel/{Path(place).name}.txt", Path(place).read_bytes)
    for interface in _interfaces(director):
        for option in "ikSgl":
            parts.add(f"kernel/ethtool-{option}-{interface}.txt", partial(_said, ["ethtool", f"-{option}", interface]))
    for name in KEPT:
        parts.add(f"director/{name}", (runtime / name).read_bytes)
    for name in ORDERS:
        parts.add(f"director/{name}", (state / name).read_bytes)
    about = {
        "onward": __version__,
        "python": platform.python_version(),
        "kernel": " ".join(platform.uname()),
        "at": time.time(),
        "missing": parts.missing,
    }
    parts.found["about.json"] = json.dumps(about, indent=2).encode()
    return parts


def _configuration(path: Path) -> tuple[dict[str, Any], str]:
    """The configuration as data, or why there is none."""
    try:
        texts = read_document(path).parts
        return dict(merge(texts, [tomllib.loads(part.text) for part in texts]).data), ""
    except (ConfigError, DocumentError, ValueError, OSError) as error:
        return {}, str(error)


def _hidden(data: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Every text that must not be seen: those in the configuration, and those in files that it names."""
    yield from secrets(data)
    for name in files(data):
        try:
            text = (folder / name).read_bytes().decode(errors="replace")
        except OSError:
            continue  # what we cannot read, we cannot give away either
        yield text.strip()
        yield from (line.strip() for line in text.splitlines())


def _table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _interfaces(director: Mapping[str, Any]) -> list[str]:
    named = director.get("interfaces", [])
    return [str(name) for name in named] if isinstance(named, list) else []


def _asked(url: str, control: Path, resource: str) -> bytes:
    """Who may open the control socket need not log in, and need not know where the API listens."""
    connection = UnixConnection(control, PATIENCE_S)
    try:
        connection.request("GET", resource, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, HTTPException):
        return _fetched(f"{url.rstrip('/')}/api{resource}")
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"{answer.status}: {text[:200].decode(errors='replace')}")
    return text


def _fetched(url: str) -> bytes:
    with urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - the operator's own choice
        return bytes(answer.read(LONGEST))


def _services(counters: bytes) -> set[str]:
    try:
        return set(json.loads(counters)["services"])
    except (ValueError, KeyError, TypeError):
        return set()


def _said(command: list[str]) -> bytes:
    if shutil.which(command[0]) is None:
        raise OSError(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL)
    if done.returncode and not done.stdout:
        raise OSError(done.stderr.decode(errors="replace").strip()[:200] or f"exit code {done.returncode}")
    return done.stdout


def _write(target: Path, folder: str, parts: Parts) -> None:
    number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(number, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in sorted(parts.found.items()):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
