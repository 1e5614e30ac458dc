"""The certificate of the link's own endpoint on loopback."""

from __future__ import annotations

import datetime

from edge.home import Home
from fl.files import write_atomic
from fl.link.certificates import for_loopback

LOCAL = ("local.pem", "local.key")
# As long as a SuperNode may run: what the certificate vouches for never leaves this machine.
LOCAL_LIFE = datetime.timedelta(days=3650)


def local_certificate(home: Home) -> None:
    """Make the certificate of the link's own endpoint, and its key; the SuperNode trusts ``local.ca``.

    A SuperNode reads that once, so the certificate outlives restarts of the link.

    Raises:
        StorageError: If they cannot be written.
    """
    ca, certificate, key = for_loopback("fedfleet link", LOCAL_LIFE)
    write_atomic(home.keys / LOCAL[1], key, mode=0o600)
    write_atomic(home.certificates / LOCAL[0], certificate)
    write_atomic(home.local_ca, ca)
