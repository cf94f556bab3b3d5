"""Gathers what a member can say of itself (`member.MemberReport`). Reads, and changes nothing.

What a kernel or a distribution does not have is simply missing in the report.
"""

import json
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from appliance.doctor.member import (
    Address,
    Device,
    IPAddress,
    Listener,
    MemberReport,
    Persisted,
    Platform,
)

_CLIENT = {4: "198.18.0.1", 6: "2001:2::1"}
"""Stand for any client: networks for benchmarks (RFC 2544, RFC 5180), to which nobody has a route of their own."""

_SETTINGS = ("rp_filter", "arp_ignore", "arp_announce", "accept_local")
_LISTEN, _ESTABLISHED, _UNCONNECTED = "0A", "01", "07"
_QUEUE = re.compile(r"^\s*(?:rx_queue_(\d+)_packets|rx-(\d+)\.packets|rx(\d+)_packets):\s*(\d+)")
_NETWORK_FILES = (
    "netplan/*.yaml",
    "systemd/network/*",
    "systemd/network/*.d/*",
    "systemd/system/*.service",
    "network/interfaces",
    "network/interfaces.d/*",
    "NetworkManager/system-connections/*",
    "sysconfig/network-scripts/ifcfg-*",
    "rc.local",
)
_SYSCTL_FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
"""The first one that has a name wins (sysctl.d(5))."""


class ObserveError(Exception):
    """This machine cannot be looked at; the text says why."""


def observe(vips: Sequence[IPAddress], before: Mapping[str, int] | None = None, root: Path = Path("/")) -> MemberReport:
    """What there is to say now.

    Args:
        vips: that are to be here.
        before: `counters()` from when the doctor began to ask; without, nothing is said of counters.
        root: where the configuration files are.

    Raises:
        ObserveError: iproute2 is missing.
    """
    addresses = tuple(_addresses())
    return MemberReport(
        observed=True,
        at=time.time(),
        platform=_platform(root),
        addresses=addresses,
        devices=_devices(),
        sysctls=_sysctls(),
        listeners=tuple(_listeners()),
        counters={name: n - before.get(name, 0) for name, n in counters().items()} if before is not None else {},
        conntrack=conntrack(),
        firewall=tuple(_firewall()),
        firewalld_rpfilter=_firewalld(root),
        advmss={str(vip): mss for vip in vips if (mss := _advmss(vip)) is not None},
        hairpins=tuple(_hairpins(vips, {ip_address(one.address) for one in addresses})),
        persisted=_persisted(vips, root),
    )


def _ip(*arguments: str) -> list[dict[str, Any]]:
    try:
        output = subprocess.run(["ip", "-json", *arguments], check=True, capture_output=True, text=True, timeout=10)
        return [one for one in json.loads(output.stdout or "[]") if one]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ObserveError(f"cannot ask iproute2: {error}") from error


def _addresses() -> Iterator[Address]:
    for link in _ip("address"):
        for one in link.get("addr_info", ()):
            if "local" in one:
                flags = tuple(flag for flag in ("tentative", "dadfailed") if one.get(flag))
                yield Address(one["local"], link["ifname"], flags)


def _devices() -> dict[str, Device]:
    made = {}
    for link in _ip("-details", "link"):
        info = link.get("linkinfo", {})
        data = info.get("info_data", {})
        kind = info.get("info_kind", "")
        made[link["ifname"]] = Device(
            kind=kind,
            up="UP" in link.get("flags", ()),
            mtu=int(link.get("mtu", 0)),
            mac=link.get("address", "") if link.get("link_type") == "ether" else "",
            local=str(data.get("local", "")),
            remote=str(data.get("remote", "")),
            xdp="xdp" in link,
            queues=_queues(link["ifname"]) if link.get("link_type") == "ether" else (),
        )
    return made


