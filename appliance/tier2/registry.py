"""Who is there: what nodes say of themselves, and a folder that has it. `store` has it in the fleet's store."""

import json
import tomllib
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from appliance.model import IPAddress

SUFFIX = ".node"


@dataclass(frozen=True)
class Entry:
    """A node that takes connections."""

    name: str
    addresses: tuple[IPAddress, ...]
    ratio: int = 1


@dataclass(frozen=True)
class Folder:
    """A folder that nodes and directors share, with a file for each node."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def write(self, entry: Entry) -> None:
        """Register, or stay registered; what was there under the name is replaced at one moment.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path / f"{entry.name}{SUFFIX}"
        text = as_text(entry)
        if path.exists() and path.read_text() == text:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.replace(path)

    def remove(self, name: str) -> None:
        """Leave.

        Raises:
            OSError: the file cannot be removed.
        """
        (self.path / f"{name}{SUFFIX}").unlink(missing_ok=True)

    def read(self) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
        """Everybody, in the order of names, and why files were passed over.

        Raises:
            OSError: the folder cannot be read.
        """
        entries, problems = [], []
        for path in sorted(self.path.glob(f"[!.]*{SUFFIX}")):
            try:
                entries.append(from_text(path.name.removesuffix(SUFFIX), path.read_text()))
            except FileNotFoundError:
                continue  # it has just left
            except (OSError, ValueError) as error:
                problems.append(f"{path}: {error}")
        return tuple(entries), tuple(problems)


def as_text(entry: Entry) -> str:
    """TOML."""
    addresses = ", ".join(json.dumps(str(address)) for address in entry.addresses)
    return f"addresses = [{addresses}]\nratio = {entry.ratio}\n"


def from_text(name: str, text: str) -> Entry:
    """
    Raises:
        ValueError: it is not what a node writes.
    """
    table = tomllib.loads(text)
    addresses, ratio = table.get("addresses"), table.get("ratio", 1)
    if not isinstance(addresses, list) or not addresses:
        raise ValueError("no addresses")
    if not isinstance(ratio, int) or not 0 <= ratio <= 1000:
        raise ValueError(f"{ratio} is no ratio")
    return Entry(name, tuple(ip_address(address) for address in addresses), ratio)
