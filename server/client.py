"""A typed client of the control room's API: what ``fl run``, ``fl model``, ``fl user`` and ``fl audit`` use.

Answers are the dataclasses of ``server.views``; refusals are raised as the errors that the server meant, so that a
command says the same as it would have said at the server.

Example::

    with Client.of_home(Path(".fedfleet/server")) as room:
        for run in room.runs(state="active"):
            print(run.name, run.words)
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import ssl
import time
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter

from fl.errors import ConfigError, InputError, UnreachableError
from fl.files import read_secret
from server.client_errors import errors_of, refusal
from server.views.fleet import Fleet, SiteDetail
from server.views.models import AliasRow, AuditRow, ModelRow, UserRow
from server.views.page import Page
from server.views.queue import Queued
from server.views.rounds import RoundRow, Timeline
from server.views.runs import Compared, RunDetail, RunRow
from server.views.usage import UsageRow

T = TypeVar("T")

CONTROL = "control.json"
"""In the server's home: ``url``, ``ca`` (a file) and ``token`` of the local operator; 0600, while it runs."""

TIMEOUT_S = 30.0
SILENCE_S = 40.0
"""After which a stream of events is dead: it says a word every 15 s."""
AGAIN_S = 1.0
PATIENCE_S = 90.0
"""How long a stream bears with a control room that is started again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as the control room tells it."""

    topic: str
    """``again`` when some were missed; ``alive`` for a sign of life."""
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class NewToken:
    """An access token, shown once."""

    secret: str
    user: str
    name: str
    expires_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """How the audit stands."""

    holds: bool
    rows: int
    chain: str
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Log:
    """What a run's ServerApp printed."""

    text: str
    after: float
    is_finished: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Me:
    """Who asks."""

    name: str
    role: str
    projects: list[str]
    csrf: str


