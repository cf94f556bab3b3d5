"""Nothing secret leaves a machine with a report of a problem."""

import json
import re
import tarfile
from pathlib import Path

import pytest

from appliance.cli.output import Exit
from appliance.cli.sysdump import sysdump
from appliance.config import schema
from appliance.redact import ARGUMENTS_ARE_SECRET, FILES, SECRET_KEYS, URLS, VALUES_ARE_SECRET, redacted, without

SUSPICIOUS = re.compile(r"pass|secret|key|token|auth|credential|environment|command|request|header|cookie|url|endpoint")
HARMLESS = {"passive", "passive_share", "passive_weight", "token"}
"""Keys that look like it and are none."""

PLANTED = [
    "md5-Planted",
    "file-Planted",
    "etcd-user-Planted",
    "etcd-file-Planted",
    "env-Planted",
    "argument-Planted",
    "query-Planted",
    "login-Planted",
    "comment-Planted",
    "pem-Planted",
]

CONFIG = """
schema_version = 1
# the old key was comment-Planted
[director]
name = "d1"
interfaces = ["eth1"]
runtime_dir = "{folder}/run"
[fleet]
secret_file = "fleet.key"
store = "etcd"
[fleet.etcd]
endpoints = ["http://root:etcd-user-Planted@192.0.2.21:2379"]
user = "onward"
password_file = "etcd.password"
[bgp]
local_as = 65010
router_id = "192.0.2.11"
[[bgp.peer]]
address = "192.0.2.1"
remote_as = 65000
password = "md5-Planted"
[[bgp.peer]]
address = "192.0.2.2"
remote_as = 65000
password_file = "router.key"
[[health_monitor]]
name = "shop"
type = "https"
path = "/health?token=query-Planted"
key_file = "{folder}/client.pem"
[[health_monitor]]
name = "mail"
type = "tcp"
request = "LOGIN login-Planted"
[[health_monitor]]
name = "database"
type = "external"
command = ["/bin/check", "--password=argument-Planted"]
environment = {{ PGPASSWORD = "env-Planted" }}
"""


def test_no_secret_is_in_the_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Planted wherever a configuration can hold one, in files that it names, and in what a director has written: none
    is in the archive, while addresses and names are."""
    (tmp_path / "onward.toml").write_text(CONFIG.format(folder=tmp_path))
    for name, text in (
        ("fleet.key", "file-Planted fleet"),
        ("etcd.password", "etcd-file-Planted\n"),
        ("router.key", "file-Planted"),
        ("client.pem", "-----BEGIN PRIVATE KEY-----\npem-Planted\n-----END PRIVATE KEY-----\n"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/orders.json").write_text('{"why": "since etcd-file-Planted and env-Planted leaked"}')
    target = tmp_path / "dump.tar.gz"
    assert sysdump(target, config=tmp_path / "onward.toml", url="http://127.0.0.1:1") == Exit.OK
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        texts = {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]
    everything = "\n".join(texts.values()) + capsys.readouterr().err
    assert [secret for secret in PLANTED if secret in everything] == []
    (configuration,) = [text for name, text in texts.items() if name.endswith("config.json")]
    for known in ("192.0.2.21:2379", "PGPASSWORD", "/bin/check", "router.key", "65010"):
        assert known in configuration
    (orders,) = [text for name, text in texts.items() if name.endswith("orders.json")]
    assert "leaked" in orders
    assert any(name.endswith("kernel/links.json") for name in texts)
    (about,) = [text for name, text in texts.items() if name.endswith("about.json")]
    assert "director/status.json" in about, "nobody has answered, and that is said"


def test_a_broken_configuration_gives_nothing_away(tmp_path: Path) -> None:
    """What cannot be parsed is not in the archive at all."""
    (tmp_path / "onward.toml").write_text('password = "md5-Planted\n')
    target = tmp_path / "dump.tar.gz"
    assert sysdump(target, config=tmp_path / "onward.toml", url="http://127.0.0.1:1") == Exit.OK
    with tarfile.open(target) as archive:
        assert all(b"Planted" not in archive.extractfile(name).read() for name in archive.getnames())  # type: ignore[union-attr]


def test_every_key_that_can_hold_a_secret_is_known() -> None:
    """Of all keys of the schema that sound like it; a new one has to be judged here."""
    known = SECRET_KEYS | VALUES_ARE_SECRET | ARGUMENTS_ARE_SECRET | URLS | FILES | HARMLESS
    assert {key for key in keys(json.loads(schema.json_schema())) if SUSPICIOUS.search(key)} <= known


def keys(node: object) -> set[str]:
    if isinstance(node, dict):
        own = set(node["properties"]) if isinstance(node.get("properties"), dict) else set()
        return own.union(*(keys(inner) for inner in node.values()), set())
    if isinstance(node, list):
        return set().union(*map(keys, node), set())
    return set()


def test_what_is_short_is_not_looked_for() -> None:
    """Or a secret of one letter would take every such letter out of everything."""
    assert without("a secret pass", {"a", "", "secret"}) == "a (hidden) pass"


def test_values_that_are_none_stay_as_they_are() -> None:
    """Numbers, booleans, and texts that are nobody's secret."""
    data = {"ports": [80, "8000-8099"], "enabled": True, "name": "web", "path": "/plain"}
    assert redacted(data) == data
