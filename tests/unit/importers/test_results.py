"""What importers make of whole inputs: a configuration that can be used as it is, and a report."""

import tomllib
from pathlib import Path

import pytest

from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.config.load import parse
from appliance.importers.document import Table, toml
from tests import golden
from tests.unit.importers.samples import FILES, FOLDER, INPUTS, KINDS, imported

OPTIONS = {
    "avi": ["--interface", "eth1", "--interface", "eth2", "--router-id", "192.0.2.11"],
    "keepalived": ["--interface", "eth1"],
    "ipvsadm": ["--name", "lvs-1"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_documents_and_reports_are_as_they_should_be(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every table says where it came from, and every difference is told."""
    monkeypatch.chdir(FOLDER)
    assert call(["import", kind, FILES[kind], *OPTIONS[kind]]) == Exit.OK
    output = capsys.readouterr()
    golden.check(f"import/{kind}.toml", output.out)
    golden.check(f"import/{kind}.txt", output.err)
    assert call(["import", kind, FILES[kind], *OPTIONS[kind], "--report", "json"]) == Exit.OK
    golden.check(f"import/{kind}.json", capsys.readouterr().err)


@pytest.mark.parametrize("kind", INPUTS)
def test_what_is_written_passes_the_check(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`onward check` has nothing against it, and the director could start with it."""
    path = tmp_path / "onward.toml"
    assert call(["import", kind.partition("-")[0], str(FOLDER / FILES[kind]), "-o", str(path)]) == Exit.OK
    capsys.readouterr()
    assert call(["check", str(path)]) == Exit.OK
    config = parse(path.read_text(), "onward.toml", lambda _: b"0123456789abcdef")
    assert len(config.services) == sum(table.header == "virtual_service" for table in imported(kind).tables)


def test_text_of_a_document() -> None:
    """Whatever a name or comment has in it, the file can be read, and says the same."""
    odd = 'a"b\\c\n\t\x00\x7fé'
    tables = [
        Table("director", {"name": odd, "pins": 0, "on": True, "list": ["x" * 70, odd, 1.5]}, [odd, ""], array=False),
        Table("bgp", {"router_id": ""}, ["Fill it in."], array=False, off=True),
        Table("pool", {"dsr": {"type": "l3", "odd key": [1, [2]]}}),
    ]
    text = toml(["Top.", odd], tables)
    assert tomllib.loads(text) == {
        "schema_version": 1,
        "director": {"name": odd, "pins": 0, "on": True, "list": ["x" * 70, odd, 1.5]},
        "pool": [{"dsr": {"type": "l3", "odd key": [1, [2]]}}],
    }
    assert '\n# [bgp]\n# router_id = ""\n' in text
