"""The round engine: a round opens, replies land, the quorum closes it, the strategy folds, the model is committed.

Each step is in the journal before the next one begins, and each method looks there first for what is already done.
So a run that was killed continues at the exact point, and asks again only for the replies that it does not have.
Nothing here waits without a bound: a site that is silent costs at most the deadline, a federation without sites at
most ``round.wait_s``. What a site answers, or fails to, never ends a run.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from fl import seeding
from fl.arrays import ArrayFile, Arrays, Layout
from fl.config import share_or_count
from fl.errors import RunError, TooFewSitesError
from fl.metrics import weighted_mean
from fl.rounds import checkpoint, cohort, events, spool
from fl.rounds.checkpoint import Folding
from fl.rounds.collect import Collecting, PlainCollecting
from fl.rounds.config import RunConfig
from fl.rounds.exchange import Exchange
from fl.rounds.journal import Journal
from fl.rounds.port import Reply, Request, Sites
from fl.rounds.secure import Credentials, SecureCollecting
from fl.rounds.state import RunState

log = logging.getLogger(__name__)

CentreEvaluation = Callable[[Arrays], tuple[int, Mapping[str, float]]]
"""Evaluates a model on the centre's own data: number of examples and metrics."""


class Engine:
    """Runs a federation's rounds.

    Args:
        journal: Of a new run, or of one to continue.
        config: The run's configuration.
        sites: The port to the sites.
        folding: The strategy.
        evaluate_centre: How to evaluate at the centre; needed if ``evaluation.centre_every`` is set.
        credentials: The server's part in secure aggregation; needed if the run file has ``[secagg]``.

    Raises:
        ConfigError: If the run file asks for secure aggregation and this strategy, or this server, cannot have it.
    """

    def __init__(
        self,
        journal: Journal,
        config: RunConfig,
        sites: Sites,
        folding: Folding,
        *,
        evaluate_centre: CentreEvaluation | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.journal, self.config, self.folding = journal, config, folding
        self.evaluate_centre = evaluate_centre
        self.exchange = Exchange(journal, sites, config.round, minimum=folding.minimum_updates())
        self.collect: Collecting = PlainCollecting(self.exchange, folding)
        if config.secagg:
            self.collect = SecureCollecting(self.exchange, folding, config, credentials)

    @property
    def state(self) -> RunState:
        """What the journal says so far."""
        return self.journal.state

    def run(self) -> RunState:
        """Run all rounds that are left, and return the final state.

        Raises:
            RunError: If too few sites were online, or answered, for too long, or the strategy cannot fold what
                they answered; the journal says so too.
            StorageError: If the disk is full; nothing of the round under way was committed.
            JournalError: If the newest checkpoint is damaged.
        """
        if self.state.status == "completed":
            return self.state
        spool.drop_unnamed(self.journal)
        checkpoint.verify(self.journal)
        self._drop_damaged(self.state.committed_rounds + 1)
        self.journal.append(events.RunStarted(pid=os.getpid(), host=socket.gethostname()))
        try:
            self._initialise()
            self._tidy(whole=True)  # of what the last process could not
            for number in range(self.state.committed_rounds or 1, self.config.run.rounds + 1):
                self._train(number)
                self._evaluate(number)
                self._tidy()
        except RunError as err:
            self.journal.append(events.RunEnded(status="failed", reason=err.message))
            raise
        rounds = self.state.committed_rounds
        self.journal.append(events.RunEnded(status="completed", reason=f"{rounds} rounds"))
        return self.state

    # ---- round 0: the model to begin with ----

    def _initialise(self) -> None:
        if self.state.initialised:
            return
        path = checkpoint.model_path(self.journal.directory, 0)
        self.journal.round_directory(0)
        if self.config.run.initial_model:
            with ArrayFile(Path(self.config.run.initial_model)) as file:
                layout, digest = spool.spool(path, file.arrays(), None)
            source = self.config.run.initial_model
        else:
            layout, digest, source = self._initialised_by_a_site(path)
        self.journal.append(events.ModelInitialised(source=source, digest=digest, parameters=layout.size))

    def _initialised_by_a_site(self, path: Path) -> tuple[Layout, str, str]:
        """Initial parameters from the first site that has some; the seed makes them the same wherever that is."""
        request = Request(
            phase="initialise", round=0, attempt=1, seed=seeding.derive(self.config.run.seed, "initialise")
        )
        refused: set[str] = set()
        while True:
            candidates = [site for site in self.exchange.await_sites("initial parameters") if site not in refused]
            if not candidates:
                raise TooFewSitesError(
                    "no site could make the initial parameters",
                    hint="the sites' reasons stand in the journal",
                )
            site = candidates[0]
            self.exchange.sites.ask([site], request, None)
            for reply, waited_s in self.exchange.replies(request, {site}, self.exchange.window(self._deadline_s(0))):
                spooled = self.exchange.take(reply, waited_s, lambda reply: spool.spool(path, reply.arrays or {}, None))
                if spooled:
                    return (*spooled, f"site {site}")
            refused.add(site)

    # ---- train: from sites' updates to the next model ----

    def _train(self, number: int) -> None:
        if self.state.round(number).committed:
            return
        if not self.state.round(number).closed:
            self._collect_updates(number)
        checkpoint.commit(self.journal, number, self.folding)
        committed = self.state.round(number).committed
        assert committed
        log.info("round %d committed: %s", number, _in_words(committed.metrics))

    def _collect_updates(self, number: int) -> None:
        """Attempts until one reaches its quorum."""
        entry = self.state.round(number)
        for _ in range(self.config.round.attempts):
            resumed = entry.current
            opened = resumed or self._open_round(number)
            collected = self.collect(opened, resumed=resumed is not None)
            because, survivors = collected.because, collected.survivors
            if len(survivors) >= opened.quorum:
                missing = tuple(site for site in opened.cohort if site not in survivors)
                self.journal.append(
                    events.RoundClosed(
                        round=number,
                        attempt=opened.attempt,
                        because=because,
                        survivors=survivors,
                        missing=missing,
                    )
                )
                return
            self.journal.append(
                events.RoundAbandoned(
                    round=number,
                    attempt=opened.attempt,
                    because=because,
                    landed=len(survivors),
                    quorum=opened.quorum,
                )
            )
            log.warning("round %d attempt %d abandoned: %s", number, opened.attempt, because)
        reasons = "".join(f"; {site}: {failed.reason}" for site, failed in sorted(entry.failed.items())[:1])
        raise TooFewSitesError(
            f"round {number}: {len(survivors)} of {opened.quorum} needed sites answered "
            f"in {len(entry.opened)} attempts{reasons}",
            hint="fl report shows each site's reason; mend it, then fl run resume",
        )

    def _open_round(self, number: int) -> events.RoundOpened:
        """Choose the cohort among the sites that are online, and write it down before anyone is asked."""
        online = self.exchange.await_sites(
            f"round {number}",
            returning=self._last_survivors(number),
            without=partial(self.collect.left_out, number),
        )
        entry = self.state.round(number)
        attempt = len(entry.opened) + 1
        chosen = cohort.plan(
            self.config.round,
            online,
            entry.landed,
            seed=seeding.derive(self.config.run.seed, "cohort", number, attempt),
            minimum=self.exchange.minimum,
        )
        assert self.state.model_digest
        opened = events.RoundOpened(
            round=number,
            attempt=attempt,
            # Updates whose sum may have been revealed are not made again.
            seed=seeding.derive(self.config.run.seed, "round", number, *([self.state.spent] * bool(self.state.spent))),
            online=len(online),
            cohort=chosen.cohort,
            wanted=chosen.wanted,
            quorum=chosen.quorum,
            deadline_s=self._deadline_s(number),
            model_digest=self.state.model_digest,
        )
        self.journal.append(opened)
        return opened

    def _drop_damaged(self, number: int) -> None:
        """Forget updates that changed on disk since they landed: their sites are asked again."""
        dropped = list(spool.damaged(self.journal, number))
        for landed, reason in dropped:
            self.journal.append(events.UpdateDropped(round=number, site=landed.site, reason=reason))
        if dropped:
            (first, reason), others = dropped[0], len(dropped) - 1
            more = f" and {others} more are" if others else " is"
            log.warning("round %d: the update of %s%s asked for again: %s", number, first.site, more, reason)

    # ---- evaluate: at the sites, at the centre ----

    def _evaluate(self, number: int) -> None:
        entry = self.state.round(number)
        # With secure aggregation sites evaluate in the course of the next round, so that only the mean is seen.
        at_sites = self.config.secagg is None and self._due(self.config.evaluation.sites_every, number)
        if at_sites and "sites" not in entry.evaluated:
            self._evaluate_at_sites(number)
        if self._due(self.config.evaluation.centre_every, number) and "centre" not in entry.evaluated:
            assert self.evaluate_centre
            with ArrayFile(checkpoint.model_path(self.journal.directory, number)) as model:
                num_examples, metrics = self.evaluate_centre(model.arrays())
            self._evaluated(number, "centre", num_examples, 1, metrics)

    def _due(self, every: int, number: int) -> bool:
        return every > 0 and (number % every == 0 or number == self.config.run.rounds)

    def _evaluate_at_sites(self, number: int) -> None:
        entry = self.state.round(number)
        if entry.evaluation is None:
            online = self.exchange.online()
            asked_sites = cohort.draw(
                online,
                share_or_count(self.config.evaluation.cohort, len(online)),
                seed=seeding.derive(self.config.run.seed, "evaluation cohort", number),
            )
            self.journal.append(
                events.EvaluationOpened(round=number, cohort=asked_sites, deadline_s=self._deadline_s(number + 1))
            )
        evaluation = entry.evaluation
        assert evaluation
        request = Request(
            phase="evaluate",
            round=number,
            attempt=1,
            seed=seeding.derive(self.config.run.seed, "evaluate", number),
        )
        asked = {
            site for site in evaluation.opened.cohort if site not in evaluation.landed and site not in evaluation.failed
        }
        with ArrayFile(checkpoint.model_path(self.journal.directory, number)) as model:
            if asked:
                self.exchange.sites.ask(sorted(asked), request, model)
        window = self.exchange.window(evaluation.opened.deadline_s)
        for reply, waited_s in self.exchange.replies(request, asked, window):
            self.exchange.take(reply, waited_s, partial(self._land_evaluation, waited_s))
        landed = [evaluation.landed[site] for site in sorted(evaluation.landed)]
        metrics = weighted_mean((entry.num_examples, entry.metrics) for entry in landed)
        self._evaluated(number, "sites", sum(entry.num_examples for entry in landed), len(landed), metrics)

    def _land_evaluation(self, waited_s: float, reply: Reply) -> None:
        if reply.num_examples <= 0:
            raise spool.UnusableError("no_examples", f"evaluated on {reply.num_examples} examples")
        self.journal.append(
            events.EvaluationLanded(
                round=reply.request.round,
                site=reply.site,
                num_examples=reply.num_examples,
                metrics=dict(reply.metrics),
                waited_s=waited_s,
            )
        )

    def _evaluated(self, number: int, at: str, num_examples: int, sites: int, metrics: Mapping[str, float]) -> None:
        self.journal.append(
            events.Evaluated(round=number, at=at, num_examples=num_examples, sites=sites, metrics=dict(metrics))
        )
        log.info("round %d evaluated at the %s: %s", number, at, _in_words(metrics))

    # ---- what the journal says of earlier rounds ----

    def _last_survivors(self, number: int) -> Collection[str]:
        closed = self.state.round(number - 1).closed if number > 1 else None
        return closed.survivors if closed else ()

    def _deadline_s(self, number: int) -> float:
        earlier = (self.state.round(before) for before in range(number - 1, 0, -1))
        return cohort.deadline_s(self.config.round, earlier)

    def _tidy(self, *, whole: bool = False) -> None:
        keep = self.config.journal
        checkpoint.tidy(self.journal, keep_updates=keep.keep_updates, keep_models=keep.keep_models, whole=whole)


def _in_words(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "no metrics"
