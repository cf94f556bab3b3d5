"""Objects over the control socket: a real server, a real transaction, real files."""

import asyncio
import http.client
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.test_config import Served, serving
from tests.unit.config.test_document import web

Answer = tuple[int, dict[str, str], Any]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


async def ask(served: Served, method: str, resource: str, body: Any = None, **headers: str) -> Answer:
    """One request, in a thread: the server lives in this loop."""

    def talk() -> Answer:
        connection = _Connection(served.socket)
        raw = body if isinstance(body, str) or body is None else json.dumps(body)
        try:
            connection.request(method, "/v1" + resource, raw, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, dict(answer.headers), json.loads(text) if text else None
        finally:
            connection.close()

    return await asyncio.to_thread(talk)


NEW = {"name": "b", "member": [{"address": "203.0.113.2"}]}


async def test_an_object_is_made_shown_changed_and_removed(served: Served) -> None:
    """Each step is a revision with its author and reason, and is in force."""
    status, headers, made = await ask(served, "POST", "/objects/pools?reason=more%20room", NEW)
    assert (status, headers["Location"], headers["ETag"]) == (201, "/v1/objects/pools/b", made["etag"])
    assert made["object"]["member"][0] == {
        "name": "203.0.113.2",
        "address": "203.0.113.2",
        "ratio": 1,
        "enabled": True,
        "max_connections": 0,
        "load_port": None,
        "server_id": None,
    }
    revision = served.director.revisions.latest()
    assert revision is not None
    assert f"(uid {os.getuid()}, pid {os.getpid()})" in revision.author.who
    assert (revision.author.via, revision.author.why) == ("api", "more room")
    service = {"name": "b", "vips": ["198.51.100.2"], "ports": [80], "network_profile": "tcp", "pool": "b"}
    status, _, made = await ask(served, "PUT", "/objects/virtual-services/b", service)
    assert (status, made["consequences"]["services"]["added"]) == (201, ["b"])
    assert served.director.in_force == ["a", "b"]
    status, headers, shown = await ask(served, "GET", "/objects/virtual-services/b")
    assert (status, shown["min_members"], headers["ETag"]) == (200, 1, made["etag"])
    status, _, none = await ask(served, "GET", "/objects/virtual-services/b", If_None_Match=made["etag"])
    assert (status, none) == (304, None)
    status, _, listed = await ask(served, "GET", "/objects/pools")
    assert [(item["name"], item["file"], item["used_by"]) for item in listed["items"]] == [
        ("b", "onward.toml", ["virtual-services/b"]),
        ("a", "conf.d/a.toml", ["virtual-services/a"]),
    ]
    status, _, no = await ask(served, "DELETE", "/objects/pools/b")
    assert (status, no["used_by"]) == (409, ["virtual-services/b"])
    status, _, gone = await ask(served, "DELETE", "/objects/virtual-services/b")
    assert (status, gone["object"], gone["etag"]) == (200, None, None)
    assert (await ask(served, "DELETE", "/objects/pools/b"))[0] == 200
    assert served.director.in_force == ["a"]
    assert (await ask(served, "GET", "/objects/pools/b"))[0] == 404


async def test_a_dry_run_says_what_would_happen(served: Served) -> None:
    """Lines that differ, and the share of slots that moves; nothing is changed."""
    texts = dict(served.director.transactions.in_force.document.texts)
    patch = {"member": [{"address": "203.0.113.1"}, {"address": "203.0.113.9"}]}
    status, _, would = await ask(served, "PATCH", "/objects/pools/a?dry_run=true", patch)
    assert (status, would["dry_run"]) == (200, True)
    added = [line for line in would["diff"].splitlines() if line[:1] == "+" and line[:3] != "+++"]
    assert added == ["+[[pool.member]]", '+address = "203.0.113.9"']
    (moves,) = would["consequences"]["moves"]
    assert (moves["service"], moves["slots"], moves["slots_later"]) == ("a", 0.0, pytest.approx(0.5, abs=0.02))
    assert dict(served.director.transactions.in_force.document.texts) == texts
    assert served.director.revision() == 1


async def test_who_was_faster_is_named(served: Served) -> None:
    """412 with the object's ETag, and who has changed it, when and why."""
    _, headers, _ = await ask(served, "GET", "/objects/pools/a")
    tag = headers["ETag"]
    status, _, _ = await ask(served, "PATCH", "/objects/pools/a?reason=first", {"slow_start": 5}, If_Match=tag)
    assert status == 200
    assert (await ask(served, "POST", "/objects/pools", NEW))[0] == 201  # somebody changes something else
    status, headers, no = await ask(served, "PATCH", "/objects/pools/a", {"slow_start": 6}, If_Match=tag)
    assert status == 412
    assert headers["Content-Type"].startswith("application/problem+json")
    changed = no["changed"]
    assert (changed["revision"], changed["why"], changed["at"]) == (2, "first", 1000.0)
    assert str(os.getpid()) in changed["who"]
    assert str(os.getpid()) in no["detail"]
    assert (await ask(served, "PATCH", "/objects/pools/a", {"slow_start": 6}, If_Match=no["etag"]))[0] == 200
    assert (await ask(served, "PUT", "/objects/pools/a", NEW, If_None_Match="*"))[0] == 412
    assert (await ask(served, "PUT", "/objects/pools/c", NEW, If_Match="*"))[0] == 412


async def test_mistakes_are_told_with_their_places(served: Served) -> None:
    """All of them, at the paths of `onward check`, with pointers into what was sent; nothing is changed."""
    bad = {"name": "b", "algorithm": "round_robbin", "member": [{"address": "203.0.113.300"}], "hahs": 1}
    status, headers, no = await ask(served, "POST", "/objects/pools", bad)
    assert (status, headers["Content-Type"].split(";")[0]) == (422, "application/problem+json")
    errors = {error["pointer"]: error for error in no["errors"]}
    assert set(errors) == {"/algorithm", "/member/0/address", "/hahs"}
    algorithm = errors["/algorithm"]
    assert (algorithm["path"], algorithm["value"]) == ("pool[0].algorithm", "round_robbin")
    assert algorithm["hint"].startswith("did you mean `round_robin`")
    assert algorithm["file"].endswith("onward.toml")
    assert algorithm["line"] > 10
    assert served.director.revision() == 1
    profile = {"dsr": {"type": "l2", "encapsulation": "gre"}}
    status, _, no = await ask(served, "PATCH", "/objects/network-profiles/tcp", profile)
    assert (status, no["errors"][0]["pointer"]) == (422, "/dsr/encapsulation")
    status, _, no = await ask(served, "PATCH", "/objects/virtual-services/a", {"pool": "b"})
    assert (status, no["errors"][0]["path"]) == (422, "virtual_service[0].pool")


async def test_what_takes_a_restart_is_refused_and_foreseen(served: Served) -> None:
    """As for a reload."""
    for query in ("", "?dry_run=true"):
        status, _, no = await ask(served, "PATCH", f"/objects/director{query}", {"name": "d9"})
        assert (status, no["errors"][0]["hint"]) == (
            422,
            "that takes a restart of the director (nothing was applied); at_restart (--at-restart) has it wait for one",
        )
        assert (no["errors"][0]["pointer"], no["errors"][0]["message"]) == ("/name", "d1 -> d9")


async def test_files_that_somebody_else_has_edited_are_not_overwritten(served: Served) -> None:
    """Unless it is forced."""
    served.director.write("b", web("b", 2))
    status, _, no = await ask(served, "PATCH", "/objects/pools/a", {"slow_start": 5})
    assert (status, no["errors"][0]["hint"]) == (409, "reload them first, or force it")
    assert (await ask(served, "PATCH", "/objects/pools/a?force=true", {"slow_start": 5}))[0] == 200


@pytest.mark.parametrize(
    ("method", "resource", "body", "status"),
    [
        ("GET", "/objects/pool", None, 404),
        ("GET", "/objects/pools?x=1", None, 400),
        ("PATCH", "/objects/pools/a", "[]", 400),
        ("PATCH", "/objects/pools/a", "{", 400),
        ("PATCH", "/objects/pools/a", '{"slow_start": NaN}', 400),
        ("PATCH", "/objects/pools/a", '{"slow_start": 1, "slow_start": 2}', 400),
        ("PATCH", "/objects/pools/a", '{"name": "\\ud800"}', 400),
        ("PATCH", "/objects/pools/a", "[" * 100_000, 400),
        ("PATCH", "/objects/pools/a", '{"slow_start": 1' + "0" * 5000 + "}", 400),
        ("PATCH", "/objects/pools/a", '{"slow_start": 1e400}', 422),
        ("PATCH", "/objects/pools/a", '{"member": [[null]]}', 422),
        ("PATCH", "/objects/pools/a", '{"member": [1, {"address": "203.0.113.1"}]}', 422),
        ("PATCH", "/objects/pools/a", '{"a\\u0000b": {"": {"\\n": []}}}', 422),
        ("PATCH", "/objects/pools/a?dry_run=1", {}, 400),
        ("DELETE", "/objects/director", None, 405),
        ("POST", "/objects/pools", {}, 422),
        ("POST", "/objects/pools", {"name": "a"}, 409),
        ("PUT", "/objects/pools/b", {"name": "c"}, 422),
    ],
)
async def test_every_no_is_a_problem_document(
    served: Served, method: str, resource: str, body: Any, status: int
) -> None:
    """With a text for people, whatever was wrong."""
    found, headers, no = await ask(served, method, resource, body)
    assert (found, headers["Content-Type"].split(";")[0]) == (status, "application/problem+json")
    assert no["status"] == status
    assert no["detail"]


async def test_lines_that_differ(served: Served) -> None:
    """Of the files as somebody has edited them, and of an earlier revision."""
    assert (await ask(served, "POST", "/objects/pools", NEW))[0] == 201
    served.director.write("b", "# a remark\n")
    status, _, document = await ask(served, "GET", "/config/diff")
    assert (status, document["diff"].splitlines()[-1]) == (200, "+# a remark")
    status, _, document = await ask(served, "GET", "/config/diff?revision=1")
    assert (status, '-name = "b"' in document["diff"].splitlines()) == (200, True)
    for query, code in (("?revision=99", 404), ("?revision=x", 400), ("?revision=" + "9" * 5000, 400)):
        assert (await ask(served, "GET", f"/config/diff{query}"))[0] == code
    served.director.write("b", "\0")
    assert (await ask(served, "GET", "/config/diff"))[0] == 422


async def test_bodies_are_bounded_by_their_route(served: Served) -> None:
    """Before they are read to the end."""
    status, _, no = await ask(served, "POST", "/director/drain", " " * (2 << 20))
    assert (status, no["detail"]) == (413, "the body has more than 1048576 bytes")


async def test_many_objects_are_found(served: Served) -> None:
    """What is in force is read once, however often somebody asks."""
    vips = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(300)]
    many = "".join(web(f"s{number}", 1).replace("198.51.100.1", vip) for number, vip in enumerate(vips))
    served.director.write("many", many)
    assert (await ask(served, "POST", "/config/reload"))[0] == 200
    status, _, listed = await ask(served, "GET", "/objects/virtual-services")
    assert (status, len(listed["items"])) == (200, 301)
    status, _, kinds = await ask(served, "GET", "/objects")
    assert {kind["kind"]: kind["count"] for kind in kinds["kinds"]}["pools"] == 301
    tags = {item["etag"] for item in listed["items"]}
    assert len(tags) == 301


