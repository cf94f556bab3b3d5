"""How a fleet judges members, and a director that is alone."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fleet.agreement import (
    Basis,
    Judged,
    Outage,
    Patience,
    PoolTerms,
    agree,
    count,
    guard,
    settled,
    terms_of,
    without_store,
)
from appliance.model import Health
from tests.builders import member, pool

UP, DOWN, UNKNOWN, MAINTENANCE = Health.UP, Health.DOWN, Health.UNKNOWN, Health.MAINTENANCE
M = "web/web1"
WEB = PoolTerms("web", frozenset({M}))
TEN = PoolTerms("web", frozenset(f"web/web{number}" for number in range(10)), panic_percent=50)


def ballot(*health: Health) -> dict[str, dict[str, Health]]:
    return {f"d{number}": {M: one} for number, one in enumerate(health, 1)}


@pytest.mark.parametrize(
    ("votes", "before", "health", "basis"),
    [
        ((UP, UP, UP), DOWN, UP, Basis.MAJORITY),
        ((UP, UP, DOWN), DOWN, UP, Basis.MAJORITY),
        ((DOWN, UP, DOWN), UP, DOWN, Basis.MAJORITY),
        ((DOWN,), UP, DOWN, Basis.MAJORITY),
        ((UP,), DOWN, UP, Basis.MAJORITY),
        ((UNKNOWN, DOWN, UNKNOWN), UP, DOWN, Basis.MAJORITY),
        ((UP, DOWN), UP, UP, Basis.TIE),
        ((UP, DOWN), DOWN, DOWN, Basis.TIE),
        ((UP, DOWN), UNKNOWN, UP, Basis.TIE),
        ((UP, DOWN, UNKNOWN), DOWN, DOWN, Basis.TIE),
        ((UNKNOWN, UNKNOWN), UP, UNKNOWN, Basis.MAJORITY),
        ((), UP, UNKNOWN, Basis.MAJORITY),
        ((MAINTENANCE, MAINTENANCE, UP), UP, MAINTENANCE, Basis.MAJORITY),
        ((MAINTENANCE, UP, UP), UP, UP, Basis.MAJORITY),
        ((MAINTENANCE, UP), UP, UP, Basis.TIE),
        ((MAINTENANCE, UP), MAINTENANCE, MAINTENANCE, Basis.TIE),
        ((MAINTENANCE, UP), DOWN, UP, Basis.TIE),
        ((MAINTENANCE, UP, DOWN), DOWN, UP, Basis.TIE),
        ((MAINTENANCE, DOWN), DOWN, DOWN, Basis.TIE),
        ((MAINTENANCE, DOWN), UP, MAINTENANCE, Basis.TIE),
        ((MAINTENANCE, DOWN, DOWN), MAINTENANCE, DOWN, Basis.MAJORITY),
    ],
)
def test_majority(votes: tuple[Health, ...], before: Health, health: Health, basis: Basis) -> None:
    """The majority of those with a verdict decides; a tie leaves what was agreed last, or else up. Who hears that a
    member is worked on has heard from it."""
    judged = count(M, ballot(*votes), before, "d1")
    assert (judged.health, judged.basis) == (health, basis)


def test_votes_are_visible() -> None:
    """Who said what is in the judgement, and that this director sees it otherwise."""
    judged = count(M, ballot(DOWN, UP, UP, UNKNOWN), UP, "d1")
    assert judged == Judged(UP, Basis.MAJORITY, mine=DOWN, up=("d2", "d3"), down=("d1",))
    assert judged.overruled
    assert not count(M, ballot(DOWN, UP, UP, UNKNOWN), UP, "d2").overruled
    assert not count(M, ballot(DOWN, UP, UP, UNKNOWN), UP, "d4").overruled


@given(
    st.dictionaries(st.sampled_from(["d1", "d2", "d3", "d4"]), st.sampled_from(Health)),
    st.sampled_from(Health),
)
def test_all_directors_judge_the_same(said: dict[str, Health], before: Health) -> None:
    """From the same entries every director makes the same health, whoever it is and in whatever order it reads them."""
    views = {name: {M: health} for name, health in said.items()}
    backwards = dict(reversed(views.items()))
    judged = {agree(WEB, some, {M: before}, name)[M].health for some in (views, backwards) for name in (*said, "d9")}
    assert len(judged) == 1


def test_terms_leave_out_who_is_not_wanted() -> None:
    """Members that are switched off, without a share or leaving are not agreed on, nor counted for a panic."""
    web = pool(member(1), member(2, enabled=False), member(3, ratio=0), member(4, leaving=True))
    assert terms_of(web) == PoolTerms("web", frozenset({"web/web1"}), 0)


def judged(down: int, members: PoolTerms = TEN) -> dict[str, Judged]:
    return {
        name: Judged(DOWN if place < down else UP, Basis.MAJORITY) for place, name in enumerate(sorted(members.members))
    }


def test_no_panic_up_to_the_limit() -> None:
    """Exactly `panic_percent` is not more than that; 0 is never."""
    before = dict.fromkeys(TEN.members, UP)
    assert guard(TEN, judged(5), before) == judged(5)
    assert guard(PoolTerms("web", TEN.members, 0), judged(10), before) == judged(10)


def test_panic_keeps_the_last_good_set() -> None:
    """With more down at once, those that were up stay in and say why; those that were out stay out."""
    before = dict.fromkeys(TEN.members, UP) | {"web/web0": DOWN}
    after = guard(TEN, judged(6), before)
    assert after["web/web0"] == Judged(DOWN, Basis.MAJORITY)
    assert {after[f"web/web{number}"].basis for number in range(1, 6)} == {Basis.PANIC}
    assert {after[f"web/web{number}"].health for number in range(1, 10)} == {UP}


def test_panic_takes_back_who_recovers() -> None:
    """A member that comes up while the others are all down is used."""
    before = dict.fromkeys(TEN.members, UP) | {"web/web9": DOWN}
    after = guard(TEN, judged(9), before)
    assert after["web/web9"].health is UP
    assert settled(after, before, TEN.members)["web/web9"] is UP


def test_panic_without_memory_takes_the_verdicts() -> None:
    """When nothing was ever agreed there is no good set to keep."""
    assert guard(TEN, judged(10), {}) == judged(10)


def test_settled_remembers() -> None:
    """What is agreed is remembered while nobody can speak, and forgotten with the member; no news is the same value."""
    before = {M: DOWN, "web/old": UP, "web/theirs": UP}
    after = settled({M: Judged(UNKNOWN, Basis.MAJORITY)}, before, frozenset({M, "web/theirs"}))
    assert after == {M: DOWN, "web/theirs": UP}
    assert settled({M: Judged(DOWN, Basis.TIE)}, after, frozenset({M, "web/theirs"})) is after
    assert settled({M: Judged(UP, Basis.MAJORITY)}, after, frozenset())[M] is UP


def alone(agreed: Health, said: Health, mine: Health, away_s: float) -> Judged:
    outage = Outage(100.0, {M: Judged(agreed, Basis.MAJORITY, said)}, {M: said}, {M: agreed})
    return without_store(WEB, {M: mine}, outage, 100.0 + away_s, Patience(hold_s=10, split_s=120))[M]


@pytest.mark.parametrize(
    ("agreed", "said", "mine", "at_once", "after_hold", "after_split"),
    [
        (UP, UP, UP, UP, UP, UP),
        (UP, UP, DOWN, DOWN, DOWN, DOWN),
        (UP, UNKNOWN, DOWN, DOWN, DOWN, DOWN),
        (DOWN, DOWN, UP, DOWN, UP, UP),
        (DOWN, UNKNOWN, UP, DOWN, UP, UP),
        (UP, DOWN, DOWN, UP, UP, DOWN),
        (DOWN, UP, UP, DOWN, DOWN, UP),
        (UP, DOWN, UP, UP, UP, UP),
        (DOWN, UP, DOWN, DOWN, DOWN, DOWN),
        (UP, UP, UNKNOWN, UP, UP, UP),
        (DOWN, DOWN, UNKNOWN, DOWN, DOWN, DOWN),
        (UNKNOWN, UNKNOWN, UP, UP, UP, UP),
        (UNKNOWN, UNKNOWN, DOWN, DOWN, DOWN, DOWN),
    ],
)
def test_without_the_store(
    agreed: Health, said: Health, mine: Health, at_once: Health, after_hold: Health, after_split: Health
) -> None:
    """Bad news counts at once, good news after a while, and an old split view only long after."""
    for away_s, expected in ((0, at_once), (9.9, at_once), (10, after_hold), (119.9, after_hold), (120, after_split)):
        assert alone(agreed, said, mine, away_s).health is expected, f"after {away_s} s"


def test_only_news_moves_members_before_the_split_ends() -> None:
    """The store's loss alone moves nothing: with the same own verdict as before, health stays as agreed for split_s."""
    for agreed, said in itertools.product((UP, DOWN), Health):
        for away_s in (0, 5, 10, 60, 119):
            assert alone(agreed, said, said, away_s).health is agreed


def test_a_short_flutter_ends_where_it_began() -> None:
    """A member that was down for a moment during the outage is in again as soon as it is up: as it was agreed."""
    assert alone(UP, UP, DOWN, 3).health is DOWN
    assert alone(UP, UP, UP, 4) == Judged(UP, Basis.HELD, mine=UP)


def test_panic_without_the_store() -> None:
    """A monitor that goes sick during the outage empties no pool either."""
    agreed = {name: Judged(UP, Basis.MAJORITY, UP) for name in TEN.members}
    said = dict.fromkeys(TEN.members, UP)
    after = without_store(TEN, dict.fromkeys(TEN.members, DOWN), Outage(0.0, agreed, said, said), 30.0)
    assert {(one.health, one.basis) for one in after.values()} == {(UP, Basis.PANIC)}
