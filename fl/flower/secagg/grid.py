"""The server's end: rounds of secure aggregation over a Grid, and a Grid that plays them for a strategy."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl.arrays import F32, Layout, vector_of
from fl.config import to_dict
from fl.errors import ConfigError, RunError
from fl.files import write_atomic
from fl.flower import records
from fl.flower.grid import POLL_MAX_S, site_id
from fl.flower.secagg.wire import RECORD, VECTOR, float32, is_training, model_of
from fl.rounds.config import SecAggSection
from fl.rounds.secure import STRANGER, Credentials
from fl.secagg.aggregator import AggregatorSession
from fl.secagg.config import RoundConfig, schema_hash
from fl.secagg.driver import drive
from fl.secagg.errors import RestartError, SecAggError
from fl.secagg.masked_sum import RoundSum
from fl.secagg.parameters import MIN_SITES
from fl.secagg.roster import read_roster, roster_hash
from fl.secagg.vectors import Pieces, vector_digest

log = logging.getLogger(__name__)


class SecAggWorkflow:
    """Plays rounds of secure aggregation over a Grid.

    Args:
        grid: Flower's.
        credentials: The server's key and roster.
        section: The settings, as in a run file's ``[secagg]``.
        attempts: How often a round is tried; sites that refused are left out of the next attempt.
        receipts: Where each round's receipt goes, ``round-<number>.json``; nowhere if it is not given.

    Attributes:
        results: What each round revealed, in order.
    """

    def __init__(
        self,
        grid: Grid,
        credentials: Credentials,
        section: SecAggSection | None = None,
        *,
        attempts: int = 3,
        receipts: Path | None = None,
    ) -> None:
        self.grid, self.credentials, self.section = grid, credentials, section or SecAggSection()
        self.attempts, self.receipts = attempts, receipts
        self.results: list[RoundSum] = []
        self._roster = read_roster(credentials.roster, authority=credentials.authority)
        # A run may have several workflows, and each counts its own rounds.
        self._run = f"flower {grid.run.run_id} {secrets.token_hex(4)}"
        self._round, self._stage = 0, ""

    def sites(self) -> dict[int, str]:
        """The nodes that can take part, by node id: those whose registered name is on the roster."""
        known = self._roster.active()
        names = {node.node_id: site_id(node.name, node.node_id) for node in self.grid.get_nodes()}
        for stranger in sorted(set(names.values()) - set(known)):
            log.warning("%s takes no part: %s", stranger, STRANGER)
        return {node_id: name for node_id, name in names.items() if name in known}

    def train(self, messages: Sequence[Message], *, timeout_s: float) -> RecordDict:
        """Have sites train, and learn the mean of what they made.

        Args:
            messages: The train messages that would be sent in clear, one a site, all with the same model.
            timeout_s: How long sites have for training.

        Returns:
            The mean of the sites' models, under the name of the model that was sent, and ``metrics``.

        Raises:
            RunError: If no attempt comes to its end, with the reason of the last one.
        """
        sites = self.sites()
        asked = {name: m for m in messages if (name := sites.get(m.metadata.dst_node_id)) is not None}
        self._round += 1
        for attempt in range(1, self.attempts + 1):
            if len(asked) < MIN_SITES:
                raise RunError(f"{len(asked)} sites can take part, secure aggregation needs {MIN_SITES}")
            name, model = model_of(next(iter(asked.values())).content, "the message to a site")
            session = self._session(model, sorted(asked), attempt)
            try:
                result = drive(session, partial(self._exchange, asked, attempt, timeout_s))
            except SecAggError as err:
                reason = err.message
                log.warning("attempt %d failed: %s", attempt, reason)
                self._push(asked, "forget", attempt, dict.fromkeys(asked, b""))
                refused = {site for site, fault in session.faults.items() if fault.refused}
                missing = err.missing if isinstance(err, RestartError) else ()
                asked = {site: m for site, m in asked.items() if site not in refused and site not in missing}
                if self._stage == "unmask":  # nobody reveals shares for one round twice
                    self._round += 1
                continue
            self._keep(result)
            return RecordDict({name: _plus(model, result.mean_P), "metrics": _metrics(result)})
        raise RunError(f"secure aggregation failed {self.attempts} times: {reason}")

    def _session(self, model: ArrayRecord, sites: list[str], attempt: int) -> AggregatorSession:
        arrays = float32(model)
        entries = Layout.of(arrays).entries
        section, credentials = self.section, self.credentials
        settings = {key: value for key, value in to_dict(section).items() if key not in ("clip", "stage_deadline_s")}
        config = RoundConfig(
            run_id=self._run,
            round=self._round,
            attempt=attempt,
            aggregator=credentials.identity.public.hex(),
            roster=roster_hash(credentials.roster).hex(),
            schema=schema_hash(entries).hex(),
            sizes=tuple(int(np.prod(shape)) for _, shape in entries),
            clips=(section.clip,) * len(entries),
            n_max=len(sites),
            **{**settings, "metrics": section.metrics},
        )
        return AggregatorSession(
            config,
            credentials.roster,
            authority=credentials.authority,
            identity=credentials.identity,
            sites=sites,
            model=vector_digest(vector_of(arrays)),
        )

    def _exchange(
        self, asked: Mapping[str, Message], attempt: int, timeout_s: float, stage: str, payloads: Mapping[str, bytes]
    ) -> Iterator[tuple[str, bytes, Pieces | None]]:
        """One stage: replies as they land, one at a time in memory; a site that fails is named and left out."""
        self._stage = stage
        waiting = self._push(asked, stage, attempt, payloads)
        ends = time.monotonic() + (timeout_s if stage == "mask" else min(timeout_s, self.section.stage_deadline_s))
        over = False
        while waiting and not over:
            over = time.monotonic() >= ends  # one look follows: what is there by now counts
            found = False
            for message_id, site in list(waiting.items()):
                for reply in self.grid.pull_messages([message_id]):
                    del waiting[message_id]
                    found = True
                    if (answer := _answer(reply, site)) is not None:
                        yield (site, *answer)
            if waiting and not found and not over:
                time.sleep(min(POLL_MAX_S, max(0.0, ends - time.monotonic())))
        if waiting:
            log.warning("stage %s: silent: %s", stage, ", ".join(sorted(waiting.values())))

    def _push(
        self, asked: Mapping[str, Message], stage: str, attempt: int, payloads: Mapping[str, bytes]
    ) -> dict[str, str]:
        """Send a stage's messages; the app's own records travel with ``mask`` alone. Returns sites by message id."""
        messages, names = [], []
        for site, payload in payloads.items():
            message = asked[site]
            facts = ConfigRecord({"round": self._round, "attempt": attempt, "stage": stage, "payload": payload})
            content = RecordDict({**message.content, RECORD: facts}) if stage == "mask" else RecordDict({RECORD: facts})
            metadata = message.metadata
            messages.append(
                Message(content, metadata.dst_node_id, metadata.message_type, group_id=metadata.group_id or "")
            )
            names.append(site)
        ids = self.grid.push_messages(messages)
        return {message_id: site for message_id, site in zip(ids, names, strict=True) if message_id}

    def _keep(self, result: RoundSum) -> None:
        log.info("the sum of %d sites: %s", len(result.survivors), ", ".join(result.survivors))
        self.results.append(result)
        if self.receipts:
            self.receipts.mkdir(parents=True, exist_ok=True)
            write_atomic(self.receipts / f"round-{self._round}.json", result.receipt)


class SecureGrid(Grid):
    """A Grid whose train messages are aggregated securely, so that a strategy sees their mean as one reply.

    Only for strategies that need the mean; one that compares sites (median, Krum) would see one site. Replies to
    other messages would show each site's metrics, so they are refused unless ``evaluate_in_clear`` is set.

    Args:
        grid: Flower's.
        credentials: The server's key and roster.
        section: The settings, as in a run file's ``[secagg]``.
        evaluate_in_clear: Whether evaluation goes on as it does without secure aggregation.
        receipts: Where each round's receipt goes.
    """

    def __init__(
        self,
        grid: Grid,
        credentials: Credentials,
        section: SecAggSection | None = None,
        *,
        evaluate_in_clear: bool = False,
        receipts: Path | None = None,
    ) -> None:
        self.grid, self.evaluate_in_clear = grid, evaluate_in_clear
        self.workflow = SecAggWorkflow(grid, credentials, section, receipts=receipts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Train with secure aggregation, and return one reply for all sites.

        Raises:
            RunError: If no attempt comes to its end.
            ConfigError: If another message is to be sent, and evaluation in clear was not asked for.
        """
        messages = list(messages)
        training = {is_training(message.metadata.message_type) for message in messages}
        if True not in training:
            if messages and not self.evaluate_in_clear:
                raise ConfigError(
                    "replies to evaluate and query messages would show the server each site's metrics",
                    hint="set fraction_evaluate=0.0 in the strategy, or SecureGrid(…, evaluate_in_clear=True)",
                )
            return self.grid.send_and_receive(messages, timeout=timeout)
        if False in training:
            raise ConfigError("train messages and others go out together, which secure aggregation cannot tell apart")
        content = self.workflow.train(messages, timeout_s=float("inf") if timeout is None else timeout)
        return [Message(content, reply_to=messages[0])]

    def get_node_ids(self) -> Iterable[int]:
        """Nodes whose names are on the roster."""
        return list(self.workflow.sites())

    def get_nodes(self) -> Iterable[Any]:
        """As ``get_node_ids``, with names."""
        known = self.workflow.sites()
        return [node for node in self.grid.get_nodes() if node.node_id in known]

    def set_run(self, run: Any) -> None:
        """See ``Grid``."""
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        """See ``Grid``."""
        return self.grid.run

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """See ``Grid``."""
        return self.grid.create_message(*arguments, **named)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See ``Grid``; sites with ``secagg_mod`` refuse to train on these."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See ``Grid``."""
        return self.grid.pull_messages(message_ids)


