"""What `ipvsadm -Sn` prints: the commands that make the tables of IPVS anew. Pure.

Options are those of ipvsadm(8), 1.31, in their short and long forms.
"""

import re
from collections.abc import Mapping

from appliance.config import values
from appliance.config.problems import BadValueError, ConfigError, Problem, shown
from appliance.importers.base import Grade, Imported, Node, Report, Site, Source, broken, frame, no_bgp
from appliance.importers.document import Draft
from appliance.importers.lvs import IDLE_LIMITS_S, Method, Real, Virtual, add, lost_real
from appliance.model import IPAddress
from appliance.packet.encap import GUE_PORT

_SHORT: Mapping[str, str] = {
    "--add-service": "-A", "--edit-service": "-E", "--delete-service": "-D", "--clear": "-C", "--restore": "-R",
    "--save": "-S", "--add-server": "-a", "--edit-server": "-e", "--delete-server": "-d", "--list": "-L",
    "--zero": "-Z", "--tcp-service": "-t", "--udp-service": "-u", "--sctp-service": "--sctp-service",
    "--fwmark-service": "-f", "--scheduler": "-s", "--persistent": "-p", "--netmask": "-M", "--real-server": "-r",
    "--gatewaying": "-g", "--ipip": "-i", "--masquerading": "-m", "--weight": "-w", "--u-threshold": "-x",
    "--l-threshold": "-y", "--sched-flags": "-b", "--ops": "-o", "--ipv6": "-6", "--numeric": "-n",
    "--pe": "--pe", "--tun-type": "--tun-type", "--tun-port": "--tun-port", "--tun-nocsum": "--tun-nocsum",
    "--tun-csum": "--tun-csum", "--tun-remcsum": "--tun-remcsum", "--set": "--set",
}  # fmt: skip

_COMMANDS = frozenset({"-A", "-E", "-D", "-C", "-R", "-S", "-a", "-e", "-d", "-L", "-Z", "--set"})
_TAKES_WORD = frozenset(
    {"-t", "-u", "-f", "--sctp-service", "-s", "-M", "-r", "-w", "-x", "-y", "-b", "--pe", "--tun-type", "--tun-port"}
)
_SERVICES = ("-t", "-u", "-f", "--sctp-service")
_NOT_BALANCED: Mapping[str, tuple[str, str]] = {
    "-f": (
        "marks of the firewall choose no members: packets are taken before there is a mark",
        "write a [[virtual_service]] with VIPs and ports",
    ),
    "--sctp-service": ("only TCP and UDP are balanced", ""),
}
_METHODS = {"-g": Method.ROUTE, "-i": Method.IPIP, "-m": Method.NAT}

_TOLD: Mapping[str, tuple[Grade, str, str]] = {
    "-M": (Grade.LOST, "clients are told apart by their whole addresses", ""),
    "--pe": (Grade.LOST, "nothing above TCP and UDP is looked at", ""),
    "-y": (Grade.LOST, "a member takes flows again as soon as it has fewer than max_connections", ""),
    "-n": (Grade.IGNORED, "addresses are numbers here anyway", ""),
    "-6": (Grade.IGNORED, "the family is that of the addresses", ""),
    "--tun-nocsum": (Grade.IGNORED, "tunnels have no checksum of their own", ""),
    "--tun-csum": (Grade.LOST, "tunnels have no checksum of their own", ""),
    "--tun-remcsum": (Grade.LOST, "tunnels have no checksum of their own", ""),
}
"""Options that are no more than told."""


class _Option(Node):
    """An option and its word."""

    __slots__ = ("name", "word")

    def __init__(self, place: str, name: str, words: list[str], word: str | None) -> None:
        super().__init__(place, " ".join(words))
        self.name = name
        self.word = word
        self.parts = [Node(place, each) for each in words] if len(words) > 1 else []


class _Command(Node):
    """One line."""

    __slots__ = ("number", "options")

    def __init__(self, place: str, number: int, text: str) -> None:
        super().__init__(place, text if len(text) <= 60 else f"{text[:59]}…")
        self.number = number
        self.options: list[_Option] = []

    def get(self, *names: str) -> _Option | None:
        return next((option for option in self.options if option.name in names), None)


def read(source: Source, site: Site) -> Imported:
    """Import the output of `ipvsadm -Sn`.

    Raises:
        ConfigError: a line is no command of it, or names what is not there.
    """
    return _Reader(source, site).imported()


