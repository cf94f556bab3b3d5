"""Single things change in the text of a configuration, and everything else stays as somebody has written it."""

import difflib
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import appliance.config
from appliance.config import edit
from appliance.config.document import Document
from appliance.config.problems import ConfigError

EXAMPLE = (Path(appliance.config.__file__).parent / "example.toml").read_text()
DOCUMENT = Document(Path("/etc/onward/onward.toml"), {"onward.toml": EXAMPLE})
DATA = tomllib.loads(EXAMPLE)


def changed_lines(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("---", "+++")]


def put_in(document: Document, kind: str, name: str | None, values: dict[str, Any] | None) -> Mapping[str, str]:
    return edit.put(document, [edit.Edit(kind, name, values)]).texts


def put(kind: str, name: str | None, values: dict[str, Any]) -> list[str]:
    return changed_lines(EXAMPLE, put_in(DOCUMENT, kind, name, values)["onward.toml"])


def test_a_value_changes_and_its_comment_stays() -> None:
    """One line of the file is another one."""
    pool = deepcopy(DATA["pool"][0])
    pool["member"][0]["ratio"] = 5
    assert put("pool", "web", pool) == [
        "-ratio = 2                          # gets twice the flows of web2; 0 takes none",
        "+ratio = 5                          # gets twice the flows of web2; 0 takes none",
    ]


def test_a_member_comes_and_another_one_goes() -> None:
    """The others, and what is commented out beside them, stay."""
    pool = deepcopy(DATA["pool"][0])
    pool["member"].append({"name": "web3", "address": "203.0.113.23"})
    assert put("pool", "web", pool) == ["+", "+[[pool.member]]", '+name = "web3"', '+address = "203.0.113.23"']
    del pool["member"][0]
    text = put_in(DOCUMENT, "pool", "web", pool)["onward.toml"]
    assert tomllib.loads(text)["pool"][0]["member"] == pool["member"]
    assert "# max_connections = 0" in text


def test_values_are_added_to_the_thing_and_not_to_what_follows() -> None:
    """Also those that are tables, in a table that has lists of tables behind it."""
    bgp = deepcopy(DATA["bgp"])
    bgp["hold_down"] = 5
    bgp["peer"][0]["bfd"] = {"interval": 0.2}
    assert put("bgp", None, bgp) == ["+hold_down = 5", "+bfd = {interval = 0.2}"]


def test_a_thing_goes_with_the_comments_above_it() -> None:
    """What stands above the next thing is about that."""
    shop = "# the shop\n[[pool]]\nname = 'shop'\n[[pool.member]]\naddress = 'x'\n# y\n"
    text = f"a = 1\n\n{shop}\n# the blog\n[[pool]]\nname = 'blog'\n"
    document = Document(Path("/x/onward.toml"), {"onward.toml": text})
    left = put_in(document, "pool", "shop", None)["onward.toml"]
    assert left == "a = 1\n\n# the blog\n[[pool]]\nname = 'blog'\n"
    document = Document(Path("/x/onward.toml"), {"onward.toml": left})
    assert put_in(document, "pool", "blog", None)["onward.toml"] == "a = 1\n\n"


def test_a_thing_is_changed_in_the_file_that_has_it() -> None:
    """A new one comes into the main file."""
    fragment = (
        "# of the shop\n[[pool]]\nname = 'shop' # !\nhash = 'source_ip'\n[[pool.member]]\naddress = '203.0.113.1'\n"
    )
    document = Document(Path("/x/onward.toml"), {"onward.toml": EXAMPLE, "conf.d/shop.toml": fragment})
    texts = put_in(document, "pool", "shop", {"name": "shop", "member": [{"address": "203.0.113.2"}]})
    assert texts["onward.toml"] == EXAMPLE
    assert "# of the shop\n[[pool]]\nname = 'shop' # !\n" in texts["conf.d/shop.toml"]
    texts = put_in(document, "pool", "new", {"name": "new", "member": [{"address": "203.0.113.3"}]})
    assert texts["conf.d/shop.toml"] == fragment
    assert tomllib.loads(texts["onward.toml"])["pool"][-1]["name"] == "new"


