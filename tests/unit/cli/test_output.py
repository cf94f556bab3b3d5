"""Tables, facts and colour."""

import io

import pytest

from appliance.cli.output import facts, paint, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_aligned_and_lines_have_no_trailing_blanks() -> None:
    """Names to the left, numbers to the right where asked, no boxes."""
    text = table(("NAME", "RATIO", ""), [("web1", 1, "x"), ("a-long-name", 1000, "")], right=("RATIO",))
    assert text == "NAME         RATIO\nweb1             1  x\na-long-name   1000"


def test_a_table_without_rows_is_its_header() -> None:
    """There is nothing to measure but the header."""
    assert table(("A", "B"), []) == "A  B"


def test_facts_are_aligned() -> None:
    """Values begin in one column."""
    assert facts([("flow", "x"), ("virtual service", 1)]) == "flow             x\nvirtual service  1"


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_people_who_want_it(
    stream: io.StringIO, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only on a terminal that can, and never when NO_COLOR is set to anything (no-color.org)."""
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert paint("x", "31", stream) == ("\033[31mx\033[0m" if coloured else "x")