def _queues(device: str) -> tuple[int, ...]:
    output = _run("ethtool", "-S", device)
    found: dict[int, int] = {}
    for line in output.splitlines():
        if match := _QUEUE.match(line):
            found[int(match[1] or match[2] or match[3])] = int(match[4])
    return tuple(found[number] for number in sorted(found))


def _run(*command: str) -> str:
    """What a program prints; nothing where there is none, or it refuses."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _sysctls() -> dict[str, int]:
    base, found = Path("/proc/sys/net"), {}
    for folder in (base / "ipv4/conf").glob("*"):
        for name in _SETTINGS:
            if (value := _number(folder / name)) is not None:
                found[f"ipv4.conf.{folder.name}.{name}"] = value
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        if (value := _number(base / name)) is not None:
            found[name.replace("/", ".")] = value
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def conntrack() -> tuple[int, int] | None:
    """Entries of connection tracking, and how many there may be; None: there is none."""
    folder = Path("/proc/sys/net/netfilter")
    used, most = _number(folder / "nf_conntrack_count"), _number(folder / "nf_conntrack_max")
    return (used, most) if used is not None and most is not None else None


def counters() -> dict[str, int]:
    """The kernel's counters of what it drops, by group and name as nstat has them."""
    found: dict[str, int] = {}
    for file in ("netstat", "snmp"):
        try:
            lines = Path("/proc/net", file).read_text().splitlines()
        except OSError:
            continue
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            group, *keys = names.split()
            found |= {
                f"{group.rstrip(':')}.{key}": int(value) for key, value in zip(keys, values.split()[1:], strict=False)
            }
    try:
        for line in Path("/proc/net/snmp6").read_text().splitlines():
            name, value = line.split()
            found[f"Ip6.{name}"] = int(value)
    except (OSError, ValueError):
        pass
    wanted = ("IPReversePathFilter", "InCsumErrors", "ListenOverflows", "ListenDrops", "InNoRoutes", "InUnknownProtos")
    return {name: n for name, n in found.items() if name.endswith(wanted)}


def _sockets(file: str) -> Iterator[tuple[IPAddress, int, IPAddress, int, str]]:
    """Own and other address and port, and state, of proc(5)'s tables."""
    try:
        lines = Path("/proc/net", file).read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        _, own, other, state, *_ = line.split()
        yield (*_end(own), *_end(other), state)


def _end(text: str) -> tuple[IPAddress, int]:
    """Words of an address are in the machine's byte order."""
    address, port = text.split(":")
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    packed = b"".join(words)
    return (IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)), int(port, 16)


def _listeners() -> Iterator[Listener]:
    for file, protocol, state in (
        ("tcp", "tcp", _LISTEN),
        ("tcp6", "tcp", _LISTEN),
        ("udp", "udp", _UNCONNECTED),
        ("udp6", "udp", _UNCONNECTED),
    ):
        for address, port, _, _, now in _sockets(file):
            if now == state:
                yield Listener(protocol, str(address), port)


def _hairpins(vips: Sequence[IPAddress], own: set[IPAddress]) -> Iterator[str]:
    wanted = set(vips)
    for file in ("tcp", "tcp6"):
        for address, port, other, other_port, state in _sockets(file):
            address, other = _plain(address), _plain(other)
            if state == _ESTABLISHED and other in wanted and address in own:
                yield f"{address} port {port} to {other} port {other_port}"


def _plain(address: IPAddress) -> IPAddress:
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _firewall() -> Iterator[str]:
    for command in (("nft", "list", "ruleset"), ("iptables-legacy-save",)):
        for line in _run(*command).splitlines():
            if "invalid" in line.lower() or "notrack" in line.lower() or "reverse" in line.lower():
                yield line.strip()[:500]


def _firewalld(root: Path) -> str:
    try:
        text = (root / "etc/firewalld/firewalld.conf").read_text()
    except OSError:
        return ""
    found = re.findall(r"(?m)^\s*IPv6_rpfilter\s*=\s*(\S+)", text)
    return str(found[-1]) if found else "yes"  # firewalld.conf(5): the default


