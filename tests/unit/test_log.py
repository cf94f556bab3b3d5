"""One line an event: for people, for journald, for machines."""

import io
import json
from ipaddress import ip_address

import pytest
import structlog

from appliance import log


@pytest.mark.parametrize(
    ("environ", "prefix"),
    [({}, ""), ({"JOURNAL_STREAM": "8:1234"}, "<4>")],
    ids=["plain", "journald"],
)
def test_lines_are_json_with_the_event_and_its_fields(environ, prefix):
    """Addresses become text; under journald the priority stands in front and the time is left to it."""
    stream = io.StringIO()
    log.configure(stream, environ=environ)
    structlog.get_logger().warning("vip.withdrawn", vip=ip_address("198.51.100.7"), reason="plane_down")
    line = stream.getvalue()
    assert line.startswith(prefix)
    event = json.loads(line.removeprefix(prefix))
    assert (event["event"], event["vip"], event["level"]) == ("vip.withdrawn", "198.51.100.7", "warning")
    assert ("timestamp" in event) is (not environ)


def test_what_is_less_important_than_the_level_is_not_written():
    """Debug events cost nothing by default."""
    stream = io.StringIO()
    log.configure(stream)
    structlog.get_logger().debug("netlink.nudge_failed")
    assert stream.getvalue() == ""


def test_a_terminal_gets_lines_for_people():
    """Coloured unless NO_COLOR is set."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    log.configure(stream, environ={"NO_COLOR": "1"})
    structlog.get_logger().info("director.started", name="d1")
    assert "director.started" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()
