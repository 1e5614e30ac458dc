"""The process that holds the connections: pyinfra's API under gevent, one greenlet a site, told what to do.

It is started by ``edge.fleet.hands`` and speaks lines of JSON over a socket: ``{"id", "site", "do", …}`` in,
``{"id", "step"}`` while at work and ``{"id", "ok", …}`` at the end out. A site's operations run one after the other in
its own greenlet, so a slow site keeps nobody waiting; pyinfra's own loop would have all sites wait at each operation.
"""

from gevent import monkey

monkey.patch_all()

# What is imported above must be patched before anything else is loaded.
import contextlib  # noqa: E402
import dataclasses  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Callable, Iterable, Mapping  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.lock import BoundedSemaphore  # noqa: E402
from paramiko import SSHException  # noqa: E402
from pyinfra.api.config import Config  # noqa: E402
from pyinfra.api.exceptions import ConnectError, NestedOperationError, PyinfraError  # noqa: E402
from pyinfra.api.host import Host  # noqa: E402
from pyinfra.api.inventory import Inventory  # noqa: E402
from pyinfra.api.state import BaseStateCallback, State  # noqa: E402
from pyinfra.connectors import util as connectors  # noqa: E402
from pyinfra.context import ctx_host, ctx_state  # noqa: E402

from edge.fleet import gate, questions  # noqa: E402
from edge.fleet.deploys import collection, removal, site  # noqa: E402
from edge.fleet.facts.survey import Part, Survey  # noqa: E402
from edge.fleet.operations.command import ASKED  # noqa: E402
from edge.fleet.transfer import FAILURE  # noqa: E402
from edge.fleet.wanted import Wanted  # noqa: E402

SURVEY_TIMEOUT_S = 90
EXAMINATION_TIMEOUT_S = 240
PROBE_TIMEOUT_S = 10
HOST_KEY = ("host key error", "No host key for")
LINK = (TimeoutError, OSError, SSHException, EOFError)
STEP, TELL = "fedfleet_step", "fedfleet_tell"
"""Under these keys a host remembers what it is at, and who wants to know."""

NO_SUDO = "sudo was refused: it asks for a password, or does not list what is needed"


