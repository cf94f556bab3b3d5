"""The member's own machine: what it has, what it gets, and the way back.

Only what a plan names is changed, and each change is on record before it is made.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import appliance
from appliance.decap import talk
from appliance.decap.decap import DecapError
from appliance.model import Decapsulator, IPAddress, Protocol
from appliance.packet.encap import GUE_PORT
from appliance.server.firewall import FAMILY, ruleset
from appliance.server.plan import INSIDE, TABLE, Plan, Tunnel
from appliance.server.points import Decapsulating, Link, Listener, Seen, WayBack, link_add

RECORD = Path("/run/onward/server-setup.json")
"""What was done, for the way back. Gone after a restart of the machine, as what was done."""

CLIENTS: Mapping[int, IPAddress] = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
"""Stand for clients when the way back is looked for: of documentation, so that the default route has them."""

_PROC = Path("/proc/sys")
_START_S = 10.0


class MachineError(Exception):
    """Something could not be done; the text says what, and what was tried."""


def run(*command: str, given: str | None = None) -> str:
    """
    Raises:
        MachineError: it failed.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is missing; install iproute2, nftables and kmod") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{shlex.join(command)}: no end within 30 s") from None
    if done.returncode:
        raise MachineError(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


# ---------------------------------------------------------------------------------------------------------------------
# What there is


def look(plan: Plan, clients: Mapping[int, IPAddress] = CLIENTS) -> Seen:
    """Everything that `points.judge` asks. Reads, and changes nothing."""
    unseen: dict[str, str] = {}

    def tried(name: str, what: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return what()
        except (MachineError, ValueError, OSError) as error:
            unseen[name] = str(error)
            return otherwise

    links: Mapping[str, Link] = tried("links", _links, {})
    devices = ["all", plan.interface, *(one for tunnel in plan.tunnels for one in (tunnel.device, tunnel.fallback))]
    devices += [name for name, link in links.items() if link.local]
    keys = [
        f"net.ipv4.conf.{device}.{key}" for device in devices for key in ("rp_filter", "arp_ignore", "arp_announce")
    ]
    return Seen(
        links=links,
        sysctls={key: value for key in (*keys, "net.ipv4.ip_forward") if (value := _read(key)) is not None},
        listeners=tried("listeners", lambda: tuple(_listeners()), ()),
        rules=tried("rules", _rules, None),
        ways={vip: _way(vip, clients[vip.version]) for vip in plan.vips},
        decap=tuple(_decapsulating(plan)),
        gue=frozenset(version for version in plan.gue if _opens_gue(version)),
        dropped_by_rp_filter=tried("dropped_by_rp_filter", _dropped, None),
        firewalld_rpfilter=_firewalld(),
        unseen=unseen,
    )


def interface_of(plan: Plan) -> str | None:
    """The interface of this machine that has one of the member's addresses; None without one.

    Raises:
        MachineError: interfaces cannot be listed.
    """
    own = set(map(str, plan.addresses))
    return next(
        (name for name, link in _links().items() if own & {one.partition("/")[0] for one in link.addresses}), None
    )


def _links() -> Mapping[str, Link]:
    found = {}
    for link in json.loads(run("ip", "-json", "-details", "address")):
        info = link.get("linkinfo", {})
        entries = [entry for entry in link.get("addr_info", ()) if "local" in entry]
        local = info.get("info_data", {}).get("local", "")
        found[link["ifname"]] = Link(
            up="UP" in link["flags"],
            mtu=int(link["mtu"]),
            addresses=frozenset(f"{entry['local']}/{entry['prefixlen']}" for entry in entries),
            kind=info.get("info_kind", ""),
            mode=info.get("info_data", {}).get("proto", ""),
            local="" if local in ("any", "::", "0.0.0.0") else local,  # noqa: S104 - nothing is bound
            troubled=frozenset(entry["local"] for entry in entries if entry.get("tentative") or entry.get("dadfailed")),
        )
    return found


def _file(key: str) -> Path:
    """Of a sysctl. Names of devices may have dots, in the middle of keys."""
    parts = key.split(".")
    return _PROC.joinpath(*parts[:3], ".".join(parts[3:-1]), parts[-1]) if len(parts) > 4 else _PROC.joinpath(*parts)


def _read(key: str) -> str | None:
    try:
        return _file(key).read_text().strip()
    except OSError:
        return None


def _listeners() -> Iterator[Listener]:
    for protocol, option in ((Protocol.TCP, "-t"), (Protocol.UDP, "-u")):
        for line in run("ss", "-H", "-l", "-n", option).splitlines():
            address, _, port = line.split()[3].rpartition(":")
            address = address.partition("%")[0].strip("[]")
            if address in ("*", "::"):
                # Both families for "*"; a socket that takes IPv6 alone is shown as "[::]".
                yield Listener(protocol, None, int(port), frozenset({4, 6} if address == "*" else {6}))
            elif address == "0.0.0.0":  # noqa: S104 - nothing is bound
                yield Listener(protocol, None, int(port), frozenset({4}))
            else:
                plain = ip_address(address)
                mapped = plain.ipv4_mapped if plain.version == 6 else None
                yield Listener(protocol, mapped or plain, int(port))


def _rules() -> object:
    listing = json.loads(run("nft", "-j", "list", "tables", FAMILY))
    names = {entry["table"]["name"] for entry in listing["nftables"] if "table" in entry}
    return json.loads(run("nft", "-j", "list", "table", FAMILY, TABLE)) if TABLE in names else None


def _way(vip: IPAddress, client: IPAddress) -> WayBack:
    try:
        route = json.loads(run("ip", "-json", f"-{vip.version}", "route", "get", str(client), "from", str(vip)))[0]
    except (MachineError, ValueError, IndexError) as error:
        return WayBack(why_not=str(error).rpartition(": ")[2])
    if route.get("type") in ("unreachable", "blackhole", "prohibit"):
        return WayBack(why_not=f"the route to {client} is {route['type']}")
    # ip prints metrics as a list of one table.
    metrics = (route.get("metrics") or [{}])[0]
    return WayBack(route.get("dev", ""), metrics.get("advmss"))


def _decapsulating(plan: Plan) -> Iterator[Decapsulating]:
    try:
        told = talk.ask(plan.interface)
    except DecapError:
        return
    yield Decapsulating(plan.interface, frozenset(told["from"]), frozenset(told["vips"]), frozenset(told["addresses"]))


def _opens_gue(version: int) -> bool:
    # Whatever family is asked for, all ports are shown; those of IPv6 have a mark.
    try:
        shown = run("ip", "fou", "show")
    except MachineError:
        return False
    lines = [line.split() for line in shown.splitlines()]
    return any(line[:3] == ["port", str(GUE_PORT), "gue"] and ("-6" in line) is (version == 6) for line in lines)


def _dropped() -> int:
    names: list[str] = []
    values: list[str] = []
    for line in Path("/proc/net/netstat").read_text().splitlines():
        kind, _, rest = line.partition(":")
        if kind == "TcpExt":
            (values if names else names).extend(rest.split())
    return int(dict(zip(names, values, strict=False)).get("IPReversePathFilter", 0))


def _firewalld() -> str:
    """IPv6_rpfilter where a firewalld runs in this network namespace's machine; empty where none does."""
    if not Path("/run/firewalld").exists():
        return ""
    try:
        lines = Path("/etc/firewalld/firewalld.conf").read_text().splitlines()
    except OSError:
        return ""
    values = [line.partition("=")[2].strip() for line in lines if line.startswith("IPv6_rpfilter=")]
    return values[-1] if values else "yes"


# ---------------------------------------------------------------------------------------------------------------------
# What is done, and taken back


@dataclass
class Record:
    """What was done, in this order, each with what it takes to go back."""

    path: Path
    done: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Record":
        """
        Raises:
            MachineError: it is there and cannot be used.
        """
        try:
            text = path.read_text()
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise MachineError(f"{path}: {error.strerror}") from None
        try:
            done = json.loads(text)["done"]
            if not all(entry["what"] in _BACK for entry in done):
                raise ValueError
        except (ValueError, TypeError, KeyError):
            raise MachineError(
                f"{path} cannot be read: what was done before is not known; undo it by hand and remove the file"
            ) from None
        return cls(path, done)

    def add(self, what: str, **details: object) -> None:
        """Before it is done: what is in the record and was not done does no harm when it is taken back."""
        self.done.append({"what": what, **details})
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(json.dumps({"version": 1, "done": self.done}, indent=1) + "\n")
        new.replace(self.path)


def apply(plan: Plan, record: Record) -> list[str]:
    """Give this machine what the plan says, as far as it has it not; what was done, for people.

    It may be called again at any time, also with another plan: what is there stays, routes are copied anew, and what
    the plan has not any more is taken back.

    Raises:
        MachineError: something failed; what was done before is in the record.
    """
    said = _take_back(record, [entry for entry in record.done if not _wanted(plan, entry)])
    if text := ruleset(plan, mss=False):
        # First of all: nobody but directors gets in by the tunnels.
        known = [entry["text"] for entry in record.done if entry["what"] == "table"]
        if known != [text] or _rules() is None:
            record.done = [entry for entry in record.done if entry["what"] != "table"]
            record.add("table", text=text)
            run("nft", "-f", "-", given=text)
            said.append(f"firewall table {FAMILY} {TABLE}")
    for key, value, _ in plan.sysctls():
        said += _set(key, value, record)
    for vip in plan.vips:
        said += _address(f"{vip}/{vip.max_prefixlen}", "lo", record)
    for module in [*(tunnel.module for tunnel in plan.tunnels), *(["fou"] if plan.gue else [])]:
        said += _module(module, record)
    if 6 in plan.gue:
        said += _module("fou6", record)
    for version in plan.gue:
        if not _opens_gue(version):
            record.add("gue", version=version)
            run("ip", f"-{version}", "fou", "add", "port", str(GUE_PORT), "gue")
            said.append(f"GUE over IPv{version}")
    for tunnel in plan.tunnels:
        said += _tunnel(tunnel, record)
    for key, value, _ in plan.tunnel_sysctls():
        said += _set(key, value, record, keep=False)
    if words := plan.decap_arguments():
        said += _start_decap(plan, words, record)
    return [*said, *_routes(plan, record)]


def _wanted(plan: Plan, entry: Mapping[str, Any]) -> bool:
    """Whether something that was done for an earlier plan is part of this one as well."""
    match entry:
        case {"what": "address", "address": address, "device": "lo"}:
            return address in {f"{vip}/{vip.max_prefixlen}" for vip in plan.vips}
        case {"what": "address", "device": device} | {"what": "link", "name": device}:
            return device in {tunnel.device for tunnel in plan.tunnels}
        case {"what": "module", "name": name}:
            return name in {tunnel.module for tunnel in plan.tunnels} or (name.startswith("fou") and bool(plan.gue))
        case {"what": "gue", "version": version}:
            return version in plan.gue
        case {"what": "rule", "words": words}:
            return words in [_rule(plan, vip) for vip in plan.mss]
        case {"what": "routes", "family": family, "table": table}:
            return (family, table) in {(f"-{vip.version}", plan.route_tables[size]) for vip, size in plan.mss.items()}
        case {"what": "decap", "interface": interface}:
            return bool(plan.decap_arguments()) and interface == plan.interface
        case {"what": "table"}:
            return bool(ruleset(plan, mss=False))
    return True


def _rule(plan: Plan, vip: IPAddress) -> list[str]:
    table = str(plan.route_tables[plan.mss[vip]])
    return ["from", str(vip), "lookup", table, "priority", table]


def _set(key: str, value: str, record: Record, *, keep: bool = True) -> list[str]:
    before = _read(key)
    if before is None:
        raise MachineError(f"there is no sysctl {key} here")
    if before == value:
        return []
    if keep:
        record.add("sysctl", key=key, before=before, now=value)
    try:
        _file(key).write_text(value)
    except OSError as error:
        raise MachineError(f"sysctl {key} = {value}: {error.strerror}; are you root?") from None
    return [f"{key} = {value} (it was {before})"]


def _address(address: str, device: str, record: Record, *more: str) -> list[str]:
    link = _links().get(device)
    if link is not None and address in link.addresses:
        return []
    record.add("address", address=address, device=device)
    run("ip", "address", "replace", address, "dev", device, *(["nodad"] if ":" in address else []), *more)
    return [f"{address} on {device}"]


def _module(name: str, record: Record) -> list[str]:
    if Path(f"/sys/module/{name}").exists():
        return []
    record.add("module", name=name)
    try:
        run("modprobe", name)
    except MachineError as error:
        raise MachineError(
            f"{error}; this kernel has no such tunnel, use --decapsulator {Decapsulator.ONWARD}"
        ) from None
    return [f"module {name}"]


def _tunnel(tunnel: Tunnel, record: Record) -> list[str]:
    said = []
    if tunnel.device not in _links():
        record.add("link", name=tunnel.device)
        run(*link_add(tunnel))
        said.append(f"tunnel {tunnel.device} for packets to {tunnel.local}")
    if tunnel.filtered:
        said += _address(INSIDE, tunnel.device, record, "scope", "host")
    run("ip", "link", "set", tunnel.device, "up")
    return said


def _start_decap(plan: Plan, words: Sequence[str], record: Record) -> list[str]:
    running = next(_decapsulating(plan), None)
    if running is not None:
        wanted = (set(map(str, plan.sources)), set(map(str, plan.vips)), set(map(str, plan.addresses)))
        if (set(running.sources), set(running.vips), set(running.addresses)) == wanted:
            return []
        _stop_decap({"interface": plan.interface})
    record.add("decap", interface=plan.interface)
    command = [sys.executable, "-m", "appliance", "decap", "run", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(appliance.__file__).parent.parent)}
    log = record.path.with_name(f"{record.path.stem}-decap.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment,
            cwd="/",
        )
    end = time.monotonic() + _START_S
    while next(_decapsulating(plan), None) is None:
        if process.poll() is not None or time.monotonic() > end:
            raise MachineError(f"`onward decap run {shlex.join(words)}` did not start: {log.read_text().strip()}")
        time.sleep(0.05)
    return [f"onward decap on {plan.interface}"]


def _routes(plan: Plan, record: Record) -> list[str]:
    """The MSS: what VIPs send goes by copies of the main table's routes that advertise less."""
    said = []
    for vip, size in plan.mss.items():
        table = plan.route_tables[size]
        family = f"-{vip.version}"
        if not any(
            (entry["what"], entry.get("table"), entry.get("family")) == ("routes", table, family)
            for entry in record.done
        ):
            record.add("routes", family=family, table=table)
        _copy_routes(family, table, size)
        rule = _rule(plan, vip)
        there = json.loads(run("ip", "-json", family, "rule", "show") or "[]")
        if not any(one.get("src") == str(vip) and one.get("priority") == table for one in there):
            record.add("rule", family=family, words=rule)
            run("ip", family, "rule", "add", *rule)
            said.append(f"MSS {size} for what {vip} answers")
    return said


def _copy_routes(family: str, table: int, size: int) -> None:
    try:
        run("ip", family, "route", "flush", "table", str(table))
    except MachineError:
        pass  # there is no such table yet
    for route in json.loads(run("ip", "-json", family, "route", "show", "table", "main") or "[]"):
        # In front: what stands behind a next hop is the next hop's.
        run("ip", family, "route", "replace", "table", str(table), "advmss", str(size), *_words(route))


def _words(route: Mapping[str, Any]) -> list[str]:
    """A route of `ip -json route`, as arguments."""

    def hop(one: Mapping[str, Any]) -> list[str]:
        words = []
        if "gateway" in one:
            words += ["via", one["gateway"]]
        elif "via" in one:
            words += ["via", one["via"]["family"], one["via"]["host"]]
        if "dev" in one:
            words += ["dev", one["dev"]]
        if "onlink" in one.get("flags", ()):
            words.append("onlink")
        return words

    words = [route["type"]] if route.get("type", "unicast") != "unicast" else []
    words += [route["dst"], *hop(route)]
    for key, name in (("metric", "metric"), ("scope", "scope"), ("prefsrc", "src"), ("protocol", "proto")):
        if key in route:
            words += [name, str(route[key])]
    for one in route.get("nexthops", ()):
        words += ["nexthop", *hop(one), "weight", str(one.get("weight", 1))]
    return words


def undo(record: Record) -> list[str]:
    """Take back what was done, the last thing first; what was taken back, for people.

    What somebody has changed since is left as it is now: a setting that has another value than ours, for example.

    Raises:
        MachineError: something could not be taken back; the rest was, and the record has what is left.
    """
    said = _take_back(record, list(record.done))
    record.path.unlink(missing_ok=True)
    record.path.with_name(f"{record.path.stem}-decap.log").unlink(missing_ok=True)
    return said


def _take_back(record: Record, entries: Sequence[dict[str, Any]]) -> list[str]:
    """
    Raises:
        MachineError: something could not be taken back; it stays on record.
    """
    said, problems = [], []
    for entry in reversed(entries):
        try:
            if text := _BACK[entry["what"]](entry):
                said.append(text)
        except MachineError as error:
            problems.append(str(error))
            continue
        record.done.remove(entry)
    if entries:
        record.write()
    if problems:
        raise MachineError("; ".join(problems))
    return said


def _unset(entry: Mapping[str, Any]) -> str:
    key, before, now = entry["key"], entry["before"], entry["now"]
    value = _read(key)
    if value is None or value == before:
        return ""
    if value != now:
        return f"{key} = {value}, which somebody else has set, stays"
    _file(key).write_text(before)
    return f"{key} = {before}"


def _remove_address(entry: Mapping[str, Any]) -> str:
    link = _links().get(entry["device"])
    if link is None or entry["address"] not in link.addresses:
        return ""
    run("ip", "address", "del", entry["address"], "dev", entry["device"])
    return f"{entry['address']} is off {entry['device']}"


def _remove_link(entry: Mapping[str, Any]) -> str:
    if entry["name"] not in _links():
        return ""
    run("ip", "link", "del", entry["name"])
    return f"{entry['name']} is gone"


def _remove_module(entry: Mapping[str, Any]) -> str:
    try:
        run("modprobe", "-r", entry["name"])
    except MachineError:
        return f"module {entry['name']} stays, since something else uses it"
    return f"module {entry['name']} is gone"


def _remove_gue(entry: Mapping[str, Any]) -> str:
    if not _opens_gue(entry["version"]):
        return ""
    run("ip", f"-{entry['version']}", "fou", "del", "port", str(GUE_PORT))
    return f"GUE over IPv{entry['version']} is closed"


def _remove_table(entry: Mapping[str, Any]) -> str:
    if _rules() is None:
        return ""
    run("nft", "delete", "table", FAMILY, TABLE)
    return "firewall table is gone"


def _remove_rule(entry: Mapping[str, Any]) -> str:
    try:
        run("ip", entry["family"], "rule", "del", *entry["words"])
    except MachineError:
        return ""  # it is gone already
    return f"rule {' '.join(entry['words'][:2])} is gone"


def _remove_routes(entry: Mapping[str, Any]) -> str:
    try:
        run("ip", entry["family"], "route", "flush", "table", str(entry["table"]))
    except MachineError:
        return ""  # it is gone already
    return f"routing table {entry['table']} is empty"


def _stop_decap(entry: Mapping[str, Any]) -> str:
    try:
        ended = talk.end(entry["interface"], _START_S)
    except DecapError as error:
        raise MachineError(str(error)) from None
    return f"onward decap on {entry['interface']} has ended" if ended else ""


_BACK: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "sysctl": _unset,
    "address": _remove_address,
    "link": _remove_link,
    "module": _remove_module,
    "gue": _remove_gue,
    "table": _remove_table,
    "rule": _remove_rule,
    "routes": _remove_routes,
    "decap": _stop_decap,
}
