"""Single values: from what TOML gives to what the model holds. Pure.

Every function raises `BadValueError`, which says what to write instead.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import PurePosixPath
from typing import TypeVar

from appliance.config.problems import BadValueError, did_you_mean, shown
from appliance.model import (
    Algorithm,
    ApiRole,
    Decapsulator,
    DfPolicy,
    DsrType,
    Encapsulation,
    FleetStore,
    HaMode,
    HashMode,
    IPAddress,
    IPNetwork,
    OuterSource,
    PlaneKind,
    PortRange,
    ProfileType,
    Role,
    TtlPolicy,
)
from appliance.passwords import Scrypt, digest_of, scrypt_of

_E = TypeVar("_E", bound=Enum)

WILDCARD = PortRange(1, 65535)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}")
_INTERFACE = re.compile(r"[^\s/:]{1,15}")
"""What the kernel takes for a name (dev_valid_name in net/core/dev.c)."""

_RUNTIME_DIR_BYTES = 80
"""A UNIX socket's path has 107 bytes (unix(7)), and the names of our sockets come on top."""

_PASSWORD_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN of linux/tcp.h."""

_ADDRESS_EXAMPLES = '"192.0.2.10" or "2001:db8::10"'

_PREFIX_EXAMPLES = '"192.0.2.0/24" or "2001:db8::/32"'

_RESERVED_AS = {0: "RFC 7607", 23456: "AS_TRANS, RFC 6793", 65535: "RFC 7300", 4294967295: "RFC 7300"}


def name(value: object) -> str:
    """A name for people, logs and metrics. No slash: `pool/member` joins two of them."""
    if not isinstance(value, str):
        raise BadValueError(f"{shown(value)} is not a name", 'use a string such as "web"')
    if not _NAME.fullmatch(value):
        raise BadValueError(
            f"{shown(value)} is not a name",
            "use 1 to 64 letters, digits, `_`, `.`, `:` or `-`, beginning with a letter, digit or `_`",
        )
    return value


def interface(value: object) -> str:
    if not isinstance(value, str) or not _INTERFACE.fullmatch(value) or value in {".", ".."}:
        raise BadValueError(
            f"{shown(value)} is not an interface name",
            "use 1 to 15 characters without blanks, `/` and `:`, as `ip link` shows them",
        )
    if value == "lo":
        raise BadValueError(
            '"lo" is the loopback: packets for VIPs never arrive there',
            "use the interfaces that face the routers, as `ip link` shows them",
        )
    if len(value.encode()) > 15:
        raise BadValueError(f"{shown(value)} has more than 15 bytes", "use the name that `ip link` shows")
    return value


def any_address(value: object) -> IPAddress:
    """An IPv4 or IPv6 address, whatever it is for."""
    if not isinstance(value, str):
        raise BadValueError(f"{shown(value)} is not an IP address", f"use a string such as {_ADDRESS_EXAMPLES}")
    return _any_address(value)


def prefix(value: object) -> IPNetwork:
    """An IPv4 or IPv6 prefix; an address alone is one of full length."""
    if not isinstance(value, str):
        raise BadValueError(f"{shown(value)} is not a prefix", f"use a string such as {_PREFIX_EXAMPLES}")
    try:
        found = ip_network(value, strict=False)
    except ValueError:
        raise BadValueError(f"{shown(value)} is not a prefix", f"use a prefix such as {_PREFIX_EXAMPLES}") from None
    bare, slash, length = value.partition("/")
    if slash and not length.isdecimal():
        raise BadValueError(f"{shown(value)} has a mask", f'write its length: "{found}"')
    if ip_address(bare) != found.network_address:
        raise BadValueError(f"{shown(value)} goes on behind its length", f'use "{found}", or "{bare}" alone')
    return found


_MAPPED = IPv6Network("::ffff:0:0/96")


def source_prefix(value: object) -> IPNetwork:
    """A prefix of which outer headers have their sources: unicast, and with room for several."""
    found = prefix(value)
    first, last = (20, 30) if found.version == 4 else (32, 120)
    if not first <= found.prefixlen <= last:
        raise BadValueError(
            f"{found} has a length of {found.prefixlen}", f"use one of {first}..{last} that is routed to this director"
        )
    kind = _not_unicast(found.network_address) or _not_unicast(found.broadcast_address)
    if kind:
        raise BadValueError(f"{found} has {kind} address in it", "use a unicast prefix that the network can route")
    if isinstance(found, IPv6Network) and found.overlaps(_MAPPED):
        raise BadValueError(f"{found} has IPv4 addresses in IPv6 clothes in it", "use a prefix that is routed")
    return found


def unicast_address(value: object) -> IPAddress:
    """An address that packets can be sent to from elsewhere: VIPs, members, peers, next hops."""
    if not isinstance(value, str):
        raise BadValueError(f"{shown(value)} is not an IP address", f"use a string such as {_ADDRESS_EXAMPLES}")
    return _unicast_address(value)


@lru_cache(maxsize=1 << 16)  # every rule that looks at an address reads it once more
def _unicast_address(value: str) -> IPAddress:
    address = _any_address(value)
    kind = _not_unicast(address)
    if kind:
        raise BadValueError(f"{shown(value)} is {kind} address", "use a unicast address that the network can route")
    return address


def _any_address(value: str) -> IPAddress:
    bare, slash, _ = value.partition("/")
    try:
        address = ip_address(bare)
    except ValueError:
        raise BadValueError(
            f"{shown(value)} is not an IP address", f"use an address such as {_ADDRESS_EXAMPLES}"
        ) from None
    if slash:
        raise BadValueError(f"{shown(value)} has a prefix length", f'write the address alone: "{bare}"')
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise BadValueError(f"{shown(value)} has a zone", "use a global or unique local address, without `%`")
        if address.ipv4_mapped is not None:
            raise BadValueError(
                f"{shown(value)} is an IPv4 address in IPv6 clothes", f'write the IPv4 address: "{address.ipv4_mapped}"'
            )
    return address


def _not_unicast(address: IPAddress) -> str | None:
    if address.is_unspecified:
        return "the unspecified"
    if address.is_loopback:
        return "a loopback"
    if address.is_multicast:
        return "a multicast"
    if address.is_link_local:
        return "a link-local"
    if isinstance(address, IPv4Address):
        if address == IPv4Address("255.255.255.255"):
            return "the broadcast"
        if address.packed[0] == 0 or address.packed[0] >= 240:
            return "a reserved"
    return None


def ipv4_address(value: object) -> IPv4Address:
    address = unicast_address(value)
    if not isinstance(address, IPv4Address):
        raise BadValueError(f"{shown(value)} is not an IPv4 address", 'use an address such as "192.0.2.11"')
    return address


def ipv6_address(value: object) -> IPv6Address:
    address = unicast_address(value)
    if not isinstance(address, IPv6Address):
        raise BadValueError(f"{shown(value)} is not an IPv6 address", 'use an address such as "2001:db8::11"')
    return address


def integer(first: int, last: int, what: str) -> Callable[[object], int]:
    """A parser for whole numbers first..last."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValueError(f"{shown(value)} is not {what}", f"use a whole number, {first}..{last}")
        if not first <= value <= last:
            raise BadValueError(f"{shown(value)} is not {what}", f"use {first}..{last}")
        return value

    return parse


