"""A director with real members and real traffic, and Debian's Chromium in front of its web application.

    client c0 ---- d0 director d1 ---- switch ---- m1, m2, m3

Members are on the director's segment (L2 DSR), and answer HTTP with their names; a second service goes to them through
a tunnel that they do not take anything out of. On the client's machine there is a router, who is told of the VIPs. The
browser runs in the director's namespace, since the API listens on loopback there.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from appliance.passwords import hashed
from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, inside

URL = "http://127.0.0.1:8080"
VIP, NEW_VIP, FAR_VIP, PORT = "198.51.100.7", "198.51.100.9", "198.51.100.8", 80
CLIENT, AS, BGP_PORT = "192.0.2.2", 65000, 1790
MEMBERS = {f"m{number}": f"203.0.113.{10 + number}" for number in (1, 2, 3)}
PASSWORD = "correct horse"
AXE = REPOSITORY / "appliance" / "web" / "node_modules" / "axe-core" / "axe.min.js"
ARTEFACTS = Path(os.environ.get("ONWARD_ARTEFACTS", REPOSITORY / "artefacts")) / "ui"
SIZES = {"wide": (1280, 800), "narrow": (390, 844)}
SCHEMES: "tuple[Any, ...]" = ("light", "dark")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

CONFIG = """
schema_version = 1

[director]
name = "d1"
interfaces = ["d0"]
plane = "raw"
runtime_dir = "{folder}/run"

{users}
[fleet]
secret_file = "fleet.key"

[bgp]
local_as = 65010
router_id = "192.0.2.1"

[[bgp.peer]]
address = "{client}"
remote_as = {number}
port = {bgp_port}

[[network_profile]]
name = "tcp-l2"
type = "tcp_fast_path"
dsr = {{ type = "l2" }}

[[network_profile]]
name = "tcp-ipip"
type = "tcp_fast_path"
dsr = {{ type = "l3", encapsulation = "ipip" }}

[[health_monitor]]
name = "page"
type = "http"
vantage = "direct"
send_interval = 0.5
receive_timeout = 0.4
quick_start = false

[[pool]]
name = "web"
health_monitors = ["page"]
{members}
[[virtual_service]]
name = "www"
vips = ["{vip}"]
ports = [{port}]
network_profile = "tcp-l2"
pool = "web"

[[pool]]
name = "far"
{members}
[[virtual_service]]
name = "far"
vips = ["{far_vip}"]
ports = [{port}]
network_profile = "tcp-ipip"
pool = "far"
"""
USER = """
[[api.user]]
name = "{name}"
role = "{role}"
password_hash = "{password}"
"""
MEMBER = """
[[pool.member]]
name = "{name}"
address = "{address}"
"""


@dataclass
class Lab:
    """All that runs."""

    client: Namespace
    director: Namespace
    members: dict[str, Namespace]
    folder: Path
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, space: Namespace, *words: str, module: str = "appliance") -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = space.command(sys.executable, "-m", module, *words)
            self.processes[name] = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        process.wait(15)

    def serve(self, member: str) -> None:
        self.start(member, self.members[member], "lab", "responder", "--name", member)

    def get(self, path: str) -> Any:
        def ask() -> Any:
            with urllib.request.urlopen(f"{URL}/api/v1{path}", timeout=5) as answer:  # noqa: S310 - our own director
                return json.load(answer)

        return inside(self.director, ask)

    def in_rotation(self, service: str = "www") -> list[str]:
        try:
            members = self.get(f"/services/{service}")["members"]
        except urllib.error.HTTPError as error:  # it is not in force yet
            error.close()
            return []
        return [one["name"] for one in members if one["state"] == "in_rotation"]

    def who_answers(self, vip: str = VIP, port: int = 0) -> str:
        """One HTTP request of the client's through the director; the member's name, or nothing.

        Args:
            vip: where to.
            port: of the client; 0: any.
        """
        ports = ("--local-port", str(port)) if port else ()
        words = self.client.command("curl", "-s", "-m", "3", *ports, f"http://{vip}:{PORT}/")
        text = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        return next((name for name in MEMBERS if name in text), "")

    def captured(self, vip: str, port: int) -> tuple[bytes, bytes]:
        """A SYN of the client's, as it came to the director, and as it came to a member."""
        sockets = [inside(self.director, lambda: _frames("d0"))]
        sockets += [inside(space, lambda: _frames("s0")) for space in self.members.values()]
        found: dict[int, bytes] = {}

        def all_there() -> bool:
            for at, each in enumerate(sockets):
                with suppress(BlockingIOError):
                    while frame := each.recv(65535):
                        # The flow's addresses and ports, whatever headers are before them.
                        if ip_address(vip).packed + port.to_bytes(2, "big") + PORT.to_bytes(2, "big") in frame:
                            found.setdefault(min(at, 1), frame)
            return len(found) == 2

        try:
            words = self.client.command("curl", "-s", "-m", "1", "--local-port", str(port), f"http://{vip}:{PORT}/")
            subprocess.run(words, capture_output=True, check=False)
            until(all_there, "the SYN was seen on both sides")
        finally:
            for each in sockets:
                each.close()
        return found[0], found[1]

    def answered(self, count: int, vip: str = VIP) -> dict[str, int]:
        """Who has answered how many of so many requests."""
        found: dict[str, int] = {}
        for _ in range(count):
            name = self.who_answers(vip)
            found[name] = found.get(name, 0) + 1
        return found