def _answer(reply: Message, site: str) -> tuple[bytes, Pieces | None] | None:
    """The protocol's message in a reply and the vector beside it; ``None`` if the site has none, and why in the log."""
    reason = "its reply is not one of secagg_mod"
    if reply.has_error():
        reason = " ".join(str(reply.error.reason).split())[:256]
    elif (record := reply.content.config_records.get(RECORD)) is not None:
        payload, vector = record.get("payload"), reply.content.array_records.get(VECTOR)
        if isinstance(payload, bytes):
            return payload, records.without_header([vector["vector"].data]) if vector else None
        reason = str(record.get("failure", reason))[:256]
    log.warning("%s is out: %s", site, reason)
    return None


def _plus(model: ArrayRecord, mean_P: F32) -> ArrayRecord:
    """A model with the mean update added, in the types that it has."""
    result, start = ArrayRecord(), 0
    for name, array in model.items():
        before: npt.NDArray[Any] = array.numpy()
        after = before.astype(np.float64) + mean_P[start : start + before.size].reshape(before.shape)
        if np.issubdtype(before.dtype, np.integer):
            after = np.rint(after)
        result[name] = records.encode_array(after.astype(before.dtype))
        start += before.size
    return result


def _metrics(result: RoundSum) -> MetricRecord:
    return MetricRecord({**result.side.metrics, records.NUM_EXAMPLES: result.side.num_examples})
