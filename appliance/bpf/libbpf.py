"""A thin typed layer over libbpf (`libbpf.so.1`, else `.so.0`; 0.5 and newer): open an object, load it, reach maps,
attach programs.

libbpf does the ELF, BTF and relocation work. Nothing is pinned: what a process holds goes with it. Every function
raises `BpfError`, with the verifier's reason where it was the verifier.

Byte order and struct layouts are the caller's business; keys and values are bytes.
"""

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

LIBRARIES = ("libbpf.so.1", "libbpf.so.0")
VERIFIER_LINES = 12
"""How much of the verifier's last words an error repeats; the reason is at their end."""

LIBBPF_STRICT_ALL = 0xFFFFFFFF
LIBBPF_DEBUG = 2
LIBBPF_ERRNO = 4000
"""libbpf's own error numbers begin here; it says in words what they mean."""
LONGEST_LOG = 1 << 24
"""Bytes of a message of libbpf; the verifier's log comes as one, and its reason stands at the end."""
BTF_KIND_STRUCT, BTF_KIND_ENUM = 4, 6
BTF_KIND_FLAG, BTF_BIT_OFFSET = 31, 24
"""Bits in `btf_type.info` and `btf_member.offset` (linux/btf.h)."""
BPF_NOEXIST = 1
ENOTSUPP = 524
"""The kernel's own number for "not supported", which leaks out of some BPF calls."""

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
        self.detail = detail
        known = 0 < number < LIBBPF_ERRNO
        super().__init__(": ".join(part for part in (what, os.strerror(number) if known else "", detail) if part))


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


class _LinkInfo(ctypes.Structure):
    """`struct bpf_link_info` of an XDP link. The kernel's is longer; it fills what fits."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("_pad", c_uint32),
        ("ifindex", c_uint32),
        ("_rest", c_uint32 * 11),
    ]


class _ProgramInfo(ctypes.Structure):
    """`struct bpf_prog_info`. Kernels before 5.16 end before `verified_insns` and leave it 0."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("_dumps", c_uint64 * 2),
        ("load_time", c_uint64),
        ("_details", c_uint64 * 21),
        ("verified_insns", c_uint32),
        ("attach_btf_obj_id", c_uint32),
        ("attach_btf_id", c_uint32),
    ]


class _XdpContext(ctypes.Structure):
    """`struct xdp_md`."""

    _fields_ = [
        ("data", c_uint32),
        ("data_end", c_uint32),
        ("data_meta", c_uint32),
        ("ingress_ifindex", c_uint32),
        ("rx_queue_index", c_uint32),
        ("egress_ifindex", c_uint32),
    ]


class _BtfMember(ctypes.Structure):
    _fields_ = [("name_off", c_uint32), ("type", c_uint32), ("offset", c_uint32)]


class _BtfType(ctypes.Structure):
    _fields_ = [("name_off", c_uint32), ("info", c_uint32), ("size", c_uint32)]


class _BtfEnum(ctypes.Structure):
    _fields_ = [("name_off", c_uint32), ("val", ctypes.c_int32)]


_SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
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
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
    "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
    "btf__resolve_size": (ctypes.c_int64, [c_void_p, c_uint32]),
    "ring_buffer__new": (c_void_p, [c_int, _SAMPLE, c_void_p, c_void_p]),
    "ring_buffer__epoll_fd": (c_int, [c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
    "libbpf_num_possible_cpus": (c_int, []),
    "libbpf_set_print": (c_void_p, [c_void_p]),
}
_STRICT_MODE = "libbpf_set_strict_mode"


class _Library:
    """The shared library, opened at first use: a machine that runs no BPF need not have it."""

    def __init__(self) -> None:
        self._functions: Mapping[str, Callable[..., Any]] = {}
        self._lock = threading.Lock()
        self._local = threading.local()
        """Of each thread what libbpf has said in its call: one may load for a second while others look up."""
        self._print = _PRINT(self._listen)

    def _open(self) -> Mapping[str, Callable[..., Any]]:
        for name in LIBRARIES:
            try:
                handle = ctypes.CDLL(name, use_errno=True)
            except OSError:
                continue
            functions = {key: self._function(name, handle, key, form) for key, form in _SIGNATURES.items()}
            if name == "libbpf.so.0":
                # Its errors come in two ways; this asks for those of 1.0.
                self._function(name, handle, _STRICT_MODE, (c_int, [c_uint32]))(LIBBPF_STRICT_ALL)
            # Variadic in C (a va_list follows), so the text is formatted by libc.
            functions["libbpf_set_print"](ctypes.cast(self._print, c_void_p))
            return functions
        raise BpfError("libbpf is not installed; apt-get install libbpf1 (Ubuntu 22.04: libbpf0)", 0)

    @staticmethod
    def _function(
        library: str, handle: ctypes.CDLL, name: str, form: tuple[object, list[object]]
    ) -> Callable[..., Any]:
        older = name == "bpf_object__next_program" and not hasattr(handle, name)
        try:
            function: Any = getattr(handle, "bpf_program__next" if older else name)
        except AttributeError:
            raise BpfError(f"{library} has no {name}; libbpf 0.5 or newer is needed", 0) from None
        function.restype, function.argtypes = form
        if older:  # until 0.5, with its arguments the other way round
            return lambda opened, program: function(program, opened)
        return function  # type: ignore[no-any-return]

    def _listen(self, level: int, template: bytes, arguments: int) -> int:
        if level < LIBBPF_DEBUG:
            buffer = ctypes.create_string_buffer(LONGEST_LOG)
            ctypes.CDLL(None).vsnprintf(buffer, c_size_t(len(buffer)), template, c_void_p(arguments))
            self._said().append(buffer.value.decode(errors="replace"))
        return 0

    def function(self, name: str) -> Callable[..., Any]:
        """A function of the library, for calls that cannot fail."""
        if not self._functions:
            with self._lock:
                self._functions = self._functions or self._open()
        return self._functions[name]

    def call(self, what: str, function: str, *arguments: object) -> int:
        """Call; negative results and null pointers become BpfError."""
        self._said().clear()
        result = self.function(function)(*arguments)
        if result is None or (isinstance(result, int) and result < 0):
            number = -result if result else ctypes.get_errno()
            raise BpfError(what, number, self._reason())
        return int(result)

    def _said(self) -> list[str]:
        said: list[str] | None = getattr(self._local, "said", None)
        if said is None:
            said = self._local.said = []
        return said

    def _reason(self) -> str:
        lines = [line for text in self._said() for line in text.splitlines() if line.strip()]
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

    def add(self, key: bytes, value: bytes) -> bool:
        """Set a value where there is none. False when there is one, which is left as it is.

        Raises:
            BpfError: the map is full, or is of another shape.
        """
        self._check(len(key), self.key_size, "key")
        self._check(len(value), self._buffer_size, "value")
        try:
            _lib.call(f"map {self.name}: add", "bpf_map_update_elem", self.fd, key, value, BPF_NOEXIST)
        except BpfError as error:
            if error.errno == errno.EEXIST:
                return False
            raise
        return True

    def lookup(self, key: bytes) -> bytes | None:
        """A value (per-CPU: all of them in a row, each rounded up to eight bytes); None when there is none."""
        self._check(len(key), self.key_size, "key")
        buffer = ctypes.create_string_buffer(self._buffer_size)
        try:
            _lib.call(f"map {self.name}: look-up", "bpf_map_lookup_elem", self.fd, key, buffer)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return buffer.raw

    def delete(self, key: bytes) -> None:
        """Take a key out.

        Raises:
            BpfError: it is not in there.
        """
        self._check(len(key), self.key_size, "key")
        _lib.call(f"map {self.name}: delete", "bpf_map_delete_elem", self.fd, key)

    @property
    def locked_bytes(self) -> int:
        """Memory that the map takes in the kernel. Before Linux 6.4 this is the kernel's estimate."""
        for line in Path(f"/proc/self/fdinfo/{self.fd}").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "memlock":
                return int(value)
        return 0

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
                if error.errno == errno.ENOENT:  # that was the last
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


@dataclass(frozen=True)
class LinkInfo:
    """What the kernel says of an XDP link."""

    program_id: int
    ifindex: int
    """0 when the interface is gone, or the program was detached."""


class Link:
    """An attached program. It stays attached while this is open in any process, and not longer.

    The file descriptor may come from another process; it belongs to this object from then on.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def info(self) -> LinkInfo:
        """What is attached where, for XDP.

        Raises:
            BpfError: the kernel does not say.
        """
        info = _LinkInfo()
        size = c_uint32(ctypes.sizeof(info))
        _lib.call("link", "bpf_obj_get_info_by_fd", self._fd, byref(info), byref(size))
        return LinkInfo(int(info.prog_id), int(info.ifindex))

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


@dataclass(frozen=True)
class ProgramInfo:
    """What the kernel says of a loaded program."""

    id: int
    instructions: int
    """That the verifier looked at, each as often as it did (its limit is a million); 0 before Linux 5.16."""
    jited_bytes: int
    """Of machine code; 0 where programs are interpreted, and without CAP_BPF."""
    loaded_at_ns: int
    """Time since boot, suspension included (CLOCK_BOOTTIME)."""


def program_info(program_fd: int) -> ProgramInfo:
    """Facts about a loaded program.

    Raises:
        BpfError: this is no program.
    """
    info = _ProgramInfo()
    size = c_uint32(ctypes.sizeof(info))
    _lib.call("program", "bpf_obj_get_info_by_fd", program_fd, byref(info), byref(size))
    return ProgramInfo(int(info.id), int(info.verified_insns), int(info.jited_prog_len), int(info.load_time))


class TestRun(NamedTuple):
    """What a program did with a frame. A tuple, since a fuzzer makes millions of them."""

    verdict: int
    frame: bytes
    """As the program left it."""
    ns: int
    """Mean time of a repetition, as the kernel measured it."""


TestRun.__test__ = False  # type: ignore[attr-defined]  # no test class, whatever pytest thinks of the name


class TestRunner:
    """Runs one program on frames without an interface, as often as one likes: buffers are made once.

    Not for several threads at once.
    """

    __test__ = False

    def __init__(self, program_fd: int, longest: int = 4096) -> None:
        """
        Args:
            program_fd: an XDP or tc program.
            longest: of the frames, bytes. A program may make them 256 bytes longer.
        """
        self._fd = program_fd
        self._call = _lib.function("bpf_prog_test_run_opts")
        # Programs may put headers in front; XDP has 256 bytes of room for them.
        self._room = longest + 256
        self._out = ctypes.create_string_buffer(self._room)
        self._out_at = ctypes.addressof(self._out)
        self._context = _XdpContext()
        self._options = _TestRun(sz=ctypes.sizeof(_TestRun), data_out=self._out_at, repeat=1)
        self._reference = byref(self._options)

    def run(self, frame: bytes, ingress_ifindex: int = 0, repeat: int = 1) -> TestRun:
        """Run the program on a frame of at least 14 bytes.

        Args:
            frame: with its Ethernet header.
            ingress_ifindex: of an interface in this network namespace that an XDP program is told it comes from; 0
                stands for the loopback interface.
            repeat: how often. The frame is not restored in between.

        Raises:
            BpfError: the kernel does not take the frame, or knows no test runs for this kind of program.
        """
        options = self._options
        options.data_in, options.data_size_in = frame, len(frame)
        options.data_size_out, options.repeat = self._room, repeat
        if ingress_ifindex:
            self._context.data_end, self._context.ingress_ifindex = len(frame), ingress_ifindex
            options.ctx_in, options.ctx_size_in = ctypes.addressof(self._context), ctypes.sizeof(self._context)
        else:
            options.ctx_in, options.ctx_size_in = None, 0
        result = self._call(self._fd, self._reference)
        if result < 0:
            raise BpfError("test run", -result)
        verdict = options.retval
        if verdict >= 1 << 31:
            verdict -= 1 << 32
        return TestRun(verdict, ctypes.string_at(self._out_at, options.data_size_out), options.duration)


class RingBuffer:
    """Reads a ring buffer map. `fileno` becomes readable when there is something in it."""

    def __init__(self, source: Map, callback: Callable[[bytes], None]) -> None:
        """
        Args:
            source: of type BPF_MAP_TYPE_RINGBUF.
            callback: gets every record; what it raises comes out of `consume`.

        Raises:
            BpfError: the map is of another type.
        """
        self._callback = callback
        self._raised: BaseException | None = None
        self._taken = self._limit = 0
        self._c_callback = _SAMPLE(self._take)
        self._what = f"ring buffer {source.name}"
        self._handle: int | None = _lib.call(self._what, "ring_buffer__new", source.fd, self._c_callback, None, None)

    def _take(self, _context: int, data: int, size: int) -> int:
        try:
            self._callback(ctypes.string_at(data, size))
        except BaseException as error:
            self._raised = error
            return -1
        self._taken += 1
        return -1 if self._taken == self._limit else 0

    def fileno(self) -> int:
        """For a selector or `loop.add_reader`; -1 when closed, as with sockets."""
        return -1 if self._handle is None else _lib.call(self._what, "ring_buffer__epoll_fd", self._handle)

    def consume(self, limit: int = 0) -> int:
        """Hand records that are there to the callback.

        Args:
            limit: how many at most; 0 goes on until there are none, however fast others come.

        Returns:
            How many there were.

        Raises:
            BpfError: the ring is broken.
            Exception: whatever the callback raised. The record it had is done with, those behind it are still there.
        """
        if self._handle is None:
            return 0
        self._taken, self._limit = 0, limit
        count = int(_lib.function("ring_buffer__consume")(self._handle))
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        if count < 0 and not (limit and self._taken == limit):
            raise BpfError(self._what, -count)
        return self._taken

    def close(self) -> None:
        if self._handle is not None:
            _lib.function("ring_buffer__free")(self._handle)
            self._handle = None


@dataclass(frozen=True)
class Field:
    """Where a member of a C structure stands, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class Struct:
    """A C structure, as the compiler has laid it out."""

    size: int
    fields: Mapping[str, Field]


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

    def resize(self, map_name: str, entries: int) -> None:
        """Give a map another number of elements than the source does; before `load`."""
        found = self._find("map", map_name)
        _lib.call(f"map {map_name}: size", "bpf_map__set_max_entries", found, entries)

    def reuse(self, map_name: str, fd: int) -> None:
        """Take a map that is there already in the place of a new one; before `load`. Its descriptor remains the
        caller's."""
        _lib.call(f"map {map_name}: reuse", "bpf_map__reuse_fd", self._find("map", map_name), fd)

    def load(self) -> None:
        """Make the maps and load the programs.

        Raises:
            BpfError: with the verifier's last lines, with what the kernel lacks, or that privileges are missing.
        """
        what = f"load {self._path.name}"
        try:
            _lib.call(what, "bpf_object__load", self._handle)
        except BpfError as error:
            raise BpfError(what, error.errno, _why_not_loaded(error) + error.detail) from None

    def program(self, name: str) -> int:
        """File descriptor of a loaded program."""
        return _lib.call(f"program {name}", "bpf_program__fd", self._find("program", name))

    def map(self, name: str) -> Map:
        """A map, after loading."""
        return Map(name, _lib.call(f"map {name}", "bpf_map__fd", self._find("map", name)))

    def struct(self, name: str) -> Struct:
        """The layout of a C structure, from the object's type information.

        Raises:
            BpfError: the object has no such structure.
            ValueError: one of its members is a bit field, which has no place in bytes.
        """
        btf, address = self._type(f"struct {name}", name, BTF_KIND_STRUCT)
        kind = _BtfType.from_address(address)
        members = (_BtfMember * (kind.info & 0xFFFF)).from_address(address + ctypes.sizeof(_BtfType))
        text = _lib.function("btf__name_by_offset")
        fields = {}
        for member in members:
            field, offset = text(btf, member.name_off).decode(), int(member.offset)
            # A structure with a bit field in it says so, and has the widths of its bit fields above the offsets.
            if kind.info >> BTF_KIND_FLAG and offset >> BTF_BIT_OFFSET:
                raise ValueError(f"struct {name}: {field} is a bit field; give it a type of whole bytes")
            size = _lib.call(f"struct {name}: {field}", "btf__resolve_size", btf, member.type)
            fields[field] = Field(offset // 8, size)
        return Struct(int(kind.size), fields)

    def _type(self, what: str, name: str, kind: int) -> tuple[int, int]:
        what = f"{what} in {self._path.name}"
        btf = _lib.call(f"type information of {self._path}", "bpf_object__btf", self._handle)
        number = _lib.call(what, "btf__find_by_name_kind", btf, name.encode(), kind)
        return btf, _lib.call(what, "btf__type_by_id", btf, number)

    def enum(self, name: str) -> dict[str, int]:
        """The constants of a C enum, from the object's type information: names and numbers stand in one place only."""
        btf, address = self._type(f"enum {name}", name, BTF_KIND_ENUM)
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


def _why_not_loaded(error: BpfError) -> str:
    if error.errno == errno.EPERM:
        if "ulimit -l" in error.detail:  # libbpf's guess, when it is root that is refused
            return (
                "maps count as locked memory before Linux 5.11; raise RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=infinity)"
            )
        return "this needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    if "ELF section name" in error.detail:
        return "this libbpf is too old for such a program; install a newer one"
    if "LOG --" in error.detail:
        return "the kernel's verifier refuses the program"
    if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP):
        return "this kernel lacks something that the object needs; Linux 5.15 and newer have it"
    return ""