def test_tables_that_are_scattered_can_be_changed_and_removed() -> None:
    """Others stand between a pool and its members."""
    between = "[[network_profile]]\nname = 'p'\n"
    text = f"[[pool]]\nname = 'a' # !\n{between}[[pool.member]]\naddress = 'x'\n[bgp.profile]\na = 1\n"
    document = Document(Path("/x/onward.toml"), {"onward.toml": text})
    new = put_in(document, "pool", "a", {"name": "a", "member": [{"address": "y"}]})["onward.toml"]
    assert tomllib.loads(new)["pool"] == [{"name": "a", "member": [{"address": "y"}]}]
    assert "name = 'a' # !" in new
    assert put_in(document, "pool", "a", None)["onward.toml"] == f"{between}[bgp.profile]\na = 1\n"
    new = put_in(document, "bgp", None, {"local_as": 1, "profile": {"a": 2}})["onward.toml"]
    assert new == text.replace("[bgp.profile]\na = 1", "[bgp]\nlocal_as = 1\n\n[bgp.profile]\na = 2")


COMMENTED = """\
# all of it

# ---- pools ----

# the shop
[[pool]]
name = "shop"
# hash = "source_ip"

# ---- its members ----

# rack 1
[[pool.member]]
name = "a" # old
# ratio = 2

# rack 2
# upper half
[[pool.member]]
name = "b"
text = '''
# no comment'''
[[pool.member]]
name = "c"

# ---- the rest ----

# the blog
[[pool]]
name = "blog"
"""


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"hash": "five_tuple"}, ['+hash = "five_tuple"']),
        ({"without": "a"}, ["-", "-# rack 1", "-[[pool.member]]", '-name = "a" # old', "-# ratio = 2"]),
        (
            {"without": "b"},
            ["-# rack 2", "-# upper half", "-[[pool.member]]", '-name = "b"', "-text = '''", "-# no comment'''"],
        ),
        ({"without": "c"}, ["-[[pool.member]]", '-name = "c"']),
        ({"member": "d"}, ["+[[pool.member]]", '+name = "d"']),
    ],
)
def test_a_comment_is_about_what_it_stands_right_above(change: dict[str, Any], lines: list[str]) -> None:
    """Or about what follows, behind a blank line: it goes with that only."""
    pool = tomllib.loads(COMMENTED)["pool"][0]
    if "hash" in change:
        pool |= change
    elif "member" in change:
        pool["member"].append({"name": change["member"]})
    else:
        pool["member"] = [one for one in pool["member"] if one["name"] != change["without"]]
    document = Document(Path("/x/onward.toml"), {"onward.toml": COMMENTED})
    made = put_in(document, "pool", "shop", pool)["onward.toml"]
    assert changed_lines(COMMENTED, made) == lines
    if "hash" in change:
        assert '# hash = "source_ip"\nhash = "five_tuple"\n\n# ---- its members' in made
    if "member" in change:
        assert 'name = "c"\n[[pool.member]]\nname = "d"\n\n# ---- the rest' in made
    gone = put_in(document, "pool", "shop", None)["onward.toml"]
    assert gone == '# all of it\n\n# ---- pools ----\n\n# ---- the rest ----\n\n# the blog\n[[pool]]\nname = "blog"\n'
    kept = put_in(document, "pool", "blog", None)["onward.toml"]
    assert kept == COMMENTED[: COMMENTED.index("# the blog")]


def test_the_only_thing_of_a_file_goes_with_the_file() -> None:
    """Which nobody could read if it were empty; one with comments stays, and so does the main file."""
    fragment = "# of the shop\n[[pool]]\nname = 'shop'\n"
    document = Document(Path("/x/onward.toml"), {"onward.toml": EXAMPLE, "conf.d/shop.toml": fragment})
    assert put_in(document, "pool", "shop", None) == {"onward.toml": EXAMPLE}
    document = Document(document.path, {"onward.toml": EXAMPLE, "conf.d/shop.toml": f"# shops\n\n{fragment}"})
    assert put_in(document, "pool", "shop", None)["conf.d/shop.toml"] == "# shops\n\n"


