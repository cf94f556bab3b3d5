"""Counters under construction: what several parts of a plane, and parts that are gone, have counted."""

from collections import Counter, defaultdict

from appliance.dataplane.base import Counters, Traffic


class Totals:
    """A sum of counters, by name."""

    def __init__(self, *parts: Counters) -> None:
        self.services: defaultdict[tuple[str, str], Traffic] = defaultdict(Traffic)
        self.members: defaultdict[str, Traffic] = defaultdict(Traffic)
        self.reasons: Counter[str] = Counter()
        self.replies: Counter[str] = Counter()
        self.told_too_big: Counter[str] = Counter()
        self.details: Counter[str] = Counter()
        for part in parts:
            self.add(part)

    def add(self, part: Counters) -> None:
        for key, traffic in part.services.items():
            self.services[key] += traffic
        for member, traffic in part.members.items():
            self.members[member] += traffic
        self.reasons.update(part.reasons)
        self.replies.update(part.replies)
        self.told_too_big.update(part.told_too_big)
        self.details.update(part.details)

    def counters(self) -> Counters:
        return Counters(
            services=dict(self.services),
            members=dict(self.members),
            reasons=dict(self.reasons),
            replies=dict(self.replies),
            told_too_big=dict(self.told_too_big),
            details=dict(self.details),
        )
