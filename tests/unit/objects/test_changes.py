"""Changes of several objects at once: what they make of the files, and everything that is wrong with them."""

import sys
import tomllib
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from appliance.config.document import Document
from appliance.objects import changes
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


def test_what_goes_is_not_changed_besides() -> None:
    """Nothing that is asked for is lost without a word; what is in it may go as well."""
    member = {"op": "patch", "kind": "members", "name": "shop/shop2", "object": {"ratio": 2}}
    assert mistakes([member, GONE_POOL, GONE_SERVICE]) == {
        "/changes/0": "pools/shop goes (/changes/1), and members/shop/shop2 is in it"
    }
    peer = {"kind": "bgp-peers", "object": {"address": "192.0.2.1", "remote_as": 65000}}
    assert mistakes([{"op": "delete", "kind": "bgp"}, peer]) == {
        "/changes/1": "bgp goes (/changes/0), and bgp-peers/192.0.2.1 is in it"
    }
    gone = {"op": "delete", "kind": "members", "name": "shop/shop2"}
    assert Catalogue(made([gone, GONE_POOL, GONE_SERVICE]).after).find(POOLS, "shop") is None


def test_what_is_there_already_is_told_apart() -> None:
    """From what somebody else has changed."""
    new = {"op": "create", "kind": "pools", "object": {"name": "shop"}}
    with pytest.raises(ChangesError) as why:
        made([new, {**PROFILE, "if_match": '"old"'}])
    assert [(mistake.taken, mistake.stale) for mistake in why.value.mistakes] == [(True, False), (False, True)]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_member_stands_in_its_pool_whatever_else_is_new(order: tuple[int, ...]) -> None:
    """The last pool of a file is the usual place for one more, and new tables come behind all of it."""
    text = EXAMPLE[: EXAMPLE.index("[bgp]")] + SHOP[: SHOP.index("[[virtual_service]]")]
    document = Document(PATH, {"onward.toml": text})
    monitor = {"kind": "health-monitors", "object": {"name": "new", "type": "ping"}}
    given = [NEW_POOL, {"kind": "members", "name": "shop/x", "object": {"address": "203.0.113.7"}}, monitor]
    after = made([given[i] for i in order], document).texts["onward.toml"]
    assert 'name = "shop2"\naddress = "203.0.113.82"\n[[pool.member]]\nname = "x"\n' in after
    assert after.index('name = "x"') < min(after.index('name = "b"'), after.index('name = "new"'))


def many_pools(count: int) -> Document:
    text = "".join(
        f'\n# about n{i}\n[[pool]]\nname = "n{i}"\n# the first\n[[pool.member]]\naddress = "203.0.113.{i % 250 + 1}"\n'
        for i in range(count)
    )
    return Document(PATH, {**TWO.texts, "conf.d/many.toml": text})


MANY: dict[str, Callable[[int], dict[str, Any]]] = {
    "new": lambda i: {"kind": "pools", "object": {"name": f"new{i}", "member": [{"address": "203.0.113.1"}]}},
    "patched": lambda i: {"op": "patch", "kind": "pools", "name": f"n{i}", "object": {"slow_start": 7}},
    "gone": lambda i: {"op": "delete", "kind": "pools", "name": f"n{i}"},
    "members": lambda i: {"kind": "members", "name": f"n{i}/m", "object": {"address": "203.0.113.251"}},
    "members of one": lambda i: {"kind": "members", "name": f"n0/m{i}", "object": {"address": f"192.0.2.{i}"}},
}


@pytest.mark.parametrize("change", MANY.values(), ids=MANY)
def test_many_changes_cost_little_more_than_one(
    change: Callable[[int], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are read a fixed number of times, however many there are; and four times as many objects, all of which
    change, are about four times the work."""
    read, calls = list[int](), [0]
    loads = tomllib.loads

    def counted(text: str) -> dict[str, Any]:
        read.append(len(text))
        return loads(text)

    def called(_frame: object, event: str, _arg: object) -> None:
        calls[0] += event == "call"

    monkeypatch.setattr(tomllib, "loads", counted)
    counts, work = [], []
    for many in (60, 240):
        document, steps = many_pools(many), read_steps([change(i) for i in range(many)], "here")
        read.clear()
        calls[0] = 0
        before = sys.getprofile()
        sys.setprofile(called)
        try:
            found = make(document, steps)
        finally:
            sys.setprofile(before)
        assert found.texts != document.texts
        counts.append(len(read))
        work.append(calls[0])
    assert counts[0] == counts[1] <= 4
    assert work[1] < 7 * work[0]


STEPS = st.lists(
    st.one_of(
        st.builds(
            lambda op, name, ratio: {"op": op, "kind": "members", "name": name, "object": {"ratio": ratio}},
            st.just("patch"),
            st.sampled_from(["shop/203.0.113.81", "shop/shop2", "web/web1"]),
            st.integers(0, 9),
        ),
        st.builds(
            lambda name, last: {"kind": "members", "name": name, "object": {"address": f"203.0.113.{last}"}},
            st.sampled_from(["shop/shop2", "shop/x", "web/x", "dns/x"]),
            st.integers(90, 99),
        ),
        st.builds(
            lambda name: {"op": "delete", "kind": "members", "name": name},
            st.sampled_from(["shop/shop2", "web/web1"]),  # others stay: what is in between is a configuration as well
        ),
        st.builds(
            lambda name, start: {"op": "patch", "kind": "pools", "name": name, "object": {"slow_start": start}},
            st.sampled_from(["shop", "web", "dns"]),
            st.integers(0, 9),
        ),
        st.builds(
            lambda op, hold: {"op": op, "kind": "bgp", "object": {"hold_down": hold}},
            st.just("patch"),
            st.integers(0, 9),
        ),
        st.builds(
            lambda address, number: {"kind": "bgp-peers", "name": address, "object": {"remote_as": number}},
            st.sampled_from(["192.0.2.1", "2001:db8::1", "192.0.2.77"]),
            st.integers(1, 9),
        ),
        st.just({"op": "delete", "kind": "bgp-peers", "name": "2001:db8::1"}),
        st.just(GONE_SERVICE),
        st.just(GONE_POOL),
        st.just(NEW_POOL),
        st.just(NEW_SERVICE),
        st.just(PROFILE),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda step: f"{step['kind']}/{step.get('name') or step.get('object', {}).get('name')}",
)


@examples(STEPS)
def test_together_they_make_what_they_make_one_by_one(given: list[dict[str, Any]]) -> None:
    """Of what is said, and of which of them cannot be made."""
    try:
        steps = read_steps(given, "here")
    except ChangesError:
        return
    one_by_one, failed = TWO, set[str]()
    for step in sorted(steps, key=changes.turn):
        one_by_one, mistaken = outcome(one_by_one, [step])
        failed |= mistaken
    together, mistaken = outcome(TWO, steps)
    assert together.data == one_by_one.data
    assert mistaken == failed
    assert together.data == {name: tomllib.loads(text) for name, text in together.texts.items()}


def outcome(document: Document, steps: list[changes.Step]) -> tuple[Document, set[str]]:
    """What becomes of the document, and which steps cannot be made."""
    try:
        return make(document, steps).after, set()
    except ChangesError as error:
        rest = error.rest.after if error.rest is not None else document
        return rest, {mistake.pointer for mistake in error.mistakes}
