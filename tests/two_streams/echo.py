"""The made-up protocol's target: answers each frame with one that says what it got. Prints "ready" once it listens."""

from __future__ import annotations

import asyncio
import sys


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            stream, size = await reader.readexactly(2)
            text = (await reader.readexactly(size)).decode()
            print(f"got {text}", flush=True)
            answer = f"did {text}".encode()
            writer.write(bytes((stream, len(answer))) + answer)
    except asyncio.IncompleteReadError:
        writer.close()


async def _main(address: str, port: int) -> None:
    server = await asyncio.start_server(_serve, address, port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
