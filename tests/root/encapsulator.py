"""What a director does, by the kernel's own means: packets routed into a TUN device leave inside another IP packet.

The kernel writes the outer headers (a raw or UDP socket), all but the four bytes of GRE
or GUE: nothing of ours is on this side of a test.
Arguments: TUN device, outer source, outer destination, encapsulation (ipip, gre, gue).
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys

SO_NO_CHECK, UDP_NO_CHECK6_TX = 11, 101
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


def main() -> None:
    device, source, destination, encapsulation = sys.argv[1:]
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", device, "up", "mtu", "1480"], check=True)
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    port = 0
    if encapsulation == "ipip":
        senders = {version: socket.socket(family, socket.SOCK_RAW, number) for version, number in ((4, 4), (6, 41))}
        heads = {4: b"", 6: b""}
    elif encapsulation == "gre":
        senders = dict.fromkeys((4, 6), socket.socket(family, socket.SOCK_RAW, 47))
        heads = {4: bytes.fromhex("00000800"), 6: bytes.fromhex("000086dd")}
    else:
        datagrams, port = socket.socket(family, socket.SOCK_DGRAM), 6080
        if family == socket.AF_INET:
            datagrams.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        else:
            datagrams.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
        senders = dict.fromkeys((4, 6), datagrams)
        heads = {4: bytes.fromhex("00040000"), 6: bytes.fromhex("00290000")}
    for sender in set(senders.values()):
        sender.bind((source, 0))
    print("ready", flush=True)
    while True:
        packet = os.read(tun, 65535)
        if packet[0] >> 4 == 6 and packet[24] == 0xFF:
            continue  # the kernel looks for routers on the device
        try:
            version = packet[0] >> 4
            senders[version].sendto(heads[version] + packet, (destination, port))
        except OSError as error:
            print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
