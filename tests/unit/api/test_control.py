"""Orders over the control socket, and the commands that give them."""

import asyncio
import json
import os
import threading
import time
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest
import structlog

from appliance import drain, orders
from appliance.api.control import ControlServer
from appliance.api.ordering import Controls, OrderRoutes
from appliance.cli.orders import OrderError, ask
from appliance.cli.root import call
from appliance.cli.waiting import wait
from appliance.config.schema import MemberTable
from appliance.dataplane.pins import PinTable
from appliance.decide import decide
from appliance.forwarding import NO_MEMBER
from appliance.keeper import Keeper
from appliance.model import MAX_RATIO, AdminState, Fleet, FleetPeer, Health, Order, PortRange
from appliance.packet.placement import FlowFacts, Pin, PinState
from appliance.state import State
from tests.builders import config, member, pool, service, snapshot
from tests.unit.fleet.ends import until

CLIENT, VIP = bytes([192, 0, 2, 5]), bytes([198, 51, 100, 7])


class Director:
    """A store, decisions and pins behind a control server: what `app.py` puts together."""

    def __init__(self, folder):
        self.state = State(config(), lambda: None)
        self.state.set_next_hops(snapshot().next_hops)
        self.state.set_plane_error(None)
        for number in (1, 2, 3):
            self.state.set_health(f"web/web{number}", Health.UP)
        self.pins = PinTable.in_memory(64, time.monotonic_ns)
        self.applied = decide(self.state.snapshot(), None, time.time())
        self.file = folder / "orders.json"
        self.drain_file = folder / "drain.json"
        self.path = folder / "control.sock"
        controls = Controls(
            self.state,
            lambda: self.applied,
            lambda: self.pins,
            Keeper(lambda kept: orders.save(self.file, kept), {}).put,
            save_drain=Keeper(lambda kept: drain.save(self.drain_file, kept), None).put,
        )
        self.orders = OrderRoutes(controls, time.time)
        self.server = ControlServer(self.path, self.orders.routes())

    def decide(self):
        self.applied = decide(self.state.snapshot(), self.applied, time.time())

    def remember(self, port, index, state=PinState.OPEN):
        facts = FlowFacts(CLIENT, VIP, port.to_bytes(2, "big") + b"\0\x50", 6, port << 33 | port, 0, 300)
        self.pins.keep(Pin(index, state), facts, self.pins.now())


@pytest.fixture
async def director(tmp_path):
    made = Director(tmp_path)
    await made.server.start()
    yield made
    await made.server.close()
    assert not made.path.exists()


async def onward(director, *words):
    """One command, in a thread: the server lives in this loop."""

    return await asyncio.to_thread(call, [*words, "--socket", str(director.path)])


async def test_drain_and_ready(director, capsys):
    """A drain reaches the store and the file, with its time-out; `ready` takes it back from both."""
    assert await onward(director, "member", "drain", "web/web1", "--timeout", "60", "--reason", "new disk") == 0
    order = director.state.orders["web/web1"]
    assert order.state is AdminState.DRAIN
    assert order.until == pytest.approx(order.since + 60)
    assert orders.load(director.file) == {"web/web1": order}
    assert await onward(director, "member", "ready", "web/web1") == 0
    assert director.state.orders == {}
    assert orders.load(director.file) == {}


async def test_what_an_order_would_move(director):
    """By virtual service: the share of new flows that would go elsewhere, and what the member would get; nothing is
    done."""

    async def would(**body):
        words = director.path, "PATCH", "/v1/members/web/web1", {**body, "dry_run": True}
        (moves,) = (await asyncio.to_thread(ask, *words))["moves"]
        return moves["moved"], moves["shares"]["web/web1"]

    assert await would(state="drain") == (pytest.approx(1 / 3, abs=0.01), 0)
    assert await would(ratio=2) == (pytest.approx(1 / 6, abs=0.01), pytest.approx(1 / 2, abs=0.01))
    assert await would(ratio=None) == (0, pytest.approx(1 / 3, abs=0.01))
    assert director.state.orders == {}


