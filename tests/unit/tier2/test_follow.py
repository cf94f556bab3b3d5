"""A pool's members come and go by themselves."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.document import Document
from appliance.model import Follow
from appliance.tier2 import follow, registry
from appliance.tier2.follow import FollowError, There, members

A, B, C = (ip_address(f"203.0.113.{n}") for n in (1, 2, 3))
WRITTEN = [{"name": "a", "address": "203.0.113.1", "ratio": 2}, {"address": "203.0.113.2"}]


def test_who_stays_keeps_what_was_said() -> None:
    """Those that are there keep name, ratio and order; others come behind, and those that have left are not there."""
    assert members(WRITTEN, [There("c", C), There("renamed", A)]) == [
        WRITTEN[0],
        {"name": "c", "address": "203.0.113.3"},
    ]
    assert members(WRITTEN, [There("b", B), There("a", A)]) is None


def test_a_ratio_that_a_node_says_counts() -> None:
    """A node that says its share overrules what is written."""
    assert members(WRITTEN, [There("a", A, 5), There("b", B, 1)]) == [{**WRITTEN[0], "ratio": 5}, WRITTEN[1]]


def test_the_last_one_is_never_taken_out() -> None:
    """Nobody there is no reason to send packets to nobody: it is more likely that the folder is gone."""
    assert members(WRITTEN, []) is None


def test_names_are_unique() -> None:
    """Somebody else under a known name is called by the address."""
    assert members(WRITTEN, [There("a", A), There("a", C)]) == [
        WRITTEN[0],
        {"name": "203.0.113.3", "address": "203.0.113.3"},
    ]


@given(st.sets(st.integers(1, 9), min_size=1), st.sets(st.integers(1, 9), min_size=1))
def test_afterwards_exactly_those_are_members_who_are_there(before: set[int], now: set[int]) -> None:
    """Whoever was there before."""
    written: list[dict[str, Any]] = [{"name": f"n{n}", "address": f"203.0.113.{n}"} for n in sorted(before)]
    there = [There(f"n{n}", ip_address(f"203.0.113.{n}")) for n in now]
    made = members(written, there)
    assert {one["address"] for one in made or written} == {str(one.address) for one in there}
    assert members(made or written, there) is None


def test_the_folder(tmp_path: Path) -> None:
    """What nodes write is read, by family; a file that cannot be read keeps everything as it is."""
    where = Follow(str(tmp_path / "nodes"), None, False, 4, 1.0)
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "garbage.node").write_text("addresses = 7")
    with pytest.raises(FollowError, match="garbage"):
        follow.look(where)
    folder = registry.Folder(tmp_path / "nodes")
    folder.remove("garbage")
    folder.write(registry.Entry("t1", (A, ip_address("2001:db8::1")), 3))
    folder.write(registry.Entry("t2", (ip_address("2001:db8::2"),)))
    assert follow.look(where) == (There("t1", A, 3),)
    six = follow.look(Follow(str(tmp_path / "nodes"), None, False, 6, 1.0))
    assert [one.name for one in six] == ["t1", "t2"]
    folder.remove("t1")
    folder.remove("t1")
    assert follow.look(where) == ()


def test_a_name_that_dns_has() -> None:
    """Its addresses of the family are the members; a name that cannot be looked up says why."""
    assert follow.look(Follow(None, "127.0.0.1", False, 4, 1.0)) == (There("127.0.0.1", ip_address("127.0.0.1")),)
    with pytest.raises(FollowError, match=r"nodes\.invalid: "):
        follow.look(Follow(None, "nodes.invalid", False, 4, 1.0))


def test_comments_stay(tmp_path: Path) -> None:
    """The file that has the pool is changed, and nothing else in it."""
    text = '# mine\n[[pool]]\nname = "p"  # its name\n\n[[pool.member]]\nname = "a"\naddress = "203.0.113.1"\n'
    document = Document(tmp_path / "onward.toml", {"onward.toml": "", "conf.d/p.toml": text})
    changed = follow.changed(document, "p", [There("a", A), There("c", C)])
    assert changed["conf.d/p.toml"].startswith('# mine\n[[pool]]\nname = "p"  # its name\n')
    assert 'name = "c"\naddress = "203.0.113.3"' in changed["conf.d/p.toml"]
    assert follow.changed(document, "p", [There("a", A)]) == document.texts