class Client:
    """A connection to the control room.

    Args:
        url: Where it is, e.g. ``https://fl.example.org:8444``.
        token: An access token.
        ca: Authorities that vouch for its certificate, PEM; the system's without it.
        name: The name in its certificate, where that is not the URL's.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        ca: Path | None = None,
        name: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ):
        self.url = url.rstrip("/")
        verify: ssl.SSLContext | bool = True
        if ca is not None:
            try:
                verify = ssl.create_default_context(cafile=str(ca))
            except (OSError, ssl.SSLError) as err:
                raise ConfigError(f"cannot use the authorities in {ca}: {err}") from err
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            verify=verify,
            timeout=TIMEOUT_S,
            transport=transport,
            headers={"Authorization": f"Bearer {token}"},
            event_hooks={"request": [lambda request: request.extensions.update(sni_hostname=name)] if name else []},
            trust_env=False,
        )

    @classmethod
    def of_home(cls, home: Path, *, at: str | None = None) -> Client:
        """The control room that runs from a server's home, as the local operator.

        Args:
            home: The server's home.
            at: Its URL, where the one that it wrote down is another machine's.

        Raises:
            UnreachableError: If none runs.
        """
        try:
            facts = json.loads((home / CONTROL).read_text(encoding="utf-8"))
            ca = Path(facts["ca"]) if facts.get("ca") else None
            name = urlsplit(facts["url"]).hostname if at else None
            return cls(at or facts["url"], facts["token"], ca=ca, name=name)
        except FileNotFoundError as err:
            raise UnreachableError(f"no control room runs in {home}", hint=f"fl server up --home {home}") from err
        except (OSError, ValueError, KeyError) as err:
            raise UnreachableError(f"cannot read {home / CONTROL}: {err}") from err

    @classmethod
    def at(cls, url: str, token_file: Path, *, ca: Path | None = None) -> Client:
        """A control room anywhere, with a token in a file that only its owner can read.

        Raises:
            ConfigError: If the file cannot be used.
        """
        if not url.startswith(("https://", "http://")):
            raise ConfigError(f"{url[:100]!r} is no address of a control room", hint="https://HOST:8444")
        return cls(url, read_secret(token_file), ca=ca)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- looking ----

    def me(self) -> Me:
        """Who asks."""
        return self._get(Me, "/me")

    def fleet(self, **wanted: Any) -> Fleet:
        """The sites; ``wanted`` as the API's ``/sites`` takes it."""
        return self._get(Fleet, "/sites", **wanted)

    def site(self, site: str) -> SiteDetail:
        """One site."""
        return self._get(SiteDetail, f"/sites/{_part(site)}")

    def runs(self, *, limit: int | None = None, **wanted: Any) -> list[RunRow]:
        """The runs, the newest first, of all pages; ``wanted`` as ``/runs`` takes it."""
        return self._pages(RunRow, "/runs", limit, **wanted)

    def run(self, name: str) -> RunDetail:
        """One run."""
        return self._get(RunDetail, f"/runs/{_part(name)}")

    def rounds(self, name: str, *, limit: int | None = None) -> list[RoundRow]:
        """The rounds of a run, the newest first."""
        return self._pages(RoundRow, f"/runs/{_part(name)}/rounds", limit)

    def timeline(self, name: str, **wanted: Any) -> Timeline:
        """Who did what when."""
        return self._get(Timeline, f"/runs/{_part(name)}/timeline", **wanted)

    def curves(self, name: str) -> dict[str, list[tuple[int, float | None]]]:
        """Metrics over the rounds, by ``place/metric``."""
        return self._get(dict[str, list[tuple[int, float | None]]], f"/runs/{_part(name)}/curves")

    def queue(self) -> tuple[Queued, ...]:
        """The runs that wait, in the order in which they start."""
        return self._get(tuple[Queued, ...], "/queue")

    def compare(self, names: Sequence[str]) -> Compared:
        """Runs side by side."""
        return self._get(Compared, "/compare", run=list(names))

    def usage(self, **wanted: Any) -> tuple[UsageRow, ...]:
        """What was used; ``wanted`` as ``/usage`` takes it."""
        return self._get(tuple[UsageRow, ...], "/usage", **wanted)

    def log(self, name: str, *, after: float = 0.0) -> Log:
        """What a run's ServerApp printed."""
        return self._get(Log, f"/runs/{_part(name)}/log", after=after)

    def models(self, *, limit: int | None = None, **wanted: Any) -> list[ModelRow]:
        """The models that are kept."""
        return self._pages(ModelRow, "/models", limit, **wanted)

    def model(self, reference: str) -> ModelRow:
        """A model by its number or name."""
        return self._get(ModelRow, f"/models/{_part(reference)}")

    def download(self, reference: str) -> Iterator[bytes]:
        """A model's file, in pieces."""
        with self._errors(), self._http.stream("GET", f"/models/{_part(reference)}/file") as answer:
            self._check(answer)
            yield from answer.iter_bytes(1 << 20)

    def aliases(self) -> tuple[AliasRow, ...]:
        """The names of models."""
        return self._get(tuple[AliasRow, ...], "/aliases")

    def users(self) -> tuple[UserRow, ...]:
        """Everybody who may sign in."""
        return self._get(tuple[UserRow, ...], "/users")

    def audit(self, *, limit: int | None = None, **wanted: Any) -> list[AuditRow]:
        """Changes, the newest first."""
        return self._pages(AuditRow, "/audit", limit, **wanted)

    def verify_audit(self, expect: str | None = None) -> Verified:
        """Whether the audit holds."""
        return self._get(Verified, "/audit/verify", **({"expect": expect} if expect else {}))

    def export_audit(self, after: int = 0) -> Iterator[str]:
        """All rows behind a number as JSON, in order."""
        with self._errors(), self._http.stream("GET", "/audit/export", params={"after": after}) as answer:
            self._check(answer)
            yield from answer.iter_lines()

    def events(self, **wanted: Any) -> Generator[Event, None, None]:
        """What happens, from now on, for ever; also over a restart of the control room.

        Raises:
            UnreachableError: If it stays away for too long.
        """
        last, heard = "", time.monotonic()
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
            try:
                with (
                    self._errors(),
                    self._http.stream("GET", "/events", params=wanted, headers=headers, timeout=timeout) as answer,
                ):
                    self._check(answer)
                    for number, event in _events(answer.iter_lines()):
                        heard = time.monotonic()
                        last = number or last
                        yield event
            except UnreachableError:
                if time.monotonic() - heard > PATIENCE_S:
                    raise
            time.sleep(AGAIN_S)

    # ---- changing ----

    def start_run(self, **wanted: Any) -> str:
        """Start a run; ``wanted`` as ``POST /runs`` takes it. Returns its name."""
        return str(self._change("POST", "/runs", wanted)["name"])

    def change_run(self, name: str, what: str) -> str:
        """``pause``, ``stop`` or ``resume`` a run. Returns its name."""
        return str(self._change("POST", f"/runs/{_part(name)}/{what}")["name"])

    def set_alias(self, name: str, model: int) -> None:
        """Have a name point at a model."""
        self._change("PUT", f"/aliases/{_part(name)}", {"model": model})

    def roll_back_alias(self, name: str) -> None:
        """Have a name point at the model before."""
        self._change("POST", f"/aliases/{_part(name)}/rollback")

    def add_user(self, name: str, role: str, projects: Sequence[str]) -> None:
        """Make a user."""
        self._change("POST", "/users", {"name": name, "role": role, "projects": list(projects)})

    def set_role(self, name: str, role: str, projects: Sequence[str] | None) -> None:
        """Change what a user may do."""
        body = {"role": role, **({"projects": list(projects)} if projects is not None else {})}
        self._change("PUT", f"/users/{_part(name)}/role", body)

    def change_user(self, name: str, what: str) -> None:
        """``disable`` or ``enable`` a user."""
        self._change("POST", f"/users/{_part(name)}/{what}")

    def add_token(self, user: str, name: str, days: float) -> NewToken:
        """Make an access token."""
        made = self._change("POST", f"/users/{_part(user)}/tokens", {"name": name, "days": days})
        return NewToken(made["token"], made["user"], made["name"], made["expires_s"])

    def revoke_token(self, user: str, id: str) -> None:
        """End an access token."""
        self._change("DELETE", f"/users/{_part(user)}/tokens/{_part(id)}")

    # ---- how ----

    def _get(self, kind: type[T], path: str, **params: Any) -> T:
        with self._errors():
            answer = self._check(self._http.get(path, params=params))
            return cast(T, _adapter(cast(Hashable, kind)).validate_json(answer.content))

    def _pages(self, kind: type[T], path: str, limit: int | None, **params: Any) -> list[T]:
        found: list[T] = []
        after = ""
        while limit is None or len(found) < limit:
            size = min(1000, limit - len(found)) if limit is not None else 1000
            page = self._get(Page[kind], path, **params, limit=size, **({"after": after} if after else {}))  # type: ignore[valid-type]
            found += page.items
            if page.next is None:
                break
            after = page.next
        return found

    def _change(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        with self._errors():
            answer = self._check(self._http.request(method, path, json=body))
            return dict(answer.json()) if answer.content and answer.content != b"null" else {}

    def _check(self, answer: httpx.Response) -> httpx.Response:
        """An answer, unless it is a refusal, which is raised as what the server meant."""
        if answer.is_success:
            return answer
        answer.read()
        raise refusal(self.url, answer)

    def _errors(self) -> AbstractContextManager[None]:
        return errors_of(self.url)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Event]]:
    """Server-sent events from their lines, each with its id; the id alone is a sign of life."""
    number, topic, data = "", "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "id":
                number = value
            case "event":
                topic = value
            case "data":
                data += value
            case "" if not line:
                yield number, Event(topic, json.loads(data)) if data else Event("alive", {})
                number, topic, data = "", "message", ""


def _part(name: str) -> str:
    """A name as one part of a path."""
    from urllib.parse import quote

    if name in ("", ".", ".."):
        raise InputError(f"{name!r} is no name")
    return quote(name, safe="")


def server_url() -> str | None:
    """The control room that the environment names (``FEDFLEET_SERVER``)."""
    return os.environ.get("FEDFLEET_SERVER") or None