async def test_a_weight_outlives_a_drain(director):
    """The ratio that an operator has given stays when the member is drained and released."""
    assert await onward(director, "member", "weight", "web/web2", "5") == 0
    assert await onward(director, "member", "drain", "web/web2") == 0
    assert await onward(director, "member", "ready", "web/web2") == 0
    assert director.state.orders["web/web2"].ratio == 5
    assert await onward(director, "member", "weight", "web/web2", "default") == 0
    assert director.state.orders == {}


LAST = {
    "drain": ("member", "drain", "web/web3"),
    "maint": ("member", "maint", "web/web3"),
    "weight 0": ("member", "weight", "web/web3", "0"),
    "a machine": ("node", "drain", "203.0.113.3"),
}


@pytest.mark.parametrize("order", LAST.values(), ids=LAST)
async def test_who_orders_the_last_member_away_is_told_that_the_vip_goes_with_it(director, capsys, order):
    """Before the order is given, on stderr, and it is taken all the same; while others are there, nothing is said."""
    assert await onward(director, *order) == 0
    assert "warning" not in capsys.readouterr().err
    assert await onward(director, "member", "ready", "web/web3") == 0
    assert await onward(director, "member", "weight", "web/web3", "default") == 0
    for number in (1, 2):
        assert await onward(director, "member", "drain", f"web/web{number}") == 0
    assert director.applied.vips[0].no is None, "tables do not follow orders at once"
    capsys.readouterr()
    assert await onward(director, *order) == 0
    warning = capsys.readouterr().err.splitlines()[0]
    assert warning.startswith("warning: 198.51.100.7 is withdrawn with this (below_min_members: 0 in rotation, 1")
    assert warning.endswith("what is left of its flows breaks")
    assert "web/web3" in director.state.orders
    director.decide()
    assert director.applied.vips[0].no is not None
    capsys.readouterr()
    assert await onward(director, *order) == 0
    assert "warning" not in capsys.readouterr().err, "it is gone already"


async def test_the_last_member_of_a_service_whose_vip_stays(tmp_path, capsys):
    """Where other virtual services keep the VIP up, flows go on, and new ones of this service find nobody."""
    made = Director(tmp_path)
    pools = pool(member(1), name="a"), pool(member(2), name="b")
    services = (service(name=p.name, pool=p, ports=(PortRange(n, n),)) for n, p in enumerate(pools, 1))
    made.state.set_config(config(*services))
    for name in ("a/web1", "b/web2"):
        made.state.set_health(name, Health.UP)
    made.decide()
    await made.server.start()
    assert await onward(made, "member", "drain", "a/web1") == 0
    warning = capsys.readouterr().err.splitlines()[0]
    assert warning.startswith("warning: virtual service a takes no new flows with this (below_min_members: 0 in")
    assert await onward(made, "member", "drain", "b/web2") == 0
    assert "198.51.100.7 is withdrawn" in capsys.readouterr().err
    await made.server.close()


