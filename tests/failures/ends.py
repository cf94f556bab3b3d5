"""The two ends of the traffic: a client that knows when it had no service, and a member that answers.

    ends.py client ADDRESS   a datagram of each of FLOWS flows every EVERY_S seconds, until standard input ends
    ends.py member ADDRESS   sends back what comes to that address, and takes TCP connections of health checks

Both print a line when they are ready. When standard input has ended, the client goes on until every flow has had an
answer, for GIVE_UP_S at most. Then it prints, as JSON, how many datagrams it had sent until standard input ended, how
many of them were not answered, how many answers came again, and each outage of a flow: from when its first unanswered
datagram went until when the next one did that was answered (null: none was), on the machine's monotonic clock. So a
client that was itself held up counts nothing for it.
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
GIVE_UP_S = 10.0


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
    twice = 0

    def hear(wait_s: float) -> bool:
        """Take answers for a while; whether standard input has ended."""
        nonlocal twice
        ended = False
        for fd, _ in poll.poll(max(0.0, wait_s)):
            if fd == 0:
                ended = True
                continue
            number = numbers[fd]
            try:
                answer = int.from_bytes(flows[number].recv(64), "big")
            except OSError:
                continue  # an ICMP error
            twice += answer in answered[number]
            answered[number].add(answer)
        return ended

    print("ready", flush=True)
    due, turn = time.monotonic(), 0
    measured: list[int] | None = None
    end = float("inf")
    while measured is None or not all(map(after, answered, measured)):
        if hear(due - time.monotonic()):
            poll.unregister(0)
            measured, end = list(map(len, sent)), time.monotonic() + GIVE_UP_S
        if (now := time.monotonic()) > end:
            break
        if now < due:
            continue
        number = turn % FLOWS
        try:
            flows[number].sendto(len(sent[number]).to_bytes(4, "big"), (address, PORT))
        except OSError:
            pass  # no route: it counts as lost
        sent[number].append(now)
        turn += 1
        due = max(due + EVERY_S / FLOWS, now)
    flows_seen = list(zip(sent, answered, measured or [], strict=True))
    outages = [outage for times, good, count in flows_seen for outage in gaps(times, good, count)]
    lost = sum(number not in good for _, good, count in flows_seen for number in range(count))
    print(json.dumps({"sent": sum(measured or []), "lost": lost, "twice": twice, "outages": outages}))


def after(good: set[int], count: int) -> bool:
    """Whether something was answered that was sent after so many."""
    return max(good, default=-1) >= count


def gaps(times: list[float], good: set[int], count: int) -> list[tuple[float, float | None]]:
    """From which first unanswered datagram of one flow, among the first so many, to which next answered one."""
    found: list[tuple[float, float | None]] = []
    began = None
    for number, at in enumerate(times):
        if number not in good:
            began = at if began is None and number < count else began
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