port = integer(1, 65535, "a port")


def seconds(first: float, last: float) -> Callable[[object], float]:
    """A parser for durations in seconds, whole or not."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValueError(f"{shown(value)} is not a number of seconds", f"use a number, {first:g}..{last:g}")
        if not first <= value <= last:  # false for nan, too
            raise BadValueError(f"{shown(value)} is out of range", f"use {first:g}..{last:g} seconds")
        return float(value)

    return parse


def ip_version(value: object) -> int:
    if value in (4, 6) and not isinstance(value, bool):
        return int(str(value))
    raise BadValueError(f"{shown(value)} is no version of IP", "use 4 or 6")


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValueError(f"{shown(value)} is not a boolean", "use true or false, without quotes")
    return value


def text(value: object) -> str:
    if not isinstance(value, str):
        raise BadValueError(f"{shown(value)} is not a string", "put it in quotes")
    if not value:
        raise BadValueError("the string is empty", "leave the key out")
    return value


def http_url(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s/?#]+/?", value):
        raise BadValueError(f"{shown(value)} is not the address of a node", 'use one such as "http://192.0.2.21:2379"')
    return value.rstrip("/")


def path(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValueError(f"{shown(value)} is not a file name", 'use a string such as "/etc/onward/fleet.key"')
    return value


def runtime_dir(value: object) -> PurePosixPath:
    folder = PurePosixPath(path(value))
    if not folder.is_absolute() or ".." in folder.parts:
        raise BadValueError(f"{shown(value)} is not an absolute path", 'use a folder such as "/run/onward"')
    if len(bytes(folder)) > _RUNTIME_DIR_BYTES:
        raise BadValueError(
            f"{shown(value)} has more than {_RUNTIME_DIR_BYTES} bytes", "use a shorter path: UNIX sockets live in it"
        )
    return folder


def state_dir(value: object) -> PurePosixPath:
    folder = PurePosixPath(path(value))
    if not folder.is_absolute() or ".." in folder.parts:
        raise BadValueError(f"{shown(value)} is not an absolute path", 'use a folder such as "/var/lib/onward"')
    return folder


def port_range(value: object) -> PortRange:
    """80, "8000-8099" or "*"."""
    remedy = 'use 1..65535 or "first-last"'
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadValueError(f"{shown(value)} is not a port", remedy)
    if isinstance(value, int):
        if not 1 <= value <= 65535:
            raise BadValueError(f"{shown(value)} is not a port", remedy)
        return PortRange(value, value)
    if value == "*":
        return WILDCARD
    match = re.fullmatch(r"([0-9]{1,5})\s*-\s*([0-9]{1,5})", value)
    if not match:
        if re.fullmatch(r"[0-9]{1,5}", value):
            raise BadValueError(f"{shown(value)} is a string", f"write the number without quotes: {int(value)}")
        raise BadValueError(f"{shown(value)} is not a port range", 'use 1..65535, "first-last", or "*" for every port')
    first, last = int(match[1]), int(match[2])
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        raise BadValueError(f"{shown(value)} has ports outside 1..65535", remedy)
    if first > last:
        raise BadValueError(f"{shown(value)} ends before it begins", f'write "{last}-{first}"')
    return PortRange(first, last)


def as_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 4294967295:
        raise BadValueError(f"{shown(value)} is not an AS number", "use 1..4294967294, for private use 64512..65534")
    if value in _RESERVED_AS:
        raise BadValueError(
            f"{value} is a reserved AS number ({_RESERVED_AS[value]})", "for private use take 64512..65534"
        )
    return value


def hold_time(value: object) -> int:
    """RFC 4271, section 4.2: zero, or at least three seconds."""
    if isinstance(value, bool) or not isinstance(value, int) or not (value == 0 or 3 <= value <= 65535):
        raise BadValueError(f"{shown(value)} is not a BGP hold time", "use 3..65535 seconds, or 0 for none")
    return value


def doctor_interval(value: object) -> int:
    """Not so often that it would be in the way."""
    if isinstance(value, bool) or not isinstance(value, int) or not (value == 0 or 30 <= value <= 86400):
        raise BadValueError(f"{shown(value)} is no interval of the doctor's", "use 30..86400 seconds, or 0 for never")
    return value


PASSIVE_SHARE = 0.004


def share(value: object) -> float:
    """A part of flows: enough to say something of, and all at most."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0001 <= value <= 1:
        raise BadValueError(f"{shown(value)} is no part of the flows", "use 0.0001..1")
    return float(value)


