"""Collecting the sum of an attempt with secure aggregation, so that the server never sees one site's update.

``fl.secagg`` is the protocol, without a clock or a disk; this drives the server's side of it. Five stages, each a
request and a reply a site: keys, shares, masked updates (here the sites train), agreement on the survivors, unmasking.

A server that is killed before the masked updates were complete begins a new attempt with fresh keys; nothing was
revealed. From then on every accepted message is on disk before the next one is waited for, so that a resumed server
goes on in the middle: sites reveal for an attempt once, and never for two.

A site that has revealed shares for a round refuses to go through it again. So an attempt that was given up after its
unmask messages went out is *spent*: the next one is a later round for the sites, with another seed. Receipts number
rounds as the sites do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fl.errors import ConfigError, RunError
from fl.files import write_atomic
from fl.rounds import checkpoint, events, spool
from fl.rounds.checkpoint import Folding, Streaming
from fl.rounds.collect import Collected
from fl.rounds.config import RunConfig
from fl.rounds.exchange import Exchange
from fl.rounds.port import EVALUATION, Reply, Request
from fl.rounds.secure_store import SessionStore
from fl.secagg.aggregator import AggregatorSession
from fl.secagg.config import RoundConfig, schema_hash
from fl.secagg.errors import RestartError, SecAggError, TooFewSurvivorsError
from fl.secagg.identity import Identity
from fl.secagg.parameters import MIN_SITES
from fl.secagg.roster import read_roster, roster_hash
from fl.secagg.storage import load_roster, read_identity, read_public_key
from fl.secagg.vectors import vector_digest
from fl.strategies.averaging import FedAvg

log = logging.getLogger(__name__)

DURABLE_FROM = "agree"
"""The stage from which on a killed server goes on instead of beginning anew."""

STRANGER = "the roster does not have this site: fl roster add, then fl roster sign"

IDENTITY, ROSTER, AUTHORITY = "aggregator.key", "roster.json", "authority.pub"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the server brings to secure aggregation; none of it lets it invent a site or read an update."""

    identity: Identity
    """Signs receipts."""

    roster: bytes
    """Signed by the roster authority, whose key is not here."""

    authority: bytes
    """The authority's public key."""

    @classmethod
    def from_directory(cls, directory: Path) -> Credentials:
        """``aggregator.key``, ``roster.json`` and ``authority.pub`` of a directory.

        Raises:
            ConfigError: If a file is missing, or the key is open to others.
            RosterError: If the roster cannot be trusted.
        """
        authority = read_public_key(str(directory / AUTHORITY))
        _, roster = load_roster(directory / ROSTER, authority)
        return cls(identity=read_identity(directory / IDENTITY, "aggregator"), roster=roster, authority=authority)


def check_folding(folding: Folding, name: str) -> None:
    """Refuse a strategy that needs more than the mean of the updates.

    Raises:
        ConfigError: Naming it.
    """
    if not (isinstance(folding, Streaming) and isinstance(folding.strategy, FedAvg)):
        raise ConfigError(
            f"strategy {name} looks at each site's update, which secure aggregation hides",
            hint="use fedavg, fedprox, fedavgm, fedadam, fedyogi or fedadagrad, or leave out [secagg]",
        )


