"""Health monitors: which keys belong to which kind, how their values are read, and what a check is told. Pure.

A new kind is a member of `Kind`, its keys in KEYS, and its settings in `settings_of`.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from appliance.config.problems import BadValueError, did_you_mean, shown
from appliance.config.values import choice, integer
from appliance.model import Vantage
from health.secure import Tls

if TYPE_CHECKING:
    from appliance.config.schema import MonitorTable


class Kind(StrEnum):
    """Kinds of health check that can be configured."""

    TCP = "tcp"
    UDP = "udp"
    PING = "ping"
    HTTP = "http"
    HTTPS = "https"
    DNS = "dns"
    TLS = "tls"
    GRPC = "grpc"
    EXTERNAL = "external"


kind = choice(
    "a type of health monitor",
    {kind.value: kind for kind in Kind} | {"icmp": Kind.PING},
    not_yet=(
        "sip", "radius", "sctp", "gslb", "smtp", "smtps", "pop3", "pop3s", "imap", "imaps", "ftp", "ftps", "ldap",
        "ldaps",
    ),
    prefixes=("health_monitor_",),
)  # fmt: skip


vantage = choice("a way to ask", {kind.value: kind for kind in Vantage})


class Transport(StrEnum):
    UDP = "udp"
    TCP = "tcp"


transport = choice("a transport", {kind.value: kind for kind in Transport})


class Wanted(StrEnum):
    """What a DNS answer must have, in the seed system's words."""

    QUERY_TYPE = "query_type"
    ANY_TYPE = "any_type"
    ANY_THING = "any_thing"


wanted = choice("what an answer must have", {kind.value: kind for kind in Wanted}, prefixes=("dns_",))

_HTTP = (Kind.HTTP, Kind.HTTPS)
_SECURE = (Kind.HTTPS, Kind.TLS, Kind.GRPC)

KEYS: Mapping[str, tuple[Kind, ...]] = {
    "vantage": tuple(kind for kind in Kind if kind is not Kind.EXTERNAL),
    "monitor_port": tuple(kind for kind in Kind if kind is not Kind.PING),
    "request": (Kind.TCP, Kind.UDP),
    "response": (Kind.TCP, Kind.UDP, *_HTTP, Kind.DNS, Kind.EXTERNAL),
    "maintenance_response": (Kind.TCP, Kind.UDP, *_HTTP, Kind.EXTERNAL),
    "half_open": (Kind.TCP,),
    "method": _HTTP,
    "path": _HTTP,
    "host": _HTTP,
    "response_codes": _HTTP,
    "response_size": _HTTP,
    "maintenance_codes": _HTTP,
    "tls": (Kind.GRPC,),
    "tls_verify": _SECURE,
    "ca_file": _SECURE,
    "server_name": _SECURE,
    "cert_file": _SECURE,
    "key_file": _SECURE,
    "expiry_warning_days": (Kind.TLS,),
    "service": (Kind.GRPC,),
    "query_name": (Kind.DNS,),
    "record_type": (Kind.DNS,),
    "transport": (Kind.DNS,),
    "rcode": (Kind.DNS,),
    "qtype": (Kind.DNS,),
    "command": (Kind.EXTERNAL,),
    "environment": (Kind.EXTERNAL,),
    "exit_status": (Kind.EXTERNAL,),
}
"""Keys that not every kind has, and which do."""

REQUIRED: Mapping[Kind, tuple[str, str]] = {
    Kind.DNS: ("query_name", 'query_name = "www.example.com"'),
    Kind.EXTERNAL: ("command", 'command = ["/usr/local/lib/onward/check-web"]'),
}
"""Keys that a kind cannot do without, and how they are written."""

WINDOWS: Mapping[Kind, int] = {Kind.TCP: 2048, Kind.UDP: 2048, Kind.EXTERNAL: 16384}
"""Bytes of an answer in which words are looked for, as `health.checks` has them."""

RESPONSE_SIZES = 2048, 16384
"""The same of bodies, where the configuration says how many: the least, which is the default, and the most."""

