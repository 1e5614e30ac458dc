"""A ClientApp's answer to one message, in whichever process it is computed."""

from __future__ import annotations

import dataclasses
import traceback

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fl.seeding import derive
from simulations.engine.flower.private import ErrorCode, identity
from simulations.engine.flower.records import own_context, own_message
from simulations.engine.flower.turn import seed_all


@dataclasses.dataclass(slots=True)
class Job:
    """A message for a node.

    Attributes:
        serial: Its number in the run, from 0.
        message: The node's own copy.
    """

    serial: int
    message: Message

    @property
    def node_id(self) -> int:
        """Whose turn it is."""
        return self.message.metadata.dst_node_id


@dataclasses.dataclass(slots=True)
class Failure:
    """What a ClientApp raised.

    Attributes:
        where: The lines it went through; two errors with the same are the same error.
        text: The whole traceback.
    """

    where: tuple[str, ...]
    text: str


@dataclasses.dataclass(slots=True)
class Answer:
    """What came of a job; the app has no hold on any of it.

    Attributes:
        serial: The job's.
        reply: The ClientApp's, or an error reply.
        context: The node's context afterwards; ``None`` after an error, which leaves it as it was.
        failure: What was raised.
    """

    serial: int
    reply: Message
    context: Context | None = None
    failure: Failure | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Client:
    """A ClientApp and how it is run.

    Attributes:
        app: The ClientApp.
        seed: Of the run; a message's turn is seeded from it and from the message's number.
        threads: Of torch, while the app computes.
    """

    app: ClientApp
    seed: int
    threads: int

    def answer(self, job: Job, context: Context) -> Answer:
        """Let the app answer; the global generators and torch's threads are left as the app left them.

        Args:
            job: What to; the app may write to it.
            context: The node's; the app may write to it.

        Returns:
            The reply, or an error reply as Flower makes it when the app raises; nothing is raised for that.
        """
        seed_all(derive(self.seed, "message", job.serial), self.threads)
        try:
            with identity(context.run_id, job.node_id):
                reply = self.app(job.message, context)
                _check(reply, job.message)
        except (Exception, SystemExit) as err:
            return _failed(job, err)
        return Answer(job.serial, own_message(reply), own_context(context))


def crashed(job: Job, reason: str) -> Answer:
    """The answer for a node whose process ended."""
    error = Error(ErrorCode.CLIENT_APP_CRASHED, reason)
    return Answer(job.serial, Message(error, reply_to=job.message), failure=Failure((reason,), reason))


def _check(reply: object, message: Message) -> None:
    if not isinstance(reply, Message):
        raise TypeError(f"a ClientApp's function returned {type(reply).__name__}, not a Message")
    if reply.metadata.reply_to_message_id != message.metadata.message_id:
        raise ValueError("the ClientApp's message is no reply: make it with Message(content, reply_to=message)")


def _failed(job: Job, err: BaseException) -> Answer:
    frames = tuple(f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(err.__traceback__))
    text = "".join(traceback.format_exception(err))
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(err)}:<'{err}'>")  # in Flower's own form
    return Answer(
        job.serial,
        Message(error, reply_to=job.message),
        failure=Failure((type(err).__qualname__, *frames), text),
    )
