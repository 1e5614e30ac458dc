"""The server's side of the protocol: it relays keys and shares, adds masked vectors, and can unmask only their sum.

``request_for`` makes a stage's messages, ``receive`` takes one site's reply, ``close_stage`` ends the stage with
whoever answered. A site whose reply is wrong is named and counts as dropped. Three vectors are held at most: the
sum, the one that is arriving, and the decoded mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fl.secagg.config import RoundConfig, config_hash
from fl.secagg.encoding import H, enc, pieces, printable
from fl.secagg.errors import (
    CohortError,
    ConsistencyError,
    DuplicateError,
    MessageError,
    RestartError,
    SecAggError,
    StageError,
    TooFewSurvivorsError,
    VectorError,
)
from fl.secagg.identity import Identity
from fl.secagg.keys import CIPHERTEXT_BYTES
from fl.secagg.masked_sum import Fault, MaskedSum, RoundSum
from fl.secagg.messages import (
    STAGES,
    Advertisement,
    Agreement,
    Agreements,
    Keys,
    MaskedInput,
    Masking,
    Proposal,
    Refusal,
    Reveal,
    Shares,
    SharesHeader,
    SignedMessage,
    Survivors,
    agreement_context,
    kind_of,
    refusal_context,
)
from fl.secagg.profiles import Vector
from fl.secagg.receipt import make_receipt
from fl.secagg.roster import read_roster
from fl.secagg.session import (
    Cohort,
    check_graph,
    check_nonce,
    check_remaining,
    read_cohort,
    session_model_id,
    sharers_hash,
)
from fl.secagg.shamir import SHARE_BYTES
from fl.secagg.unmask import Shares as RevealedShares
from fl.secagg.unmask import masks_of_sum
from fl.secagg.vectors import Pieces, vector_digest


class AggregatorSession:
    """One attempt at one round, at the server.

    Args:
        config: The proposal; ``n_max`` is the number of sites invited.
        roster: The signed roster's bytes.
        authority: Public key of the roster authority.
        identity: The aggregator's own; its public key stands in the configuration.
        sites: Whom to invite, all of them active in the roster.
        model: ``vector_digest`` of the global model.
        threads: How many threads take masks off; one a core if not given.
    """

    def __init__(
        self,
        config: RoundConfig,
        roster: bytes,
        *,
        authority: bytes,
        identity: Identity,
        sites: Sequence[str],
        model: bytes,
        threads: int | None = None,
    ) -> None:
        if len(sites) > config.n_max:
            raise CohortError(f"{len(sites)} sites are invited, {config.n_max} were announced")
        if identity.public.hex() != config.aggregator:
            raise CohortError("the configuration names another aggregator than the one that runs the round")
        self.config, self.identity = config, identity
        self.faults: dict[str, Fault] = {}
        """Why sites are out, by id."""
        self._config_bytes, self._roster_bytes = config.encode(), roster
        self._config_hash = config_hash(self._config_bytes)
        self._roster = read_roster(roster, authority=authority)
        for site in sites:
            self._roster.key_of(site)
        self._model, self._threads = model, threads
        self._stage = 0
        self._asked: tuple[str, ...] = tuple(sorted(sites))
        self._replies: dict[str, Any] = {}
        self._events: list[bytes] = []
        self._keys: tuple[bytes, ...] = ()
        self._cohort: Cohort | None = None
        self._dealt: dict[str, Shares] = {}
        self._headers: dict[str, SharesHeader] = {}
        self._sum = MaskedSum(config)
        self._survivors: tuple[str, ...] = ()
        self._agreements: tuple[bytes, ...] = ()
        self._shares: RevealedShares | None = None
        self._result: RoundSum | None = None
        self._common: bytes | None = None

    # ---- where it stands ----

    @property
    def stage(self) -> str:
        """The stage that is open: one of ``STAGES``, or ``over``."""
        return STAGES[self._stage] if self._stage < len(STAGES) else "over"

    @property
    def asked(self) -> tuple[str, ...]:
        """The sites that this stage asks, sorted."""
        return self._asked

    @property
    def waiting(self) -> tuple[str, ...]:
        """Those that have neither answered nor failed."""
        return tuple(site for site in self._asked if site not in self._replies and site not in self.faults)

    @property
    def needed(self) -> int:
        """How many replies this stage needs; fewer end the session."""
        if self._cohort is None:
            return self.config.n_min
        limits = self._cohort.thresholds
        if self.stage in ("share", "mask"):
            return max(limits.threshold, limits.min_aggregate, limits.n - limits.max_dropouts)
        return limits.threshold

    def result(self) -> RoundSum:
        """What the round revealed, after the last stage was closed.

        Raises:
            StageError: If it was not.
        """
        if self._result is None:
            raise StageError("the round is not unmasked yet")
        return self._result

    # ---- the messages of a stage ----

    def next_requests(self) -> dict[str, bytes]:
        """This stage's message to each site; large sessions better take them one by one with ``request_for``."""
        return {site: self.request_for(site) for site in self._asked}

    def request_for(self, site: str) -> bytes:
        """This stage's message to one site.

        Raises:
            StageError: If the session is over, or does not ask this site.
        """
        if site not in self._asked or self.stage == "over":
            raise StageError(f"the session has no message for {site}")
        if self.stage == "mask":
            headers = tuple(shares.header for shares in self._dealt.values())
            place = (self._session().index(site) - 1) * CIPHERTEXT_BYTES
            dealt = b"".join(shares.ciphertexts[place : place + CIPHERTEXT_BYTES] for shares in self._dealt.values())
            return Masking(headers=headers, ciphertexts=dealt, model=self._model).encode()
        if self._common is None:
            self._common = self._common_request()
        return self._common

    def _common_request(self) -> bytes:
        if self.stage == "advertise":
            return Proposal(config=self._config_bytes, roster=self._roster_bytes).encode()
        if self.stage == "share":
            return Keys(advertisements=self._keys).encode()
        if self.stage == "agree":
            names = tuple(site.encode() for site in self._survivors)
            return Survivors(survivors=names, sharers=sharers_hash(list(self._dealt)), model=self._model).encode()
        return Agreements(agreements=self._agreements).encode()

    # ---- a reply ----

    def receive(self, site: str, payload: bytes, vector: Pieces | None = None) -> bool:
        """Take one site's reply to this stage.

        Args:
            site: Who sent it, as the transport knows.
            payload: The message's bytes.
            vector: The masked vector, whole or in pieces of bytes; at the mask stage.

        Returns:
            False if the site refused: see ``faults``.

        Raises:
            VectorError: If the vector is late, or not the one that was signed.
            SecAggError: If the reply is wrong in another way. The site is out, and ``faults`` says why, except
                after ``StageError`` and ``DuplicateError``, which change nothing.
        """
        kind = kind_of(payload)
        if kind == MaskedInput.KIND and self._stage > STAGES.index("mask"):
            raise VectorError(f"the masked vector of {site} came after the survivors were fixed; it was not read")
        if site not in self._asked or self.stage == "over":
            raise StageError(f"the site {site} was not asked")
        if site in self._replies or site in self.faults:
            raise DuplicateError(f"the site {site} answered this stage before")
        try:
            if kind == Refusal.KIND:
                self._refused(site, Refusal.decode(payload))
            else:
                self._accept(site, payload, vector)
        except SecAggError as err:
            self.faults[site] = Fault(stage=self.stage, error=type(err).__name__, reason=err.message)
            raise
        self._events.append(enc("reply", site, payload))
        return site not in self.faults

    def _refused(self, site: str, refusal: Refusal) -> None:
        self._check_sender(site, refusal, refusal_context(self.request_for(site)))
        self.faults[site] = Fault(
            stage=self.stage,
            error=printable(refusal.error, 64),
            reason=printable(refusal.reason, 256),
            refused=True,
        )

    def _check_sender(self, site: str, message: SignedMessage, context: bytes) -> None:
        if message.site != site:
            raise MessageError(f"a message of {message.site} came from the site {site}")
        message.check(self._roster.key_of(site), context)

    def _accept(self, site: str, payload: bytes, vector: Pieces | None) -> None:
        if self.stage == "advertise":
            advertisement = Advertisement.decode(payload)
            self._check_sender(site, advertisement, self._config_hash)
            self._replies[site] = payload
        elif self.stage == "share":
            self._accept_shares(site, Shares.decode(payload))
        elif self.stage == "mask":
            self._accept_vector(site, MaskedInput.decode(payload), vector)
        elif self.stage == "agree":
            agreement = Agreement.decode(payload)
            self._check_sender(site, agreement, self._agreement_context())
            self._replies[site] = payload
        else:
            self._accept_reveal(site, Reveal.decode(payload))

    def _accept_shares(self, site: str, shares: Shares) -> None:
        cohort = self._session()
        header = SharesHeader.decode(shares.header)
        self._check_sender(site, header, cohort.sid)
        check_nonce(cohort.members[site], header)
        pieces(shares.ciphertexts, CIPHERTEXT_BYTES, cohort.thresholds.n)
        if H("commitments", *pieces(shares.commitments, 32, 2 * cohort.thresholds.n)) != header.root:
            raise MessageError(f"the commitments of {site} are not those that it signed")
        self._replies[site] = shares

    def _accept_vector(self, site: str, message: MaskedInput, vector: Pieces | None) -> None:
        self._check_sender(site, message, self._sid2())
        if message.sharers != sharers_hash(list(self._dealt)):
            raise ConsistencyError(f"the site {site} masked for other sharers")
        self._sum.check_side(message.side)
        if vector is None:
            raise VectorError(f"no masked vector came with the message of {site}")
        self._sum.add(vector, message.digest, site)
        self._sum.add_side(message.side)
        self._replies[site] = message.digest

    def _accept_reveal(self, site: str, reveal: Reveal) -> None:
        self._check_sender(site, reveal, self._sid2())
        assert self._shares is not None
        wrong = self._shares.add(site, pieces(reveal.shares, SHARE_BYTES, len(self._dealt)))
        if wrong:
            self.faults[site] = Fault(
                stage=self.stage,
                error="WrongShare",
                reason=f"{len(wrong)} shares that are not those dealt by {', '.join(wrong[:3])}; skipped",
            )
        else:
            self._replies[site] = True

    # ---- the end of a stage ----

    def close_stage(self) -> None:
        """End the stage with the sites that answered, and open the next; after the last, unmask.

        Raises:
            TooFewSurvivorsError: If too few did; the session is over and can never be unmasked.
            RestartError: If the sparse mask graph needs an attempt without the sites that dropped.
            UnmaskError: If secrets cannot be rebuilt, or the sum lacks its check values.
        """
        answered = sorted(self._replies)
        closings = (self._close_advertise, self._close_share, self._close_mask, self._close_agree, self._close_unmask)
        try:
            closings[self._stage](answered)
        except SecAggError:
            self.abort()
            raise
        self._stage += 1
        self._replies, self._common = {}, None
        self._events.append(enc("close"))

    def abort(self) -> None:
        """End the session; what was received can never be unmasked, because nobody reveals shares for it."""
        self._stage = len(STAGES)
        self._sum, self._shares, self._dealt = MaskedSum(self.config), None, {}

    def _close_advertise(self, answered: list[str]) -> None:
        self._keys = tuple(self._replies[site] for site in answered)
        self._cohort = read_cohort(self.config, self._config_hash, self._roster, self._keys, check=False)
        check_graph(self.config, self._cohort)
        self._asked = self._cohort.sites

    def _close_share(self, answered: list[str]) -> None:
        cohort = self._session()
        missing = tuple(site for site in cohort.sites if site not in self._replies)
        if missing and self.config.is_sparse(cohort.thresholds.n):
            raise RestartError(
                f"{len(missing)} of {cohort.thresholds.n} sites dealt no shares, the sparse mask graph needs all",
                missing=missing,
                hint="start the next attempt without them",
            )
        check_remaining(cohort, tuple(answered), set(cohort.sites), "sharers")
        self._dealt = {site: self._replies[site] for site in answered}
        self._headers = {site: SharesHeader.decode(shares.header) for site, shares in self._dealt.items()}
        self._asked = tuple(answered)

    def _close_mask(self, answered: list[str]) -> None:
        self._survivors = check_remaining(self._session(), tuple(answered), set(self._dealt), "survivors")
        self._asked = self._survivors
        self._sum.finish()
        self._shares = RevealedShares(
            self._session(),
            list(self._dealt),
            self._survivors,
            {site: shares.commitments for site, shares in self._dealt.items()},
        )

    def _close_agree(self, answered: list[str]) -> None:
        need = self._session().thresholds.threshold
        if len(answered) < need:
            raise TooFewSurvivorsError(f"{len(answered)} sites agreed to the survivors, {need} are needed")
        self._agreements = tuple(self._replies[site] for site in answered)
        self._asked = tuple(answered)

    def _close_unmask(self, answered: list[str]) -> None:
        cohort, count = self._session(), len(self._survivors)
        assert self._shares is not None
        plus, minus = masks_of_sum(self.config, cohort, self._headers, self._survivors, self._shares, self._sid2())
        mean_P, side = self._sum.unmask(plus, minus, count=count, threads=self._threads)
        receipt = make_receipt(
            self.identity,
            config=self._config_bytes,
            roster=self._roster_bytes,
            keys=self._keys,
            sharers=list(self._dealt),
            survivors=self._survivors,
            model=self._model,
            agreements=self._agreements,
            role="server",
            result=vector_digest(mean_P),
        )
        dropped = tuple(sorted(set(cohort.sites) - set(self._survivors)))
        self._result = RoundSum(mean_P=mean_P, side=side, survivors=self._survivors, dropped=dropped, receipt=receipt)
        self._shares = None

    # ---- a server that is killed ----

    @property
    def sum_vector(self) -> Vector | None:
        """The sum of the masked vectors so far, to be stored together with ``dump``."""
        return self._sum.vector

    @sum_vector.setter
    def sum_vector(self, vector: Vector | None) -> None:
        self._sum.vector = vector

    @property
    def events(self) -> int:
        """How many messages were accepted and stages closed."""
        return len(self._events)

    def dump(self, since: int = 0) -> bytes:
        """Every message that was accepted and every stage that was closed; nothing in it is secret from the server.

        Args:
            since: Leave out so many that were dumped before; what is left belongs behind them.
        """
        return enc(*self._events[since:])

    # ---- what it derives ----

    def _session(self) -> Cohort:
        assert self._cohort is not None
        return self._cohort

    def _sid2(self) -> bytes:
        return session_model_id(self._session().sid, self._model)

    def _agreement_context(self) -> bytes:
        return agreement_context(
            self._sid2(), self._config_hash, self._model, sharers_hash(list(self._dealt)), self._survivors
        )