ARRAY = """schema_version = 1
network_profile = [
  # for the web
  { name = "tcp", type = "tcp_fast_path" }, # fast
  # for names
  { name = "udp", type = "udp_fast_path" }, # dns
] # all of them
pool = [{ name = "a" }]

[director] # ours
"""


def test_objects_of_a_list_on_one_line_come_and_go() -> None:
    """Where a table of its own could not stand; comments are those of what stays, and the list goes with its last."""
    document = Document(Path("/x/onward.toml"), {"onward.toml": ARRAY})
    more = put_in(document, "network_profile", "l2", {"name": "l2", "type": "udp_fast_path", "dsr": {"type": "l2"}})
    lines = more["onward.toml"].splitlines()
    assert [line for line in lines if line not in ARRAY.splitlines()] == [
        '  {name = "l2", type = "udp_fast_path", dsr = {type = "l2"}},'
    ]
    assert all(line in lines for line in ARRAY.splitlines())
    fewer = put_in(document.having(more), "network_profile", "tcp", None)["onward.toml"]
    assert [line for line in ARRAY.splitlines() if line not in fewer.splitlines()] == [
        "  # for the web",
        '  { name = "tcp", type = "tcp_fast_path" }, # fast',
    ]
    both = put_in(document, "pool", "b", {"name": "b", "member": [{"address": "x"}]})["onward.toml"]
    assert 'pool = [{ name = "a" }, {name = "b", member = [{address = "x"}]}]\n\n[director] # ours' in both
    none = put_in(document, "pool", "a", None)["onward.toml"]
    assert "pool" not in none
    assert none.split() == ARRAY.replace('pool = [{ name = "a" }]', "").split()
    only = Document(Path("/x/onward.toml"), {"onward.toml": "pool = [{name = 'a'}]\n"})
    assert put_in(only, "pool", "a", None)["onward.toml"] == ""
    empty = Document(Path("/x/onward.toml"), {"onward.toml": "pool = []\n"})
    assert tomllib.loads(put_in(empty, "pool", "a", {"name": "a"})["onward.toml"]) == {"pool": [{"name": "a"}]}


@pytest.mark.parametrize(("kind", "name"), [("pol", "web"), ("pool", "wep"), ("director", "d1"), ("pool", None)])
def test_what_is_not_there_cannot_be_removed(kind: str, name: str | None) -> None:
    """Neither unknown kinds nor unknown names."""
    with pytest.raises(ConfigError, match="there is no"):
        put_in(DOCUMENT, kind, name, None)


INLINE = """
[[pool]]
name = "web"
health_monitors = [
  "http", # above all
]
member = [
  # rack 1
  { name = "web1", address = "203.0.113.1" }, # oldest
  # rack 2
  { name = "web2", address = "203.0.113.2" }, # fast
]
"""


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            lambda pool: pool["member"][1].update(ratio=3),
            [
                '-  { name = "web2", address = "203.0.113.2" }, # fast',
                '+  { name = "web2", address = "203.0.113.2", ratio = 3}, # fast',
            ],
        ),
        (
            lambda pool: pool["member"].append({"name": "web3", "address": "203.0.113.3"}),
            ['+  {name = "web3", address = "203.0.113.3"},'],
        ),
        (
            lambda pool: pool["member"].pop(0),
            ["-  # rack 1", '-  { name = "web1", address = "203.0.113.1" }, # oldest'],
        ),
        (lambda pool: pool["health_monitors"].append("dns"), ['+  "dns",']),
        (lambda pool: pool["health_monitors"].insert(0, "dns"), ['+  "dns",']),
    ],
)
def test_comments_within_lists_stay(change: Callable[[dict[str, Any]], object], lines: list[str]) -> None:
    """Whichever way the tables of a list are written: lines of what stays are as they were."""
    pool = tomllib.loads(INLINE)["pool"][0]
    change(pool)
    document = Document(Path("/x/onward.toml"), {"onward.toml": INLINE})
    assert changed_lines(INLINE, put_in(document, "pool", "web", pool)["onward.toml"]) == lines


