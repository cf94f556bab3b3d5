"""Which differences between two directors show in the digests of their tables, and which do not matter."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.decide import Desired, decide
from appliance.fleet.tables import SERVICES, TableDigests
from appliance.model import AdminState, Algorithm, Encapsulation, HashMode, Health, Order, VirtualService
from appliance.state import Learning
from tests.builders import L3, config, hop, member, pool, service, snapshot

A, B = pool(member(1), member(2), name="a"), pool(member(3), member(4), name="b")


def of(number: int, used=A, **changes) -> VirtualService:
    return service(name=f"s{number}", vips=(ip_address("198.51.100.0") + number,), pool=used, **changes)


def desired(*services: VirtualService, before: Desired | None = None, now: float = 1000.0, **known) -> Desired:
    return decide(snapshot(config(*services), **known), before, now)


def digests(*services: VirtualService, **known) -> dict[str, int]:
    return TableDigests().of(desired(*services, **known))


ONE, TWO = "198.51.100.1 tcp 80", "198.51.100.2 tcp 80"
USUAL = of(1), of(2, B)


def differences(one: dict[str, int], other: dict[str, int]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def a(**changes):
    return replace(A, **changes)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((of(1, B), of(2)), {ONE, TWO}),
        ((of(1, a(hash_mode=HashMode.SOURCE_IP)), of(2, B)), {ONE}),
        ((of(1, a(algorithm=Algorithm.ROUND_ROBIN)), of(2, B)), {ONE}),
        ((of(1, a(members=(member(1, address=ip_address("203.0.113.99")), member(2)))), of(2, B)), {ONE}),
        ((of(1, a(members=(member(1), member(2, ratio=3)))), of(2, B)), {ONE}),
        ((of(1, profile=replace(of(1).profile, session_idle_timeout_s=60)), of(2, B)), {ONE}),
        (
            (of(1, profile=replace(of(1).profile, delivery=replace(L3, encapsulation=Encapsulation.GRE))), of(2, B)),
            {ONE},
        ),
        ((of(3), of(2, B)), {SERVICES, ONE, "198.51.100.3 tcp 80"}),
        ((of(1),), {SERVICES, TWO}),
        ((of(1, enabled=False), of(2, B)), {SERVICES, ONE}),
        ((of(2, B), of(1)), set()),
    ],
    ids=["pools", "hash", "algorithm", "address", "weight", "idle", "delivery", "vip", "missing", "disabled", "order"],
)
def test_configurations_that_differ(other, expected):
    """Whatever sends flows elsewhere shows by the VIPs concerned; the order of tables is nothing."""
    assert differences(digests(*USUAL), digests(*other)) == expected


def test_what_directors_need_not_have_alike():
    """Numbers of members, and next hops."""
    wanted = {way: 40 - index for way, index in snapshot(config(*USUAL)).indices.items()}
    hops = {ip_address(f"203.0.113.{number}"): hop(99) for number in range(1, 5)}
    assert digests(*USUAL) == digests(*USUAL, indices=wanted, next_hops=hops)


def test_windows():
    """One director is in a window, and another has begun anew without knowing of it: they send flows from before to
    different members. After the window, a tail is as good as steady words."""
    drained = {"a/web1": Order(AdminState.DRAIN, 1001.0)}
    first = desired(of(1))
    second = desired(of(1), before=first, now=1001.0, orders=drained)
    anew = desired(of(1), now=1001.0, orders=drained)
    assert differences(TableDigests().of(second), TableDigests().of(anew)) == {ONE}
    later = desired(of(1), before=second, now=1001.0 + A.window_s, orders=drained)
    assert next(iter(later.courses.values())).tails
    assert TableDigests().of(later) == TableDigests().of(anew)


def test_who_does_not_know_yet_who_serves_compares_nothing():
    """That there is the virtual service it says all the same."""
    learning = digests(*USUAL, learning={"a": Learning.FIRST}, health={"a/web1": Health.UNKNOWN})
    usual = digests(*USUAL)
    assert learning == {name: digest for name, digest in usual.items() if name != ONE}


def test_nothing_is_computed_twice(monkeypatch):
    """Neither slots that many virtual services share, nor such as have not changed."""
    counted = []
    known = TableDigests._known

    def count(self, slots):
        before = self._owners.get(id(slots))
        made = known(self, slots)
        counted.append(made is not before)
        return made

    monkeypatch.setattr(TableDigests, "_known", count)
    made = TableDigests()
    services = [of(number) for number in range(1, 20)]
    first = desired(*services)
    one = made.of(first)
    assert counted == [True]
    assert made.of(desired(*services, before=first)) == one
    assert counted == [True, False]
