"""What Kubernetes' probes ask: plain HTTP, no secrets, nothing that changes anything."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from edge.link.status import Status

Scope = MutableMapping[str, Any]


class Health:
    """An ASGI application: ``/livez`` (the link runs), ``/readyz`` (it is connected and let in), ``/status``.

    Args:
        status: What there is to say.
    """

    def __init__(self, status: Status) -> None:
        self._status = status

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        said: dict[str, Any] = {"status": "ok"}
        code = 200
        channel = self._status.centre.channel
        if scope["path"] == "/readyz":
            if channel.connection is None or channel.refused:
                said, code = {"status": "waiting", "waits_for": self._status.waits_for()}, 503
        elif scope["path"] == "/status":
            said = self._status.as_dict()
        elif scope["path"] != "/livez":
            said, code = {"status": "no such path"}, 404
        body = json.dumps(said).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})
