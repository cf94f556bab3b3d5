"""Configurations that were in force, with who, when and why: one file each in the state directory, a bounded number.

What the files of a configuration name (secrets, certificates) is not kept, but its own texts may have passwords: the
folder is for its owner only.
"""

import base64
import json
import re
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.keep import keep, sync_folder

FORMAT = 1

KEPT = 50
"""Revisions; the oldest go first."""

MAX_BYTES = 256 * 1024 * 1024
"""Of all of them together, compressed as they are; the latest one stays in any case."""

_NAME = re.compile(r"([0-9]{8})\.json")


class RevisionError(Exception):
    """A revision cannot be kept or read; the text says why."""


@dataclass(frozen=True)
class Author:
    """Who wants a change, and why."""

    who: str
    """`root (uid 0, pid 4711)`; as much as is known."""

    via: str
    """By which way it came: `start`, `signal`, `reload`, `rollback`, `api`."""

    why: str = ""


@dataclass(frozen=True)
class Revision:
    """A configuration that has come into force."""

    number: int
    at: float
    """Seconds since 1970."""

    author: Author
    digest: str
    """Of the document."""

    summary: str = ""
    """What was different from the one before, in a line."""


class Revisions:
    """The folder of revisions."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        """
        Args:
            folder: made when it is needed.
            kept: how many revisions, at most.
        """
        self._folder = folder
        self._kept = kept

    def latest(self) -> Revision | None:
        """The one that was kept last.

        Raises:
            RevisionError: it cannot be read.
        """
        numbers = self._numbers()
        return _revision(numbers[-1], self._raw(numbers[-1])) if numbers else None

    def all(self) -> list[Revision]:
        """All of them, the latest first; those that cannot be read are passed over: `read` says why.

        Raises:
            RevisionError: the folder cannot be read.
        """
        found = []
        for number in reversed(self._numbers()):
            try:
                found.append(_revision(number, self._raw(number)))
            except RevisionError:
                continue
        return found

    def read(self, number: int) -> tuple[Revision, Mapping[str, str]]:
        """A revision and its texts, by name as in `Document.texts`.

        Raises:
            RevisionError: there is none of that number, or it cannot be read.
        """
        raw = self._raw(number)
        try:
            texts = json.loads(zlib.decompress(base64.b64decode(raw["texts"])))
            return _revision(number, raw), {str(name): str(text) for name, text in texts.items()}
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise RevisionError(f"{self._path(number)} cannot be read: {error}") from error

    def _raw(self, number: int) -> dict[str, Any]:
        path = self._path(number)
        try:
            raw = json.loads(path.read_text())
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']} instead of {FORMAT}")
            _revision(number, raw)
            return dict(raw)
        except FileNotFoundError:
            numbers = self._numbers()
            there = f"there are {numbers[0]} to {numbers[-1]}" if numbers else "there are none yet"
            raise RevisionError(f"there is no revision {number}; {there}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RevisionError(f"{path} cannot be read: {error}") from error

    def add(
        self,
        texts: Mapping[str, str],
        digest: str,
        author: Author,
        at: float,
        summary: str = "",
        needed: Container[int] = (),
    ) -> Revision:
        """Keep a configuration as the latest revision, and forget the oldest that are too many.

        Args:
            texts: `Document.texts`.
            digest: `Document.digest`.
            author: who, and why.
            at: seconds since 1970.
            summary: what is different.
            needed: revisions that stay, however old.

        Raises:
            RevisionError: it cannot be written. Nothing has changed then.
        """
        numbers = self._numbers()
        number = numbers[-1] + 1 if numbers else 1
        packed = base64.b64encode(zlib.compress(json.dumps(dict(texts)).encode(), 6)).decode()
        raw = {
            "format": FORMAT,
            "at": at,
            "who": author.who,
            "via": author.via,
            "why": author.why,
            "digest": digest,
            "summary": summary,
            "texts": packed,
        }
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            keep(self._path(number), json.dumps(raw))
            self._bound([*numbers, number], needed)
        except OSError as error:
            raise RevisionError(f"{self._folder}: {error.strerror or error}") from error
        return Revision(number, at, author, digest, summary)

    def _bound(self, numbers: list[int], needed: Container[int]) -> None:
        gone = [number for number in numbers[: -self._kept] if number not in needed]
        sizes = {number: self._path(number).stat().st_size for number in numbers if number not in gone}
        for number in [number for number in [*sizes][:-1] if number not in needed]:
            if sum(sizes.values()) <= MAX_BYTES:
                break
            del sizes[number]
            gone.append(number)
        for number in gone:
            self._path(number).unlink(missing_ok=True)
        if gone:
            sync_folder(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08}.json"

    def _numbers(self) -> list[int]:
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RevisionError(f"{self._folder} cannot be read: {error.strerror or error}") from error
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def _revision(number: int, raw: Mapping[str, Any]) -> Revision:
    author = Author(str(raw["who"]), str(raw["via"]), str(raw["why"]))
    return Revision(number, float(raw["at"]), author, str(raw["digest"]), str(raw["summary"]))