def _advmss(vip: IPAddress) -> int | None:
    output = _run("ip", "-json", f"-{vip.version}", "route", "get", _CLIENT[vip.version], "from", str(vip))
    try:
        (route, *_) = json.loads(output or "[]")
        metrics = {key: value for one in route.get("metrics", ()) for key, value in one.items()}
    except ValueError:
        return None
    header = 40 if vip.version == 4 else 60
    if "advmss" in metrics:
        return int(metrics["advmss"])
    return int(metrics["mtu"]) - header if "mtu" in metrics else None


def _platform(root: Path) -> Platform:
    words: dict[str, str] = {}
    for file in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = (root / file).read_text().splitlines()
        except OSError:
            continue
        words = dict(line.split("=", 1) for line in lines if "=" in line)
        break
    machine = [text for name in ("sys_vendor", "product_name") if (text := _text(Path("/sys/class/dmi/id", name)))]
    return Platform(
        system=f"{words.get('ID', '')} {words.get('VERSION_ID', '')}".replace('"', "").strip(),
        manager=_manager(root / "etc"),
        kernel=platform.release(),
        machine=" ".join(machine),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _manager(etc: Path) -> str:
    if any((etc / "netplan").glob("*.yaml")):
        return "netplan"
    if any((etc / "systemd/network").glob("*.network")):
        return "networkd"
    if any((etc / "NetworkManager/system-connections").glob("*")):
        return "networkmanager"
    return "ifupdown" if (etc / "network/interfaces").exists() else ""


def _persisted(vips: Sequence[IPAddress], root: Path) -> Persisted:
    etc = root / "etc"
    if not etc.is_dir():
        return Persisted()
    texts = {str(path): _text(path) for pattern in _NETWORK_FILES for path in etc.glob(pattern) if path.is_file()}
    found = {}
    for vip in vips:
        forms = "|".join(map(re.escape, {str(vip), vip.exploded}))
        wanted = re.compile(rf"(?<![0-9a-fA-F.:])(?:{forms})(?![0-9a-fA-F.:])")
        if (file := next((name for name, text in texts.items() if wanted.search(text)), None)) is not None:
            found[str(vip)] = file
    return Persisted(True, last_words(_sysctl_files(root)), found)


def _sysctl_files(root: Path) -> list[tuple[str, str]]:
    """Name and text, in the order in which they are applied."""
    chosen: dict[str, Path] = {}
    for folder in _SYSCTL_FOLDERS:
        for path in (root / folder).glob("*.conf"):
            chosen.setdefault(path.name, path)
    paths = [chosen[name] for name in sorted(chosen)]
    if (root / "etc/sysctl.conf").is_file():
        paths.append(root / "etc/sysctl.conf")
    return [(str(path), _text(path)) for path in paths]


def last_words(files: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What sysctl files say in the end of settings of `all`, as `VALUE FILE` (sysctl.d(5)).

    A pattern counts for what no file names; what a bare `-NAME` excludes, patterns leave alone.
    """
    names = [f"net.ipv4.conf.all.{name}" for name in _SETTINGS]
    exact: dict[str, str] = {}
    patterns: list[tuple[str, str]] = []
    excluded = set()
    for file, text in files:
        for line in text.splitlines():
            key, equals, value = (part.strip() for part in line.partition("="))
            if not key or key[0] in "#;":
                continue
            key = key.removeprefix("-").replace("/", ".")
            if not equals:
                excluded.add(key)
            elif "*" in key or "?" in key:
                patterns.append((key, f"{value} {file}"))
            else:
                exact[key] = f"{value} {file}"
    found = {}
    for name in names:
        matching = [said for pattern, said in patterns if fnmatchcase(name, pattern) and name not in excluded]
        if name in exact or matching:
            found[name] = exact.get(name) or matching[-1]
    return found
