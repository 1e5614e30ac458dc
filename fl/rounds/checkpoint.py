"""The step from updates to the next model: the strategy folds block by block into new files, one event makes it so."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fl.arrays import F32, ArrayFile, ArrayWriter, Layout
from fl.digests import is_intact
from fl.errors import JournalError
from fl.metrics import weighted_mean
from fl.rounds import events, spool
from fl.rounds.journal import Journal, round_directory
from fl.strategies.base import Strategy, Update
from fl.strategies.fold import FoldedBlock, fold

MODEL = "model.safetensors"


class Folding(Protocol):
    """What the engine needs of a strategy."""

    def minimum_updates(self) -> int:
        """The fewest updates that it can fold."""
        ...

    def site_options(self) -> Mapping[str, float]:
        """What sites need to know of it."""
        ...

    def fold(
        self, layout: Layout, model_P: F32, updates: Sequence[Update], state: Mapping[str, F32], *, round: int
    ) -> Iterator[FoldedBlock]:
        """The next model and state, in consecutive blocks; each names the same vectors of state, each ``(P,)``."""
        ...


class Streaming:
    """A strategy of ``fl.strategies``, folded block by block: memory doesn't grow with the number of sites."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.minimum_updates = strategy.minimum_updates
        self.site_options = strategy.site_options

    def fold(
        self, layout: Layout, model_P: F32, updates: Sequence[Update], state: Mapping[str, F32], *, round: int
    ) -> Iterator[FoldedBlock]:
        """See ``fl.strategies.fold``."""
        return fold(self.strategy, model_P, updates, state, round=round)


def commit(journal: Journal, number: int, folding: Folding) -> None:
    """Fold the survivors of a closed round and commit the new model.

    Either the ``round_committed`` event and all its files are on disk afterwards, or nothing of the round's outcome
    counts and the call can be made again.

    Raises:
        StorageError: If the disk is full or refuses.
        JournalError: If the last model or the strategy's state is damaged.
    """
    started = time.perf_counter()
    directory, landed = journal.round_directory(number), spool.survivors(journal, number)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(open_model(journal))
        state = {name: stack.enter_context(file) for name, file in open_state(journal).items()}
        updates = spool.open_updates(journal, number, landed, stack)
        writers: dict[str, ArrayWriter] = {}
        blocks = folding.fold(
            model.layout,
            model.vector_P,
            updates,
            {name: file.vector_P for name, file in state.items()},
            round=number,
        )
        for block in blocks:
            for name, part in {MODEL: block.model, **block.state}.items():
                if name not in writers:
                    path = directory / file_name(name)
                    writers[name] = stack.enter_context(ArrayWriter(path, model.layout, durable=journal.durable))
                writers[name].write(part)
            for mapped in (model, *state.values()):
                mapped.release()  # behind us; so that the old model doesn't stay in memory beside the new one
        digests = {name: writer.finish() for name, writer in writers.items()}
    journal.append(
        events.RoundCommitted(
            round=number,
            model_digest=digests.pop(MODEL),
            state_digests=digests,
            num_examples=sum(update.num_examples for update in landed),
            metrics=weighted_mean((update.num_examples, update.metrics) for update in landed),
            fold_s=round(time.perf_counter() - started, 3),
        )
    )


def open_model(journal: Journal) -> ArrayFile:
    """The newest committed model."""
    return ArrayFile(model_path(journal.directory, journal.state.committed_rounds))


def open_state(journal: Journal) -> dict[str, ArrayFile]:
    """The strategy's state after the newest committed round; empty before the first."""
    number = journal.state.committed_rounds
    committed = journal.state.round(number).committed if number else None
    directory = round_directory(journal.directory, number)
    return {name: ArrayFile(directory / file_name(name)) for name in (committed.state_digests if committed else ())}


def verify(journal: Journal) -> None:
    """Compare the newest model and state with the digests in the journal.

    Raises:
        JournalError: Naming the file that is missing or damaged, and the round to go back to.
    """
    state, number = journal.state, journal.state.committed_rounds
    committed = state.round(number).committed if number else None
    expected = {MODEL: state.model_digest} if state.model_digest else {}
    if committed:
        expected |= {file_name(name): digest for name, digest in committed.state_digests.items()}
    for name, digest in expected.items():
        path = round_directory(journal.directory, number) / name
        if not path.exists() or not is_intact(path, digest):
            what = "its digest does not match the journal" if path.exists() else "it is missing"
            raise JournalError(
                f"the checkpoint {path} is damaged: {what}",
                hint=f"restore that file, or start a new run with run.initial_model set to {_older_model(journal)}",
            )


def tidy(journal: Journal, *, keep_updates: bool, keep_models: int, whole: bool = False) -> None:
    """Remove what the configuration does not ask to keep: updates of committed rounds, old models and states.

    Args:
        journal: The run's.
        keep_updates: See ``JournalConfig``.
        keep_models: Likewise.
        whole: Look at every round, not only at those that the newest one has made old.
    """
    newest = journal.state.committed_rounds
    journal.held.clear()
    for number in range(0 if whole else max(0, newest - keep_models), newest + 1):
        path = round_directory(journal.directory, number)
        try:
            names = os.listdir(path)
        except FileNotFoundError:
            continue
        is_old, kept = number <= newest - keep_models, False
        for name in names:
            if (
                (name == MODEL and is_old)
                or (spool.is_update(name) and not keep_updates)
                or (name.startswith("state-") and number < newest)
                or name.startswith("secagg-")
            ):
                os.unlink(path / name)
            else:
                kept = True
        if is_old and not kept:
            _recycle(path, journal)


def _recycle(path: Path, journal: Journal) -> None:
    """Remove an empty directory; where no disk is waited for, the next round gets it, which is faster."""
    state = journal.state
    following = round_directory(journal.directory, state.committed_rounds + 1)
    is_last = state.created is None or state.committed_rounds >= state.created.rounds
    if journal.durable or is_last or following.exists():
        path.rmdir()
    else:
        path.rename(following)


def model_path(directory: Path, number: int) -> Path:
    """Where the model after a round is."""
    return round_directory(directory, number) / MODEL


def file_name(name: str) -> str:
    """The file of the model or of one vector of the strategy's state."""
    return name if name == MODEL else f"state-{name}.safetensors"


def _older_model(journal: Journal) -> str:
    for number in range(journal.state.committed_rounds - 1, -1, -1):
        path = model_path(journal.directory, number)
        if path.exists():
            return str(path)
    return "a copy of yours"