class SecureCollecting:
    """The server's side of secure aggregation, for a strategy that needs no more than the mean."""

    def __init__(
        self, exchange: Exchange, folding: Folding, config: RunConfig, credentials: Credentials | None
    ) -> None:
        assert config.secagg
        check_folding(folding, config.strategy["name"])
        if credentials is None:
            raise ConfigError(
                "the run file has [secagg], but this server has neither roster nor key for it",
                hint="fl roster init begins a roster",
            )
        self.exchange, self.folding, self.config, self.section = exchange, folding, config, config.secagg
        self.credentials, self.journal = credentials, exchange.journal
        self._known = frozenset(read_roster(credentials.roster, authority=credentials.authority).active())
        exchange.minimum = max(exchange.minimum, MIN_SITES)

    def left_out(self, number: int, sites: Sequence[str]) -> Mapping[str, str]:
        """Those that refused an attempt at this round, and those that the roster does not have."""
        refused = self.journal.state.round(number).refused
        reasons = {site: refused[site].reason for site in sites if site in refused}
        return reasons | {site: STRANGER for site in sites if site not in self._known}

    def __call__(self, opened: events.RoundOpened, *, resumed: bool) -> Collected:
        """See ``Collecting``."""
        entry = self.journal.state.round(opened.round)
        if entry.sum:
            self._note_evaluation(entry.sum)
            return Collected("every site had answered", entry.sum.survivors)
        if not resumed:
            for site in self.exchange.online():
                if site not in self._known:
                    self._out(opened, site, "not_on_roster", STRANGER)
        store = SessionStore(self.journal.round_directory(opened.round), opened.attempt)
        if resumed and not store.is_there:
            return Collected("the server was restarted before the sum was masked", ())
        session = self._session(opened)
        started = self.journal.clock.monotonic()
        try:
            if resumed:
                store.restore(session)
            while session.stage != "over":
                self._stage(session, opened, store)
        except SecAggError as err:
            log.warning("round %d: %s", opened.round, err.message)
            self._forget(opened)
            return Collected(err.message, ())
        self._land(opened, session, self.journal.clock.monotonic() - started)
        return Collected("every site had answered", session.result().survivors)

    def _session(self, opened: events.RoundOpened) -> AggregatorSession:
        """The attempt's session; the same again after a restart.

        Raises:
            RunError: If this federation cannot run it at all, e.g. because the ring has no room for so many sites.
        """
        state, section = self.journal.state, self.section
        assert state.created is not None
        assert state.created_at is not None
        names = section.metrics
        if self._evaluates(opened.round):
            names += tuple(EVALUATION + name for name in names)
        credentials = self.credentials
        with checkpoint.open_model(self.journal) as model:
            entries, digest = model.layout.entries, vector_digest(model.vector_P)
        try:
            config = RoundConfig(
                run_id=f"{state.created.run} {state.created_at.isoformat()}",
                round=opened.round + state.spent,
                attempt=opened.attempt,
                aggregator=credentials.identity.public.hex(),
                roster=roster_hash(credentials.roster).hex(),
                schema=schema_hash(entries).hex(),
                sizes=tuple(int(np.prod(shape)) for _, shape in entries),
                clips=(section.clip,) * len(entries),
                n_max=len(opened.cohort),
                n_min=max(MIN_SITES, opened.quorum),
                metrics=names,
                weight_cap=section.weight_cap,
                l2_clip=section.l2_clip,
                max_dropout_fraction=section.max_dropout_fraction,
                profile=section.profile,
                suite=section.suite,
                task=hashlib.sha256(json.dumps(self.config.task, sort_keys=True).encode()).hexdigest(),
            )
            return AggregatorSession(
                config,
                credentials.roster,
                authority=credentials.authority,
                identity=credentials.identity,
                sites=opened.cohort,
                model=digest,
            )
        except (SecAggError, ConfigError) as err:
            raise RunError(f"round {opened.round} cannot be aggregated securely: {err.message}", hint=err.hint) from err

    def _stage(self, session: AggregatorSession, opened: events.RoundOpened, store: SessionStore) -> None:
        """One stage: ask its sites, take what they answer, close it, and write down that it is over.

        Raises:
            SecAggError: If too few sites are left, for the protocol or for the round's quorum.
        """
        stage = session.stage
        waited_s = self._exchange(session, opened, store)
        try:
            session.close_stage()
        except RestartError as err:
            for site in err.missing:
                self._out(opened, site, "no_shares", "dealt no shares, and the sparse mask graph needs every site's")
            raise
        # Looked at while nothing was revealed: afterwards no second attempt at the same updates is possible.
        if session.stage in ("share", "mask", "agree") and len(session.asked) < opened.quorum:
            raise TooFewSurvivorsError(f"{len(session.asked)} sites are left after {stage}, quorum is {opened.quorum}")
        closed = events.StageClosed(
            round=opened.round, attempt=opened.attempt, stage=stage, sites=session.asked, waited_s=waited_s
        )
        self.journal.append(closed)
        if session.stage == DURABLE_FROM:
            store.begin(session)
        store.keep(session)

    def _exchange(self, session: AggregatorSession, opened: events.RoundOpened, store: SessionStore) -> float:
        """Ask this stage's sites and take their replies, until all have answered or its time is over.

        Returns:
            After how many seconds the last reply was taken.
        """
        asked, last_s = set(session.waiting), 0.0
        if not asked:  # a server that was killed had all replies
            return last_s
        masking = session.stage == "mask"
        request = self._request(opened, session.stage)
        payloads = {site: session.request_for(site) for site in asked}
        log.info("round %d, %s: asking %d sites", opened.round, session.stage, len(asked))
        if masking:
            with checkpoint.open_model(self.journal) as model:
                self.exchange.sites.ask(sorted(asked), request, model, payloads)
        else:
            self.exchange.sites.ask(sorted(asked), request, None, payloads)
        seconds = opened.deadline_s if masking else min(opened.deadline_s, self.section.stage_deadline_s)
        window, linger_s, taken = self.exchange.window(seconds), self.config.round.linger_s, 0
        for reply, waited_s in self.exchange.replies(request, asked, window):
            if self.exchange.take(reply, waited_s, partial(_receive, session)):
                last_s, taken = waited_s, taken + 1
            store.keep(session)
            if masking and linger_s is not None and taken >= max(session.needed, opened.quorum):
                window.end_after(linger_s)
        return last_s

    def _out(self, opened: events.RoundOpened, site: str, code: str, reason: str) -> None:
        """Write down why a site is not in an attempt."""
        self.journal.append(
            events.ReplyFailed(
                round=opened.round,
                attempt=opened.attempt,
                phase="secagg",
                site=site,
                code=code,
                reason=reason,
                waited_s=0.0,
            )
        )

    def _request(self, opened: events.RoundOpened, stage: str) -> Request:
        evaluate = {"evaluate": 1.0} if self._evaluates(opened.round) else {}
        return Request(
            phase="secagg",
            round=opened.round,
            attempt=opened.attempt,
            seed=opened.seed,
            options={**self.folding.site_options(), **evaluate},
            stage=stage,
        )

    def _forget(self, opened: events.RoundOpened) -> None:
        """Tell the cohort that the attempt is over, so that its keys are erased now and not with the next attempt."""
        self.exchange.sites.ask(opened.cohort, self._request(opened, "forget"), None)

    def _land(self, opened: events.RoundOpened, session: AggregatorSession, waited_s: float) -> None:
        """Put the mean and the receipt on disk, then into the journal."""
        result = session.result()
        directory = self.journal.round_directory(opened.round)
        with checkpoint.open_model(self.journal) as model:
            layout = model.layout
        try:
            _, digest = spool.spool(
                spool.update_path(self.journal.directory, opened.round, spool.SUM), layout.split(result.mean_P), layout
            )
        except spool.UnusableError as err:
            raise RunError(f"round {opened.round}: the sum cannot be used: {err.message}") from err
        write_atomic(directory / "receipt.json", result.receipt)
        write_atomic(directory / ROSTER, self.credentials.roster)  # public, and what the receipt is checked against
        landed = events.SumLanded(
            round=opened.round,
            attempt=opened.attempt,
            survivors=result.survivors,
            dropped=result.dropped,
            digest=digest,
            receipt_digest=hashlib.sha256(result.receipt).hexdigest(),
            num_examples=result.side.num_examples,
            metrics=result.side.metrics,
            clipped=result.side.clipped,
            size_bytes=session.config.length * session.config.ring.dtype.itemsize,
            waited_s=round(waited_s, 3),
        )
        self.journal.append(landed)
        self._note_evaluation(landed)

    def _evaluates(self, number: int) -> bool:
        """Whether sites evaluate, in the course of a round, the model that it begins with."""
        every = self.config.evaluation.sites_every
        return number > 1 and bool(every) and (number - 1) % every == 0

    def _note_evaluation(self, landed: events.SumLanded) -> None:
        """The sites' evaluation of the model that the round began with, as that of the round before."""
        number = landed.round - 1
        if not self._evaluates(landed.round) or "sites" in self.journal.state.round(number).evaluated:
            return
        found = {
            name.removeprefix(EVALUATION): value
            for name, value in landed.metrics.items()
            if name.startswith(EVALUATION)
        }
        self.journal.append(
            events.Evaluated(
                round=number,
                at="sites",
                num_examples=landed.num_examples,
                sites=len(landed.survivors),
                metrics=found,
            )
        )


def _receive(session: AggregatorSession, reply: Reply) -> bool:
    """Hand a reply to the session; what it refuses, or the site refuses, is the reason why the site is out."""
    try:
        session.receive(reply.site, reply.payload, reply.vector)
    except SecAggError as err:
        raise spool.UnusableError(type(err).__name__, err.message) from err
    fault = session.faults.get(reply.site)
    if fault:
        raise spool.UnusableError("refused" if fault.refused else fault.error, fault.reason)
    return True
