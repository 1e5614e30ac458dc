"""The runner: asks the SuperNode for tasks, one at a time, and sees to it that each gets an answer."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import select
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol

from edge import datagrams
from edge.datagrams import Mailbox
from edge.home import Home
from edge.policy import Policy, check_app, check_work_hours
from edge.runner import clientapp, parcel
from edge.runner.clientapp import App, AppError
from edge.runner.config import RunnerConfig
from edge.runner.flower import AwayError, GoneError, RuntimeApi, Task
from edge.runner.outcome import Outcome
from edge.runner.record import InHand, Record
from edge.usage import FILE as USAGE
from edge.usage import Usage
from fl.errors import FLError, StorageError

SOON_S = 0.05
"""Pause between two questions for a task while one is expected."""
ALONE_S = 0.25
"""The same while none is, and nobody would tell us."""
TOLD_S = 5.0
"""The same when the link tells us of messages."""
AFTER_MAIL_S, AFTER_TASK_S = 60.0, 1.0
"""For how long a task is expected: after word of a message, and after a task if nobody tells us of messages."""
AWAY_S = 0.5
HEARTBEAT_S = 5.0
MESSAGE_WITHIN_S = 30.0
NO_AGENTS = "this site runs client apps only"
RESTARTED = "the site's runner ended while it had this message, and was started again"


class TaskExecutor(Protocol):
    """Who has an app answer: forked processes here (``execution``), or pods of a cluster (``pod``)."""

    def prepare(self) -> None:
        """Called once, before the first task is asked for."""

    def run(
        self, app: App, received: Path, answered: Path, *, beat: Callable[[], None], gpu_left_s: float | None = None
    ) -> Outcome:
        """Have an app answer; what ``beat`` raises ends the task, and comes as it is."""

    def settle(self) -> None:
        """Called after each task, when its reply is pushed."""

    def idle(self) -> None:
        """Called between tasks, every few seconds and when ``fileno`` is readable."""

    def fileno(self) -> int | None:
        """What is readable when something happened that cannot wait; ``None`` if there is no such thing."""


class Runner:
    """One site's runner.

    Args:
        config: What it was told.
        executor: Who has apps answer.
        say: Called with a line for everything worth telling.
    """

    def __init__(self, config: RunnerConfig, executor: TaskExecutor, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._apps = config.work / "apps"
        self._received = config.work / "received.parcel"
        self._answered = config.work / "answered.parcel"
        self._record = Record(config.work / "task.json")
        self._api = RuntimeApi(config.runtime_api, config.secret_file.read_bytes())
        self._mailbox = Mailbox(Home(config.home).runner_socket)
        self._executor = executor
        self._is_told = False
        self._last_run: int | None = None
        """Of the message that the link gave the SuperNode last."""
        self._soon_until = 0.0
        self._beat_at = 0.0

    def run(self) -> NoReturn:
        """Run tasks for ever.

        Raises:
            ZygoteGoneError: If the process that forks has ended.
            StorageError: If the home cannot be written.
        """
        self._answer_for_former_life()
        if not self._config.late:
            self._executor.prepare()
        said = ""
        while True:
            pause_s = self._pause_s()
            try:
                task = self._api.acquire()
                said = ""
                if task is not None:
                    self._handle(task)
                    self._soon_until = 0.0 if self._is_told else time.monotonic() + AFTER_TASK_S
                    continue
            except (AwayError, GoneError) as err:
                if said != str(err):
                    said = str(err)
                    self._say(f"no tasks: {said}")
                pause_s = AWAY_S
            self._sleep(pause_s)

    def _pause_s(self) -> float:
        if time.monotonic() < self._soon_until:
            return SOON_S
        return TOLD_S if self._is_told else ALONE_S

    def _sleep(self, pause_s: float) -> None:
        wakes = self._executor.fileno()
        select.select([self._mailbox.fileno(), *([] if wakes is None else [wakes])], [], [], pause_s)
        self._executor.idle()
        self._read_notes()

    def _read_notes(self) -> None:
        """Take in what the link says: which message it gave to the SuperNode, in order."""
        for note in self._mailbox.receive():
            self._is_told = True
            if "mail" in note:
                self._last_run = note.get("run")
                self._soon_until = time.monotonic() + AFTER_MAIL_S

    def _check_wanted(self, task: Task) -> None:
        """A SuperNode asks for mail again only when it is done with the message before, in whatever way.

        When a run ends while its message comes in, the SuperNode drops the message and says nothing, and its pieces
        never come. It may have got the message several times, and made as many tasks.

        Raises:
            GoneError: If it has got a message of another run meanwhile.
        """
        self._read_notes()
        if self._last_run not in (None, task.run_id):
            raise GoneError("the SuperNode has dropped its message: the run has ended")

    def _answer_for_former_life(self) -> None:
        """Answer the message that the former life had in hand, and clear up after it."""
        work = self._config.work
        in_hand = self._record.read()
        if in_hand is not None:
            self._api.use(in_hand.task)
            try:
                if not self._answered.exists():
                    clientapp.write_error(self._answered, in_hand.task, clientapp.CRASHED, RESTARTED)
                self._reply(in_hand)
                self._say(f"run {in_hand.task.run_id}: answered for the former life of the runner")
            except (AwayError, GoneError, ValueError) as err:
                self._say(f"run {in_hand.task.run_id}: the former life's task is given up: {err}")
        self._record.clear()
        # Unpacked apps are not taken over: a former app could have changed the files of another.
        shutil.rmtree(work, ignore_errors=True)
        self._apps.mkdir(mode=0o700, parents=True)
        work.chmod(0o700)

    def _handle(self, task: Task) -> None:
        """Take a task from its claim to its reply."""
        began = time.monotonic()
        self._beat_at = began + HEARTBEAT_S
        try:
            task, context, bundle = self._api.begin(task)
            task = self._head(task)
            self._record.write(InHand(task))
            how = self._answer(task, context, bundle)
            self._reply(InHand(task))
        except (GoneError, AwayError) as err:
            how = f"given up: {err}"
        except StorageError as err:
            # Without a sign of life from us, the SuperNode answers for the task within a minute.
            how = f"given up: {err.message}"
        took_s = time.monotonic() - began
        self._say(f"run {task.run_id}, {task.kind or 'no message'}: {how}; {took_s:.2f} s in all")
        self._executor.settle()
        for path in (self._received, self._answered):
            path.unlink(missing_ok=True)
        self._record.clear()

    def _head(self, task: Task) -> Task:
        """The task with its message: the SuperNode makes the task first, and stores the message a moment later."""
        deadline = time.monotonic() + MESSAGE_WITHIN_S
        while (found := self._api.head(task)) is None:
            if time.monotonic() > deadline:
                self._api.finish(None, "its message never came")
                raise GoneError("its message never came")
            self._check_wanted(task)
            time.sleep(0.02)
        return found

    def _answer(self, task: Task, context: bytes, bundle: bytes) -> str:
        """See to it that a reply lies ready.

        Returns:
            How it came about, for the log.
        """
        gpu_left_s, refusal = self._ask_policy(task)
        if refusal:
            return self._answer_error(task, clientapp.REFUSED, refusal)
        try:
            app = clientapp.unpack(bundle, task.digest, self._apps)
        except AppError as err:
            return self._answer_error(task, clientapp.INVALID, str(err))
        self._receive(task, context)
        outcome = self._executor.run(app, self._received, self._answered, beat=self._beat, gpu_left_s=gpu_left_s)
        if outcome.used_gpu:
            self._count_gpu(outcome.passed_s)
        if outcome.failure:
            return self._answer_error(task, clientapp.CRASHED, outcome.failure)
        how = f"answered with {outcome.raised}" if outcome.raised else "answered"
        return f"{how} by app {app.digest[:8]} after {outcome.passed_s:.2f} s with {outcome.peak_mib} MiB"

    def _answer_error(self, task: Task, code: int, reason: str) -> str:
        clientapp.write_error(self._answered, task, code, reason)
        return f"answered with an error: {reason}"

    def _receive(self, task: Task, context: bytes) -> None:
        """Write down what the task gets, as it comes in at the SuperNode."""
        writer = parcel.Writer(self._received)
        clientapp.write_input(writer, task, context)
        for object_id in self._api.pieces(task):
            delay_s = 0.01
            while (piece := self._api.pull(task, object_id)) is None:
                self._beat()
                self._check_wanted(task)
                time.sleep(delay_s)
                delay_s = min(1.2 * delay_s, 0.5)  # a fifth of the time so far
            writer.add(clientapp.OBJECT + object_id, piece)
            self._beat()
        writer.finish()
        self._api.confirm(task)

    def _reply(self, in_hand: InHand) -> None:
        """Push the reply that lies ready, and end the task.

        Once a reply is announced, the SuperNode waits for its pieces and for nothing else, without a limit. So the
        session is put down: a new life of ours goes on in it.
        """
        reply = clientapp.read_reply(self._answered)
        if not in_hand.session:
            session, wanted = self._api.announce(reply.head, reply.tree)
            in_hand = dataclasses.replace(in_hand, session=session, wanted=tuple(wanted))
            self._record.write(in_hand)
        wanted_ids = set(in_hand.wanted)
        for object_id, piece in reply.pieces:
            if object_id in wanted_ids:
                self._api.push(in_hand.task, in_hand.session, object_id, piece)
                self._beat()
        datagrams.send(Home(self._config.home).link_socket, {"answered": in_hand.task.message_id})
        self._api.finish(reply.context, reply.failure)

    def _ask_policy(self, task: Task) -> tuple[float | None, str]:
        """GPU seconds that the task may use, and why it may not run at all, if it may not."""
        if self._config.policy is None:
            return None, "" if task.is_client else NO_AGENTS
        try:
            policy = Policy.from_file(self._config.policy)
            check_app(policy, task.digest)
            check_work_hours(policy, datetime.datetime.now(datetime.UTC))
            usage = Usage(self._config.home / USAGE, policy)
            usage.check()
            return usage.gpu_left_s(), "" if task.is_client else NO_AGENTS
        except FLError as err:
            return None, err.message

    def _count_gpu(self, seconds: float) -> None:
        if self._config.policy is not None:
            with contextlib.suppress(FLError):
                policy = Policy.from_file(self._config.policy)
                Usage(self._config.home / USAGE, policy).add(gpu_s=seconds)

    def _beat(self) -> None:
        """Keep the task ours."""
        if time.monotonic() > self._beat_at:
            self._api.heartbeat()
            self._beat_at = time.monotonic() + HEARTBEAT_S
