"""Who answers for a VIP, played through by directors that hear each other, or not, on a segment that always works."""

import random
from dataclasses import dataclass, field

import pytest

from appliance.arp.owner import ANNOUNCE_AT_S, CONFLICT_S, DEFEND_S, PROBE_S, PROBES, RANK_S, Claim, Other, Owner, Phase

STEP = 0.05
HEARD_S = 1.0
"""How long a director counts as there that is not heard any more."""

NAMES = "abcd"


@dataclass
class Director:
    name: str
    rank: int
    owner: Owner
    no: str = ""
    leaving: bool = False
    alive: bool = True
    heard: dict[str, tuple[float, Claim]] = field(default_factory=dict)


class World:
    """Directors, a channel that may be cut, and a segment; and foreign machines with the address."""

    def __init__(self, count: int) -> None:
        self.now = 100.0
        self.all = [Director(name, rank, Owner(rank)) for rank, name in enumerate(NAMES[:count])]
        self.cut: set[frozenset[str]] = set()
        self.foreign: set[bytes] = set()
        self.announced: list[tuple[float, str]] = []
        self.conflicts: list[str] = []
        self.probes = 0

    def __getitem__(self, name: str) -> Director:
        return next(one for one in self.all if one.name == name)

    def others(self, me: Director) -> list[Other]:
        return [
            Other(name, NAMES.index(name) < me.rank, claim)
            for name, (at, claim) in me.heard.items()
            if self.now - at < HEARD_S
        ]

    def mac(self, one: Director) -> bytes:
        return bytes((2, 0, 0, 0, 0, one.rank))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            for one in self.all:
                if not one.alive:
                    continue
                self.do(one, one.owner.step(self.now, one.no, self.others(one), leaving=one.leaving))
                for other in self.all:
                    if other is not one and other.alive and frozenset((one.name, other.name)) not in self.cut:
                        other.heard[one.name] = self.now, one.owner.claim

    def do(self, one: Director, do: object) -> None:
        if do.conflict:  # type: ignore[attr-defined]
            self.conflicts.append(one.name)
        if do.announce:  # type: ignore[attr-defined]
            self.announced.append((self.now, one.name))
        if not (do.probe or do.announce):  # type: ignore[attr-defined]
            return
        self.probes += do.probe  # type: ignore[attr-defined]
        for other in self.all:
            if other is one or not other.alive:
                continue
            if other.owner.phase is Phase.ANSWERING and do.probe:  # type: ignore[attr-defined]
                self.hears(one, self.mac(other))
            else:
                self.hears(other, self.mac(one), probes=do.probe)  # type: ignore[attr-defined]
        for mac in self.foreign:
            if do.probe:  # type: ignore[attr-defined]
                self.hears(one, mac)

    def hears(self, one: Director, mac: bytes, *, probes: bool = False) -> None:
        one.owner.heard(self.now, mac, self.others(one), probes=probes)

    @property
    def answering(self) -> str:
        return "".join(one.name for one in self.all if one.alive and one.owner.phase is Phase.ANSWERING)


def test_alone() -> None:
    """A director without others asks the segment first, and announces again and again for a while."""
    world = World(1)
    world.run(PROBES * PROBE_S - STEP)
    assert world.answering == ""
    world.run(0.2)
    assert world.answering == "a"
    assert world.probes == PROBES
    world.run(60)
    assert len(world.announced) == len(ANNOUNCE_AT_S)
    first = world.announced[0][0]
    assert [at - first for at, _ in world.announced] == pytest.approx(ANNOUNCE_AT_S, abs=STEP + 0.001)


def test_the_best_rank_answers_and_the_next_follows() -> None:
    """Of three that begin together one answers. When it is killed, the next does within the time to notice, and three
    probes; nobody announces who does not answer."""
    world = World(3)
    world.run(3)
    assert world.answering == "a"
    assert {name for _, name in world.announced} == {"a"}
    world["a"].alive = False
    world.run(HEARD_S + PROBES * PROBE_S + 4 * STEP)
    assert world.answering == "b"
    assert world["c"].owner.why == "b answers"


def test_the_better_one_returns_without_a_gap() -> None:
    """One that comes back takes over; the other one is silent only when it has heard that, so somebody answers at every
    moment, and nobody is reported."""
    world = World(2)
    world["a"].alive = False
    world.run(2)
    assert world.answering == "b"
    world["a"].alive, world["a"].no = True, "joining"  # it hears of the others first, as for their flows
    world.run(0.3)
    world["a"].no, both = "", 0.0
    for _ in range(100):
        world.run(STEP)
        assert world.answering
        both += STEP * (world.answering == "ab")
    assert world.answering == "a"
    assert both <= 0.2
    assert world.conflicts == []


