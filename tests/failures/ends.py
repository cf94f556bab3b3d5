"""The two ends of the traffic: a client that knows when it had no service, and a member that answers.

    ends.py client ADDRESS   a datagram of each of FLOWS flows every EVERY_S seconds, until standard input ends
    ends.py member ADDRESS   sends back what comes to that address, and takes TCP connections of health checks

Both print a line when they are ready. In the end the client prints, as JSON, how many datagrams it has sent, how many
of them were not answered, and each outage of a flow: from when its first unanswered datagram went until when the next
one did that was answered (null: none was), on the machine's monotonic clock. So a client that was itself held up counts
nothing for it.
"""

import json
import select
import socket
import sys
import time

FLOWS = 16
EVERY_S = 0.01
PORT = 53
CHECK_PORT = 8080
PATIENCE_S = 0.5
"""How long to wait for the last answers."""


def client(address: str) -> None:
    flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(FLOWS)]
    numbers = {flow.fileno(): number for number, flow in enumerate(flows)}
    poll = select.epoll()
    for flow in flows:
        flow.setblocking(False)
        flow.bind(("", 0))
        poll.register(flow, select.EPOLLIN)
    poll.register(0, select.EPOLLIN)
    sent: list[list[float]] = [[] for _ in flows]
    answered: list[set[int]] = [set() for _ in flows]

    def hear(wait_s: float) -> bool:
        """Take answers for a while; whether standard input has ended."""
        ended = False
        for fd, _ in poll.poll(max(0.0, wait_s)):
            if fd == 0:
                ended = True
                continue
            number = numbers[fd]
            try:
                answered[number].add(int.from_bytes(flows[number].recv(64), "big"))
            except OSError:
                pass  # an ICMP error
        return ended

    print("ready", flush=True)
    due, turn = time.monotonic(), 0
    while True:
        if hear(due - time.monotonic()):
            break
        if (now := time.monotonic()) < due:
            continue
        number = turn % FLOWS
        try:
            flows[number].sendto(len(sent[number]).to_bytes(4, "big"), (address, PORT))
        except OSError:
            pass  # no route: it counts as lost
        sent[number].append(now)
        turn += 1
        due = max(due + EVERY_S / FLOWS, now)
    poll.unregister(0)
    end = time.monotonic() + PATIENCE_S
    while (left := end - time.monotonic()) > 0:
        hear(left)
    outages = [outage for times, good in zip(sent, answered, strict=True) for outage in gaps(times, good)]
    count = sum(map(len, sent))
    print(json.dumps({"sent": count, "lost": count - sum(map(len, answered)), "outages": outages}))


def gaps(times: list[float], good: set[int]) -> list[tuple[float, float | None]]:
    """From which first unanswered datagram of one flow to which next answered one."""
    found: list[tuple[float, float | None]] = []
    began = None
    for number, at in enumerate(times):
        if number not in good:
            began = at if began is None else began
        elif began is not None:
            found.append((began, at))
            began = None
    if began is not None:
        found.append((began, None))
    return found


def member(address: str) -> None:
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind((address, PORT))
    checks = socket.create_server(("", CHECK_PORT))
    print("ready", flush=True)
    while True:
        for ready in select.select([echo, checks], [], [])[0]:
            if ready is checks:
                checks.accept()[0].close()
            else:
                echo.sendto(*echo.recvfrom(2048))


if __name__ == "__main__":
    {"client": client, "member": member}[sys.argv[1]](sys.argv[2])
