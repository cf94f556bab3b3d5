"""A thin typed layer over libbpf (`libbpf.so.1`, else `.so.0`): open an object, load it, reach maps, attach programs.

libbpf does the ELF, BTF and relocation work. Nothing is pinned: what a process holds goes with it. Every function
raises `BpfError`, with the verifier's reason where it was the verifier.

Byte order and struct layouts are the caller's business; keys and values are bytes.
"""

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any

LIBRARIES = ("libbpf.so.1", "libbpf.so.0")
VERIFIER_LINES = 12
"""How much of the verifier's last words an error repeats; the reason is at their end."""

LIBBPF_STRICT_ALL = 0xFFFFFFFF
LIBBPF_DEBUG = 2
LONGEST_LOG = 1 << 24
"""Bytes of a message of libbpf; the verifier's log comes as one, and its reason stands at the end."""
BTF_KIND_ENUM = 6
MAP_TYPE_PERCPU = frozenset({5, 6, 10})
"""PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH: a value per possible CPU."""


class Attach(IntEnum):
    """Where a program is attached: `enum bpf_attach_type`."""

    XDP = 37
    TCX_INGRESS = 46
    """Linux 6.6 and newer."""


class XdpMode(IntEnum):
    """Flags of an XDP attachment (linux/if_link.h)."""

    GENERIC = 1 << 1
    NATIVE = 1 << 2


class BpfError(Exception):
    """The kernel or libbpf refused; the text says what, why and what to do."""

    def __init__(self, what: str, number: int, detail: str = "") -> None:
        self.errno = number
        super().__init__(": ".join(part for part in (what, os.strerror(number) if number else "", detail) if part))


class _LinkOptions(ctypes.Structure):
    """`struct bpf_link_create_opts`, the part that all versions have."""

    _fields_ = [("sz", c_size_t), ("flags", c_uint32), ("_pad", c_uint32)]


