"""The SuperNode's signature: checked when it calls, made anew when its call goes on.

Flower signs only a timestamp, which the SuperLink accepts for five minutes, and for five seconds if it lies in the
future. The link, which is of the same site and can read the same key, signs what it passes on by the centre's clock.
So a reply that waited for hours, or a site whose clock is off, is not refused for it.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edge.link.certificate import read_key
from fl.errors import RefusedError
from fl.link import link_pb2
from fl.link.identity import CLOCK_TOLERANCE_S, public_pem

PUBLIC_KEY, TIMESTAMP, SIGNATURE = "flwr-public-key", "flwr-timestamp", "flwr-signature"


class NodeKey:
    """The key of the site's Flower node.

    Args:
        path: Its file.

    Raises:
        ConfigError: If it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._key = read_key(path)
        self.public = base64.b64encode(public_pem(self._key.public_key())).decode("ascii")

    def sign(self, clock_s: float) -> link_pb2.Signature:
        """A signature as the SuperNode makes it.

        Args:
            clock_s: The centre's time, seconds since 1970.
        """
        timestamp = datetime.datetime.fromtimestamp(clock_s, datetime.UTC).isoformat()
        signature = self._key.sign(timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        return link_pb2.Signature(
            public_key=self.public, timestamp=timestamp, signature=base64.b64encode(signature).decode("ascii")
        )

    def check(self, headers: Mapping[str, str], clock_s: float) -> None:
        """Check that a call on the local endpoint comes from who has the key: the port is open to the whole machine.

        Args:
            headers: Of the call, names in lower case.
            clock_s: This site's time.

        Raises:
            RefusedError: If it does not.
        """
        try:
            timestamp = headers[TIMESTAMP]
            age_s = clock_s - datetime.datetime.fromisoformat(timestamp).timestamp()
            fits = headers[PUBLIC_KEY] == self.public and abs(age_s) <= CLOCK_TOLERANCE_S
            signature = base64.b64decode(headers[SIGNATURE], validate=True)
            self._key.public_key().verify(signature, timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        except (KeyError, ValueError, binascii.Error, UnicodeError, InvalidSignature) as err:
            raise RefusedError("this call is not signed by this site's SuperNode") from err
        if not fits:
            raise RefusedError("this call is not signed by this site's SuperNode, or long ago")