def _frames(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    made.bind((interface, 0))
    made.setblocking(False)
    return made


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    password = hashed(PASSWORD, bytes(16))
    users = "".join(USER.format(name=name, role=role, password=password) for name, role in
                    (("ada", "admin"), ("bob", "admin"), ("vic", "viewer")))  # fmt: skip
    members = "".join(MEMBER.format(name=name, address=address) for name, address in MEMBERS.items())
    values = {"folder": folder, "users": users, "members": members, "vip": VIP, "far_vip": FAR_VIP, "port": PORT}
    values |= {"client": CLIENT, "number": AS, "bgp_port": BGP_PORT}
    (folder / "onward.toml").write_text(CONFIG.format(**values))
    (folder / "fleet.key").write_text("0123456789abcdef")
    with namespaces("c", "d", "sw", *MEMBERS, prefix="owui") as spaces, ExitStack() as stack:
        client, director, switch, *others = spaces
        made = Lab(client, director, dict(zip(MEMBERS, others, strict=True)), folder)
        switch.ip("link add name br0 type bridge")
        switch.ip("link set br0 up")
        veth(client, "c0", director, "d0")
        veth(director, "d1", switch, "p0")
        client.ip(f"addr add {CLIENT}/24 dev c0")
        client.ip("route add default via 192.0.2.1")
        director.ip("addr add 192.0.2.1/24 dev d0")
        director.ip("addr add 203.0.113.1/24 dev d1")
        director.sysctl(net__ipv4__ip_forward=1)
        for name, space in made.members.items():
            veth(switch, f"p{name}", space, "s0")
            switch.ip(f"link set p{name} master br0")
            space.sysctl(net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_announce=2)
            space.ip(f"addr add {MEMBERS[name]}/24 dev s0")
            space.ip("route add default via 203.0.113.1")
            for vip in (VIP, NEW_VIP):
                space.ip(f"addr add {vip}/32 dev lo")
        switch.ip("link set p0 master br0")
        stack.callback(lambda: [made.stop(name) for name in list(made.processes)])
        for name in MEMBERS:
            made.serve(name)
        made.start("router", client, str(AS), str(BGP_PORT), CLIENT, module="tests.root.raw_bgp")
        made.start("director", director, "run", str(folder / "onward.toml"))

        def ready() -> bool:
            try:
                told = made.get("/bgp")["vips"][0]["peers"][0]["told"]
                return len(made.in_rotation()) == len(MEMBERS) and told
            except OSError:
                assert made.processes["director"].poll() is None, (folder / "director.log").read_text()
                return False

        until(ready, "all members are in rotation, and the router is told", 40)
        yield made


# ---------------------------------------------------------------------------------------------------------------------
# Browsers


@contextmanager
def chromium(space: Namespace, folder: Path) -> Iterator[Browser]:
    """Within a namespace."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert program is not None, "no browser: apt-get install chromium"
    script = folder / "browser"
    script.write_text(f'#!/bin/sh\nexec ip netns exec {space.name} {program} "$@"\n')
    script.chmod(0o755)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=script, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Seat:
    """Somebody in front of a browser of their own: everything that goes wrong there is noted."""

    def __init__(self, browser: Browser, size: tuple[int, int] = (1280, 800), scheme: Any = "light") -> None:
        width, height = size
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB"
        )
        self.context.set_default_timeout(15_000)
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        # That a request was refused is told by the page, in words; the browser says it as well.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.wrong.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{URL}/", "data:", "blob:")):
            self.wrong.append(f"off origin: {request.url}")

    def open(self, place: str = "") -> Page:
        self.page.goto(f"{URL}/#/{place}")
        return self.page

    def log_in(self, name: str = "ada") -> Page:
        page = self.open("login")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="Dashboard").wait_for()
        return page

    def look(self, name: str) -> None:
        """A picture of the page as it is, for people."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=False)

    def axe(self) -> list[str]:
        """What axe-core finds wrong: rule and elements."""
        if not self.page.evaluate("() => 'axe' in window"):
            # By the debugger and not as an element: the content security policy holds for the page.
            self.page.evaluate(AXE.read_text() + "; 0")
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {', '.join(node['html'][:120] for node in one['nodes'][:3])}" for one in found["violations"]
        ]

    def faults(self, name: str) -> list[str]:
        """What is wrong with what is shown, in both sizes and colour schemes, with pictures: what axe-core finds,
        and what is wider than the screen."""
        found = []
        for (size, (width, height)), scheme in product(SIZES.items(), SCHEMES):
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.emulate_media(color_scheme=scheme)
            where = f"{name}-{size}-{scheme}"
            self.look(where)
            found += [f"{where}: {text}" for text in self.axe()]
            if self.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{where} is wider than the screen")
        return found

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []
