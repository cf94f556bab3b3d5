"""Thirty of a hundred members die at once under live traffic, with a whole director on each data plane."""

import time
from pathlib import Path

import pytest

from tests.netns import PATIENCE, until
from tests.root.many_rig import FALL, MEMBERS, Many, lost, many

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

DEAD = [number for number in range(MEMBERS) if number % 10 in (1, 4, 7)]
"""Thirty, some here and some there."""

INTERVAL_S, LIMIT_S = 2.0, 1.8
"""Long enough for members that are well to answer in time on a busy machine."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Planes know nothing of how members are asked, nor the other way round: each of both once, and all with --long."""
    if "how" in metafunc.fixturenames:
        pairs = [("refuses", "xdp"), ("silent", "raw")]
        more = [("refuses", "raw"), ("silent", "xdp")] if metafunc.config.getoption("--long") else []
        metafunc.parametrize(("how", "plane"), pairs + more)


def test_thirty_of_a_hundred_die_at_once(plane: str, how: str, tmp_path: Path) -> None:
    """Flows on the other seventy lose no packet and stay where they are; the thirty are out as soon as monitors can
    know, and get nothing from then on; the log says of each when and why; and they come back."""
    killed = DEAD
    with many(plane, how, tmp_path, interval_s=INTERVAL_S, limit_s=LIMIT_S) as bench:
        with bench.flows(300, 5.0) as traffic:
            until(lambda: len({one.flow for one in traffic.seen}) == 300, "all flows arrive", 30)
            began = bench.kill(killed)
            until(lambda: set(bench.turned("member.out", began)) >= set(killed), "the thirty are out", 30)
            sent = sum(traffic.sent.values())
            until(lambda: sum(traffic.sent.values()) > sent + 1500, "traffic goes on", 30)
        out = bench.turned("member.out", began)
        assert set(out) == set(killed)
        assert {event["reason"] for event in out.values()} == {"health_down"}
        down = bench.turned("health.down", began)
        assert {event["code"] for event in down.values()} == {
            "refuses": {"connection_refused"}, "silent": {"no_response"}
        }[how]  # fmt: skip
        assert all(down[member]["at"] <= out[member]["at"] for member in killed)
        missing, packets = lost(traffic, [number for number in range(MEMBERS) if number not in killed])
        assert packets > 2000
        assert missing == 0
        took_s = max(event["at"] for event in out.values()) - began
        promised_s = FALL * INTERVAL_S + (LIMIT_S if how == "silent" else 0.0)
        late = [one for one in traffic.seen if one.member in killed and one.at > began + took_s + PATIENCE]
        print(
            f"\n{plane}, {how}: all out after {took_s:.3f} s, promised {promised_s + 0.02:.2f}; {_reaction(bench, out)}"
        )
        assert took_s < promised_s + 2.0 * PATIENCE
        assert len(late) == 0
        bench.revive()
        until(lambda: set(bench.turned("member.in_rotation", began)) == set(killed), "the thirty come back", 30)


def _reaction(bench: Many, out: dict[int, dict[str, object]]) -> str:
    """From the last bad result to the table without the member."""
    down = bench.turned("health.down", min(float(str(event["at"])) for event in out.values()) - 10)
    waits = sorted((float(str(out[member]["at"])) - down[member]["at"]) * 1e3 for member in out if member in down)
    return f"decided {waits[len(waits) // 2]:.1f} ms after the last bad result, {waits[-1]:.1f} at most"


def test_who_says_that_it_is_worked_on_keeps_its_flows(tmp_path: Path) -> None:
    """A member that answers with a maintenance code drains: flows that it has go on there and lose no packet, the log
    has the reason, and it takes its place again when it answers as usual."""
    with many("raw", "says so", tmp_path, interval_s=INTERVAL_S, limit_s=LIMIT_S) as bench:
        with bench.flows(200, 5.0) as traffic:
            until(lambda: len({one.flow for one in traffic.seen}) == 200, "all flows arrive", 30)
            member = traffic.seen[-1].member
            began = time.time()
            bench.work_on([member])
            until(lambda: bench.turned("member.draining", began), "the member drains", 30)
            before = len(traffic.seen)
            until(lambda: len(traffic.seen) > before + 2000, "traffic goes on", 30)
        drained = bench.turned("member.draining", began)
        assert set(drained) == {member}
        assert drained[member]["reason"] == "maintenance_response"
        assert bench.turned("health.maintenance", began)[member]["code"] == "maintenance_response_code_match"
        assert not bench.turned("member.out", began)
        later = [one for one in traffic.seen[before:] if one.member == member]
        assert later
        missing, packets = lost(traffic, list(range(MEMBERS)))
        assert packets > 2000
        assert missing == 0
        bench.work_on([])
        until(lambda: member in bench.turned("member.in_rotation", began), "the member comes back", 30)