def kept_share(value: object) -> float:
    """What is left of a member's share: enough to see when it is like the others again."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.05 <= value <= 1:
        raise BadValueError(f"{shown(value)} is no part of a share", "use 0.05..1")
    return float(value)


HOLD_TIME_S = 9
BFD_INTERVAL_S, BFD_MULTIPLIER = 0.1, 3
"""What counts where nothing is written."""

bfd_interval = seconds(0.05, 10)
bfd_multiplier = integer(1, 255, "a number of intervals")


def password(value: object) -> str:
    """A TCP MD5 key (RFC 2385) that can stand in the speaker's configuration as it is."""
    if not isinstance(value, str) or not value:
        raise BadValueError("this is not a password", "use a string that is not empty, or leave the key out")
    if len(value.encode()) > _PASSWORD_BYTES:
        raise BadValueError(
            f"the password has more than {_PASSWORD_BYTES} bytes", "TCP MD5 takes no more; use a shorter one"
        )
    # The value is not repeated: messages end up in logs.
    if not re.fullmatch(r"[!-~]+", value) or set(value) & set("\"'\\;{}[]#"):
        raise BadValueError(
            "the password has characters that cannot be passed on",
            "use ASCII letters, digits and punctuation without blanks, quotes, `\\`, `;`, `#`, braces and brackets",
        )
    return value


