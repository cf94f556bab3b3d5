"""The texts that ExaBGP 5.0, its guard and we exchange: configuration, commands, events, log. Pure.

Between us and the guard (`bgp/guard.py`) lines go in both directions. Ours are commands with a number:

    lease 7 1.0                                    the routes may stay for another second
    lease 7 1.0 10 2,3 0                           and when our connection ends, for 10 s, if interfaces 2 and 3 have
                                                   an XDP program all the while
    lease 7 1.0 10 2,3 4711                        the same, if process 4711 lives all the while
    announce 8 198.51.100.7/32 announce route ...  prefixes with commas between, then the command for ExaBGP
    withdraw 9 198.51.100.7/32,198.51.100.8/32     from all peers
    withdraw 10 198.51.100.7/32 192.0.2.2          from some; others go on having it
    teardown 11 192.0.2.1                          end the session with a peer; ExaBGP then tries to have another

The guard's are JSON objects, each one line. Those with the key "guard" are its own: the answers to our commands, a
greeting, news of a withdrawal. All others come from ExaBGP as they are.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from bgp.config import BGP_PORT, BgpSpeakerConfig, Neighbor
from bgp.route import IPAddress, Route
from bgp.speaker import Session, Survival

_TEMPLATE = """\
# Written by the speaker, for ExaBGP 5.0; it is written anew at every start.
# Of the guard that is spoken with: version {version}, linger {linger:g}, watchdog {watchdog:g}.
{made_by}{stamp}
process guard {{
{run_by}{run};
    encoder json;
}}
"""

_MADE_BY, _RUN_BY = "# Made by: ", "    run "

GUARD_VERSION = 1
"""Of what the guard and we tell each other: another one whenever one of an earlier version cannot be spoken with."""

# Graceful restart is off on purpose: a router that keeps the routes of a dead director sends packets into a hole.
# md5-base64 false: else ExaBGP guesses, and a password may look like base64.
_NEIGHBOR = """\
neighbor {address} {{
    router-id {router_id};
    local-address {local_address};
    local-as {local_as};
    peer-as {remote_as};
    hold-time {hold_time_s};
{options}\
    family {{
        ipv4 unicast;
        ipv6 unicast;
    }}
    capability {{
        route-refresh enable;
        graceful-restart disable;
    }}
    api {{
        processes [ guard ];
        neighbor-changes;
        send {{
            parsed;
            update;
        }}
        receive {{
            parsed;
            notification;
        }}
    }}
}}
"""


def configuration(config: BgpSpeakerConfig, run: Sequence[str], stamp: str = "") -> str:
    """ExaBGP's configuration file: equal arguments, equal text.

    Args:
        config: has no problems (see `bgp.config.problems`).
        run: the command line of the guard; its program as an absolute path.
        stamp: who makes it, for people.
    """
    program = " ".join(_quoted(word) for word in run)
    head = _TEMPLATE.format(
        version=GUARD_VERSION,
        linger=config.linger_s,
        watchdog=config.watchdog_s,
        made_by=_MADE_BY,
        stamp=stamp,
        run_by=_RUN_BY,
        run=program,
    )
    parts = [head]
    parts += [_neighbor(config, neighbor) for neighbor in sorted(config.neighbors, key=_by_address)]
    return "\n".join(parts)


def same_but_makers(one: str, other: str) -> bool:
    """Whether two texts differ in nothing but which installation has made them, so that whoever runs with one does what
    the other asks for."""

    def rest(configuration: str) -> list[str]:
        return [line for line in configuration.splitlines() if not line.startswith((_MADE_BY, _RUN_BY))]

    return rest(one) == rest(other)


def _by_address(neighbor: Neighbor) -> tuple[int, IPAddress]:
    return neighbor.address.version, neighbor.address


def _neighbor(config: BgpSpeakerConfig, neighbor: Neighbor) -> str:
    return _NEIGHBOR.format(
        address=neighbor.address,
        router_id=config.router_id,
        local_address=neighbor.local_address or "auto",
        local_as=config.local_as,
        remote_as=neighbor.remote_as,
        hold_time_s=neighbor.hold_time_s,
        options="".join(f"    {option};\n" for option in _options(neighbor)),
    )


def _options(neighbor: Neighbor) -> Iterator[str]:
    if neighbor.password is not None:
        yield f"md5-password {_quoted(neighbor.password)}"
        yield "md5-base64 false"
    if neighbor.ttl_security is not None:  # RFC 5082: all packets are sent with 255, and each hop takes one off
        yield "outgoing-ttl 255"
        yield f"incoming-ttl {256 - neighbor.ttl_security}"
    elif neighbor.multihop is not None:
        yield f"outgoing-ttl {neighbor.multihop}"
    if neighbor.passive:
        yield "passive true"
        yield f"listen {neighbor.port}"
    elif neighbor.port != BGP_PORT:
        yield f"connect {neighbor.port}"


def _quoted(word: str) -> str:
    """ExaBGP resolves escapes before it looks for quotes: a quote cannot be escaped, a backslash must be."""
    if set(word) & set("\"'\n") or not word.isascii():
        raise ValueError(f"ExaBGP's configuration cannot express {word!r}: use plain ASCII without quotes")
    return '"' + word.replace("\\", "\\\\") + '"'


def lease(number: int, seconds: float, survival: Survival | None = None) -> str:
    text = f"lease {number} {seconds}"
    if survival is None or not survival.seconds or not survival.interfaces:
        return text
    return f"{text} {survival.seconds:g} {','.join(map(str, sorted(survival.interfaces)))} {survival.process}"


TOGETHER = 50
"""Routes in one command at most: it takes ExaBGP half the time of as many commands, and 2 KiB."""


def announce(number: int, routes: Sequence[Route], next_hop: IPAddress | None) -> str:
    """The command that announces *routes*, which differ in nothing but the VIP, and that not in its IP version.

    *next_hop* counts when they have none, and the session's own is last.
    """
    prefixes, first = [route.cidr for route in routes], routes[0]
    whom = " , ".join(f"neighbor {peer}" for peer in _in_order(first.peers or ()))
    told = f"next-hop {first.next_hop or next_hop or 'self'} {first.attributes}".strip()
    if len(routes) == 1:
        command = f"announce route {prefixes[0]} {told}"
    else:
        command = f"announce attributes {told} nlri {' '.join(prefixes)}"
    return f"announce {number} {','.join(prefixes)} {f'{whom} {command}'.strip()}"


def withdraw(number: int, prefixes: Sequence[str], peers: Iterable[IPAddress] = ()) -> str:
    """The command that withdraws prefixes of one IP version, from some peers or from all."""
    return " ".join(["withdraw", str(number), ",".join(prefixes), *map(str, _in_order(peers))])


def _in_order(peers: Iterable[IPAddress]) -> list[IPAddress]:
    return sorted(peers, key=lambda peer: (peer.version, int(peer)))


def teardown(number: int, peer: str) -> str:
    return f"teardown {number} {peer}"


@dataclass(frozen=True)
class Hello:
    """The guard has taken us as its speaker."""

    exabgp_pid: int
    routes: frozenset[str]
    """Prefixes that ExaBGP has now, whoever announced them."""

    sent: Mapping[str, frozenset[str]]
    """What each peer was sent in its present session."""


@dataclass(frozen=True)
class Reply:
    """ExaBGP's acknowledgement of one command of ours."""

    number: int
    error: str | None


