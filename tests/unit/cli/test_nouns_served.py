"""Objects of a running director by commands and in the shell: a real server, a real transaction, real files."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.cli.configure import Shell
from appliance.cli.objects import OfDirector, OfFiles, objects_at
from appliance.cli.orders import OrderError
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
    shell = Shell(OfDirector(served.socket), "by hand")

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
