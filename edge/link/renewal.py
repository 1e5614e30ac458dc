"""Renews the site's certificate in time, without dropping a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from edge.link.certificate import read_key
from edge.link.channel import JITTER, Channel
from fl.errors import FLError
from fl.files import write_atomic
from fl.link import identity, link_pb2
from fl.link.bundle import check_certificates

LOOK_EVERY_S = 1.0


class Renewal:
    """Renews the site's certificate at two thirds of its life, or when the centre asks for it.

    Args:
        channel: The connection that takes the new certificate.
        tell: Called with a line when something worth telling happened.
    """

    def __init__(self, channel: Channel, *, tell: Callable[[str], None]) -> None:
        self._channel, self._tell = channel, tell

    def due_s(self) -> float:
        """Wall time at which to renew."""
        own = identity.renew_at_s(self._channel.home.chain.read_bytes())
        return min(own, self._channel.renew_at_s or own)

    async def run(self) -> None:
        """Renew in time until cancelled."""
        while True:
            # The wall clock may be set meanwhile, so it is looked at often instead of slept through.
            try:
                late_s = time.time() - self.due_s()
            except (OSError, ValueError):
                late_s = -1.0
            if late_s < 0:
                await asyncio.sleep(min(LOOK_EVERY_S, max(0.2, -late_s)))
                continue
            try:
                await self.renew()
            except FLError as err:
                self._tell(f"the certificate could not be renewed yet: {err.message}")
                await asyncio.sleep(JITTER.uniform(5, 15))

    async def renew(self) -> None:
        """Ask for a certificate for the same key, and use it.

        Raises:
            FLError: If the centre or the disk says no; the old one stays in use.
        """
        home = self._channel.home
        key = read_key(home.transport_key)
        request = link_pb2.CertificateRequest(transport_csr=identity.sign_request(key, self._channel.site.id))
        async with self._channel.calling(30.0) as stub:
            made = await stub.Renew(request, timeout=30)
        public = identity.spki(key.public_key())
        check_certificates(made.transport_chain, made.authorities, site=self._channel.site.id, public=public)
        write_atomic(home.authorities, made.authorities, mode=0o600)
        write_atomic(home.chain, made.transport_chain, mode=0o600)
        self._channel.renew_at_s = time.time() + max(1.0, made.renew_after_s)
        self._tell("the certificate was renewed")
        await self._channel.reconnect()
