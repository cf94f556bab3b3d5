"""When the doctor looks, at whom, and what it says of it: with evidence that is given and not gathered."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from appliance.dataplane.base import Counters
from appliance.decide import decide
from appliance.doctor import side
from appliance.doctor.client import Came, ClientReport, Try
from appliance.doctor.evidence import Asked, PassiveSeen
from appliance.doctor.gather import Gathered, Subject
from appliance.doctor.side import DoctorSide, DoctorSources, UnknownSubjectError
from appliance.doctor.vantage import AgentVantage, Given
from appliance.looplag import LagSummary
from appliance.model import Config, DoctorConfig, Health, IPAddress
from appliance.packet.action import Reason
from bgp.bfd.process import BfdStatus
from tests.builders import config, member, pool, service, snapshot
from tests.unit.doctor.evidence import MEMBER, SILENT, WELL, error, path, report
from tests.unit.doctor.evidence import member as seen
from tests.unit.fleet.ends import until as wait

NO_TUNNEL = error(3, 2, str(MEMBER), outer=True)


class Evidence:
    """Obeys `Gatherer` as far as the side uses it: members are what they are said to be."""

    def __init__(self) -> None:
        self.small: Mapping[str, Asked] = {}
        self.stranger: Asked | None = SILENT
        self.runs: list[tuple[list[str], bool]] = []
        self.subjects: Sequence[Subject] = ()

    async def gather(
        self,
        subjects: Sequence[Subject],
        passive: Mapping[tuple[str, str], PassiveSeen],
        quiet_vips: Iterable[IPAddress],
        *,
        thorough: bool,
    ) -> Gathered:
        self.subjects = subjects
        self.runs.append(([one.id for one in subjects], thorough))
        return Gathered(
            tuple(
                replace(
                    seen(path(small=self.small.get(one.id, WELL), stranger=self.stranger), report=None),
                    service=one.service.name,
                    member=one.id,
                )
                for one in subjects
            ),
            asked_segments=("eth1",),
        )


class Director:
    """A doctor and what it asks of its director."""

    def __init__(self, given: Config | None = None) -> None:
        self.config = given or config(bgp=False)
        self.evidence = Evidence()
        self.fragments = 0

        async def counters() -> Counters:
            return Counters(reasons={str(Reason.FRAGMENT): self.fragments})

        async def plane() -> Mapping[str, str]:
            return {"kind": "raw"}

        sources = DoctorSources(
            config=lambda: self.config,
            counters=counters,
            plane=plane,
            channel=lambda: None,
            speaker=lambda: None,
            bfd=BfdStatus,
            lag=LagSummary,
            arp=tuple,
            owners=lambda keys: {key: ("web", "web/web2") for key in keys if key.source_port == 1002},
        )
        self.doctor = DoctorSide(self.evidence, sources, lambda: 1_800_000_000.0)  # type: ignore[arg-type]

    def during(self, *steps: Callable[[], Any], until: Callable[[], object]) -> None:
        """What happens by itself, until that is true."""

        async def inside() -> None:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(self.doctor.run())
                for step in steps:
                    step()
                    await asyncio.sleep(0.02)
                await wait(until, "the doctor has looked")
                running.cancel()

        asyncio.run(inside())


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for calm here."""
    for name in ("CALM_S", "APART_S", "STEP_S"):
        monkeypatch.setattr(side, name, 0.005)


def ask(director: Director, *words: Any) -> Any:
    return asyncio.run(director.doctor.asked(*words))


def test_what_is_new_and_what_is_over_are_events_and_the_rest_is_not() -> None:
    """A finding once, with evidence and remedy; its end once; and what a member can turns with it."""
    director = Director()
    with capture_logs() as logs:
        ask(director, "", "")
        director.evidence.small = {"web/web2": NO_TUNNEL}
        ask(director, "", "")
        ask(director, "web", "web2")
        director.evidence.small = {}
        ask(director, "", "")
    told = [(one["event"], one.get("check") or one.get("capable"), one["member"]) for one in logs]
    every = [("member.dsr_capable", "yes", f"web/web{number}") for number in (1, 2, 3)]
    assert told == [
        *every,
        ("doctor.finding", "decapsulation", "web/web2"),
        ("member.dsr_capable", "no", "web/web2"),
        ("doctor.cleared", "decapsulation", "web/web2"),
        ("member.dsr_capable", "yes", "web/web2"),
    ]
    finding = logs[3]
    assert "type 3 code 2" in finding["evidence"][0]
    assert finding["fix"]


def test_a_run_on_one_member_keeps_what_is_known_of_others() -> None:
    """And says itself only what it has seen; what is not configured any more is forgotten."""
    director = Director()
    director.evidence.small = {"web/web1": NO_TUNNEL}
    ask(director, "", "")
    report_ = ask(director, "web", "web/web3")
    assert {one.member for one in report_.findings} == {"web/web3"}
    latest = director.doctor.latest()
    assert latest is not None
    assert {one.member for one in latest.findings if one.failed} == {"web/web1"}
    director.config = config(service(pool=pool(member(2), member(3))), bgp=False)
    ask(director, "", "web2")
    latest = director.doctor.latest()
    assert latest is not None
    assert "web/web1" not in {one.member for one in latest.findings}


