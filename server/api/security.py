"""Headers that every answer has, and a bound on what a request may send; plain ASGI, so that streams stay streams."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing inline, nothing from elsewhere."""

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
SECURE: tuple[tuple[bytes, bytes], ...] = ((b"strict-transport-security", b"max-age=31536000"),)
PRIVATE = (b"cache-control", b"no-store")
"""For answers that do not say otherwise: they are of who asked."""

LONGEST_BODY = 2 * 1024 * 1024


class Security:
    """Wraps an application.

    Args:
        app: It.
        is_secure: Whether it is served over HTTPS.
    """

    def __init__(self, app: ASGIApp, *, is_secure: bool) -> None:
        self._app = app
        self._headers = HEADERS + (SECURE if is_secure else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = 0
        is_refused = False

        async def limited() -> Message:
            nonlocal taken, is_refused
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > LONGEST_BODY:
                    is_refused = True
                    return {"type": "http.disconnect"}
            return message

        async def headed(message: Message) -> None:
            if is_refused:  # the application saw a client that went away, whatever it says of that
                return
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}
                extra = [header for header in (*self._headers, PRIVATE) if header[0] not in given]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > LONGEST_BODY:
            await _too_long(headed)
            return
        try:
            await self._app(scope, limited, headed)
        except Exception:
            if not is_refused:
                raise
        if is_refused:
            is_refused = False
            await _too_long(headed)


async def _too_long(send: Send) -> None:
    body = b'{"title":"InputError","status":413,"detail":"the request is longer than 2 MiB","hint":null}'
    headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
