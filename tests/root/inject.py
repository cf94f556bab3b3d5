"""Sends frames of random flows from a veth as fast as one CPU can, straight into the peer's XDP program.

usage: python -m tests.root.inject INTERFACE OBJECT SECONDS SOURCES FRAME

SOURCES is the number of random bits of the source address (0: it stays), FRAME 64 bytes in hex. Prints "ready", and in
the end how many frames were sent.
"""

import ctypes
import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np

from appliance.bpf import libbpf

SETTING = np.dtype([("head", "<u8", 8), ("sum", "<u4"), ("sources", "<u4"), ("sent", "<u8")])
LIVE_FRAMES = 1 << 1
AT_ONCE = 1 << 16


def main(interface: str, path: str, seconds: str, sources: str, frame_hex: str) -> None:
    frame = bytes.fromhex(frame_hex)
    with libbpf.Object(Path(path)) as traffic:
        traffic.load()
        setting = np.frombuffer(traffic.map("settings").memory(SETTING.itemsize), SETTING)[0]
        setting["head"] = np.frombuffer(frame[:64], "<u8")
        setting["sum"] = sum(struct.unpack("<5H", frame[14:24])) + sum(struct.unpack("<2H", frame[30:34]))
        setting["sources"] = int(sources)
        context = libbpf._XdpContext(data_end=len(frame), ingress_ifindex=socket.if_nametoindex(interface))
        options = libbpf._TestRun(
            sz=ctypes.sizeof(libbpf._TestRun),
            data_in=frame,
            data_size_in=len(frame),
            ctx_in=ctypes.addressof(context),
            ctx_size_in=ctypes.sizeof(context),
            repeat=AT_ONCE,
            flags=LIVE_FRAMES,
            batch_size=64,
        )
        print("ready", flush=True)
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            fd = traffic.program("generate")
            libbpf._lib.call("send frames", "bpf_prog_test_run_opts", fd, ctypes.byref(options))
        print(int(setting["sent"]))
        del setting


if __name__ == "__main__":
    main(*sys.argv[1:])
