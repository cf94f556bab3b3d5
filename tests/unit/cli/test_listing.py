"""What all lists have in common: forms of output, order, watching."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from appliance.cli import listing
from appliance.cli.listing import Column, ListOptions, NotFoundError, UsageError, View, or_dash, rendered, show
from appliance.cli.orders import OrderError
from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.cli.status import AnswerError, UnreachableError

DOCUMENT = {
    "things": [
        {"name": "web10", "size": 5, "note": ""},
        {"name": "web2", "size": 30, "note": "über"},
        {"name": "db", "size": None, "note": "x"},
    ]
}
VIEW = View(
    columns=(
        Column("NAME", lambda row: row["name"]),
        Column("SIZE", lambda row: row["size"], or_dash, right=True),
        Column("A NOTE", lambda row: row["note"], wide=True),
    ),
    rows=lambda document: document["things"],
    name=lambda row: f"things/{row['name']}",
    above=lambda _: ["above"],
    below=lambda _: ["below"],
    empty="there is nothing",
)


def lines(**options: Any) -> list[str]:
    return rendered(VIEW, DOCUMENT, ListOptions(**options)).splitlines()


def test_a_table() -> None:
    """Columns for those who look, and what is worth a sentence around it."""
    assert lines() == ["above", "NAME   SIZE", "web10     5", "web2     30", "db        -", "below"]
    assert lines(output="wide")[1:3] == ["NAME   SIZE  A NOTE", "web10     5"]
    assert lines(output="wide")[3] == "web2     30  über"


def test_rows_alone() -> None:
    """For scripts that cut columns: nothing else is printed, and nothing where there are no rows."""
    assert lines(no_header=True) == ["web10     5", "web2     30", "db        -"]
    assert rendered(VIEW, {"things": []}, ListOptions(no_header=True)) == ""
    assert rendered(VIEW, {"things": []}, ListOptions()).splitlines() == ["above", "there is nothing", "below"]


def test_json_and_yaml_say_the_same() -> None:
    """With the version of what scripts may rely on."""
    wanted = {"apiVersion": "v1", **DOCUMENT}
    assert json.loads("\n".join(lines(output="json"))) == wanted
    assert json.loads("\n".join(lines(as_json=True))) == wanted
    assert yaml.safe_load("\n".join(lines(output="yaml"))) == wanted
    assert lines(output="yaml")[0] == "---"


def test_names() -> None:
    """What other commands take."""
    assert lines(output="name") == ["things/web10", "things/web2", "things/db"]


@pytest.mark.parametrize(
    ("sort_by", "names"),
    [
        ("name", ["db", "web2", "web10"]),
        ("-name", ["web10", "web2", "db"]),
        ("SIZE", ["db", "web10", "web2"]),
        ("-size", ["web2", "web10", "db"]),
        ("a-note", ["web10", "db", "web2"]),
    ],
)
def test_order(sort_by: str, names: list[str]) -> None:
    """By any column, shown or not; numbers by size, also in names; what is missing comes first."""
    assert [line.split()[0] for line in lines(sort_by=sort_by, no_header=True)] == names


def test_no_such_column() -> None:
    """Those that there are are named."""
    with pytest.raises(UsageError, match=r"'weight'.*columns: name, size, a note"):
        lines(sort_by="-weight")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OrderError("refused", Exit.FAILED), 1),
        (OrderError("nobody", Exit.UNREACHABLE), 3),
        (UnreachableError("nobody"), 3),
        (AnswerError("somebody else"), 1),
        (NotFoundError("no such thing"), 5),
    ],
)
def test_what_can_go_wrong(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Said on standard error, with the exit code that is documented."""

    def fetch() -> Any:
        raise error

    assert show(VIEW, ListOptions(), fetch) == code
    output = capsys.readouterr()
    assert str(error) in output.err
    assert output.out == ""


def test_watching(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Again and again until Ctrl-C, a JSON document a line; a director that is away for a moment is no end."""
    pauses: list[float] = []
    answers: Iterator[Any] = iter([DOCUMENT, UnreachableError("away"), OrderError("away, too", Exit.UNREACHABLE), {}])

    def fetch() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        if not answer:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(listing.time, "sleep", pauses.append)
    assert show(VIEW, ListOptions(output="json", watch=[2.5]), fetch) == 0
    output = capsys.readouterr()
    assert [json.loads(line)["things"] for line in output.out.splitlines()] == [DOCUMENT["things"]]
    assert "away" in output.err
    assert "away, too" in output.err
    assert pauses == [2.5, 2.5, 2.5]


def test_a_pause_that_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody is asked then."""
    assert show(VIEW, ListOptions(watch=[0.001]), dict) == 2
    assert "0.1 to 3600" in capsys.readouterr().err


LISTS = (
    *("member list", "member flows", "bgp peers", "bgp routes", "health", "mtu", "config history", "lab list"),
    *("flow list", "plane list", "bpf list", "plane slots", "plane neighbours", "plane counters"),
    *("service list", "profile list", "server list"),
    *("quic config", "virtualservice list", "pool list", "networkprofile list", "healthmonitor list"),
)


@pytest.mark.parametrize("command", LISTS)
def test_every_list_has_them(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One set of options for all commands that list things."""
    assert call([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("-o, --output", "--json", "--no-header", "--sort-by", "-w, --watch"))
