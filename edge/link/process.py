"""The link's process: ``python -m edge.link --home HOME --port PORT``, started by ``fl site run``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from edge import probe
from edge.datagrams import Mailbox
from edge.home import Home, split_address
from edge.link import trust
from edge.link.centre import Centre
from edge.link.channel import Channel
from edge.link.endpoint import Endpoint
from edge.link.health import Health
from edge.link.limits import Limits, PolicyFile
from edge.link.local import LOCAL, local_certificate
from edge.link.outbox import Outbox
from edge.link.renewal import Renewal
from edge.link.signing import NodeKey
from edge.link.status import Status
from fl import console
from fl.errors import FLError

HOST = "127.0.0.1"
# On its way out the link lets the SuperNode say goodbye.
GRACE_S = 2
MIB = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the link until it is asked to end; returns the exit status."""
    parser = argparse.ArgumentParser(prog="edge.link", description="Connect a site's SuperNode with the centre.")
    parser.add_argument("--home", type=Path, required=True, help="the site's home")
    parser.add_argument("--port", type=int, required=True, help="where the SuperNode finds the link, on 127.0.0.1")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("grpc").setLevel(logging.WARNING)
    try:
        asyncio.run(run(Home(given.home), given.port))
    except FLError as err:
        console.report_error(err)
        return err.exit_status
    return 0


async def run(home: Home, port: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        FLError: If the home cannot be used.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(home, port):
        await stop.wait()


@contextlib.asynccontextmanager
async def running(home: Home, port: int) -> AsyncIterator[Status]:
    """A link at work.

    Args:
        home: The site's.
        port: Where it listens on loopback.
    """
    log = logging.getLogger("edge.link")
    site = home.site()
    channel = Channel(home, site, tell=log.info)
    limits = Limits(PolicyFile(home.policy), home.usage)
    centre = Centre(channel, NodeKey(home.node_key), limits)
    outbox = Outbox(home.outbox, centre, limit_bytes=site.outbox_mib * MIB, tell=log.info)
    status = Status(home, site, centre, outbox, facts=await asyncio.to_thread(probe.facts, home.path))
    endpoint = Endpoint(centre, outbox, status, runner=home.runner_socket)
    mailbox = Mailbox(home.link_socket)
    loop = asyncio.get_running_loop()
    loop.add_reader(mailbox.fileno(), _read, mailbox, endpoint)
    certificate, key = home.certificates / LOCAL[0], home.keys / LOCAL[1]
    if not (certificate.exists() and key.exists()):
        local_certificate(home)
    servers = [_server(endpoint, HOST, port, ssl_certfile=certificate, ssl_keyfile=key)]
    if site.health:
        servers.append(_server(Health(status), *split_address(site.health)))
    outbox.load()
    works = [
        channel.run(),
        Renewal(channel, tell=log.info).run(),
        trust.follow(home, centre, tell=log.info),
        status.write_forever(),
        status.report_forever(),
        *(server.serve() for server in servers),
    ]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield status
    finally:
        for server in servers:
            server.should_exit = True
        serving = tasks[-len(servers) :]
        await asyncio.wait(serving, timeout=GRACE_S + 1)
        endpoint.stop()
        outbox.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        loop.remove_reader(mailbox.fileno())
        mailbox.close()
        limits.flush()


class _Server(uvicorn.Server):
    """Signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave them alone."""
        yield


def _server(app: Any, host: str, port: int, **options: Any) -> _Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_keep_alive=120,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        **options,
    )
    return _Server(config)


def _read(mailbox: Mailbox, endpoint: Endpoint) -> None:
    for note in mailbox.receive():
        if isinstance(answered := note.get("answered"), str):
            endpoint.answered(answered)
