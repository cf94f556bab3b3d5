"""A node that leaves waits for its last connection: with a real HAProxy."""

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.model import Config, Member, PortRange
from appliance.tier2 import runtime
from appliance.tier2.node import Node
from tests.netns import until
from tests.unit.tier2.test_haproxy import config


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A back end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


@pytest.fixture
def here(tmp_path: Path, listener: socket.socket) -> Iterator[Config]:
    """A node's configuration with one TCP proxy, all of it on this machine's loopback."""
    made = config(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = ip_address("127.0.0.1")
    proxy = replace(made.proxies[0], vips=(own,), ports=(PortRange(port, port),), http=False, certificate=None)
    back = (Member("b1", own, 1),)
    proxy = replace(
        proxy, server_port=listener.getsockname()[1], pool=replace(proxy.pool, members=back, monitors=(), follow=None)
    )
    # Paths of sockets have to be short.
    folder = Path(tempfile.mkdtemp(prefix="ow-t2-"))
    yield replace(made, proxies=(proxy,), director=replace(made.director, runtime_dir=str(folder)))
    shutil.rmtree(folder)


def test_connections_of_replaced_workers_are_waited_for(here: Config, listener: socket.socket) -> None:
    """A reload gives new connections to a new worker; the node goes on until the old one's last connection is over."""
    node = Node(here, lambda: here)
    node._paths = replace(node._paths, user="")
    node._write(here)
    process = node._start()
    wake, woken = os.pipe()
    try:
        master = Path(node._paths.master)
        with ExitStack() as stack:
            own = "127.0.0.1", here.proxies[0].ports[0].first
            held = stack.enter_context(socket.create_connection(own, 20))
            behind = stack.enter_context(listener.accept()[0])

            def replaced(workers: int) -> bool:
                try:
                    return runtime.left_behind(master) == workers
                except runtime.RuntimeApiError:
                    return False  # whoever answers is on its way

            until(partial(replaced, 0), "one worker, and a process above it that answers", 30)
            process.send_signal(signal.SIGUSR2)
            until(partial(replaced, 1), "a new worker has taken over", 30)
            until(lambda: sum(one.sessions for one in _loads(node).values()) == 0, "it has no connection", 20)
            leaving = threading.Thread(target=node._drain, args=(process, wake))
            leaving.start()
            leaving.join(2.5)
            assert leaving.is_alive()
            held.sendall(b"still here")
            assert behind.recv(16) == b"still here"
        leaving.join(30)
        assert not leaving.is_alive()
    finally:
        os.write(woken, bytes([signal.SIGTERM]))
        node._end(process)
        os.close(wake)
        os.close(woken)


def _loads(node: Node) -> dict[str, runtime.Load]:
    try:
        return dict(runtime.loads(node._stats))
    except runtime.RuntimeApiError:
        return {"": runtime.Load(-1, 0, {})}
