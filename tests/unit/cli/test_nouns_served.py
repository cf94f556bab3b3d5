"""Objects of a running director by commands and in the shell: a real server, a real transaction, real files."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.cli.configure import Shell
from appliance.cli.objects import How, OfDirector, OfFiles, objects_at
from appliance.cli.orders import OrderError
from appliance.cli.root import call
from tests.unit.cli.test_config import Served, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


async def test_consequences_first(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run says what would move and changes nothing; the change is a revision with its reason."""
    words = ("member", "add", "a/a9", "--address", "203.0.113.9")
    assert await served.onward(*words, "--dry-run") == 0
    output = capsys.readouterr().out
    assert "SLOTS MOVE" in output
    assert "nothing was changed (dry run)" in output
    assert served.director.revision() == 1
    assert await served.onward(*words, "--reason", "more room") == 0
    assert "member a/a9 added; revision 2 is in force" in capsys.readouterr().out
    revision = served.director.revisions.latest()
    assert revision is not None
    assert (revision.number, revision.author.via, revision.author.why) == (2, "api", "more room")


async def test_a_service_from_nothing(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Profile, pool and virtual service, each in force at once; then all of it is removed again."""
    for line in (
        "networkprofile create web --type tcp-fast-path --dsr-type l3 --dsr-encap ipinip",
        "pool create b --member 203.0.113.2,name=b1",
        "virtualservice create b --vip 198.51.100.2 --port 80 --profile web --pool b",
    ):
        assert await served.onward(*line.split()) == 0
    assert served.director.in_force == ["a", "b"]
    capsys.readouterr()
    assert await served.onward("virtualservice", "list", "-o", "name") == 0
    assert sorted(capsys.readouterr().out.split()) == ["a", "b"]
    assert await served.onward("pool", "delete", "b") == 1
    assert "used by virtual-services/b" in capsys.readouterr().err
    assert await served.onward("virtualservice", "delete", "b") == 0
    assert await served.onward("pool", "delete", "b") == 0
    assert served.director.in_force == ["a"]


async def test_what_is_refused(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its exit code, and mistakes at their options."""
    assert await served.onward("virtualservice", "set", "a", "--pool", "nobody", "--min-members", "0") == 4
    said = capsys.readouterr().err
    assert "onward: --min-members: " in said
    assert await served.onward("virtualservice", "set", "a", "--pool", "nobody") == 4
    assert "onward: --pool: " in capsys.readouterr().err
    assert await served.onward("pool", "show", "b") == 5
    assert await served.onward("pool", "set", "b", "--hash", "source_ip") == 5
    assert await served.onward("pool", "create", "a", "--member", "203.0.113.2") == 1
    assert "there is a pool a already" in capsys.readouterr().err
    served.director.plane.fail("no room")
    assert await served.onward("pool", "set", "a", "--hash", "source_ip") == 1
    assert "no room" in capsys.readouterr().err
    assert served.director.revision() == 1


async def test_who_was_quicker_is_named(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Who changed it since, by which revision."""
    assert await served.onward("pool", "show", "a", "-o", "wide") == 0
    (etag,) = (line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("etag"))
    assert await served.onward("pool", "set", "a", "--slow-start", "5", "--if-match", etag) == 0
    assert await served.onward("pool", "set", "a", "--slow-start", "6", "--if-match", etag) == 1
    assert "(api, revision 2)" in capsys.readouterr().err


async def test_the_shell(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """The same by levels; what there is one of has no name; what is refused leaves the level as it is."""
    shell = Shell(OfDirector(served.socket), How(reason="by hand"))

    async def talk(*lines: str) -> None:
        for line in lines:
            await asyncio.to_thread(shell.line, line)

    await talk("configure networkprofile media", "udp_fast_path_profile", "dsr_profile dsr_type l2", "save", "save")
    assert "network profile media saved; revision 2 is in force" in capsys.readouterr().out
    assert await asyncio.to_thread(shell.complete, "configure networkprofile m") == ["media"]
    await talk("configure virtualservice a", "network_profile media")
    with pytest.raises(OrderError) as caught:
        await talk("pool nobody", "save")
    assert any(text.startswith("pool: ") for text in shell.said(caught.value))
    assert shell.prompt == "virtualservice a"
    await talk("cancel", "configure connection-log", "one_of 1000", "save")
    assert "connection log saved; revision 3 is in force" in capsys.readouterr().out
    revision = served.director.revisions.latest()
    assert revision is not None
    assert revision.author.why == "by hand"
    shell = Shell(OfDirector(served.socket), How(at_restart=True))
    await talk("configure director", "pins 64", "save")
    assert "director saved for the next start; revision 4 waits for a restart" in capsys.readouterr().out


async def test_files_of_a_running_director(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--config` and a director that runs with that file, it is asked; files of nobody are changed themselves."""
    path = served.director.path
    monkeypatch.setattr("appliance.cli.orders.RUNTIME_DIR", tmp_path)

    def chosen(config: Path) -> type:
        return type(objects_at(None, config))

    assert await asyncio.to_thread(chosen, path) is OfDirector
    other = tmp_path / "other" / "onward.toml"
    other.parent.mkdir()
    (other.parent / "fleet.key").write_bytes((tmp_path / "fleet.key").read_bytes())
    other.write_text(path.read_text())
    assert await asyncio.to_thread(chosen, other) is OfFiles


async def test_what_takes_a_restart_can_wait_for_one(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with each key; with --at-restart it is in the files, and history, diff and every refusal say what waits;
    the way back is a rollback to what is in force."""
    words = ("director", "set", "--pins", "64", "--drain-on-stop", "5")
    assert await served.onward(*words) == 4
    said = capsys.readouterr().err
    assert "--pins: 131072 -> 64; that takes a restart" in said
    assert "drain_on_stop" not in said
    assert await served.onward(*words, "--at-restart", "--reason", "less memory") == 0
    told = "director changed for the next start; revision 2 waits for a restart of the director: director.pins: "
    assert told + "131072 -> 64" in capsys.readouterr().out
    assert "pins = 64" in served.director.path.read_text()
    assert served.director.state.config.director.pins == 131072
    assert await served.onward("config", "history") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["2+", "1*"]
    assert await served.onward("config", "diff") == 4
    output = capsys.readouterr()
    assert "director.pins: 131072 -> 64" in output.err
    assert "less memory) waits for a restart" in output.err
    assert await served.onward("pool", "set", "a", "--slow-start", "5", "--dry-run") == 1
    assert await served.onward("pool", "set", "a", "--slow-start", "5") == 1
    assert "less memory) waits for a restart" in capsys.readouterr().err
    assert await served.onward("pool", "set", "a", "--slow-start", "5", "--at-restart") == 0
    assert await served.onward("config", "rollback", "1") == 0
    assert "in force again, and nothing waits any more" in capsys.readouterr().out
    assert "pins = 64" not in served.director.path.read_text()
    assert await served.onward("pool", "set", "a", "--slow-start", "5") == 0


async def test_bgp_from_nothing(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where none is written, it takes routers as well, once; files of nobody have it at once."""
    director = served.director
    words = "bgp set --local-as 65010 --router-id 192.0.2.11 --peer address=192.0.2.1,remote_as=65000"
    bgp = words.split()
    assert await served.onward(*bgp) == 2
    assert "--peer is for the first time" in capsys.readouterr().err
    assert await served.onward("bgp", "delete", "--at-restart") == 0
    assert "bgp: BGP -> no BGP" in capsys.readouterr().out
    assert "[bgp]" not in director.path.read_text()
    assert await served.onward("config", "rollback", "1") == 0

    other = tmp_path / "other"
    other.mkdir()
    (other / "fleet.key").write_bytes(bytes(range(32)))
    text = director.path.read_text()
    (other / "onward.toml").write_text(text[: text.index("[bgp]")] + (director.folder / "conf.d/a.toml").read_text())
    options = ["--config", str(other / "onward.toml")]
    assert await asyncio.to_thread(call, [*bgp[:-2], *options]) == 4
    assert "--peer: " in capsys.readouterr().err
    assert await asyncio.to_thread(call, [*bgp, *options]) == 0
    assert "BGP made; written to" in capsys.readouterr().out
    assert await asyncio.to_thread(call, ["bgp", "set", "--hold-down", "5", *options]) == 0
    assert "local_as = 65010" in (other / "onward.toml").read_text()
    assert await asyncio.to_thread(call, ["check", str(other / "onward.toml")]) == 0


async def test_force(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Over edits of the files that nobody has loaded, for one object and for several; a dry run says the same."""
    path, file = served.director.path, served.director.folder / "more.json"
    file.write_text('{"pool": [{"name": "b", "member": [{"address": "203.0.113.2"}]}]}')
    for words in (("pool", "set", "a", "--slow-start", "5"), ("apply", "-f", str(file)), ("pool", "delete", "b")):
        path.write_text(f"# mine\n{path.read_text()}")
        for more in ((), ("--dry-run",)):
            assert await served.onward(*words, *more) == 1
            assert "the files say something else" in capsys.readouterr().err
        assert await served.onward(*words, "--dry-run", "--force") == 0
        assert await served.onward(*words, "--force") == 0
        assert not path.read_text().startswith("# mine")


async def test_bgp_from_nothing_waits_for_a_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A director without BGP: refused with the reason, and then written for the next start, in two steps."""
    async with serving(tmp_path, bgp="") as served:
        line = "bgp set --local-as 65010 --router-id 192.0.2.11 --peer address=192.0.2.1,remote_as=65000"
        words = line.split()
        assert await served.onward(*words) == 4
        assert "bgp: no BGP -> BGP; that takes a restart" in " ".join(capsys.readouterr().err.split())
        assert await served.onward(*words, "--at-restart") == 0
        assert await served.onward("bgp", "set", "--hold-down", "5", "--at-restart") == 0
        text = served.director.path.read_text()
        assert "hold_down = 5" in text
        assert "local_as = 65010" in text
        assert served.director.state.config.bgp is None
