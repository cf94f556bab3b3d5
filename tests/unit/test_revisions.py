"""Revisions of the configuration: who, when, why, and not more of them than are wanted."""

from pathlib import Path

import pytest

from appliance.revisions import Author, RevisionError, Revisions

ME = Author("root (uid 0, pid 7)", "reload", "because")


def test_a_revision_is_kept_with_its_texts(tmp_path: Path) -> None:
    """For a process that follows as well; nobody else can read it."""
    folder = tmp_path / "state" / "revisions"
    assert Revisions(folder).latest() is None
    texts = {"onward.toml": "password = 'x'\n", "conf.d/a.toml": "é\r\n"}
    made = Revisions(folder).add(texts, "d1", ME, 1000.5, "1 virtual service added")
    assert made.number == 1
    assert Revisions(folder).read(1) == (made, texts)
    assert Revisions(folder).latest() == made
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    """Numbers go on, and are never given twice."""
    revisions = Revisions(tmp_path, kept=3)
    for number in range(1, 6):
        assert revisions.add({"a": str(number)}, str(number), ME, float(number)).number == number
    assert [revision.number for revision in revisions.all()] == [5, 4, 3]
    with pytest.raises(RevisionError, match="there is no revision 2; there are 3 to 5"):
        revisions.read(2)


def test_one_that_is_damaged_does_not_hide_the_others(tmp_path: Path) -> None:
    """It is passed over in the list, and says why when it is asked for."""
    revisions = Revisions(tmp_path)
    for number in (1, 2, 3):
        revisions.add({"a": "b"}, str(number), ME, 1.0)
    (tmp_path / "00000002.json").write_text("{")
    (tmp_path / "notes.txt").write_text("of somebody")
    assert [revision.number for revision in revisions.all()] == [3, 1]
    with pytest.raises(RevisionError, match="cannot be read"):
        revisions.read(2)


def test_what_cannot_be_kept_says_why(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "state").write_text("")
    with pytest.raises(RevisionError, match="Not a directory"):
        Revisions(tmp_path / "state" / "revisions").add({}, "d", ME, 1.0)