async def test_members_are_resources_of_their_own(served: Served) -> None:
    """Made, shown, changed and removed one by one; each change is for the member that somebody has seen."""
    path = "/objects/pools/a/members"
    status, headers, made = await ask(served, "POST", path, {"name": "m2", "address": "203.0.113.2"})
    assert (status, headers["Location"], made["name"]) == (201, f"/v1{path}/m2", "a/m2")
    status, headers, shown = await ask(served, "GET", f"{path}/m2")
    tag = headers["ETag"]
    assert (status, shown["ratio"], tag) == (200, 1, made["etag"])
    status, _, listed = await ask(served, "GET", path)
    assert [item["name"] for item in listed["items"]] == ["a/203.0.113.1", "a/m2"]
    status, _, changed = await ask(served, "PATCH", f"{path}/m2", {"ratio": 3, "enabled": False}, If_Match=tag)
    assert (status, changed["object"]["ratio"], changed["object"]["enabled"]) == (200, 3, False)
    status, _, no = await ask(served, "PATCH", f"{path}/m2", {"ratio": 4}, If_Match=tag)
    assert (status, no["etag"], no["changed"]["revision"]) == (412, changed["etag"], 3)
    assert (await ask(served, "DELETE", f"{path}/m2", If_Match=tag))[0] == 412
    status, _, no = await ask(served, "PATCH", f"{path}/m2", {"ratio": -1})
    assert (status, no["errors"][0]["pointer"], no["errors"][0]["path"]) == (422, "/ratio", "pool[0].member[1].ratio")
    status, _, made = await ask(served, "PUT", f"{path}/203.0.113.3", {})
    assert (status, made["object"]["address"]) == (201, "203.0.113.3")
    status, _, gone = await ask(served, "DELETE", f"{path}/m2", If_Match=changed["etag"])
    assert (status, gone["object"]) == (200, None)
    assert (await ask(served, "GET", f"{path}/m2"))[0] == 404
    for method, where, body, status in (
        ("GET", "/objects/pools/b/members", None, 404),
        ("GET", "/objects/pools/b/members/m2", None, 404),
        ("POST", "/objects/pools/b/members", {"address": "203.0.113.2"}, 404),
        ("PUT", "/objects/pools/b/members/m2", {"address": "203.0.113.2"}, 404),
        ("POST", path, {"address": "203.0.113.1"}, 409),
        ("POST", path, {}, 422),
    ):
        assert (await ask(served, method, where, body))[0] == status, where
    (pool,) = [entry for entry in (await ask(served, "GET", "/objects/pools"))[2]["items"] if entry["name"] == "a"]
    assert [member["name"] for member in pool["object"]["member"]] == ["203.0.113.1", "203.0.113.3"]


