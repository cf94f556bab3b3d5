"""`onward sysdump` beside a director that forwards."""

import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.failures.ends import FLOWS
from tests.failures.stage import VIP, stage
from tests.netns import until
from tests.root.plane_rig import REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def test_it_has_state_tables_counters_bgp_events_and_kernel(tmp_path: Path) -> None:
    """Asked over the control socket, since nobody tells it where the API listens: everything that a report needs."""
    with stage(tmp_path, "bird", directors=1, bfd=False) as made:
        with made.traffic():
            time.sleep(0.5)

        def onward(*words: str) -> str:
            """Of the director."""
            command = [sys.executable, "-m", "appliance", *words, "--config", str(tmp_path / "d1.toml")]
            done = subprocess.run(
                made.spaces["d1"].command(*command), check=True, cwd=REPOSITORY, capture_output=True, text=True
            )
            return done.stdout

        # The router has the route a moment before the director is told so.
        until(lambda: "vip.announced" in onward("events", "-o", "json"), "the announcement is told", 30.0)
        onward("sysdump", str(tmp_path / "dump.tar.gz"), "--url", "http://127.0.0.1:1")
    with tarfile.open(tmp_path / "dump.tar.gz") as archive:
        parts = {Path(*Path(entry.name).parts[1:]): archive.extractfile(entry) for entry in archive}
        found = {str(name): file.read().decode() for name, file in parts.items() if file is not None}

    def document(name: str) -> dict:
        return dict(json.loads(found[f"director/{name}.json"]))

    assert [service["name"] for service in document("status")["services"]] == ["web"]
    assert document("tables/counters")["services"]["web"][VIP]["packets"] >= FLOWS
    assert document("tables/slots-web")["members"] == ["web/192.0.2.21"]
    assert document("tables/pins")["items"] == []
    assert "web/192.0.2.21" in found["director/tables/neighbours.json"]
    assert {"director.started", "vip.announced"} <= {event["event"] for event in document("events")["items"]}
    assert "192.0.2.1" in found["director/bgp.json"]
    assert VIP in found["kernel/nftables.txt"]