DATAGRAM_BYTES = 1200
"""Of a question by UDP: with all headers it fits into every link that carries IPv6."""

TLS_KEYS = ("tls_verify", "ca_file", "server_name", "cert_file", "key_file")

RECORD_TYPES = (
    "A", "AAAA", "CAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX", "NAPTR", "NS", "PTR", "SOA", "SRV", "SVCB", "TLSA",
    "TXT",
)  # fmt: skip

ANY = "ANY"
RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "NOTAUTH", ANY)


def mnemonic(what: str, known: tuple[str, ...]) -> Callable[[object], str]:
    """A parser for one of DNS's words, which are read in upper or lower case."""

    def parse(value: object) -> str:
        usable = "use " + ", ".join(f'"{word}"' for word in known[:-1]) + f' or "{known[-1]}"'
        if not isinstance(value, str):
            raise BadValueError(f"{shown(value)} is not {what}", usable)
        if value.upper() not in known:
            raise BadValueError(f"{shown(value)} is not {what}", did_you_mean(value, map(str.lower, known)) + usable)
        return value.upper()

    return parse


response_size = integer(*RESPONSE_SIZES, "a number of bytes")
record_type = mnemonic("a type of DNS record", RECORD_TYPES)
rcode = mnemonic("a DNS rcode", RCODES)


def dns_name(value: object) -> str:
    """A name of DNS in ASCII: labels of 1 to 63 bytes, 253 in all; a dot at the end changes nothing."""
    remedy = 'use a name such as "www.example.com"; one with other letters in its xn-- form'
    if not isinstance(value, str) or not re.fullmatch(r"(?:[A-Za-z0-9_*-]{1,63}\.)*[A-Za-z0-9_*-]{1,63}\.?|\.", value):
        raise BadValueError(f"{shown(value)} is not a DNS name", remedy)
    if len(value) > 253:
        raise BadValueError(f"{shown(value)} has more than 253 characters", remedy)
    return value


def method(value: object) -> str:
    if not isinstance(value, str) or value not in ("GET", "HEAD", "OPTIONS"):
        raise BadValueError(
            f"{shown(value)} is not a method for a health check", 'use "GET", "HEAD" or "OPTIONS": they change nothing'
        )
    return value


def http_path(value: object) -> str:
    """Path and query as they stand in the request."""
    if not isinstance(value, str) or not re.fullmatch(r"/[!-~]*", value) or "#" in value or '"' in value:
        raise BadValueError(
            f"{shown(value)} is not a path",
            'use one that begins with "/", without blanks and "#", other characters percent-encoded',
        )
    return value


def host(value: object) -> str:
    """What stands in a Host header: a name or an address, and perhaps a port."""
    name = r"(?=[^:]{1,253}(?::|$))(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?"
    if not isinstance(value, str) or not re.fullmatch(rf"(?:{name}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?", value):
        raise BadValueError(f"{shown(value)} is not a host", 'use one such as "www.example.com" or "192.0.2.7:8080"')
    return value


def server_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*", value
    ):
        raise BadValueError(f"{shown(value)} is not the name of a server", 'use one such as "www.example.com"')
    return value


def http_codes(value: object) -> tuple[int, int]:
    """404, "2xx", "200-204" or "any"."""
    remedy = 'use a code such as 200, a class such as "2xx", a range such as "200-204", or "any"'
    found: tuple[int, int] | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = value, value
    elif isinstance(value, str):
        if value.lower() == "any":
            found = 100, 599
        elif match := re.fullmatch(r"([1-5])[xX]{2}", value):
            found = int(match[1]) * 100, int(match[1]) * 100 + 99
        elif match := re.fullmatch(r"([0-9]{3})\s*-\s*([0-9]{3})", value):
            found = int(match[1]), int(match[2])
    if found is None or not 100 <= found[0] <= found[1] <= 599:
        raise BadValueError(f"{shown(value)} is not a status code of HTTP", remedy)
    return found