async def test_several_objects_change_together(served: Served) -> None:
    """One revision, with the ETag of all; a dry run says the same and changes nothing."""
    service = {"vips": ["198.51.100.2"], "ports": [80], "network_profile": "tcp", "pool": "b"}
    changes = [
        {"op": "create", "kind": "virtual-services", "name": "b", "object": service},
        {"kind": "pools", "object": NEW},
        {"op": "patch", "kind": "members", "name": "a/203.0.113.1", "object": {"ratio": 2}},
    ]
    _, headers, _ = await ask(served, "GET", "/objects")
    tag = headers["ETag"]
    assert (await ask(served, "GET", "/config"))[1]["ETag"] == tag
    path = "/transactions?reason=a%20shop"
    status, _, would = await ask(served, "POST", f"{path}&dry_run=true", {"changes": changes}, If_Match=tag)
    assert (status, would["consequences"]["services"]["added"]) == (200, ["b"])
    assert served.director.revision() == 1
    status, headers, done = await ask(served, "POST", path, {"changes": changes}, If_Match=tag)
    assert (status, done["diff"], done["revision"]) == (200, would["diff"], 2)
    assert headers["ETag"] == done["etag"] == (await ask(served, "GET", "/objects"))[1]["ETag"]
    assert [(one["kind"], one["name"], one["result"]) for one in done["changes"]] == [
        ("virtual-services", "b", "made"),
        ("pools", "b", "made"),
        ("members", "a/203.0.113.1", "changed"),
    ]
    assert done["changes"][1]["etag"] == (await ask(served, "GET", "/objects/pools/b"))[1]["ETag"]
    assert served.director.in_force == ["a", "b"]
    revision = served.director.revisions.latest()
    assert revision is not None
    assert (revision.number, revision.author.why) == (2, "a shop")
    status, _, no = await ask(served, "POST", path, {"changes": changes}, If_Match=tag)
    assert (status, no["etag"], no["changed"]["revision"]) == (412, done["etag"], 2)
    texts = (await ask(served, "GET", "/config"))[2]["texts"]
    assert (await ask(served, "PUT", "/config", {"texts": texts}, If_Match=tag))[0] == 412
    gone = [{"op": "delete", "kind": "pools", "name": "b"}, {"op": "delete", "kind": "virtual-services", "name": "b"}]
    status, _, done = await ask(served, "POST", "/transactions", {"changes": gone}, If_Match=f'"old", {done["etag"]}')
    assert (status, [one["result"] for one in done["changes"]]) == (200, ["removed", "removed"])
    assert served.director.in_force == ["a"]


