"""Reading what a configuration is made of from the disk, and nothing else than regular files."""

import errno
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from appliance.config.problems import ConfigError, Problem

MAX_NAMED_BYTES = 65536
"""Of a secret's file and others that a configuration names; more adds nothing."""

MAX_BYTES = 16 * 1024 * 1024
"""A file larger than this is something else (an image, a log)."""


def files_beside(path: Path) -> Callable[[str], bytes]:
    """Reads files by the names a configuration at *path* gives them."""

    def read(name: str) -> bytes:
        with opened(path.parent / name) as file:
            return file.read(MAX_NAMED_BYTES)

    return read


class IrregularFileError(OSError):
    """It is a FIFO, a socket or a device: reading one may last for ever, and merely opening it may do something."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "not a regular file", str(path))


def opened(path: Path) -> BinaryIO:
    """A file to read; raises OSError at once where there is none."""
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a folder has an error of its own in `open`
        raise IrregularFileError(path)
    return path.open("rb")


def read_text(path: Path) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: it cannot be read, or is not text.
    """
    source = str(path)
    try:
        with opened(path) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise as_a_whole(source, "no such file", "give the path of a configuration file") from None
    except IsADirectoryError:
        raise as_a_whole(source, "this is a folder", "give the path of a configuration file in it") from None
    except PermissionError:
        raise as_a_whole(source, "permission denied", "make the file readable for this user") from None
    except IrregularFileError:
        remedy = "give the path of a file; `onward check -` reads standard input"
        raise as_a_whole(source, "this is not a regular file", remedy) from None
    except OSError as error:
        raise as_a_whole(source, f"cannot be read: {error.strerror}", "give the path of a readable file") from None
    return decode(content, source)


def decode(content: bytes, source: str) -> str:
    """The text of a configuration file's content.

    Raises:
        ConfigError: it is not text, empty, or far too long.
    """
    if len(content) > MAX_BYTES:
        raise as_a_whole(source, f"more than {MAX_BYTES >> 20} MiB", "give the path of a configuration file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(source, line, "", f"byte {error.start} is not UTF-8 text", "a configuration is a TOML file")
        raise ConfigError([problem]) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        problem = Problem(source, line, "", "a NUL byte: this is not text", "a configuration is a TOML file")
        raise ConfigError([problem])
    if not text.strip():
        raise as_a_whole(source, "the file is empty", "begin with schema_version = 1, then [director] and [fleet]")
    return text


def as_a_whole(source: str, message: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(source, None, "", message, remedy)])
