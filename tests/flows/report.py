"""From broken flows and happenings to an account of who has broken what."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.flows.workload import Broken


@dataclass
class Happening:
    """Something that was done to the fleet."""

    text: str
    at: float
    alive: int
    """Flows that lived then."""
    pins: dict[str, int] = field(default_factory=dict)
    """The most that each director has remembered until the next happening."""
    slowest_s: float = 0.0
    """The longest wait for an answer until the next happening."""


@dataclass
class Outage:
    """A member was dead; flows that it had then are lost, and no balancer could help it."""

    member: int
    since: float
    until: float | None = None
    """When its servers, or its link, were there again: from then on it has no excuse, in rotation or not."""


@dataclass
class Account:
    """Every flow, by what became of it."""

    begun: int
    happenings: Sequence[Happening]
    broken: dict[int, list[Broken]]
    """By position of the happening they are put down to: the last one before the first packet failed."""
    lost: dict[int, list[Broken]]
    """Likewise, flows of members that were dead."""

    @property
    def all_broken(self) -> list[Broken]:
        return [flow for flows in self.broken.values() for flow in flows]

    @property
    def all_lost(self) -> list[Broken]:
        return [flow for flows in self.lost.values() for flow in flows]


def died_with_its_member(flow: Broken, outages: Iterable[Outage]) -> bool:
    """Whether the flow was at a member while that was dead, or was turned away by it.

    A flow is at the member whose number is in its first SYN-ACK or its first answer.
    """
    for outage in outages:
        over = outage.until if outage.until is not None else float("inf")
        # One that the member had may be quiet until long after.
        if flow.member == outage.member and flow.born < over and flow.cause >= outage.since:
            return True
        if flow.member is None and flow.by == outage.member and outage.since <= flow.cause < over:
            return True
    return False


def account(
    begun: int, happenings: Sequence[Happening], broken: Iterable[Broken], outages: Sequence[Outage]
) -> Account:
    """Put every broken flow down to a happening.

    Args:
        begun: number of all flows.
        happenings: in the order of time; the first one is the beginning.
        broken: all flows that are.
        outages: of members.
    """
    result = Account(begun, happenings, {}, {})
    for flow in broken:
        position = max((i for i, happening in enumerate(happenings) if happening.at <= flow.cause), default=0)
        pile = result.lost if died_with_its_member(flow, outages) else result.broken
        pile.setdefault(position, []).append(flow)
    return result


def table(result: Account, directors: Sequence[str]) -> str:
    """The account as text."""
    rows = [["happening", "at", "alive", "broken", "lost", "waited", *(f"pins {name}" for name in directors)]]
    start = result.happenings[0].at
    for position, happening in enumerate(result.happenings):
        rows.append(
            [
                happening.text,
                f"{happening.at - start:.0f} s",
                str(happening.alive),
                str(len(result.broken.get(position, []))),
                str(len(result.lost.get(position, []))),
                f"{happening.slowest_s:.1f} s",
                *(str(happening.pins[name]) if name in happening.pins else "-" for name in directors),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def causes(flows: Iterable[Broken]) -> list[str]:
    """What happened to them, most frequent first."""
    counts = Counter((flow.protocol, flow.why, flow.member, flow.by) for flow in flows)
    return [
        f"{count:6} {protocol} {why}; had {_name(member)}, by {_name(by)}"
        for (protocol, why, member, by), count in counts.most_common()
    ]


def examples(flows: Iterable[Broken], most: int) -> list[Broken]:
    """A few of them, of as many kinds as possible, in the order of time."""
    seen: Counter[tuple[str, str, int | None]] = Counter()
    ranked = []
    for flow in sorted(flows, key=lambda flow: flow.cause):
        kind = flow.protocol, flow.why, flow.member
        ranked.append((seen[kind], flow.cause, flow))
        seen[kind] += 1
    chosen = sorted(ranked, key=lambda entry: entry[:2])[:most]
    return sorted((flow for _, _, flow in chosen), key=lambda flow: flow.cause)


def _name(member: int | None) -> str:
    return "nobody" if member is None else f"m{member}"
