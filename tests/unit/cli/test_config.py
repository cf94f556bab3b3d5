"""Changes of the configuration over the control socket, and the commands for it: a real server, and real files."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.api.configuring import ConfigRoutes
from appliance.api.control import ControlServer
from appliance.api.objects import ObjectRoutes
from appliance.api.ordering import Controls, OrderRoutes
from appliance.api.transacting import TransactionRoutes
from appliance.cli.orders import OrderError, ask
from appliance.cli.root import call
from appliance.keeper import Keeper
from appliance.orders import Orders
from appliance.revisions import Author
from tests.unit.config.test_document import web
from tests.unit.test_transaction import Director


class Served:
    """A director behind a control socket."""

    def __init__(self, folder: Path, **kinds: str) -> None:
        self.director = Director(folder, **kinds)
        self.socket = folder / "control.sock"
        director = self.director
        controls = Controls(
            director.state,
            lambda: director.reconciler.applied,
            lambda: director.plane.pins,
            Keeper[Orders](lambda _: None, {}).put,
        )
        routes = [
            *OrderRoutes(controls, time.time).routes(),
            *ConfigRoutes(director.transactions).routes(),
            *ObjectRoutes(director.transactions).routes(),
            *TransactionRoutes(director.transactions).routes(),
        ]
        self.server = ControlServer(self.socket, routes)

    async def onward(self, *words: str) -> int:
        """One command, in a thread: the server lives in this loop."""
        return await asyncio.to_thread(call, [*words, "--socket", str(self.socket)])

    async def ask(self, method: str, resource: str, body: dict[str, Any] | None = None) -> Any:
        return await asyncio.to_thread(ask, self.socket, method, resource, body, also=(422, 500))


@asynccontextmanager
async def serving(folder: Path, **kinds: str) -> AsyncIterator[Served]:
    made = Served(folder, **kinds)
    made.director.find_members()
    await made.director.plane.start()
    await made.server.start()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.director.reconciler.run())
        if made.director.state.config.bgp is None:
            await made.director.reconciler.follows(made.director.state.generation)
        await made.director.transactions.begin(Author("", "start"))
        if made.director.state.config.bgp is not None:
            async with made.director.heard:
                await made.director.heard.wait_for(lambda: {"198.51.100.1"} in made.director.told)
        yield made
        await made.server.close()
        running.cancel()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


async def test_reload_says_what_it_does_and_who_wanted_it(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """First as a dry run, then for good; the revision has the user and the reason."""
    served.director.write("b", web("b", 2))
    assert await served.onward("reload", "--dry-run") == 0
    output = capsys.readouterr().out
    assert "+ virtual_service b 198.51.100.2 tcp 80 -> pool b" in output
    assert "routes to announce when all members are up:\n  198.51.100.2/32 via self" in output
    assert "(dry run)" in output
    assert served.director.in_force == ["a"]
    assert await served.onward("reload", "--reason", "more room") == 0
    assert "revision 2 is in force" in capsys.readouterr().out
    assert served.director.in_force == ["a", "b"]
    (latest, _first) = (await served.ask("GET", "/v1/config/revisions"))["revisions"]
    assert f"(uid {os.getuid()}, pid {os.getpid()})" in latest["who"]
    assert (latest["via"], latest["why"]) == ("reload", "more room")


@pytest.mark.parametrize(
    ("text", "words", "code"),
    [("[[pol]]\n", ["reload"], 4), ("[[pol]]\n", ["config", "diff"], 4), ("", ["config", "diff", "9"], 5)],
)
async def test_exit_codes_say_what_is_wrong(served: Served, text: str, words: list[str], code: int) -> None:
    """A mistake, and a revision that there is not."""
    if text:
        served.director.write("b", text)
    assert await served.onward(*words) == code
    assert served.director.in_force == ["a"]


async def test_a_plane_that_refuses_is_a_failure(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Not a mistake in the file: exit code 1, and the step."""
    served.director.write("b", web("b", 2))
    served.director.plane.fail("no room")
    assert await served.onward("reload") == 1
    error = capsys.readouterr().err
    assert "no room" in error
    assert "refused (program)" in error


