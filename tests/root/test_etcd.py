"""Directors agree through real etcd nodes, three of them, whatever happens to those."""

import asyncio
import base64
import http.client
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop

from appliance.fleet.agreement import Basis
from appliance.fleet.client import AT_ONCE, Store, StoreError, UnavailableError
from appliance.fleet.etcd import EtcdStore
from appliance.fleet.giving import give
from appliance.fleet.store import Source
from appliance.model import AdminState, Delivery, DsrType, Encapsulation, Etcd, Order
from appliance.state import LogEntry
from appliance.tier2 import store as tier2_store
from appliance.tier2.registry import Entry
from appliance.tier2.store import Stored
from tests.netns import PATIENCE
from tests.netns import until as wait_until
from tests.unit.fleet import contract
from tests.unit.fleet.directors import DOWN, UP, Director, running, until
from tests.unit.fleet.test_entries import state

pytestmark = pytest.mark.root

RING = ("web", Delivery(DsrType.L3, Encapsulation.IPIP))


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Node:
    """One etcd process."""

    def __init__(self, command: list[str], url: str, log: Path) -> None:
        self.url = url
        self._command = command
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process is None:
            environment = os.environ | {"ETCD_UNSUPPORTED_ARCH": {"aarch64": "arm64"}.get(platform.machine(), "")}
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ask(self, what: str, body: dict[str, object], deadline_s: float = 5.0) -> dict[str, object]:
        """Ask the gateway, by other means than what is tested.

        Raises:
            OSError: no answer, or not a good one.
        """
        to = self.url.removeprefix("http://")
        connection = http.client.HTTPConnection(to, timeout=deadline_s)
        try:
            connection.request("POST", f"/v3/{what}", json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise OSError(repr(error)) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(text.decode())
        return json.loads(text)

    @property
    def leads(self) -> bool:
        status = self.ask("maintenance/status", {})
        return status.get("leader") == status["header"]["member_id"]


class Cluster:
    """etcd nodes on 127.0.0.1."""

    def __init__(self, place: Path, size: int = 3, *options: str, scheme: str = "http") -> None:
        ports = free_ports(2 * size)
        clients = [f"{scheme}://127.0.0.1:{port}" for port in ports[:size]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[size:]]
        members = ",".join(f"n{number}={peer}" for number, peer in enumerate(peers))
        self.nodes = []
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            command = ["etcd", "--name", f"n{number}", "--data-dir", str(place / f"n{number}")]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", members, "--log-level", "error", *options]
            self.nodes.append(Node(command, client, place / f"n{number}.log"))

    def start(self, *nodes: Node) -> None:
        for node in nodes or self.nodes:
            node.start()

    def kill(self, *nodes: Node) -> None:
        for node in nodes or self.nodes:
            node.kill()

    def writes(self) -> bool:
        """Whether a write gets through now."""
        for node in self.nodes:
            try:
                node.ask("kv/put", {"key": base64.b64encode(b"/elsewhere").decode(), "value": ""}, 0.2)
            except OSError:
                continue
            return True
        return False

    def leader(self) -> Node:
        return next(node for node in self.nodes if node.process is not None and node.leads)

    def store(self, prefix: str, seed: object = 0, **settings: object) -> EtcdStore:
        where = Etcd(endpoints=tuple(node.url for node in self.nodes), prefix=prefix, **settings)
        return EtcdStore(where, random.Random(str(seed)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes; every test leaves them running."""
    assert shutil.which("etcd"), "etcd is missing: apt-get install etcd-server"
    made = Cluster(tmp_path_factory.mktemp("etcd"))
    try:
        made.start()
        wait_until(made.writes, "a leader", 20)
        yield made
    finally:
        made.kill()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"/onward/{request.node.name}/"


@pytest.fixture
def directors(cluster: Cluster, prefix: str) -> list[Director]:
    """Three that share the store."""
    return [Director(f"d{number}", cluster.store(prefix, number)) for number in (1, 2, 3)]


async def in_step(*directors: Director, deadline_s: float = 10.0) -> float:
    """Wait until all judge by the fleet and see each other; returns how long that took, in seconds."""

    def reached() -> bool:
        return all(
            one.agreed.status.source is Source.FLEET and len(one.agreed.directors) == len(directors)
            for one in directors
        )

    return await until(reached, lambda: f"in step: {[one.agreed for one in directors]}", deadline_s)


async def agree_on(directors: list[Director], *health, deadline_s: float = 5.0) -> float:
    """Wait until the same is in force on all; returns how long that took, in seconds."""

    def agreed() -> bool:
        return all(one.health() == health for one in directors)

    return await until(agreed, lambda: f"{health}: {[one.agreed for one in directors]}", deadline_s)


async def with_a_split_view(directors: list[Director]) -> None:
    """All up but web3; d1 alone sees web2 down."""
    for one in directors:
        one.say(UP, UP, DOWN)
    directors[0].say(UP, DOWN, DOWN)
    await in_step(*directors)
    await agree_on(directors, UP, UP, DOWN)
    await until(lambda: directors[0].members["web/web2"].overruled, "d1 is overruled")


def compact_all(nodes: list[Node]) -> None:
    """Have them forget what was before now: each for itself, when its turn comes."""
    revision = nodes[0].ask("kv/range", {"key": "AA=="})["header"]["revision"]
    for node in nodes:
        try:
            node.ask("kv/compaction", {"revision": revision, "physical": True})
        except OSError as error:  # unless its turn has come already
            if "compacted" not in str(error):
                raise


async def store_is_back(cluster: Cluster) -> float:
    """Wait until writes get through; returns when that was."""
    await asyncio.to_thread(wait_until, cluster.writes, "writes get through", 30)
    return time.monotonic()


def check_course(directors: list[Director], since: float, *course) -> None:
    """Exactly this was in force since then, on all directors; nobody saw anything else for a moment."""
    for one in directors:
        assert one.course(since) == list(course), one.card.name


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("check", contract.BASIC, ids=lambda check: check.__name__)
def test_contract(
    cluster: Cluster, prefix: str, check: Callable[[Store], Awaitable[None]], loop: Callable[..., None]
) -> None:
    """etcd does what every store must do, by its JSON gateway."""
    loop(check(cluster.store(prefix)))


def test_compaction_under_a_watcher(cluster: Cluster, prefix: str) -> None:
    """A watcher that has slept while etcd forgot what it missed is told so."""

    async def compact() -> None:
        await asyncio.to_thread(compact_all, cluster.nodes)

    uvloop.run(contract.says_what_is_forgotten(cluster.store(prefix), compact))


def test_orders_are_given_all_or_none(cluster: Cluster, prefix: str) -> None:
    """Those of one command have one revision in etcd; without a quorum none of them is taken, and the error says so."""
    drain = Order(AdminState.DRAIN, 1000.0, 1600.0)
    members = [f"pool{number}/web1" for number in range(AT_ONCE - 1)]

    def found() -> dict[str, int]:
        first = base64.b64encode(prefix.encode()).decode()
        end = base64.b64encode((prefix[:-1] + "0").encode()).decode()
        answer = cluster.nodes[0].ask("kv/range", {"key": first, "range_end": end})
        return {base64.b64decode(kv["key"]).decode(): int(kv["mod_revision"]) for kv in answer.get("kvs", [])}

    async def main() -> None:
        await give(cluster.store(prefix), dict.fromkeys(members, drain))
        before = await asyncio.to_thread(found)
        assert before.keys() == {f"{prefix}ordered", *(f"{prefix}orders/{member}" for member in members)}
        assert len(set(before.values())) == 1
        await give(cluster.store(prefix), {members[0]: None, members[1]: drain})
        after = await asyncio.to_thread(found)
        assert before.keys() - after.keys() == {f"{prefix}orders/{members[0]}"}
        cluster.kill(*cluster.nodes[1:])
        try:
            with pytest.raises(StoreError):
                await give(cluster.store(prefix), dict.fromkeys(members))
        finally:
            cluster.start()
        await store_is_back(cluster)
        assert await asyncio.to_thread(found) == after

    uvloop.run(main())


def test_leases_run_out(cluster: Cluster, prefix: str) -> None:
    """The entries of a director that is silent go away by themselves."""

    async def main() -> None:
        store = cluster.store(prefix)
        async with store.session() as session:
            await session.write({"mine": "1"}, lease=await session.grant(2))
            began = time.monotonic()
            while (await session.read()).entries:
                assert time.monotonic() - began < 10 * PATIENCE, "still there"
                await asyncio.sleep(0.1)

    uvloop.run(main())


def test_directors_agree_within_a_second(cluster: Cluster, directors: list[Director]) -> None:
    """When the last director that it takes has seen it, a verdict is in force on all within a second."""

    async def main() -> None:
        async with running(*directors):
            await with_a_split_view(directors)
            d1, d2, d3 = directors
            took_s = []
            for health in (DOWN, UP) * 5:
                d2.say(health, UP, DOWN)
                d3.say(health, UP, DOWN)
                took_s.append(await agree_on(directors, health, UP, DOWN))
            assert d1.members["web/web2"].down == ("d1",)
            assert d1.members["web/web2"].up == ("d2", "d3")
            print(f"agreed after {min(took_s) * 1000:.0f} to {max(took_s) * 1000:.0f} ms")
            assert max(took_s) < 1.0 * PATIENCE

    uvloop.run(main())


def test_leader_killed(cluster: Cluster, directors: list[Director]) -> None:
    """The leader's death moves nothing; all are back with the others and agree on what comes next."""

    async def main() -> None:
        async with running(*directors):
            await with_a_split_view(directors)
            leader = await asyncio.to_thread(cluster.leader)
            began = time.monotonic()
            leader.kill()
            try:
                back = await store_is_back(cluster)
                await in_step(*directors)
                took_s = time.monotonic() - back
                check_course(directors, began, (UP, UP, DOWN))
                for one in directors[1:]:
                    one.say(DOWN, UP, DOWN)
                await agree_on(directors, DOWN, UP, DOWN, deadline_s=1.0)
                print(f"new leader after {back - began:.2f} s, in step {took_s:.2f} s later")
            finally:
                leader.start()
        check_course(directors, began, (UP, UP, DOWN), (DOWN, UP, DOWN))

    uvloop.run(main())


def test_quorum_lost_and_a_member_dies(cluster: Cluster, directors: list[Director]) -> None:
    """Without a quorum a member that dies is out at once on all, a split view changes nothing, and all agree after."""

    async def main() -> None:
        async with running(*directors):
            await with_a_split_view(directors)
            began = time.monotonic()
            cluster.kill(*cluster.nodes[1:])
            try:
                noticed_s = await until(lambda: not any(one.connected for one in directors), "all have noticed", 10)
                check_course(directors, began, (UP, UP, DOWN))
                died = time.monotonic()
                directors[0].say(DOWN, DOWN, DOWN)
                for one in directors[1:]:
                    one.say(DOWN, UP, DOWN)
                assert await agree_on(directors, DOWN, UP, DOWN) < 0.1
                assert directors[1].members["web/web1"].basis is Basis.LOCAL
            finally:
                cluster.start()
            back = await store_is_back(cluster)
            await in_step(*directors)
            took_s = time.monotonic() - back
            assert took_s < 1.0 * PATIENCE
            assert directors[0].members["web/web1"].down == ("d1", "d2", "d3")
            check_course(directors, died, (UP, UP, DOWN), (DOWN, UP, DOWN))
            print(f"noticed after {noticed_s:.2f} s; in step {took_s:.2f} s after the first write")

    uvloop.run(main())


def test_store_gone_and_back(cluster: Cluster, directors: list[Director], request: pytest.FixtureRequest) -> None:
    """All nodes gone for 4 s (--long: 60 s) and back, with a split view: nothing moves, and the log goes on."""
    gone_s = 60.0 if request.config.getoption("--long") else 4.0

    async def main() -> None:
        async with running(*directors):
            await with_a_split_view(directors)
            first = await directors[0].agreement.append(RING, LogEntry(1000.0, (state(1),)))
            began = time.monotonic()
            cluster.kill()
            try:
                await until(lambda: not any(one.connected for one in directors), "all have noticed", 10)
                with pytest.raises(UnavailableError):
                    await directors[1].agreement.append(RING, LogEntry(1001.0, (state(2),)))
                await asyncio.sleep(gone_s)
                source = Source.LOCAL if gone_s > 10 else Source.LAST_AGREED
                assert {one.agreed.status.source for one in directors} == {source}
            finally:
                cluster.start()
            back = await store_is_back(cluster)
            await in_step(*directors)
            took_s = time.monotonic() - back
            assert took_s < 1.0 * PATIENCE
            second = await directors[1].agreement.append(RING, LogEntry(1001.0, (state(2),)))
            await until(lambda: all(one.agreed.log == {RING: (first, second)} for one in directors), "the log", 1.0)
        check_course(directors, began, (UP, UP, DOWN))
        print(f"gone for {back - began:.1f} s; in step {took_s:.2f} s after the first write")

    uvloop.run(main())


def test_node_that_hangs(cluster: Cluster, directors: list[Director]) -> None:
    """A node that neither answers nor dies is left for another one; what etcd forgot meanwhile does not matter."""

    async def main() -> None:
        d1, d2, _ = directors
        async with running(*directors):
            await with_a_split_view(directors)
            used = next(node for node in cluster.nodes if node.url == d1.agreed.status.endpoint)
            began = time.monotonic()
            used.signal(signal.SIGSTOP)
            try:
                await until(lambda: d1.connected and d1.agreed.status.endpoint != used.url, "another node", 15)
                took_s = time.monotonic() - began
                other = next(node for node in cluster.nodes if node.url == d1.agreed.status.endpoint)
                await in_step(*directors, deadline_s=20)
                check_course(directors, began, (UP, UP, DOWN))
                await asyncio.to_thread(compact_all, [other])
            finally:
                used.signal(signal.SIGCONT)
            for one in directors[1:]:
                one.say(DOWN, UP, DOWN)
            await agree_on(directors, DOWN, UP, DOWN)
            print(f"left the node after {took_s:.2f} s")
            assert d2.members["web/web2"].down == ("d1",)

    uvloop.run(main())


def test_director_killed(cluster: Cluster, prefix: str) -> None:
    """Directors that die without a word have no say any more when their leases have run out."""
    d1 = Director("d1", cluster.store(prefix))

    async def main() -> None:
        async with running(d1):
            d1.say(UP, UP, DOWN)
            async with cluster.store(prefix).session() as session:
                words = {f"verdicts/d{number}/web": '{"web1":["down",1.0]}' for number in (2, 3)}
                await session.write(words, lease=await session.grant(2))
            await agree_on([d1], DOWN, UP, DOWN)
            await agree_on([d1], UP, UP, DOWN, deadline_s=10)

    uvloop.run(main())


# One node with what an installation may have besides.


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Cluster]:
    """A node that wants a user and a password, and gives the user its prefix only."""
    made = Cluster(tmp_path, 1)
    try:
        made.start()
        wait_until(made.writes, "a leader", 20)
        (node,) = made.nodes
        first, end = (base64.b64encode(key).decode() for key in (b"/onward/a/", b"/onward/a0"))
        node.ask("auth/user/add", {"name": "root", "password": "root's"})
        node.ask("auth/user/grant", {"user": "root", "role": "root"})
        node.ask("auth/role/add", {"name": "fleet"})
        grant = {"name": "fleet", "perm": {"permType": "READWRITE", "key": first, "range_end": end}}
        node.ask("auth/role/grant", grant)
        node.ask("auth/user/add", {"name": "onward", "password": "secret"})
        node.ask("auth/user/grant", {"user": "onward", "role": "fleet"})
        node.ask("auth/enable", {})
        yield made
    finally:
        made.kill()


async def refused(director: Director, hint: str) -> None:
    """It says why, and goes on by itself."""
    async with running(director):
        await until(lambda: hint in director.agreed.status.error, hint)
        director.say(UP, UP, DOWN)
        assert director.health() == (UP, UP, DOWN)


def test_user_and_password(guarded: Cluster) -> None:
    """With the right password directors agree; without, or elsewhere, the error says what to do. Tokens are renewed."""

    async def main() -> None:
        right = {"user": "onward", "password": "secret"}
        for settings, prefix, hint in (
            ({}, "/onward/a/", "set fleet.etcd.user"),
            (right | {"password": "wrong"}, "/onward/a/", "check fleet.etcd.user, its password"),
            (right, "/onward/b/", "grant the user readwrite on the prefix"),
        ):
            await refused(Director("d1", guarded.store(prefix, **settings)), hint)
        d1, d2 = (Director(name, guarded.store("/onward/a/", **right)) for name in ("d1", "d2"))
        async with running(d1, d2):
            for one in (d1, d2):
                one.say(UP, UP, DOWN)
            await in_step(d1, d2)
            guarded.kill()
            guarded.start()
            await until(lambda: not d1.connected, "gone")
            await in_step(d1, d2)

    uvloop.run(main())


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A CA, and certificates of a node and of a director."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    for name, subject in (("ca", "/CN=fleet CA"), ("node", "/CN=node"), ("director", "/CN=d1"), ("other", "/CN=CA")):
        make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        make += ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", subject]
        if name in ("node", "director"):
            make += ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
            make += ["-addext", "basicConstraints=critical,CA:false"]
        openssl(*make)
    return tmp_path


def test_tls(certificates: Path, tmp_path: Path) -> None:
    """Nodes with certificates that want one of us: right ones work, and what is wrong is named."""
    place = tmp_path / "etcd"
    place.mkdir()

    def file(name: str) -> str:
        return str(certificates / name)

    options = ["--cert-file", file("node.pem"), "--key-file", file("node.key")]
    options += ["--client-cert-auth", "--trusted-ca-file", file("ca.pem")]
    made = Cluster(place, 1, *options, scheme="https")
    mine = {"cert_file": file("director.pem"), "key_file": file("director.key")}

    async def main() -> None:
        good = Director("d1", made.store("/onward/", ca_file=file("ca.pem"), **mine))
        async with running(good):
            good.say(UP, UP, DOWN)
            await in_step(good, deadline_s=20)
        for settings in ({"ca_file": file("ca.pem")}, {"ca_file": file("other.pem"), **mine}, {"ca_file": file("no")}):
            with pytest.raises(StoreError, match=r"check (fleet\.etcd\.)?ca_file"):
                async with made.store("/onward/", **settings).session() as session:
                    await session.read()

    try:
        made.start()
        uvloop.run(main())
    finally:
        made.kill()


def test_nodes_are_there_as_long_as_they_live(cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of the second tier is in the store once it registers, and gone when it leaves, or stops keeping itself."""
    monkeypatch.setattr(tier2_store, "TTL_S", 2)
    where = Etcd(endpoints=tuple(node.url for node in cluster.nodes), prefix=prefix)
    t1, t2 = (Entry(f"t{n}", (ip_address(f"203.0.113.7{n}"), ip_address(f"2001:db8:3::7{n}")), n) for n in (1, 2))
    first, second = Stored(where, "nodes"), Stored(where, "nodes")

    def there() -> tuple[Entry, ...]:
        entries, problems = asyncio.run(tier2_store.read(where, "nodes"))
        assert problems == ()
        return entries

    first.write(t1)
    second.write(t2)
    Stored(where, "others").write(Entry("t3", t1.addresses))
    assert there() == (t1, t2)
    first.remove("t1")
    assert there() == (t2,)
    first.write(t1)

    def alone() -> bool:
        first.write(t1)
        return there() == (t1,)

    wait_until(alone, "the lease of t2 has run out, and that of t1 is kept", 15)
    second.write(t2)  # with a new lease, since its own is gone
    assert there() == (t1, t2)
