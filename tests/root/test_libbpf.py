"""The layer over libbpf, with a small object of its own in the running kernel."""

import os
import platform
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.bpf import rcu
from appliance.bpf.libbpf import (
    Attach,
    BpfError,
    Field,
    Link,
    Map,
    Object,
    RingBuffer,
    TestRunner,
    XdpMode,
    attach,
    program_info,
)
from appliance.dataplane.xdp.linkfacts import attached
from tests.netns import namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, inside

pytestmark = pytest.mark.root

SOURCE = """
#include "bpf.h"

struct pair { u8 a; u16 b; };
typedef u32 word;
struct record { u64 at; word ifindex; u8 head[12]; struct pair pair, pairs[2]; };
struct narrow { u32 whole; u32 low : 3, high : 29; };
/* The compiler describes the types that maps are made of, not those that functions use. */
struct kept { struct record record; struct narrow narrow; };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, u32);
	__type(value, u64);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct kept);
} bits SEC(".maps");

SEC("xdp") int report(struct xdp_md *ctx)
{
	struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

	if (!record)
		return XDP_DROP;
	record->at = bpf_ktime_get_ns();
	record->ifindex = ctx->ingress_ifindex;
	bpf_ringbuf_submit(record, 0);
	return XDP_PASS;
}

SEC("xdp") int grow(struct xdp_md *ctx)
{
	u32 key = 0;

	return bpf_map_lookup_elem(&table, &key) || bpf_map_lookup_elem(&bits, &key) == NULL
		|| bpf_xdp_adjust_head(ctx, -128) ? XDP_ABORTED : XDP_TX;
}

SEC("xdp") int unsafe(struct xdp_md *ctx) { return *(u8 *)(u64)ctx->data; }

char licence[] SEC("license") = "GPL";
"""

MISSING = """
#include "bpf.h"
struct { __uint(type, 200); __uint(max_entries, 1); __type(key, u32); __type(value, u32); } future SEC(".maps");
SEC("xdp") int look(struct xdp_md *ctx)
{
	u32 key = 0;

	return ctx && bpf_map_lookup_elem(&future, &key) ? XDP_DROP : XDP_PASS;
}
char licence[] SEC("license") = "GPL";
"""

FRAME = bytes(range(100))
KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def compiled(directory: Path, name: str, source: str) -> Path:
    written, target = directory / f"{name}.bpf.c", directory / f"{name}.bpf.o"
    written.write_text(source)
    build = [sys.executable, str(REPOSITORY / "systemd" / "build_bpf.py"), "--only", str(written), "--to", str(target)]
    subprocess.run(build, check=True)
    return target


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("libbpf"), "small", SOURCE)


@pytest.fixture
def small(path: Path) -> Iterator[Object]:
    """The object, loaded without its bad program."""
    with Object(path) as opened:
        opened.only("report", "grow")
        opened.resize("table", 10)
        opened.load()
        yield opened


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


def test_a_map_is_as_large_as_it_was_made(small: Object) -> None:
    """A resized map holds its new number of elements and not one more, and tells what memory it takes."""
    table = small.map("table")
    assert table.max_entries == 10
    for number in range(10):
        table.update(key(number), bytes(8))
    with pytest.raises(BpfError, match="map table: update: "):
        table.update(key(10), bytes(8))
    assert 10 * 12 <= table.locked_bytes < 1 << 20
    assert small.map("bits").max_entries == 1


def test_keys_go_and_come(small: Object) -> None:
    """A deleted key is gone, the others stay, and deleting it again is an error."""
    table = small.map("table")
    for number in (1, 2, 3):
        table.update(key(number), bytes([number] * 8))
    table.delete(key(2))
    assert set(table.keys()) == {key(1), key(3)}
    assert (table.lookup(key(2)), table.lookup(key(3))) == (None, b"\x03" * 8)
    with pytest.raises(BpfError, match="map table: delete: No such file"):
        table.delete(key(2))
    with pytest.raises(ValueError, match="a key has 4 bytes, not 2"):
        table.delete(b"ab")


def test_what_is_there_stays(small: Object) -> None:
    """A key is added where it is missing; otherwise its value is left alone, and the caller is told."""
    table = small.map("table")
    assert table.add(key(1), b"\1" * 8)
    assert not table.add(key(1), b"\2" * 8)
    assert table.lookup(key(1)) == b"\1" * 8
    for number in range(2, 11):
        assert table.add(key(number), bytes(8))
    with pytest.raises(BpfError, match="map table: add: "):
        table.add(key(11), bytes(8))


def test_a_map_that_is_handed_on(small: Object, path: Path) -> None:
    """Another object goes on with a map of the first, which may be gone."""
    small.map("table").update(key(1), b"\1" * 8)
    with Object(path) as second:
        second.only("report", "grow")
        second.reuse("table", small.map("table").fd)
        second.load()
        small.close()
        table = second.map("table")
        assert table.max_entries == 10
        assert table.lookup(key(1)) == b"\1" * 8
    with Object(path) as third, pytest.raises(BpfError, match="map table: reuse: "):
        third.reuse("table", -1)


def test_resizing_an_unknown_map(path: Path) -> None:
    """The error names the map and the object."""
    with Object(path) as opened, pytest.raises(BpfError, match="map tabel in small"):
        opened.resize("tabel", 3)


def test_layout_of_structures(path: Path) -> None:
    """Offsets and sizes are the compiler's: type names, arrays and structures in it are resolved, padding counts."""
    with Object(path) as opened:
        record = opened.struct("record")
        assert record.size == 40
        assert record.fields == {
            "at": Field(0, 8),
            "ifindex": Field(8, 4),
            "head": Field(12, 12),
            "pair": Field(24, 4),
            "pairs": Field(28, 8),
        }
        with pytest.raises(ValueError, match="struct narrow: low is a bit field"):
            opened.struct("narrow")
        with pytest.raises(BpfError, match=r"struct nothing in small\.bpf\.o: No such file"):
            opened.struct("nothing")


def test_test_runs(small: Object) -> None:
    """A run gives verdict and frame, which may have grown; runs with other lengths and repetitions do not interfere."""
    runner = TestRunner(small.program("grow"), longest=1500)
    for frame in (FRAME, bytes(14), bytes(1500), FRAME):
        verdict, out, _ = runner.run(frame)
        assert (verdict, out[128:]) == (3, frame)
        assert len(out) == 128 + len(frame)
    repeated = TestRunner(small.program("report")).run(FRAME, repeat=1000)
    assert repeated.frame == FRAME
    assert 0 < repeated.ns < 1_000_000
    with pytest.raises(BpfError, match="test run: Invalid argument"):
        runner.run(bytes(13))
    with pytest.raises(BpfError, match="test run: No space left"):
        TestRunner(small.program("grow"), longest=64).run(bytes(200))
    with pytest.raises(BpfError, match="test run: "):
        runner.run(FRAME, ingress_ifindex=999_999)


def test_test_runs_come_from_an_interface(small: Object) -> None:
    """The program sees the ingress interface that was asked for, and the loopback one by default."""
    seen: list[int] = []
    ring = RingBuffer(small.map("records"), lambda record: seen.append(int.from_bytes(record[8:12], "little")))
    with namespaces("a", "b", prefix="owL") as (a, b):
        veth(a, "a0", b, "b0")

        def work() -> int:
            index = socket.if_nametoindex("a0")
            runner = TestRunner(small.program("report"))
            for ifindex in (0, index, 1, 0):
                assert runner.run(FRAME, ifindex).verdict == 2
            return index

        index = inside(a, work)
    assert ring.consume() == 4
    assert seen == [1, index, 1, 1]
    ring.close()


def test_ring_buffer_wakes_a_selector(small: Object) -> None:
    """Its descriptor becomes readable with a record and is quiet after consuming; a closed one is harmless."""
    got: list[bytes] = []
    ring = RingBuffer(small.map("records"), got.append)
    runner = TestRunner(small.program("report"))
    with selectors.DefaultSelector() as selector:
        selector.register(ring.fileno(), selectors.EVENT_READ)
        assert not selector.select(0)
        runner.run(FRAME)
        assert selector.select(5)
        assert ring.consume() == 1
        assert not selector.select(0)
    assert [len(record) for record in got] == [40]
    ring.close()
    ring.close()
    assert (ring.consume(), ring.fileno()) == (0, -1)