def test_tables_that_move_keep_their_comments() -> None:
    """Whoever sends a list in another order, or with others among it."""
    pool = tomllib.loads(COMMENTED)["pool"][0]
    a, b, c = pool["member"]
    b["ratio"] = 5
    pool["member"] = [c, {"name": "d"}, b, a]
    document = Document(Path("/x/onward.toml"), {"onward.toml": COMMENTED})
    text = put_in(document, "pool", "shop", pool)["onward.toml"]
    moved = COMMENTED[COMMENTED.index("# rack 2") : COMMENTED.index('[[pool.member]]\nname = "c"')]
    assert f'[[pool.member]]\nname = "c"\n[[pool.member]]\nname = "d"\n{moved}ratio = 5\n# rack 1\n' in text
    assert text.index("ratio = 5\n# rack 1") < text.index("# ratio = 2\n\n# ---- the rest")


@pytest.mark.parametrize("end", ["# last\n]", "]", "# a\n\n  # b\n]"])
def test_a_list_whose_last_element_has_no_comma_grows_and_shrinks(end: str) -> None:
    """At both ends, with comments behind it."""
    text = f"[[pool]]\nname = 'web'\nhealth_monitors = [\n  'a', # 1\n  'b', # 2\n  'c' # 3\n  {end}\n"
    document = Document(Path("/x/onward.toml"), {"onward.toml": text})
    for wanted in (["a", "b", "c", "d"], ["b", "c", "d"], ["x", "a", "c"], ["c"], ["d"]):
        made = put_in(document, "pool", "web", {"name": "web", "health_monitors": wanted})["onward.toml"]
        assert tomllib.loads(made)["pool"][0]["health_monitors"] == wanted
        assert ("# 3" in made) == ("c" in wanted)


def test_blank_lines_above_do_not_weigh_more_than_a_comment_below() -> None:
    """What stands behind a thing that goes is about the next one."""
    text = "[[pool]]\nname = 'a'\n\n\n\n\n\n\n\n[[pool]]\nname = 'b'\n\n# x\n\n[[pool]]\nname = 'c'\n"
    document = Document(Path("/x/onward.toml"), {"onward.toml": text})
    assert "\n# x\n" in put_in(document, "pool", "b", None)["onward.toml"]


def test_lines_end_as_they_do() -> None:
    """Those of other systems too."""
    text = "# shop\r\n[[pool]]\r\nname = 'a' # !\r\n\r\n# b\r\n[[pool]]\r\nname = 'b'\r\n"
    document = Document(Path("/x/onward.toml"), {"onward.toml": text})
    more = put_in(document, "pool", "a", {"name": "a", "member": [{"address": "x"}]})["onward.toml"]
    assert more == text.replace("# !\r\n", '# !\r\n[[pool.member]]\r\naddress = "x"\r\n')
    assert put_in(document, "pool", "a", None)["onward.toml"] == "# b\r\n[[pool]]\r\nname = 'b'\r\n"


def test_a_long_list_is_changed_in_one_pass() -> None:
    """Twice as many elements are no more than twice the work, and a little."""
    work = []
    for many in (400, 800):
        addresses = [f"10.{i >> 8}.{i & 255}.0/24" for i in range(many)]
        text = "[[virtual_service]]\nname = 'a'\ndeny = [\n" + "".join(f'  "{one}",\n' for one in addresses) + "]\n"
        document = Document(Path("/x/onward.toml"), {"onward.toml": text})
        left = [one for i, one in enumerate(addresses) if i % 10]
        calls = [0]

        def called(_frame: object, event: str, _arg: object, calls: list[int] = calls) -> None:
            calls[0] += event == "call"

        before = sys.getprofile()
        sys.setprofile(called)
        try:
            made = put_in(document, "virtual_service", "a", {"name": "a", "deny": left})["onward.toml"]
        finally:
            sys.setprofile(before)
        assert tomllib.loads(made)["virtual_service"][0]["deny"] == left
        work.append(calls[0])
    assert work[1] < 3 * work[0]


MEMBERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["web1", "web2", "web3", "web4"])},
        optional={"address": st.sampled_from(["203.0.113.1", "203.0.113.2"]), "ratio": st.integers(0, 9)},
    ),
    unique_by=lambda member: member["name"],
    min_size=1,
)
POOLS = st.fixed_dictionaries(
    {"name": st.just("web"), "member": MEMBERS},
    optional={
        "hash": st.sampled_from(["source_ip", "five_tuple"]),
        "slow_start": st.integers(0, 9),
        "health_monitors": st.lists(st.sampled_from(["http", 'a "b"\n'])),
    },
)


@given(first=POOLS, second=POOLS)
def test_whatever_is_put_into_lists_on_one_line_is_what_the_text_says(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Members as inline tables come, go, move and get other keys."""
    document = Document(Path("/x/onward.toml"), {"onward.toml": INLINE})
    for pool in (first, second):
        document = document.having(put_in(document, "pool", "web", pool))
        assert tomllib.loads(document.texts["onward.toml"]) == {"pool": [pool]}
    names = [[member["name"] for member in pool["member"]] for pool in (first, second)]
    stays = all("web1" in some and some == sorted(some) for some in names)
    assert "# rack 1" in document.texts["onward.toml"] or not stays


@given(first=POOLS, second=POOLS, new=st.booleans())
def test_whatever_is_put_into_a_list_of_pools_on_one_line_is_what_the_text_says(
    first: dict[str, Any], second: dict[str, Any], new: bool
) -> None:
    """As one more, or over one that is there; and taken out again."""
    text = "pool = [\n  # one\n  { name = 'web' }, # 1\n  # two\n  { name = 'dns' }, # 2\n]\n\n[bgp] # ours\n"
    document, name = Document(Path("/x/onward.toml"), {"onward.toml": text}), "new" if new else "web"
    others = [{"name": "web"}, {"name": "dns"}] if new else [{"name": "dns"}]
    for pool in (first, second):
        document = document.having(put_in(document, "pool", name, {**pool, "name": name}))
        written = tomllib.loads(document.texts["onward.toml"])["pool"]
        assert written == sorted(
            [*others, {**pool, "name": name}], key=lambda one: ["web", "dns", "new"].index(one["name"])
        )
    document = document.having(put_in(document, "pool", name, None))
    assert tomllib.loads(document.texts["onward.toml"]) == {"pool": others, "bgp": {}}
    assert "# two\n  { name = 'dns' }, # 2\n" in document.texts["onward.toml"]


@given(first=POOLS, second=POOLS)
def test_whatever_is_put_is_what_the_text_says(first: dict[str, Any], second: dict[str, Any]) -> None:
    """And nothing else in it has changed: comments of other things are all there."""
    document = DOCUMENT
    for pool in (first, second):
        document = document.having(put_in(document, "pool", "web", pool))
    text = document.texts["onward.toml"]
    assert tomllib.loads(text) == {**DATA, "pool": [second, *DATA["pool"][1:]]}
    above, below = EXAMPLE.index('[[pool]]\nname = "web"'), EXAMPLE.index('[[pool]]\nname = "dns"')
    assert text.startswith(EXAMPLE[:above])
    assert text.endswith(EXAMPLE[below:])


@given(many=st.lists(POOLS, min_size=2, max_size=2))
def test_whatever_is_put_over_commented_members_is_what_the_text_says(many: list[dict[str, Any]]) -> None:
    """And each member that stays is right below the comment that was above it, wherever it has moved to."""
    members = "".join(f"\n# about {name}\n[[pool.member]]\nname = '{name}'\n" for name in ("web1", "web2", "web3"))
    text = f"# first\n[[pool]]\nname = 'web'\n{members}\n# ---- others\n\n[[pool]]\nname = 'dns'\n"
    document = Document(Path("/x/onward.toml"), {"onward.toml": text})
    there = {"web1", "web2", "web3"}
    for pool in many:
        document = document.having(put_in(document, "pool", "web", pool))
        text = document.texts["onward.toml"]
        assert tomllib.loads(text) == {"pool": [pool, {"name": "dns"}]}
        there &= {member["name"] for member in pool["member"]}
        for name in there:
            assert re.search(f"# about {name}\n\\[\\[pool.member\\]\\]\nname = '{name}'\n", text)
        assert text.count("# about") == len(there)
        assert "# ---- others\n\n[[pool]]\nname = 'dns'\n" in text
