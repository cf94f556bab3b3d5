"""Forwarding tables on their way to another process, again and again: what it has already is not sent again."""

import os
import pickle
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""Of one dimension."""

_Id = tuple[int, str, bytes]
"""An array's number; and when it is new, its type and content."""


class Packer:
    """Writes values. Arrays are most of tables, and tables in a row share them: each is written once, as long as every
    value has it. Nobody may change an array that was written."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Array]] = {}
        """Number and array, by id()."""
        self._numbers = count()

    def pack(self, value: object) -> int:
        """Write *value* into a nameless file.

        Returns:
            Its descriptor, which is the caller's.

        Raises:
            OSError: there is no memory for it.
        """
        known, used = self._known, dict[int, tuple[int, Array]]()

        class Pickler(pickle.Pickler):
            def persistent_id(_, thing: object) -> _Id | None:  # noqa: N805
                if not isinstance(thing, np.ndarray):
                    return None
                key = id(thing)
                if key in known or key in used:
                    used[key] = used.get(key) or known[key]
                    return used[key][0], "", b""
                used[key] = next(self._numbers), thing
                return used[key][0], thing.dtype.str, thing.tobytes()

        fd = os.memfd_create("onward-tables", os.MFD_CLOEXEC)
        try:
            with open(fd, "wb", closefd=False) as file:
                Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
        except BaseException:
            os.close(fd)
            raise
        self._known = used
        return fd


class Unpacker:
    """Reads what one packer has written, all of it and in its order."""

    def __init__(self) -> None:
        self._known: dict[int, Array] = {}

    def unpack(self, fd: int) -> Any:
        """The next value, from its nameless file; the descriptor stays the caller's."""
        known, used = self._known, dict[int, Array]()

        class Unpickler(pickle.Unpickler):
            def persistent_load(_, pid: _Id) -> Array:  # noqa: N805
                number, form, content = pid
                if form:
                    used[number] = np.frombuffer(content, form)
                elif number not in used:
                    used[number] = known[number]
                return used[number]

        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as file:
            value = Unpickler(file).load()
        self._known = used
        return value
