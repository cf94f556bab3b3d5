"""What a process leaves to the next one, through a supervisor with real sockets and descriptors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.inheritance import Inheritance
from tests.netns import until
from tests.supervisor import Supervisor

READ = """
import json, os, pathlib
from appliance.inheritance import Inheritance
left = Inheritance(os.environ, os.getpid(), pathlib.Path())
words = {name: os.pread(left.get(name), 100, 0).decode() for name in left.names("")}
print(json.dumps({"words": words, "listen": os.environ.get("LISTEN_FDS"), "open": os.get_inheritable(3)}))
"""


def inherited(supervisor: Supervisor) -> dict[str, object]:
    """What a next process finds."""
    command, fds = supervisor.command([sys.executable, "-c", READ])
    done = subprocess.run(
        command, env=supervisor.environment(), pass_fds=fds, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def memory(text: str) -> int:
    fd = os.memfd_create("test")
    os.write(fd, text.encode())
    return fd


def test_the_next_process_finds_what_was_put():
    """By name, whoever has closed it since; what was dropped it does not find, and of two with a name the later one."""
    with Supervisor() as supervisor:
        ours = Inheritance(dict(supervisor.environment()), os.getpid(), Path())
        assert ours.works
        for name, text in (("link.eth1", "first"), ("pins1.words", "pins"), ("link.eth1", "second"), ("gone", "gone")):
            fd = memory(text)
            ours.put(name, fd)
        ours.drop("gone")
        ours.put_text("offloads.eth1", "gro lro")
        ours.put_text("offloads.eth1", "gro")
        assert ours.text("offloads.eth1") == "gro"
        until(lambda: supervisor.kept.keys() == {"link.eth1", "pins1.words", "offloads.eth1"}, "all was heard")
        wanted = {"link.eth1": "second", "pins1.words": "pins", "offloads.eth1": "gro"}
        until(lambda: inherited(supervisor)["words"] == wanted, "the next process has it")
        found = inherited(supervisor)
        assert found["listen"] is None, "whom it starts must not take it for its own"
        assert found["open"] is False


def test_what_was_left_is_not_left_again():
    """The same descriptor under the same name is there already."""
    with Supervisor() as supervisor:
        ours = Inheritance(dict(supervisor.environment()), os.getpid(), Path())
        fd = memory("x")
        ours.put("a", fd)
        ours.put("a", fd)  # the supervisor would complain
        until(lambda: "a" in supervisor.kept, "it was heard")
        ours.forget_all()
        until(lambda: not supervisor.kept, "nothing is left")
        assert ours.names("") == []
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": "/nowhere"}, {"NOTIFY_SOCKET": "/nowhere", "FDSTORE": "0"}, {"FDSTORE": "9"}]
)
def test_without_such_a_supervisor_nothing_is_left(environment):
    """And nothing is believed to be."""
    ours = Inheritance(environment, os.getpid(), Path())
    fd = memory("x")
    ours.put("a", fd)
    ours.put_text("b", "text")
    assert not ours.works
    assert ours.names("") == []
    os.close(fd)


def test_what_is_meant_for_another_process_is_not_taken():
    """LISTEN_PID says for whom."""
    ours = Inheritance(
        {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"}, os.getpid(), Path()
    )
    assert ours.names("") == []
