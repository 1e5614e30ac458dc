"""Networks for tests: a TCP line that can be cut, slowed and delayed, and an HTTP proxy that takes CONNECT."""

import asyncio
import base64
import contextlib
import time


class Line:
    """A TCP forwarder. Cut, it is silent as a dead router is: connections hang, and new ones are not answered.

    Args:
        port: Where it goes, on 127.0.0.1.
        bytes_per_s: Each way; ``None`` as fast as it goes.
        delay_s: Each way.
    """

    def __init__(self, port, *, bytes_per_s=None, delay_s=0.0):
        self.target, self.bytes_per_s, self.delay_s = port, bytes_per_s, delay_s
        self.up_bytes = 0
        self.when_up = None
        """``(bytes, what)``: call ``what`` when so many bytes have gone up."""
        self._open = asyncio.Event()
        self._open.set()
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.reset()
        self._open.set()

    def cut(self):
        """Let nothing pass from now on."""
        self._open.clear()

    def mend(self):
        """Let everything pass again."""
        self._open.set()

    def reset(self):
        """End all connections, as a router that was restarted does."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        await self._open.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._pump(reader, far_writer, True), self._pump(far_reader, writer, False))
        finally:
            for end in (writer, far_writer):
                self._writers.discard(end)
                end.transport.abort()

    async def _pump(self, reader, writer, is_up):
        due = asyncio.Queue(maxsize=64)

        async def deliver():
            while (item := await due.get()) is not None:
                at, data = item
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                await self._open.wait()
                writer.write(data)
                await writer.drain()

        delivery = asyncio.create_task(deliver())
        with contextlib.suppress(OSError):
            while data := await reader.read(4096 if self.bytes_per_s else 65536):
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                if is_up:
                    self.up_bytes += len(data)
                    if self.when_up and self.up_bytes >= self.when_up[0]:
                        (_, what), self.when_up = self.when_up, None
                        what()
                await due.put((time.monotonic() + self.delay_s, data))
        delivery.cancel()
        writer.transport.abort()


class Proxy:
    """An HTTP proxy that takes CONNECT only.

    Args:
        names: Host names that it can find, with the port on 127.0.0.1 that is meant.
        login: ``user:password`` that it wants.
    """

    def __init__(self, names, login=""):
        self.names, self.login, self.asked = names, login, []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n")[0].split(" ")
        self.asked.append((method, target))
        wanted = base64.b64encode(self.login.encode()).decode()
        if self.login and f"basic {wanted.lower()}" not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            writer.close()
            return
        port = self.names.get(target)
        if method != "CONNECT" or port is None:
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source, sink):
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.transport.abort()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
