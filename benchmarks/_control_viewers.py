"""Many live viewers in one process: counts the events that all of them heard until a line comes on stdin."""

from __future__ import annotations

import asyncio
import sys

REQUEST = "GET {path}?run={run} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"


async def main(url: str, token: str, run: str, number: str) -> None:
    """Open the views, count, print the count."""
    host, _, path = url.removeprefix("http://").partition("/")
    heard = 0

    async def view() -> None:
        nonlocal heard
        address, _, port = host.partition(":")
        reader, writer = await asyncio.open_connection(address, int(port))
        writer.write(REQUEST.format(path=f"/{path}", run=run, host=host, token=token).encode())
        tail = b""
        while piece := await reader.read(65536):
            text = tail + piece
            heard += text.count(b"event: round")
            tail = text[-11:] if not text.endswith(b"event: round") else b""

    views = [asyncio.create_task(view()) for _ in range(int(number))]
    await asyncio.to_thread(sys.stdin.readline)
    for task in views:
        task.cancel()
    print(heard)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
