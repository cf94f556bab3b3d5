"""How a fleet judges a member when its directors differ, and how a director judges when it cannot ask. Pure.

Three steps, each of which can be asked by itself:

1. `count`: the majority of the directors that can speak decides.
2. `guard`: when too many members of a pool would be out at once, it is rather the monitors that are sick.
3. `without_store`: what counts while the store cannot be reached.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from appliance.model import Health, Pool

Verdicts = Mapping[str, Health]
"""By `pool/member`; missing means unknown."""


class Basis(StrEnum):
    """What a judgement rests on."""

    MAJORITY = "majority"
    TIE = "tie"
    """As many directors say up as down: what was agreed last stays."""
    PANIC = "panic"
    """Too many members would be out at once: what was agreed last stays."""
    HELD = "held"
    """The store cannot be reached: what was agreed last stays."""
    LOCAL = "local"
    """The store cannot be reached: this director's own verdict."""


@dataclass(frozen=True)
class Judged:
    """One member, as this director is to take it."""

    health: Health
    basis: Basis
    mine: Health = Health.UNKNOWN
    """What this director sees itself."""

    up: tuple[str, ...] = ()
    """Directors that say so, as far as is known, by name."""
    down: tuple[str, ...] = ()
    maintenance: tuple[str, ...] = ()

    @property
    def overruled(self) -> bool:
        """This director sees it otherwise."""
        return Health.UNKNOWN not in (self.mine, self.health) and self.mine is not self.health


@dataclass(frozen=True)
class PoolTerms:
    """What is to be agreed of a pool."""

    name: str
    members: frozenset[str]
    """`pool/member` of those that are wanted in rotation."""
    panic_percent: int = 0


def terms_of(pool: Pool) -> PoolTerms:
    """Members that are switched off or leaving are not asked about: they neither serve nor fail."""
    wanted = (member for member in pool.members if member.enabled and member.ratio and not member.leaving)
    return PoolTerms(pool.name, frozenset(f"{pool.name}/{member.name}" for member in wanted), pool.panic_percent)


def agree(terms: PoolTerms, views: Mapping[str, Verdicts], before: Verdicts, mine: str) -> dict[str, Judged]:
    """What the fleet makes of a pool. Every director that asks with the same arguments but *mine* gets the same health.

    Args:
        terms: the pool.
        views: what each director says that has a live lease, by its name.
        before: what was agreed last, by the store; from `settled`.
        mine: the name of this director.

    Returns:
        By `pool/member`, all members of *terms* and no others.
    """
    judged = {member: count(member, views, before.get(member, Health.UNKNOWN), mine) for member in terms.members}
    return guard(terms, judged, before)


def count(member: str, views: Mapping[str, Verdicts], before: Health, mine: str) -> Judged:
    """The majority of those that can speak, which are those with a verdict. Nobody: unknown.

    First whether the member is down: who hears that it is worked on has heard from it. Then, among those that hear from
    it, what it says. A tie leaves what was agreed last. Without that, up: that one director reaches the member proves
    that it serves; that another one does not proves nothing.
    """
    said = {name: view.get(member, Health.UNKNOWN) for name, view in sorted(views.items())}
    up, down, maintenance = (
        tuple(name for name, health in said.items() if health is each)
        for each in (Health.UP, Health.DOWN, Health.MAINTENANCE)
    )
    alive, basis = len(up) + len(maintenance), Basis.MAJORITY
    if len(down) > alive:
        health = Health.DOWN
    elif down and len(down) == alive and before is Health.DOWN:
        health, basis = Health.DOWN, Basis.TIE
    elif not alive:
        health = Health.UNKNOWN
    elif len(up) != len(maintenance):
        health = Health.UP if len(up) > len(maintenance) else Health.MAINTENANCE
        basis = Basis.TIE if len(down) == alive else Basis.MAJORITY
    else:
        health, basis = Health.MAINTENANCE if before is Health.MAINTENANCE else Health.UP, Basis.TIE
    return Judged(health, basis, said.get(mine, Health.UNKNOWN), up, down, maintenance)


def guard(terms: PoolTerms, judged: Mapping[str, Judged], before: Verdicts) -> dict[str, Judged]:
    """With more than `panic_percent` of a pool down, nobody is taken out any more.

    Usually that is a sick monitor and not as many sick members at once (packets.md, C9). Members that come back do so,
    and those that were out before stay out.
    """
    down = [member for member, verdict in judged.items() if verdict.health is Health.DOWN]
    if not terms.panic_percent or len(down) * 100 <= terms.panic_percent * len(terms.members):
        return dict(judged)
    kept = {member: before[member] for member in down if before.get(member, Health.UNKNOWN) is Health.UP}
    return {
        member: replace(verdict, health=kept[member], basis=Basis.PANIC) if member in kept else verdict
        for member, verdict in judged.items()
    }


