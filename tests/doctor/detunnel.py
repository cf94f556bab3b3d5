"""What a kernel's tunnel device does: IP in IP for this machine comes out of a device, whoever has sent it.

For kernels without the module `ipip`. With `--corrupt` what comes out has a wrong TCP or UDP checksum, as with an
offload that fails.
Arguments: device, own address, and maybe `--corrupt`.
"""

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
CHECKSUM = {6: 16, 17: 6}


def main() -> None:
    device, address, corrupt = sys.argv[1], sys.argv[2], "--corrupt" in sys.argv
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", device, "up", "mtu", "1480"], check=True)
    subprocess.run(["ip", "address", "add", "127.0.0.42/32", "dev", device], check=True)
    ears = [socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) for protocol in (4, 41)]
    for ear in ears:
        ear.bind((address, 0))
    print("ready", flush=True)
    while True:
        for ear in select.select(ears, [], [])[0]:
            packet = ear.recv(65535)
            inner = bytearray(packet[(packet[0] & 15) * 4 :])
            four = inner[0] >> 4 == 4
            protocol, l4 = (inner[9], (inner[0] & 15) * 4) if four else (inner[6], 40)
            if corrupt and protocol in CHECKSUM:
                inner[l4 + CHECKSUM[protocol]] ^= 0x55
            os.write(tun, bytes(inner))


if __name__ == "__main__":
    main()
