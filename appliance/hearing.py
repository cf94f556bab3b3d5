"""What the network tells this director's own addresses and prefixes: "too big" on the way to members (`pathmtu` says
what of it is believed). And what clients are told because of it.

Sockets get copies (`ears`): the kernel has every packet as well, and no interface is asked by name, since errors come
from anywhere. What is sent to clients bears a VIP's address and goes by the kernel's routes; where there is none, the
client's next packet that does not fit is answered by the data plane.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import structlog

from appliance.decide import Desired
from appliance.ears import Ear, OwnEar, PrefixEar
from appliance.pathmtu import Outcome, PathMtuFacts, PathMtus
from appliance.state import State

log = structlog.get_logger()

AGE_INTERVAL_S = 1.0

AT_ONCE, PAUSE_S = 64, 0.05
"""So many messages are read, then none for a while: a flood gets a few hundredths of a CPU, and its own losses."""

_KINDS = {4: (3,), 6: (2,)}
"""ICMP types that may be a "too big", by IP version."""

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Hearing:
    """Listens, ages what was learned, and puts it into the store."""

    def __init__(self, state: State, applied: Callable[[], Desired | None]) -> None:
        """
        Args:
            state: takes path MTUs.
            applied: what is in force; tells what our packets look like.
        """
        self._state = state
        self._applied = applied
        self._paths = PathMtus()
        self._ears: list[Ear] = []
        self._mouths: dict[int, socket.socket] = {}
        self._deaf = ""

    def facts(self) -> PathMtuFacts:
        """What was heard so far."""
        return replace(self._paths.facts(), deaf=self._deaf)

    async def run(self) -> None:
        """Listen until cancelled."""
        self._open()
        loop = asyncio.get_running_loop()
        try:
            for ear in self._ears:
                self._listen(loop, ear)
            while True:
                await asyncio.sleep(AGE_INTERVAL_S)
                for member in self._paths.age(time.time()):
                    log.info("mtu.forgotten", member=member, hint="larger packets are tried again")
                self._state.set_path_mtus(self._paths.learned)
        finally:
            for ear in self._ears:
                loop.remove_reader(ear.fileno())
                ear.close()
            for mouth in self._mouths.values():
                mouth.close()
            self._ears.clear()

    def _open(self) -> None:
        for version in (4, 6):
            try:
                self._mouths[version] = _mouth(version)
                self._ears.append(OwnEar(version, _KINDS[version]))
                for prefix in self._state.config.director.outer_source_prefixes:
                    if prefix.version == version:
                        self._ears.append(PrefixEar(prefix, _KINDS[version]))
            except OSError as error:
                self._deaf = f"IPv{version}: {error}"
                log.warning("mtu.deaf", version=version, error=str(error), hint="packets larger than the way get lost")

    def _listen(self, loop: asyncio.AbstractEventLoop, ear: Ear) -> None:
        if ear in self._ears:
            loop.add_reader(ear.fileno(), self._read, loop, ear)

    def _read(self, loop: asyncio.AbstractEventLoop, ear: Ear) -> None:
        for _ in range(AT_ONCE):
            try:
                told = ear.read()
            except BlockingIOError:
                return
            except OSError:
                continue  # an error of the socket is told once; what it was about is not for us
            if told is not None:
                self._hear(told.message, ear.version)
        loop.remove_reader(ear.fileno())
        loop.call_later(PAUSE_S, self._listen, loop, ear)

    def _hear(self, message: bytes, version: int) -> None:
        applied = self._applied()
        if applied is None:
            return
        least = self._state.config.director.least_path_mtu
        heard = self._paths.hear(message, version, applied.tables, time.time(), least)
        if heard.outcome is Outcome.LEARNED:
            log.info("mtu.learned", member=heard.member, mtu=heard.mtu)
            self._state.set_path_mtus(self._paths.learned)
        if heard.answer is not None:
            self._say(heard.answer)

    def _say(self, packet: bytes) -> None:
        version = packet[0] >> 4
        client = ip_address(packet[16:20] if version == 4 else packet[24:40])
        try:
            self._mouths[version].sendto(packet, (str(client), 0))
        except OSError as error:
            log.debug("mtu.not_told", client=client, error=os.strerror(error.errno or 0))


def _mouth(version: int) -> socket.socket:
    """Sends whole IP packets, whose source is no address of this machine (raw(7): IPPROTO_RAW)."""
    return socket.socket(_FAMILY[version], socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