class _Reader:
    def __init__(self, source: Source, site: Site) -> None:
        self.source, self.site = source, site
        self.root = Node(source.name, source.name)
        self.report = Report(self.root)
        self.problems: list[Problem] = []
        self.services: dict[tuple[str, str], Virtual] = {}
        self.lost: dict[tuple[str, str], tuple[str, str]] = {}
        """By kind and address; with reason and remedy where they are not imported, and what belongs to them neither."""

        self.timeouts: dict[str, int] = {}

    def imported(self) -> Imported:
        for number, line in enumerate(self.source.text.split("\n"), 1):
            text = line.strip()
            if text and not text.startswith("#"):
                command = self._parsed(number, text)
                self.root.parts.append(command)
                if not self.problems or self.problems[-1].line != number:
                    self._command(command)
        if not self.root.parts:
            raise broken(self.source.name, None, "", "there is no command in it", "give the output of `ipvsadm -Sn`")
        if self.problems:
            raise ConfigError(self.problems)
        draft = Draft()
        for virtual in self.services.values():
            virtual.idle_timeout_s = self.timeouts.get(virtual.protocol)
            add(draft, self.report, virtual)
        if not draft.services:
            self.report.note(Grade.TODO, self.source.name, "there is no virtual service that could be imported", "")
        else:
            self.report.note(
                Grade.TODO,
                self.source.name,
                "IPVS knows no health checks, so members count as up",
                "write a [[health_monitor]] and name it in health_monitors of the pools",
            )
        director, fleet = frame(self.source, self.site, self.report)
        no_bgp(self.source, self.report)
        findings = self.report.close(
            "it is not known here, and nothing was made of it", "see ipvsadm(8) for what it does"
        )
        return Imported(draft.tables(director, fleet), findings, self.root)

    def bad(self, command: _Command, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.source.name, command.number, "", message, remedy))

    # -----------------------------------------------------------------------------------------------------------------
    # Words

    def _parsed(self, number: int, text: str) -> _Command:
        place = f"{self.source.name}:{number}"
        command = _Command(place, number, text)
        words = [part for word in text.split() for part in _apart(word)]
        if words[:1] == ["ipvsadm"] or words[0].endswith("/ipvsadm"):
            program = Node(place, words.pop(0))
            program.use()
            command.parts.append(program)
        if not words or _SHORT.get(words[0], words[0]) not in _COMMANDS:
            self.bad(command, f"{shown(text)} is no command of ipvsadm", "give the output of `ipvsadm -Sn`")
            return command
        while words:
            written = words.pop(0)
            name = _SHORT.get(written, written)
            taken = [written]
            if name == "--set":
                taken, words = [written, *words[:3]], words[3:]
            elif name in _TAKES_WORD:
                if not words:
                    self.bad(command, f"{written} without a word behind it", "complete the line")
                    return command
                taken.append(words.pop(0))
            elif name == "-p" and words and not words[0].startswith("-"):
                taken.append(words.pop(0))
            option = _Option(place, name, taken, taken[1] if len(taken) > 1 else None)
            command.options.append(option)
            command.parts.append(option)
        return command

    def _number(self, command: _Command, option: _Option | None, otherwise: int, most: int) -> int:
        if option is None:
            return otherwise
        option.use()
        if not re.fullmatch(r"[0-9]{1,10}", option.word or "") or int(option.word or "") > most:
            self.bad(command, f"{option.name} {shown(option.word)} is not a number from 0 to {most}", "correct it")
            return otherwise
        return int(option.word or "")

    def _endpoint(self, option: _Option) -> tuple[IPAddress, int]:
        """`192.0.2.1:80` or `[2001:db8::1]:80`; a port that is left out is 0. Raises BadValueError: it is neither."""
        word = option.word or ""
        match = re.fullmatch(r"\[([^\]]*)\](?::([0-9]{1,5}))?|([^:]*)(?::([0-9]{1,5}))?", word)
        if match is None or int(match[2] or match[4] or 0) > 65535:
            raise BadValueError(
                f"{shown(word)} is not an address and a port in numbers",
                "use the output of `ipvsadm -Sn`: n is for numbers",
            )
        try:
            address = values.unicast_address(match[1] or match[3] or "")
        except BadValueError as error:
            remedy = f"{error.remedy}; names need `ipvsadm -Sn`: n is for numbers"
            raise BadValueError(error.message, remedy) from None
        return address, int(match[2] or match[4] or 0)

    # -----------------------------------------------------------------------------------------------------------------
    # Commands

    def _command(self, command: _Command) -> None:
        kind = command.options[0].name
        if kind == "-A":
            self._add_service(command)
        elif kind == "-a":
            self._add_server(command)
        elif kind == "--set":
            self._set(command)
        elif kind == "-C":
            self.report.ignored(command, "there are no tables of an earlier process")
        else:
            self.report.lost(command, "only -A and -a are read", "import the output of `ipvsadm -Sn`")

    def _set(self, command: _Command) -> None:
        option = command.options[0]
        numbers = [leaf.text for leaf in option.parts[1:]]
        if len(numbers) != 3 or not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
            self.bad(command, "--set takes three numbers", "write the times-out of TCP, of TCP after a FIN, and of UDP")
            return
        option.parts[0].use()
        for protocol, i in (("tcp", 1), ("udp", 3)):
            first, last = IDLE_LIMITS_S[protocol]
            seconds = int(numbers[i - 1])
            if seconds == 0:  # ipvsadm(8): the current value is kept
                self.report.ignored(option.parts[i], "0 changes nothing")
                continue
            self.timeouts[protocol] = min(max(seconds, first), last)
            option.parts[i].use()
            if self.timeouts[protocol] != seconds:
                self.report.changed(option.parts[i], f"{protocol} takes {first} to {last} seconds")
        self.report.lost(option.parts[2], "how long a flow that was closed is remembered is not set")

    def _service_of(self, command: _Command) -> _Option | None:
        command.options[0].use()
        found = [option for option in command.options if option.name in _SERVICES]
        if len(found) != 1:
            self.bad(command, "there is not one virtual service in it", "write one of -t, -u and -f")
            return None
        return found[0]

    def _add_service(self, command: _Command) -> None:
        option = self._service_of(command)
        if option is None:
            return
        key = option.name, option.word or ""
        if key in self.services or key in self.lost:
            self.bad(command, f"the virtual service {shown(option.word)} is there already", "leave one out")
            return
        if (reason := _NOT_BALANCED.get(option.name)) is not None:
            self.lost[key] = reason
            self.report.lost(command, *reason)
            return
        try:
            vip, port = self._endpoint(option)
        except BadValueError as error:
            if re.search(r"[g-zG-Z]", option.word or ""):  # with names, nothing of the input is of use
                self.bad(command, error.message, error.remedy)
            self.lost[key] = error.message, error.remedy
            self.report.lost(command, error.message, error.remedy)
            return
        option.use()
        protocol = "tcp" if option.name == "-t" else "udp"
        scheduler = command.get("-s")
        if scheduler is not None:
            scheduler.use()
        virtual = Virtual(
            node=command,
            name=f"{vip}-{port or 'all'}",
            where=f"{command.place}: {command.text}",
            listens=[([vip], [port])],
            protocol=protocol,
            scheduler=(scheduler.word or "") if scheduler is not None else "wlc",
            scheduler_node=scheduler,
            persistent=command.get("-p"),
            per_packet=command.get("-o"),
        )
        flags = command.get("-b")
        if flags is not None:
            flags.parts[0].use()
            virtual.flags = [(flag, flags.parts[1]) for flag in (flags.word or "").split(",")]
        self.services[key] = virtual
        self._tell(command)

    def _add_server(self, command: _Command) -> None:
        option, server = self._service_of(command), command.get("-r")
        if option is None:
            return
        if server is None:
            self.bad(command, "there is no real server in it", "write -r and its address")
            return
        key = option.name, option.word or ""
        if key in self.lost:
            self.report.lost(command, *self.lost[key])
            return
        if key not in self.services:
            self.bad(command, f"no virtual service {shown(option.word)} was added above", "add it with -A first")
            return
        virtual = self.services[key]
        option.use()
        try:
            address, port = self._endpoint(server)
        except BadValueError as error:
            lost_real(self.report, command, error)
            return
        server.use()
        weight, most = command.get("-w"), command.get("-x")
        virtual.reals.append(
            Real(
                node=command,
                address=address,
                port=port or None,
                method=self._method(command),
                weight=self._number(command, weight, 1, (1 << 31) - 1),
                weight_node=weight,
                most=self._number(command, most, 0, (1 << 32) - 1),
                most_node=most,
            )
        )
        self._tell(command)

    def _method(self, command: _Command) -> Method:
        option = command.get(*_METHODS)
        if option is not None:
            option.use()
        method = _METHODS[option.name] if option is not None else Method.ROUTE
        tunnel, port = command.get("--tun-type"), command.get("--tun-port")
        if tunnel is not None and method is Method.IPIP:
            tunnel.use()
            if tunnel.word not in ("ipip", "gre", "gue"):
                self.bad(command, f"{shown(tunnel.word)} is no tunnel", "use ipip, gre or gue")
                return method
            method = Method(tunnel.word)
        if method is Method.GUE and self._number(command, port, GUE_PORT, 65535) != GUE_PORT:
            self.report.about(
                Grade.CHANGED, port or command, f"GUE goes to port {GUE_PORT}", "have the member listen there"
            )
        return method

    def _tell(self, command: _Command) -> None:
        for option in command.options:
            if option.name in _TOLD:
                self.report.tell(_TOLD[option.name][0], option, *_TOLD[option.name][1:])


def _apart(word: str) -> list[str]:
    """`-At` as `-A -t`."""
    return [f"-{letter}" for letter in word[1:]] if re.fullmatch(r"-[A-Za-z]{2,4}", word) else [word]
