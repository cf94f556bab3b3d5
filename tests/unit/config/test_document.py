"""A configuration of several files: how it is read, what mistakes in it look like, and how it is replaced."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config.document import (
    Document,
    DocumentError,
    Pending,
    decide_on,
    finish,
    forget,
    is_fragment,
    pending,
    read_document,
)
from appliance.config.load import load, load_document
from appliance.config.problems import ConfigError

MAIN = """schema_version = 1

[director]
name = "d1"
interfaces = ["eth1"]

[fleet]
secret_file = "fleet.key"

[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
"""

WEB = """[[pool]]
name = "{name}"
[[pool.member]]
address = "203.0.113.{number}"

[[virtual_service]]
name = "{name}"
vips = ["198.51.100.{number}"]
ports = [80]
network_profile = "tcp"
pool = "{name}"
"""


def web(name: str, number: int) -> str:
    return WEB.format(name=name, number=number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    (tmp_path / "onward.toml").write_text(MAIN)
    return tmp_path / "onward.toml"


def write(path: Path, **texts: str) -> None:
    for name, text in texts.items():
        (path.parent / "conf.d" / f"{name}.toml").write_text(text)


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [str(problem).replace(str(path.parent), "") for problem in caught.value.problems]


def test_fragments_follow_the_main_file_in_the_order_of_their_names(path: Path) -> None:
    """Hidden files and other endings do not count."""
    write(path, b=web("b", 2), a=web("a", 1))
    write(path, **{".hidden": "not TOML"})
    (path.parent / "conf.d" / "c.toml.old").write_text("not TOML")
    (path.parent / "conf.d" / "folder.d").mkdir()
    assert list(read_document(path).texts) == ["onward.toml", "conf.d/a.toml", "conf.d/b.toml"]
    assert [service.name for service in load(path).services] == ["a", "b"]


def test_a_mistake_stands_in_its_own_file(path: Path) -> None:
    """File and line are those of the fragment; paths count over all files, as other messages refer to them."""
    write(path, a=web("a", 1), b=web("b", 2).replace("ports = [80]", "ports = [0]\nprots = [80]"))
    assert problems(path) == [
        '/conf.d/b.toml:9: virtual_service[1].ports[0]: 0 is not a port; use 1..65535 or "first-last"',
        (
            "/conf.d/b.toml:10: virtual_service[1].prots: unknown key; did you mean `ports`? known here: "
            "name, vips, ports, network_profile, pool, enabled, traffic, server_port, certificate, ha, prefer, "
            "primaries, min_members, advertise_down, needs_all, bgp, reject_other_ports, arp, protection"
        ),
    ]


def test_what_two_files_say_of_one_thing_is_a_mistake(path: Path) -> None:
    """Values and tables that there is one of belong to one file; the version may stand in all of them."""
    write(path, a='schema_version = 1\n[director]\npins = 0\nname = "d2"\n' + web("a", 1))
    assert problems(path) == [
        "/conf.d/a.toml:4: director.name: /onward.toml says this already; leave it out in one of the two files"
    ]
    write(path, a="[director]\npins = 0\n" + web("a", 1))
    assert load(path).director.pins == 0


def test_names_are_unique_over_all_files(path: Path) -> None:
    """A duplicate is told where it stands, with the other one's place."""
    write(path, a=web("a", 1), b=web("b", 2).replace('name = "b"', 'name = "a"', 1))
    assert problems(path)[0] == (
        '/conf.d/b.toml:2: pool[1].name: "a" is the name of another pool (pool[0].name); names must be unique; '
        "choose another"
    )


def test_lists_within_tables_are_joined(path: Path) -> None:
    """Routers can stand in files of their own."""
    write(
        path,
        a='[bgp]\nlocal_as = 65010\nrouter_id = "192.0.2.11"\n',
        b='[[bgp.peer]]\naddress = "192.0.2.1"\nremote_as = 65000\n',
        c='[[bgp.peer]]\naddress = "192.0.2.2"\nremote_as = 0\n',
    )
    (problem,) = problems(path)
    assert problem.startswith("/conf.d/c.toml:3: bgp.peer[1].remote_as: 0 is a reserved AS number")


def test_all_files_that_are_no_toml_are_told_at_once(path: Path) -> None:
    """One broken file does not hide another one."""
    write(path, a="[[pool", b="= 1\n")
    assert [problem.split(": ")[0] for problem in problems(path)] == ["/conf.d/a.toml:1", "/conf.d/b.toml:1"]


def test_files_that_cannot_be_read_are_told_at_once(path: Path) -> None:
    """The main file and a fragment."""
    path.write_bytes(b"\xff")
    (path.parent / "conf.d" / "a.toml").mkdir()
    assert [problem.split(": ")[0] for problem in problems(path)] == ["/onward.toml:1", "/conf.d/a.toml"]


@pytest.mark.parametrize(
    "name", ["conf.d/.a.toml", "conf.d/a.conf", "a.toml", "conf.d/x/a.toml", "conf.d/../onward.toml", "/conf.d/a.toml"]
)
def test_no_other_place_is_a_fragment(name: str) -> None:
    """Who sends texts by name cannot write anywhere else."""
    assert not is_fragment(name)
    with pytest.raises(ConfigError, match=r"no place"):
        Document(Path("/x/onward.toml"), {}).having({"onward.toml": MAIN, name: ""})


def test_the_main_file_cannot_be_left_out() -> None:
    """Else a director would start anew with nothing."""
    with pytest.raises(ConfigError, match="missing"):
        Document(Path("/x/onward.toml"), {}).having({"conf.d/a.toml": ""})


def changed(path: Path) -> Document:
    document = read_document(path)
    return document.having({"onward.toml": MAIN + "# later\n", "conf.d/b.toml": web("b", 2)})


def test_a_change_counts_from_when_it_was_decided_on(path: Path) -> None:
    """Who reads the files then reads what they will say, before and while they are replaced, and after."""
    write(path, a=web("a", 1))
    new = changed(path)
    decide_on(new, {"who": "me"})
    assert path.read_text() == MAIN
    assert read_document(path) == new
    assert [service.name for service in load(path).services] == ["b"]

    class EndedError(Exception):
        pass

    def after_one(names: Iterator[str]) -> Callable[[str], None]:
        def at(name: str) -> None:
            if name != next(names, name):
                raise EndedError

        return at

    for first in ("onward.toml", "conf.d/b.toml"):  # then conf.d/a.toml is removed
        change = pending(path)
        assert change is not None
        assert not change.overtaken
        with pytest.raises(EndedError):
            finish(change, after_one(iter((first, first))))
        assert read_document(path) == new
    finish(change)
    forget(path)
    assert read_document(path) == new
    assert sorted(file.name for file in path.parent.rglob("*")) == ["b.toml", "conf.d", "fleet.key", "onward.toml"]


def test_a_change_that_somebody_has_overtaken_does_not_count(path: Path) -> None:
    """A process died in the middle, somebody put the files right by hand: their word is the last."""
    write(path, a=web("a", 1))
    decide_on(changed(path), {})
    write(path, a=web("a", 7))
    change = pending(path)
    assert change is not None
    assert change.overtaken
    assert [str(service.vips[0]) for service in load(path).services] == ["198.51.100.7"]


def test_a_note_that_cannot_be_read_is_told(path: Path) -> None:
    """Nobody knows what the files should say then."""
    (path.parent / ".onward.toml.pending").write_text("{")
    assert "a change that was begun cannot be read" in problems(path)[0]


def test_replaced_files_keep_mode_and_link(path: Path) -> None:
    """New ones get the main file's mode; a symbolic link stays one, and what it stands for is replaced."""
    path.chmod(0o640)
    elsewhere = path.parent / "elsewhere.toml"
    elsewhere.write_text(web("a", 1))
    elsewhere.chmod(0o600)
    link = path.parent / "conf.d" / "a.toml"
    link.symlink_to(elsewhere)
    document = read_document(path).having(
        {"onward.toml": MAIN + "\n", "conf.d/a.toml": web("a", 9), "conf.d/b.toml": web("b", 2)}
    )
    old = os.umask(0)
    try:
        finish(Pending(document, {}))
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert elsewhere.read_text() == web("a", 9)
    modes = [file.stat().st_mode & 0o777 for file in (path, elsewhere, path.parent / "conf.d" / "b.toml")]
    assert modes == [0o640, 0o600, 0o640]


def test_a_folder_that_cannot_be_written_changes_nothing(path: Path) -> None:
    """The error names the place."""
    before = read_document(path)
    (path.parent / ".onward.toml.pending.new").mkdir()
    with pytest.raises(DocumentError, match=r"cannot write beside .*onward\.toml"):
        decide_on(changed(path), {})
    assert read_document(path) == before


def test_the_note_of_a_change_says_what_it_is(path: Path) -> None:
    """Its form is for other versions to know."""
    decide_on(changed(path), {"who": "me", "why": "because"})
    raw = json.loads((path.parent / ".onward.toml.pending").read_text())
    assert raw["format"] == 1
    assert raw["note"] == {"who": "me", "why": "because"}


def test_the_same_again_is_known_without_reading_it(path: Path) -> None:
    """Texts and the files that they name count; a secret that has changed is something new."""
    write(path, a=web("a", 1))
    loaded = load_document(read_document(path))
    assert loaded.still(read_document(path))
    (path.parent / "fleet.key").write_bytes(bytes(range(1, 33)))
    assert not loaded.still(read_document(path))
    (path.parent / "fleet.key").unlink()
    assert not loaded.still(read_document(path))
    (path.parent / "fleet.key").write_bytes(bytes(range(32)))
    write(path, a=web("a", 2))
    assert not loaded.still(read_document(path))