def test_help_says_what_becomes_of_the_last_member(capsys):
    """Who reads before he orders knows as well."""
    for command in ("member drain", "member maint", "member weight", "node drain", "node maint"):
        assert call([*command.split(), "--help"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "last members of a virtual service its VIP is withdrawn" in said, command


async def test_a_node_is_all_members_with_its_address(director, capsys):
    """One order for a machine; an address that nobody has is refused with those that there are."""
    assert await onward(director, "node", "maint", "203.0.113.1") == 0
    assert director.state.orders["web/web1"].state is AdminState.MAINT
    assert await onward(director, "node", "maint", "203.0.113.99") == 5
    assert "203.0.113.1" in capsys.readouterr().err


async def test_a_node_drains_by_the_time_out_of_each_of_its_pools(tmp_path):
    """A machine in two pools has until each pool's own drain_timeout, unless the order says otherwise."""
    made = Director(tmp_path)
    pools = [replace(pool(member(1), name=name), drain_timeout_s=limit) for name, limit in (("a", 60.0), ("b", None))]
    made.state.set_config(
        config(*(service(name=p.name, pool=p, ports=(PortRange(n, n),)) for n, p in enumerate(pools, 1)))
    )
    await made.server.start()
    assert await onward(made, "node", "drain", "203.0.113.1") == 0
    given = made.state.orders
    assert given["a/web1"].until == pytest.approx(given["a/web1"].since + 60)
    assert given["b/web1"].until is None
    assert await onward(made, "node", "drain", "203.0.113.1", "--timeout", "0") == 0
    assert made.state.orders["a/web1"].until is None
    await made.server.close()


async def test_what_is_left_of_a_member(director, capsys):
    """Flows are counted and named, the client's end first."""
    director.remember(40001, 0)
    director.remember(40002, 0, PinState.FIN)
    director.remember(40003, 1)
    assert await onward(director, "member", "flows", "web/web1") == 0
    shown = capsys.readouterr().out
    assert "2 flows known: 1 open, 1 closing" in shown
    assert "192.0.2.5:40001" in shown
    assert "40003" not in shown
    assert await onward(director, "member", "flows", "web/web1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["flows"]["top_clients"] == [{"client": "192.0.2.5", "flows": 2}]


async def test_waiting_tells_what_is_left_and_gives_up_in_time(director, capsys):
    """With flows left at the end of the patience the command fails and says so."""
    director.state.set_order("web/web1", Order(AdminState.DRAIN, time.time()))
    director.decide()
    director.remember(40001, 0)
    code = await onward(director, "member", "drain", "web/web1", "--wait", "--wait-timeout", "0.2")
    said = capsys.readouterr().err
    assert code == 1
    assert "1 open flows" in said
    assert "from 192.0.2.5 (1)" in said
    assert "silent ones may be there" in said


async def test_waiting_ends_when_nothing_is_left(director, capsys):
    """As soon as no slot falls back to the member and none of its flows is remembered, the wait is over."""
    order = Order(AdminState.DRAIN, time.time())
    director.state.set_order("web/web1", order)
    director.applied = decide(director.state.snapshot(), None, time.time())
    assert director.applied.services[0].members[0].drained
    assert await onward(director, "member", "drain", "web/web1", "--wait") == 0
    assert "nothing is left" in capsys.readouterr().err


@pytest.mark.parametrize("order", ["ready", "maint"])
@pytest.mark.parametrize("limit", [[], ["--wait-timeout", "60"]])
@pytest.mark.parametrize("words", [["member", "drain", "web/web1"], ["node", "drain", "203.0.113.1"]])
async def test_waiting_ends_when_the_drain_is_taken_back(director, capsys, words, limit, order):
    """From another shell: the command says so, with a code of its own, and speaks of no flows that may be left."""
    director.remember(40001, 0)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(onward(director, *words, "--wait", *limit))
        await until(lambda: "web/web1" in director.state.orders, "it has been ordered")
        director.decide()
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert await onward(director, "member", order, "web/web1") == 0
        director.decide()
        capsys.readouterr()
    assert waiting.result() == 6
    said = capsys.readouterr().err
    assert "web/web1 does not drain any more" in said
    assert ("taken the drain back" in said) == (order == "ready")
    assert "silent ones" not in said


@pytest.mark.parametrize("words", [["member", "drain", "web/web1"], ["node", "drain", "203.0.113.1"]])
@pytest.mark.parametrize("left", [True, False], ids=["flows", "silent ones"])
async def test_waiting_says_when_flows_were_cut(director, capsys, words, left):
    """A drain that its time has ended is no drain that is done: what was left is named, and the command fails."""
    if left:
        director.remember(40001, 0)
    said = ""

    def tells(what: str) -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return what in said

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(onward(director, *words, "--timeout", "600", "--wait"))
        await until(lambda: "web/web1" in director.state.orders, "it has been ordered")
        director.decide()
        await until(lambda: tells("cut in "), "it shows what is left")
        director.state.set_order("web/web1", Order(AdminState.DRAIN, time.time(), time.time() - 1))
        director.decide()
        director.pins.forget(np.zeros(1 << 16, np.bool_))
    assert waiting.result() == 1
    assert tells("onward: web/web1: its time was over, and what was left of its flows is cut: ")
    last = said.splitlines()[-1]
    assert ("1 open flows" in last) == left
    assert "silent ones may be there" in last
    assert "nothing is left" not in said


def test_who_had_nothing_left_when_its_time_was_over_is_not_complained_of(capsys):
    """Of two members that are waited for, one was done in time and the other one not."""
    none = {"open": 0, "closing": 0, "longest_idle_s": 0.0, "top_clients": [], "known": []}
    draining = {"state": "draining", "reason": "drain: ordered by an operator", "order": {"state": "drain"}}
    draining |= {"drained": False, "window_ends": None, "until": None, "now": 0.0, "flows": none}
    over = {**draining, "state": "out", "reason": "drain_over: the time that it had", "drained": True}
    looks = {"a": iter([{**draining, "drained": True}, over]), "b": iter([draining, over])}
    assert wait(["a", "b"], lambda name: next(looks[name]), None) == 1
    said = capsys.readouterr().err
    assert "onward: b: its time was over" in said
    assert "onward: a" not in said


@pytest.mark.parametrize("option", ["--wait-timeout", "--timeout"])
@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
@pytest.mark.parametrize("words", [["member", "drain", "web/web1"], ["node", "drain", "203.0.113.1"]])
async def test_times_that_are_none_are_refused(director, capsys, words, number, option):
    """Before anything is ordered, and not by waiting for ever."""
    assert await onward(director, *words, "--wait", option, number) == 2
    assert "is no number of seconds" in capsys.readouterr().err
    assert director.state.orders == {}


@pytest.mark.parametrize("address", ["203.0.113.1/ready?", "a b", "203.0.113.0/24", "../members/web/web1", ""])
@pytest.mark.parametrize("order", ["drain", "maint", "ready"])
async def test_what_is_no_address_is_no_order(director, capsys, order, address):
    """Whatever stands there, it stays the address in the question to the director."""
    kept = Order(AdminState.DRAIN, 1000.0)
    director.state.set_order("web/web1", kept)
    assert await onward(director, "node", order, address) == 2
    assert f"{address} is not an IP address" in capsys.readouterr().err
    assert director.state.orders == {"web/web1": kept}


@pytest.mark.parametrize("ratio", ["9" * 5000, "99999999", "1001", "-1", "1.5", "", "x"])
async def test_ratios_that_are_none_are_refused(director, capsys, ratio):
    """With what there may be, and without repeating thousands of digits."""
    assert await onward(director, "member", "weight", "web/web1", ratio) in (1, 2)
    said = capsys.readouterr().err
    assert "whole number from 0" in said or "is not a number from 0 to" in said or "Unknown option" in said
    assert len(said) < 300
    assert director.state.orders == {}


async def test_orders_take_the_ratios_of_the_configuration(director):
    """The largest, too; what could be ordered and not written down would be lost with the order."""
    assert MemberTable.model_json_schema()["properties"]["ratio"]["maximum"] == MAX_RATIO
    assert await onward(director, "member", "weight", "web/web1", str(MAX_RATIO)) == 0
    assert director.state.orders["web/web1"].ratio == MAX_RATIO


async def test_waiting_for_a_node(tmp_path, capsys):
    """All its members, in all pools; who is not drained is named."""
    made = Director(tmp_path)
    pools = [replace(pool(member(1)), name=name) for name in ("a", "b")]
    made.state.set_config(
        config(*(service(name=p.name, pool=p, ports=(PortRange(n, n),)) for n, p in enumerate(pools, 1)))
    )
    for p in pools:
        made.state.set_health(f"{p.name}/web1", Health.UP)
    made.decide()
    await made.server.start()
    assert await onward(made, "node", "drain", "203.0.113.1", "--wait", "--wait-timeout", "0.4") == 1
    said = capsys.readouterr().err
    assert "a/web1 is not drained after 0.4 s" in said
    assert "b/web1 is not drained after 0.4 s" in said
    made.applied = decide(made.state.snapshot(), None, time.time())
    assert await onward(made, "node", "drain", "203.0.113.1", "--wait") == 0
    assert "a/web1: nothing is left, b/web1: nothing is left" in capsys.readouterr().err
    await made.server.close()


@pytest.mark.parametrize(
    ("method", "resource", "body", "status"),
    [
        ("POST", "/v1/members/web/web9/drain", {}, "there is no member web/web9; did you mean"),
        ("POST", "/v1/members/web/web1/drain", {"timeout": 5}, "unknown: timeout; known here: dry_run, reason"),
        ("POST", "/v1/members/web/web1/maint", {"dry_run": "no"}, 'dry_run = "no" is neither true nor false'),
        ("POST", "/v1/members/web/web1/drain", {"timeout_s": -5}, "is not a number from 0"),
        ("POST", "/v1/members/web/web1/ready", {"timeout_s": 5}, "timeout_s is for drain only"),
        ("POST", "/v1/members/web/web1/weight", {"ratio": 1.5}, "is not a whole number"),
        ("POST", "/v1/nodes/web1/drain", {}, "web1 is not an IP address"),
        ("GET", "/v1/members/web/web1?limit=x", None, "limit=x is not a number"),
        ("DELETE", "/v1/members/web/web1", None, "DELETE is not possible at"),
    ],
)
async def test_bad_orders_are_refused_with_a_reason(director, method, resource, body, status):
    """What cannot be done is said, and nothing is changed."""

    with pytest.raises(OrderError) as caught:
        await asyncio.to_thread(ask, director.path, method, resource, body)
    assert status in str(caught.value)
    assert director.state.orders == {}


async def test_an_order_that_cannot_be_kept_is_not_taken(director, capsys):
    """A drain that ends with the next restart would be a surprise."""
    director.file.mkdir()
    assert await onward(director, "member", "drain", "web/web1") == 1
    assert "not taken" in capsys.readouterr().err
    assert director.state.orders == {}


async def test_orders_at_the_same_time(director):
    """None of them is lost, neither in memory nor on the disk, however long it takes to tell the fleet."""
    gate = asyncio.Event()

    async def share(given):
        if "web/web1" in given:
            await gate.wait()

    director.orders._controls = replace(director.orders._controls, share=share)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(onward(director, "member", "drain", "web/web1"))
        await asyncio.sleep(0.3)
        tasks.create_task(onward(director, "member", "maint", "web/web2"))
        tasks.create_task(onward(director, "member", "weight", "web/web1", "5"))
        await asyncio.sleep(0.3)
        director.state.set_order("web/web3", Order(AdminState.DRAIN, 1.0))  # the fleet has agreed on that meanwhile
        gate.set()
    states = {name: order.state for name, order in director.state.orders.items()}
    assert states == {"web/web1": "drain", "web/web2": "maint", "web/web3": "drain"}
    assert director.state.orders["web/web1"].ratio == 5
    assert orders.load(director.file) == director.state.orders


async def test_an_order_that_the_fleet_has_is_taken(director, capsys):
    """Even if it cannot be kept here: a refusal would be a lie."""
    given = []

    async def share(orders):
        given.append(orders)

    director.orders._controls = replace(director.orders._controls, share=share)
    director.file.mkdir()
    assert await onward(director, "member", "drain", "web/web1") == 0
    assert given == [director.state.orders]


async def test_a_disk_that_hangs_holds_up_nothing_but_the_order(director, capsys, monkeypatch):
    """Whoever gives it is told that nobody knows whether it is kept, and it does not count."""
    goes = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: goes.wait())
    director.orders._controls = replace(
        director.orders._controls,
        save=Keeper(lambda kept: orders.save(director.file, kept), {}, 0.3).put,
        save_drain=Keeper(lambda kept: drain.save(director.drain_file, kept), None, 0.3).put,
    )
    turns = 0

    async def give(*words):
        assert await onward(director, *words) != 0
        assert "not known" in capsys.readouterr().err

    try:
        for words, stands in (
            (("member", "drain", "web/web1"), lambda: director.state.orders),
            (("drain",), lambda: director.state.drain),
        ):
            async with asyncio.TaskGroup() as tasks:
                giving = tasks.create_task(give(*words))
                while not giving.done():
                    await asyncio.sleep(0.01)
                    turns += 1
            assert not stands()
    finally:
        goes.set()
    assert turns > 2


async def test_an_order_for_a_member_that_is_gone_can_be_taken_back(director):
    """Whole, with its weight. Nothing else can be ordered of it, nor of one that never was."""
    director.state.set_order("web/gone", Order(AdminState.DRAIN, 1.0, None, 5))
    assert await onward(director, "member", "drain", "web/gone") != 0
    assert await onward(director, "member", "ready", "web/never") != 0
    assert await onward(director, "member", "ready", "web/gone") == 0
    assert director.state.orders == {}


async def test_nobody_there(tmp_path, capsys):
    """Without a director the command says where it looked, and exits with 3."""
    assert call(["member", "list", "--socket", str(tmp_path / "none.sock")]) == 3
    assert "none.sock" in capsys.readouterr().err


def test_damaged_orders_are_put_aside(tmp_path):
    """A file that is no file of orders does not keep a director from starting, and is not lost."""
    path = tmp_path / "orders.json"
    for text in ('{"format": 1, "orders": []}', '{"format": 2, "orders": {}}', "[" * 100_000):
        path.write_text(text)
        assert orders.load(path) == {}
        assert path.with_suffix(".damaged").read_text() == text
        assert orders.load(path) == {}


def test_an_order_that_nobody_could_give_costs_the_others_nothing(tmp_path):
    """A drain and a weight outlive the restart, beside a weight that no decision could be made with."""
    path = tmp_path / "orders.json"
    good = {"web/web1": Order(AdminState.DRAIN, 1.0, 5.5), "web/web2": Order(AdminState.READY, 1.0, None, 3)}
    orders.save(path, good | {"web/web3": Order(AdminState.READY, 1.0, None, -1)})
    with structlog.testing.capture_logs() as logs:
        assert orders.load(path) == good
    assert [(entry["event"], entry["member"]) for entry in logs] == [("orders.unreadable", "web/web3")]


async def test_the_list(director, capsys):
    """All members with their states; what is not visible is not shown as zero."""
    director.state.set_order("web/web1", Order(AdminState.DRAIN, time.time()))
    director.decide()
    assert await onward(director, "member", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["web/web1", "203.0.113.1", "draining*", "up"]
    assert lines[2].endswith(" -")
    assert (director.applied.tables.services[0].slots >> 16 != NO_MEMBER).all()


async def test_the_director_itself_is_drained_and_put_back(director, capsys):
    """The order reaches the store and the file, with its time-out; given twice, its end is another; and it can be taken
    back."""
    assert await onward(director, "drain", "--timeout", "30") == 0
    given = director.state.drain
    assert given.until == pytest.approx(given.since + 30)
    assert "routes are withdrawn when no packets come" in capsys.readouterr().err
    assert await onward(director, "drain", "--timeout", "90") == 0
    assert director.state.drain.since == given.since
    assert director.state.drain.until > given.until
    assert drain.load(director.drain_file, 1.0).until == director.state.drain.until
    assert await onward(director, "undrain") == 0
    assert "d1 is in service" in capsys.readouterr().err
    assert director.state.drain is None
    assert drain.load(director.drain_file, 1.0) is None


@pytest.mark.parametrize("moved", [True, False])
async def test_one_can_wait_until_the_director_is_drained(director, moved, capsys):
    """The exit code tells whether traffic had moved by then."""
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(onward(director, "drain", "--wait"))
        await until(lambda: director.state.drain is not None, "ordered")
        director.state.set_drain(replace(director.state.drain, over="because", moved=moved))
    assert waiting.result() == (0 if moved else 1)
    assert "d1 is drained: because" in capsys.readouterr().err


async def test_without_bgp_there_is_nothing_to_drain(director, capsys):
    """Routers that were told by hand have to be told by hand."""
    director.state.set_config(config(bgp=False))
    assert await onward(director, "drain") == 1
    assert "there is no [bgp]" in capsys.readouterr().err
    assert director.state.drain is None


async def test_whoever_drains_the_last_director_is_warned(tmp_path, capsys):
    """The order is taken all the same: it may be meant."""
    made = Director(tmp_path)
    await made.server.start()
    try:
        for names, away, said in (
            ((), (), "it is the only one of its fleet"),
            (("d1", "d2", "d3"), ("d2", "d3"), "nothing is heard of d2, d3"),
            (("d1", "d2", "d3"), ("d2",), ""),
        ):
            fleet = tuple(FleetPeer(name, ip_address(f"192.0.2.1{name[1]}")) for name in names)
            made.state.set_config(replace(made.state.config, fleet=Fleet(directors=fleet)), 1.0)
            made.state.set_away(frozenset(away), {})
            assert await onward(made, "drain") == 0
            told = capsys.readouterr().err
            assert ("nobody takes over from d1" in told) == bool(said)
            assert said in told
            assert await onward(made, "undrain") == 0
            capsys.readouterr()
    finally:
        await made.server.close()
