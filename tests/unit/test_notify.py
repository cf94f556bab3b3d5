"""What a supervisor is told."""

import socket
from pathlib import Path

import pytest

from appliance.notify import tell


@pytest.mark.parametrize("form", ["path", "abstract"])
def test_the_supervisor_is_told(tmp_path: Path, form: str) -> None:
    """Over a real socket of either kind; a line end in a value does not begin another assignment."""
    name = str(tmp_path / "notify") if form == "path" else f"@{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name if form == "path" else "\0" + name[1:])
        tell("STATUS=refused\nREADY=1", {"NOTIFY_SOCKET": name})
        assert sock.recv(4096) == b"STATUS=refused READY=1"


def test_without_a_supervisor_nobody_is_told(tmp_path: Path) -> None:
    """That is no error; one that is gone is."""
    tell("STATUS=x", {})
    with pytest.raises(FileNotFoundError):
        tell("STATUS=x", {"NOTIFY_SOCKET": str(tmp_path / "gone")})