def absolute_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise BadValueError(f"{shown(value)} is not an absolute path", 'use a string such as "/etc/onward/ca.pem"')
    return value


def service_name(value: object) -> str:
    if not isinstance(value, str) or not value or len(value.encode()) > 127:
        raise BadValueError(
            f"{shown(value)} is not the name of a gRPC service",
            'use 1 to 127 bytes such as "shop.Cart", or leave it out: then the server as a whole is asked about',
        )
    return value


def command(value: object) -> tuple[str, ...]:
    """A program and its arguments."""
    example = 'write it as a list: ["/usr/local/lib/onward/check-web", "--fast"]'
    if not isinstance(value, list):
        raise BadValueError(f"{shown(value)} is not a command", example)
    if not value:
        raise BadValueError("a command without a program", example)
    for word in value:
        if not isinstance(word, str):
            raise BadValueError(f"{shown(word)} is not a string, as all words of a command are", "put it in quotes")
    if any("\0" in word for word in value):
        raise BadValueError("a NUL character in a command", "leave it out")
    if not value[0].startswith("/"):
        raise BadValueError(
            f"{shown(value[0])} is not the absolute path of a program", f"no PATH is searched; {example}"
        )
    return tuple(value)


OWN_VARIABLES = ("IP", "PORT", "MEMBER")
"""What commands are told of whom to ask."""


def environment(value: object) -> tuple[tuple[str, str], ...]:
    """Names and values for a command."""
    if not isinstance(value, dict):
        raise BadValueError(f"{shown(value)} is not a table", 'write { NAME = "value" }')
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise BadValueError(f"{shown(name)} is not the name of a variable", "use letters, digits and `_`")
        if name in OWN_VARIABLES:
            raise BadValueError(f"{name} is set for every command: it says whom to ask", "choose another name")
        if not isinstance(text, str) or "\0" in text:
            raise BadValueError(f"{name} is {shown(text)}, not a string", "put it in quotes")
    return tuple(sorted(value.items()))


# ---------------------------------------------------------------------------------------------------------------------
# What a check is told

Settings = tuple[tuple[str, object], ...]


def settings_of(table: "MonitorTable") -> Settings:
    """The settings of the kind, by the names that `health.checks` knows; what is not given has the check's default."""
    values: dict[str, object] = {
        "request": _bytes(table.request),
        "response": _bytes(table.response),
        "maintenance_response": _bytes(table.maintenance_response),
        "half_open": table.half_open or None,
        "method": table.method,
        "path": table.path,
        "host": table.host,
        "codes": _codes(table.response_codes),
        "response_size": table.response_size,
        "maintenance_codes": _codes(table.maintenance_codes),
        "tls": tls_of(table),
        "expiry_warning_days": table.expiry_warning_days,
        "service": table.service,
        "query_name": table.query_name,
        "record_type": table.record_type,
        "transport": table.transport and table.transport.value,
        "rcode": table.rcode,
        "qtype": table.qtype and table.qtype.value,
        "command": table.command,
        "environment": table.environment,
        "exit_status": table.exit_status,
    }
    return tuple((key, value) for key, value in values.items() if value is not None)


def tls_of(table: "MonitorTable") -> Tls | None:
    """How a monitor asks within TLS; None: it does not."""
    if table.type not in _SECURE or (table.type is Kind.GRPC and not table.tls):
        return None
    # Whoever asks for a host by name wants its certificate, too.
    named = table.host and re.fullmatch(r"([A-Za-z0-9._-]*[A-Za-z_-][A-Za-z0-9._-]*?)\.?(?::[0-9]+)?", table.host)
    return Tls(
        verify=table.tls_verify,
        ca_file=table.ca_file,
        server_name=table.server_name or (named[1] if named else None),
        cert_file=table.cert_file,
        key_file=table.key_file,
    )


def _bytes(text: str | None) -> bytes | None:
    return text.encode() if text is not None else None


def _codes(codes: list[tuple[int, int]] | None) -> tuple[tuple[int, int], ...] | None:
    return tuple(codes) if codes is not None else None
