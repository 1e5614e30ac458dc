"""Collecting the sum of an attempt with secure aggregation, so that the server never sees one site's update.

``fl.secagg`` is the protocol, without a clock or a disk; this drives the server's side of it. Five stages, each a
request and a reply a site: keys, shares, masked updates (here the sites train), agreement on the survivors, unmasking.

A server that is killed before the masked updates were complete begins a new attempt with fresh keys; nothing was
revealed. From then on every accepted message is on disk before the next one is waited for, so that a resumed server
goes on in the middle: sites reveal for an attempt once, and never for two.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
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
from fl.rounds.port import Reply, Request
from fl.rounds.site import EVALUATION
from fl.secagg.aggregator import AggregatorSession
from fl.secagg.config import RoundConfig, schema_hash
from fl.secagg.errors import SecAggError
from fl.secagg.identity import Identity
from fl.secagg.parameters import MIN_SITES
from fl.secagg.replay import replay
from fl.secagg.roster import read_roster, roster_hash
from fl.secagg.storage import load_roster, read_identity, read_public_key
from fl.secagg.vectors import vector_digest
from fl.strategies.averaging import FedAvg

log = logging.getLogger(__name__)

DURABLE_FROM = "agree"
"""The stage from which on a killed server goes on instead of beginning anew."""

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
        exchange.minimum = max(exchange.minimum, MIN_SITES)

    def __call__(self, opened: events.RoundOpened, *, resumed: bool) -> Collected:
        """See ``Collecting``."""
        landed = self.journal.state.round(opened.round).sum
        if landed:
            self._note_evaluation(landed)
            return Collected("every site had answered", landed.survivors)
        session = self._session(opened)
        store = _Store(self.journal.round_directory(opened.round), opened.attempt)
        if resumed and not store.restore(session):
            return Collected("the server was restarted before the sum was masked", ())
        started = self.journal.clock.monotonic()
        while session.stage != "over":
            stage = session.stage
            try:
                self._stage(session, opened, store)
                session.close_stage()
            except SecAggError as err:
                self._forget(opened)
                return Collected(err.message, ())
            self.journal.append(
                events.StageClosed(round=opened.round, attempt=opened.attempt, stage=stage, sites=session.asked)
            )
            if session.stage == DURABLE_FROM:
                store.keep_sum(session)
            store.keep(session)
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
        evaluated = opened.round > 1 and bool(self.config.evaluation.sites_every)
        names = section.metrics + (tuple(EVALUATION + name for name in section.metrics) if evaluated else ())
        credentials = self.credentials
        with checkpoint.open_model(self.journal) as model:
            entries, digest = model.layout.entries, vector_digest(model.vector_P)
        try:
            config = RoundConfig(
                run_id=f"{state.created.run} {state.created_at.isoformat()}",
                round=opened.round,
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
            known = read_roster(credentials.roster, authority=credentials.authority).sites
            strangers = sorted(set(opened.cohort) - known.keys())
            if strangers:
                log.warning("round %d: not on the roster: %s", opened.round, ", ".join(strangers))
            return AggregatorSession(
                config,
                credentials.roster,
                authority=credentials.authority,
                identity=credentials.identity,
                sites=sorted(set(opened.cohort) & known.keys()),
                model=digest,
            )
        except (SecAggError, ConfigError) as err:
            raise RunError(f"round {opened.round} cannot be aggregated securely: {err.message}", hint=err.hint) from err

    def _stage(self, session: AggregatorSession, opened: events.RoundOpened, store: _Store) -> None:
        """Ask this stage's sites and take what they answer, until all have or its time is over."""
        asked = set(session.waiting)
        if not asked:  # a server that was killed had all replies
            return
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
        for reply, waited_s in self.exchange.replies(request, asked, self.exchange.window(seconds)):
            self.exchange.take(reply, waited_s, partial(_receive, session))
            if session.stage in ("agree", "unmask"):
                store.keep(session)

    def _request(self, opened: events.RoundOpened, stage: str) -> Request:
        evaluate = {"evaluate": 1.0} if opened.round > 1 and self.config.evaluation.sites_every else {}
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

    def _note_evaluation(self, landed: events.SumLanded) -> None:
        """The sites' evaluation of the model that the round began with, as that of the round before."""
        number, every = landed.round - 1, self.config.evaluation.sites_every
        if number < 1 or not every or number % every or "sites" in self.journal.state.round(number).evaluated:
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


class _Store:
    """Where a session outlives its server: in the round's directory, until the round is committed."""

    def __init__(self, directory: Path, attempt: int) -> None:
        self._events = directory / f"secagg-{attempt}.events"
        self._sum = directory / f"secagg-{attempt}.sum"

    def keep_sum(self, session: AggregatorSession) -> None:
        """Store the sum of the masked vectors: once, when it is complete."""
        assert session.sum_vector is not None
        write_atomic(self._sum, session.sum_vector.tobytes())

    def keep(self, session: AggregatorSession) -> None:
        """Store what was accepted so far, once the sum is there."""
        if self._sum.exists():
            write_atomic(self._events, session.dump())

    def restore(self, session: AggregatorSession) -> bool:
        """Bring a new session to where the stored one stood; ``False`` if none was stored."""
        if not (self._events.exists() and self._sum.exists()):
            return False
        vector = np.frombuffer(self._sum.read_bytes(), session.config.ring.dtype).copy()
        replay(session, self._events.read_bytes(), vector)
        return True


def _receive(session: AggregatorSession, reply: Reply) -> None:
    """Hand a reply to the session; what it refuses, or the site refuses, is the reason why the site is out."""
    try:
        session.receive(reply.site, reply.payload, reply.vector)
    except SecAggError as err:
        raise spool.UnusableError(type(err).__name__, err.message) from err
    fault = session.faults.get(reply.site)
    if fault:
        raise spool.UnusableError("refused" if fault.refused else fault.error, fault.reason)
