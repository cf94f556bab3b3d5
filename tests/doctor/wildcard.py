"""A service whose UDP socket is bound to all addresses and answers by `sendto` alone: from any address that the kernel
takes. Beside it HTTP, so that nothing else is missing."""

import http.server
import socket
import threading


class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    web = Web(("::", 80), Quiet)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
        echo.bind(("0.0.0.0", 5000))
        print("ready", flush=True)
        while True:
            data, client = echo.recvfrom(2048)
            echo.sendto(b"m " + data, client)


if __name__ == "__main__":
    main()
