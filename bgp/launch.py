"""Runs ExaBGP, with its own arguments, without asking DNS who this machine is.

ExaBGP looks its full name up while it is being imported. Nothing of ours needs the answer (it would go into a
capability that we do not use), and where DNS does not answer, each start would wait five seconds for it: on the very
machine whose network is just coming up. Stdlib only; run by the supervisor.
"""

import runpy
import socket

if __name__ == "__main__":
    socket.getfqdn = lambda name="": name or socket.gethostname()
    runpy.run_module("exabgp", run_name="__main__", alter_sys=True)
