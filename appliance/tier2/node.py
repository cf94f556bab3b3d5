"""A node of the second tier at work: tunnels and VIPs, HAProxy, and the folder that says who is there.

start    VIPs, firewall, tunnels (server/machine.py) ─▶ HAProxy ─▶ a back end answers ─▶ registered
leaving  not registered any more ─▶ directors send no new flows ─▶ the last connection is over ─▶ HAProxy ends ─▶
         everything is taken back
"""

import os
import pwd
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from appliance.config.problems import ConfigError
from appliance.model import Config, IPAddress, Proxy, Role, Tier2, VirtualService
from appliance.notify import tell
from appliance.server import machine
from appliance.server.plan import Plan, PlanError, plan_for
from appliance.tier2 import haproxy, registry, runtime
from appliance.tier2.store import Stored

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LOOK_S = 0.5
"""Between two looks at HAProxy."""

HAPROXY_USER = "haproxy"
START_S = 15.0
END_S = 10.0
KEEP_S = 3.0
"""Between two times that the node says that it is there: somebody may have emptied the folder, and leases run out."""

NOTICE = 2.0
"""A director has noticed that a node has left after so many of its intervals, and a second for the change."""


Place = registry.Folder | Stored


class NodeError(Exception):
    """The node cannot begin or go on; the text says why and what to do."""


@dataclass(frozen=True)
class Serving:
    """A proxy, and the virtual service in front of it."""

    proxy: Proxy
    service: VirtualService

    def place(self, config: Config) -> registry.Folder | Stored | None:
        """Where the node registers for it; None where nothing follows nodes but an operator, or DNS."""
        pool = self.service.pool
        if pool.follow is None:
            return None
        if pool.follow.store and config.fleet.etcd is not None:
            return Stored(config.fleet.etcd, pool.name)
        return registry.Folder(Path(pool.follow.folder)) if pool.follow.folder is not None else None


def servings(config: Config) -> tuple[Serving, ...]:
    """Every proxy with each virtual service that attracts traffic for it."""
    return tuple(
        Serving(proxy, service)
        for proxy in config.proxies
        for service in config.services
        if service.enabled and set(service.vips) & set(proxy.vips)
        if any(a.first <= b.first and b.last <= a.last for a in service.ports for b in proxy.ports)
    )


def plan_of_node(config: Config) -> Plan:
    """What the node's machine needs.

    Raises:
        NodeError: the configuration is not that of a node, or there is nothing to do.
        PlanError: it is not known where directors send from.
    """
    node = _tier2(config)
    services = list({one.service.name: one.service for one in servings(config)}.values())
    if not services:
        raise NodeError(
            "no virtual service has traffic = false, so there is nothing for a node of the second tier to do"
        )
    return plan_for(
        config,
        config.director.name,
        [(service, _reached(service, node)) for service in services],
        sources=node.sources,
        decapsulator=node.decapsulator,
        interface=config.director.interfaces[0],
        mtu=node.mtu,
    )


def _tier2(config: Config) -> Tier2:
    if config.tier2 is None or config.director.role is not Role.TIER2:
        raise NodeError(
            'this is the configuration of a director; a node needs role = "tier2" in [director], and [tier2]'
        )
    return config.tier2


def _reached(service: VirtualService, node: Tier2) -> tuple[IPAddress, ...]:
    """By which of the node's addresses a virtual service's directors send to it."""
    follow = service.pool.follow
    versions = {follow.version} if follow is not None else {member.address.version for member in service.pool.members}
    return tuple(address for address in node.addresses if address.version in versions)


def paths_in(folder: Path) -> haproxy.Paths:
    """Of a node's runtime directory; workers become the user that comes with HAProxy, where there is one."""
    try:
        user = pwd.getpwnam(HAPROXY_USER).pw_name
    except KeyError:
        user = ""
    return haproxy.Paths(str(folder / "haproxy.sock"), str(folder / "haproxy-master.sock"), user)


