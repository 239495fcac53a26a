"""QUIC of aioquic, versions 1 and 2: a server that says again what it is told, and a client.

    quic.py serve PORT VERSIONS CERTIFICATE KEY
    quic.py ask PORT VERSIONS HOST FIRST_VERSION BYTES
"""

import asyncio
import ssl
import sys

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

VERSIONS = {"1": QuicProtocolVersion.VERSION_1, "2": QuicProtocolVersion.VERSION_2}


def configuration(is_client):
    made = QuicConfiguration(is_client=is_client, alpn_protocols=["octroi"])
    made.supported_versions = [VERSIONS[name] for name in sys.argv[3].split(",")]
    return made


async def say_again(reader, writer):
    writer.write(await reader.read())
    writer.write_eof()


async def run_server():
    config = configuration(False)
    config.load_cert_chain(sys.argv[4], sys.argv[5])
    await serve(
        "0.0.0.0",
        int(sys.argv[2]),
        configuration=config,
        stream_handler=lambda reader, writer: asyncio.ensure_future(say_again(reader, writer)),
    )
    await asyncio.Future()


async def ask():
    config = configuration(True)
    config.verify_mode = ssl.CERT_NONE
    config.original_version = VERSIONS[sys.argv[5]]
    said = bytes(at * 7 % 251 for at in range(int(sys.argv[6])))
    async with connect(sys.argv[4], int(sys.argv[2]), configuration=config) as client:
        reader, writer = await client.create_stream()
        writer.write(said)
        writer.write_eof()
        heard = await reader.read()
        assert heard == said, f"{len(heard)} of {len(said)} bytes came back"
        # The library has no public name for what was agreed on.
        version = client._quic._version
        name = {number: name for name, number in VERSIONS.items()}[version]
        print(f"{len(heard)} bytes over version {name}")


asyncio.run(run_server() if sys.argv[1] == "serve" else ask())
