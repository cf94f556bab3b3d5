"""`onward import`: files, options, and what it leaves behind."""

import io
import json
import sys
from pathlib import Path

import pytest

from appliance.cli.output import Exit
from appliance.cli.root import call

LVS = "-A -t 198.51.100.7:80 -s sh\n-a -t 198.51.100.7:80 -r 203.0.113.1:80 -i -w 1\n"
SAME = (
    "-A -t 198.51.100.7:80 -s sh\n-a -t 198.51.100.7:80 -r 203.0.113.1:80 -i -w 1\n"
    "-A -t 198.51.100.8:80 -s sh\n-a -t 198.51.100.8:80 -r 198.51.100.7:80 -i -w 1\n"
)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules"
    path.write_text(LVS)
    return path


def test_standard_input_to_standard_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe from `ipvsadm -Sn`; the report is on standard error, so that the file can be redirected."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LVS.encode())))
    assert call(["import", "ipvsadm", "-"]) == Exit.OK
    output = capsys.readouterr()
    assert '[[virtual_service]]\nname = "198.51.100.7-80"\n' in output.out
    assert "# From (standard input):1: -A -t 198.51.100.7:80 -s sh" in output.out
    assert output.err.startswith("Imported 1 virtual service, 1 pool, 1 pool member, 0 health monitors.\n")


def test_a_file_with_a_key_beside_it(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is written can be used at once, is not readable for everybody, and replaces nothing unasked."""
    path, key = rules.parent / "onward.toml", rules.parent / "fleet.key"
    assert call(["import", "ipvsadm", str(rules), "-o", str(path)]) == Exit.OK
    output = capsys.readouterr()
    assert output.out == ""
    assert f"made {key} of random bytes" in output.err
    assert key.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o007 == 0
    secret = key.read_text()
    assert call(["check", "-q", str(path)]) == Exit.OK

    assert call(["import", "ipvsadm", str(rules), "-o", str(path)]) == Exit.FAILED
    assert "is there already" in capsys.readouterr().err
    assert call(["import", "ipvsadm", str(rules), "-o", str(path), "--force", "--name", "d9"]) == Exit.OK
    assert 'name = "d9"' in path.read_text()
    assert key.read_text() == secret


def test_a_report_for_programs(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All findings one by one, with a version."""
    assert call(["import", "ipvsadm", str(rules), "--report", "json", "--interface", "eth1"]) == Exit.OK
    report = json.loads(capsys.readouterr().err)
    assert report["apiVersion"] == "v1"
    assert report["ok"] is True
    assert report["imported"] == {"virtual_service": 1, "pool": 1, "pool.member": 1, "health_monitor": 0}
    assert report["counts"] == {"lost": 0, "changed": 0, "todo": 2, "ignored": 0}
    assert all(set(finding) == {"grade", "place", "what", "message", "remedy"} for finding in report["findings"])


def test_contradictions_of_the_input_are_not_hidden(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result that `onward check` would refuse is written, and refused here as well."""
    rules.write_text(SAME)
    assert call(["import", "ipvsadm", str(rules)]) == Exit.CONFIG
    output = capsys.readouterr()
    assert "[[virtual_service]]" in output.out
    assert "The result has mistakes that `onward check` names:" in output.err
    assert "198.51.100.7 is a VIP (virtual_service[0].vips[0])" in output.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file or directory"), (b"\xff", ":1: byte 0 is not UTF-8 text"), (b"hello", "is no command")],
)
def test_input_that_cannot_be_read(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the file's name and what to do; nothing is written."""
    path, target = tmp_path / "rules", tmp_path / "onward.toml"
    if content is not None:
        path.write_bytes(content)
    assert call(["import", "ipvsadm", str(path), "-o", str(target)]) == Exit.CONFIG
    output = capsys.readouterr()
    assert output.err.startswith(str(path))
    assert message in output.err
    assert not target.exists()


def test_a_target_that_cannot_be_written(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said which, and why."""
    target = rules.parent / "nowhere" / "onward.toml"
    assert call(["import", "ipvsadm", str(rules), "-o", str(target)]) == Exit.FAILED
    assert "cannot be written: no such file or directory" in capsys.readouterr().err


def test_wrong_options_are_all_named(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At once, as in a configuration."""
    options = ["--name", "a b", "--interface", "lo", "--router-id", "x", "--next-hop-v6", "192.0.2.1"]
    assert call(["import", "avi", str(rules), *options]) == Exit.USAGE
    error = capsys.readouterr().err
    for option in options[::2]:
        assert f"onward: {option}: " in error


def test_included_files_are_found_beside_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the folder of the file that includes them, at any depth; text is read as it is encoded."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "keepalived.conf").write_text("include a/*.conf\n")
    (tmp_path / "a" / "1.conf").write_text("include b/2.conf # zwölf\n")
    (tmp_path / "a" / "b" / "2.conf").write_text(
        "virtual_server 198.51.100.7 80 {\nlb_kind DR\nreal_server 203.0.113.1 80 {\n}\n}\n"
    )
    assert call(["import", "keepalived", str(tmp_path / "keepalived.conf")]) == Exit.OK
    assert f"# From {tmp_path}/a/b/2.conf:1: virtual_server 198.51.100.7 80." in capsys.readouterr().out
