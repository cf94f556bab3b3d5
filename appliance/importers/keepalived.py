"""keepalived.conf. Pure.

Keywords, defaults and what they mean are those of keepalived.conf(5), 2.3.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeVar

from appliance.config import monitors as kinds
from appliance.config import values
from appliance.config.problems import BadValueError, ConfigError, Problem
from appliance.importers.base import Grade, Imported, Node, Report, Site, Source, State, frame, no_bgp
from appliance.importers.blocks import Conditional, Definition, Directive, Missing, parse, problem
from appliance.importers.document import Draft, Names, Value, value_text
from appliance.importers.lvs import IDLE_LIMITS_S, Method, Real, Virtual, add, lost_real
from appliance.model import IPAddress
from appliance.packet.encap import GUE_PORT

_T = TypeVar("_T")

MAX_VIPS = 256
"""Of an address range; a virtual service for each of more is hardly meant."""

_EVENTS = "follow the log or `onward status`: every change is an event with its reason"
_BY_METRICS = "alert on the metrics instead"
_VRRP = (
    "VRRP has no equivalent: all directors have the VIPs at once, on no interface, and routers choose by BGP",
    (
        'write [bgp], and a [[fleet.director]] for each director; ha = "active_standby" prefers one of them; take the '
        "VIPs off the interfaces"
    ),
)
_KERNEL = "routes, addresses and rules of the machine are not ours", "configure them with the network"

_TOP: dict[str, tuple[Grade, str, str]] = {
    "vrrp_instance": (Grade.LOST, *_VRRP),
    "vrrp_sync_group": (Grade.LOST, *_VRRP),
    "vrrp_script": (
        Grade.LOST,
        "scripts do not decide whether a director has the VIPs",
        "it withdraws them by itself when it cannot forward, or has too few members (min_members)",
    ),
    "vrrp_track_process": (Grade.LOST, "processes do not decide whether a director has the VIPs", ""),
    "vrrp_track_file": (Grade.LOST, "files do not decide whether a director has the VIPs", ""),
    "track_file": (Grade.LOST, "files do not decide about members or directors", ""),
    "static_ipaddress": (Grade.LOST, *_KERNEL),
    "static_routes": (Grade.LOST, *_KERNEL),
    "static_rules": (Grade.LOST, *_KERNEL),
    "bfd_instance": (Grade.LOST, "BFD is spoken with routers here", "write bfd = { ... } in the [[bgp.peer]]"),
    "interface_up_down_delays": (Grade.LOST, *_VRRP),
    "SSL": (
        Grade.TODO,
        "certificates for checks were not imported: they must be readable where the director runs",
        "write ca_file, cert_file and key_file in the [[health_monitor]] tables",
    ),
}  # fmt: skip
"""Blocks that are told as a whole."""

_GLOBAL: dict[str, tuple[Grade, str, str]] = {
    "notification_email": (Grade.LOST, "no mails are sent", _BY_METRICS),
    "notification_email_from": (Grade.LOST, "no mails are sent", _BY_METRICS),
    "smtp_server": (Grade.LOST, "no mails are sent", _BY_METRICS),
    "smtp_helo_name": (Grade.LOST, "no mails are sent", _BY_METRICS),
    "smtp_connect_timeout": (Grade.LOST, "no mails are sent", _BY_METRICS),
    "smtp_alert": (Grade.LOST, "no mails are sent", _BY_METRICS),
    "smtp_alert_checker": (Grade.LOST, "no mails are sent", _BY_METRICS),
    "lvs_sync_daemon": (
        Grade.LOST,
        "directors tell each other of remembered flows by a protocol of their own",
        "write a [[fleet.director]] for each",
    ),
    "lvs_flush": (Grade.IGNORED, "there is no table that an earlier process has left", ""),
    "enable_script_security": (Grade.IGNORED, "commands of monitors are started without a shell", ""),
    "script_user": (Grade.LOST, "commands run as the user that the director runs as", ""),
    "enable_snmp_checker": (Grade.LOST, "there is no SNMP", _BY_METRICS),
    "checker_priority": (Grade.IGNORED, "how the machine shares its CPUs is up to the service manager", ""),
}

_SERVER: dict[str, tuple[Grade, str, str]] = {
    "sorry_server": (
        Grade.LOST,
        "there is no server for when all others are down: the VIP is withdrawn",
        "announce the VIP from the sorry server as well, with a worse route",
    ),
    "sorry_server_inhibit": (Grade.LOST, "there are no sorry servers", ""),
    "sorry_server_lvs_method": (Grade.LOST, "there are no sorry servers", ""),
    "quorum_up": (Grade.LOST, "no command is started when a VIP comes", _EVENTS),
    "quorum_down": (Grade.LOST, "no command is started when a VIP goes", _EVENTS),
    "notify_up": (Grade.LOST, "no command is started when a member comes", _EVENTS),
    "notify_down": (Grade.LOST, "no command is started when a member goes", _EVENTS),
    "hysteresis": (Grade.LOST, "what is announced does not lag behind min_members", "see bgp.hold_down"),
    "persistence_granularity": (Grade.LOST, "clients are told apart by their whole addresses", ""),
    "persistence_engine": (Grade.LOST, "nothing above TCP and UDP is looked at", ""),
    "inhibit_on_failure": (Grade.LOST, "the flows of a member that is down go to others", ""),
    "lthreshold": (Grade.LOST, "a member takes flows again as soon as it has fewer than max_connections", ""),
    "smtp_alert": (Grade.LOST, "no mails are sent", _BY_METRICS),
    "snmp_name": (Grade.LOST, "there is no SNMP", _BY_METRICS),
    "ha_suspend": (Grade.LOST, "members are watched whether or not the director has traffic", ""),
    "omega": (Grade.LOST, "no command is started when the director stops", _EVENTS),
    "alpha": (Grade.IGNORED, "members are not up before the first check says so", ""),
    "warmup": (Grade.IGNORED, "checks are spread over time by themselves", ""),
    "hashed": (Grade.IGNORED, "it has no effect in keepalived either", ""),
    "ip_family": (Grade.IGNORED, "the family is that of the addresses", ""),
    "net_mask": (Grade.IGNORED, "it has no effect in keepalived either", ""),
    "nat_mask": (Grade.IGNORED, "it has no effect in keepalived either", ""),
    "log_all_failures": (Grade.IGNORED, "the last result of every check is at /api/v1/status", ""),
}
"""What virtual and real servers have that is no more than told."""

_CHECK: dict[str, tuple[Grade, str, str]] = {
    key: _SERVER[key] for key in ("alpha", "warmup", "log_all_failures")
} | {
    "connect_ip": (Grade.LOST, "members are asked at their own address, or for the VIP through their DSR path", ""),
    "bindto": (Grade.LOST, "checks have the director's own address, by its routes", ""),
    "bind_if": (Grade.LOST, "checks go by the director's routes", ""),
    "bind_port": (Grade.LOST, "checks have ports of the kernel's choice", ""),
    "fwmark": (Grade.LOST, "marks of checks are for the DSR path", ""),
    "http_protocol": (Grade.CHANGED, "checks speak HTTP/1.1", ""),
    "fast_recovery": (Grade.IGNORED, "quick_start does the same", ""),
    "tls_compliant": (Grade.IGNORED, "checks end TLS as the protocol asks for", ""),
    "helo_name": (Grade.LOST, "the check waits for the greeting, and says no HELO", ""),
    "misc_dynamic": (Grade.LOST, "the exit status changes no weight", "use `onward member weight`, or least_load"),
    "user": (Grade.LOST, "commands run as the user that the director runs as", ""),
    "min_reply_length": (Grade.LOST, "the length of answers does not count", ""),
    "max_reply_length": (Grade.LOST, "the length of answers does not count", ""),
    "regex_options": (Grade.LOST, "what an answer must have is a text, no pattern", ""),
    "regex_stack": (Grade.IGNORED, "there are no patterns", ""),
    "regex_min_offset": (Grade.LOST, "the answer is searched from its beginning", ""),
    "regex_max_offset": (Grade.LOST, "the answer is searched as far as response_size", ""),
    "regex_no_match": (Grade.LOST, "a text that must not be in the answer cannot be named", ""),
    "digest": (Grade.LOST, "digests of answers are not compared", "write a text of the page as response"),
}  # fmt: skip

_TIMING = ("delay_loop", "connect_timeout", "retry", "nb_get_retry", "delay_before_retry", "virtualhost")
"""What a checker takes from its real server or virtual server when it has it not itself."""

_INTERVAL_S, _TIMEOUT_S = 60.0, 5.0
_RETRIES = {"DNS_CHECK": 3, "MISC_CHECK": 0}
_DELAYS_S = {"HTTP_GET": 3, "SSL_GET": 3}
"""Keepalived's defaults; for other kinds one retry, after a second."""


