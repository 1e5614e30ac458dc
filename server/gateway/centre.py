"""What the gateway asks the centre's registry: who a certificate is, and what to tell its site."""

from __future__ import annotations

from typing import Protocol

from fl.link import link_pb2 as link
from server.sites import Admitted


class Centre(Protocol):
    """The registry as the gateway sees it. The methods of ``changed`` and ``site_of_certificate`` do not block."""

    def site_of_certificate(self, der: bytes) -> Admitted:
        """Whose certificate this is; called with each message, so it takes microseconds.

        Raises:
            RefusedError: If it is unknown, revoked or expired, in words for the site's owner.
        """

    def changed(self) -> None:
        """Forget what was remembered of the registry: somebody changed it."""

    def roster_version(self) -> int:
        """Version of the signed roster; 0 if there is none yet."""

    def seen(self, site: str, report: str) -> None:
        """Take a site's report, JSON. Does not block.

        Raises:
            RefusedError: If it is none.
        """

    def count(self, site: str, run_id: int, *, up: int, down: int, calls: int) -> None:
        """Add to what a site sent and got in a run (0: in none), in bytes and calls. Does not block."""

    def renew(self, admitted: Admitted, request: link.CertificateRequest) -> link.Certificates:
        """New certificates for a site. May block.

        Raises:
            RefusedError: If the request is not that site's.
        """

    def trust(self, admitted: Admitted, request: link.TrustRequest) -> link.TrustReply:
        """The roster, if the site has an older one, and the authorities. May block."""

    def join(self, der: bytes, request: link.JoinRequest) -> link.JoinReply:
        """Answer a request to take part, made with the certificate of a join token. May block.

        Raises:
            RefusedError: If the token does not allow it.
        """
