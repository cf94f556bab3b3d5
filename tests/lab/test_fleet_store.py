"""Directors that agree through three etcd nodes, with real routers and real flows: whatever becomes of the nodes, and
of one director that sees a member otherwise than the others, no flow breaks and no VIP is withdrawn.

One story, in order, on one lab. Most of it is told while director d1 cannot probe member m8, in whose flows nothing is
wrong: its probes are dropped where they leave d1, and packets of flows are not. So d1 is overruled, all the time.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.decide import ARRIVAL_S
from appliance.lab.node import Node
from appliance.lab.runner import Lab
from containerlab.tour.lab import next_hops
from tests.flows.fleet import (
    CLIENTS,
    DIRECTORS,
    MEMBERS,
    PLANES,
    ROUTERS,
    RUN,
    TARGETS,
    TOPOLOGY,
    Fleet,
    compiled,
    kill,
    member_number,
)
from tests.flows.report import table
from tests.flows.story import Story, routed, unrouted
from tests.flows.workload import Load
from tests.lab.waits import Waits, all_threads, main_thread
from tests.netns import PATIENCE, until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

Document = dict[str, Any]

STORE = {"s1": "203.0.113.20", "s2": "203.0.113.21", "s3": "203.0.113.22"}
SERVER = "etcd --name"

LOAD = Load(connections=150, udp_flows=50, tcp_rate=8, udp_rate=4, life_s=120)
"""Of each client."""

SPLIT = "d1"
UNSEEN = {"web/m8", "edge/m8"}
"""What d1 cannot probe."""
UNSEEN_NODE = "m8"
NO_ANSWERS = """table inet no_answers {
    chain out {
        type filter hook output priority 0
        ip daddr 203.0.113.11 tcp sport 80 drop
        ip6 daddr 2001:db8:3::11 tcp sport 80 drop
    }
}"""
"""On the member: what it answers to d1 itself, whichever of its addresses was asked. Clients get their answers."""

IN_FORCE_S = 1.0 * PATIENCE
"""For what follows from an agreement, where nobody waits for a CPU. How long the event loop of a director, or a thread
of the store, has waited for one meanwhile is measured (waits.py), and comes on top."""

MOVES = (
    *("member.in_rotation", "member.draining", "member.out"),
    *("vip.announced", "vip.withdrawn", "bgp.withdrawn", "bgp.session_down"),
    *("plane.failed", "fleet.tables_differ", "fleet.panic"),
)
"""What a director says when it moves anything, or when anything is wrong."""


def etcd(name: str) -> str:
    """A node's command line."""
    address = STORE[name]
    members = ",".join(f"{other}=http://{at}:2380" for other, at in STORE.items())
    return (
        f"{SERVER} {name} --data-dir /run/etcd --log-level error --initial-cluster {members} "
        f"--listen-client-urls http://{address}:2379 --advertise-client-urls http://{address}:2379 "
        f"--listen-peer-urls http://{address}:2380 --initial-advertise-peer-urls http://{address}:2380"
    )


def topology(program: Path) -> str:
    """The fleet lab with three etcd nodes and our servers."""
    document = yaml.safe_load(TOPOLOGY.read_text())
    groups, nodes, links = (document["topology"][part] for part in ("groups", "nodes", "links"))
    del groups["member"]["cmd"]
    for member in MEMBERS:
        nodes[member]["entrypoint"] = f"{program} serve {member_number(member)}"
    links[:] = [link for link in links if not link["endpoints"][0].startswith("s1:")]
    for name, address in STORE.items():
        healthy = f"curl -sSf -m 2 http://{address}:2379/health"
        nodes[name] = {"image": "etcd", "entrypoint": etcd(name), "labels": {"onward.ready": healthy}}
        links.append({"endpoints": [f"{name}:eth1", f"br0|tor:{name}"], "mtu": 1500, "ipv4": [f"{address}/26"]})
    return json.dumps(document)  # JSON is YAML


