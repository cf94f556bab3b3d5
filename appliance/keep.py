"""Small files for the process that follows: replaced whole, or left as they were."""

import os
import stat
from pathlib import Path


def keep(path: Path, text: str, like: Path | None = None) -> None:
    """Replace what is there, whole, and on the disk when this returns. Mode and owner stay.

    Args:
        path: of the file.
        text: its new content.
        like: whose mode and owner a file gets that was not there; None: the usual ones.

    Raises:
        OSError: it cannot be written.
    """
    model = next((known for known in (path, like) if known is not None and known.exists()), None)
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    # What has secrets in it must not be readable for others even for a moment.
    number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if model is None else 0o600)
    with os.fdopen(number, "w") as file:
        if model is not None:
            was = model.stat()
            own = os.fstat(number)
            if (own.st_uid, own.st_gid) != (was.st_uid, was.st_gid):
                os.fchown(number, was.st_uid, was.st_gid)
            os.fchmod(number, stat.S_IMODE(was.st_mode))
        file.write(text)
        file.flush()
        os.fsync(number)
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names that have changed in a folder are on the disk when this returns.

    Raises:
        OSError: they may be not.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
