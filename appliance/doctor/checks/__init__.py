"""The table of checks. A new one is a function in a file here, and a line below. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from appliance.doctor.checks import filters, home, listening, persisted, segment, sizes, tunnel, visiting, watching
from appliance.doctor.evidence import DirectorSeen, MemberSeen
from appliance.doctor.finding import Finding, Judgement


@dataclass(frozen=True)
class MemberCheck:
    """A question about one member of one virtual service."""

    judge: Callable[[MemberSeen], Judgement | None]
    """None: it does not apply."""
    required: bool
    """Whether a member is DSR-capable only if it passes."""
    when_asked: bool = False
    """Whether runs that nobody has asked for have no evidence for it."""


@dataclass(frozen=True)
class DirectorCheck:
    """A question about the director, its segments or the fleet."""

    judge: Callable[[DirectorSeen], Judgement | None]


MEMBER_CHECKS: dict[str, MemberCheck] = {
    "next_hop": MemberCheck(segment.next_hop, required=True),
    "outer_path": MemberCheck(tunnel.outer_path, required=True),
    "decapsulation": MemberCheck(tunnel.decapsulation, required=True),
    "reverse_path": MemberCheck(filters.reverse_path, required=True),
    "vip_present": MemberCheck(listening.vip_present, required=True),
    "no_loop": MemberCheck(listening.no_loop, required=True),
    "listener": MemberCheck(listening.listener, required=True),
    "replies_arrive": MemberCheck(filters.replies_arrive, required=True),
    "segment_size": MemberCheck(sizes.segment_size, required=True),
    "arp_quiet": MemberCheck(segment.arp_quiet, required=True),
    "udp_source": MemberCheck(listening.udp_source, required=True),
    "ipv6": MemberCheck(filters.ipv6, required=True),
    "checksums": MemberCheck(filters.checksums, required=False),
    "conntrack": MemberCheck(filters.conntrack, required=False),
    "closed_decapsulator": MemberCheck(tunnel.closed_decapsulator, required=False, when_asked=True),
    "queues": MemberCheck(sizes.queues, required=False),
    "hairpin": MemberCheck(listening.hairpin, required=False),
    "persisted": MemberCheck(persisted.persisted, required=False),
    "handshakes": MemberCheck(watching.handshakes, required=False),
    "clients": MemberCheck(visiting.clients, required=False, when_asked=True),
    "setup": MemberCheck(persisted.setup, required=False),
}

DIRECTOR_CHECKS: dict[str, DirectorCheck] = {
    "vip_not_local": DirectorCheck(home.vip_not_local),
    "duplicate_vip": DirectorCheck(home.duplicate_vip),
    "offloads": DirectorCheck(home.offloads),
    "tables_agree": DirectorCheck(home.tables_agree),
    "routing_sessions": DirectorCheck(home.routing_sessions),
    "fragments": DirectorCheck(home.fragments),
    "director_conntrack": DirectorCheck(home.director_conntrack),
}


def judge(members: Iterable[MemberSeen], director: DirectorSeen | None) -> Sequence[Finding]:
    """All checks on all evidence; those that do not apply say nothing.

    Args:
        members: one for each virtual service that it serves.
        director: None leaves the director out.
    """
    return [*_about_director(director), *(finding for seen in members for finding in _about_member(seen))]


def _about_member(seen: MemberSeen) -> Iterator[Finding]:
    for name, check in MEMBER_CHECKS.items():
        judgement = check.judge(seen)
        if judgement is not None:
            yield Finding(name, seen.service, seen.member, judgement, check.required)


def _about_director(seen: DirectorSeen | None) -> Iterator[Finding]:
    if seen is None:
        return
    for name, check in DIRECTOR_CHECKS.items():
        judgement = check.judge(seen)
        if judgement is not None:
            yield Finding(name, "", "", judgement)
