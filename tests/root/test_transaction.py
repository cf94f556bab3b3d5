"""Changes of the configuration of whole directors, and directors that are killed in the middle of them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.connect import UnixConnection
from appliance.cli.orders import OrderError, ask
from appliance.cli.root import call
from appliance.transaction import Step
from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

MAIN = """# The main file.
schema_version = 1

[director]
name = "d1"
interfaces = ["e0"]
plane = "raw"
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"

[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
dsr = {{ type = "l3" }}
"""

WEB = """# {comment}
[[pool]]
name = "{name}"
[[pool.member]]
name = "one"
address = "{address}"

[[virtual_service]]
name = "{name}"
vips = ["{vip}"]
ports = [80]
network_profile = "tcp"
pool = "{name}"
"""


def web(name: str, vip: str, address: str, comment: str = "as it was") -> str:
    return WEB.format(name=name, vip=vip, address=address, comment=comment)


@pytest.fixture
def space() -> Iterator[Namespace]:
    with namespaces("d1", "s1", prefix="owtx") as (made, other):
        veth(made, "e0", other, "e0")
        made.ip("address add 192.0.2.11/24 dev e0")
        yield made


class Director:
    """A process with a configuration of three files."""

    def __init__(self, space: Namespace, folder: Path) -> None:
        self.space, self.folder = space, folder
        self.path = folder / "onward.toml"
        self.socket = folder / "run" / "control.sock"
        (folder / "conf.d").mkdir()
        (folder / "fleet.key").write_bytes(bytes(range(32)))
        self.old = {
            "onward.toml": MAIN.format(folder=folder),
            "conf.d/10-web.toml": web("web", "198.51.100.7", "192.0.2.99"),
            "conf.d/20-shop.toml": web("shop", "198.51.100.8", "192.0.2.98"),
        }
        self.new = {
            "onward.toml": self.old["onward.toml"].replace("The main file", "The main file, later"),
            "conf.d/10-web.toml": web("web", "198.51.100.7", "192.0.2.97", "changed"),
            "conf.d/30-blog.toml": web("blog", "198.51.100.9", "192.0.2.96", "new"),
        }
        self.write(self.old)
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, texts: dict[str, str]) -> None:
        for name in self.on_disk().keys() - texts.keys():
            (self.folder / name).unlink()
        for name, text in texts.items():
            (self.folder / name).write_text(text)

    def on_disk(self) -> dict[str, str]:
        files = [*self.folder.glob("onward.toml"), *sorted((self.folder / "conf.d").glob("*.toml"))]
        return {str(file.relative_to(self.folder)): file.read_text() for file in files}

    def start(self) -> None:
        words = self.space.command(sys.executable, "-m", "appliance", "run", str(self.path))
        self.process = subprocess.Popen(words, cwd=REPOSITORY)
        until(self.answers, "the director answers", 120)

    def answers(self) -> bool:
        assert self.process is None or self.process.poll() is None, "the director has ended"
        try:
            return bool(self.get("/v1/config"))
        except OrderError:
            return False

    def get(self, resource: str) -> Any:
        return ask(self.socket, "GET", resource)

    def reload(self, why: str) -> Any:
        return ask(self.socket, "POST", "/v1/config/reload", {"reason": why}, timeout_s=120, also=(422, 500))

    def put(self, texts: dict[str, str], why: str) -> Any:
        body = {"texts": texts, "reason": why}
        return ask(self.socket, "PUT", "/v1/config", body, timeout_s=120, also=(422, 500))

    def check(self, texts: dict[str, str], why: str) -> None:
        """That this and nothing else is the configuration, and why it came."""
        assert self.get("/v1/config")["texts"] == texts
        assert self.on_disk() == texts
        assert not (self.folder / ".onward.toml.pending").exists()
        latest = self.get("/v1/config/revisions")["revisions"][0]
        assert self.get(f"/v1/config/revisions/{latest['number']}")["texts"] == texts
        assert latest["why"] == why
        wanted = ["shop", "web"] if texts == self.old else ["blog", "web"]
        until(lambda: self.services() == wanted, "the services are in force", 60)

    def services(self) -> list[str]:
        """Those of the members in force."""
        return sorted(member["id"].partition("/")[0] for member in self.get("/v1/members")["members"])

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
        if self.process is not None:
            self.process.wait(60)


@pytest.fixture
def director(space: Namespace, tmp_path: Path) -> Iterator[Director]:
    made = Director(space, tmp_path)
    try:
        yield made
    finally:
        made.stop()


class Doomed:
    """Directors with that configuration, one after the other, each of which ends at a step of a change."""

    def __init__(self, director: Director) -> None:
        self.director = director
        words = director.space.command(sys.executable, "-m", "tests.root.doomed_director", str(director.path))
        self._parent = subprocess.Popen(
            words, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._child: int | None = None

    def start(self, step: Step, number: int) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{step} {number}\n")
        self._child = self._told()
        until(self.director.answers, "the director answers", 120)

    def ended(self) -> int:
        """Its exit code, or the signal, negative."""
        code, self._child = self._told(), None
        return code

    def _told(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())

    def close(self) -> None:
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
            self.ended()
        self._parent.communicate(timeout=60)


@pytest.fixture
def doomed(director: Director) -> Iterator[Doomed]:
    made = Doomed(director)
    try:
        yield made
    finally:
        made.close()


BEFORE = (Step.PARSE, Step.VALIDATE, Step.DIFF, Step.PROGRAM, Step.PROGRAMMED, Step.PERSIST)
OF_A_CHANGE = [(step, 1) for step in Step] + [(Step.FILE, number) for number in (2, 3, 4)]
OF_A_RELOAD = [*BEFORE, Step.REVISION, Step.EVENT]


@pytest.mark.timeout(900)
def test_a_director_killed_at_any_step_begins_anew_with_one_whole_configuration(doomed: Doomed) -> None:
    """Every step of changes of four files, back and forth: until one was decided on, the next process has all that was,
    and from then on all that was to be; in force, on the disk and as the latest revision."""
    director = doomed.director
    texts, other, why = director.old, director.new, ""
    for step, number in OF_A_CHANGE:
        doomed.start(step, number)
        director.check(texts, why)
        with pytest.raises(OrderError):
            director.put(other, f"to be killed at {step} {number}")
        assert doomed.ended() == -signal.SIGKILL
        if step not in BEFORE:
            texts, other, why = other, texts, f"to be killed at {step} {number}"
    doomed.start(Step.EVENT, 0)
    director.check(texts, why)


@pytest.mark.timeout(900)
def test_a_director_killed_at_any_step_of_a_reload_begins_anew_with_the_files(doomed: Doomed) -> None:
    """They are the configuration, whole, whatever the reload had come to; the revision is the reload's where it had
    become one, and else that of the start."""
    director = doomed.director
    texts, other, why = director.old, director.new, ""
    for step in OF_A_RELOAD:
        doomed.start(step, 1)
        director.check(texts, why)
        texts, other = other, texts
        director.write(texts)
        with pytest.raises(OrderError):
            director.reload(f"to be killed at {step}")
        assert doomed.ended() == -signal.SIGKILL
        why = f"to be killed at {step}" if step is Step.EVENT else ""
    doomed.start(Step.EVENT, 0)
    director.check(texts, why)


def test_a_reload_a_dry_run_a_mistake_and_the_way_back(director: Director, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGHUP and the commands are one path: the files as they are now, whole or not at all; every one a revision."""
    director.start()
    options = ("--socket", str(director.socket))
    assert call(["reload", *options]) == 0
    assert "nothing is different" in capsys.readouterr().out

    (director.folder / "conf.d/30-blog.toml").write_text(director.new["conf.d/30-blog.toml"])
    assert call(["reload", "--dry-run", *options]) == 0
    output = capsys.readouterr().out
    assert "+ virtual_service blog 198.51.100.9 tcp 80 -> pool blog" in output
    assert "dry run" in output
    until(lambda: director.services() == ["shop", "web"], "the plane has the first tables, and no more")
    assert call(["config", "diff", *options]) == 1

    assert director.process is not None
    os.kill(director.process.pid, signal.SIGHUP)
    until(lambda: director.services() == ["blog", "shop", "web"], "the reload is in force")
    until(lambda: director.get("/v1/config")["revision"] == 2, "it is a revision")
    assert call(["config", "diff", *options]) == 0
    capsys.readouterr()

    refused = director.put({**director.on_disk(), "conf.d/40-shop.toml": "[[pol]]\n"}, "a slip")
    assert "unknown key" in refused["detail"]
    assert director.get("/v1/status")["config"]["last_reload"]["ok"], "who has slipped knows, and nothing else is wrong"

    (director.folder / "conf.d/30-blog.toml").write_text("[[pol]]\n")
    assert call(["reload", *options]) == 4
    error = capsys.readouterr().err
    until(lambda: not director.get("/v1/status")["config"]["last_reload"]["ok"], "the status says that it was refused")
    assert director.get("/v1/status")["ready"]["ready"], "traffic is as welcome as before"
    assert f"{director.folder}/conf.d/30-blog.toml:1: pol: unknown key; did you mean `pool`?" in error
    assert director.services() == ["blog", "shop", "web"]

    assert call(["config", "rollback", "1", "--reason", "no blog", *options]) == 1
    assert "the files say something else" in capsys.readouterr().err
    assert call(["config", "rollback", "1", "--force", "--reason", "no blog", *options]) == 0
    until(lambda: director.services() == ["shop", "web"], "the rollback is in force")
    assert director.on_disk() == director.old
    capsys.readouterr()
    assert call(["config", "history", *options]) == 0
    first = capsys.readouterr().out.splitlines()[1].split()
    assert first[0] == "3*"
    assert first[-2:] == ["no", "blog"]


class Slow(Director):
    """Whose parser takes until there is no file `hold`."""

    def start(self) -> None:
        words = self.space.command(sys.executable, "-m", "tests.root.slow_director", str(self.path))
        with (self.folder / "said").open("wb") as said:
            self.process = subprocess.Popen(words, cwd=REPOSITORY, stdout=said)
        until(self.answers, "the director answers", 120)

    def steps(self) -> list[str]:
        """Of all changes so far; what else is said there is no step."""
        return [line for line in (self.folder / "said").read_text().splitlines() if line in list(Step)]

    def hold(self) -> None:
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def begin(self, texts: dict[str, str], why: str) -> UnixConnection:
        """Send a change, and return when it is being parsed."""
        known = len(self.steps())
        connection = UnixConnection(self.socket, 120)
        connection.request("PUT", "/v1/config", json.dumps({"texts": texts, "reason": why}))
        until(lambda: self.steps()[known:] == ["parse"], "it is parsed", 60)
        return connection

    def rejected(self) -> list[str]:
        events = self.get("/v1/events?event=config.rejected")["items"]
        return [event["fields"]["problem"] for event in events]


@pytest.fixture
def slow(space: Namespace, tmp_path: Path) -> Iterator[Slow]:
    made = Slow(space, tmp_path)
    try:
        yield made
    finally:
        made.release()
        made.stop()


def test_who_goes_away_or_is_slow_keeps_nobody(slow: Slow) -> None:
    """While a change is parsed, dry runs and reloads come to their end; a client that has gone has changed nothing, and
    one that waits is told when the director is stopped, which ends while the parser is still at it."""
    slow.start()
    slow.hold()
    connection = slow.begin(slow.new, "gone")
    assert slow.reload("the same again")["unchanged"], "nobody waits for who parses"
    connection.close()
    slow.release()
    until(lambda: any("is gone, and nothing was done" in text for text in slow.rejected()), "it is dropped", 60)
    assert "program" not in slow.steps()
    assert slow.on_disk() == slow.old
    assert slow.get("/v1/config")["revision"] == 1
    assert slow.get("/v1/status")["config"]["last_reload"]["ok"], "nothing is wrong with the director"

    slow.hold()
    connection = slow.begin(slow.new, "to be stopped")
    assert slow.process is not None
    slow.process.terminate()
    answer = connection.getresponse()
    assert (answer.status, "the director ends" in answer.read().decode()) == (503, True)
    connection.close()
    assert slow.process.wait(60) == 0
    assert (slow.folder / "hold").exists(), "and the parser would be at it still"
    assert slow.on_disk() == slow.old


def test_a_change_waits_for_a_restart(director: Director, capsys: pytest.CaptureFixture[str]) -> None:
    """Status, page and commands say what waits; the next process has it, as the revision that it was; a reload in
    between is refused for the same keys."""
    director.start()
    options = ("--socket", str(director.socket))
    words = ("director", "set", "--pins", "64", "--reason", "little memory")
    assert call([*words, *options]) == 4
    assert "--pins: 131072 -> 64" in capsys.readouterr().err
    # A director that cannot start with it would be found out too late.
    assert call(["director", "set", "--interfaces", "nope0", "--at-restart", *options]) == 4
    assert "there is no interface nope0 on this machine" in capsys.readouterr().err
    assert director.get("/v1/config")["staged"] is None
    assert call([*words, "--at-restart", *options]) == 0
    waits = "director.pins: 131072 -> 64"
    assert f"revision 2 waits for a restart of the director: {waits}" in capsys.readouterr().out

    def told() -> bool:
        config = director.get("/v1/status")["config"]
        return config["staged"] is not None and config["staged"]["takes_restart"] == [waits]

    until(told, "the status says so")
    problems = director.get("/v1/status")["health"]["problems"]
    assert any("revision 2 of the configuration waits for a restart" in text for text in problems)
    assert call(["reload", *options]) == 4
    assert waits in capsys.readouterr().err
    assert director.get("/v1/config")["revision"] == 1

    director.stop()
    director.start()
    config = director.get("/v1/config")
    assert (config["revision"], config["staged"]) == (2, None)
    assert director.get("/v1/config/revisions")["revisions"][0]["why"] == "little memory"
    until(lambda: director.get("/v1/status")["pins"]["capacity"] == 64, "it is what the director runs with")
    assert director.get("/v1/status")["config"]["last_reload"]["ok"]
