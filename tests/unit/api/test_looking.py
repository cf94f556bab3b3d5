"""Packets explained and captured over the control socket, by the commands for it."""

import asyncio
import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.api.control import ControlServer, looking_routes
from appliance.api.ordering import Controls
from appliance.capture.pcap import Direction, Packet, read
from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.dataplane.fake import FakeDataPlane
from appliance.dataplane.pins import PinTable
from appliance.dataplane.recording import Captured, Sent
from appliance.decide import Desired, decide
from appliance.explain.question import frame_of, packet_of
from appliance.keeper import Keeper
from appliance.model import Health
from appliance.orders import Orders
from appliance.packet.action import Action, Verdict
from appliance.packet.forward import Ingress
from appliance.state import State
from tests.builders import config, snapshot
from tests.unit.explain.test_answer import LINK, key
from tests.unit.fleet.ends import until


class Director:
    """A plane in memory behind a control server."""

    def __init__(self, folder: Path) -> None:
        self.config = config()
        self.plane = FakeDataPlane(("eth1",), Ingress(LINK.ifindex, LINK.mac, LINK.mtu))
        health = {f"web/web{number}": Health.UP for number in (1, 2, 3)}
        self.desired: Desired | None = decide(snapshot(self.config, health))
        self.path = folder / "control.sock"
        state = State(self.config, lambda: None)
        pins = PinTable.in_memory(64, time.monotonic_ns)
        controls = Controls(
            state,
            lambda: self.desired,
            lambda: pins,
            Keeper[Orders](lambda _: None, {}).put,
            plane=self.plane,
            interface={"eth1": LINK}.get,
        )
        self.server = ControlServer(self.path, looking_routes(controls))

    async def start(self) -> None:
        assert self.desired is not None
        await self.plane.start()
        await self.plane.set(self.desired.tables)
        await self.server.start()

    async def call(self, *words: str) -> int:
        """One command, in a thread: the server lives in this loop."""
        return await asyncio.to_thread(call, [*words, "--socket", str(self.path)])


@pytest.fixture
async def director(tmp_path):
    made = Director(tmp_path)
    await made.start()
    yield made
    await made.server.close()


FLOW = ("tcp", "192.0.2.7:40000", "198.51.100.7:80")


async def test_explain(director, capsys):
    """The plane and the model answer, and agree; what is not forwarded exits with 1."""
    assert await director.call("explain", *FLOW) == Exit.OK
    text = capsys.readouterr().out
    assert "virtual service  web" in text
    assert "by its slot" in text
    assert "NOT CHOSEN" in text
    assert await director.call("explain", *FLOW, "-o", "json") == Exit.OK
    document = json.loads(capsys.readouterr().out)
    assert (document["apiVersion"], document["compared"], document["differences"]) == ("v1", True, [])
    assert await director.call("explain", "tcp", "192.0.2.7:1", "198.51.100.7:81") == Exit.FAILED
    assert "no_service: no virtual service has tcp port 81" in capsys.readouterr().out


async def test_explain_shouts(director, capsys, monkeypatch):
    """When the plane does something else than the model: in words, and by an exit code of its own."""
    right = director.plane.explain

    async def wrong(frame: bytes, interface: str) -> Action:
        return replace(await right(frame, interface), frame=b"\x07" * 60)

    monkeypatch.setattr(director.plane, "explain", wrong)
    assert await director.call("explain", *FLOW) == Exit.DIFFERENT
    assert "DATA PLANE AND MODEL DIFFER: frames: the plane has 1 (0707" in capsys.readouterr().err


async def test_explain_a_file(director, tmp_path, capsys):
    """Many packets are asked for in several goes, and answered in their order."""
    path = tmp_path / "x.pcap"
    frames = [frame_of(packet_of(key(port))) for port in range(20_000, 20_150)]
    head = b"\xd4\xc3\xb2\xa1" + bytes(16) + (1).to_bytes(4, "little")
    path.write_bytes(head + b"".join(bytes(8) + len(f).to_bytes(4, "little") * 2 + f for f in frames))
    assert await director.call("explain", "--pcap", str(path)) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:]] == [f"192.0.2.7:{port}" for port in range(20_000, 20_150)]
    assert all(line.endswith("yes") for line in lines[1:])


async def test_explain_refuses(director, capsys):
    """An interface that is none of ours, and a director that has not decided yet."""
    assert await director.call("explain", *FLOW, "--interface", "eth7") == Exit.NOT_FOUND
    assert "no packets for VIPs arrive on eth7; they do on eth1" in capsys.readouterr().err
    director.desired = None
    assert await director.call("explain", *FLOW) == Exit.FAILED
    assert "has just started" in capsys.readouterr().err


def arrived(number: int, member: str = "web/web1", **changes: object) -> Captured:
    """A packet of a flow to a member, or one that was dropped."""
    frame = frame_of(packet_of(key(number)))
    made = Captured(
        number, "eth1", frame, len(frame), Verdict.TRANSMIT, "", (Sent("eth1", frame[::-1], 99),), "web", member
    )
    return replace(made, **changes)


