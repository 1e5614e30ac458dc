"""What the SuperNode takes for the SuperLink: Flower's Fleet API over HTTPS on loopback, as an ASGI application.

Flower's client waits 30 s for an answer, sleeps 3 s after an empty ``pull-messages``, and looks for a finished reply
every 0.5 s once its confirmation has returned. So questions for mail are held until there is mail, a confirmation
until the runner says that the reply is there, and what takes longer than Flower waits is answered with 503, which its
client repeats: the work goes on meanwhile, and is answered when it asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from edge import datagrams
from edge import policy as rules
from edge.link import fleet
from edge.link.centre import Answer, Centre, is_final
from edge.link.channel import LostError
from edge.link.outbox import GivenUpError, Outbox
from edge.link.status import Status
from fl.errors import FLError, RefusedError, StorageError

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MIB = 1024 * 1024
SMALL_BYTES, LARGE_BYTES = 8 * MIB, 2048 * MIB
HOLD_S = 24.0
"""Longest that an answer is held: Flower's client waits 30 s."""
CONFIRM_S = 20.0
HEARTBEAT_S = 3.0
"""Flower waits 5 s for the answer to a heartbeat."""
PASSED_ON = ("flwr-package-name", "flwr-package-version", "flwr-component-name")


class Endpoint:
    """The application.

    Args:
        centre: Who answers in the end.
        outbox: Takes replies.
        status: Is told what happens.
        runner: Where the runner hears of mail; a path at which nobody listens is no error.
    """

    def __init__(self, centre: Centre, outbox: Outbox, status: Status, *, runner: Path) -> None:
        self._centre, self._outbox, self._status, self._runner = centre, outbox, status, runner
        self._answered: dict[str, asyncio.Event] = {}
        self._fetches: dict[tuple[str, bytes], asyncio.Task[Answer]] = {}
        self._apps: dict[int, str] = {}
        self._mail: fleet.Mail | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._methods: dict[str, Callable[[bytes], Awaitable[Answer]]] = {
            "activate-node": self._activate,
            "deactivate-node": self._deactivate,
            "send-node-heartbeat": self._heartbeat,
            "pull-messages": self._pull_messages,
            "push-messages": self._push_messages,
            "get-run": self._get_run,
            "get-fab": self._get_fab,
            "push-object": self._push_object,
            "pull-object": self._pull_object,
            "confirm-message-received": self._confirm,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        path = str(scope["path"])
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        method = path.removeprefix(fleet.PREFIX)
        handler = self._methods.get(method) if path.startswith(fleet.PREFIX) else None
        if scope["method"] != "POST" or handler is None:
            await _send(send, 404, _words("the link passes on Flower's Fleet calls only"))
            return
        body = await _body(receive, LARGE_BYTES if method == "push-object" else SMALL_BYTES)
        if body is None:
            await _send(send, 413, _words("the body is too large"))
            return
        try:
            self._centre.node.check(headers, time.time())
        except RefusedError as err:
            await _send(send, 403, _words(err.message))
            return
        self._status.node_seen_s = time.time()
        self._centre.versions = {name: headers[name] for name in PASSED_ON if name in headers}
        answer = await _unless_gone(self._answer(method, handler, body), receive)
        if answer is not None:
            await _send(send, answer.status, answer.body or (_words(answer.refusal) if answer.refusal else b""))

    async def _answer(self, method: str, handler: Callable[[bytes], Awaitable[Answer]], body: bytes) -> Answer:
        try:
            if self._centre.channel.refused and method in ("activate-node", "get-run", "get-fab", "pull-object"):
                await asyncio.sleep(HOLD_S / 4)
                return Answer(503, _words(self._centre.channel.refused))
            return await asyncio.wait_for(handler(body), HOLD_S + 2)
        except (LostError, TimeoutError) as err:
            log.info("%s: %s", method, err or "takes long")
            return Answer(503, _words(str(err) or "the centre has not answered yet"))
        except RefusedError as err:
            log.warning("%s: refused: %s", method, err.message)
            # The site may be let in again, so the SuperNode is to try again; a request that makes no sense never will.
            return Answer(503 if self._centre.channel.refused else 400, _words(err.message))
        except StorageError as err:
            log.warning("%s: %s", method, err.message)
            return Answer(503, _words(err.message))

    def answered(self, message_id: str) -> None:
        """The runner says that the reply to a message is in the SuperNode."""
        if (event := self._answered.get(message_id)) is not None:
            event.set()

    async def _deactivate(self, body: bytes) -> Answer:
        return await self._centre.call("deactivate-node", body, wait_s=2.0, timeout_s=3.0)

    async def _activate(self, body: bytes) -> Answer:
        """A new life of the SuperNode: what the earlier one had not handed over whole is lost."""
        self._outbox.forget_unfinished()
        holds = {"fedfleet-holds": ",".join(self._outbox.holds())} if self._outbox.waiting else {}
        self._status.run_id, self._mail = 0, None
        self._answered.clear()
        return await self._centre.call("activate-node", body, wait_s=HOLD_S - 10, timeout_s=10.0, headers=holds)

    async def _heartbeat(self, body: bytes) -> Answer:
        """Passed on if that is possible at once; a partition is no reason for the SuperNode to worry."""
        with contextlib.suppress(LostError, RefusedError):
            answer = await self._centre.call("send-node-heartbeat", body, wait_s=0.2, timeout_s=HEARTBEAT_S)
            if answer.status == 401:
                return answer  # the node is another one by now: Flower ends it, and it is started again
        return Answer(200, fleet.HEARD)

    async def _pull_messages(self, body: bytes) -> Answer:
        """Held until there is mail that the owner wants."""
        ends_at = time.monotonic() + HOLD_S
        self._status.run_id = 0
        datagrams.send(self._runner, {"waits": True})  # so that the runner need not look by itself all the time
        while (left_s := ends_at - time.monotonic()) > 0.5:
            # One message at a time, as Flower has it: the next one comes when the last reply has gone.
            if not await self._outbox.empty(left_s):
                break
            if self._centre.channel.refused:
                await asyncio.sleep(min(left_s, 1.0))
                continue
            left_s = ends_at - time.monotonic()
            try:
                answer = await self._centre.call("pull-messages", body, wait_s=left_s, hold_s=max(0.0, left_s - 1))
            except (LostError, RefusedError):
                await asyncio.sleep(0.1)
                continue
            if answer.status == 401:
                return answer
            if answer.status != 200:
                await asyncio.sleep(min(1.0, left_s))
                continue
            mail = fleet.mail(answer.body)
            if mail is None:
                continue
            reason = await self._objection(mail)
            if reason:
                await self._refuse(mail, reason)
                continue
            self._deliver(mail)
            return answer
        return Answer(200, fleet.NO_MAIL)

    def _deliver(self, mail: fleet.Mail) -> None:
        self._mail, self._status.run_id = mail, mail.run_id
        self._answered = {mail.message_id: asyncio.Event()}
        datagrams.send(self._runner, {"mail": mail.message_id, "run": mail.run_id})
        self._status.change()

    async def _objection(self, mail: fleet.Mail) -> str:
        """Why the owner does not want this message; empty if he does."""
        limits = self._centre.limits
        try:
            limits.check_new_work()
            policy = limits.policy.now()
            if policy.apps.allow is not None:
                rules.check_app(policy, await self._app_of(mail))
        except RefusedError as err:
            return err.message
        return ""

    async def _app_of(self, mail: fleet.Mail) -> str:
        """The digest of the app that a message's run has."""
        if mail.run_id not in self._apps:
            answer = await self._centre.call("get-run", fleet.get_run(mail), wait_s=5.0)
            if answer.status != 200:
                return ""  # an app that nobody can name is not in the list
            self._apps = dict([*self._apps.items()][-99:])
            self._apps[mail.run_id] = fleet.app_of(answer.body)
        return self._apps[mail.run_id]

    async def _refuse(self, mail: fleet.Mail, reason: str) -> None:
        """Answer a message in the SuperNode's place, so that the run need not wait."""
        self._status.refuse(reason, mail.run_id)
        log.warning("a message of run %d is refused: %s", mail.run_id, reason)
        await self._outbox.answer(
            *fleet.refusal(mail, f"refused by the policy of site {self._status.site.id}: {reason}")
        )

    async def _push_messages(self, body: bytes) -> Answer:
        answer = self._outbox.announce(body)
        self._status.run_id = 0
        return Answer(200, answer)

    async def _push_object(self, body: bytes) -> Answer:
        try:
            is_wanted = await self._outbox.take(fleet.pushed(body))
        except GivenUpError as err:
            return Answer(403, _words(err.message))  # Flower's word for a run that is over
        return Answer(200, fleet.STORED if is_wanted else fleet.NOT_STORED)

    async def _get_run(self, body: bytes) -> Answer:
        return await self._centre.call("get-run", body, wait_s=HOLD_S - 10, timeout_s=10.0)

    async def _get_fab(self, body: bytes) -> Answer:
        """The app; one whose content is not what the run names is refused here."""
        answer = await self._fetch("get-fab", body)
        if answer.status != 200:
            return answer
        _, named = fleet.fab_asked(body)
        found = fleet.fab_digest(answer.body)
        if found != named and self._mail is not None:
            await self._refuse(self._mail, f"the app that came is {found}, the run names {named}")
            return Answer(403, _words("the app is not the one that the run names"))
        return answer

    async def _pull_object(self, body: bytes) -> Answer:
        return await self._fetch("pull-object", body)

    async def _fetch(self, method: str, body: bytes) -> Answer:
        """A large answer: fetched whole once, also when the SuperNode has to ask for it several times."""
        key = (method, body)
        task = self._fetches.get(key)
        if task is None:
            task = self._fetches[key] = asyncio.create_task(self._fetch_whole(method, body))
        try:
            answer = await asyncio.wait_for(asyncio.shield(task), HOLD_S)
        except TimeoutError:
            raise LostError("it is still on its way") from None
        finally:
            if task.done():
                self._fetches.pop(key, None)
        return answer

    async def _fetch_whole(self, method: str, body: bytes) -> Answer:
        while True:
            try:
                return await self._centre.pull(method, body)
            except LostError:
                await asyncio.sleep(0.1)

    async def _confirm(self, body: bytes) -> Answer:
        """Passed on at once, answered when the reply is there: the SuperNode's first look then finds it."""
        message_id = fleet.confirmed(body)
        try:
            answer = await self._centre.call("confirm-message-received", body, wait_s=2.0, timeout_s=5.0)
            if is_final(answer) and answer.status != 200:
                return answer
            is_confirmed = answer.status == 200
        except LostError:
            is_confirmed = False
        if not is_confirmed:
            self._later(self._confirm_there(body))
        event = self._answered.get(message_id)
        if event is not None and self._runner.exists():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), CONFIRM_S)
        return Answer(200, b"")

    async def _confirm_there(self, body: bytes) -> None:
        """Confirm when there is a connection again; the work goes on meanwhile."""
        while True:
            try:
                if is_final(await self._centre.call("confirm-message-received", body)):
                    return
            except LostError:
                pass
            except FLError:
                return
            await asyncio.sleep(0.2)

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def stop(self) -> None:
        """Fetch no more."""
        for task in (*self._fetches.values(), *self._background):
            task.cancel()


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The body of a request; ``None`` if it is longer than ``limit``."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        size += len(message.get("body", b""))
        if size > limit:
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _unless_gone(work: Any, receive: Receive) -> Answer | None:
    """The answer, or ``None`` if whoever asked hung up before: then nobody waits, and mail is not to be lost on him."""
    task = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for future in (task, watch):
            future.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _send(send: Send, status: int, body: bytes) -> None:
    kind = fleet.PROTOBUF if status == 200 else "application/json"
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _words(text: str) -> bytes:
    return json.dumps({"detail": text[:500]}).encode()
