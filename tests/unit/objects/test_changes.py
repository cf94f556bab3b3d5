"""Changes of several objects at once: what they make of the files, and everything that is wrong with them."""

import tomllib
from itertools import permutations
from typing import Any

import pytest

from appliance.config.document import Document
from appliance.objects.canonical import etag
from appliance.objects.catalogue import Catalogue
from appliance.objects.changes import ChangesError, Made, Result, make, read_steps, results
from appliance.objects.kinds import BGP_PEERS, MEMBERS, POOLS, VIRTUAL_SERVICES
from tests.unit.objects.test_catalogue import EXAMPLE, PATH, SHOP, TWO, checked, lines

NEW_POOL = {"kind": "pools", "object": {"name": "b", "member": [{"address": "203.0.113.41"}]}}
NEW_SERVICE = {
    "kind": "virtual-services",
    "name": "b",
    "object": {"vips": ["198.51.100.99"], "ports": [80], "network_profile": "shop", "pool": "b"},
}
GONE_SERVICE = {"op": "delete", "kind": "virtual-services", "name": "shop"}
GONE_POOL = {"op": "delete", "kind": "pools", "name": "shop"}
PROFILE = {"op": "patch", "kind": "network-profiles", "name": "shop", "object": {"session_idle_timeout": 77}}


def made(given: list[dict[str, Any]], document: Document = TWO) -> Made:
    return make(document, read_steps(given, "here"))


def mistakes(given: object, document: Document = TWO) -> dict[str, str]:
    with pytest.raises(ChangesError) as why:
        make(document, read_steps(given, "here"))
    return {mistake.pointer: mistake.problem.message for mistake in why.value.mistakes}


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_order_does_not_matter(order: tuple[int, ...]) -> None:
    """What uses others may come before them, and what goes may be used until then."""
    given = [NEW_POOL, NEW_SERVICE, GONE_SERVICE, GONE_POOL]
    found = made([given[i] for i in order])
    after = Catalogue(checked(TWO, found))
    assert (after.find(POOLS, "shop"), after.find(VIRTUAL_SERVICES, "shop")) == (None, None)
    assert after.get(VIRTUAL_SERVICES, "b").values["pool"] == "b"
    told = {done.step.id: done.result for done in results(found, TWO)}
    assert told == {
        "pools/b": Result.MADE,
        "virtual-services/b": Result.MADE,
        "virtual-services/shop": Result.REMOVED,
        "pools/shop": Result.REMOVED,
    }


def test_comments_stay_and_what_is_so_already_is_not_written() -> None:
    """One line differs."""
    same = {"kind": "pools", "name": "shop", "object": Catalogue(TWO).get(POOLS, "shop").values}
    found = made([same, PROFILE])
    assert lines(TWO, found) == ["+session_idle_timeout = 77"]
    assert [done.result for done in results(found, TWO)] == [Result.UNCHANGED, Result.CHANGED]


def test_members_go_with_their_pools() -> None:
    """A whole comes before what is within it, in whichever order they are given."""
    member = {"kind": "members", "name": "b/extra", "object": {"address": "203.0.113.42"}}
    gone = {"op": "delete", "kind": "members", "name": "shop/203.0.113.81"}
    after = Catalogue(TWO.having(made([member, gone, NEW_POOL]).texts))
    assert [entry.name for entry in after.all(MEMBERS) if entry.name.startswith(("b/", "shop/"))] == [
        "b/203.0.113.41",
        "b/extra",
        "shop/shop2",
    ]
    bare = Document(PATH, {"onward.toml": EXAMPLE[: EXAMPLE.index("[bgp]")]})
    peer = {"kind": "bgp-peers", "object": {"address": "192.0.2.1", "remote_as": 65000}}
    bgp = {"kind": "bgp", "object": {"local_as": 64512, "router_id": "192.0.2.11"}}
    after = Catalogue(bare.having(made([peer, bgp], bare).texts))
    assert after.get(BGP_PEERS, "192.0.2.1").values["remote_as"] == 65000


def test_what_must_hold_is_about_what_is_in_force() -> None:
    """An ETag is that of before all of the changes; one that is another is told as stale."""
    tag = etag(Catalogue(TWO).get(MEMBERS, "shop/shop2").values)
    whole = {"op": "patch", "kind": "pools", "name": "shop", "object": {"member": [{"address": "203.0.113.99"}]}}
    member = {"kind": "members", "name": "shop/shop2", "if_match": tag, "object": {"address": "203.0.113.98"}}
    after = Catalogue(TWO.having(made([member, whole]).texts))
    assert [entry.values["address"] for entry in after.all(MEMBERS) if entry.name.startswith("shop/")] == [
        "203.0.113.99",
        "203.0.113.98",
    ]
    with pytest.raises(ChangesError) as why:
        made([{**member, "if_match": '"old"'}])
    assert [mistake.stale for mistake in why.value.mistakes] == [True]


