"""A QUIC server on a member: it answers each line with its own name, and makes connection IDs as it is told.

`python -m tests.root.quic_server NAME FOLDER CERTIFICATE KEY DOCUMENT [ADDRESS INDEX]...`; DOCUMENT is what `onward
quic config --json` says of all members, with key files in FOLDER. At each ADDRESS, connection IDs are made by the row
of that INDEX, or by chance without one. Prints a line when it listens.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aioquic.quic.connection
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration

from appliance.model import QuicConfig
from appliance.packet.quic import make

ALPN = ["lines"]


def maker(row: dict[str, Any], folder: Path) -> tuple[int, Callable[[], bytes]]:
    """How long the connection IDs of a row are, and how they are made."""
    key = bytes.fromhex((folder / row["key_file"]).read_text()) if row["key_file"] else None
    server_id, nonce = bytes.fromhex(row["server_id"]), row["nonce_length"]
    config = QuicConfig(row["config_id"], len(server_id), nonce, key, encode_length=row["encode_length"])
    return config.length + 1, lambda: make(config, server_id, os.urandom(nonce), os.urandom(1)[0] & 0x1F)


async def serve(name: str, folder: Path, certificate: str, key: str, document: str, where: list[str]) -> None:
    rows = json.loads(document)["members"]
    makers: dict[int, Callable[[], bytes]] = {}

    def urandom(size: int) -> bytes:
        return makers[size]() if size in makers else os.urandom(size)

    # aioquic asks for random bytes when it wants a connection ID, and for nothing else of such lengths.
    aioquic.quic.connection.os = SimpleNamespace(urandom=urandom)  # type: ignore[assignment]
    loop, tasks = asyncio.get_running_loop(), set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(name.encode() + b":" + line)

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    for address, index in zip(where[::2], where[1::2], strict=True):
        configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN, idle_timeout=60.0)
        configuration.load_cert_chain(certificate, key)
        if index:
            length, make_one = maker(rows[int(index)], folder)
            if length in (8, 16):
                raise ValueError(f"aioquic asks for {length} random bytes for other things as well")
            configuration.connection_id_length, makers[length] = length, make_one

        def server(configuration: QuicConfiguration = configuration) -> QuicServer:
            return QuicServer(configuration=configuration, stream_handler=take)

        await loop.create_datagram_endpoint(server, local_addr=(address, 443))
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, name, folder, certificate, key, document, *where = sys.argv
    asyncio.run(serve(name, Path(folder), certificate, key, document, where))