async def test_all_mistakes_of_several_changes_are_told_at_once(served: Served) -> None:
    """Those of the changes themselves beside those that the others would bring; nothing is changed."""
    changes = [
        {"kind": "pools", "object": {**NEW, "hahs": 1}},
        {"op": "patch", "kind": "pools", "name": "aa", "object": {"slow_start": 1}},
        {"kind": "members", "name": "b/x", "object": {"address": "203.0.113.300", "ratio": 2}},
        {"kind": "virtual-services", "name": "c", "object": {"vips": [], "ports": [80], "pool": "c"}},
        {"op": "delete", "kind": "network-profiles", "name": "tcp"},
    ]
    status, headers, no = await ask(served, "POST", "/transactions", {"changes": changes})
    assert (status, headers["Content-Type"].split(";")[0]) == (422, "application/problem+json")
    errors = {error["pointer"]: error for error in no["errors"]}
    assert set(errors) == {
        "/changes/0/object/hahs",
        "/changes/1/object",
        "/changes/2/object/address",
        "/changes/3/object/network_profile",
        "/changes/3/object/pool",
        "/changes/3/object/vips",
        "/changes/4/object",
    }
    assert errors["/changes/0/object/hahs"]["path"] == "pool[0].hahs"
    assert "did you mean" in errors["/changes/1/object"]["message"]
    assert "is used by virtual-services/a" in errors["/changes/4/object"]["message"]
    assert served.director.revision() == 1
    stale = {"kind": "pools", "name": "a", "object": NEW | {"name": "a"}, "if_match": '"old"'}
    status, _, no = await ask(served, "POST", "/transactions", {"changes": [stale]})
    assert (status, no["errors"][0]["message"]) == (412, "pool a has changed since")
    for body, pointer in (({}, "/changes"), ({"changes": [{"kind": "pool"}]}, "/changes/0/kind")):
        status, _, no = await ask(served, "POST", "/transactions", body)
        assert (status, no["errors"][0]["pointer"]) == (422, pointer)
    assert (await ask(served, "POST", "/transactions", {"changes": [], "more": 1}))[0] == 400
    served.director.plane.fail("no room")
    status, _, no = await ask(served, "POST", "/transactions", {"changes": [{"kind": "pools", "object": NEW}]})
    assert (status, no["step"]) == (500, "program")
    assert (await ask(served, "GET", "/objects/pools/b"))[0] == 404
    there = {"op": "create", "kind": "pools", "object": NEW | {"name": "a"}}
    status, _, no = await ask(served, "POST", "/transactions", {"changes": [there]})
    assert (status, "is there already" in no["detail"]) == (409, True), "as a single POST"


