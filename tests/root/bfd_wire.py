"""Runs inside a namespace: one line of JSON for each BFD packet on an interface, with the kernel's time stamps.

python -m tests.root.bfd_wire INTERFACE 4|6
"""

import json
import os
import socket
import struct
import sys
from ipaddress import ip_address

from bgp.bfd.packet import decode

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SO_TIMESTAMPNS = 35


def main() -> None:
    interface, version = sys.argv[1], int(sys.argv[2])
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # frames must not be lost on a busy machine
    except OSError:
        pass
    kind = 0x0800 if version == 4 else 0x86DD
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))  # others do not see what goes out
    tap.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    tap.bind((interface, ETH_P_ALL))
    print("ready", flush=True)
    while True:
        data, extra, _flags, address = tap.recvmsg(2048, 256)
        header = 20 if version == 4 else 40
        if address[1] != kind or len(data) < header + 32 or data[9 if version == 4 else 6] != socket.IPPROTO_UDP:
            continue
        source_port, port = struct.unpack_from("!HH", data, header)
        if port not in (3784, 4784):
            continue
        seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16])
        packet = decode(data[header + 8 :])
        seen = {
            "at": seconds + nanoseconds / 1e9,
            "outgoing": address[2] == PACKET_OUTGOING,
            "source": str(ip_address(data[12:16] if version == 4 else data[8:24])),
            "source_port": source_port,
            "hop_limit": data[8] if version == 4 else data[7],
            "traffic_class": data[1] if version == 4 else (data[0] << 8 | data[1]) >> 4 & 0xFF,
            "state": str(packet.state),
            "diag": packet.diag,
            "poll": packet.poll,
            "final": packet.final,
            "multiplier": packet.multiplier,
            "desired_min_tx_us": packet.desired_min_tx_us,
            "required_min_rx_us": packet.required_min_rx_us,
        }
        print(json.dumps(seen), flush=True)


main()