def test_every_change_that_cannot_be_made_is_told() -> None:
    """With its place in what was given; and what the others make is there, for its own mistakes."""
    given = [
        {"op": "patch", "kind": "pools", "name": "shp", "object": {}},
        {"op": "create", "kind": "pools", "object": {"name": "shop"}},
        GONE_POOL,
        {"kind": "pools", "name": "c", "object": {"member": [None]}},
        {"kind": "pools", "name": "d", "object": {"name": "e"}},
        {"op": "delete", "kind": "members", "name": "shop/none"},
        {**NEW_SERVICE, "object": {**NEW_SERVICE["object"], "prots": [1]}},  # type: ignore[dict-item]
    ]
    with pytest.raises(ChangesError) as why:
        made([given[0], given[1]])
    assert why.value.rest is not None
    assert why.value.rest.texts == TWO.texts
    found = mistakes([given[0], *given[2:]])
    assert {pointer: message.partition(";")[0] for pointer, message in found.items()} == {
        "/changes/0/object": "there is no pool shp",
        "/changes/1/object": "pool shop is used by virtual-services/shop",
        "/changes/2/object/member/0": "null in a list",
        "/changes/3/object/name": "this is another pool than d, which the request is about",
        "/changes/4/object": "there is no member shop/none",
    }
    assert mistakes([given[1]]) == {"/changes/0/object": "pool shop is there already"}


@pytest.mark.parametrize(
    ("given", "pointers"),
    [
        (None, ["/changes"]),
        ([], ["/changes"]),
        ([7], ["/changes/0"]),
        ([{"kind": "pool", "op": "push", "object": {}}], ["/changes/0/op", "/changes/0/kind"]),
        ([{"kind": "pools", "name": "a"}, {"kind": "pools", "object": {}}], ["/changes/0/object", "/changes/1/name"]),
        ([{"kind": "pools", "name": "a", "object": {}, "ob/j": 1}], ["/changes/0/ob~1j"]),
        ([{**GONE_POOL, "object": {}}], ["/changes/0/object"]),
        ([{"kind": "members", "name": "web", "object": {}}], ["/changes/0/name"]),
        ([{"kind": "bgp", "name": "x", "object": {}}], ["/changes/0/name"]),
        ([{**GONE_POOL, "if_match": 7}], ["/changes/0/if_match"]),
        ([GONE_POOL, {**PROFILE}, {"kind": "pools", "object": {"name": "shop"}}], ["/changes/2"]),
    ],
)
def test_what_is_no_change_is_refused(given: object, pointers: list[str]) -> None:
    """All of it, by place."""
    assert list(mistakes(given)) == pointers


def test_a_wrong_object_does_not_keep_others_from_being_looked_at() -> None:
    """What is within an object with mistakes, and what is added to it, is written down for the check to judge."""
    given = [
        {"kind": "pools", "name": "shop", "object": {"member": 5, "hahs": 1}},
        {"op": "patch", "kind": "members", "name": "shop/x", "object": {"ratio": 2}},
        {"kind": "members", "name": "shop/shop2", "object": {"address": "203.0.113.7", "ratio": -1}},
        {"kind": "bgp", "object": {"peer": 3}},
        {"kind": "bgp-peers", "name": "192.0.2.9", "object": {"remote_as": 1}},
    ]
    one = Document(PATH, {"onward.toml": EXAMPLE + SHOP[: SHOP.index("[[bgp.peer]]")]})
    with pytest.raises(ChangesError) as why:
        made(given, one)
    assert [mistake.pointer for mistake in why.value.mistakes] == ["/changes/1/object"]
    assert why.value.rest is not None
    assert '"203.0.113.7"' in why.value.rest.texts["onward.toml"]


def test_many_new_objects_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, the files are read a fixed number of times."""
    read = list[int]()
    loads = tomllib.loads

    def counted(text: str) -> dict[str, Any]:
        read.append(len(text))
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    counts = []
    for many in (5, 50):
        document = Document(PATH, dict(TWO.texts))
        given = [
            {"kind": "pools", "object": {"name": f"n{i}", "member": [{"address": f"203.0.113.{i + 1}"}]}}
            for i in range(many)
        ]
        read.clear()
        found = made([*given, PROFILE], document)
        counts.append(len(read))
        assert len(Catalogue(document.having(found.texts)).all(POOLS)) == len(Catalogue(document).all(POOLS)) + many
    assert counts[0] == counts[1]