@dataclass
class _Check:
    """A checker of one real server, as a monitor."""

    node: Node
    kind: str
    settings: dict[str, Value]
    timing: dict[str, Value]
    later: str
    """How a failure is told later than in keepalived."""


def read(source: Source, site: Site) -> Imported:
    """Import a keepalived.conf.

    Raises:
        ConfigError: its braces or quotes do not match, or words of it are not what their place asks for.
    """
    return _Reader(source, site).imported()


class _Reader:
    def __init__(self, source: Source, site: Site) -> None:
        self.source, self.site = source, site
        self.root = parse(source)
        self.report = Report(self.root)
        self.draft = Draft()
        self.problems: list[Problem] = []
        self.director: str | None = None
        self.timeouts: dict[str, int] = {}
        self.groups: dict[str, Directive] = {}

    def imported(self) -> Imported:
        for directive in _walk(self.root):
            self._general(directive)
        for block in self.root.each("global_defs"):
            self._globals(block)
        for group in self.root.each("virtual_server_group"):
            if (name := group.argument()) is not None:
                self.groups[name] = group
        for server in self.root.each("virtual_server"):
            self._virtual_server(server)
        for directive in self.root.block:
            if directive.keyword in _TOP:
                self._tell(directive, _TOP)
        for group in self.groups.values():
            if any(leaf.state is State.UNREAD for leaf in group.leaves()):
                self.report.ignored(group, "no virtual server is made of it")
        if self.problems:
            raise ConfigError(self.problems)
        if not self.draft.services:
            self.report.note(Grade.TODO, self.source.name, "there is no virtual server that could be imported", "")
        director, fleet = frame(self.source, self.site, self.report, self.director)
        no_bgp(self.source, self.report)
        findings = self.report.close(
            "it is not known here, and nothing was made of it", "see keepalived.conf(5) for what it does"
        )
        return Imported(self.draft.tables(director, fleet), findings, self.root)

    def _general(self, directive: Directive) -> None:
        if isinstance(directive, Missing):
            self.report.lost(directive, "there is no such file, so what it has is missing", "import where the file is")
        elif isinstance(directive, Conditional):
            self.report.lost(
                directive,
                "lines for some directors only are left out",
                "take the word with @ off the lines that are for this one",
            )
        elif isinstance(directive, Definition) and directive.words[0].state is State.UNREAD:
            self.report.ignored(directive, "nothing refers to it")

    # -----------------------------------------------------------------------------------------------------------------
    # Words

    def bad(self, node: Node, message: str, remedy: str) -> None:
        self.problems.append(problem(node, message, remedy))

    def take(self, blocks: Sequence[Directive], *keywords: str) -> Directive | None:
        """The directive that counts: the last one of the first block that has it. Earlier ones are told."""
        for block in blocks:
            found = block.each(*keywords)
            for earlier in found[:-1]:
                self.report.ignored(earlier, f"line {found[-1].place.rpartition(':')[2]} counts instead")
            if found:
                return found[-1]
        return None

    def number(self, directive: Directive | None, otherwise: int, most: int = 1 << 31) -> int:
        if directive is None:
            return otherwise
        word = directive.argument() or ""
        if not re.fullmatch(r"[0-9]{1,10}", word) or int(word) > most:
            self.bad(directive, f"`{word}` is not a number from 0 to {most}", "correct it")
            return otherwise
        return int(word)

    def seconds(self, directive: Directive | None, otherwise: float) -> float:
        if directive is None:
            return otherwise
        word = directive.argument() or ""
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", word):
            self.bad(directive, f"`{word}` is not a number of seconds", "correct it")
            return otherwise
        return float(word)

    def port(self, directive: Directive, i: int) -> int | None:
        """The port at that word; 0 is every port, None is none."""
        word = directive.argument(i)
        if word is None:
            return None
        if not re.fullmatch(r"[0-9]{1,5}", word) or int(word) > 65535:
            self.bad(directive, f"`{word}` is not a port", "use 1..65535")
            return None
        return int(word)

    # -----------------------------------------------------------------------------------------------------------------
    # Blocks

    def _globals(self, block: Directive) -> None:
        block.argument()
        router = self.take([block], "router_id")
        if router is not None and (name := router.argument()):
            self.director = Names().take(name, "d1")
        timeouts = self.take([block], "lvs_timeouts")
        if timeouts is not None:
            self._timeouts(timeouts)
        for directive in block.block:
            if directive.keyword in _GLOBAL:
                self._tell(directive, _GLOBAL)
            elif directive.keyword.startswith("vrrp_"):
                self.report.lost(directive, *_VRRP)

    def _timeouts(self, directive: Directive) -> None:
        words = directive.arguments
        for i in range(0, len(words) - 1, 2):
            protocol = words[i]
            if protocol in IDLE_LIMITS_S and words[i + 1].isascii() and words[i + 1].isdigit():
                first, last = IDLE_LIMITS_S[protocol]
                directive.argument(i)
                directive.argument(i + 1)
                wanted = int(words[i + 1][:10])
                self.timeouts[protocol] = min(max(wanted, first), last)
                if self.timeouts[protocol] != wanted:
                    self.report.changed(directive.words[i + 2], f"{protocol} takes {first} to {last} seconds")
            elif protocol == "tcpfin":
                directive.words[i + 1].use()
                self.report.lost(directive.words[i + 2], "how long a flow that was closed is remembered is not set", "")

    def _virtual_server(self, block: Directive) -> None:
        protocol = self._protocol(block)
        first = block.argument()
        if first == "fwmark" or protocol is None:
            what = (
                "marks of the firewall choose no members: packets are taken before there is a mark"
                if first == "fwmark"
                else "only TCP and UDP are balanced"
            )
            self.report.lost(block, what, "write a [[virtual_service]] with VIPs and ports" if protocol else "")
            return
        mistakes = len(self.problems)
        listens = self._listens(block)
        if not listens and len(self.problems) == mistakes:
            self.report.lost(block, "it has no VIP that could be imported", "write a [[virtual_service]]")
            return
        virtual = Virtual(
            node=block,
            name=_name(block),
            where=f"{block.place}: {block.text}",
            listens=listens,
            protocol=protocol,
            method=self._method(self.take([block], "lvs_method", "lb_kind"), Method.NAT),
            idle_timeout_s=self.timeouts.get(protocol),
        )
        self._scheduler(block, virtual)
        quorum = self.take([block], "quorum")
        virtual.quorum, virtual.quorum_node = self.number(quorum, 1), quorum
        checks: list[tuple[Real, list[_Check]]] = []
        servers = block.each("real_server")
        for server in servers:
            real = self._real_server(server, virtual)
            if real is not None:
                virtual.reals.append(real)
                checks.append((real, list(self._checks(server, block, real, virtual))))
        self._rest_of(block, servers)
        if self.problems:
            return
        virtual.monitors = self._monitors(virtual, checks)
        add(self.draft, self.report, virtual)

    def _protocol(self, block: Directive) -> str | None:
        directive = self.take([block], "protocol")
        word = (directive.argument() or "" if directive else "TCP").lower()
        if word not in ("tcp", "udp", "sctp") and directive is not None:
            self.bad(directive, f"`{word}` is not a protocol", "use TCP or UDP")
        return word if word in ("tcp", "udp") else None

    def _listens(self, block: Directive) -> list[tuple[list[IPAddress], list[int]]]:
        """The VIPs of a virtual server, with their ports."""
        if block.argument() != "group":
            port = self.port(block, 1)
            try:
                return [([values.unicast_address(block.argument() or "")], [port or 0])]
            except BadValueError as error:
                self.report.lost(block, error.message, error.remedy)
                return []
        name = block.argument(1) or ""
        group = self.groups.get(name)
        if group is None:
            there = ", ".join(self.groups) or "there are none"
            self.bad(block, f"no virtual_server_group is called `{name}`", f"groups: {there}")
            return []
        vips_of: dict[int, list[IPAddress]] = {}
        for line in group.block:
            if line.keyword == "fwmark":
                self.report.lost(line, "marks of the firewall choose no members", "write VIPs and ports")
                continue
            for vip in self._range(line):
                known = vips_of.setdefault(self.port(line, 0) or 0, [])
                if vip not in known:
                    known.append(vip)
        listens: list[tuple[list[IPAddress], list[int]]] = []
        for port, vips in vips_of.items():
            same = next((ports for others, ports in listens if others == vips), None)
            if same is None:
                listens.append((vips, [port]))
            else:
                same.append(port)
        return listens

    def _range(self, line: Directive) -> list[IPAddress]:
        """`192.0.2.1`, `192.0.2.1-10`, `192.0.2.1-192.0.2.10` or `192.0.2.0/29`."""
        line.words[0].use()
        word = line.keyword
        try:
            first, last = _ends(word)
        except ValueError:
            self.bad(line, f"`{word}` is neither an address nor a range of addresses", "use 192.0.2.1 or 192.0.2.1-10")
            return []
        if int(last) < int(first) or first.version != last.version:
            self.bad(line, f"`{word}` ends before it begins", "write the smaller address first")
            return []
        if int(last) - int(first) >= MAX_VIPS:
            self.report.lost(
                line, f"a range of more than {MAX_VIPS} VIPs", "write the VIPs that are used into [[virtual_service]]"
            )
            return []
        found = [type(first)(number) for number in range(int(first), int(last) + 1)]
        for vip in found:
            if (error := _invalid(values.unicast_address, str(vip))) is not None:
                self.report.lost(line, error.message, error.remedy)
                return []
        return found

    def _method(self, directive: Directive | None, otherwise: Method) -> Method:
        if directive is None:
            return otherwise
        word = (directive.argument() or "").upper()
        if word not in ("NAT", "DR", "TUN"):
            self.bad(directive, f"`{word}` is no way to forward", "use DR or TUN")
            return otherwise
        if word != "TUN":
            return Method.NAT if word == "NAT" else Method.ROUTE
        words = [each.lower() for each in directive.arguments]
        method = Method.IPIP
        for i, each in enumerate(words):
            if each == "type":
                kind = words[i + 1] if i + 1 < len(words) else ""
                if kind not in ("ipip", "gre", "gue"):
                    self.bad(directive, f"`{kind}` is no tunnel", "use ipip, gre or gue")
                    return otherwise
                directive.argument(i)
                directive.argument(i + 1)
                method = Method(kind)
            elif each == "port" and i + 1 < len(words):
                directive.argument(i)
                if directive.argument(i + 1) != str(GUE_PORT):
                    self.report.changed(directive, f"GUE goes to port {GUE_PORT}", "have members listen there")
            elif each == "nocsum":
                self.report.ignored(directive.words[i + 1], "tunnels have no checksum of their own")
            elif each in ("csum", "remcsum"):
                self.report.lost(directive.words[i + 1], "tunnels have no checksum of their own")
        return method

    def _scheduler(self, block: Directive, virtual: Virtual) -> None:
        directive = self.take([block], "lvs_sched", "lb_algo")
        if directive is not None:
            virtual.scheduler, virtual.scheduler_node = (directive.argument() or "").lower(), directive
        for flag in block.each("flag-1", "flag-2", "flag-3", "sh-port", "sh-fallback", "mh-port", "mh-fallback"):
            virtual.flags.append((flag.keyword, flag))
        persistence = self.take([block], "persistence_timeout")
        if persistence is not None:
            if persistence.arguments[:1] == ["0"]:
                self.report.ignored(persistence, "0 is no persistence")
            else:
                virtual.persistent = persistence
        elif any(0 in ports for _, ports in virtual.listens):
            self.report.about(
                Grade.CHANGED,
                block,
                "keepalived makes a virtual server of every port persistent; this one is not",
                'write algorithm = "consistent_hash" and hash = "source_ip" in the pool',
            )
        virtual.per_packet = self.take([block], "ops")

    def _real_server(self, server: Directive, virtual: Virtual) -> Real | None:
        try:
            address = values.unicast_address(server.argument() or "")
        except BadValueError as error:
            lost_real(self.report, server, error)
            return None
        port = self.port(server, 1)
        method = self._method(self.take([server], "lvs_method"), virtual.method or Method.NAT)
        weight, most = self.take([server], "weight"), self.take([server], "uthreshold")
        ratio, connections = self.number(weight, 1), self.number(most, 0, (1 << 32) - 1)
        return Real(server, address, port, method, ratio, weight, connections, most)

    def _rest_of(self, block: Directive, servers: Sequence[Directive]) -> None:
        """Tell what virtual and real servers have besides."""
        for each in (block, *servers):
            for directive in each.block:
                if directive.keyword in _SERVER:
                    self._tell(directive, _SERVER)
                elif directive.keyword in _TIMING and directive.words[0].state is State.UNREAD:
                    self.report.ignored(directive, "no check takes it from here")

    # -----------------------------------------------------------------------------------------------------------------
    # Checks

    def _checks(self, server: Directive, block: Directive, real: Real, virtual: Virtual) -> Iterator[_Check]:
        for checker in server.block:
            make = _CHECKERS.get(checker.keyword)
            if make is None:
                continue
            checker.argument()
            made = list(make(self, checker, (checker, server, block), real))
            port = self._monitor_port(checker, real, virtual)
            for kind, settings, node in made:
                if kind != "ping" and port is None:
                    self.report.lost(node, "the virtual server has every port, and the check none of its own", "")
                    continue
                if kind != "ping" and port:
                    settings["monitor_port"] = port
                yield _Check(node, kind, settings, *self._timing(checker, (checker, server, block)))
            for directive in checker.block:
                self._told(directive)
                for inner in directive.block:
                    self._told(inner)

    def _told(self, directive: Directive) -> None:
        if directive.keyword in _CHECK:
            self._tell(directive, _CHECK)

    def _tell(self, directive: Directive, what: Mapping[str, tuple[Grade, str, str]]) -> None:
        if [word.lower() for word in directive.arguments] in (["off"], ["false"], ["no"]):
            self.report.ignored(directive, "it is off")
        else:
            self.report.tell(what[directive.keyword][0], directive, *what[directive.keyword][1:])

    def _monitor_port(self, checker: Directive, real: Real, virtual: Virtual) -> int | None:
        """The port to ask; 0: that of the virtual service; None: there is none."""
        directive = self.take([checker, *checker.each("host")], "connect_port")
        port = self.port(directive, 0) if directive is not None else None
        every = any(0 in ports for _, ports in virtual.listens)
        if every:
            return port or real.port or None
        return port if port and port != real.port else 0

    def _timing(self, checker: Directive, blocks: Sequence[Directive]) -> tuple[dict[str, Value], str]:
        """The times of a monitor, and how a failure is told later than in keepalived; empty: it was said already."""
        loop = self.take(blocks, "delay_loop")
        wanted = self.seconds(loop, _INTERVAL_S)
        interval = min(max(wanted, 0.1), 3600.0)
        if interval != wanted and loop is not None:
            self.report.about(Grade.CHANGED, loop, f"send_interval is 0.1 to 3600 s: {interval:g} s")
        if checker.keyword == "MISC_CHECK":
            limit = self.take([checker], "misc_timeout")
            timeout = self.seconds(limit, interval)
        else:
            limit = self.take(blocks, "connect_timeout")
            timeout = self.seconds(limit, _TIMEOUT_S)
        if timeout >= interval or not 0.05 <= timeout <= 2400:
            timeout = min(max(timeout, 0.05), 2400.0, round(0.8 * interval, 2))
            self.report.about(
                Grade.CHANGED,
                limit or checker,
                f"a check has to end before the next one begins, in 0.05 to 2400 s: receive_timeout is {timeout:g} s",
            )
        retry = self.take(blocks, "retry", "nb_get_retry")
        retries = self.number(retry, _RETRIES.get(checker.keyword, 1))
        if retries > 49 and retry is not None:
            self.report.changed(retry, "failed_checks is 50 at most")
        delay = self.take(blocks, "delay_before_retry")
        usual = interval if checker.keyword == "DNS_CHECK" else _DELAYS_S.get(checker.keyword, 1)
        later = ""
        if delay is not None:
            self.report.changed(
                delay, f"checks that failed are repeated after send_interval, {interval:g} s, as all are"
            )
        elif retries and usual < interval:
            later = f"checks that failed are repeated after send_interval, {interval:g} s, and not after {usual:g} s"
        times: dict[str, Value] = {
            "send_interval": _plain(interval),
            "receive_timeout": _plain(timeout),
            "successful_checks": 1,
            "failed_checks": min(retries + 1, 50),
        }
        return times, later

    def _monitors(self, virtual: Virtual, checks: Sequence[tuple[Real, list[_Check]]]) -> list[str]:
        """The monitors of a pool: those that all checked members have."""
        checked = [(real, found) for real, found in checks if found]
        names: list[str] = []
        shared = [
            check
            for check in (checked[0][1] if checked else ())
            if all(any(_same(check, other) for other in found) for _, found in checked)
        ]
        for check in shared:
            known = len(self.draft.monitors)
            comment = f"From {check.node.place}: {check.node.text}"
            name = self.draft.monitor(check.kind, {"type": check.kind, **check.settings, **check.timing}, comment)
            if check.later and len(self.draft.monitors) > known:
                self.report.about(Grade.CHANGED, check.node, f"{check.later} (health monitor {name})")
            if name not in names:
                names.append(name)
        for real, found in checks:
            if checked and not found:
                self.report.about(
                    Grade.CHANGED, real.node, "it has no check of its own, and now has those of the others", ""
                )
            for check in found:
                first = next((other for other in shared if _same(check, other)), None)
                if first is None:
                    what = _summary({"type": check.kind, **check.settings, **check.timing})
                    self.report.lost(
                        check.node,
                        f"not all real servers have this check ({what}), and monitors ask all members of a pool",
                        "give them the same checks, or pools of their own",
                    )
                elif first.timing != check.timing:
                    self.report.about(
                        Grade.CHANGED,
                        check.node,
                        f"the times are those of {first.node.place}, not {_summary(check.timing)}",
                    )
        return names

    # Each gives the kind of monitor, its settings, and what they were made of.

    def tcp(self, checker: Directive, _blocks: Sequence[Directive], _real: Real) -> Iterator["_Made"]:
        yield "tcp", {}, checker

    def ping(self, checker: Directive, _blocks: Sequence[Directive], _real: Real) -> Iterator["_Made"]:
        yield "ping", {}, checker

    def http(self, checker: Directive, blocks: Sequence[Directive], _real: Real) -> Iterator["_Made"]:
        secure = checker.keyword == "SSL_GET"
        urls = checker.each("url")
        if not urls:
            self.report.lost(checker, "it has no url", "write one")
        for url in urls:
            url.argument()
            settings: dict[str, Value] = {}
            self._text(url, "path", kinds.http_path, settings, "path")
            host = self.take([url, *blocks], "virtualhost")
            if host is not None:
                self._put(host, kinds.host, host.argument() or "", settings, "host")
            codes = self.take([url], "status_code")
            if codes is not None:
                self._codes(codes, settings)
            self._regex(url, settings)
            if secure:
                self._tls(checker, settings)
            yield "https" if secure else "http", settings, url

    def _codes(self, directive: Directive, settings: dict[str, Value]) -> None:
        found: list[Value] = []
        for i, word in enumerate(directive.arguments):
            code: Value = int(word) if re.fullmatch(r"[0-9]{3}", word) else word
            if _invalid(kinds.http_codes, code) is not None:
                self.bad(directive, f"`{word}` is not a status code", "use 200, or 200-299")
            directive.argument(i)
            found.append(code)
        if found:
            settings["response_codes"] = found

    def _regex(self, url: Directive, settings: dict[str, Value]) -> None:
        regex = self.take([url], "regex")
        if regex is None:
            return
        text = " ".join(regex.arguments)
        if text and not re.search(r"[\\^$.|?*+()\[\]{}]", text) and not url.each("regex_no_match"):
            regex.all()
            settings["response"] = text
        else:
            self.report.lost(regex, "what an answer must have is a text, no pattern", "write a text as response")

    def _tls(self, checker: Directive, settings: dict[str, Value]) -> None:
        settings["tls_verify"] = False  # as in keepalived, which looks at no certificate
        name = self.take([checker], "sni_name")
        if name is not None:
            self._put(name, kinds.server_name, name.argument() or "", settings, "server_name")
        sni = self.take([checker], "enable_sni")
        if sni is not None:
            self.report.ignored(sni, "the host's name is sent anyway")

    def smtp(self, checker: Directive, _blocks: Sequence[Directive], _real: Real) -> Iterator["_Made"]:
        self.report.changed(checker.words[0], "it waits for the greeting (220) and says no more than QUIT")
        for host in checker.each("host"):
            host.argument()
        yield "tcp", {"request": "QUIT\r\n", "response": "220"}, checker

    def dns(self, checker: Directive, _blocks: Sequence[Directive], _real: Real) -> Iterator["_Made"]:
        settings: dict[str, Value] = {"query_name": ".", "record_type": "SOA"}
        self._text(checker, "name", kinds.dns_name, settings, "query_name")
        kind = self.take([checker], "type")
        if kind is not None:
            self._put(kind, kinds.record_type, (kind.argument() or "").upper(), settings, "record_type")
        yield "dns", settings, checker

    def udp(self, checker: Directive, _blocks: Sequence[Directive], _real: Real) -> Iterator["_Made"]:
        settings: dict[str, Value] = {}
        payload = self.take([checker], "payload")
        if payload is not None:
            text = _text_of_hex("".join(payload.arguments))
            if text:
                payload.all()
                settings["request"] = text
            else:
                self.report.lost(payload, "what is sent has to be text", "write a request")
        else:
            self.report.about(Grade.CHANGED, checker, "an empty datagram is sent, and not one of random bytes")
        reply = self.take([checker], "require_reply")
        if reply is not None:
            text = _text_of_hex("".join(reply.arguments))
            if text:
                self.report.changed(reply, "the text may stand anywhere in the answer")
                settings["response"] = text
            else:
                self.report.lost(reply, "what an answer must have has to be text", "write a response")
        yield "udp", settings, checker

    def misc(self, checker: Directive, _blocks: Sequence[Directive], real: Real) -> Iterator["_Made"]:
        path = self.take([checker], "misc_path")
        if path is None:
            self.report.lost(checker, "it has no misc_path", "write one")
            return
        try:
            words = shlex.split(" ".join(path.all()))
        except ValueError:
            words = []
        if _invalid(kinds.command, words) is not None:
            self.report.lost(checker, f"`{path.text}` is not the absolute path of a program", "write a command")
            return
        told = {str(real.address): "$IP", str(real.port or ""): "$PORT"}
        if any(word in told for word in words[1:] if word):
            inner = " ".join(f'"{told[word]}"' if word and word in told else shlex.quote(word) for word in words)
            words = ["/bin/sh", "-c", f"exec {inner}"]
            self.report.changed(
                path, "one command is for all members, and is told the address and port in IP and PORT", ""
            )
        yield "external", {"command": list(words)}, checker

    def no_check(self, checker: Directive, _blocks: Sequence[Directive], _real: Real) -> Iterator["_Made"]:
        if checker.keyword == "BFD_CHECK":
            self.report.lost(checker, "BFD is spoken with routers, not with members", "use a monitor of type ping")
        else:
            self.report.lost(checker, "files do not decide about members", "use a monitor of type external")
        yield from ()

    def _text(
        self, block: Directive, keyword: str, parse: Callable[[object], _T], settings: dict[str, Value], key: str
    ) -> None:
        directive = self.take([block], keyword)
        if directive is not None:
            self._put(directive, parse, directive.argument() or "", settings, key)

    def _put(
        self, directive: Directive, parse: Callable[[object], _T], word: str, settings: dict[str, Value], key: str
    ) -> None:
        """Set a key, or tell why its value cannot be."""
        error = _invalid(parse, word)
        if error is None:
            settings[key] = word
        else:
            self.report.lost(directive, error.message, error.remedy)


