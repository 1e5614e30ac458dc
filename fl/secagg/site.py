"""The site's side of the protocol: five messages in, five replies out, no I/O, no clock, no randomness of its own.

The stage moves on *before* a message is looked at, and any failed check ends the session and overwrites its keys. So
no order of messages, and no wrong one, makes a site answer a stage twice. Replies are the only thing that leaves it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fl.errors import FLError
from fl.secagg.attempt import Attempt
from fl.secagg.encoding import printable
from fl.secagg.errors import PolicyError, SecAggError, StageError
from fl.secagg.identity import Identity
from fl.secagg.ledger import Ledger
from fl.secagg.local import LocalModel, Reply
from fl.secagg.messages import (
    STAGES,
    Agreements,
    Keys,
    Masking,
    Message,
    Proposal,
    Refusal,
    Survivors,
    kind_of,
    refusal_context,
)
from fl.secagg.policy import SitePolicy
from fl.secagg.shamir import Random
from fl.secagg.site_state import OVER, SiteState, open_sealed, seal

REQUESTS: tuple[type[Message], ...] = (Proposal, Keys, Masking, Survivors, Agreements)
"""The server's message of each stage."""


class SiteSession:
    """One site in one attempt at one round.

    Args:
        identity: The site's name and long-term key.
        policy: The site owner's floors.
        ledger: The site's durable memory; changed by ``handle``, to be stored before a reply is sent.
        authority: The pinned public key of the roster authority.
        now_s: The site's clock, seconds since 1970; it is compared with the roster's dates only.
        random: Secret random bytes, e.g. ``os.urandom``.
        threads: How many threads mask; one a core if not given.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        policy: SitePolicy,
        ledger: Ledger,
        authority: bytes,
        now_s: float,
        random: Random,
        threads: int | None = None,
    ) -> None:
        self.identity, self.ledger = identity, ledger
        self._attempt = Attempt(
            identity=identity,
            policy=policy,
            ledger=ledger,
            authority=authority,
            now_s=now_s,
            random=random,
            threads=threads,
            state=SiteState(),
        )

    @property
    def stage(self) -> str:
        """The stage whose message comes next; ``over`` when there is none."""
        number = self._attempt.state.stage
        return STAGES[number] if number < len(STAGES) else "over"

    def seal(self, key: bytes) -> bytes:
        """The session encrypted under a 32-byte key that is kept elsewhere."""
        return seal(self._attempt.state, key, self._attempt.random)

    def open(self, key: bytes, sealed: bytes) -> None:
        """Continue a sealed session.

        Raises:
            SealError: If the key is another or the bytes were changed.
        """
        self._attempt.continue_from(open_sealed(key, sealed))

    def erase(self) -> None:
        """Overwrite all secrets: the round is over or aborted."""
        self._attempt.state.erase()

    def answer(self, payload: bytes, *, model: LocalModel | None = None) -> Reply:
        """``handle``, with a failed check as a signed refusal instead of an exception."""
        try:
            return self.handle(payload, model=model)
        except SecAggError as err:
            refusal = Refusal(
                site=self.identity.name, error=type(err).__name__, reason=err.message, hint=err.hint or ""
            )
            signed = refusal.signed(self.identity, refusal_context(payload))
            return Reply(payload=signed.encode(), refused=err)

    def handle(self, payload: bytes, *, model: LocalModel | None = None) -> Reply:
        """Check the server's next message and answer it.

        Args:
            payload: Its bytes as received.
            model: The global model, at the mask stage.

        Raises:
            SecAggError: If a check fails; the session is then over. The class says which check.
        """
        attempt, state = self._attempt, self._attempt.state
        number = state.stage
        state.stage = number + 1 if number < len(STAGES) else OVER
        try:
            if number >= len(STAGES):
                raise StageError("the session is over: it ended, failed, or was erased")
            kind, expected = kind_of(payload), REQUESTS[number]
            if kind != expected.KIND and kind in {request.KIND for request in REQUESTS}:
                raise StageError(f"a {kind} message where {expected.KIND} comes next")
            if number:
                self.ledger.enter(attempt.config, number)
            request: Any = expected.decode(payload)
            steps = (
                attempt.advertise,
                attempt.share,
                partial(attempt.mask, model=model),
                attempt.agree,
                attempt.unmask,
            )
            return steps[number](request)
        except BaseException as err:
            state.erase()
            if number == 0 and isinstance(err, FLError) and not isinstance(err, SecAggError):
                raise PolicyError(
                    printable(err.message, 512), hint=printable(err.hint or "", 512) or None
                ) from err  # a value out of its range in the proposal
            raise
