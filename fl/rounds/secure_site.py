"""A site's side of secure aggregation: drives ``fl.secagg.site`` with the site's keys, policy, ledger and training.

Flower runs each message in a process of its own, so the session lives between messages as a sealed blob in the
SuperNode's memory; the key that opens it is derived from the site's identity key, which is a file that only its
owner may read. The ledger is stored before a reply leaves. A request that was answered before, byte for byte, gets
the same answer again: it teaches nobody anything, and a server that was killed while replies were on their way
needs it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl.arrays import F32, Arrays, Layout, vector_of
from fl.files import write_atomic
from fl.rounds.port import Failure, Reply, Request
from fl.secagg.config import schema_hash
from fl.secagg.driver import SiteFiles, answer
from fl.secagg.local import LocalModel, LocalUpdate
from fl.secagg.policy import SitePolicy
from fl.secagg.storage import read_identity, read_public_key
from fl.secagg.vectors import vector_digest

IDENTITY, AUTHORITY, POLICY, LEDGER = "identity.key", "authority.pub", "policy.toml", "ledger.json"
RECEIPTS_KEPT = 100


@dataclasses.dataclass(frozen=True, slots=True)
class SecureSite:
    """What a site needs to take part.

    Attributes:
        directory: With ``identity.key``, ``authority.pub`` (the pinned roster authority), optionally
            ``policy.toml``, and, made here, ``ledger.json`` and ``receipts/``.
        memory: Survives from one message to the next, and no longer than the site's SuperNode.
    """

    directory: Path
    memory: MutableMapping[str, bytes]

    def policy(self) -> SitePolicy:
        """The site owner's floors.

        Raises:
            ConfigError: If the file has an unknown key, or a value out of its range.
        """
        path = self.directory / POLICY
        return SitePolicy.from_file(path) if path.exists() else SitePolicy()


def answer_securely(
    site: str,
    secure: SecureSite,
    request: Request,
    payload: bytes,
    arrays: Arrays | None,
    train: Callable[[Arrays], LocalUpdate],
) -> Reply:
    """Answer one stage.

    Args:
        site: This site's id.
        secure: Its keys and memory.
        request: What is asked.
        payload: The server's message.
        arrays: The global model, at the mask stage.
        train: Trains from it, once, after all checks have passed.

    Raises:
        FLError: If files are missing or the training fails; then nothing was answered.
    """
    memory = secure.memory
    if request.stage == "forget":
        memory.clear()
        return Reply(site=site, request=request)
    asked = hashlib.sha256(payload).digest()
    if memory.get("asked") == asked:
        return Reply(site=site, request=request, payload=memory["answer"])
    if request.stage != "advertise" and "session" not in memory:
        failure = Failure(code="session_lost", reason="this site was restarted since the round began")
        return Reply(site=site, request=request, failure=failure)
    directory = secure.directory
    files = SiteFiles(
        site=site,
        key=directory / IDENTITY,
        ledger=directory / LEDGER,
        authority=read_public_key(str(directory / AUTHORITY)),
        policy=secure.policy(),
    )
    sealed = memory.get("session")
    memory.clear()  # whatever happens now, this stage is not answered from the same session again
    reply, session = answer(
        files,
        payload,
        sealed=sealed,
        state_key=_sealing_key(files),
        model=_local_model(arrays, train) if request.stage == "mask" and arrays is not None else None,
    )
    if not reply.refused and reply.receipt is None:
        memory["session"] = session
    if not reply.refused and reply.vector is None:
        memory["asked"], memory["answer"] = asked, reply.payload
    if reply.receipt:
        _keep_receipt(directory / "receipts", request, reply.receipt)
    return Reply(site=site, request=request, payload=reply.payload, vector=reply.vector)


def _local_model(arrays: Arrays, train: Callable[[Arrays], LocalUpdate]) -> LocalModel:
    layout = Layout.of(arrays)
    vector_P: F32 = vector_of(arrays)
    return LocalModel(digest=vector_digest(vector_P), schema=schema_hash(layout.entries), train=lambda: train(arrays))


def _sealing_key(files: SiteFiles) -> bytes:
    """The key under which sessions of this site are sealed; whoever has it has the identity key."""
    secret = read_identity(files.key, files.site).key.private_bytes_raw()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedfleet sealed session").derive(secret)


def _keep_receipt(directory: Path, request: Request, receipt: bytes) -> None:
    """Store a receipt under the time it came, and forget the oldest beyond the last hundred."""
    directory.mkdir(exist_ok=True)
    write_atomic(directory / f"{time.time_ns()}-round-{request.round}.json", receipt)
    for old in sorted(directory.glob("*.json"))[:-RECEIPTS_KEPT]:
        old.unlink()
