"""What stands in [api] for those who may use it."""

import io

import pytest

from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.passwords import digest_of, scrypt_of, token_digest


def test_a_password_is_hashed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From standard input where nobody can be asked; twice the same gives two different hashes, and both fit."""
    hashes = []
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
        assert call(["api", "hash-password"]) == Exit.OK
        hashes.append(capsys.readouterr().out.strip())
    assert hashes[0] != hashes[1]
    assert all(scrypt_of(text).fits("correct horse") for text in hashes)
    assert not scrypt_of(hashes[0]).fits("correct horse\n")


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_passwords_that_are_none(
    password: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too short or too long; nothing is printed."""
    monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
    assert call(["api", "hash-password"]) == Exit.USAGE
    output = capsys.readouterr()
    assert (output.out, "8 to 1024 bytes" in output.err) == ("", True)


def test_a_token_and_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    """They belong together, and no two are the same."""
    seen = set()
    for _ in range(2):
        assert call(["api", "new-token"]) == Exit.OK
        (_, token), (_, kept) = (line.split() for line in capsys.readouterr().out.splitlines())
        assert digest_of(kept) == token_digest(token)
        assert len(token) >= 43
        seen.add(token)
    assert len(seen) == 2
