"""A throwaway certificate authority for one life of a local federation, for loopback only.

The authority's private key is never written: it signs one server certificate and is forgotten, so nobody
can make a second one. Clients trust ``ca.crt``, which says nothing secret. What builds certificates is shared with
``server.ca``, the authority that lasts.
"""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

from fl.files import write_atomic
from fl.link.certificates import authority, for_loopback, issue, pem, private_pem, server_names

__all__ = ["Files", "authority", "create", "issue", "pem", "private_pem", "server_names"]

SECRET_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """Where the files lie, in one directory that only the owner can read."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate, to be trusted by clients."""
        return self.directory / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.directory / "server.crt"

    @property
    def key(self) -> Path:
        """The server's private key."""
        return self.directory / "server.key"

    @property
    def executor_secret(self) -> Path:
        """What the SuperLink and its executor share."""
        return self.directory / "executor.secret"


def create(directory: Path) -> Files:
    """Make an authority, a server certificate for this machine's loopback, and an executor secret.

    Args:
        directory: Made if needed, readable by the owner only; what lies there is replaced.

    Raises:
        StorageError: If they cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    files = Files(directory)
    ca, certificate, key = for_loopback("fedfleet local authority")
    write_atomic(files.ca, ca)
    write_atomic(files.certificate, certificate)
    write_atomic(files.key, key, mode=0o600)
    write_atomic(files.executor_secret, secrets.token_bytes(SECRET_BYTES), mode=0o600)
    return files