async def test_lists_of_etags(served: Served) -> None:
    """Several, weak ones and `*` are read as HTTP has them, and what is no list of them is refused; for changes weak
    ones are none."""
    lists = ("/objects", "/objects/pools", "/objects/pools/a/members")
    for resource in (*lists, "/objects/pools/a", "/objects/director"):
        tag = (await ask(served, "GET", resource))[1]["ETag"]
        for given in (tag, f"W/{tag}", f'"x,y", {tag}', f' , W/"x" ,W/{tag}', "*"):
            status, headers, body = await ask(served, "GET", resource, If_None_Match=given)
            assert (status, headers["ETag"], body) == (304, tag, None), given
        for given in ('"x"', f'"{tag[1:]}x"', f'W/"{tag[1:-1]},"'):
            assert (await ask(served, "GET", resource, If_None_Match=given))[0] in (200, 400), given
        for given in (tag[1:-1], f"w/{tag}", f"{tag} {tag}", "*, *"):
            assert (await ask(served, "GET", resource, If_None_Match=given))[0] == 400, given
    assert (await ask(served, "GET", "/objects/pools/nobody/members", If_None_Match="*"))[0] == 404
    tag = (await ask(served, "GET", "/objects/pools/a"))[1]["ETag"]
    for given, status in ((f"W/{tag}", 412), (tag[1:-1], 400), (f'"x", {tag}', 200)):
        assert (await ask(served, "PATCH", "/objects/pools/a", {"slow_start": 5}, If_Match=given))[0] == status


