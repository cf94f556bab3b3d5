"""The API of a whole director over HTTP: asked what nobody has thought of, and by many at once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from appliance.passwords import token_digest
from tests.netns import Namespace
from tests.root.plane_rig import REPOSITORY
from tests.root.test_transaction import Director, space

__all__ = ["space"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

TOKEN = "t" * 43
API = f"""
[[api.token]]
name = "test"
role = "admin"
token_hash = "sha256:{token_digest(TOKEN).hex()}"
"""
URL = "http://127.0.0.1:8080"
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
ENDLESS = ("get_stream", "get_capture")


@pytest.fixture
def director(space: Namespace, tmp_path: Path) -> Iterator[Director]:
    made = Director(space, tmp_path)
    made.old["onward.toml"] += API
    made.write(made.old)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_whatever_is_asked_is_answered_as_described(
    director: Director, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every operation of the OpenAPI document, with good and with broken requests: no answer is an error of ours, and
    every one is of a status, type and shape that the document has for it. With `--long`, many more."""
    examples = "100" if request.config.getoption("--long") else "3"
    words = [
        *("run", f"{URL}/api/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"),
        *("--phases", "fuzzing", "--max-examples", examples, "--checks", ",".join(CHECKS)),
        *("--suppress-health-check", "all", "--generation-deterministic", "--no-color", "--warnings", "off"),
        *(word for name in ENDLESS for word in ("--exclude-operation-id", name)),
    ]
    program = [str(Path(sys.executable).parent / "st"), *words]
    done = subprocess.run(
        director.space.command(*program), cwd=tmp_path, capture_output=True, text=True, timeout=570, check=False
    )
    shown = "\n".join(line[:300] for line in (done.stdout + done.stderr).splitlines())
    assert done.returncode == 0, shown[-20_000:]
    assert director.process is not None
    assert director.process.poll() is None, "the director has ended"
    assert director.get("/v1/members")["members"]


def test_what_the_data_plane_has_is_shown_by_commands(director: Director) -> None:
    """Slots, next hops, counters and remembered flows, as tables, names and YAML; so are status and events."""

    def onward(*words: str, code: int = 0) -> str:
        program = (sys.executable, "-m", "appliance", *words, "--config", str(director.folder / "onward.toml"))
        done = subprocess.run(
            director.space.command(*program), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    members = [member["id"] for member in director.get("/v1/members")["members"]]
    slots = onward("plane", "slots", "web", "--limit", "7")
    assert len(slots.splitlines()) == 1 + 7 + 1
    assert "7 of 65537 slots" in slots
    assert "there are: " in onward("plane", "slots", "wbe", code=5)
    near = onward("plane", "neighbours")
    assert all(member in near for member in members)
    assert "WHAT" in onward("plane", "counters", "-o", "wide")
    assert "No flow is remembered" in onward("flow", "list", "--service", "web")
    assert "there are: " in onward("flow", "list", "--member", "web/nobody", code=5)
    assert "web" in onward("flow", "lookup", "tcp", "192.0.2.9:40000", "198.51.100.7:80")
    assert yaml.safe_load(onward("status", "-o", "yaml"))["apiVersion"] == "v1"
    assert yaml.safe_load(onward("events", "-o", "yaml"))["items"]
    assert isinstance(yaml.safe_load(onward("samples", "-o", "yaml")), list)
    assert "nothing is different" in onward("diff")


def test_a_day_of_an_operator(director: Director) -> None:
    """By HTTP with a token: look, try, change, order, see what has happened."""

    def ask(method: str, path: str, body: object = None) -> tuple[int, object]:
        program = (
            "import json, sys, urllib.request as u, urllib.error as e\n"
            "method, url, body, token = sys.argv[1:]\n"
            "r = u.Request(url, body.encode() or None, {'Authorization': 'Bearer ' + token,\n"
            "    'Content-Type': 'application/json'}, method=method)\n"
            "try: a = u.urlopen(r)\n"
            "except e.HTTPError as error: a = error\n"
            "print(json.dumps([a.status, json.loads(a.read() or b'null')]))\n"
        )
        text = json.dumps(body) if body is not None else ""
        words = (sys.executable, "-c", program, method, f"{URL}/api/v1{path}", text, TOKEN)
        done = subprocess.run(
            director.space.command(*words), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
        )
        status, document = json.loads(done.stdout)
        return status, document

    status, pools = ask("GET", "/objects/pools")
    assert status == 200
    assert isinstance(pools, dict)
    assert [item["used_by"] for item in pools["items"]] == [["virtual-services/web"], ["virtual-services/shop"]]
    patch = {"member": [{"name": "one", "address": "192.0.2.99"}, {"name": "two", "address": "192.0.2.95"}]}
    status, would = ask("PATCH", "/objects/pools/web?dry_run=true", patch)
    assert isinstance(would, dict)
    assert (status, would["consequences"]["changes"][0]["text"]) == (200, "+ member web/two 192.0.2.95")
    status, _ = ask("PATCH", "/objects/pools/web?reason=room", patch)
    assert status == 200
    assert "# as it was" in (director.folder / "conf.d/10-web.toml").read_text()
    status, member = ask("PATCH", "/members/web/two", {"state": "drain", "ratio": 3})
    assert (status, member) == (200, {"members": ["web/two"]})
    status, events = ask("GET", "/events?member=web/two&event=member.ordered")
    assert isinstance(events, dict)
    assert [(item["fields"]["order"], item["fields"]["by"]) for item in events["items"]] == [("drain", "token test")]
    status, history = ask("GET", "/config/revisions")
    assert isinstance(history, dict)
    assert history["revisions"][0]["why"] == "room"
    assert history["revisions"][0]["who"] == "token test (token, admin) from 127.0.0.1"
    status, no = ask("DELETE", "/objects/pools/web")
    assert isinstance(no, dict)
    assert (status, no["used_by"]) == (409, ["virtual-services/web"])
    for path in ("/counters", "/neighbours", "/pins", "/figures"):
        assert ask("GET", path)[0] == 200
    flow = "protocol=tcp&client=192.0.2.9:40000&vip=198.51.100.7:80"
    status, explained = ask("GET", f"/explain?{flow}")
    assert isinstance(explained, dict)
    assert (status, len(explained["packets"])) == (200, 1)
