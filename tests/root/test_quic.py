"""QUIC clients that change their port, their address and the director, with real clients and servers (aioquic)."""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trustme
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from appliance.config.load import load
from appliance.explain.model import Model
from appliance.explain.question import frame_of, packet_of
from appliance.model import Protocol
from appliance.ring.hash import FlowKey
from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, inside
from tests.root.quic_server import ALPN

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NETWORK = {4: "192.0.2.{}", 6: "2001:db8:1::{}"}
HOMES = (2, 3)
"""The client's addresses, by their last number; those of directors and members follow."""
DIRECTORS = {"d": 11, "e": 12}
MEMBERS = {"s": 21, "t": 22, "u": 23}

CONFIG = """
schema_version = 1
[director]
name = "{name}"
interfaces = ["lan"]
plane = "{plane}"
pins = 0
runtime_dir = "{folder}/run-{name}"
[fleet]
secret_file = "fleet.key"
[[network_profile]]
name = "udp"
type = "udp_fast_path"
dsr = {{ type = "l3" }}
"""

POOL = """
[[pool]]
name = "{kind}"
{quic}
[[pool.member]]
name = "s"
address = "192.0.2.21"
[[pool.member]]
name = "t"
address = "192.0.2.22"
[[pool.member]]
name = "u"
address = "192.0.2.23"
[[virtual_service]]
name = "{kind}"
vips = ["{vips[4]}", "{vips[6]}"]
ports = [443]
network_profile = "udp"
pool = "{kind}"
"""

KINDS = {
    "none": "",
    "clear": "[[pool.quic]]\nconfig_id = 0\nserver_id_length = 2\nnonce_length = 8\nencode_length = true",
    "one-block": '[[pool.quic]]\nconfig_id = 1\nkey_file = "quic.key"',
    "four-rounds": '[[pool.quic]]\nconfig_id = 5\nserver_id_length = 6\nnonce_length = 8\nkey_file = "quic.key"',
}
VIPS = {kind: {4: f"198.51.100.{7 + n}", 6: f"2001:db8:f::{7 + n}"} for n, kind in enumerate(KINDS)}
ALL_VIPS = [vip for vips in VIPS.values() for vip in vips.values()]


@dataclass
class Site:
    """client, directors and members around a router; replies go past the directors."""

    client: Namespace
    router: Namespace
    model: Model

    def owner(self, vip: str, home: int, port: int) -> str:
        """The member that a client's address and port stand for."""
        to = ip_address(vip)
        source = ip_address(NETWORK[to.version].format(home))
        found: Any = self.model.explain(frame_of(packet_of(FlowKey(source, to, Protocol.UDP, port, 443))))
        return str(found["member"]["id"].partition("/")[2])

    def port_of(self, vip: str, home: int, owners: set[str], ports: Iterator[int]) -> int:
        """A port by which the client's packets would go to one of these."""
        return next(port for port in ports if self.owner(vip, home, port) in owners)

    def go_by(self, director: str) -> None:
        """The router takes another director."""
        for vip in ALL_VIPS:
            version, size, six = (4, 32, "") if "." in vip else (6, 128, "-6 ")
            gateway = NETWORK[version].format(DIRECTORS[director])
            self.router.ip(f"{six}route replace {vip}/{size} via {gateway} dev to-{director}")


@contextmanager
def made(folder: Path, plane: str) -> Iterator[Site]:
    names = ("w", "c", *DIRECTORS, *MEMBERS)
    with namespaces(*names, prefix="owq") as spaces, ExitStack() as stack:
        router, hosts = spaces[0], dict(zip(names[1:], spaces[1:], strict=True))
        numbers = {"c": HOMES, **{name: (number,) for name, number in (DIRECTORS | MEMBERS).items()}}
        for name, space in hosts.items():
            veth(space, "lan", router, f"to-{name}")
            for version, size, six in ((4, 32, ""), (6, 128, "-6 ")):
                address, nodad = NETWORK[version].format, " nodad" if six else ""
                router.ip(f"addr add {address(1)}/{size} dev to-{name}{nodad}")
                for number in numbers[name]:
                    space.ip(f"addr add {address(number)}/{size} dev lan{nodad}")
                    router.ip(f"{six}route add {address(number)}/{size} dev to-{name}")
                space.ip(f"{six}route add default via {address(1)} dev lan onlink")
        for space in spaces:
            space.sysctl(net__ipv4__conf__all__rp_filter=0)
            for name in ("lan", *(f"to-{one}" for one in hosts)):
                if f" {name}@" in space.ip("-o link"):
                    space.sysctl(**{f"net__ipv4__conf__{name}__rp_filter": 0})
        router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        tunnel = ["--interface", "lan", *(word for vip in ALL_VIPS for word in ("--vip", vip))]
        tunnel += [word for number in DIRECTORS.values() for word in ("--from", f"{NETWORK[4].format(number)}/32")]
        for name in MEMBERS:
            for vip in ALL_VIPS:
                hosts[name].ip(f"addr add {vip}/32 dev lo" if "." in vip else f"addr add {vip}/128 dev lo nodad")
            command = hosts[name].command(sys.executable, "-m", "appliance", "decap", "run", *tunnel)
            decap = stack.enter_context(started(command))
            assert decap.stdout is not None
            assert "decapsulating" in decap.stdout.readline()
        configuration = write(folder, plane)
        authority = trustme.CA()
        certificate = authority.issue_cert("quic.example")
        certificate.private_key_pem.write_to_path(folder / "tls.key")
        with (folder / "tls.pem").open("wb") as file:
            file.writelines(pem.bytes() for pem in certificate.cert_chain_pems)
        document = run("quic", "config", str(configuration), "--json")
        rows = json.loads(document)["members"]
        for name in MEMBERS:
            row_of = {row["pool"]: str(at) for at, row in enumerate(rows) if row["member"] == name}
            where = [word for kind in KINDS for vip in VIPS[kind].values() for word in (vip, row_of.get(kind, ""))]
            arguments = [name, str(folder), str(folder / "tls.pem"), str(folder / "tls.key"), document, *where]
            command = hosts[name].command(sys.executable, "-m", "tests.root.quic_server", *arguments)
            server = stack.enter_context(started(command))
            assert server.stdout is not None
            assert "listening" in server.stdout.readline()
        for name in DIRECTORS:
            toml = configuration.with_name(f"{name}.toml")
            command = hosts[name].command(sys.executable, "-m", "appliance", "run", str(toml))
            stack.enter_context(started(command, quiet=False))
        for name in DIRECTORS:
            until(lambda space=hosts[name]: reaches_all(space), f"{name} reaches its members", 90)
        yield Site(hosts["c"], router, Model(load(configuration)))