class _TestRun(ctypes.Structure):
    """`struct bpf_test_run_opts`."""

    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_char_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class _MapInfo(ctypes.Structure):
    """`struct bpf_map_info`, its beginning; the kernel fills what fits."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
    ]


class _BtfType(ctypes.Structure):
    _fields_ = [("name_off", c_uint32), ("info", c_uint32), ("size", c_uint32)]


class _BtfEnum(ctypes.Structure):
    _fields_ = [("name_off", c_uint32), ("val", ctypes.c_int32)]


_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

_SIGNATURES: Mapping[str, tuple[object, list[object]]] = {
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__btf": (c_void_p, [c_void_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, c_bool]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
    "bpf_prog_test_run_opts": (c_int, [c_int, POINTER(_TestRun)]),
    "bpf_link_create": (c_int, [c_int, c_int, c_int, POINTER(_LinkOptions)]),
    "bpf_link_update": (c_int, [c_int, c_int, c_void_p]),
    "btf__find_by_name_kind": (ctypes.c_int32, [c_void_p, c_char_p, c_uint32]),
    "btf__type_by_id": (c_void_p, [c_void_p, c_uint32]),
    "btf__name_by_offset": (c_char_p, [c_void_p, c_uint32]),
    "libbpf_num_possible_cpus": (c_int, []),
    "libbpf_set_print": (c_void_p, [c_void_p]),
}


class _Library:
    """The shared library, opened at first use: a machine that runs no BPF need not have it."""

    def __init__(self) -> None:
        self._handle: ctypes.CDLL | None = None
        self._lock = threading.Lock()
        self._said: list[str] = []
        self._print = _PRINT(self._listen)

    def _open(self) -> ctypes.CDLL:
        for name in LIBRARIES:
            try:
                handle = ctypes.CDLL(name, use_errno=True)
            except OSError:
                continue
            for function, (result, arguments) in _SIGNATURES.items():
                getattr(handle, function).restype = result
                getattr(handle, function).argtypes = arguments
            if name == "libbpf.so.0":
                # Its errors come in two ways; this asks for those of 1.0.
                handle.libbpf_set_strict_mode(c_uint32(LIBBPF_STRICT_ALL))
            # Variadic in C (a va_list follows), so the text is formatted by libc.
            handle.libbpf_set_print(ctypes.cast(self._print, c_void_p))
            return handle
        raise BpfError("libbpf is not installed; apt-get install libbpf1 (Ubuntu 22.04: libbpf0)", 0)

    def _listen(self, level: int, template: bytes, arguments: int) -> int:
        if level < LIBBPF_DEBUG:
            buffer = ctypes.create_string_buffer(LONGEST_LOG)
            ctypes.CDLL(None).vsnprintf(buffer, c_size_t(len(buffer)), template, c_void_p(arguments))
            self._said.append(buffer.value.decode(errors="replace"))
        return 0

    def function(self, name: str) -> Callable[..., Any]:
        """A function of the library, for calls that cannot fail."""
        if self._handle is None:
            self._handle = self._open()
        return getattr(self._handle, name)  # type: ignore[no-any-return]

    def call(self, what: str, function: str, *arguments: object) -> int:
        """Call; negative results and null pointers become BpfError."""
        with self._lock:
            self._said.clear()
            result = self.function(function)(*arguments)
            if result is None or (isinstance(result, int) and result < 0):
                number = -result if result else ctypes.get_errno()
                raise BpfError(what, number, self._reason())
            return int(result)

    def _reason(self) -> str:
        lines = [line for text in self._said for line in text.splitlines() if line.strip()]
        return "\n".join(["", *lines[-VERIFIER_LINES:]]) if lines else ""


_lib = _Library()


def possible_cpus() -> int:
    """How many values a per-CPU map has for a key."""
    return _lib.call("count CPUs", "libbpf_num_possible_cpus")


class Map:
    """A map of a loaded object; gone with the object."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        info = _MapInfo()
        size = c_uint32(ctypes.sizeof(info))
        _lib.call(f"map {name}", "bpf_obj_get_info_by_fd", fd, byref(info), byref(size))
        self.key_size = int(info.key_size)
        self.max_entries = int(info.max_entries)
        self.value_size = int(info.value_size)
        # The kernel rounds each CPU's value up to eight bytes.
        self._cpus = possible_cpus() if info.type in MAP_TYPE_PERCPU else 0
        self._buffer_size = (self.value_size + 7) // 8 * 8 * self._cpus or self.value_size

    def update(self, key: bytes, value: bytes) -> None:
        """Set a value; for a per-CPU map all CPUs' values.

        Raises:
            BpfError: the map is full, or is of another shape.
        """
        self._check(len(key), self.key_size, "key")
        self._check(len(value), self._buffer_size, "value")
        _lib.call(f"map {self.name}: update", "bpf_map_update_elem", self.fd, key, value, 0)

    def lookup(self, key: bytes) -> bytes | None:
        """A value (per-CPU: all of them in a row, each rounded up to eight bytes); None when there is none."""
        self._check(len(key), self.key_size, "key")
        buffer = ctypes.create_string_buffer(self._buffer_size)
        try:
            _lib.call(f"map {self.name}: look-up", "bpf_map_lookup_elem", self.fd, key, buffer)
        except BpfError as error:
            if error.errno == 2:  # ENOENT
                return None
            raise
        return buffer.raw

    def lookup_sum(self, key: bytes) -> int:
        """The sum of a per-CPU counter (u64 in this machine's byte order) over all CPUs."""
        raw = self.lookup(key)
        return sum(memoryview(raw).cast("Q")) if raw else 0

    def keys(self) -> Iterator[bytes]:
        """All keys. A map that changes meanwhile may give some twice (see bpf_map_get_next_key)."""
        key: bytes | None = None
        while True:
            buffer = ctypes.create_string_buffer(self.key_size)
            try:
                _lib.call(f"map {self.name}: next key", "bpf_map_get_next_key", self.fd, key, buffer)
            except BpfError as error:
                if error.errno == 2:  # ENOENT: that was the last
                    return
                raise
            key = buffer.raw
            yield key

    def memory(self, size: int) -> mmap.mmap:
        """*size* bytes of an mmapable array, shared with the program. Writes are seen at once; nothing is copied."""
        return mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def _check(self, got: int, wanted: int, what: str) -> None:
        if got != wanted:
            raise ValueError(f"map {self.name}: a {what} has {wanted} bytes, not {got}")


