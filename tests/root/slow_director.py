"""A director whose texts take as long to parse as somebody wants: FILE. What it begins with takes no time; all else is
parsed while there is no file `hold` beside it. Steps of changes are told on standard output."""

import sys
import time
from pathlib import Path

from appliance import app
from appliance.config.document import Document
from appliance.config.load import Loaded
from appliance.model import PlaneKind
from appliance.transaction import Step

FILE = Path(sys.argv[1])
parsed = app.parsed


def slowly(document: Document, plane: PlaneKind | None) -> Loaded:
    """In a thread, as every parser; nobody can end it."""
    while FILE.with_name("hold").exists():
        time.sleep(0.02)
    return parsed(document, plane)


def tell(step: Step) -> None:
    print(step, file=sys.stdout, flush=True)


if __name__ == "__main__":
    from appliance.aside import leave

    app.parsed = slowly
    code = app.run(FILE, at=tell)
    leave(code)
    sys.exit(code)
