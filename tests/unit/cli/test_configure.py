"""`onward configure`: levels, save and cancel, completion; by a pipe and in a terminal."""

import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.configure import Shell
from appliance.cli.objects import OfFiles
from appliance.cli.orders import OrderError
from appliance.cli.tree import InputError
from tests.unit.cli.test_nouns import file  # noqa: F401 - a fixture
from tests.unit.cli.test_top import read_until

ROOT = Path(__file__).parents[3]


class Talk:
    """A shell, and what it has said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self.shell = Shell(OfFiles(path), say=self.said.append)

    def __call__(self, *lines: str) -> "Talk":
        for line in lines:
            self.shell.line(line)
        return self

    def written(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = (one for one in tomllib.loads(self.path.read_text())[kind] if one["name"] == name)
        return dict(found)


@pytest.fixture
def talk(file: Path) -> Talk:  # noqa: F811 - the fixture
    return Talk(file)


def test_as_in_the_seed_system(talk: Talk) -> None:
    """The lines that its users know, level by level; nothing is written before the outermost save."""
    before = talk.path.read_text()
    talk("configure networkprofile web", "tcp_fast_path_profile")
    assert talk.shell.prompt == "networkprofile web:tcp_fast_path_profile"
    talk("dsr_profile dsr_type dsr_type_l2", "save")
    assert talk.shell.prompt == "networkprofile web"
    assert talk.path.read_text() == before
    talk("save")
    assert talk.shell.prompt == "onward"
    assert talk.written("network_profile", "web") == {"name": "web", "type": "tcp_fast_path", "dsr": {"type": "l2"}}


@pytest.mark.parametrize("word", ["exit", "quit"])
def test_nobody_leaves_changes_behind_without_a_word(talk: Talk, word: str) -> None:
    """Neither of the object nor of a level in it, also when an inner one was saved; without any, one leaves at once."""
    talk("configure networkprofile tcp", "dsr", word)
    assert talk.shell.prompt == "networkprofile tcp"
    talk("dsr", "type l2")
    with pytest.raises(OrderError, match=r"^networkprofile tcp:dsr: not saved; `save` keeps it, `cancel` forgets it$"):
        talk(word)
    assert talk.shell.prompt == "networkprofile tcp:dsr"
    talk("save")
    with pytest.raises(OrderError, match=r"^networkprofile tcp: not saved"):
        talk(word)
    talk("cancel", "configure networkprofile tcp", word)
    assert talk.shell.prompt == "onward"
    assert not talk.shell.over


def test_one_level_more(talk: Talk) -> None:
    """With `profile`, and a level of its own for DSR, by other words for the same keys."""
    talk("configure networkprofile media", "profile", "udp_fast_path_profile", "session_idle_timeout 30")
    talk("dsr_profile", "dsr_type DSR_TYPE_L3", "dsr_encap_type encap_gre")
    assert talk.shell.prompt == "networkprofile media:profile:udp_fast_path_profile:dsr_profile"
    talk("save", "per_pkt_loadbalance true", "save", "save", "save")
    assert talk.written("network_profile", "media") == {
        "name": "media",
        "type": "udp_fast_path",
        "session_idle_timeout": 30,
        "per_packet": True,
        "dsr": {"encapsulation": "gre"},
    }


def test_cancel_forgets_one_level(talk: Talk) -> None:
    """What was changed in there, and nothing else."""
    talk("configure networkprofile tcp", "session_idle_timeout 60", "dsr", "type l2", "cancel", "save")
    assert talk.written("network_profile", "tcp") == {
        "name": "tcp",
        "type": "tcp_fast_path",
        "session_idle_timeout": 60,
    }
    before = talk.path.read_text()
    talk("configure networkprofile tcp", "session_idle_timeout 99", "cancel")
    assert (talk.shell.levels, talk.path.read_text()) == ([], before)


def test_lists_grow_and_shrink(talk: Talk) -> None:
    """Values are added one by one, elements are levels with their name; `no` takes out."""
    talk("configure pool web", "servers web2 ip 203.0.113.2", "servers web3", "ip 203.0.113.3", "ratio 4", "save")
    talk("no servers web1", "lb_algorithm round_robin", "save")
    found = talk.written("pool", "web")
    assert found["algorithm"] == "round_robin"
    assert found["member"] == [
        {"name": "web2", "address": "203.0.113.2"},
        {"name": "web3", "address": "203.0.113.3", "ratio": 4},
    ]
    talk("configure virtualservice www", "vips 198.51.100.8", "ports 443 8000-8010", "no ports 80", "save")
    found = talk.written("virtual_service", "www")
    assert (found["vips"], found["ports"]) == (["198.51.100.7", "198.51.100.8"], [443, "8000-8010"])
    talk(
        "configure virtualservice www",
        "min_members 2",
        "save",
        "configure virtualservice www",
        "no min_members",
        "save",
    )
    assert talk.written("virtual_service", "www").get("min_members", 1) == 1


def test_show_marks_what_has_been_changed(talk: Talk) -> None:
    """Keys with their values, and which of them are other ones than before."""
    talk("configure networkprofile tcp", "session_idle_timeout 60", "show")
    assert "* session_idle_timeout: 60" in talk.said
    assert "  type: tcp_fast_path" in talk.said
    talk("dsr type l2", "show")
    assert any(line.startswith("* dsr: { type=l2") for line in talk.said)


def test_outside(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    """What there is, all of one, and removing it."""
    talk(
        "show pool",
        "show pool web",
        "configure pool old",
        "servers o1 ip 203.0.113.9",
        "save",
        "show pool",
        "delete pool old",
        "show pool",
    )
    assert talk.said.count("web") == 3
    assert talk.said.count("old") == 1
    assert any("member web1" in text for text in talk.said)
    assert "pool old removed" in capsys.readouterr().out
    with pytest.raises(OrderError, match="used by virtual-services/www"):
        talk("delete pool web")
    talk("configure director", "name d9", "save", "exit")
    assert talk.shell.over
    assert tomllib.loads(talk.path.read_text())["director"]["name"] == "d9"


def test_preview(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    """What saving would do, from within levels too; and nothing is done."""
    before = talk.path.read_text()
    talk("configure networkprofile tcp", "dsr", "type l2", "preview")
    assert '+dsr = {type = "l2"}' in capsys.readouterr().out
    assert (len(talk.shell.levels), talk.path.read_text()) == (2, before)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["configur pool web"], "did you mean `configure`?"),
        (["configure pol web"], "did you mean `pool`?"),
        (["configure pool"], "which pool?"),
        (["configure director d1"], "has no name"),
        (["configure pool web", "algoritm random"], "did you mean `algorithm`?"),
        (["configure pool web", "algorithm"], "takes a value: consistent_hash"),
        (["configure pool web", "algorithm quickest"], "algorithm: "),
        (["configure pool web", "servers"], "which one?"),
        (["configure pool web", "servers web1 ratio"], "ratio has no value"),
        (["configure pool web", "servers web1 ratio -1"], "ratio: "),
        (["configure pool web", "no servers web9"], "there is web1"),
        (["configure pool web", "no"], "no what?"),
        (["configure virtualservice www", "vips 300.1.1.1"], "vips: "),
        (["configure virtualservice www", "enabled perhaps"], "enabled: "),
        (["configure virtualservice www", "pool a b"], "one value"),
        (['configure pool "web'], "a quote is not closed"),
    ],
)
def test_what_makes_no_sense(talk: Talk, lines: list[str], message: str) -> None:
    """It is said at once, with what would make sense, and changes nothing."""
    before = talk.path.read_text()
    talk(*lines[:-1])
    with pytest.raises(InputError) as caught:
        talk(lines[-1])
    assert message in str(caught.value)
    assert talk.path.read_text() == before


def test_a_save_that_is_refused(talk: Talk) -> None:
    """What takes two objects to judge comes with the save; the level stays, to put it right."""
    talk("configure virtualservice www", "pool nobody")
    with pytest.raises(OrderError) as caught:
        talk("save")
    assert [text for text in talk.shell.said(caught.value) if text.startswith("pool: ")]
    talk("pool web", "advertise_down true", "save")
    assert talk.written("virtual_service", "www")["advertise_down"] is True


def test_somebody_else_was_quicker(talk: Talk) -> None:
    """Then nothing is saved: what they have changed would be lost."""
    talk("configure pool web", "hash source_ip")
    Talk(talk.path)("configure pool web", "algorithm random", "save")
    with pytest.raises(OrderError, match="has changed since"):
        talk("save")
    assert talk.written("pool", "web")["algorithm"] == "random"


@pytest.mark.parametrize(
    ("lines", "text", "words"),
    [
        ([], "con", ["configure"]),
        ([], "configure net", ["networkprofile"]),
        ([], "configure pool ", ["web"]),
        (["configure networkprofile x"], "tcp", ["tcp_fast_path_profile"]),
        (["configure networkprofile x"], "type ", ["tcp_fast_path", "tcp_proxy", "udp_fast_path"]),
        (["configure networkprofile x"], "dsr type ", ["l2", "l3"]),
        (["configure networkprofile x"], "dsr type l2 enc", ["encapsulation"]),
        (["configure networkprofile x", "dsr"], "encapsulation g", ["gre", "gue"]),
        (["configure networkprofile x"], "tcp_fast_path_profile session", ["session_idle_timeout"]),
        (["configure virtualservice y"], "pool ", ["web"]),
        (["configure virtualservice y"], "network_profile ", ["tcp"]),
        (["configure virtualservice y"], "arp ", ["false", "true"]),
        (["configure pool web"], "servers ", ["web1"]),
        (["configure pool web"], "no member ", ["web1"]),
        (["configure pool web"], "sa", ["save"]),
        (["configure pool web"], "nonsense ", []),
    ],
)
def test_completion(talk: Talk, lines: list[str], text: str, words: list[str]) -> None:
    """Commands, keys, words of a choice, and names of what there is."""
    assert talk(*lines).shell.complete(text) == words


def test_help(talk: Talk) -> None:
    """What can be typed here, all about one key, and the same by a question mark at the end."""
    talk("?")
    assert any(text.startswith("configure KIND NAME") for text in talk.said)
    talk("configure pool web", "help")
    assert "consistent_hash" in talk.said[-1]
    assert "save" in talk.said[-1]
    talk.said.clear()
    talk("algorithm ?")
    assert talk.said[0].startswith("algorithm: ")
    assert "  round_robin" in talk.said


def onward(file_: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "appliance", "configure", *words, "--config", str(file_)]


def piped(file_: Path, text: str, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        onward(file_, *words), cwd=ROOT, input=text, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_a_script(talk: Talk) -> None:
    """Lines from a pipe, with comments; the first that makes no sense is the last, with its number."""
    script = "# a pool\nconfigure pool blue\n  servers b1 ip 203.0.113.9   # one\n  save\n"
    code, said = piped(talk.path, script)
    assert (code, "pool blue saved" in said) == (0, True), said
    assert talk.written("pool", "blue")["member"][0]["name"] == "b1"
    code, said = piped(talk.path, "configure pool green\n\nalgoritm x\nsave\n")
    assert (code, "line 3: there is no algoritm here" in said) == (2, True)
    code, said = piped(talk.path, "virtual_service x\n", "pool", "green")
    assert code == 2
    code, said = piped(talk.path, "hash source_ip\n", "pool", "web")
    assert (code, "nothing of it was saved" in said) == (1, True)
    code, said = piped(talk.path, "pool nobody\nsave\n", "virtualservice", "www")
    assert (code, "line 2: pool: " in said) == (4, True)
    assert "green" not in talk.path.read_text()


def test_in_a_terminal(talk: Talk) -> None:
    """Prompts show the path, Tab completes, a mistake is said and does not end it, Ctrl-D leaves."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        onward(talk.path),
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "dumb", "INPUTRC": "/dev/null"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        read_until(ours, "onward> ")
        os.write(ours, b"configure netw\tter\n")
        read_until(ours, "networkprofile ter> ")
        os.write(ours, b"tcp_f\t\n")
        read_until(ours, "networkprofile ter:tcp_fast_path_profile> ")
        os.write(ours, b"nonsense 1\n")
        assert "there is no nonsense here" in read_until(ours, "profile> ")
        os.write(ours, b"dsr_profile dsr_type dsr_type_l2\nsave\nsave\n")
        assert "network profile ter saved" in read_until(ours, "\nonward> ")
        os.write(ours, b"configure pool web\nexit\nconfigure pool web\nhash source_ip\nexit\n")
        assert "pool web: not saved; leave all the same? [y/N]" in read_until(ours, "[y/N] ")
        os.write(ours, b"\n")
        read_until(ours, "pool web> ")
        os.write(ours, b"exit\ny\n")
        read_until(ours, "\nonward> ")
        os.write(ours, b"configure pool web\nhash source_ip\n\x04")
        assert "not saved" in read_until(ours, "\nonward> ")
        os.write(ours, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert talk.written("network_profile", "ter")["dsr"] == {"type": "l2"}
    assert "hash" not in talk.written("pool", "web")