class Link:
    """An attached program. It stays attached while this is open in any process, and not longer."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def update(self, program_fd: int) -> None:
        """Put another program in the place of this one; no packet goes between."""
        _lib.call("replace a program", "bpf_link_update", self._fd, program_fd, None)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def attach(program_fd: int, ifindex: int, where: Attach, flags: int = 0) -> Link:
    """Attach a program to an interface.

    Raises:
        BpfError: the kernel, the driver or another program in that place is against it.
    """
    options = _LinkOptions(ctypes.sizeof(_LinkOptions), flags, 0)
    what = f"attach to interface {ifindex} ({where.name.lower()})"
    return Link(_lib.call(what, "bpf_link_create", program_fd, ifindex, int(where), byref(options)))


def run_program(program_fd: int, frame: bytes) -> tuple[int, bytes]:
    """Run a program once on a frame of at least 14 bytes, without an interface.

    Returns:
        What it returned, and the frame as it left it.

    Raises:
        BpfError: the kernel does not take the frame, or knows no test runs for this kind of program.
    """
    # Programs may put headers in front; XDP has 256 bytes of room for them.
    out = ctypes.create_string_buffer(len(frame) + 512)
    run = _TestRun(
        sz=ctypes.sizeof(_TestRun),
        data_in=frame,
        data_out=ctypes.addressof(out),
        data_size_in=len(frame),
        data_size_out=len(out),
        repeat=1,
    )
    _lib.call("test run", "bpf_prog_test_run_opts", program_fd, byref(run))
    return ctypes.c_int32(run.retval).value, out.raw[: run.data_size_out]


class Object:
    """A compiled object: `open`, set sizes, `load`, use. Closing unloads what nobody else holds."""

    def __init__(self, path: Path) -> None:
        """Open the file *path*; nothing is in the kernel yet.

        Raises:
            BpfError: there is no such file, or no BPF object in it.
        """
        self._path = path
        if not path.exists():
            raise BpfError(f"{path} is missing; in a checkout `python systemd/build_bpf.py` compiles it", 0)
        self._handle: int | None = _lib.call(f"open {path}", "bpf_object__open_file", str(path).encode(), None)

    def only(self, *programs: str) -> None:
        """Load these programs and leave the others of the object out."""
        program: object = None
        while program := _lib.function("bpf_object__next_program")(self._handle, program):
            name = _lib.function("bpf_program__name")(program).decode()
            _lib.call(f"program {name}", "bpf_program__set_autoload", program, name in programs)

    def load(self) -> None:
        """Make the maps and load the programs.

        Raises:
            BpfError: with the verifier's last lines, or that privileges are missing.
        """
        try:
            _lib.call(f"load {self._path.name}", "bpf_object__load", self._handle)
        except BpfError as error:
            if error.errno == 1:  # EPERM
                raise BpfError(
                    f"load {self._path.name}", 1, "this needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
                ) from None
            raise

    def program(self, name: str) -> int:
        """File descriptor of a loaded program."""
        return _lib.call(f"program {name}", "bpf_program__fd", self._find("program", name))

    def map(self, name: str) -> Map:
        """A map, after loading."""
        return Map(name, _lib.call(f"map {name}", "bpf_map__fd", self._find("map", name)))

    def enum(self, name: str) -> dict[str, int]:
        """The constants of a C enum, from the object's type information: names and numbers stand in one place only."""
        btf = _lib.call(f"type information of {self._path}", "bpf_object__btf", self._handle)
        number = _lib.call(f"enum {name}", "btf__find_by_name_kind", btf, name.encode(), BTF_KIND_ENUM)
        address = _lib.call(f"enum {name}", "btf__type_by_id", btf, number)
        count = _BtfType.from_address(address).info & 0xFFFF
        constants = (_BtfEnum * count).from_address(address + ctypes.sizeof(_BtfType))
        text = _lib.function("btf__name_by_offset")
        return {text(btf, constant.name_off).decode(): constant.val for constant in constants}

    def _find(self, kind: str, name: str) -> int:
        return _lib.call(
            f"{kind} {name} in {self._path.name}", f"bpf_object__find_{kind}_by_name", self._handle, name.encode()
        )

    def close(self) -> None:
        if self._handle is not None:
            _lib.function("bpf_object__close")(self._handle)
            self._handle = None

    def __enter__(self) -> "Object":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