def settled(judged: Mapping[str, Judged], before: Verdicts, mentioned: Set[str]) -> Verdicts:
    """What is agreed now, for ties and panics to come; *before* itself when that is the same.

    Args:
        judged: by `agree`.
        before: what was agreed last, of the same pool.
        mentioned: members that any director speaks of. Others are gone, and so is what was agreed of them.
    """
    news = {member: verdict.health for member, verdict in judged.items() if verdict.health is not Health.UNKNOWN}
    after = {member: health for member, health in before.items() if member in mentioned or member in news} | news
    return before if after == before else after


@dataclass(frozen=True)
class Outage:
    """What was known when the store was lost."""

    at: float
    """By a clock that never jumps."""

    agreed: Mapping[str, Judged]
    """What was in force."""

    said: Verdicts
    """What the fleet had last heard of this director."""

    settled: Verdicts
    """What was agreed last, of all pools."""


@dataclass(frozen=True)
class Patience:
    """For how long what was agreed outlives the store."""

    hold_s: float = 10.0
    """Against good news."""

    split_s: float = 120.0
    """Against a verdict of our own that the fleet had overruled."""

    def ends(self) -> Iterable[float]:
        """When, in seconds after the loss, `without_store` may judge otherwise although nothing new was seen."""
        return self.hold_s, self.split_s


def without_store(
    terms: PoolTerms, own: Verdicts, outage: Outage, now: float, patience: Patience = Patience()
) -> dict[str, Judged]:
    """What counts while the store cannot be reached: what was agreed last, until we know better ourselves.

    * No news of our own about a member: it stays as agreed. This includes what the fleet overruled us in, for
      `split_s`: that we alone see a member otherwise was so before, and is no reason to move flows just because the
      store is away. After that nobody knows any more what the others see, and our own verdict counts.
    * Bad news, a member turns down that we saw up or not at all, or says that it is worked on: at once. Nothing goes to
      a dead member because of the store. Should we be the only one to see it so, what we send there would be lost all
      the same.
    * Good news, a member turns up: after `hold_s`. A leader's election takes 1 to 2 s, and it is better that a member
      waits for so long than that the tables of a fleet differ.
    * Nothing was agreed of it yet: our own verdict, at once.

    What we have no verdict of stays as agreed. `guard` applies here as well. Nothing of this knows of VIPs: they follow
    the members, as ever.

    Args:
        terms: the pool.
        own: what this director sees now.
        outage: what it knew when the store was lost.
        now: by the clock of *outage*.
        patience: how long.
    """
    away_s = now - outage.at
    judged = {}
    for member in terms.members:
        mine = own.get(member, Health.UNKNOWN)
        last = outage.agreed.get(member, Judged(Health.UNKNOWN, Basis.HELD))
        judged[member] = (
            replace(last, health=mine, basis=Basis.LOCAL, mine=mine)
            if _own_counts(mine, last.health, outage.said.get(member, Health.UNKNOWN), away_s, patience)
            else replace(last, basis=Basis.HELD, mine=mine)
        )
    return guard(terms, judged, outage.settled)


def _own_counts(mine: Health, agreed: Health, said: Health, away_s: float, patience: Patience) -> bool:
    if mine is Health.UNKNOWN:
        return False
    if agreed is Health.UNKNOWN:
        return True
    if mine is not agreed and mine is said:
        return away_s >= patience.split_s
    if mine is Health.MAINTENANCE and agreed is Health.UP:
        return True  # it keeps what it has
    return (mine is Health.DOWN and mine is not agreed) or away_s >= patience.hold_s


def returned(fleet: Mapping[str, Judged], alone: Mapping[str, Judged], outage: Outage) -> dict[str, Judged]:
    """What counts shortly after the store has returned, when some directors may not have told it yet what they see now.

    The fleet's judgement, at once, but for members of which we had learned something meanwhile that the fleet does not
    know yet: to go back to what was agreed before, and then forth again, would only move flows.

    Args:
        fleet: by `agree`.
        alone: by `without_store`.
        outage: of which that was.
    """
    return {
        member: alone[member] if _is_news(member, alone[member], judged, outage) else judged
        for member, judged in fleet.items()
    }


def _is_news(member: str, alone: Judged, fleet: Judged, outage: Outage) -> bool:
    before = outage.agreed.get(member)
    return alone.health is not fleet.health and (before is None or alone.health is not before.health)
