"""`onward top`: the picture, and the keys in a terminal."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.api.views import status_document
from appliance.cli.root import call
from appliance.cli.status import Look
from appliance.cli.top import Rate, picture, services
from tests.unit.api.samples import NOW, observed, sample_counters, shared
from tests.unit.cli.directors import director

ROOT = Path(__file__).parents[3]
BEFORE = status_document(observed())
AFTER = status_document(observed(at=NOW + 2, counters=sample_counters(scale=3)))


def lines(sort_by: str = "packets", **options: Any) -> list[str]:
    return list(picture(BEFORE, AFTER, sort_by, Look(width=100), **options))


def test_rates_are_of_the_time_between() -> None:
    """Packets, bytes and new flows a second, of virtual services over all their VIPs and of members."""
    web, dns, old = services(BEFORE, AFTER, 2.0)
    assert web.rate == Rate(124_000.0, 10_080_000.0, 3120.0)
    assert {member.name: member.rate.packets for member in web.members} == {"web1": 62e3, "web2": 62e3, "web3": 0}
    assert (dns.rate.packets, old.rate, old.state) == (900.0, Rate(), "disabled")


def test_a_director_that_began_anew_has_no_rates() -> None:
    """Its counters are lower than they were; nothing is shown as negative."""
    assert all(row.rate == Rate() for row in services(AFTER, BEFORE, 2.0))
    assert all(row.rate == Rate() for row in services(BEFORE, BEFORE, 0.0))


def test_the_picture() -> None:
    """All of it: totals, virtual services with their members, drops by reason, what is wrong."""
    text = lines()
    assert text[0].startswith("d1  down  up 1 d 1 h")
    assert text[1] == "125k packets/s  81.1Mbit/s  3.1k new TCP flows/s  40 flows remembered"
    rows = [line.split() for line in text[3:]]
    assert rows[0] == ["SERVICE", "/", "MEMBER", "PACKETS/S", "BIT/S", "FLOWS/S", "STATE"]
    assert rows[1] == ["web", "124k", "80.6M", "3.1k", "up", "2", "of", "3", "in", "rotation"]
    assert [row[0] for row in rows[1:9]] == ["web", "web1", "web2", "web3", "dns", "web11", "web12", "old"]
    assert "Drops  no_member 17.0/s" in "\n".join(text).replace("no_member 17/s", "no_member 17.0/s")
    assert any(line.startswith("! ") for line in text)


@pytest.mark.parametrize(
    ("sort_by", "first"), [("packets", "web"), ("bytes", "web"), ("flows", "web"), ("name", "dns")]
)
def test_order(sort_by: str, first: str) -> None:
    """The busiest first, or by name; members within their service."""
    rows = lines(sort_by, with_members=False)[4:7]
    assert rows[0].split()[0] == first
    assert not any("web1" in row for row in rows)


def test_members_of_several_services() -> None:
    """Their numbers are of all of these together, and that is said."""
    seen = status_document(shared())
    text = "\n".join(picture(seen, seen, "name", Look(width=100)))
    assert "of all 3 services" in text


def test_no_line_is_wider_than_the_terminal() -> None:
    """What does not fit is cut."""
    assert max(map(len, picture(BEFORE, AFTER, "packets", Look(width=60)))) <= 60


def test_once(capsys: pytest.CaptureFixture[str]) -> None:
    """One picture for scripts, without control characters; what makes no sense is said."""
    with director("/api/v1/status", json.dumps(BEFORE)) as url:
        assert call(["top", "--once", "--interval", "0.2", "--url", url]) == 0
        text = capsys.readouterr().out
        assert "\x1b" not in text
        assert "SERVICE / MEMBER" in text
        assert call(["top", "--sort-by", "weight", "--url", url]) == 2
        assert call(["top", "--interval", "0", "--url", url]) == 2
    assert call(["top", "--once", "--url", "http://127.0.0.1:1"]) == 3


def read_until(fd: int, wanted: str, deadline_s: float = 60.0) -> str:
    text, end = "", time.monotonic() + deadline_s
    while wanted not in text:
        assert time.monotonic() < end, f"no {wanted!r} in {text!r}"
        if select.select([fd], [], [], 0.1)[0]:
            try:
                text += os.read(fd, 65536).decode(errors="replace")
            except OSError:  # the other side has closed the terminal
                break
    return re.sub(r"\x1b\[[0-9;]*m", "", text)  # without colours


def test_keys_in_a_terminal() -> None:
    """s sorts otherwise, m leaves members out, q ends it, and the terminal is as it was before."""
    ours, theirs = pty.openpty()
    with director("/api/v1/status", json.dumps(BEFORE)) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "top", "--url", url],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        )
        os.close(theirs)
        try:
            text = read_until(ours, "sort: packets")
            assert text.startswith("\x1b[?1049h")
            assert [line for line in text.splitlines() if line.startswith("  web1")]
            os.write(ours, b"s")
            read_until(ours, "sort: flows")
            os.write(ours, b"m")
            text = read_until(ours, "sort: flows")
            latest = text.rpartition("\x1b[H")[2].splitlines()
            assert [line for line in latest if line.startswith("web ")]
            assert not [line for line in latest if line.startswith("  web1")]
            os.write(ours, b"q")
            read_until(ours, "\x1b[?25h\x1b[?1049l")
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            os.close(ours)