@dataclass(frozen=True)
class Withdrawn:
    """The guard has withdrawn every route; nothing is announced before the lease is renewed."""

    why: str
    after: int
    """The number of our last command before it."""


@dataclass(frozen=True)
class PeerState:
    peer: str
    session: Session
    reason: str


@dataclass(frozen=True)
class Sent:
    """An UPDATE that really went to a peer."""

    peer: str
    announced: frozenset[str]
    withdrawn: frozenset[str]


Event = Hello | Reply | Withdrawn | PeerState | Sent


def parse(line: str) -> Event | None:
    """One line of the guard; None when it is of no interest.

    Raises:
        ValueError: it is not what a guard or ExaBGP 5.0 writes.
    """
    try:
        data = json.loads(line)
        if not isinstance(data, dict):
            raise TypeError("not an object")
        return _guard_event(data) if "guard" in data else _exabgp_event(data)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"not understood ({error!r}): {line[:200]}") from error


def _guard_event(data: Mapping[str, Any]) -> Event | None:
    match data["guard"]:
        case "hello":
            sent = {_address(peer): _prefixes(prefixes) for peer, prefixes in data["sent"].items()}
            return Hello(int(data["exabgp"]), _prefixes(data["routes"]), sent)
        case "reply":
            return Reply(int(data["number"]), None if data["ok"] else str(data["error"]))
        case "withdrawn":
            return Withdrawn(str(data["why"]), int(data["after"]))
    return None


def _exabgp_event(data: Mapping[str, Any]) -> Event | None:
    if "neighbor" not in data:  # of the whole process: it is about to end
        return None
    neighbor = data["neighbor"]
    if data["type"] == "state":
        peer = _address(neighbor["address"]["peer"])
        return PeerState(peer, Session(neighbor["state"]), str(neighbor.get("reason", "")))
    if data["type"] == "update" and neighbor["direction"] == "send" and "update" in neighbor["message"]:
        update = neighbor["message"]["update"]
        return Sent(
            _address(neighbor["address"]["peer"]),
            _prefixes(
                route["nlri"]
                for next_hops in update.get("announce", {}).values()
                for routes in next_hops.values()
                for route in routes
            ),
            _prefixes(route["nlri"] for routes in update.get("withdraw", {}).values() for route in routes),
        )
    return None


def _address(text: str) -> str:
    return str(ip_address(text))


def _prefixes(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(str(ip_network(text)) for text in texts)


_TROUBLE = ("error", "could not", "cannot", "can not", "problem", "invalid", "unable", "refus", "too many", "traceback")
_CHATTER = ("welcome", "advice")
"""Banner, and the remark that there is no environment file, which is as it should be."""


@dataclass(frozen=True)
class LogLine:
    source: str
    text: str
    trouble: bool
    """ExaBGP's short log form has no level; the words must do."""


def log_line(line: str) -> LogLine | None:
    """One line of ExaBGP's log, `source          text`; None when nobody needs it."""
    source, _, text = line.strip().partition(" ")
    text = text.strip()
    if source in _CHATTER or not source:
        return None
    if not text:
        source, text = "", source
    return LogLine(source, text, any(word in text.lower() for word in _TROUBLE))
