"""Stands in for ExaBGP: starts the guard that a configuration names, and answers its commands. No BGP.

    fake_exabgp.py validate FILE      0, or 1 when the file has the word "invalid" in it
    fake_exabgp.py server FILE        run

Every command of the guard goes to standard output. Lines on standard input control it:

    emit TEXT       write TEXT to the guard
    mute, unmute    answer nothing (and forget the question), answer again
    respawn         kill the guard and start another, which gets one stray answer, as it does from ExaBGP
    stall, go on    do not read, read again

Routes for 203.0.113.66 are refused, commands for 203.0.113.67 never answered.
"""

import json
import os
import re
import select
import shlex
import subprocess
import sys
from pathlib import Path


def peer_event(peer: str, kind: str, **content: object) -> str:
    return json.dumps({"exabgp": "5.0.0", "type": kind, "neighbor": {"address": {"peer": peer}, **content}})


def update(peer: str, **content: object) -> str:
    return peer_event(peer, "update", direction="send", message={"update": content})


class FakeExaBgp:
    def __init__(self, configuration: str) -> None:
        self.peers = re.findall(r"^neighbor (\S+)", configuration, re.MULTILINE)
        self.run = shlex.split(re.search(r"^ *run (.*);$", configuration, re.MULTILINE)[1])
        self.rib = {}
        self.torn_down = []
        self.muted = False
        self.stalled = False
        self.controlled = True
        self.start()

    def start(self) -> None:
        self.guard = subprocess.Popen(self.run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.partial = {self.guard.stdout.fileno(): b"", 0: b""}

    def write(self, *lines: str) -> None:
        self.guard.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def greet(self) -> None:
        for peer in self.peers:
            self.write(peer_event(peer, "state", state="up"))

    def lines(self, fd: int) -> list[str] | None:
        data = os.read(fd, 1 << 16)
        *lines, self.partial[fd] = (self.partial[fd] + data).split(b"\n")
        return [line.decode() for line in lines] if data else None

    def command(self, line: str) -> None:
        print(line, flush=True)
        if self.muted or "203.0.113.67" in line:
            return
        words, peers = line.split(), self.peers
        if words[0] == "neighbor" and "teardown" not in words:
            peers = []
            while words[0] in (",", "neighbor"):
                peers += [words[1]] if words[0] == "neighbor" else []
                words = words[2 if words[0] == "neighbor" else 1 :]
        match words:
            case ["reset"]:
                pass
            case ["version"]:
                self.write("exabgp 5.0.15", "done")
            case ["show", "neighbor", "summary"]:
                self.write("Peer            AS        up/down state       |     #sent     #recvd")
                for peer in self.peers:
                    age, state = ("down", "connect") if peer in self.torn_down else ("1 day, 0:01:02", "established")
                    self.write(f"{peer:<15} 65000   {age:>9} {state:<12}          2          0")
                self.write("done")
            case ["show", "adj-rib", "out"]:
                self.write(*(f"192.0.2.1 ipv4 unicast {p} next-hop {hop}" for p, hop in self.rib.items()), "done")
            case ["announce", "route", prefix, "next-hop", hop, *_] if "203.0.113.66" not in prefix:
                self.announce([prefix], hop, peers)
            case ["announce", "attributes", "next-hop", hop, *rest] if "203.0.113.66/32" not in rest:
                self.announce(rest[rest.index("nlri") + 1 :], hop, peers)
            case ["withdraw", "route", prefix]:
                self.withdraw([prefix], peers)
            case ["withdraw", "attributes", "next-hop", _, "nlri", *prefixes]:
                self.withdraw(prefixes, peers)
            case ["neighbor", peer, "teardown", code]:
                down = peer_event(peer, "state", state="down", reason=f"notification sent (6,{code})")
                self.write("done", down)
                self.torn_down.append(peer)
            case ["#", *_]:
                self.write("done")
            case _:
                self.write("error")

    def announce(self, prefixes: list[str], hop: str, peers: list[str]) -> None:
        self.rib.update(dict.fromkeys(prefixes, hop))
        family = "ipv6 unicast" if ":" in prefixes[0] else "ipv4 unicast"
        told = {family: {hop: [{"nlri": prefix} for prefix in prefixes]}}
        self.write("done", *(update(peer, announce=told) for peer in peers))

    def withdraw(self, prefixes: list[str], peers: list[str]) -> None:
        if peers == self.peers:
            for prefix in prefixes:
                self.rib.pop(prefix, None)
        told = {"ipv4 unicast": [{"nlri": prefix} for prefix in prefixes]}
        self.write("done", *(update(peer, withdraw=told) for peer in peers))

    def control(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        if verb == "emit":
            self.write(rest)
        elif verb in ("mute", "unmute"):
            self.muted = verb == "mute"
        elif verb in ("stall", "go"):
            self.stalled = verb == "stall"
        elif verb == "respawn":
            self.guard.kill()
            self.guard.wait()
            self.start()
            self.write("done")

    def serve(self) -> None:
        self.greet()
        while True:
            guard = self.guard.stdout.fileno()
            watched = [] if self.stalled else [guard]
            wait = 0.1 if self.torn_down else None
            readable = select.select([*watched, *([0] if self.controlled else [])], [], [], wait)[0]
            if not readable:
                self.write(*(peer_event(peer, "state", state="up") for peer in self.torn_down))
                self.torn_down.clear()
            if guard in readable:
                if (lines := self.lines(guard)) is None:
                    self.start()
                for line in lines or []:
                    self.command(line)
            if 0 in readable:
                lines = self.lines(0)
                self.controlled = lines is not None
                for line in lines or []:
                    self.control(line)


if __name__ == "__main__":
    text = Path(sys.argv[-1]).read_text()
    if sys.argv[1] == "validate":
        print("fake validation")
        sys.exit("invalid" in text)
    FakeExaBgp(text).serve()
