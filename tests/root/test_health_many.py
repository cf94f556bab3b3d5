"""Thirty of a hundred members die at once under live traffic, with a whole director on each data plane."""

from pathlib import Path

import pytest

from tests.netns import PATIENCE, until
from tests.root.many_rig import FALL, INTERVAL_S, LIMIT_S, MEMBERS, Many, lost, many

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

DEAD = range(0, MEMBERS, MEMBERS // 30 + 1)[:30]
"""Some here and some there: 25 with this step, and then the first ones that are left."""


def dead() -> list[int]:
    chosen = list(DEAD)
    return chosen + [number for number in range(MEMBERS) if number not in chosen][: 30 - len(chosen)]


@pytest.mark.parametrize("plane", ["raw", "xdp"])
@pytest.mark.parametrize("how", ["refuses", "silent"])
def test_thirty_of_a_hundred_die_at_once(plane: str, how: str, tmp_path: Path) -> None:
    """Flows on the other seventy lose no packet and stay where they are; the thirty are out as soon as monitors can
    know, and get nothing from then on; the log says of each when and why; and they come back."""
    killed = dead()
    with many(plane, how, tmp_path) as bench:
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
