"""What a check of the doctor says. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Document = dict[str, Any]


class Outcome(StrEnum):
    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNKNOWN = "unknown"
    """What it takes to tell was not seen; the text says what that would be."""


class Site(StrEnum):
    """Where a fix is to be applied."""

    MEMBER = "member"
    DIRECTOR = "director"
    NETWORK = "network"


@dataclass(frozen=True)
class Fix:
    """What to do."""

    site: Site
    text: str
    commands: tuple[str, ...] = ()
    """For a shell there, in this order."""


@dataclass(frozen=True)
class Judgement:
    """What one check makes of its evidence."""

    outcome: Outcome
    text: str
    evidence: tuple[str, ...] = ()
    """The packets, counters and settings that were seen."""

    fix: Fix | None = None
    """Of a failure."""


def passed(text: str, *evidence: str) -> Judgement:
    return Judgement(Outcome.PASS, text, evidence)


def failed(text: str, evidence: Iterable[str], fix: Fix) -> Judgement:
    return Judgement(Outcome.FAIL, text, tuple(evidence), fix)


def unknown(text: str, *evidence: str) -> Judgement:
    return Judgement(Outcome.UNKNOWN, text, evidence)


@dataclass(frozen=True)
class Finding:
    """A judgement, and whom it is about."""

    check: str
    """Name of the check; it never changes its meaning."""

    service: str
    """Virtual service; empty: the director or the fleet."""

    member: str
    """`pool/member`; empty: of the whole."""

    judgement: Judgement
    required: bool = False
    """Whether a member without this is not DSR-capable."""

    @property
    def failed(self) -> bool:
        return self.judgement.outcome is Outcome.FAIL

    @property
    def key(self) -> tuple[str, str, str]:
        """The same from run to run."""
        return self.check, self.service, self.member

    def document(self) -> Document:
        fix = self.judgement.fix
        return {
            "check": self.check,
            "service": self.service or None,
            "member": self.member or None,
            "outcome": str(self.judgement.outcome),
            "required": self.required,
            "text": self.judgement.text,
            "evidence": list(self.judgement.evidence),
            "fix": None if fix is None else {"where": str(fix.site), "text": fix.text, "commands": list(fix.commands)},
        }


class Capable(StrEnum):
    """Whether a member can serve a virtual service by DSR."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Capability:
    """That, with the reasons for every answer but "yes"."""

    service: str
    member: str
    capable: Capable
    reasons: tuple[str, ...] = ()
    """Names of checks, each with its text."""

    def document(self) -> Document:
        return {
            "service": self.service,
            "member": self.member,
            "dsr_capable": str(self.capable),
            "reasons": list(self.reasons),
        }


def capabilities(findings: Iterable[Finding]) -> Sequence[Capability]:
    """Of each member in each virtual service: all required checks have to pass."""
    by_member: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.required and finding.member:
            by_member.setdefault((finding.service, finding.member), []).append(finding)
    made = []
    for (service, member), mine in by_member.items():
        wrong = [one for one in mine if one.failed]
        open_ = [one for one in mine if one.judgement.outcome is Outcome.UNKNOWN]
        capable = Capable.NO if wrong else Capable.UNKNOWN if open_ else Capable.YES
        reasons = tuple(f"{one.check}: {one.judgement.text}" for one in wrong or open_)
        made.append(Capability(service, member, capable, reasons))
    return made


@dataclass(frozen=True)
class Report:
    """One run of the doctor."""

    at: float
    """When it began, seconds since 1970."""

    seconds: float
    """How long it took."""

    cause: str
    """`asked`, `schedule`, `member_added` or `state_changed`."""

    findings: tuple[Finding, ...] = ()
    vantages: tuple[tuple[str, str], ...] = ()
    """`pool/member`, and where its own view came from, or why there is none."""

    left_out: int = 0
    """Members that this run did not look at, since there were more than it takes in one."""

    capable: tuple[Capability, ...] = field(default=())

    def document(self) -> Document:
        return {
            "apiVersion": "v1",
            "time": self.at,
            "seconds": round(self.seconds, 3),
            "cause": self.cause,
            "failed": sum(one.failed for one in self.findings),
            "left_out": self.left_out,
            "members": [one.document() for one in self.capable],
            "vantages": dict(self.vantages),
            "findings": [one.document() for one in self.findings],
        }