async def test_what_is_new_may_depend_on_what_was_seen(served: Served) -> None:
    """POST to a list is about the configuration as a whole, whose ETag lists have."""
    tag = (await ask(served, "GET", "/objects/pools"))[1]["ETag"]
    assert tag == (await ask(served, "GET", "/objects"))[1]["ETag"]
    assert (await ask(served, "PATCH", "/objects/pools/a", {"slow_start": 5}))[0] == 200
    status, _, no = await ask(served, "POST", "/objects/pools", NEW, If_Match=tag)
    assert (status, no["changed"]["revision"]) == (412, 2)
    member = {"address": "203.0.113.7"}
    assert (await ask(served, "POST", "/objects/pools/a/members", member, If_Match=tag))[0] == 412
    assert (await ask(served, "POST", "/objects/pools", NEW, If_Match=no["etag"]))[0] == 201
    assert (await ask(served, "POST", "/config/rollback", {"revision": 1}, If_Match=tag))[0] == 412
    for method, resource in (("POST", "/config/reload"), ("POST", "/members/a/203.0.113.1/drain")):
        assert (await ask(served, method, resource, None, If_Match=tag))[0] == 400, "it is not passed over in silence"
    assert (await ask(served, "POST", "/objects/pools", NEW, If_None_Match="*"))[0] == 400


async def test_a_reason_is_as_long_as_it_may_be(served: Served) -> None:
    """1,000 characters, in the query as in a body; more is refused, and nothing is done."""
    for length, found in ((1001, 400), (1000, 200)):
        why = "x" * length
        assert (await ask(served, "PATCH", f"/objects/pools/a?reason={why}", {"slow_start": 5}))[0] == found
        assert (await ask(served, "POST", "/config/reload", {"reason": why}))[0] == found
        assert (await ask(served, "POST", "/members/a/203.0.113.1/ready", {"reason": why}))[0] == found
    assert served.director.revision() == 2


async def test_what_takes_a_restart_waits_for_it_where_that_is_wanted(served: Served) -> None:
    """For one object, for several, for texts and for a rollback; what is in force is shown as it is."""
    status, _, done = await ask(served, "PATCH", "/objects/director?at_restart=true", {"name": "d9"})
    assert (status, done["at_restart"], done["revision"]) == (200, True, 1)
    assert (done["staged"]["revision"], done["staged"]["takes_restart"]) == (2, ["director.name: d1 -> d9"])
    assert (await ask(served, "GET", "/objects/director"))[2]["name"] == "d1"
    status, _, no = await ask(served, "POST", "/objects/pools", NEW)
    assert (status, "waits for a restart" in no["detail"]) == (409, True)
    changes = {"changes": [{"kind": "pools", "object": NEW}, {"op": "patch", "kind": "api", "object": {"port": 8081}}]}
    status, _, done = await ask(served, "POST", "/transactions?at_restart=true", changes)
    assert (status, len(done["staged"]["takes_restart"])) == (200, 2)
    document = (await ask(served, "GET", "/config"))[2]
    assert document["staged"] == done["staged"]
    assert "d9" not in document["texts"]["onward.toml"]
    assert (await ask(served, "GET", "/config/revisions"))[2]["staged"] == 3
    status, _, done = await ask(served, "POST", "/config/rollback", {"revision": 1})
    assert (status, done["unchanged"], done["written"], done["staged"]) == (200, True, True, None)
    body = {"revision": 2, "at_restart": True}
    assert (await ask(served, "POST", "/config/rollback", body))[2]["staged"]["revision"] == 5
    status, _, no = await ask(served, "PATCH", "/objects/pools/a?at_restart=true&force=true", {"slow_start": 5})
    assert status == 200