def test_who_is_not_there_is_named_with_who_is() -> None:
    """Virtual services and members."""
    director = Director()
    with pytest.raises(UnknownSubjectError, match="there are: web"):
        ask(director, "mail", "")
    with pytest.raises(UnknownSubjectError, match="web/web1, web/web2, web/web3"):
        ask(director, "web", "web9")


def test_members_that_turn_are_looked_at() -> None:
    """Those and no others, and strange packets only to those that are new."""
    director = Director()
    well = decide(snapshot(config(bgp=False)))
    down = decide(snapshot(config(bgp=False), {"web/web2": Health.DOWN}))
    director.during(
        lambda: director.doctor.applied(well),
        lambda: director.doctor.applied(down),
        until=lambda: director.evidence.runs,
    )
    assert director.evidence.runs == [(["web/web2"], False)]
    larger = config(service(pool=pool(*(member(number) for number in (1, 2, 3, 4)))), bgp=False)
    director.config = larger
    added = decide(snapshot(larger, {"web/web2": Health.DOWN}))
    director.during(lambda: director.doctor.applied(added), until=lambda: len(director.evidence.runs) > 1)
    assert director.evidence.runs[1] == (["web/web4"], True)
    latest = director.doctor.latest()
    assert latest is not None
    assert latest.cause == "member_added"


def test_nobody_is_looked_at_where_that_is_switched_off() -> None:
    """Neither by schedule nor for a turn."""
    director = Director(replace(config(bgp=False), doctor=DoctorConfig(interval_s=0, on_change=False)))
    turned = [decide(snapshot(director.config, {"web/web2": health})) for health in (Health.UP, Health.DOWN)]
    steps = [lambda one=one: director.doctor.applied(one) for one in turned]  # type: ignore[misc]
    director.during(*steps, *[lambda: None] * 10, until=lambda: True)
    assert director.evidence.runs == []


def test_a_schedule_takes_many_members_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many in a run, and the next ones in the next; the report says how many it has left out."""
    monkeypatch.setattr(side, "MOST", 2)
    director = Director(replace(config(bgp=False), doctor=DoctorConfig(interval_s=0.01)))
    director.during(until=lambda: len(director.evidence.runs) >= 3)
    assert [names for names, _ in director.evidence.runs[:3]] == [
        ["web/web1", "web/web2"],
        ["web/web3", "web/web1"],
        ["web/web2", "web/web3"],
    ]
    assert not any(thorough for _, thorough in director.evidence.runs)
    latest = director.doctor.latest()
    assert latest is not None
    assert (latest.cause, latest.left_out) == ("schedule", 1)


def test_where_members_own_view_comes_from() -> None:
    """An agent where a secret is configured, a report where one was brought, and nothing otherwise."""
    director = Director()
    ask(director, "", "")
    assert {one.vantage for one in director.evidence.subjects} == {None}
    director.config = replace(director.config, doctor=DoctorConfig(agent_secret=b"sixteen bytes and"))
    ask(director, "", "", {"web/web2": report()})
    kinds = [type(one.vantage) for one in director.evidence.subjects]
    assert kinds == [AgentVantage, Given, AgentVantage]


def test_connections_of_clients_are_held_against_the_member_that_got_them() -> None:
    """By their ports; those of which nobody can say whose they were, and runs that were given none, say nothing."""
    director = Director()
    tries = [Try("198.51.100.7", 80, "192.0.2.7", port, Came.SILENT) for port in (1001, 1002)]
    found = ask(director, "", "", None, [ClientReport("desk", tuple(tries))]).findings
    (one,) = [one for one in found if one.check == "clients"]
    assert (one.service, one.member, one.failed) == ("web", "web/web2", True)
    assert "desk (192.0.2.7): of 1 connections 0 came about, 1 got no answer" in one.judgement.evidence


def test_what_was_found_when_asked_is_known_until_it_is_asked_again() -> None:
    """A tunnel that anybody may use is not closed by a run on a schedule, which does not try it."""
    director = Director()
    director.evidence.stranger = WELL
    ask(director, "", "")

    def open_() -> set[str]:
        latest = director.doctor.latest()
        assert latest is not None
        return {one.member for one in latest.findings if one.check == "closed_decapsulator" and one.failed}

    everybody = {"web/web1", "web/web2", "web/web3"}
    assert open_() == everybody
    director.evidence.stranger = None
    subjects = director.evidence.subjects
    asyncio.run(director.doctor._examine(subjects, "schedule", thorough=False, director=False))
    assert open_() == everybody
    director.evidence.stranger = SILENT
    ask(director, "", "web1")
    assert open_() == everybody - {"web/web1"}


def test_a_report_of_nobody_is_refused() -> None:
    """A name that is mistyped would leave a report aside without a word."""
    with pytest.raises(UnknownSubjectError, match='"web/wbe1", which is no member; there are: web/web1, web/web2'):
        ask(Director(), "", "", {"web/wbe1": report()})


def test_fragments_are_counted_from_run_to_run() -> None:
    """What was lost before the first run is nobody's news."""
    director = Director()
    director.fragments = 7

    def lost() -> set[str]:
        return {one.check for one in ask(director, "", "").findings if one.failed}

    assert lost() == set()
    director.fragments = 9
    assert lost() == {"fragments"}
    assert lost() == set()
