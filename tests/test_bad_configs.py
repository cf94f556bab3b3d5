"""Every file in bad_configs has at least one mistake, and its leading comments say what must be reported.

A comment line is a whole message, with FILE for the file's name: `# FILE:12: pool[0].name: what is wrong; what to do`.
"""

from pathlib import Path

import pytest

from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.config.load import load
from appliance.config.problems import ConfigError

FOLDER = Path(__file__).parent / "bad_configs"
FILES = sorted(FOLDER.glob("*.toml"))


def expected(path: Path) -> list[str]:
    messages = []
    for line in path.read_text().splitlines():
        if not line.startswith("# FILE"):
            break
        messages.append(line.removeprefix("# FILE"))
    return messages


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_mistake_is_reported_with_its_place_and_remedy(path: Path) -> None:
    """Exactly the promised messages come, in the order of lines, with line, key path, value and remedy."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [str(problem).removeprefix(str(path)) for problem in caught.value.problems] == expected(path)
    assert all(problem.line and problem.message and problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_check_prints_every_mistake_and_exits_with_4(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`onward check` says the same on standard error, nothing on standard output, and exits with 4."""
    assert call(["check", str(path)]) == Exit.CONFIG == 4
    output = capsys.readouterr()
    messages = expected(path)
    counted = f"{len(messages)} problem{'s' if len(messages) != 1 else ''}"
    assert output.out == ""
    assert output.err.splitlines() == [*(f"{path}{message}" for message in messages), counted]


def test_there_are_enough_kinds_of_mistakes() -> None:
    """The collection does not shrink unnoticed, and one file has many mistakes at once."""
    assert len(FILES) >= 200
    assert len(expected(FOLDER / "many_mistakes.toml")) >= 15
