"""`onward capture`: packets for VIPs and what became of them, as a pcapng file."""

import http.client
import sys
from pathlib import Path
from typing import Annotated, BinaryIO, Literal
from urllib.parse import urlencode

from cyclopts import Parameter

from appliance.capture.pcap import TAIL, lost_of
from appliance.cli.orders import ConfigOption, OrderError, SocketOption, refused, stream, where
from appliance.cli.output import Exit, complain, warn
from appliance.cli.progress import progress

_CHUNK = 1 << 16


def capture(
    file: Path,
    /,
    *,
    vip: str | None = None,
    client: str | None = None,
    service: str | None = None,
    member: str | None = None,
    verdict: str | None = None,
    side: Literal["in", "out", "both"] = "both",
    count: int = 1000,
    seconds: float = 60,
    size: Annotated[int, Parameter(name="--bytes")] = 64 << 20,
    snaplen: int = 4096,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> int:
    """Write packets for VIPs to a pcapng file, each with what the director did with it as its comment.

    Of each packet there is the frame as it arrived and the one that left (outer headers, inner packet and all), taken
    in the data plane itself: on the wire, tcpdump sees neither what XDP takes nor what AF_XDP sends. Replies are not in
    it, since they never pass a director. Packets that are for no VIP are not, either. Wireshark shows the comment
    (frame.comment), tcpdump and others pass it over.

    The capture ends with the first limit that is reached, or with Ctrl-C. One capture at a time. While it goes on,
    forwarding costs more, and with many packets some find no room: how many is told, and stands in the file.

    Exit codes: 0 done; 1 refused; 3 no director answers; 5 there is no such VIP, virtual service or member.

    Parameters
    ----------
    file
        Where to write; - is the standard output.
    vip
        Packets for this VIP only.
    client
        Packets of this client only, an address or a prefix such as 192.0.2.0/24.
    service
        Packets of this virtual service only.
    member
        Packets that went to this POOL/MEMBER only.
    verdict
        Packets with this end only: transmit, drop, or the reason of a drop, such as no_service.
    side
        Frames as they arrived, as they left, or both.
    count
        End after so many packets.
    seconds
        End after so long.
    size
        End before the file is larger than so many bytes.
    snaplen
        Keep so many bytes of each frame at most, 64 to 4096.
    """
    wishes = {
        "vip": vip,
        "client": client,
        "service": service,
        "member": member,
        "verdict": verdict,
        "side": side,
        "frames": count,
        "seconds": seconds,
        "bytes": size,
        "snaplen": snaplen,
    }
    query = urlencode({key: value for key, value in wishes.items() if value is not None})
    try:
        path = where(socket, config)
        with stream(path, f"/v1/capture?{query}", seconds) as answer:
            if str(file) == "-":
                return _copy(answer, sys.stdout.buffer)
            with file.open("wb") as target:
                return _copy(answer, target)
    except OrderError as error:
        return refused(error)
    except (ConnectionResetError, http.client.HTTPException, TimeoutError):
        complain("the director is gone; what it has captured until then is there")
        return Exit.FAILED
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(f"{file}: {error.strerror or error}")
        return Exit.FAILED


def _copy(answer: http.client.HTTPResponse, target: BinaryIO) -> int:
    end, written = b"", 0
    try:
        with progress("capturing; Ctrl-C ends it") as shown:
            while piece := answer.read1(_CHUNK):
                target.write(piece)
                target.flush()
                end = (end + piece)[-TAIL:]
                written += len(piece)
                shown.text = f"capturing, {written >> 10} KiB so far; Ctrl-C ends it"
    except KeyboardInterrupt:
        return Exit.OK  # what was captured stays
    if lost := lost_of(end):
        warn(f"{lost} packets found no room; capture fewer (--vip, --client) or less of each (--snaplen)")
    return Exit.OK