primaries = integer(1, 64, "a number of directors")
hops = integer(1, 255, "a number of hops")

_WELL_KNOWN = ("no-export", "no-advertise", "no-export-subconfed", "blackhole")


def community(value: object) -> str:
    """RFC 1997: two numbers of 16 bits, or a well-known name."""
    parts = _parts(value)
    if isinstance(value, str) and value in _WELL_KNOWN:
        return value
    if parts is None or len(parts) != 2 or max(parts) > 0xFFFF:
        raise BadValueError(
            f"{shown(value)} is not a community",
            f'use "AS:value" such as "65010:7", both 0..65535, or one of: {", ".join(_WELL_KNOWN)}; for longer AS '
            "numbers large_communities",
        )
    return f"{parts[0]}:{parts[1]}"


def large_community(value: object) -> str:
    """RFC 8092: three numbers of 32 bits."""
    parts = _parts(value)
    if parts is None or len(parts) != 3 or max(parts) > 0xFFFFFFFF:
        raise BadValueError(
            f"{shown(value)} is not a large community", 'use "AS:value:value", each 0..4294967295: "4200000010:1:7"'
        )
    return ":".join(map(str, parts))


def _parts(value: object) -> list[int] | None:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,10}(:[0-9]{1,10})*", value):
        return None
    return [int(part) for part in value.split(":")]


def server_id(value: object) -> bytes:
    """A server ID of QUIC: 1 to 15 bytes as hexadecimal digits; colons may stand between bytes."""
    remedy = 'write two hexadecimal digits for each byte, like "0a1b2c3d"'
    if not isinstance(value, str):
        raise BadValueError(f"{shown(value)} is not a server ID", remedy)
    try:
        made = bytes.fromhex(value.replace(":", ""))
    except ValueError:
        raise BadValueError(f"{shown(value)} is not a server ID", remedy) from None
    if not 1 <= len(made) <= 15:
        raise BadValueError(f"{shown(value)} has {len(made)} bytes", "a server ID has 1 to 15 of them")
    return made


