"""What a director does, by the kernel's own means: packets routed into a TUN device leave inside another IP packet.

The kernel writes the outer header (a raw socket of the tunnel's protocol): nothing of ours is on this side of a test.
Arguments: TUN device, outer source, outer destination.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


def main() -> None:
    device, source, destination = sys.argv[1:]
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", device, "up", "mtu", "1480"], check=True)
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    senders = {version: socket.socket(family, socket.SOCK_RAW, number) for version, number in ((4, 4), (6, 41))}
    for sender in senders.values():
        sender.bind((source, 0))
    print("ready", flush=True)
    while True:
        packet = os.read(tun, 65535)
        if packet[0] >> 4 == 6 and packet[24] == 0xFF:
            continue  # the kernel looks for routers on the device
        try:
            senders[packet[0] >> 4].sendto(packet, (destination, 0))
        except OSError as error:
            print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
