"""Datagrams with numbers in them, from a client to a VIP, and those that a member has got inside tunnels.

ha_traffic.py send ADDRESS      one every 5 ms, from always the same port, until standard input ends; prints how many
ha_traffic.py count             prints "ready"; when standard input ends, how many came, and who is missing among them
"""

import json
import select
import socket
import sys

PORT = 53
EVERY_S = 0.005
OURS = b"traffic "
"""Directors' health checks come the same way."""


def ended(seconds: float, *others: socket.socket) -> list:
    return select.select([sys.stdin, *others], [], [], seconds)[0]


def send(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sender = socket.socket(family, socket.SOCK_DGRAM)
    number = 0
    while not ended(EVERY_S):
        try:
            sender.sendto(OURS + number.to_bytes(4, "big"), (address, PORT))
        except OSError:
            pass  # no route: it counts as lost
        number += 1
    print(number)


def count() -> None:
    tunnel = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP)
    print("ready", flush=True)
    seen = set()
    while True:
        ready = ended(10.0, tunnel)
        if tunnel in ready:
            _, ours, number = tunnel.recv(2048).rpartition(OURS)
            if ours:
                seen.add(int.from_bytes(number, "big"))
        elif sys.stdin in ready:
            break
    print(json.dumps({"came": len(seen), "missing": sorted(set(range(max(seen, default=0))) - seen)}))


if __name__ == "__main__":
    send(sys.argv[2]) if sys.argv[1] == "send" else count()
