"""`onward server-setup`: what a member's machine needs, given to it, and looked at."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Parameter

from appliance.cli.orders import OrderError, SocketOption, ask, where
from appliance.cli.output import Exit, complain, print_json, print_problems, table
from appliance.config import values
from appliance.config.document import read_document
from appliance.config.files import files_beside
from appliance.config.load import SECRET_BYTES, parse_parts
from appliance.config.merge import Part
from appliance.config.problems import BadValueError, ConfigError
from appliance.model import Config, Decapsulator, IPAddress
from appliance.server.formats import FORMATS
from appliance.server.formats.base import File, FormatError, Settings
from appliance.server.machine import CLIENTS, RECORD, MachineError, Record, apply, interface_of, look, undo
from appliance.server.plan import LINK_MTU, Plan, PlanError, plan_of
from appliance.server.points import Point, Verdict, healthy, judge

_T = TypeVar("_T")
_TIMEOUT_S = 10.0
DEFAULT_INTERFACE = "eth0"


class Format(StrEnum):
    """Of what is printed."""

    NETPLAN = "netplan"
    NETWORKD = "networkd"
    IFUPDOWN = "ifupdown"
    SHELL = "shell"
    NMCLI = "nmcli"
    CLOUD_INIT = "cloud-init"
    WINDOWS = "windows"


_Flag = Parameter(negative="", show_default=False)
_List = Parameter(negative="")


def server_setup(
    *,
    member: str = "",
    service: Annotated[list[str] | None, _List] = None,
    form: Annotated[Format, Parameter(name="--format")] = Format.SHELL,
    config: Path | None = None,
    socket: SocketOption = None,
    decapsulator: Decapsulator = Decapsulator.KERNEL,
    sources: Annotated[list[str] | None, Parameter(name="--from", negative="")] = None,
    interface: str = "",
    mtu: int = LINK_MTU,
    gateway: Annotated[list[str] | None, _List] = None,
    network: Annotated[list[str] | None, _List] = None,
    release: str = "",
    output: Path | None = None,
    do: Annotated[bool, Parameter(name="--apply", negative="", show_default=False)] = False,
    back: Annotated[bool, Parameter(name="--undo", negative="", show_default=False)] = False,
    check: Annotated[bool, _Flag] = False,
    client: Annotated[list[str] | None, _List] = None,
    record: Path = RECORD,
    as_json: Annotated[bool, Parameter(name=["--json"], negative="", show_default=False)] = False,
) -> int:
    """Print the configuration that a member's machine needs: VIPs, tunnels, ARP, MSS, firewall.

    It covers all virtual services that the member carries, or those that are named. --apply gives all of it to the
    machine that this is called on, until it restarts; --check looks whether a machine has it, however it got it.

    Exit codes: 0 done, or nothing is wrong; 1 it failed, or something is wrong; 2 wrong usage; 3 the director does not
    answer; 4 the configuration is invalid; 5 no such service or member.

    Parameters
    ----------
    member:
        POOL/NAME, name or address of the member.
    service:
        Only this virtual service. Repeat it for more.
    form:
        Who will read it.
    config:
        Configuration file; by default, what is in force with the director on this machine.
    decapsulator:
        kernel: tunnel devices; onward: `onward decap`, where the kernel has none, as in containers.
    sources:
        Prefix that directors send encapsulated packets from. Repeat it for more; by default the addresses of
        [[fleet.director]], and for outer_source = "prefix" the prefixes of [director].
    interface:
        Where packets arrive at the member; by default, with --apply and --check the one that has its address, else
        eth0.
    mtu:
        Largest IP packet on the way from directors to the member.
    gateway:
        The member's router, for netplan 1.1 to set the MSS by a route. Repeat it for IPv6.
    network:
        The member's own segment, for the same.
    release:
        Of netplan, when it is 1.1 or later; what is printed by default, all take.
    output:
        Write the files below this folder, by their paths, instead of printing them.
    do:
        Give this machine what it needs, as far as it has it not. It may be repeated; needs root.
    back:
        Take back what --apply has done.
    check:
        Look whether this machine has what it needs.
    client:
        A client's address, to look for the way back to; by default one of documentation. Repeat it for IPv6.
    record:
        Where --apply notes what it has done.
    as_json:
        Print JSON.
    """
    problems: list[str] = []
    if sum((do, back, check)) > 1:
        problems.append("--apply, --undo and --check exclude each other")
    if not member and not back:
        problems.append("whose configuration? give --member")
    networks = tuple(_each(sources or [], "--from", ip_network, "a prefix like 203.0.113.0/24", problems))
    clients: dict[int, IPAddress] = dict(CLIENTS)
    clients |= {one.version: one for one in _each(client or [], "--client", ip_address, "an address", problems)}
    settings = Settings(
        release=tuple(_each(release.split(".") if release else [], "--release", int, "numbers like 1.1", problems)),
        gateways=tuple(_each(gateway or [], "--gateway", ip_address, "an address", problems)),
        networks=tuple(_each(network or [], "--network", ip_network, "a prefix like 203.0.113.0/24", problems)),
    )
    if interface:
        problems += _unusable(interface, windows=form is Format.WINDOWS)
    if any(number < 0 for number in settings.release):
        problems.append(f"--release {release}: give numbers like 1.1")
    if not 1280 <= mtu <= 65535:
        problems.append(f"--mtu {mtu}: give a size from 1280 to 65535")
    if problems:
        for problem in problems:
            complain(problem)
        return Exit.USAGE
    try:
        if back:
            return _told(undo(Record.read(record)), "nothing was to be taken back", as_json=as_json)
        plan = plan_of(
            _configuration(config, socket),
            member,
            services=service or (),
            sources=networks,
            decapsulator=decapsulator,
            interface=interface or DEFAULT_INTERFACE,
            mtu=mtu,
        )
        if not interface and (do or check):
            plan = replace(plan, interface=interface_of(plan) or DEFAULT_INTERFACE)
        if do:
            return _told(apply(plan, Record.read(record)), "everything was there", as_json=as_json)
        if check:
            return _show(plan, judge(plan, look(plan, clients)), as_json=as_json)
        return _give(FORMATS[form](plan, settings), output)
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except PlanError as error:
        for problem in error.problems:
            complain(problem)
        return Exit.NOT_FOUND
    except OrderError as error:
        complain(f"{error}; or give --config FILE")
        return error.code
    except (MachineError, FormatError, OSError) as error:
        complain(str(error))
        return Exit.FAILED


def _configuration(file: Path | None, socket: Path | None) -> Config:
    """From a file, or what is in force with a director. Secrets are not needed, and may be kept from us."""
    if file is not None:
        parts: Sequence[Part] = read_document(file).parts
        read = files_beside(file)
    else:
        document = ask(where(socket, None), "GET", "/v1/config", timeout_s=_TIMEOUT_S)
        parts = [Part(name, text) for name, text in document["texts"].items()]
        read = files_beside(Path(document["path"]))

    def lenient(name: str) -> bytes:
        try:
            return read(name)
        except OSError:
            return b"0" * 2 * SECRET_BYTES

    return parse_parts(parts, lenient, lambda _: None)


def _unusable(name: str, *, windows: bool) -> Iterator[str]:
    """What is wrong with an interface's name; it gets into scripts that root runs."""
    if windows:
        if not name.isprintable() or set(name) & set("\"'`$"):
            yield f"--interface {name}: give the name that Get-NetAdapter shows, without quotes and $"
        return
    try:
        values.interface(name)
    except BadValueError as error:
        yield f"--interface: {error}"


