"""The control room as one process: its parts, put together, started and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from fl.errors import BusyError, ConfigError, FLError
from fl.files import write_atomic
from server import logs, people, web
from server.actions import Actions
from server.api.app import create_app
from server.centre import Centre
from server.control_room.config import RoomConfig, read
from server.controller import recover, traces
from server.controller.controller import Controller
from server.home import Home
from server.live import Change, Live
from server.relay import Relay
from server.store import Store
from server.store.places import Postgres

log = logging.getLogger(__name__)

CONTROL = "control.json"
REFRESH_EVERY_S = 600.0
REFRESHES_A_LIFE, DAY_S = 12, 86_400.0
GRACE_S = 3
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "[::1]"}  # noqa: S104  # listens everywhere, is asked here


def run(home: Home) -> None:
    """Run the control room of a server's home until SIGTERM or SIGINT.

    Raises:
        ConfigError: If the home was not made, or its configuration cannot be used.
        BusyError: If its address is taken.
        StorageError: If the store cannot be used.
    """
    with _opened(home) as room, contextlib.ExitStack() as ends:
        config, ended = room.config, threading.Event()
        tracing = traces.from_environment()
        controller = Controller(
            room.store,
            home,
            room.live,
            runs_at_once=config.control.runs_at_once,
            weights=config.control.weights,
            traces=tracing,
        )
        if tracing:
            ends.callback(tracing.close)
        for name in recover.adopt(room.store, home.runs):
            log.info("found run %s, which the store did not have", name)
        earlier = _earlier(home.path / CONTROL)
        listening = ends.enter_context(_listen(config.control.listen, again=earlier.get("port")))
        token = str(earlier.get("token") or people.TOKEN_PREFIX + secrets.token_urlsafe(32))
        certificate = Certificate(home, room.centre, config)
        actions = Actions(room.centre, room.live, poke=controller.poke)
        server = room.server(certificate, actions=actions, local_token=people.digest(token))
        facts = _facts(config, listening.getsockname()[1], certificate.authorities)
        write_atomic(home.path / CONTROL, json.dumps({**facts, "token": token}), mode=0o600)
        # A site that is revoked over another API: calls of it that are on their way end.
        ends.enter_context(room.relayed(lambda change: home.tell_gateway() if change.topic == "site" else None))
        threads = [
            threading.Thread(target=controller.run, args=(ended,), name="controller"),
            threading.Thread(target=certificate.keep, args=(ended,), name="certificate"),
        ]
        for thread in threads:
            thread.start()
            ends.callback(thread.join)
        ends.callback(controller.poke)
        ends.callback(ended.set)
        log.info("the control room is at %s", facts["url"])
        server.run(sockets=[listening])


def run_api(home: Home, beside: str, listen: str = "") -> None:
    """Run an API, with the dashboard, beside the control room of the same home until SIGTERM or SIGINT.

    Args:
        home: The server's home, on a volume that both see. Its store must be in PostgreSQL.
        beside: Where the control room is, ``https://HOST:8444``; it is asked for what SuperLink alone has.
        listen: Where, ``host:port``; as ``control.listen`` says without it.

    Raises:
        ConfigError: If the home was not made, its configuration cannot be used, or its store is a file.
        BusyError: If its address is taken.
        StorageError: If the store cannot be used.
    """
    with _opened(home) as room, contextlib.ExitStack() as ends:
        if not isinstance(room.store.place, Postgres):
            raise ConfigError("an API beside the control room needs a store in PostgreSQL", hint="[store] url_file")
        ended = threading.Event()
        listening = ends.enter_context(_listen(listen or room.config.control.listen, again=None))
        certificate = Certificate(home, room.centre, room.config, renews=False)
        actions = Actions(room.centre, room.live)
        server = room.server(certificate, actions=actions, log_of=logs.elsewhere(home, beside))
        keeping = threading.Thread(target=certificate.keep, args=(ended,), name="certificate")
        keeping.start()
        ends.callback(keeping.join)
        ends.callback(ended.set)
        ends.enter_context(room.relayed())
        log.info("the API is at port %d", listening.getsockname()[1])
        server.run(sockets=[listening])


@dataclasses.dataclass(frozen=True, slots=True)
class _Room:
    """What the control room and an API beside it have in common."""

    home: Home
    config: RoomConfig
    centre: Centre
    live: Live

    @property
    def store(self) -> Store:
        return self.centre.registry.store

    def relayed(self, heard: Callable[[Change], None] = lambda change: None) -> contextlib.AbstractContextManager[Any]:
        """Tell others over the same PostgreSQL, and hear them; alone over SQLite."""
        is_shared = isinstance(self.store.place, Postgres)
        return Relay(self.store, self.live, heard=heard) if is_shared else contextlib.nullcontext()

    def server(
        self, certificate: Certificate, *, actions: Actions, local_token: str = "", log_of: logs.Reader | None = None
    ) -> _Server:
        config = self.config
        app = create_app(
            home=self.home,
            store=self.store,
            actions=actions,
            live=self.live,
            access=config.access,
            oidc_config=config.oidc,
            prices=config.prices,
            weights=config.control.weights,
            public_url=config.control.public_url,
            is_secure=not config.control.insecure_http,
            local_token=local_token,
            log=log_of,
        )
        web.install(app)
        return _Server(app, certificate, self.live)


@contextlib.contextmanager
def _opened(home: Home) -> Iterator[_Room]:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    config = read(home)
    home.runs.mkdir(exist_ok=True)
    centre = Centre(home)
    try:
        yield _Room(home, config, centre, Live())
    finally:
        centre.close()


class Certificate:
    """The control room's certificate: the operator's own, or one of the transport authority that renews itself.

    Args:
        home: The server's home.
        centre: Its authority.
        config: Its configuration.
        renews: Whether it is renewed here; else another process does.
    """

    def __init__(self, home: Home, centre: Centre, config: RoomConfig, *, renews: bool = True) -> None:
        self._home, self._centre, self._config, self._renews = home, centre, config, renews
        self.is_own = config.control.certificate_file is None
        self.contexts: list[ssl.SSLContext] = []
        """Those that serve it, told when there is a new one."""
        self.files = (home.control / "server.crt", home.control / "server.key")
        if self.is_own:
            if renews:
                self._refresh()
            elif not self.files[0].exists():
                raise ConfigError(f"{self.files[0]} is missing", hint="start the control room first: fl server up")
        elif config.control.certificate_file and config.control.key_file:
            self.files = (config.control.certificate_file, config.control.key_file)
            if self.files[1].stat().st_mode & 0o077:
                raise ConfigError(f"{self.files[1]} can be read by others", hint=f"chmod 600 {self.files[1]}")

    @property
    def authorities(self) -> Path | None:
        """Who vouches for it; ``None`` for those of the system."""
        return (self._home.control / "authorities.pem").resolve() if self.is_own else None

    def keep(self, ended: threading.Event) -> None:
        """Renew it in time, or read a new one of the operator's, until ``ended``."""
        days = self._config.server.enrolment.certificate_days
        stamp = self._stamp()
        while not ended.wait(min(REFRESH_EVERY_S, days * DAY_S / REFRESHES_A_LIFE)):
            try:
                if self.is_own and self._renews:
                    self._refresh()
                if (now := self._stamp()) != stamp:
                    for context in self.contexts:
                        context.load_cert_chain(*self.files)
                    stamp = now
                    log.info("the control room has a new certificate")
            except (FLError, OSError, ssl.SSLError) as err:
                log.error("the control room's certificate stays as it was: %s", err)

    def _refresh(self) -> None:
        server, control = self._config.server, self._config.control
        names = [*server.hosts, control.listen.rpartition(":")[0].strip("[]"), urlsplit(control.public_url).hostname]
        hosts = [name for name in names if name and name not in ("0.0.0.0", "::")]  # noqa: S104
        days = server.enrolment.certificate_days
        self._centre.ca.refresh_gateway(self._home.control, list(dict.fromkeys(hosts)), days=days)

    def _stamp(self) -> Sequence[int]:
        return [file.stat().st_mtime_ns for file in self.files]