def write(folder: Path, plane: str) -> Path:
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    (folder / "fleet.key").chmod(0o600)
    (folder / "quic.key").write_text("8f95f09245765f80256934e50c66207f\n")
    for name in DIRECTORS:
        text = CONFIG.format(name=name, plane=plane, folder=folder)
        text += "".join(POOL.format(kind=kind, quic=quic, vips=VIPS[kind]) for kind, quic in KINDS.items())
        (folder / f"{name}.toml").write_text(text)
    return folder / "d.toml"


def reaches_all(space: Namespace) -> bool:
    """Whether a director has found the way to all members of all pools."""

    def ask() -> bool:
        try:
            with urllib.request.urlopen("http://127.0.0.1:8080/api/v1/mtu", timeout=5) as answer:
                return len(json.load(answer)["members"]) == len(MEMBERS) * len(KINDS)
        except OSError:
            return False

    return inside(space, ask)


def run(*words: str) -> str:
    command = [sys.executable, "-m", "appliance", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout


@contextmanager
def started(command: list[str], *, quiet: bool = True) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE if quiet else None, text=True, cwd=REPOSITORY)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


class Client:
    """A connection that can come from somewhere else from one moment to the next."""

    def __init__(self, site: Site, vip: str) -> None:
        self._site, self._vip, self._version = site, vip, ip_address(vip).version
        configuration = QuicConfiguration(is_client=True, alpn_protocols=ALPN, verify_mode=ssl.CERT_NONE)
        self.protocol = QuicConnectionProtocol(QuicConnection(configuration=configuration))
        self._transports: list[asyncio.DatagramTransport] = []

    async def come_from(self, home: int, port: int) -> None:
        """Send from there from now on, as a host does that has got another address."""

        def bound() -> socket.socket:
            family = socket.AF_INET if self._version == 4 else socket.AF_INET6
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.bind((NETWORK[self._version].format(home), port))
            made.setblocking(False)
            return made

        sock = inside(self._site.client, bound)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self.protocol, sock=sock)
        self._transports.append(transport)

    async def connect(self) -> None:
        self.protocol.connect((self._vip, 443) if self._version == 4 else (self._vip, 443, 0, 0))
        async with asyncio.timeout(10):
            await self.protocol.wait_connected()
        self._reader, self._writer = await self.protocol.create_stream()

    async def ask(self, patience_s: float = 10.0) -> str:
        """The name of who answers."""
        self._writer.write(b"who is there?\n")
        async with asyncio.timeout(patience_s):
            line = await self._reader.readline()
        return line.partition(b":")[0].decode()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.protocol.close()
        for transport in self._transports:
            transport.close()
        await asyncio.sleep(0)  # so that they are


@pytest.fixture(scope="module", params=["raw", "xdp"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with made(tmp_path_factory.mktemp("quic"), request.param) as there:
        yield there


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", KINDS)
async def test_clients_that_move(site: Site, kind: str, version: int) -> None:
    """A connection of each member gets another port (as by a NAT), another address with another connection ID, and
    another director; each time by its addresses it would be somebody else's. With QUIC-LB it is answered by the same
    member; without, it is lost."""
    vip, ports = VIPS[kind][version], count(20000)
    for name in MEMBERS:
        others = set(MEMBERS) - {name}
        site.go_by("d")
        async with Client(site, vip) as client:
            await client.come_from(HOMES[0], site.port_of(vip, HOMES[0], {name}, ports))
            await client.connect()
            assert await client.ask() == name
            await client.come_from(HOMES[0], site.port_of(vip, HOMES[0], others, ports))
            if kind == "none":
                with pytest.raises(TimeoutError):
                    await client.ask(patience_s=1.5)
                continue
            assert await client.ask() == name
            client.protocol.change_connection_id()
            await client.come_from(HOMES[1], site.port_of(vip, HOMES[1], others, ports))
            assert await client.ask() == name
            site.go_by("e")
            await client.come_from(HOMES[1], site.port_of(vip, HOMES[1], others, ports))
            assert await client.ask() == name
