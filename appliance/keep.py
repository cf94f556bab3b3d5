"""Small files for the process that follows: replaced whole, or left as they were."""

import os
from pathlib import Path


def keep(path: Path, text: str) -> None:
    """Replace what is there, whole, and on the disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_suffix(".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
