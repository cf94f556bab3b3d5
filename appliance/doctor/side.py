"""The doctor of one director: when it runs, on whom, and what everybody is told of it.

It runs when it is asked, when members are added or turn, and on a schedule. One run at a time; on a schedule it looks
at MOST members in one run, and at the next ones in the next.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from appliance.arp.owner import Phase
from appliance.arp.side import VipStatus
from appliance.dataplane.base import Counters, DataPlaneError
from appliance.dataplane.raw.offloads import merging
from appliance.decide import Desired
from appliance.doctor.checks import MEMBER_CHECKS, judge
from appliance.doctor.client import ClientReport
from appliance.doctor.evidence import DirectorSeen, MemberSeen, PassiveSeen, PeerSeen, SessionSeen, Visit
from appliance.doctor.finding import Capable, Finding, Outcome, Report, capabilities
from appliance.doctor.gather import Gatherer, Subject, strangers
from appliance.doctor.member import MemberReport
from appliance.doctor.observe import conntrack
from appliance.doctor.vantage import AgentVantage, Given, Vantage
from appliance.fleet.channel import ChannelStatus
from appliance.looplag import LagSummary
from appliance.model import Config, HashMode, IPAddress, Protocol
from appliance.packet.action import Reason
from appliance.passive import Handshakes, outliers
from appliance.ring.hash import FlowKey
from bgp.bfd.process import BfdStatus
from bgp.speaker import Session, SpeakerStatus

log = structlog.get_logger()

MOST = 100
"""Members in one run that nobody has asked for."""

CALM_S = 3.0
"""After a member has turned, so that one run sees all that turn together, and what they turn into."""

APART_S = 10.0
"""At least between two runs that nobody has asked for."""

STEP_S = 0.5

HEARD_S = 5.0
"""A director that was not heard for so long is gone, and what it said of its tables with it."""


ASKED = frozenset(name for name, check in MEMBER_CHECKS.items() if check.when_asked)


class UnknownSubjectError(Exception):
    """There is no such virtual service or member; the text says which there are."""


@dataclass(frozen=True)
class DoctorSources:
    """Functions that tell the present state of the director."""

    config: Callable[[], Config]
    counters: Callable[[], Awaitable[Counters]]
    plane: Callable[[], Awaitable[Mapping[str, str]]]
    channel: Callable[[], ChannelStatus | None]
    speaker: Callable[[], SpeakerStatus | None]
    """None: no BGP is configured."""
    bfd: Callable[[], BfdStatus]
    lag: Callable[[], LagSummary]
    arp: Callable[[], tuple[VipStatus, ...]]
    passive: Callable[[], Mapping[tuple[str, str], PassiveSeen]] = dict
    """By virtual service and `pool/member`."""
    owners: Callable[[Iterable[FlowKey]], Mapping[FlowKey, tuple[str, str]]] = lambda _: {}
    """Virtual service and `pool/member` that flows go to, as far as that can be said."""


class DoctorSide:
    """Runs the doctor."""

    def __init__(self, gatherer: Gatherer, sources: DoctorSources, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            gatherer: asks and listens.
            sources: of what this director knows by itself.
            clock: seconds since 1970, for people.
        """
        self._gatherer = gatherer
        self._sources = sources
        self._clock = clock
        self._running = asyncio.Lock()
        self._report: Report | None = None
        self._next = 0
        self._states: dict[str, str] = {}
        self._turned: set[str] = set()
        self._turned_at = 0.0
        self._added = False
        self._fragments: int | None = None
        self._downs: dict[str, int] = {}
        self._given: dict[str, MemberReport] = {}

    def latest(self) -> Report | None:
        """What is known now: of every check on every member what its latest run said. None before the first."""
        return self._report

    def applied(self, desired: Desired) -> None:
        """This decision is in force: members that are new or have turned are looked at soon."""
        states = {member.id: str(member.state) for view in desired.services for member in view.members}
        if self._states:
            turned = {name for name, state in states.items() if self._states.get(name) != state}
            if turned:
                self._added |= any(name not in self._states for name in turned)
                self._turned |= turned
                self._turned_at = time.monotonic()
        self._states = states

    async def run(self) -> None:
        """Run by schedule and when members turn, until cancelled."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(STEP_S)
            settings, now = self._sources.config().doctor, time.monotonic()
            subjects: Sequence[Subject] = ()
            cause = ""
            if self._turned and now - self._turned_at >= CALM_S and now - last >= APART_S:
                turned, self._turned = self._turned, set()
                cause, self._added = "member_added" if self._added else "state_changed", False
                if settings.on_change:
                    subjects = [one for one in self._subjects() if one.id in turned][:MOST]
            elif settings.interval_s and now - last >= settings.interval_s:
                cause, subjects = "schedule", self._some()
            if not cause:
                continue
            last = now
            if subjects or cause == "schedule":
                try:
                    await self._examine(subjects, cause, thorough=cause == "member_added", director=cause == "schedule")
                except OSError as error:
                    log.warning("doctor.failed", error=str(error), hint="it takes CAP_NET_RAW")
            last = time.monotonic()

    async def asked(
        self,
        service: str,
        member: str,
        given: Mapping[str, MemberReport] | None = None,
        clients: Sequence[ClientReport] = (),
    ) -> Report:
        """Run now, thoroughly.

        Args:
            service: a virtual service; empty: all.
            member: `pool/member`, or its name alone; empty: all.
            given: reports that were brought, by `pool/member`.
            clients: what clients' machines have seen.

        Raises:
            UnknownSubjectError: there is no such service or member.
            OSError: packet sockets are not to be had.
        """
        self._given = dict(given or {})
        try:
            known = dict.fromkeys(one.id for one in self._subjects())
            for name in self._given:
                if name not in known:
                    raise UnknownSubjectError(
                        f'a report is of "{name}", which is no member; there are: {", ".join(known) or "none"}'
                    )
            subjects = [one for one in self._subjects() if service in ("", one.service.name)]
            if service and not any(one.name == service for one in self._sources.config().services):
                services = ", ".join(one.name for one in self._sources.config().services) or "none"
                raise UnknownSubjectError(f'there is no virtual service "{service}"; there are: {services}')
            if member:
                mine = [one for one in subjects if member in (one.id, one.member.name)]
                if not mine:
                    there = ", ".join(dict.fromkeys(one.id for one in subjects)) or "none"
                    raise UnknownSubjectError(f'there is no member "{member}" there; there are: {there}')
                subjects = mine
            return await self._examine(subjects, "asked", thorough=True, director=not member, clients=clients)
        finally:
            self._given = {}

    def _subjects(self) -> list[Subject]:
        config = self._sources.config()
        vantages: dict[IPAddress, Vantage] = {}
        made = []
        for service in config.services:
            for member in service.pool.members if service.enabled else ():
                if not member.enabled or member.leaving:
                    continue
                name = f"{service.pool.name}/{member.name}"
                vantage, why = self._vantage(config, name, member.address, vantages)
                made.append(Subject(service, service.pool, member, vantage, why))
        return made

    def _vantage(
        self, config: Config, name: str, address: IPAddress, known: dict[IPAddress, Vantage]
    ) -> tuple[Vantage | None, str]:
        """One for each machine, in whatever pools it is."""
        if name in self._given:
            return known.setdefault(address, Given(self._given[name])), ""
        secret = config.doctor.agent_secret
        if secret is None:
            return None, "no agents are configured ([doctor] agent_secret_file)"
        return known.setdefault(address, AgentVantage(address, config.doctor.agent_port, secret)), ""

    def _some(self) -> list[Subject]:
        subjects = self._subjects()
        if len(subjects) <= MOST:
            return subjects
        start = self._next % len(subjects)
        self._next = start + MOST
        return (subjects + subjects)[start : start + MOST]

    async def _examine(
        self,
        subjects: Sequence[Subject],
        cause: str,
        *,
        thorough: bool,
        director: bool,
        clients: Sequence[ClientReport] = (),
    ) -> Report:
        async with self._running:
            at, began = self._clock(), time.monotonic()
            statuses = self._sources.arp()
            gathered = await self._gatherer.gather(
                subjects, self._sources.passive(), [one.vip for one in statuses], thorough=thorough
            )
            if clients:
                gathered = replace(gathered, members=self._visited(gathered.members, clients))
            known = frozenset(mac for seen in gathered.members for mac in seen.macs)
            here = await self._here(strangers(gathered, known), statuses) if director else None
            findings = judge(gathered.members, here)
            report = Report(
                at=at,
                seconds=time.monotonic() - began,
                cause=cause,
                findings=tuple(findings),
                vantages=gathered.vantages,
                left_out=0 if cause == "asked" else max(0, len(self._subjects()) - len(subjects)),
                capable=tuple(capabilities(findings)),
            )
            self._tell(report, thorough=thorough)
            return report

    def _visited(self, members: Iterable[MemberSeen], clients: Sequence[ClientReport]) -> tuple[MemberSeen, ...]:
        """With the connections of clients that went to each."""
        owners = self._sources.owners([one.key for report in clients for one in report.tries])
        visits: dict[tuple[str, str], list[Visit]] = {}
        for report in clients:
            for one in report.tries:
                if (owner := owners.get(one.key)) is not None:
                    client = f"{report.name} ({one.source})"
                    visit = Visit(client, one.key.destination, one.came, one.seconds, one.mss, one.error)
                    visits.setdefault(owner, []).append(visit)
        return tuple(replace(one, visits=tuple(visits.get((one.service, one.member), ()))) for one in members)

    async def _here(self, seen: DirectorSeen, statuses: Sequence[VipStatus]) -> DirectorSeen:
        """What this director knows of itself, beside what was heard on its segments."""
        config, sources = self._sources.config(), self._sources
        try:
            counters, plane = await sources.counters(), await sources.plane()
        except DataPlaneError:
            counters, plane = Counters(), {}
        lost = counters.reasons.get(str(Reason.FRAGMENT), 0)
        since, self._fragments = lost - (lost if self._fragments is None else self._fragments), lost
        native = {key.removeprefix("mode_") for key, mode in plane.items() if mode == "native"}
        channel, speaker = sources.channel(), sources.speaker()
        return replace(
            seen,
            vips=tuple(vip for service in config.services for vip in service.vips),
            conflicts={one.vip: one.why for one in statuses if one.phase is Phase.CONFLICT},
            merging={
                name: found for name in config.director.interfaces if (found := merging(name, soft=name not in native))
            },
            plane=plane.get("kind", ""),
            peers=tuple(
                PeerSeen(peer.name, dict(peer.mismatches))
                for peer in (channel.peers if channel is not None else ())
                if peer.heard_s_ago is not None and peer.heard_s_ago < HEARD_S
            ),
            sessions=tuple(self._sessions(speaker)) if speaker is not None else (),
            late_s=sources.lag().p99_s,
            fragments_lost=max(0, since),
            conntrack=conntrack(),
            hash_by_ports=tuple(
                service.name
                for service in config.services
                if service.protocol is Protocol.UDP and service.hash_mode is not HashMode.SOURCE_IP
            ),
        )

    def _sessions(self, speaker: SpeakerStatus) -> list[SessionSeen]:
        downs = {peer: view.downs for peer, view in self._sources.bfd().sessions.items()}
        made = [
            SessionSeen(
                peer,
                status.session is Session.UP,
                downs.get(peer, 0) - self._downs.get(peer, downs.get(peer, 0)),
                status.detail,
            )
            for peer, status in speaker.peers.items()
        ]
        self._downs = downs
        return made

    def _tell(self, report: Report, *, thorough: bool) -> None:
        """Events for what is new and what is over; and what is known now, of members not looked at as well."""
        before = {one.key: one for one in self._report.findings} if self._report is not None else {}
        for one in report.findings:
            was = before.get(one.key)
            if one.failed and (was is None or not was.failed):
                _log_finding(one)
            elif was is not None and was.failed and one.judgement.outcome is Outcome.PASS:
                log.info("doctor.cleared", check=one.check, service=one.service, member=one.member)
        capable = {(one.service, one.member): one for one in self._report.capable} if self._report is not None else {}
        for now in report.capable:
            known = capable.get((now.service, now.member))
            if now.capable is not Capable.UNKNOWN and (known is None or known.capable is not now.capable):
                log.info(
                    "member.dsr_capable",
                    service=now.service,
                    member=now.member,
                    capable=str(now.capable),
                    reasons=list(now.reasons),
                )
        self._report = self._together(report, before, thorough=thorough)

    def _together(self, report: Report, before: Mapping[tuple[str, str, str], Finding], *, thorough: bool) -> Report:
        """What this run says; and what earlier ones said of whom, or with which evidence, it did not look."""
        there = {(one.service.name, one.id) for one in self._subjects()} | {("", "")}
        seen = {(one.service, one.member) for one in report.findings}
        judged = {one.key for one in report.findings}
        kept = [
            one
            for one in before.values()
            if (one.service, one.member) in there
            if (one.service, one.member) not in seen or (not thorough and one.check in ASKED and one.key not in judged)
        ]
        findings = (*report.findings, *kept)
        vantages = dict(self._report.vantages if self._report is not None else ()) | dict(report.vantages)
        names = {name for _, name in there}
        return replace(
            report,
            findings=findings,
            capable=tuple(capabilities(findings)),
            vantages=tuple((name, text) for name, text in sorted(vantages.items()) if name in names),
        )


def passive_seen(handshakes: Mapping[tuple[str, str], Handshakes]) -> dict[tuple[str, str], PassiveSeen]:
    """What clients' handshakes were like, with those members told that differ from the others of their pool.

    Args:
        handshakes: by virtual service and `pool/member`.
    """
    by_service: dict[str, dict[str, Handshakes]] = {}
    for (service, member), one in handshakes.items():
        by_service.setdefault(service, {})[member] = one
    found = {}
    for service, pool in by_service.items():
        odd = outliers(pool)
        for member, one in pool.items():
            found[service, member] = PassiveSeen(
                one.begun, one.completed, one.repeated, one.stuck, one.reset, one.response_s, odd.get(member, "")
            )
    return found


def _log_finding(one: Finding) -> None:
    fix = one.judgement.fix
    log.warning(
        "doctor.finding",
        check=one.check,
        service=one.service,
        member=one.member,
        text=one.judgement.text,
        evidence=list(one.judgement.evidence),
        where=str(fix.site) if fix is not None else "",
        fix=fix.text if fix is not None else "",
    )