async def test_diff_compares_files_and_revisions(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As diff(1): 0 the same, 1 different; nothing is changed by it."""
    assert await served.onward("config", "diff") == 0
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "new.toml"
    other.write_text(served.director.path.read_text() + web("c", 3))
    assert await served.onward("config", "diff", str(other)) == 1
    output = capsys.readouterr().out
    assert "+ virtual_service c" in output
    assert "- virtual_service a" in output
    assert await served.onward("config", "diff", "--text", str(other)) == 1
    assert '+name = "c"' in capsys.readouterr().out
    assert await served.onward("config", "diff", "1") == 0
    assert served.director.in_force == ["a"]


async def test_diff_names_the_file_that_was_given(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the director's own, in which no such thing stands; and of what could not be read nothing is foreseen."""
    other = tmp_path / "elsewhere" / "new.toml"
    (other.parent / "conf.d").mkdir(parents=True)
    other.write_text(served.director.path.read_text() + "\n[[pol]]\n")
    (other.parent / "conf.d/30-more.toml").write_text("[[pool]]\nnam = 1\n")
    assert await served.onward("config", "diff", str(other)) == 4
    said = capsys.readouterr()
    mistakes = said.err.splitlines()
    assert all(line.startswith(f"{other.parent}/") for line in mistakes), mistakes
    assert any(line.startswith(f"{other}:") for line in mistakes)
    assert any(line.startswith(f"{other.parent}/conf.d/30-more.toml:2: ") for line in mistakes)
    assert said.out.splitlines()[-1] == "it would be refused (parse); nothing was changed (dry run)"
    assert "written otherwise" not in said.out
    assert await served.onward("config", "diff", str(other), "--json") == 4
    said = capsys.readouterr().out
    problems = json.loads(said[said.index("{\n") :])["problems"]
    assert {problem["source"] for problem in problems} == {str(other), f"{other.parent}/conf.d/30-more.toml"}


async def test_orders_beside_the_configuration(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """They are marked in the list and told by diff and dry runs; a reload leaves them, or takes all of them back."""
    (pool,) = served.director.state.config.pools
    member = f"{pool.name}/{pool.members[0].name}"
    assert await served.onward("config", "diff") == 0
    assert "orders" not in capsys.readouterr().out
    assert await served.onward("member", "weight", member, "5") == 0
    assert await served.onward("member", "drain", member) == 0
    assert await served.onward("member", "list") == 0
    output = capsys.readouterr().out
    (row,) = (line.split() for line in output.splitlines() if line.startswith(f"{member} "))
    assert "5*" in row
    assert "\n* ordered by an operator" in output
    assert await served.onward("member", "list", "--no-header") == 0
    assert "* ordered" not in capsys.readouterr().out, "for scripts, nothing but rows"
    for words in (("config", "diff"), ("reload", "--dry-run")):
        assert await served.onward(*words) == 0
        assert f"orders of operators that stay:\n  {member} drain ratio 5\n" in capsys.readouterr().out
    assert await served.onward("reload") == 0
    assert await served.onward("reload", "--dry-run", "--reset-runtime") == 0
    assert "that would be taken back" in capsys.readouterr().out
    assert set(served.director.state.orders) == {member}
    assert await served.onward("reload", "--reset-runtime") == 0
    assert "that were taken back" in capsys.readouterr().out
    assert served.director.state.orders == {}


async def test_history_show_and_rollback(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """What was in force can be seen, and put into force again."""
    served.director.write("b", web("b", 2))
    assert await served.onward("reload") == 0
    assert await served.onward("config", "rollback", "1", "--reason", "too early") == 0
    assert served.director.in_force == ["a"]
    capsys.readouterr()
    assert await served.onward("config", "history") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["REVISION", "3*", "2", "1"]
    assert "rollback to 1" in lines[1]
    assert lines[1].endswith("too early")
    assert await served.onward("config", "show", "2") == 0
    assert "# ---- conf.d/b.toml" in capsys.readouterr().out
    assert await served.onward("config", "show", "--json") == 0
    assert sorted(json.loads(capsys.readouterr().out)["texts"]) == ["conf.d/a.toml", "onward.toml"]


@pytest.mark.parametrize(
    "body",
    [{}, {"texts": []}, {"texts": {"onward.toml": 1}}, {"texts": {}, "base": 1}, {"texts": {}, "dry_run": 1}, {"x": 1}],
)
async def test_requests_that_make_no_sense_are_refused(served: Served, body: dict[str, Any]) -> None:
    """Before anything is tried."""
    with pytest.raises(OrderError):
        await served.ask("PUT", "/v1/config", body)


async def test_nobody_writes_beside_the_configuration(served: Served, tmp_path: Path) -> None:
    """Names of files are checked: only the main file and those of conf.d."""
    texts = (await served.ask("GET", "/v1/config"))["texts"]
    outcome = await served.ask("PUT", "/v1/config", {"texts": {**texts, "../evil.toml": "x"}})
    assert not outcome["ok"]
    assert "no place for a configuration" in outcome["problems"][0]["text"]
    assert not (tmp_path.parent / "evil.toml").exists()