@contextmanager
def up(folder: Path) -> Iterator[Fleet]:
    """The lab, with everything announced; what its nodes said stays in the folder."""
    program = compiled(folder)
    shutil.copytree(TOPOLOGY.parent / "fleet", folder / "fleet")
    endpoints = json.dumps([f"http://{address}:2379" for address in STORE.values()])
    store = f'[fleet]\nstore = "etcd"\netcd = {{ endpoints = {endpoints} }}\n'
    configs = {}
    for director, plane in PLANES["mixed"].items():
        path = folder / "fleet" / director / "onward.toml"
        text = path.read_text().replace("[director]\n", f'[director]\nplane = "{plane}"\n', 1)
        configs[director] = text.replace("[fleet]\n", store, 1)
        path.write_text(configs[director])
    file = folder / "fleet-store.clab.yml"
    file.write_text(topology(program))
    with Lab.up(file, name=f"owg{os.getpid()}", reconfigure=True) as lab:
        try:
            lab.wait()
            fleet = Fleet(lab, program, configs)
            fleet.until(fleet.all_in_rotation, "every member in rotation at every director")
            yield fleet
        finally:
            shutil.copytree(lab.log("d1").parent, folder / "logs")


class Routes:
    """Every change that routers' kernels make to VIPs' routes."""

    def __init__(self, fleet: Fleet) -> None:
        self._seen: list[tuple[float, str]] = []
        self._processes = {
            router: fleet.node(router).popen(["ip", "-o", "monitor", "route"], stderr=subprocess.STDOUT)
            for router in ROUTERS
        }
        self._threads = [threading.Thread(target=self._read, args=item) for item in self._processes.items()]
        for thread in self._threads:
            thread.start()

    def _read(self, router: str, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if any(vip in line for vip in TARGETS):
                self._seen.append((time.time(), f"{router}: {line.strip()}"))

    def since(self, at: float) -> list[str]:
        return [text for seen, text in self._seen if seen >= at]

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
            process.wait(10)
        for thread in self._threads:
            thread.join()
        for process in self._processes.values():
            assert process.stdout is not None
            process.stdout.close()


class Site:
    """The fleet, its store, its flows and its routers."""

    def __init__(self, fleet: Fleet, story: Story, routes: Routes) -> None:
        self.fleet = fleet
        self.story = story
        self.routes = routes
        self.split = False

    # ---- questions

    def all_say(self, check: Callable[[Document], bool], directors: Collection[str] = tuple(DIRECTORS)) -> bool:
        """Whether something is so by the status documents of all these directors."""
        documents = [self.fleet.status(director) for director in directors]
        return all(document is not None and check(document) for document in documents)

    def alike(self, *parts: Callable[[Document], object]) -> bool:
        """Whether the status documents of all directors say the same."""
        first, *others = map(self.fleet.status, DIRECTORS)
        if first is None or None in others:
            return False
        return all(part(other) == part(first) for other in others for part in parts)

    def until(self, condition: Callable[[], bool], what: str, deadline_s: float = 30.0) -> None:
        self.fleet.until(condition, what, deadline_s)

    def in_step(self) -> bool:
        """All reach the store, judge by the fleet, see each other there, and have equal tables."""
        return self.all_say(in_step) and self.alike(tables, verdicts)

    def member(self, director: str, name: str) -> Document:
        document = self.fleet.status(director)
        assert document is not None, f"{director} does not answer"
        return member(document, name)

    def events(self, since: float, *names: str) -> list[Document]:
        """What directors have said of this in their logs, with the time (`at`) and the name (`who`), by time."""
        found = []
        for who in DIRECTORS:
            text = self.fleet.lab.log(who).read_text(errors="replace")
            for line in text[: text.rfind("\n") + 1].splitlines():
                event = json.loads(line) if line.startswith("{") else {}
                if event.get("event") in names:
                    at = datetime.fromisoformat(event["timestamp"]).timestamp()
                    found += [event | {"at": at, "who": who}] if at >= since else []
        return sorted(found, key=lambda event: event["at"])

    def everybody_gets_everything(self) -> bool:
        """Both routers' kernels send every VIP's packets to all three directors."""
        return all(len(next_hops(self.fleet.node(router), vip)) == 3 for router in ROUTERS for vip in TARGETS)

    @contextmanager
    def undisturbed(self, text: str, but: Collection[str] = ()) -> Iterator[None]:
        """In this block something happens, and nothing moves.

        Args:
            text: what happens.
            but: members that may move.
        """
        self.until(self.everybody_gets_everything, "all VIPs by all directors")
        self.story.happens(text)
        since = time.time()
        yield
        self.story.passes(0.5)
        assert self.routes.since(since) == []
        assert self.everybody_gets_everything()
        assert [event for event in self.events(since, *MOVES) if event.get("member") not in but] == []

    # ---- the store

    def log_entries(self) -> dict[str, int]:
        """How many times each log of the fleet has been written, by its key."""
        key, end = (base64.b64encode(text.encode()).decode() for text in ("/onward/log/", "/onward/log0"))
        question = json.dumps({"key": key, "range_end": end})
        ask = ["curl", "-s", "-m", "5", "-d", question, f"http://{next(iter(STORE.values()))}:2379/v3/kv/range"]
        answer = json.loads(self.fleet.node(next(iter(STORE))).run(ask).stdout)
        return {kv["key"]: int(kv["version"]) for kv in answer["kvs"]}

    def leader(self) -> str | None:
        """The node that leads; None while none does."""
        for name, address in STORE.items():
            ask = ["curl", "-s", "-m", "5", "-d", "{}", f"http://{address}:2379/v3/maintenance/status"]
            said = self.fleet.node(name).run(ask, check=False).stdout
            status = json.loads(said) if said else {}
            if status and status.get("leader") == status["header"]["member_id"]:
                return name
        return None

    def kill_store(self, *names: str) -> None:
        for name in names:
            kill(self.fleet.node(name), SERVER, signal.SIGKILL)

    def start_store(self, *names: str) -> None:
        for name in names:
            node = self.fleet.node(name)
            self.until(lambda node=node: not runs(node, SERVER), f"{name} is gone")
            node.start(etcd(name).split(), self.fleet.lab.log(name))

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """In this block etcd nodes are dead."""
        self.kill_store(*names)
        try:
            yield
        finally:
            self.start_store(*names)

    def takes_orders(self, director: str) -> bool:
        """Whether an order gets through; it is one that changes nothing."""
        return not self.fleet.node(director).run(["onward", "member", "ready", "web/m5"], check=False).returncode

    def noticed(self) -> None:
        """Wait until every director knows that the store is away."""
        self.until(lambda: self.all_say(lambda document: not store(document)["connected"]), "all miss the store")

    def back(self) -> float:
        """Wait until the store is there for all; returns how long that took, in seconds."""
        began = time.monotonic()
        self.until(self.in_step, "all are in step again")
        return time.monotonic() - began

    # ---- directors

    def start_anew(self, director: str, *, forgetful: bool = False) -> None:
        """A director is killed and started again, maybe without its files; returns when both routers have it back."""
        self.story.happens(f"lose {director} (killed)")
        self.fleet.kill_director(director)
        if forgetful:
            self.fleet.node(director).run(["sh", "-c", "rm /run/onward/*.json"])
        self.until(lambda: unrouted(self.story, director), f"{director} has no routes")
        self.story.happens(f"return {director}")
        self.fleet.start_director(director)
        self.until(lambda: routed(self.story, director), f"{director} has its routes back", 60)

    # ---- verdicts

    def look_away(self) -> None:
        """From now on the director that sees m8 otherwise does so, and is overruled. Once is enough."""
        if not self.split:
            self.fleet.node(UNSEEN_NODE).run(["nft", "-f", "-"], input=NO_ANSWERS)
            self.split = True
            self.until(self.overruled, f"{SPLIT} is overruled")

    def look_again(self) -> None:
        """It sees m8 as the others do."""
        self.fleet.node(UNSEEN_NODE).run(["nft", "delete", "table", "inet", "no_answers"])
        self.split = False
        self.until(lambda: self.member(SPLIT, "web/m8")["fleet"]["mine"] == "up", f"{SPLIT} sees m8")

    def overruled(self) -> bool:
        """The director that sees m8 down is overruled, says so, and does as the others."""
        document = self.fleet.status(SPLIT)
        if document is None:
            return False
        views = [member(document, name) for name in UNSEEN]
        return all(
            (view["fleet"]["mine"], view["fleet"]["overruled"], view["health"], view["state"])
            == ("down", True, "up", "in_rotation")
            for view in views
        )

    def saw(self, what: str, name: str, since: float) -> dict[str, float]:
        """When each director has seen itself that a member is *what* (`down` or `up`), by director.

        It asks a member in many ways, each of which is in the log: down is who does not answer to one of them.
        """
        failed: dict[str, set[tuple[object, ...]]] = {director: set() for director in DIRECTORS}
        turns = {}
        for event in self.events(0.0, "health.down", "health.up", "director.started"):
            who = event["who"]
            if event["event"] == "director.started":
                failed[who].clear()
            elif event["member"] == name:
                before = bool(failed[who])
                check = tuple(event.get(part) for part in ("monitor", "address", "port", "by"))
                (failed[who].add if event["event"] == "health.down" else failed[who].discard)(check)
                if bool(failed[who]) != before and (what == "down") != before and event["at"] >= since:
                    turns[who] = event["at"]
        return turns

    def waits(self) -> Waits:
        """Looks on at how long directors, and the store's nodes, wait for a CPU."""
        threads = [
            thread
            for program, nodes, threads_of in ((RUN, DIRECTORS, main_thread), (SERVER, STORE, all_threads))
            for node in nodes
            for pid, said in self.fleet.node(node).holder.processes()
            if program in said
            for thread in threads_of(pid)
        ]
        return Waits(threads)

    def agreed(self, what: str, name: str, since: float) -> None:
        """Wait until a member has turned *what* (`down` or `up`) on all, which must take little from the agreement on.

        That is the moment in which the second of three directors has seen it. One that is up again is in the tables
        then, and gets its slots when it has arrived.
        """
        state = {"down": "out", "up": "in_rotation"}[what]

        def turned(document: Document) -> bool:
            view = member(document, name)
            return (view["health"], view["fleet"]["health"], view["state"]) == (what, what, state)

        looks: list[float] = []

        def everywhere() -> bool:
            looks.append(time.time())
            return self.all_say(turned) and self.alike(tables, judged)

        with self.waits() as waits:
            # Not `Fleet.until`: its look at processes takes its time on a busy machine.
            until(everywhere, f"{name} is {what} everywhere", 20)
            done = time.time()
        saw = sorted(at for at in self.saw(what, name, since).values() if at < done)
        did = [event["at"] for event in self.events(since, f"member.{state}") if event["member"] == name]
        looked_s = done - looks[-2:][0]  # it may have been so from shortly after the last look but one began
        waited = {"did": waits.between(saw[1], did[-1]), "done": waits.between(saw[1], done)}
        print(
            f"{name} {what}: seen within {saw[-1] - saw[0]:.2f} s; after the agreement in force on all within "
            f"{did[-1] - saw[1]:.2f} s, of which somebody waited {waited['did']:.2f} s for a CPU, and in all documents "
            f"within {done - saw[1]:.2f} s ({waited['done']:.2f} s for a CPU, {looked_s:.2f} s for looks)"
        )
        most_s = IN_FORCE_S + (ARRIVAL_S if what == "up" else 0.0)
        assert did[-1] - saw[1] < most_s + waited["did"]
        assert done - looked_s - saw[1] < most_s + waited["done"]


def runs(node: Node, program: str) -> bool:
    return any(program in said for _, said in node.holder.processes())


def member(document: Document, name: str) -> Document:
    """By `pool/member`; one of the ways to it."""
    return next(view for pool in document["pools"].values() for view in pool["members"] if view["id"] == name)


def store(document: Document) -> Document:
    found: Document = document["fleet"]["store"]
    return found


def in_step(document: Document) -> bool:
    there = store(document)
    return (
        there["connected"]
        and there["source"] == "fleet"
        and there["directors"] == list(DIRECTORS)
        and not any(peer["tables_differ"] for peer in document["fleet"]["peers"])
    )


def tables(document: Document) -> object:
    """Who gets what."""
    return {
        key: [(view["id"], view["health"], view["state"], view["share"]) for view in pool["members"]]
        for key, pool in document["pools"].items()
    }


def verdicts(document: Document) -> object:
    """What the fleet makes of members, and who says what."""
    return {
        view["id"]: [view["fleet"] and view["fleet"][part] for part in ("health", "basis", "up", "down")]
        for pool in document["pools"].values()
        for view in pool["members"]
    }


def judged(document: Document) -> object:
    """What the fleet makes of members, whether those who were not needed for it have seen it as well or not yet."""
    return {
        view["id"]: view["fleet"] and (view["fleet"]["health"], view["fleet"]["basis"])
        for pool in document["pools"].values()
        for view in pool["members"]
    }


def transitions(document: Document) -> object:
    """How many slots of virtual services are on their way from one member to another."""
    return {service["name"]: service["transition"]["window"] for service in document["services"]}


def window_ends(document: Document) -> float:
    """When the next window of `web` ends, in seconds since 1970."""
    return next(service["transition"]["window_ends"] for service in document["services"] if service["name"] == "web")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    loads = {name: replace(LOAD, seed=number) for number, name in enumerate(CLIENTS)}
    with ExitStack() as stack:
        fleet = stack.enter_context(up(tmp_path_factory.mktemp("fleet-store")))
        routes = Routes(fleet)
        stack.callback(routes.close)
        story = stack.enter_context(Story(fleet, loads))
        made = Site(fleet, story, routes)
        story.passes(LOAD.ramp_s)
        made.until(made.in_step, "all are in step")
        yield made


def test_one_that_sees_a_member_otherwise_is_overruled(site: Site) -> None:
    """It says so, does as the others, and goes on sending the member its flows; nothing moves anywhere."""
    with site.undisturbed(f"{SPLIT} cannot probe m8"):
        site.look_away()
        site.until(site.in_step, "all have the same tables and verdicts")
        document = site.fleet.status(SPLIT)
        for name in UNSEEN:
            judged = member(document, name)["fleet"]
            assert (judged["up"], judged["down"], judged["basis"]) == (["d2", "d3"], ["d1"], "majority")
            assert not site.member("d2", name)["fleet"]["overruled"]
        assert "web/m8 is down for this director, up for the fleet" in " ".join(document["health"]["problems"])
        packets = member(document, "web/m8")["traffic"]["packets"]
        site.until(lambda: site.member(SPLIT, "web/m8")["traffic"]["packets"] > packets + 50, "m8 goes on to get flows")


def test_what_most_have_seen_is_in_force_everywhere_within_a_second(site: Site) -> None:
    """A member that dies is out, and one that lives in, on all directors when the second of three has seen it."""
    site.look_away()
    with site.story.outage("m4"), site.undisturbed("crash m4 (servers killed)", but=["web/m4"]):
        since = time.time()
        site.fleet.kill_servers("m4")
        site.agreed("down", "web/m4", since)
        # Who has not seen it down would be for "up" from the beginning, and one other director make a majority.
        site.until(lambda: len(site.saw("down", "web/m4", since)) == len(DIRECTORS), "all have seen it down")
        since = time.time()
        site.fleet.start_servers("m4")
        site.agreed("up", "web/m4", since)
        assert site.overruled()


def test_the_leader_of_the_store_dies(site: Site) -> None:
    """Another one is elected, and nobody notices but the directors."""
    site.look_away()
    leader = site.leader()
    assert leader is not None
    at = STORE[leader]
    with site.undisturbed(f"the store's leader {leader} is killed"):
        began = time.monotonic()
        with site.without(leader):
            site.until(lambda: site.leader() not in (None, leader), "another leader")
            elected_s = time.monotonic() - began
            site.until(lambda: site.all_say(lambda document: at not in store(document)["endpoint"]), "left it")
            site.back()
            took_s = time.monotonic() - began
            assert site.overruled()
            site.until(lambda: all(map(site.takes_orders, DIRECTORS)), "orders get through")
        site.back()
    print(f"without {leader}: another leader after {elected_s:.1f} s, all in step after {took_s:.1f} s")


def test_the_store_loses_its_quorum_and_gets_it_back(site: Site) -> None:
    """What was agreed last counts meanwhile, also against the one that sees it otherwise."""
    site.look_away()
    with site.undisturbed("the store has no quorum"):
        with site.without("s2", "s3"):
            site.noticed()
            assert site.overruled()
            assert site.alike(tables)
            assert site.all_say(lambda document: store(document)["source"] == "last_agreed")
        took_s = site.back()
        assert site.overruled()
    print(f"in step {took_s:.1f} s after the nodes' start")


def test_an_order_given_to_one_director_counts_on_all_also_on_one_that_starts_anew(site: Site) -> None:
    """A director that is killed in a window and has lost its files has the order, the window and the flows."""
    site.look_away()
    site.story.happens("drain m2 at d1")
    began = time.time()
    site.fleet.node("d1").run(["onward", "member", "drain", "web/m2"])
    site.until(lambda: site.all_say(lambda document: member(document, "web/m2")["state"] == "draining"), "m2 drains")
    did = [event["at"] for event in site.events(began, "member.draining")]
    print(f"m2 drains on all {did[-1] - did[0]:.2f} s after the first")
    site.until(lambda: site.alike(transitions) and site.in_step(), "one window for all")
    before = site.fleet.status("d2")
    assert transitions(before)["web"] > 0

    since = time.time()
    site.start_anew("d2", forgetful=True)
    assert site.routes.since(since)  # or nobody would have seen a withdrawal elsewhere
    # A status document may be a second old, and then it is of before there was any decision.
    site.until(lambda: site.member("d2", "web/m2")["state"] == "draining", "d2 has the order")
    assert site.member("d2", "web/m2")["order"] == site.member("d1", "web/m2")["order"]
    after = site.fleet.status("d2")
    assert transitions(after)["web"] == transitions(before)["web"]
    assert abs(window_ends(after) - window_ends(before)) < IN_FORCE_S
    site.until(site.in_step, "all are in step again")
    assert site.overruled()

    site.story.happens("ready m2 at d3")
    site.fleet.node("d3").run(["onward", "member", "ready", "web/m2"])
    site.until(lambda: site.fleet.in_rotation("m2", True) and site.in_step(), "m2 is in rotation everywhere")


def test_a_director_that_starts_anew_without_the_store_knows_orders_that_others_were_given(site: Site) -> None:
    """What all agree on is on its own disk, too: its table is that of the others, and no flow is sent elsewhere."""
    site.look_away()
    site.story.happens("drain m6 at d1")
    site.fleet.node("d1").run(["onward", "member", "drain", "web/m6"])
    site.until(lambda: site.all_say(lambda document: member(document, "web/m6")["state"] == "draining"), "m6 drains")
    kept = ["grep", "-q", "web/m6", "/run/onward/orders.json"]
    site.until(lambda: not site.fleet.node("d3").run(kept, check=False).returncode, "d3 has it on its disk")
    with site.without(*STORE):
        site.noticed()
        site.start_anew("d3")
        assert not store(site.fleet.status("d3"))["connected"]
        assert site.member("d3", "web/m6")["state"] == "draining"
        site.until(lambda: site.alike(tables, transitions), "all have the same table")
    site.back()
    site.fleet.node("d2").run(["onward", "member", "ready", "web/m6"])
    site.until(lambda: site.fleet.in_rotation("m6", True) and site.in_step(), "m6 is in rotation everywhere")


def test_the_store_is_gone_and_comes_back(site: Site, request: pytest.FixtureRequest) -> None:
    """Orders are refused, a member that dies is out at once on all, and nothing else moves, however long it takes."""
    gone_s = 60.0 if request.config.getoption("--long") else 12.0
    site.look_away()
    with site.story.outage("m3"), site.undisturbed(f"the store is gone for {gone_s:g} s", but=["web/m3"]):
        began = time.monotonic()
        with site.without(*STORE):
            site.noticed()
            refused = site.fleet.node("d1").run(["onward", "member", "drain", "web/m5"], check=False)
            print(refused.stderr.strip())
            assert refused.returncode == 1
            assert "the fleet cannot be told, so the order is not taken: http" in refused.stderr
            assert "203.0.113.20:2379" in refused.stderr

            died = time.time()
            with site.waits() as waits:
                site.fleet.kill_servers("m3")
                site.until(lambda: site.fleet.in_rotation("m3", False), "m3 is out everywhere", 15)
            out = {e["who"]: e["at"] for e in site.events(died, "member.out") if e["member"] == "web/m3"}
            saw = site.saw("down", "web/m3", died)
            for director in DIRECTORS:
                print(f"m3 is out at {director} {out[director] - died:.2f} s after its death, by its own verdict")
                assert out[director] - saw[director] < IN_FORCE_S + waits.between(saw[director], out[director])
                assert site.member(director, "web/m3")["fleet"]["basis"] == "local"

            site.story.passes(max(0.0, gone_s - (time.monotonic() - began)))
            assert site.all_say(lambda document: store(document)["source"] == "local")
            assert site.all_say(lambda document: "store cannot be reached" in " ".join(document["health"]["problems"]))
            assert site.overruled()
            assert site.alike(tables)
        took_s = site.back()
        print(f"gone for {time.monotonic() - began - took_s:.1f} s; in step {took_s:.1f} s after the nodes' start")
        assert site.overruled()
        assert site.member("d1", "web/m5")["order"] is None
        since = time.time()
        site.fleet.start_servers("m3")
        site.agreed("up", "web/m3", since)


def test_the_split_view_heals(site: Site) -> None:
    """When the one sees again what the others see, nothing moves either."""
    site.look_away()
    with site.undisturbed(f"{SPLIT} probes m8 again"):
        site.look_again()
        assert not site.member(SPLIT, "web/m8")["fleet"]["overruled"]
        site.until(site.in_step, "all are in step")


def test_one_that_alone_cannot_reach_a_member_keeps_its_flows_for_it(site: Site) -> None:
    """It sends it no new ones and says why; for the others nothing has changed, and neither has the log."""
    node, route = site.fleet.node("d1"), ["203.0.113.28/32"]
    entries = site.log_entries()
    with site.undisturbed("d1 alone has no way to m8", but=["web/m8", "edge/m8"]):
        node.run(["ip", "route", "add", "unreachable", *route])
        try:
            site.until(lambda: site.member("d1", "web/m8")["reason"] == "unreachable", "d1 cannot reach m8")
            assert site.member("d1", "web/m8")["state"] == "draining"
            site.story.passes(2)
            assert [site.member(name, "web/m8")["state"] for name in ("d2", "d3")] == ["in_rotation"] * 2
        finally:
            node.run(["ip", "route", "del", "unreachable", *route])
        site.until(lambda: site.member("d1", "web/m8")["state"] == "in_rotation", "d1 can reach m8")
        site.until(site.in_step, "all are in step")
    assert site.log_entries() == entries


def test_no_flow_was_broken(site: Site) -> None:
    """Of all flows that there were, only those of the members that died have ended otherwise than well."""
    result = site.story.finish()
    print(f"\n{table(result, list(DIRECTORS))}\n")
    print(f"{len(result.all_broken)} broken of {result.begun} flows, {len(result.all_lost)} lost with dead members")
    assert result.all_broken == []
    assert result.begun > 400
    assert site.events(0.0, "fleet.tables_differ") == []
