"""A TLS handshake without a socket."""

from __future__ import annotations

import ssl


def shake_hands(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, name: str
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Let a client that asks for this name meet a server, in memory.

    Returns:
        Server and client, both done with the handshake.

    Raises:
        ssl.SSLError: What either side says against the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    while len(done) < 2:
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    return server, client