def _give(files: Iterable[File], folder: Path | None) -> int:
    several = list(files)
    for file in several:
        if folder is None:
            if len(several) > 1:
                print(f"# ---- {file.path}")
            print(file.text, end="")
            continue
        path = folder / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
        path.chmod(file.mode)
        print(path)
    return Exit.OK


def _told(said: list[str], otherwise: str, *, as_json: bool) -> int:
    if as_json:
        print_json({"done": said})
    else:
        print("\n".join(said) or otherwise)
    return Exit.OK


def _show(plan: Plan, points: tuple[Point, ...], *, as_json: bool) -> int:
    if as_json:
        print_json(
            {
                "member": plan.member,
                "services": [service.name for service in plan.services],
                "ok": healthy(points),
                "points": [asdict(point) for point in points],
            }
        )
    else:
        print(table(("POINT", "OF", "", "SEEN"), ((p.name, p.subject, p.verdict, p.evidence) for p in points)))
        for point in points:
            if point.fix and point.verdict is not Verdict.PASS:
                print(f"{point.name} {point.subject}: {point.fix}")
    return Exit.OK if healthy(points) else Exit.FAILED


def _each(
    texts: Iterable[str], option: str, parse: Callable[[str], _T], what: str, problems: list[str]
) -> Iterable[_T]:
    for text in texts:
        try:
            yield parse(text)
        except ValueError as error:
            problems.append(f"{option} {text}: {error}; give {what}")