_Made = tuple[str, dict[str, Value], Node]
_CHECKERS: dict[str, Callable[[_Reader, Directive, Sequence[Directive], Real], Iterator[_Made]]] = {
    "TCP_CHECK": _Reader.tcp,
    "HTTP_GET": _Reader.http,
    "SSL_GET": _Reader.http,
    "SMTP_CHECK": _Reader.smtp,
    "DNS_CHECK": _Reader.dns,
    "UDP_CHECK": _Reader.udp,
    "MISC_CHECK": _Reader.misc,
    "PING_CHECK": _Reader.ping,
    "BFD_CHECK": _Reader.no_check,
    "FILE_CHECK": _Reader.no_check,
}


def _walk(root: Directive) -> Iterator[Directive]:
    waiting = [root]
    while waiting:
        directive = waiting.pop()
        yield directive
        waiting += directive.block


def _name(block: Directive) -> str:
    """What a virtual server is called: its group, or its address and port."""
    words = block.arguments
    if words[:1] == ["group"]:
        return words[1] if len(words) > 1 else "group"
    port = words[1] if len(words) > 1 and words[1].strip("0") else "all"
    return f"{words[0]}-{port}"


def _ends(text: str) -> tuple[IPAddress, IPAddress]:
    """The first and the last address of a range. Raises ValueError: it is none."""
    if "/" in text:
        network = ip_network(text, strict=False)
        return network[0], network[-1]
    first, dash, last = text.partition("-")
    start = ip_address(first)
    if not dash:
        return start, start
    if re.fullmatch(r"[0-9]{1,3}", last) and isinstance(start, IPv4Address):
        return start, ip_address(f"{first.rpartition('.')[0]}.{int(last)}")
    if re.fullmatch(r"[0-9A-Fa-f]{1,4}", last) and isinstance(start, IPv6Address):
        return start, IPv6Address(int(start) >> 16 << 16 | int(last, 16))
    return start, ip_address(last)


def _invalid(parse: Callable[[object], _T], value: object) -> BadValueError | None:
    try:
        parse(value)
    except BadValueError as error:
        return error
    return None


def _plain(number: float) -> Value:
    return int(number) if number == int(number) else number


def _same(a: _Check, b: _Check) -> bool:
    return a.kind == b.kind and a.settings == b.settings


def _summary(settings: Mapping[str, Value]) -> str:
    return ", ".join(f"{key} {value_text(value)}" for key, value in settings.items())


def _text_of_hex(digits: str) -> str | None:
    """The text of bytes in hexadecimal digits; None: it is no text."""
    if len(digits) % 2 or not re.fullmatch(r"[0-9A-Fa-f]+", digits):
        return None
    try:
        return bytes.fromhex(digits).decode()
    except UnicodeDecodeError:
        return None