@pytest.mark.parametrize("how", ["leaving", "down"])
def test_who_leaves_and_who_is_down(how: str) -> None:
    """A director that is drained goes on until another answers; one whose VIP is down is silent at once."""
    world = World(2)
    world.run(2)
    assert world.answering == "a"
    if how == "leaving":
        world["a"].leaving = True
        gaps = 0
        for _ in range(20):
            world.run(STEP)
            gaps += world.answering == ""
        assert gaps == 0
    else:
        world["a"].no = "below_min_members"
        world.run(STEP)
        assert "a" not in world.answering
        assert world["a"].owner.why == "below_min_members"
        world.run(0.6)
    assert world.answering == "b"
    world["a"].leaving, world["a"].no = False, ""
    world.run(2)
    assert world.answering == "a"


def test_who_leaves_alone_goes_on() -> None:
    """With nobody there to take it, a director that is drained answers."""
    world = World(2)
    world["b"].alive = False
    world.run(3)
    world["a"].leaving = True
    world.run(10)
    assert world.answering == "a"


def test_a_broken_channel_changes_nothing() -> None:
    """Directors that do not hear each other, but are on one segment: who answers goes on alone, and the other one says
    who has it."""
    world = World(2)
    world.run(3)
    world.cut = {frozenset("ab")}
    for _ in range(600):
        world.run(STEP)
        assert world.answering == "a"
    assert world["b"].owner.phase in (Phase.CONFLICT, Phase.PROBING)
    assert world["b"].owner.foreign == world.mac(world["a"])
    assert world.conflicts == ["b"]  # once, however often it asks
    world["a"].alive = False
    world.run(CONFLICT_S + RANK_S + 1)
    assert world.answering == "b"


def test_who_begins_without_the_channel_gives_way_by_rank() -> None:
    """Two that probe at the same moment and do not hear each other do not go on like that."""
    world = World(2)
    world.cut = {frozenset("ab")}
    world.run(15)
    assert len(world.answering) == 1
    world.cut = set()
    world.run(5)
    assert world.answering == "a"


def test_a_foreign_owner_keeps_what_it_had() -> None:
    """An address that somebody else has is not taken, until it is free; it is reported once."""
    world = World(2)
    world.foreign = {b"\x02\x99\0\0\0\1"}
    world.run(30)
    assert world.answering == ""
    assert "02:99:00:00:00:01 has it" in {world["a"].owner.why, world["b"].owner.why}
    assert sorted(world.conflicts) == ["a", "b"]
    world.foreign = set()
    world.run(2 * (CONFLICT_S + RANK_S))
    assert world.answering == "a"


def test_a_foreign_claim_is_defended_now_and_then() -> None:
    """Somebody who says that it has what we answer for is reported, and answered with an announcement: not every time,
    or two that both insist would shout for ever (RFC 5227, 2.4)."""
    world = World(1)
    world.run(20)
    world.announced.clear()
    for _ in range(200):
        world.run(0.1)
        world.hears(world["a"], b"\x02\x99\0\0\0\1")
    assert world.answering == "a"
    assert len(world.announced) == len(world.conflicts) == pytest.approx(20 / DEFEND_S, abs=1)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_one_answers_in_the_end(seed: int) -> None:
    """Directors die, return, drain, lose their members and each other, in any order: while all is quiet again, exactly
    the best of those that could answers."""
    rnd = random.Random(seed)
    world = World(rnd.choice((2, 3, 4)))
    for _ in range(12):
        one = rnd.choice(world.all)
        match rnd.randrange(4):
            case 0:
                one.alive = not one.alive
                one.owner = Owner(one.rank) if one.alive else one.owner
                one.heard = {}
            case 1:
                one.no = "" if one.no else "down"
            case 2:
                one.leaving = not one.leaving
            case 3:
                pair = frozenset(two.name for two in rnd.sample(world.all, 2))
                world.cut = world.cut ^ {pair}
        world.run(rnd.choice((0.1, 0.4, 2.0, 6.0)))
    world.cut = set()
    world.run(12)
    able = [one for one in world.all if one.alive and not one.no]
    ready = [one for one in able if not one.leaving]
    if ready:
        assert world.answering == ready[0].name
    else:
        assert len(world.answering) <= 1
