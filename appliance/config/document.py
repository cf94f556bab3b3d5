"""The configuration as it is written down: the file, and the files of `conf.d` beside it, as one value.

    onward.toml          the main file: names everything that there is one of
    conf.d/*.toml        more of it, in the order of names; hidden files do not count
    .onward.toml.pending a change of several files that is being made: who finds it, reads the files as they will be

Several files cannot be replaced at one moment. So a change is written down whole, first, in a file of its own; from the
moment it has that name, the change is made, whatever happens to the process, and the next one finishes the work.
"""

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from appliance.config.files import read_text
from appliance.config.merge import Part
from appliance.config.problems import ConfigError, Problem
from appliance.keep import keep, sync_folder

FOLDER = "conf.d"
FORMAT = 1


class DocumentError(Exception):
    """The files cannot be changed; the text says why. They are as they were, unless it says otherwise."""


@dataclass(frozen=True)
class Document:
    """All texts of a configuration."""

    path: Path
    """The main file."""

    texts: Mapping[str, str]
    """By name, relative to the main file's folder: the main file first, then those of `conf.d` in their order."""

    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False, compare=False)
    """What is known of `data` already."""

    @cached_property
    def data(self) -> Mapping[str, Mapping[str, Any]]:
        """What the texts say, by name; to be read only. Raises ValueError where one is no TOML."""
        return {
            name: self.kept[name] if name in self.kept else tomllib.loads(text) for name, text in self.texts.items()
        }

    @cached_property
    def digest(self) -> str:
        """Of names and texts; what the files name (secrets, certificates) is not in it."""
        seen = hashlib.sha256()
        for name, text in self.texts.items():
            seen.update(f"{name}\0{len(text)}\0{text}".encode())
        return seen.hexdigest()

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(Part(str(self.path.parent / name), text) for name, text in self.texts.items())

    def having(self, texts: Mapping[str, str], known: Mapping[str, Mapping[str, Any]] | None = None) -> "Document":
        """The same configuration with these texts and no others.

        Args:
            texts: as in `Document.texts`.
            known: what some of them say, by name.

        Raises:
            ConfigError: the main file is not among them, or a name is not one of `conf.d`.
        """
        problems = [
            Problem(name, None, "", "this is no place for a configuration", f"use {self.path.name} or {FOLDER}/*.toml")
            for name in texts
            if name != self.path.name and not is_fragment(name)
        ]
        if self.path.name not in texts:
            problems.append(Problem(self.path.name, None, "", "missing", "the main file is needed"))
        if problems:
            raise ConfigError(problems)
        names = [self.path.name, *sorted(name for name in texts if name != self.path.name)]
        read = self.data if "data" in self.__dict__ else self.kept
        kept = {name: read[name] for name in names if name in read and texts[name] == self.texts[name]} | dict(
            known or {}
        )
        return Document(self.path, {name: texts[name] for name in names}, kept)


def is_fragment(name: str) -> bool:
    """Whether a file of that name, relative to the main file's folder, counts."""
    path = PurePosixPath(name)
    return (
        str(path) == name
        and len(path.parts) == 2
        and path.parts[0] == FOLDER
        and path.suffix == ".toml"
        and not path.name.startswith(".")
        and "\0" not in name
    )


def read_document(path: Path) -> Document:
    """All texts of the configuration whose main file is at *path*.

    Raises:
        ConfigError: one of them cannot be read, or is not text; every one that cannot is in it.
    """
    if (change := pending(path)) is not None and not change.overtaken:
        return change.document
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for name in (path.name, *_fragments(path)):
        try:
            texts[name] = read_text(path.parent / name if name != path.name else path)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Document(path, texts)


def _fragments(path: Path) -> list[str]:
    folder = path.parent / FOLDER
    try:
        names = sorted(f"{FOLDER}/{file.name}" for file in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(
            [Problem(str(folder), None, "", why, "make the folder readable for this user, or remove it")]
        ) from None
    return [name for name in names if is_fragment(name)]


# ---------------------------------------------------------------------------------------------------------------------
# Changing it


@dataclass(frozen=True)
class Pending:
    """A change that has been decided on."""

    document: Document
    note: Mapping[str, object]
    """What the one who made it wants to know when it is finished later."""

    overtaken: bool = False
    """Somebody has written to the files since: what they say now counts, and the change does not."""


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.pending")


def pending(path: Path) -> Pending | None:
    """The change that somebody has decided on and not finished; None when there is none.

    Raises:
        ConfigError: there is one, and it cannot be read.
    """
    journal = _journal(path)
    try:
        raw = json.loads(journal.read_text())
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']} instead of {FORMAT}")
        texts = {str(name): str(text) for name, text in raw["texts"].items()}
        base = {str(name): str(digest) for name, digest in raw["base"].items()}
        return Pending(Document(path, texts), dict(raw["note"]), _overtaken(path, texts, base))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"a change that was begun cannot be read: {error}"
        raise ConfigError([Problem(str(journal), None, "", why, "look at the files, and remove this one")]) from None


def _overtaken(path: Path, texts: Mapping[str, str], base: Mapping[str, str]) -> bool:
    """Whether any file says neither what it said before the change nor what it is to say."""
    for name in {*texts, *base, *_fragments(path)}:
        try:
            found = _digest((path.parent / name).read_bytes())
        except FileNotFoundError:
            if name in texts and name in base:
                return True  # a change replaces, and removes nothing of these
            continue
        if found not in (base.get(name), _digest(texts[name].encode()) if name in texts else None):
            return True
    return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def decide_on(document: Document, note: Mapping[str, object]) -> None:
    """From when this returns, *document* is the configuration; `finish` puts its texts into their files.

    Raises:
        DocumentError: it cannot be written; nothing has changed.
    """
    folder = document.path.parent
    try:
        names = [document.path.name, *_fragments(document.path)]
        base = {name: _digest((folder / name).read_bytes()) for name in names if (folder / name).exists()}
        change = {"format": FORMAT, "texts": dict(document.texts), "base": base, "note": dict(note)}
        text = json.dumps(change)
        keep(_journal(document.path), text, like=document.path)
    except OSError as error:
        raise DocumentError(f"cannot write beside {document.path}: {error.strerror or error}") from error


def finish(change: Pending, at: Callable[[str], None] = lambda _: None) -> None:
    """Put the texts of a change into their files. May be done again, from any state in between.

    Args:
        change: decided on.
        at: is told the name of each file that is about to be replaced or removed.

    Raises:
        DocumentError: a file cannot be written. The change stays decided on, and can be finished later or taken back.
    """
    document = change.document
    folder = document.path.parent
    try:
        for name, text in document.texts.items():
            # Through a symbolic link to what it stands for: the link is somebody's way to manage files.
            target = (folder / name).resolve()
            if target.exists() and target.read_bytes() == text.encode():
                continue
            at(name)
            target.parent.mkdir(exist_ok=True)
            keep(target, text, like=document.path)
        for name in _fragments(document.path):
            if name not in document.texts:
                at(name)
                (folder / name).unlink()
        if (folder / FOLDER).exists():
            sync_folder(folder / FOLDER)
    except OSError as error:
        raise DocumentError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error


def forget(path: Path) -> None:
    """The change is finished.

    Raises:
        DocumentError: the note of it cannot be removed.
    """
    try:
        _journal(path).unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise DocumentError(f"cannot remove {_journal(path)}: {error.strerror or error}") from error
