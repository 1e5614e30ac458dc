"""``fl server up``: the centre's processes in the foreground, until Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Annotated

import typer

from fl import console
from fl.config import unknown
from fl.errors import FLError
from fl.processes import Group
from server import local, supervisor
from server.commands.federation import ending_politely
from server.commands.server import AsJson, HomeOption
from server.control_room import config as rooms
from server.home import choose
from server.logbook import Logbook

app = typer.Typer()

GRACE_S = 8.0
TICK_S = 0.2
LOGS = ("auto", "human", "json")

Log = Annotated[
    str, typer.Option("--log", metavar="FORM", help="human, json (an object a line), or auto: human on a terminal.")
]


@app.command()
def up(home: HomeOption = None, log: Log = "auto", as_json: AsJson = False) -> None:
    """Run the centre until Ctrl-C: SuperLink on loopback, its executor, the gateway that sites reach, the control room.

    Start runs from another terminal with fl run start FILE.toml --home HOME, the server's home. Sites join with a
    token of fl site add. A part that dies is started again alone. What all parts log is told on stderr.
    """
    if log not in LOGS:
        raise unknown("value of --log", log, LOGS)
    where = choose(home)
    config = rooms.read(where)  # all of it, before anything starts
    book = Logbook(_write, as_json=log == "json" or (log == "auto" and not sys.stderr.isatty()))
    with ending_politely(), contextlib.ExitStack() as ends:
        lock = local.take(where.path / "lock", hint="another fl server up runs in this home")
        ends.callback(lock.release)
        group = ends.enter_context(Group(grace_s=GRACE_S, hold=[lock.fileno()]))
        group.erase(where.path / local.FEDERATION)
        book.say(f"starting SuperLink and gateway in {where.path}")
        for part, path in supervisor.logs(where).items():
            book.follow(part, path)
        control = ends.enter_context(supervisor.start(group, where, say=book.say))
        where.runs.mkdir(exist_ok=True)
        facts = local.write_facts(where.path, control.address, where)
        if config.control.enabled:
            facts["control"] = supervisor.start_room(group, where, say=book.say)
            book.say(f"the control room is at {facts['control']}")
        if as_json:
            console.print_json(facts)
        book.say(f"sites reach it at {', '.join(config.server.addresses)}; Ctrl-C ends it")
        executor = supervisor.ExecutorWatch(group, control)
        try:
            while True:
                for line in group.poll() + executor.look():
                    book.say(line, level="warning")
                book.poll()
                time.sleep(TICK_S)
        except KeyboardInterrupt:
            book.poll()
            book.say("ending all processes")
        except FLError:
            book.poll()
            raise


def _write(line: str) -> None:
    console.err.print(line, markup=False, soft_wrap=True)
