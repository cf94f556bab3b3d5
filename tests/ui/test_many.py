"""A dashboard of 1,000 virtual services with 20 members each, every second, in a browser."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns import namespaces, until
from tests.root.plane_rig import REPOSITORY
from tests.ui.rig import ARTEFACTS, Seat, chromium

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

SUMMARY_BYTES = 350_000
WATCH = """() => { window.late = []; window.turns = 0;
    new PerformanceObserver((list) => late.push(...list.getEntries().map((one) => one.duration)))
        .observe({type: 'longtask', buffered: true});
    let before = '';
    setInterval(() => { const now = document.querySelector('.tile:nth-child(2) strong')?.textContent ?? '';
        if (now !== before) { before = now; window.turns += 1; } }, 50); }"""
SIZE = """() => fetch('/api/v1/summary').then((answer) => answer.text()).then((text) => text.length)"""


def test_a_thousand_services(tmp_path: Path) -> None:
    """It follows once a second, in little space; how long the browser was busy at a stretch, and how late the server's
    loop was, is printed, and kept beside the pictures."""
    with namespaces("many", prefix="owui") as (space,):
        command = space.command(sys.executable, "-m", "tests.ui.crowd")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as server:
            assert server.stdout is not None
            url = next(line for line in server.stdout if line.startswith("http")).strip().rstrip("/")
            with chromium(space, tmp_path) as browser:
                seat = Seat(browser)
                seat.page.add_init_script(f"({WATCH})()")
                seat.page.goto(url)
                seat.page.get_by_role("button", name="Show 100 more of 1000").wait_for()
                page = seat.page
                until(lambda: page.evaluate("window.turns") >= 8, "the dashboard has followed eight times", 60)
                seat.page.get_by_label("Find virtual services").fill("service-0777")
                seat.page.get_by_role("link", name="service-0777").wait_for()
                seat.page.get_by_label("Find virtual services").fill("")
                seat.look("many")
                late, size = seat.page.evaluate("window.late"), seat.page.evaluate(SIZE)
                wrong = [one for one in seat.wrong if not one.startswith("off origin")]
                seat.context.close()
            rest, _ = server.communicate("", timeout=20)
    lag = json.loads(rest.splitlines()[-1])
    found = {"longest_task_ms": max(late, default=0), "tasks_over_50_ms": len(late), "summary_bytes": size, "lag": lag}
    print(json.dumps(found))
    (ARTEFACTS / "many.json").write_text(json.dumps(found, indent=2) + "\n")
    assert wrong == []
    assert size < SUMMARY_BYTES
