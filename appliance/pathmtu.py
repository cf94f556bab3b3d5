"""How large packets may be on the way to members, beyond the first link: what is believed of what routers say, and for
how long (packets.md, M5 and M6; RFC 1191, RFC 8201). Pure.

Whoever can send us an ICMP packet can say anything. Believed is what quotes a packet that we could have sent: from our
own address on that way, or one of its prefix, to a member, in that member's encapsulation, larger than the router says
it can be and no larger than our link. Whoever knows all that can still make us send smaller packets, down to the floor,
for ten minutes; so no less is believed than any real network has, and only so many news a second.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from appliance.forwarding import LEAST_IPV6, ForwardingTables, TableMember
from appliance.model import IPAddress
from appliance.packet.icmp import TokenBucket
from appliance.packet.quotes import TooBig, answer_to_client, read_too_big
from appliance.state import PathMtu

LIFE_S = 600.0
"""After so long a larger packet is tried again (RFC 1191, 6.3; RFC 8201, 4)."""

LEAST_IPV4 = 552
"""Less than this is not believed, where nobody knows better (`director.least_path_mtu`). IPv4 allows 68, which nobody
has; IPv6 has its minimum (RFC 8200, 5)."""

FLOOR = {4: 576, 6: LEAST_IPV6}
"""Less than this is never assumed: every host takes as much."""

NEWS_PER_S, NEWS_AT_ONCE = 20.0, 100
"""News that are taken: each costs new tables. When a link that many members are behind turns smaller, all of them are
news; those that are too many come again with the next packet."""

ANSWERS_PER_S, ANSWERS_AT_ONCE = 100.0, 20
"""Errors that are passed on to clients of each VIP."""


class Outcome(StrEnum):
    """What became of an ICMP "too big" that we were sent. Names for counters."""

    LEARNED = "learned"
    """A smaller path MTU than was known."""
    KNOWN = "known"
    """Nothing new; where it says the same, that counts for another ten minutes."""
    NOT_OURS = "not_ours"
    """Not about a packet that we could have sent."""
    TOO_SMALL = "too_small"
    """Less than any real network has."""
    TOO_MANY = "too_many"
    """More news at once than are taken."""


@dataclass(frozen=True)
class Heard:
    outcome: Outcome
    member: IPAddress | None = None
    """Whose path it is, where that is plausible."""

    mtu: int = 0
    """What is believed of it now, bytes; where that is new."""

    answer: bytes | None = None
    """An ICMP error to be sent to the client, as an IP packet."""


@dataclass(frozen=True)
class PathMtuFacts:
    """What is known, and how often we were told; for people."""

    outcomes: Mapping[str, int] = field(default_factory=dict)
    """ICMP errors heard, by `Outcome`."""

    heard: Mapping[IPAddress, int] = field(default_factory=dict)
    """Those that were plausible, by the member's address."""

    passed_on: Mapping[IPAddress, int] = field(default_factory=dict)
    """Clients told because of them, by the member's address."""

    deaf: str = ""
    """Why nothing can be heard, if so."""


class PathMtus:
    """The beliefs. Time is the caller's, in seconds since 1970."""

    def __init__(self) -> None:
        self._learned: dict[IPAddress, PathMtu] = {}
        self._news = TokenBucket(NEWS_PER_S, NEWS_AT_ONCE)
        self._answers: dict[bytes, TokenBucket] = {}
        self._tables: ForwardingTables | None = None
        self._ways: dict[IPAddress, list[TableMember]] = {}
        self._outcomes = Counter({str(outcome): 0 for outcome in Outcome})
        self._heard: Counter[IPAddress] = Counter()
        self._passed_on: Counter[IPAddress] = Counter()

    @property
    def learned(self) -> Mapping[IPAddress, PathMtu]:
        """By member address: what is believed now."""
        return dict(self._learned)

    def facts(self) -> PathMtuFacts:
        """What was heard so far."""
        return PathMtuFacts(dict(self._outcomes), dict(self._heard), dict(self._passed_on))

    def hear(
        self, message: bytes, version: int, tables: ForwardingTables, now: float, least: int = LEAST_IPV4
    ) -> Heard:
        """Believe an ICMP message that was addressed to this director, or do not.

        Args:
            message: from its type on.
            version: of IP.
            tables: in force.
            now: the time.
            least: of an IPv4 way, no less is believed.
        """
        heard = self._judge(message, version, tables, now, least if version == 4 else LEAST_IPV6)
        self._outcomes[str(heard.outcome)] += 1
        if heard.member is not None:
            self._heard[heard.member] += 1
            self._passed_on[heard.member] += heard.answer is not None
        return heard

    def age(self, now: float) -> list[IPAddress]:
        """Give up what is too old, and say whose it was. A clock that was put back makes all of it too old."""
        old = [member for member, path in self._learned.items() if not 0 <= now - path.at < LIFE_S]
        for member in old:
            del self._learned[member]
        return old

    def _judge(self, message: bytes, version: int, tables: ForwardingTables, now: float, least: int) -> Heard:
        complaint = read_too_big(message, version)
        way = self._way_of(complaint, tables) if complaint is not None else None
        if complaint is None or way is None:
            return Heard(Outcome.NOT_OURS)
        member = way.address
        if complaint.mtu < least:
            return Heard(Outcome.TOO_SMALL, member)
        mtu = max(complaint.mtu, FLOOR[version])
        before = self._learned.get(member)
        news = before is None or mtu < before.mtu
        if news and not self._news.take(now):
            return Heard(Outcome.TOO_MANY, member)
        if before is None or mtu <= before.mtu:
            self._learned[member] = PathMtu(mtu, now)
        answer = self._answer(complaint, replace(way, path_mtu=self._learned[member].mtu), tables, now)
        return Heard(Outcome.LEARNED if news else Outcome.KNOWN, member, mtu if news else 0, answer)

    def _way_of(self, complaint: TooBig, tables: ForwardingTables) -> TableMember | None:
        """The way that the quoted packet could have gone."""
        if tables is not self._tables:
            self._tables, self._ways = tables, _by_address(tables.members.values())
        for way in self._ways.get(complaint.destination, ()):
            hop, encapsulation = way.next_hop, way.delivery.encapsulation
            ours = way.sends_from(complaint.source) and encapsulation is complaint.encapsulation
            if ours and complaint.mtu < complaint.length <= hop.mtu:
                return way
        return None

    def _answer(self, complaint: TooBig, way: TableMember, tables: ForwardingTables, now: float) -> bytes | None:
        made = answer_to_client(complaint, way, tables.vips)
        if made is None:
            return None
        answer, vip = made
        if vip not in self._answers:
            self._answers[vip] = TokenBucket(ANSWERS_PER_S, ANSWERS_AT_ONCE)
        return answer if self._answers[vip].take(now) else None


def _by_address(ways: Iterable[TableMember]) -> dict[IPAddress, list[TableMember]]:
    found: dict[IPAddress, list[TableMember]] = {}
    for way in ways:
        found.setdefault(way.address, []).append(way)
    return found
