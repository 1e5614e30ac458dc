"""The loops around the two state machines: one for the server's engine, one for whatever calls a site's process."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from fl.errors import BusyError
from fl.files import Lock
from fl.secagg.aggregator import AggregatorSession
from fl.secagg.errors import SecAggError
from fl.secagg.local import LocalModel, LocalUpdate, Reply
from fl.secagg.masked_sum import RoundSum
from fl.secagg.messages import Proposal, kind_of
from fl.secagg.policy import SitePolicy
from fl.secagg.profiles import Vector
from fl.secagg.shamir import Random
from fl.secagg.site import SiteSession
from fl.secagg.storage import load_ledger, read_identity, save_ledger
from fl.secagg.vectors import Pieces

log = logging.getLogger(__name__)

LEDGER_WAIT_S = 30.0
"""How long a message waits for another one of the same site; neither trains meanwhile."""

Exchange = Callable[[str, Mapping[str, bytes]], Iterable[tuple[str, bytes, Pieces | None]]]
"""Sends each site its message of a stage, and yields ``(site, payload, vector)`` as replies land, until the stage is
closed by quorum or deadline. ``vector`` is the masked vector at the mask stage, valid until the next is taken."""

Checkpoint = Callable[[str, bytes, Vector | None], None]
"""Stores ``(stage, dump, sum_vector)`` before the messages of a stage are sent: see ``fl.secagg.replay``."""


def drive(session: AggregatorSession, exchange: Exchange, checkpoint: Checkpoint | None = None) -> RoundSum:
    """Play a session's remaining stages.

    A refusal, or a reply that fails a check, is logged and counts as a dropout; ``session.faults`` says why.

    Raises:
        TooFewSurvivorsError: If too few sites are left; the engine may begin another attempt.
        RestartError: If the sparse graph needs an attempt without the sites that it names.
        UnmaskError: If the sum cannot be unmasked.
    """
    while session.stage != "over":
        stage = session.stage
        if checkpoint:
            checkpoint(stage, session.dump(), session.sum_vector)
        for site, payload, vector in exchange(stage, session.next_requests()):
            try:
                if not session.receive(site, payload, vector):
                    log.warning(
                        "secure aggregation, stage %s: %s refused: %s", stage, site, session.faults[site].reason
                    )
            except SecAggError as err:
                log.warning("secure aggregation, stage %s: %s", stage, err.message)
        session.close_stage()
    return session.result()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteFiles:
    """Where a site keeps what secure aggregation needs."""

    site: str
    """Its id in the roster."""

    key: Path
    """Its identity key: ``fl secagg key``."""

    ledger: Path
    """Its durable memory; made when it is missing. Its directory must exist."""

    authority: bytes
    """The pinned public key of the roster authority."""

    policy: SitePolicy = dataclasses.field(default_factory=SitePolicy)
    """The site owner's floors."""


def answer(
    files: SiteFiles,
    payload: bytes,
    *,
    sealed: bytes | None,
    state_key: bytes,
    model: LocalModel | None = None,
    random: Random = os.urandom,
    now_s: float | None = None,
) -> tuple[Reply, bytes]:
    """Answer one message in a process of its own: open the sealed session, answer, store the ledger, seal again.

    Messages of several runs may come to a site at once. They take turns at the ledger, and one that trains lets the
    others go ahead as soon as its own entry is stored.

    Args:
        files: The site's.
        payload: The server's message. A proposal begins a new session, whatever the sealed one was.
        sealed: What the last call returned; ``None`` at first.
        state_key: 32 bytes from the memory of a process that outlives this one; never on a disk.
        model: The global model, at the mask stage.
        random: Secret random bytes.
        now_s: The site's clock; the machine's by default.

    Returns:
        The reply, to be sent only after this returned, and the sealed session.

    Raises:
        SealError: If the sealed session does not open.
        StorageError: If the ledger cannot be stored; nothing may be sent then.
        BusyError: If another message holds it for long.
    """
    with _turn(files.ledger) as end_turn:
        ledger = load_ledger(files.ledger)

        trained = False

        def train() -> LocalUpdate:
            nonlocal trained
            assert model
            trained = True
            save_ledger(files.ledger, ledger)  # the stage is entered, and changes no more
            end_turn()
            return model.train()

        session = SiteSession(
            read_identity(files.key, files.site),
            policy=files.policy,
            ledger=ledger,
            authority=files.authority,
            now_s=time.time() if now_s is None else now_s,
            random=random,
        )
        if sealed is not None and kind_of(payload) != Proposal.KIND:
            session.open(state_key, sealed)
        reply = session.answer(payload, model=dataclasses.replace(model, train=train) if model else None)
        if not trained:
            save_ledger(files.ledger, ledger)
        return reply, session.seal(state_key)


@contextlib.contextmanager
def _turn(ledger: Path) -> Iterator[Callable[[], None]]:
    """Hold a ledger; what it yields gives it back early."""
    lock = Lock(ledger.with_name(ledger.name + ".lock"), hint="look what that process of this site is doing")
    until = time.monotonic() + LEDGER_WAIT_S
    while True:
        try:
            lock.acquire()
            break
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
    try:
        yield lock.release
    finally:
        lock.release()
