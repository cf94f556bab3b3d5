"""What others may see of a configuration, and of whatever a director says: no secrets. Pure.

A configuration is shown as data and without its comments, in which anything can stand. Secrets are known by the key
that they stand under; besides, wherever the very text of one turns up, it is taken out as well.
"""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "(hidden)"

SECRET_KEYS = frozenset({"password", "password_hash", "token_hash", "request"})
"""Their values are secrets, or may have some in them: what is sent to a member can be a login. A hash can be tried."""

VALUES_ARE_SECRET = frozenset({"environment"})
"""Of these tables the values are, and the keys are not."""

ARGUMENTS_ARE_SECRET = frozenset({"command"})
"""Of these lists all but the first are."""

URLS = frozenset({"endpoints", "path"})
"""What stands before an @ or behind a ? in them."""

FILES = frozenset(
    {"secret_file", "password_file", "key_file", "tls_key_file", "token_file", "agent_secret_file", "certificate"}
)
"""Names of files whose content is a secret. The names are none."""

SHORTEST = 4
"""A text shorter than this is not looked for elsewhere: it would be found everywhere."""


def redacted(value: object, key: str = "") -> object:
    """A configuration as data, without what nobody else may see.

    Args:
        value: a table, a list or a value of a TOML file.
        key: that it stands under.
    """
    if key in SECRET_KEYS:
        return HIDDEN
    if isinstance(value, Mapping):
        hidden = key in VALUES_ARE_SECRET
        return {name: HIDDEN if hidden else redacted(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        if key in ARGUMENTS_ARE_SECRET:
            return [*value[:1], *(HIDDEN for _ in value[1:])]
        return [redacted(inner, key) for inner in value]
    return _url(value) if key in URLS and isinstance(value, str) else value


def secrets(value: object, key: str = "") -> Iterator[str]:
    """The texts that `redacted` takes out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if key in VALUES_ARE_SECRET:
                yield str(inner)
            else:
                yield from secrets(inner, name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            if key in ARGUMENTS_ARE_SECRET:
                yield from [str(inner)] if number else []
            else:
                yield from secrets(inner, key)
    elif key in SECRET_KEYS:
        yield str(value)
    elif key in URLS and isinstance(value, str):
        parts = urlsplit(value)
        yield from (text for text in (parts.password, parts.query) if text)


def files(value: object, key: str = "") -> Iterator[str]:
    """Names of the files that have secrets in them."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from files(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from files(inner, key)
    elif key in FILES:
        yield str(value)


def without(text: str, found: Iterable[str]) -> str:
    """A text in which none of these turns up, the longest first."""
    for secret in sorted({secret for secret in found if len(secret) >= SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    place = parts.netloc.rpartition("@")[2]
    who = f"{HIDDEN}@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=f"{who}{place}", query=HIDDEN if parts.query else ""))
