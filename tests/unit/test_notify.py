"""What a supervisor is told."""

import os
import socket
from pathlib import Path

import pytest

from appliance.notify import status, tell


@pytest.mark.parametrize("form", ["path", "abstract"])
def test_the_supervisor_is_told(tmp_path: Path, form: str) -> None:
    """Over a real socket of either kind; a line end in what is said does not begin another assignment."""
    name = str(tmp_path / "notify") if form == "path" else f"@{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name if form == "path" else "\0" + name[1:])
        said = status("refused: no\nMAINPID=1")
        tell(f"READY=1\n{said}", {"NOTIFY_SOCKET": name})
        assert sock.recv(4096) == b"READY=1\nSTATUS=refused: no MAINPID=1"


def test_the_supervisor_gets_a_copy_of_a_descriptor(tmp_path: Path) -> None:
    """With the message, as sd_pid_notify_with_fds(3) does: it works after ours is closed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        ours = os.memfd_create("ours")
        os.write(ours, b"kept")
        tell("FDSTORE=1\nFDNAME=a", {"NOTIFY_SOCKET": str(tmp_path / "notify")}, (ours,))
        os.close(ours)
        text, (copy,), _, _ = socket.recv_fds(sock, 4096, 4)
        assert text == b"FDSTORE=1\nFDNAME=a"
        assert os.pread(copy, 10, 0) == b"kept"
        os.close(copy)


def test_without_a_supervisor_nobody_is_told(tmp_path: Path) -> None:
    """That is no error; one that is gone is."""
    tell("STATUS=x", {})
    with pytest.raises(FileNotFoundError):
        tell("STATUS=x", {"NOTIFY_SOCKET": str(tmp_path / "gone")})