def test_what_a_callback_raises_comes_out(small: Object) -> None:
    """An exception passes from the callback to whoever consumes; the next records come with the next call."""
    answers: list[Callable[[], None]] = [lambda: None, lambda: 1 // 0, lambda: None]  # type: ignore[list-item,return-value]
    ring = RingBuffer(small.map("records"), lambda record: answers.pop(0)())
    runner = TestRunner(small.program("report"))
    for _ in range(3):
        runner.run(FRAME)
    with pytest.raises(ZeroDivisionError):
        ring.consume()
    assert (ring.consume(), answers) == (1, [])
    ring.close()


def test_no_more_is_consumed_than_is_wanted(small: Object) -> None:
    """However many records there are; the others come with the next calls."""
    got: list[bytes] = []
    ring = RingBuffer(small.map("records"), got.append)
    runner = TestRunner(small.program("report"))
    for _ in range(5):
        runner.run(FRAME)
    assert [ring.consume(2) for _ in range(4)] == [2, 2, 1, 0]
    assert len(got) == 5
    ring.close()


def test_only_rings_are_rings(small: Object) -> None:
    """Another map is refused."""
    with pytest.raises(BpfError, match="ring buffer table: Invalid argument"):
        RingBuffer(small.map("table"), print)


def test_a_link_tells_where_it_is(small: Object) -> None:
    """Program and interface; a copied descriptor keeps it attached, and it says so when the interface is gone."""
    with namespaces("a", "b", prefix="owL") as (a, b):
        veth(a, "a0", b, "b0")
        index = inside(a, lambda: socket.if_nametoindex("a0"))
        program = small.program("report")
        first = inside(a, lambda: attach(program, index, Attach.XDP, XdpMode.GENERIC))
        second = Link(os.dup(first.fileno()))
        assert first.info() == second.info()
        assert (first.info().program_id, first.info().ifindex) == (program_info(program).id, index)
        first.close()
        first.close()
        assert inside(a, lambda: attached(index)) is not None
        with pytest.raises(BpfError, match="attach to interface"):
            inside(a, lambda: attach(program, index, Attach.XDP, XdpMode.GENERIC))
        second.update(small.program("grow"))
        assert second.info().program_id == program_info(small.program("grow")).id
        second.close()
        until(lambda: inside(a, lambda: attached(index)) is None, "the program is detached")
        third = inside(a, lambda: attach(program, index, Attach.XDP, XdpMode.NATIVE))
        a.ip("link delete a0")
        assert (third.info().program_id, third.info().ifindex) == (program_info(program).id, 0)
        third.close()


def test_facts_about_programs(small: Object) -> None:
    """The kernel tells the number of a program, the verifier's work, the machine code and the time of loading."""
    one, other = (program_info(small.program(name)) for name in ("report", "grow"))
    assert one.id != other.id
    assert 5 < one.instructions < 1000 or (one.instructions == 0 and KERNEL < (5, 16))
    assert one.jited_bytes > 0
    assert 0 < time.clock_gettime_ns(time.CLOCK_BOOTTIME) - one.loaded_at_ns < 60_000_000_000
    with Path(os.devnull).open() as nothing, pytest.raises(BpfError, match="program: Invalid argument"):
        program_info(nothing.fileno())


def test_why_a_program_is_refused(path: Path) -> None:
    """The error says that it was the verifier, and repeats its reason."""
    refused = (
        r"(?s)load small\.bpf\.o: (Permission denied: )?the kernel's verifier refuses the program\n.*invalid access"
    )
    with Object(path) as opened, pytest.raises(BpfError, match=refused):
        opened.load()


def test_why_a_kernel_is_too_old(tmp_path: Path) -> None:
    """A kind of map that the kernel does not know: the error names the map and what to do."""
    lacks = r"(?s)load missing\.bpf\.o: Invalid argument: this kernel lacks something .* Linux 5\.15 .*'?future'?"
    with Object(compiled(tmp_path, "missing", MISSING)) as opened, pytest.raises(BpfError, match=lacks):
        opened.load()


def test_why_nobody_may_load(path: Path) -> None:
    """Without capabilities the error lists those that are needed."""
    script = (
        "import sys; from pathlib import Path; from appliance.bpf.libbpf import BpfError, Object\n"
        "opened = Object(Path(sys.argv[1])); opened.only('report')\n"
        "try: opened.load()\n"
        "except BpfError as error: print(error.errno, error)\n"
    )
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script, str(path)]
    said = subprocess.run(bare, capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=30).stdout
    assert said.startswith("1 load small.bpf.o: Operation not permitted: this needs root, or CAP_BPF, CAP_NET_ADMIN")


def test_waiting_for_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a grace period, or a fixed pause where the kernel offers none."""
    rcu.wait_for_readers()
    monkeypatch.setattr(rcu, "_MEMBARRIER", {})
    before = time.monotonic()
    rcu.wait_for_readers()
    assert time.monotonic() - before >= rcu.PAUSE_S


def test_maps_are_seen_by_descriptor(small: Object) -> None:
    """A descriptor is enough to use a map, and a wrong one is an error."""
    small.map("table").update(key(7), b"onward!!")
    assert Map("same", small.map("table").fd).lookup(key(7)) == b"onward!!"
    with Path(os.devnull).open() as nothing, pytest.raises(BpfError, match="map none: Invalid argument"):
        Map("none", nothing.fileno())