class Node:
    """A node that runs."""

    def __init__(self, config: Config, read: Callable[[], Config]) -> None:
        """
        Args:
            config: to begin with.
            read: what the files say now; raises ConfigError.
        """
        self._config = config
        self._read = read
        self._folder = Path(config.director.runtime_dir)
        self._paths = paths_in(self._folder)
        self._file = self._folder / "haproxy.cfg"
        self._stats = Path(self._paths.stats)
        self._record = machine.Record.read(self._folder / "server-setup.json")
        self._registered: dict[Place, registry.Entry] = {}
        self._written = 0.0
        self._trouble: dict[Place, str] = {}

    def run(self) -> None:
        """Until SIGTERM or SIGINT; SIGHUP reads the configuration again.

        Raises:
            NodeError, MachineError, PlanError, ProxyError: it cannot begin, or HAProxy has ended by itself.
        """
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        self._folder.mkdir(parents=True, exist_ok=True)
        machine.apply(plan_of_node(self._config), self._record)
        try:
            self._write(self._config)
            process = self._start()
            try:
                log.info("proxy.started", name=self._config.director.name, pid=process.pid)
                _tell("READY=1")
                self._serve(process, wake)
            finally:
                self._leave()
                self._drain(process, wake)
                self._end(process)
        finally:
            machine.undo(self._record)
            log.info("proxy.stopped")

    def _serve(self, process: "subprocess.Popen[bytes]", wake: int) -> None:
        while True:
            if process.poll() is not None:
                raise NodeError(f"HAProxy has ended with exit code {process.returncode}")
            self._register()
            numbers = _signals(wake, LOOK_S)
            if signal.SIGHUP in numbers:
                self._reload(process)
            if numbers & {signal.SIGTERM, signal.SIGINT}:
                return

    # ---- HAProxy

    def _write(self, config: Config) -> None:
        """
        Raises:
            NodeError: HAProxy does not take the file; that in force stays.
        """
        new = self._file.with_name("haproxy.cfg.new")
        new.write_text(haproxy.text(config.proxies, self._paths))
        program = _tier2(config).haproxy
        try:
            done = subprocess.run([program, "-c", "-q", "-f", str(new)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise NodeError(f"{program} is missing; apt-get install haproxy") from None
        if done.returncode:
            raise NodeError(f"HAProxy does not take {new}: {done.stderr.strip()}")
        new.replace(self._file)

    def _start(self) -> "subprocess.Popen[bytes]":
        # A process that supervises workers: a new configuration gets the sockets of the old one, and loses nothing.
        command = [_tier2(self._config).haproxy, "-W", "-db", "-S", self._paths.master, "-f", str(self._file)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + START_S
        while True:
            try:
                runtime.loads(self._stats)
                return process
            except runtime.RuntimeApiError as error:
                if process.poll() is not None or time.monotonic() > end:
                    process.kill()
                    process.wait()
                    raise NodeError(f"HAProxy does not start: {error}") from None
            time.sleep(0.05)

    def _reload(self, process: "subprocess.Popen[bytes]") -> None:
        """Weights and who is enabled are told to the process that runs; anything else takes a new one."""
        try:
            config = self._read()
            if plan_of_node(config) != plan_of_node(self._config) or config.director != self._config.director:
                raise NodeError("VIPs, ports, addresses and tunnels of a node take a restart (nothing was applied)")
            words = list(_orders(self._config.proxies, config.proxies))
            same = _without_shares(config.proxies) == _without_shares(self._config.proxies)
            self._write(config)
            if same:
                for word in words:
                    runtime.order(self._stats, word)
            else:
                process.send_signal(signal.SIGUSR2)
        except (ConfigError, NodeError, PlanError, haproxy.ProxyError, runtime.RuntimeApiError) as error:
            log.error("proxy.reload_failed", error=str(error))
            return
        self._config = config
        log.info("proxy.reloaded", orders=len(words) if same else None)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(signal.SIGUSR1)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()

    # ---- who is there

    def _register(self) -> None:
        """A proxy that has a back end is registered, and one that has lost all is not any more."""
        try:
            loads = runtime.loads(self._stats)
        except runtime.RuntimeApiError:
            return  # a new worker is on its way; should HAProxy be gone, its process will say so
        wanted: dict[Place, registry.Entry] = {}
        missing: set[Place] = set()
        for serving in servings(self._config):
            place = serving.place(self._config)
            if place is None:
                continue
            load = loads.get(serving.proxy.name)
            if load is None or not load.serving:
                missing.add(place)
            wanted[place] = registry.Entry(self._config.director.name, _tier2(self._config).addresses)
        for place in missing:
            # Of two proxies behind one pool both have to serve: directors send to the node for either.
            wanted.pop(place)
        for place in [place for place in self._registered if place not in wanted]:
            self._unregister(place, "no back end is up")
        again = time.monotonic() - self._written >= KEEP_S
        for place in wanted:
            # Those that are there are compared by what they are: the one from before knows its lease.
            known = next((one for one in self._registered if one == place), place)
            if again or self._registered.get(place) != wanted[place]:
                self._write_down(known, wanted[place])
        if again:
            self._written = time.monotonic()

    def _write_down(self, place: Place, entry: registry.Entry) -> None:
        try:
            place.write(entry)
        except OSError as error:
            if self._trouble.get(place) != str(error):
                self._trouble[place] = str(error)
                log.error("proxy.not_registered", place=str(place), error=str(error))
            return
        self._trouble.pop(place, None)
        if self._registered.get(place) != entry:
            self._registered[place] = entry
            log.info("proxy.registered", place=str(place))

    def _unregister(self, place: Place, why: str) -> None:
        try:
            place.remove(self._config.director.name)
        except OSError as error:
            log.error("proxy.not_unregistered", place=str(place), error=str(error))
            return
        del self._registered[place]
        log.info("proxy.unregistered", place=str(place), reason=why)

    def _leave(self) -> None:
        _tell("STOPPING=1")
        for place in list(self._registered):
            self._unregister(place, "the node ends")

    def _drain(self, process: "subprocess.Popen[bytes]", wake: int) -> None:
        """Until directors have noticed and the last connection is over. A second signal ends it at once."""
        intervals = [one.service.pool.follow.interval_s for one in servings(self._config) if one.service.pool.follow]
        noticed = time.monotonic() + NOTICE * max(intervals, default=0.0) + 1.0
        end = noticed + _tier2(self._config).drain_timeout_s
        while process.poll() is None:
            try:
                left = sum(load.sessions for load in runtime.loads(self._stats).values())
                left += runtime.left_behind(Path(self._paths.master))
            except runtime.RuntimeApiError:
                return
            now = time.monotonic()
            if not left and now >= noticed:
                return
            if now >= end:
                log.warning("proxy.drain_timeout", connections=left)
                return
            if _signals(wake, LOOK_S) & {signal.SIGTERM, signal.SIGINT}:
                return


def _tell(text: str) -> None:
    try:
        tell(text, os.environ)
    except OSError as error:
        log.warning("proxy.supervisor_not_told", error=str(error))


def _signals(wake: int, wait_s: float) -> set[int]:
    """Those that came within that time, if any."""
    ready, _, _ = select.select([wake], [], [], wait_s)
    return set(os.read(wake, 64)) if ready else set()


def _orders(before: tuple[Proxy, ...], after: tuple[Proxy, ...]) -> Iterator[str]:
    """Commands of the runtime API that turn one share of back ends into the other."""
    old = {proxy.name: proxy for proxy in before}
    for proxy in after:
        if proxy.name not in old:
            continue
        was: Mapping[str, int] = haproxy.weights(old[proxy.name])
        enabled = {member.name: member.enabled for member in old[proxy.name].pool.members}
        for member in proxy.pool.members:
            server = f"{haproxy.backend(proxy)}/{member.name}"
            if member.name in was and was[member.name] != haproxy.weights(proxy)[member.name]:
                yield f"set server {server} weight {haproxy.weights(proxy)[member.name]}"
            if member.name in enabled and enabled[member.name] != member.enabled:
                # Drained and not stopped: it goes on with the connections it has.
                yield f"set server {server} state {'ready' if member.enabled else 'drain'}"


def _without_shares(proxies: tuple[Proxy, ...]) -> tuple[Proxy, ...]:
    """The proxies, but for what the runtime API can change."""
    return tuple(
        replace(
            proxy,
            pool=replace(
                proxy.pool,
                follow=None,
                members=tuple(replace(member, ratio=1, enabled=True) for member in proxy.pool.members),
            ),
        )
        for proxy in proxies
    )
