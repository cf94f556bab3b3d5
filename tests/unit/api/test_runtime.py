"""What the data plane works with, asked over HTTP; a plane in memory, real tables and real pins."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from appliance.api.control import looking_routes
from appliance.api.ordering import Controls
from appliance.api.runtime import RuntimeRoutes
from appliance.api.server import ApiServer
from appliance.dataplane.fake import FakeDataPlane
from appliance.explain.question import frame_of, packet_of
from appliance.keeper import Keeper
from appliance.orders import Orders
from appliance.packet.forward import Ingress
from appliance.packet.placement import PinState
from appliance.ring.slots import shares, unpack
from tests.unit.api.samples import sources
from tests.unit.api.test_control import Director
from tests.unit.explain.test_answer import LINK, key


class Served(Director):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.plane = FakeDataPlane(("eth1",), Ingress(LINK.ifindex, LINK.mac, LINK.mtu))
        controls = Controls(
            self.state,
            lambda: self.applied,
            lambda: self.pins,
            Keeper[Orders](lambda _: None, {}).put,
            plane=self.plane,
            interface={"eth1": LINK}.get,
        )
        routes = [*RuntimeRoutes(controls).routes(), *looking_routes(controls)]
        self.http = ApiServer(ip_address("127.0.0.1"), 0, sources(), routes)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, Served]]:
    made = Served(folder)
    await made.plane.start()
    await made.plane.set(made.applied.tables)
    await made.http.start()
    try:
        async with aiohttp.ClientSession(made.http.url) as session:
            yield session, made
    finally:
        await made.http.close()


async def ask(session: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with session.get(f"/api/v1{path}") as response:
        return response.status, await response.json(content_type=None)


async def test_slots_are_those_of_the_tables(tmp_path: Path) -> None:
    """All of them, or a part; members by name, and shares that fit the ratios."""
    async with serving(tmp_path) as (session, made):
        table = made.applied.tables.services[0]
        status, document = await ask(session, "/services/web/slots?limit=131072")
        assert (status, document["count"], document["placement"]) == (200, len(table.slots), "hash")
        primary, previous = unpack(table.slots)
        ids = {index: member.id for index, member in made.applied.tables.members.items()}
        assert [document["members"][place] for place in document["primary"]] == [ids[int(one)] for one in primary]
        assert [document["members"][place] for place in document["previous"]] == [ids[int(one)] for one in previous]
        part = (await ask(session, "/services/web/slots?offset=100&limit=10"))[1]
        assert [part["members"][place] for place in part["primary"]] == [ids[int(one)] for one in primary[100:110]]
        counts = np.bincount(document["primary"]) / document["count"]
        assert {document["members"][i]: pytest.approx(share) for i, share in enumerate(counts)} == {
            ids[index]: share for index, share in shares(table.slots).items()
        }
        beyond = (await ask(session, "/services/web/slots?offset=131072"))[1]
        assert (beyond["primary"], beyond["members"]) == ([], [])
        status, no = await ask(session, "/services/wbe/slots")
        assert (status, "did you mean `web`" in no["detail"]) == (404, True)


async def test_pins_are_those_that_are_remembered(tmp_path: Path) -> None:
    """How many there are, and some of them: of a member, a client, a virtual service."""
    async with serving(tmp_path) as (session, made):
        index = {member.id: index for index, member in made.applied.tables.members.items()}
        for port in range(1000, 1005):
            made.remember(port, index["web/web1"])
        made.remember(2000, index["web/web2"], PinState.FIN)
        status, document = await ask(session, "/pins?limit=3")
        assert (status, document["live"], document["matching"], len(document["items"])) == (200, 6, 6, 3)
        assert document["capacity"] >= 64
        (item,) = (await ask(session, "/pins?member=web/web2"))[1]["items"]
        assert item == {
            "client": "192.0.2.5",
            "client_port": 2000,
            "vip": "198.51.100.7",
            "port": 80,
            "protocol": "tcp",
            "member": "web/web2",
            "service": "web",
            "state": "fin",
            "idle_s": 0.0,
            "age_s": item["age_s"],
        }
        for query, count in (
            ("client=192.0.2.5", 6),
            ("client=192.0.2.6", 0),
            ("client=2001:db8::1", 0),
            ("service=web", 6),
            ("member=web/web1&limit=0", 5),
        ):
            assert (await ask(session, f"/pins?{query}"))[1]["matching"] == count, query
        for query, there in (("service=wbe", "did you mean `web`?"), ("member=web/wbe1", "web/web1")):
            status, document = await ask(session, f"/pins?{query}")
            assert (status, there in document["detail"]) == (404, True), document


async def test_neighbours_say_why_there_is_none(tmp_path: Path) -> None:
    """Next hops by address, with the members that have it."""
    async with serving(tmp_path) as (session, made):
        hops = dict(made.state.next_hops)
        gone = next(iter(hops))
        del hops[gone]
        made.state.set_next_hops(hops)
        status, document = await ask(session, "/neighbours")
        by = {item["address"]: item for item in document["items"]}
        assert status == 200
        assert (by[str(gone)]["next_hop"], by[str(gone)]["reason"]) == (None, "not_looked_up")
        other = next(item for item in document["items"] if item["address"] != str(gone))
        assert (other["reason"], other["next_hop"].keys()) == (None, {"interface", "mac", "mtu", "source", "direct"})
        assert other["members"]


async def test_counters_are_the_planes(tmp_path: Path) -> None:
    """What it counts, by virtual service, member and reason."""
    async with serving(tmp_path) as (session, made):
        counters = await made.plane.counters()
        status, document = await ask(session, "/counters")
        assert (status, document["reasons"]) == (200, dict(counters.reasons))
        made.plane.fail("it is stuck")
        assert (await ask(session, "/counters"))[0] in (200, 409)


FLOW = "protocol=tcp&client=192.0.2.7:40000&vip=198.51.100.7:80"


async def test_a_flow_is_explained_by_its_name(tmp_path: Path) -> None:
    """The same answer as for its frame and for a file with it."""
    async with serving(tmp_path) as (session, _):
        status, named = await ask(session, f"/explain?{FLOW}")
        assert (status, named["interface"], named["packets"][0]["differences"]) == (200, "eth1", [])
        frame = frame_of(packet_of(key(40000)))
        question = {"frames": [base64.b64encode(frame).decode()]}
        async with session.post("/api/v1/explain", json=question) as response:
            assert (await response.json())["packets"] == named["packets"]
        head = b"\xd4\xc3\xb2\xa1" + bytes(16) + (1).to_bytes(4, "little")
        file = head + bytes(8) + len(frame).to_bytes(4, "little") * 2 + frame
        kind = {"Content-Type": "application/vnd.tcpdump.pcap"}
        async with session.post("/api/v1/explain", data=file, headers=kind) as response:
            assert (await response.json())["packets"] == named["packets"]
        for broken, code in ((file[:-3], 400), (b"GIF89a", 400), (head, 400), (head + bytes(16) * 300, 400)):
            async with session.post("/api/v1/explain", data=broken, headers=kind) as response:
                assert (response.status, response.content_type) == (code, "application/problem+json")
        async with session.post("/api/v1/explain", data="x", headers={"Content-Type": "text/plain"}) as response:
            assert response.status == 415


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", 400),
        ("protocol=tcp&client=192.0.2.7:40000", 400),
        (FLOW.replace("tcp", "sctp"), 400),
        (FLOW.replace(":40000", ""), 400),
        (FLOW.replace("192.0.2.7", "[2001:db8::7]"), 400),
        (FLOW + "&kind=ack", 400),
        (FLOW + "&size=10", 400),
        (FLOW + "&size=-1", 400),
        (FLOW + "&interface=eth7", 404),
    ],
)
async def test_flows_that_are_none(tmp_path: Path, query: str, code: int) -> None:
    """Are refused with the reason."""
    async with serving(tmp_path) as (session, _):
        assert (await ask(session, f"/explain?{query}"))[0] == code
