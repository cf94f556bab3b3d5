"""The members' service of the lab."""

import os
from collections.abc import Iterator

import pytest

from appliance.lab.node import Node
from appliance.lab.runner import Lab

pytestmark = pytest.mark.root

TOPOLOGY = """
name: "@NAME"
prefix: "@NAME"
topology:
  nodes:
    client: {exec: [ip route add 198.51.100.7 via 192.0.2.1, "ip route add 2001:db8:f::7 via 2001:db8:1::1"]}
    member:
      image: onward
      cmd: lab responder --name blue
      exec: [ip address add 198.51.100.7/32 dev lo, "ip address add 2001:db8:f::7/128 dev lo nodad"]
      labels: {onward.ready: "bash -c '</dev/tcp/127.0.0.1/80'"}
  links:
    - endpoints: ["client:eth1", "member:eth1"]
      ipv4: [192.0.2.2/24, 192.0.2.1/24]
      ipv6: ["2001:db8:1::2/64", "2001:db8:1::1/64"]
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    file = tmp_path_factory.mktemp("responder") / "responder.clab.yml"
    file.write_text(TOPOLOGY.replace("@NAME", f"owlr{os.getpid()}"))
    with Lab.up(file) as lab:
        lab.wait()
        yield lab.node("client")


ECHO = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as client:
    client.settimeout(5)
    client.connect((sys.argv[1], 5000))   # takes answers from that very address only
    for text in (b"one", b"", b"x" * 1400):
        client.send(text)
        assert client.recv(2000) == b"blue " + text
"""


@pytest.mark.parametrize("address", ["192.0.2.1", "198.51.100.7", "2001:db8:1::1", "2001:db8:f::7"])
def test_datagrams_are_answered_from_the_address_they_came_to(client: Node, address: str) -> None:
    """The node's own address and a VIP alike answer as themselves, IPv4 and IPv6."""
    client.run(["python3", "-c", ECHO, address])


FETCH = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://198.51.100.7" + sys.argv[1], timeout=5).read().decode(), end="")
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode(), end="")
"""


def test_who_answered_and_whom(client: Node) -> None:
    """The root page says the node's name and the client's address and port."""
    name, address, port = client.run(["python3", "-c", FETCH, "/"]).stdout.split()
    assert (name, address) == ("blue", "192.0.2.2")
    assert int(port) > 0


def test_a_connection_that_lasts(client: Node) -> None:
    """A slow answer comes line by line, numbered."""
    answer = client.run(["python3", "-c", FETCH, "/slow?seconds=0.3&interval=0.1"])
    assert answer.stdout == "blue 0\nblue 1\nblue 2\n"


def test_wrong_sizes_are_refused(client: Node) -> None:
    """A size out of range, or none at all, is a client's mistake."""
    for size in ("-1", "1e12", "x"):
        answer = client.run(["python3", "-c", FETCH, f"/blob?size={size}"])
        assert answer.stdout == f"400 size: {size} is not a number from 0 to 1.07374e+09\n"
