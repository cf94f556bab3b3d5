"""An API process of ExaBGP as one writes it first: what comes from a UNIX socket goes to ExaBGP, answers to nobody."""

import os
import select
import socket
import sys

with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    caller, _ = listener.accept()
    while True:
        for ready in select.select([0, caller], [], [])[0]:
            data = os.read(0, 1 << 16) if ready == 0 else caller.recv(1 << 16)
            if not data:
                sys.exit()
            while data and ready is caller:
                data = data[os.write(1, data) :]
