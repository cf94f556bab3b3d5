"""Prints who sends BGP UPDATEs on eth1, and when: a line `seconds address` each, by this machine's clock."""

import socket
import time

ETH_P_IP = 0x0800
BGP_PORT = 179
MARKER, UPDATE = b"\xff" * 16, 2

with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as wire:
    wire.bind(("eth1", ETH_P_IP))
    print("ready", flush=True)
    while True:
        frame = wire.recv(65536)
        at, packet = time.time(), frame[14:]
        tcp = packet[4 * (packet[0] & 15) :]
        if packet[9] != socket.IPPROTO_TCP or BGP_PORT not in (
            int.from_bytes(tcp[:2], "big"),
            int.from_bytes(tcp[2:4], "big"),
        ):
            continue
        rest = tcp[4 * (tcp[12] >> 4) :]
        while rest[:16] == MARKER:
            if rest[18] == UPDATE:
                print(at, socket.inet_ntoa(packet[12:16]), flush=True)
            rest = rest[max(19, int.from_bytes(rest[16:18], "big")) :]
