"""Inputs of importers, and what they have in common."""

import glob
from collections.abc import Sequence
from pathlib import Path

from appliance.importers import IMPORTERS
from appliance.importers.base import Imported, Site, Source
from appliance.importers.document import toml

FOLDER = Path(__file__).parent.parent.parent / "imports"
FILES = {
    "avi": "avi.json",
    "keepalived": "keepalived/keepalived.conf",
    "ipvsadm": "ipvsadm.txt",
    "avi-wide": "wide/avi.json",
    "keepalived-wide": "wide/keepalived.conf",
    "ipvsadm-wide": "wide/ipvsadm.txt",
}
"""Of each kind a configuration as people have it, and one with what is rare: fields of the SDK's objects, keywords of
keepalived.conf(5), options of ipvsadm(8), and mistakes that do not end an import."""

SITE = Site(interfaces=("eth1",), router_id="192.0.2.11", next_hop_v6="2001:db8::11")
KINDS = tuple(IMPORTERS)
INPUTS = tuple(FILES)


def included(pattern: str, asker: str) -> Sequence[tuple[str, str]]:
    """Files of the samples, by the names that the importer gave them."""
    folder = (FOLDER / asker).parent
    names = sorted(glob.glob(str(folder / pattern)))  # noqa: PTH207
    return [(str(Path(name).relative_to(FOLDER)), Path(name).read_text()) for name in names]


def sample(kind: str) -> str:
    return (FOLDER / FILES[kind]).read_text()


def imported(kind: str, text: str | None = None) -> Imported:
    """What becomes of a text; of the sample by default."""
    text = sample(kind) if text is None else text
    return IMPORTERS[kind.partition("-")[0]](Source(FILES[kind], text, included), SITE)


def result(kind: str, text: str | None = None) -> str:
    """Document and report as one text, so that two of them can be compared."""
    found = imported(kind, text)
    return toml([], found.tables) + "\n".join(f"{finding.grade} {finding}" for finding in found.findings)