async def captured(director, file: Path, frames: list[Captured], *words: str) -> list[Packet]:
    """What a capture writes, of these."""
    running = asyncio.create_task(director.call("capture", str(file), *words))  # noqa: TID251 - a test's own task
    await until(lambda: director.plane.recording is not None, "it captures")
    for one in frames:
        director.plane.recording.add(one)
    assert await running == Exit.OK
    assert director.plane.recording is None
    return await asyncio.to_thread(lambda: list(read(io.BytesIO(file.read_bytes()).read)))


async def test_capture(director, tmp_path):
    """Each packet as it arrived and as it left, with the verdict; until there are as many as were asked for."""
    dropped = arrived(3, "", verdict=Verdict.DROP, reason="too_big", sent=(Sent("eth1", b"icmp", 4, "icmp_too_big"),))
    found = await captured(director, tmp_path / "x.pcapng", [arrived(1), arrived(2), dropped], "--count", "3")
    assert [(one.direction, one.comment) for one in found] == [
        (Direction.IN, "transmit service=web member=web/web1"),
        (Direction.OUT, "sent service=web member=web/web1"),
        (Direction.IN, "transmit service=web member=web/web1"),
        (Direction.OUT, "sent service=web member=web/web1"),
        (Direction.IN, "drop reason=too_big service=web"),
        (Direction.OUT, "answer kind=icmp_too_big"),
    ]
    assert found[1].length == 99
    assert found[1].data == found[0].data[::-1]
    assert abs(found[0].at_ns - (time.time_ns() - time.monotonic_ns())) < 10**10


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        (["--member", "web/web2"], [2]),
        (["--verdict", "drop"], [3]),
        (["--verdict", "no_member"], [3]),
        (["--verdict", "transmit", "--side", "in"], [1, 2]),
        (["--service", "web"], [1, 2, 3]),
        (["--bytes", "500"], [1]),
    ],
)
async def test_capture_of_what_is_wanted(director, tmp_path, words, ports):
    """By member, verdict, reason and service; and no more bytes than were asked for."""
    dropped = arrived(3, "", verdict=Verdict.DROP, reason="no_member", sent=())
    frames = [arrived(1), arrived(2, "web/web2"), dropped]
    path = tmp_path / "x.pcapng"
    found = await captured(director, path, frames, *words, "--seconds", "0.3")
    assert [int.from_bytes(one.data[34:36], "big") for one in found if one.direction is Direction.IN] == ports
    assert "--bytes" not in words or path.stat().st_size <= 500 + 48
    if "--side" in words:
        assert len(found) == len(ports)


async def test_captures_end_with_whoever_asked(director, tmp_path, capsys):
    """One at a time; when its reader goes away it ends, and another may begin."""
    reader, writer = await asyncio.open_unix_connection(director.path)
    writer.write(b"GET /v1/capture HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await reader.readline()
    assert await director.call("capture", str(tmp_path / "x"), "--seconds", "1") == Exit.FAILED
    assert "somebody captures already" in capsys.readouterr().err
    writer.close()
    await until(lambda: director.plane.recording is None, "it is over")
    assert await captured(director, tmp_path / "x", [arrived(1)], "--count", "1")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--member", "web/web9"], Exit.NOT_FOUND, "there is no member web/web9; did you mean `web/web"),
        (["--service", "mail"], Exit.NOT_FOUND, "there is no service mail; there are: web"),
        (["--vip", "198.51.100.9"], Exit.NOT_FOUND, "there is no vip 198.51.100.9"),
        (["--vip", "x"], Exit.FAILED, "vip = x is not an address"),
        (["--client", "x"], Exit.FAILED, "client = x is neither an address nor a prefix"),
        (["--client", "2001:db8::/32", "--vip", "198.51.100.7"], Exit.FAILED, "of different families"),
        (["--verdict", "dorp"], Exit.FAILED, "verdict = dorp is none; did you mean `drop`?"),
        (["--count", "0"], Exit.FAILED, "frames = 0 is not a number from 1"),
        (["--snaplen", "9000"], Exit.FAILED, "snaplen = 9000 is not a number from 64 to 4096"),
        (["--side", "left"], Exit.USAGE, "left"),
    ],
)
async def test_wishes_that_cannot_be_met(director, tmp_path, capsys, words, code, message):
    """Each with what there is; and no file is made."""
    assert await director.call("capture", str(tmp_path / "x"), *words) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


async def test_what_found_no_room_is_told(director, tmp_path, capsys):
    """A plane never waits for whoever reads: the command says how many are missing."""
    running = asyncio.create_task(  # noqa: TID251 - a test's own task
        director.call("capture", str(tmp_path / "x"), "--count", "2", "--seconds", "0.5")
    )
    await until(lambda: director.plane.recording is not None, "it captures")
    director.plane.recording.lose(3)
    director.plane.recording.add(arrived(1))
    assert await running == Exit.OK
    assert "3 packets found no room" in capsys.readouterr().err


async def test_a_plane_that_cannot(director, tmp_path, capsys):
    """Says why, before anything is written."""
    director.plane.fail("no program")
    assert await director.call("capture", str(tmp_path / "x")) == Exit.FAILED
    assert "no program" in capsys.readouterr().err
    director.plane.fail(None)