class _Server(uvicorn.Server):
    def __init__(self, app: FastAPI, certificate: Certificate, live: Live) -> None:
        is_secure = app.state.context.is_secure
        files = {"ssl_certfile": certificate.files[0], "ssl_keyfile": certificate.files[1]} if is_secure else {}
        options = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            log_level="warning",
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            **files,  # type: ignore[arg-type]
        )
        try:
            options.load()
        except (OSError, ssl.SSLError) as err:
            raise ConfigError(f"cannot use the certificate {certificate.files[0]}: {err}") from err
        if options.ssl is not None:
            certificate.contexts.append(options.ssl)
        self._live = live
        super().__init__(options)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the live views first: they would be waited for."""
        self._live.close()
        await super().shutdown(sockets)


def _listen(address: str, *, again: object) -> socket.socket:
    """A socket that listens; the port of the life before, if any would do.

    Raises:
        BusyError: If the address is taken.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    wanted = int(port) or (again if isinstance(again, int) else 0)
    try:
        return socket.create_server((host, wanted), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as err:
        words = f"cannot listen on {address}: {err.strerror or err}"
        raise BusyError(words, hint="control.listen in server.toml names another address") from err


def _earlier(path: Path) -> dict[str, object]:
    """What the life before this one, under the same supervisor, wrote: who knows its token is not sent away."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _facts(config: RoomConfig, port: int, authorities: Path | None) -> dict[str, object]:
    control = config.control
    host = control.listen.rpartition(":")[0]
    url = f"{'http' if control.insecure_http else 'https'}://{ANY.get(host, host)}:{port}"
    if control.certificate_file and control.public_url:
        url = control.public_url
    return {"url": url, "ca": str(authorities) if authorities and not control.insecure_http else None, "port": port}