class SiteError(Exception):
    """What went wrong at one site.

    Args:
        kind: ``unreachable`` (later perhaps), ``refused`` (a key, a password) or ``failed``.
        message: One line.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Steps(BaseStateCallback):
    """Tells which operation a site is at."""

    @staticmethod
    def operation_host_start(state: State, host: Host, op_hash: str) -> None:
        """Called by pyinfra."""
        host.connector_data[STEP] = name_of(host, op_hash)
        tell = host.connector_data.get(TELL)
        if tell is not None:
            tell(host.connector_data[STEP])


def name_of(host: Host, op_hash: str) -> str:
    """An operation's name on one host: pyinfra's own names are shared by hosts whose operations differ."""
    data = host.state.ops[host].get(op_hash)
    return str(data.global_arguments.get("name") or "an operation") if data else "an operation"


class Worker:
    """Serves one connection from the process that decides.

    Args:
        connection: To that process.
        hosts: Name and data of each host, as pyinfra's inventory takes them.
        executes: Whether operations are run; otherwise it is only found out what they would do.
        connect_timeout_s: For each connection.
    """

    def __init__(
        self,
        connection: socket.socket,
        hosts: list[tuple[str, dict[str, Any]]],
        *,
        executes: bool,
        connect_timeout_s: float = 15,
    ) -> None:
        self._connection = connection
        self._writing = BoundedSemaphore()
        self._busy: dict[str, BoundedSemaphore] = {}
        inventory = Inventory((hosts, {}))  # type: ignore[no-untyped-call]
        config = Config(CONNECT_TIMEOUT=max(1, round(connect_timeout_s)), PARALLEL=max(1, len(hosts)))  # type: ignore[no-untyped-call]
        self.state = State(inventory, config, check_for_changes=not executes)
        self.state.is_executing = executes
        self.state.add_callback_handler(Steps())  # type: ignore[no-untyped-call]
        self._hosts = {str(host.data.get("fedfleet_site") or host.name): host for host in inventory}
        self._doing: dict[str, Callable[..., Any]] = {
            "survey": self._survey,
            "plan": self._plan,
            "stage": self._stage,
            "release": self._release,
            "enrolled": self._enrolled,
            "roll_back": self._roll_back,
            "remove": self._remove,
            "health": self._health,
            "examine": self._examine,
            "collect": self._collect,
        }

    def serve(self, lines: Iterable[str]) -> None:
        """Until the other side closes."""
        with ctx_state.use(self.state):
            for line in lines:
                request = json.loads(line)
                gevent.spawn(self._answer, request)

    def _answer(self, request: Mapping[str, Any]) -> None:
        host = self._hosts[request["site"]]
        busy = self._busy.setdefault(host.name, BoundedSemaphore())
        with busy, ctx_host.use(host):  # pyinfra keeps what a host is at in the host: one thing at a time
            number = request["id"]
            host.connector_data[TELL] = lambda step: self._send({"id": number, "step": step})
            host.connector_data[STEP] = "the survey"
            began = time.monotonic()
            try:
                result = self._doing[request["do"]](host, **request.get("arguments", {}))
                answer: dict[str, Any] = {"ok": True, "result": result}
            except Exception as error:
                answer = {"ok": False, **self._explained(host, error)}
            answer["seconds"] = round(time.monotonic() - began, 3)
            self._send({"id": number, **answer})

    def _send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message, default=str) + "\n"
        with self._writing:
            self._connection.sendall(line.encode())

    # ---- what can be asked for ----

    def _survey(self, host: Host) -> dict[str, Any]:
        wanted = self._begin(host)
        return self._ask(host, questions.survey(wanted), SURVEY_TIMEOUT_S, remember=True)

    def _plan(self, host: Host) -> dict[str, Any]:
        answers = self._survey(host)
        before = set(self.state.ops[host])
        site.site(join_token="-")  # noqa: S106 - of a site that has its identity, none is wanted
        changes = []
        for op_hash, data in self.state.ops[host].items():
            if op_hash not in before and data.operation_meta.will_change:
                lines = [str(command) for command in data.command_generator()]
                changes.append({"name": name_of(host, op_hash), "commands": lines})
        return {"answers": answers, "changes": changes}

    def _stage(self, host: Host) -> dict[str, Any]:
        answers = self._survey(host)
        wanted = Wanted.from_dict(host.data.get("fedfleet"))
        before = {"good_revision": gate.good_revision(answers, wanted), "is_enrolled": gate.is_enrolled(answers)}
        return self._run(host, site.stage) | before

    def _release(self, host: Host, token: str | None = None) -> dict[str, Any]:
        if not host.connector_data.get(ASKED):
            self._survey(host)
        return self._run(host, site.release, join_token=token)

    def _enrolled(self, host: Host) -> dict[str, Any]:
        self._begin(host)
        host.connector_data[ASKED] = {}
        return self._run(host, site.enrolled)

    def _roll_back(self, host: Host, revision: int | None) -> dict[str, Any]:
        self._begin(host)
        host.connector_data[ASKED] = {}
        return self._run(host, site.roll_back, revision=revision)

    def _remove(self, host: Host) -> dict[str, Any]:
        self._begin(host)
        host.connector_data[ASKED] = {}
        return self._run(host, removal.remove)

    def _health(self, host: Host) -> dict[str, Any]:
        return self._ask(host, questions.health(self._begin(host)), SURVEY_TIMEOUT_S)

    def _examine(self, host: Host, addresses: list[str], proxy: str | None) -> dict[str, Any]:
        wanted = self._begin(host)
        began = time.time()
        answers = self._ask(host, questions.survey(wanted), SURVEY_TIMEOUT_S)
        answers["asked_at_s"] = (began + time.time()) / 2
        more = questions.examination(wanted, addresses=tuple(addresses), proxy=proxy)
        return answers | self._ask(host, more, EXAMINATION_TIMEOUT_S)

    def _collect(self, host: Host, since: str, lines: int) -> dict[str, str]:
        wanted = self._begin(host)
        texts = {}
        for name, line in collection.commands(wanted, since=since, lines=lines).items():
            _, output = host.run_shell_command(f"{line} 2>&1", _timeout=SURVEY_TIMEOUT_S, **self._privileges(host))
            texts[name] = output.output
        return texts

    # ---- how ----

    def _begin(self, host: Host) -> Wanted:
        """Connect where that is needed, and see to it that sudo will not ask."""
        client = getattr(host.connector, "client", None)
        transport = client.get_transport() if client is not None else None
        if host.connected and client is not None and (transport is None or not transport.is_active()):
            self._drop(host)
        if not host.connected:
            try:
                host.connect(show_errors=False, raise_exceptions=True)
            except ConnectError as error:
                said = str(error.args[0] if error.args else error)
                known = "refused" if any(word in said for word in (*HOST_KEY, "Authentication")) else "unreachable"
                raise SiteError(known, said.strip()) from error
            _send_at_once(host)
        self.state.failed_hosts.discard(host)
        self.state.activate_host(host)
        if host.data.get("_sudo") and not host.connector_data.get("fedfleet_sudo"):
            ok, output = host.run_shell_command("sudo -n true", _sudo=False, _timeout=30)
            if not ok:
                raise SiteError("refused", f"{NO_SUDO} ({_last(output.output_lines)})")
            host.connector_data["fedfleet_sudo"] = True
        return Wanted.from_dict(host.data.get("fedfleet"))

    def _ask(self, host: Host, parts: list[Part], timeout_s: int, *, remember: bool = False) -> dict[str, Any]:
        survey = Survey(parts)
        ok, output = host.run_shell_command(survey.command, _timeout=timeout_s, **self._privileges(host))
        if not ok:
            raise SiteError("failed", f"the host could not be asked: {_last(output.output_lines)}")
        answers = survey.read(output.stdout_lines)
        if remember:
            host.connector_data[ASKED] = answers
        return {name: _plain(answer) for name, answer in answers.items()}

    def _run(self, host: Host, deploy: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        """A deploy of which each operation runs as it is called; how many changed something."""
        before = set(self.state.ops[host])
        host.connector_data.pop(FAILURE, None)
        deploy(**arguments)
        ran = [data.operation_meta for key, data in self.state.ops[host].items() if key not in before]
        changed = [
            key for key, data in self.state.ops[host].items() if key not in before and data.operation_meta.executed
        ]
        names = [name_of(host, key) for key in changed]
        return {"operations": len(ran), "changed": names}

    def _privileges(self, host: Host) -> dict[str, Any]:
        return {"_sudo": True} if host.data.get("_sudo") else {}

    def _explained(self, host: Host, error: Exception) -> dict[str, str]:
        """An exception as what it means for the site; whoever asked gets an answer whatever happens here."""
        try:
            failure = self._meaning(host, error)
        except Exception as another:
            traceback.print_exception(another)
            failure = SiteError("failed", f"{type(error).__name__}: {error}")
        return {"kind": failure.kind, "error": str(failure)}

    def _meaning(self, host: Host, error: Exception) -> SiteError:
        """What an exception says about the site; after a failure the link is looked at."""
        if isinstance(error, SiteError):
            return error
        if isinstance(error, LINK):
            self._drop(host)
            words = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            return SiteError("unreachable", f"the connection was lost: {words}")
        step = host.connector_data.get(STEP, "the survey")
        if not self._is_reachable(host):
            self._drop(host)
            return SiteError("unreachable", f"the connection was lost during {step}")
        if isinstance(error, NestedOperationError):
            meta = self.state.ops[host][error.args[0]].operation_meta
            lines = meta.stderr_lines or meta.stdout_lines if meta.is_complete() else []
            reason = host.connector_data.pop(FAILURE, None) or _last(lines)
            return SiteError("failed", f"{step}: {reason}")
        if not isinstance(error, PyinfraError):
            traceback.print_exception(error)
        return SiteError("failed", f"{step}: {error}")

    def _is_reachable(self, host: Host) -> bool:
        if not host.connected:
            return True  # it was not the link: nothing was sent yet
        with contextlib.suppress(*LINK):
            return bool(host.run_shell_command("true", _timeout=PROBE_TIMEOUT_S)[0])
        return False

    def _drop(self, host: Host) -> None:
        client = getattr(host.connector, "client", None)
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()
        host.connected = False
        host.connector_data.pop(ASKED, None)
        host.connector_data.pop("fedfleet_sudo", None)


def _last(lines: list[str]) -> str:
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else "it said nothing"


def _send_at_once(host: Host) -> None:
    """Switch Nagle's algorithm off, for which each command over paramiko waits 40 ms for an acknowledgement."""
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client is not None else None
    if transport is not None and isinstance(transport.sock, socket.socket):  # not a proxy's command
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _plain(value: Any) -> Any:
    """An answer as JSON takes it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return value


def _nobody_to_ask(prompt: str = "") -> str:
    raise SiteError("refused", NO_SUDO)


def main(path: str) -> None:
    """Connect to the process that started this one, and serve it."""
    # pyinfra would ask at the terminal for sudo's password, in the middle of a rollout.
    connectors.__dict__["getpass"] = _nobody_to_ask
    os.umask(0o077)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    # One reader for all: what it has read ahead is gone for another.
    with connection.makefile("r", encoding="utf-8") as lines:
        setup = json.loads(lines.readline())
        worker = Worker(
            connection,
            [(name, data) for name, data in setup["hosts"]],
            executes=setup["executes"],
            connect_timeout_s=setup["connect_timeout_s"],
        )
        worker.serve(lines)


if __name__ == "__main__":
    main(sys.argv[1])
