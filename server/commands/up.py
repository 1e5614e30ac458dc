"""``fl server up``: the centre's processes in the foreground, until Ctrl-C."""

from __future__ import annotations

import contextlib
import time

import typer

from fl import console
from fl.files import Lock
from fl.processes import Group
from server import local, supervisor
from server.commands.federation import ending_politely
from server.commands.server import AsJson, HomeOption
from server.home import choose

app = typer.Typer()

GRACE_S = 8.0
TICK_S = 0.2


@app.command()
def up(home: HomeOption = None, as_json: AsJson = False) -> None:
    """Run the centre until Ctrl-C: SuperLink on loopback, its executor, and the gateway that sites reach.

    Start runs from another terminal with fl run start FILE.toml --home HOME, the server's home. Sites join with a
    token of fl site add. A part that dies is started again alone.
    """
    where = choose(home)
    config = where.config()
    with ending_politely(), contextlib.ExitStack() as ends:
        lock = ends.enter_context(Lock(where.path / "lock", hint="another fl server up runs in this home"))
        group = ends.enter_context(Group(grace_s=GRACE_S, hold=[lock.fileno()]))
        group.erase(where.path / local.FEDERATION)
        console.say(f"starting SuperLink and gateway in {where.path}")
        control = ends.enter_context(supervisor.start(group, where, say=console.say))
        (where.path / "runs").mkdir(exist_ok=True)
        facts = local.write_facts(where.path, control.address, where)
        if as_json:
            console.print_json(facts)
        console.say(f"sites reach it at {', '.join(config.addresses)}; Ctrl-C ends it")
        try:
            while True:
                for line in group.poll():
                    console.say(line)
                time.sleep(TICK_S)
        except KeyboardInterrupt:
            console.say("ending all processes")