def schema_version(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValueError(f"{shown(value)} is not a schema version", "write schema_version = 1")
    if value != 1:
        raise BadValueError(f"schema version {value} is not supported", "this version reads schema_version = 1")
    return value


def choice(
    what: str, choices: Mapping[str, _E], not_yet: tuple[str, ...] = (), prefixes: tuple[str, ...] = ()
) -> Callable[[object], _E]:
    """A parser for one of several words.

    Args:
        what: what the word names, for messages.
        choices: accepted words, the first of each value being the one to recommend.
        not_yet: words of the field, or of the seed system, that this version does not implement.
        prefixes: what the seed system puts before its words; its upper case is accepted, too.

    Returns:
        The parser; its `spellings` is a pattern of all that it accepts.
    """
    recommended: dict[_E, str] = {}
    for word, meaning in choices.items():
        recommended.setdefault(meaning, word)
    usable = " or ".join(f'"{word}"' for word in recommended.values())

    def parse(value: object) -> _E:
        if not isinstance(value, str):
            raise BadValueError(f"{shown(value)} is not {what}", f"use {usable}")
        word = value.lower()
        for prefix in prefixes:
            word = word.removeprefix(prefix)
        if word in choices:
            return choices[word]
        if word in not_yet:
            raise BadValueError(f"{shown(value)} is not supported in this version", f"supported: {usable}")
        raise BadValueError(f"{shown(value)} is not {what}", f"{did_you_mean(word, choices)}use {usable}")

    before = "".join(f"({_any_case(prefix)})?" for prefix in prefixes)
    parse.spellings = f"^{before}({'|'.join(map(_any_case, choices))})$"  # type: ignore[attr-defined]
    return parse


def _any_case(word: str) -> str:
    """A pattern for a word, in upper or lower case: those of JSON Schema have no flag for it."""
    return "".join(f"[{each.upper()}{each}]" if each.isalpha() else each for each in word)


def password_hash(value: object) -> Scrypt:
    """What is kept of a password. It is not repeated: messages end up in logs."""
    remedy = "make one with `onward api hash-password`"
    if not isinstance(value, str):
        raise BadValueError("this is not the hash of a password", remedy)
    try:
        return scrypt_of(value)
    except ValueError as error:
        raise BadValueError(f"this is not the hash of a password: {error}", remedy) from None


def token_hash(value: object) -> str:
    """What is kept of a token."""
    remedy = "make a token with `onward api new-token`, and write the hash that it prints"
    if not isinstance(value, str):
        raise BadValueError("this is not the hash of a token", remedy)
    try:
        digest_of(value)
    except ValueError as error:
        raise BadValueError(f"this is not the hash of a token: {error}", remedy) from None
    return value


api_role = choice("a role", {role.value: role for role in ApiRole})

fleet_store = choice("a store", {kind.value: kind for kind in FleetStore})

decapsulator = choice("a decapsulator", {kind.value: kind for kind in Decapsulator})

role = choice("a role", {role.value: role for role in Role})

plane = choice("a data plane", {kind.value: kind for kind in PlaneKind})

profile_type = choice(
    "a type of network profile",
    {kind.value: kind for kind in ProfileType},
    not_yet=("udp_proxy", "sctp_proxy", "sctp_fast_path"),
    prefixes=("protocol_type_",),
)

dsr_type = choice("a DSR type", {"l3": DsrType.L3, "l2": DsrType.L2}, prefixes=("dsr_type_",))

encapsulation = choice(
    "an encapsulation",
    {"ipip": Encapsulation.IPIP, "ipinip": Encapsulation.IPIP, "gre": Encapsulation.GRE, "gue": Encapsulation.GUE},
    not_yet=("vxlan", "geneve"),
    prefixes=("encap_",),
)

outer_source = choice("a source of outer headers", {source.value: source for source in OuterSource})

outer_df = choice("a DF policy", {policy.value: policy for policy in DfPolicy})

ttl = choice("a TTL policy", {"router": TtlPolicy.ROUTER, "transparent": TtlPolicy.TRANSPARENT})

algorithm = choice(
    "an algorithm",
    {
        **{algorithm.value: algorithm for algorithm in Algorithm},
        "fewest_tasks": Algorithm.LEAST_CONNECTIONS,
        "core_affinity": Algorithm.CONSISTENT_HASH,
    },
    not_yet=("nearest_server", "topology"),
    prefixes=("lb_algorithm_",),
)

hash_mode = choice(
    "a hash mode",
    {
        "source_ip": HashMode.SOURCE_IP,
        "source_ip_port": HashMode.SOURCE_IP_PORT,
        "five_tuple": HashMode.FIVE_TUPLE,
        "source_ip_address": HashMode.SOURCE_IP,
        "source_ip_address_and_port": HashMode.SOURCE_IP_PORT,
    },
    not_yet=("uri", "custom_header", "custom_string", "callid"),
    prefixes=("lb_algorithm_", "consistent_hash_"),
)

ha_mode = choice(
    "an HA mode",
    {
        **{mode.value: mode for mode in HaMode},
        "shared_pair": HaMode.ACTIVE_ACTIVE,
        "legacy_active_standby": HaMode.ACTIVE_STANDBY,
        "shared": HaMode.N_PLUS_M,
    },
    prefixes=("ha_mode_",),
)
