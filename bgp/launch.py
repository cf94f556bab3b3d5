"""Runs ExaBGP, with its own arguments, without asking DNS who this machine is; and ends it when its guard hangs.

ExaBGP looks its full name up while it is being imported. Nothing of ours needs the answer (it would go into a
capability that we do not use), and where DNS does not answer, each start would wait five seconds for it: on the very
machine whose network is just coming up.

The guard watches ExaBGP and the director, and this watches the guard: one that hangs could not withdraw anything when
the director dies. It shows that it lives by a datagram every BEAT_S. Stdlib only; run by the supervisor.
"""

import os
import runpy
import signal
import socket
import sys
import threading
from pathlib import Path

BEAT_S = 0.25
SILENCES = 6
"""The guard hangs when it was not heard in so many waits. Counted in waits that ended without a word, and not by the
clock: after this process was held up itself, what has been there all the time must not count against the guard. A guard
that has died is replaced within this time."""


def watch(beats: socket.socket) -> None:
    """End this process, and with it all sessions, when no guard beats any more; routers see that at once."""
    beats.recv(1)  # the first one takes as long as it takes: nothing is announced without it
    beats.settimeout(BEAT_S)
    silences = 0
    while silences < SILENCES:
        try:
            beats.recv(1)
        except TimeoutError:
            silences += 1
        else:
            silences = 0
    print("guard           does not answer: ended, so that no route outlives it", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def hear(path: Path) -> socket.socket:
    """Where the guard beats: for our own user only."""
    path.unlink(missing_ok=True)
    beats = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    beats.bind(str(path))
    path.chmod(0o600)
    return beats


if __name__ == "__main__":
    socket.getfqdn = lambda name="": name or socket.gethostname()
    if sys.argv[1] == "server":
        beats = hear(Path(sys.argv[2]).with_name("exabgp.beat"))
        threading.Thread(target=watch, args=(beats,), daemon=True).start()
    runpy.run_module("exabgp", run_name="__main__", alter_sys=True)
