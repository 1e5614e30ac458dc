"""``fl fleet``: bring sites from bare host to training, upgrade them, take them back."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge.fleet.bundle_commands import app as bundle_app
from edge.fleet.care_commands import AsJson, File, Home, Labels, Names, Parallel, open_session
from edge.fleet.care_commands import app as care_app
from fl import console
from fl.errors import InputError, RunError, SitesError, UnreachableError

if TYPE_CHECKING:
    from edge.fleet.plan import SitePlan
    from edge.fleet.session import Session
    from edge.fleet.state import RolloutState

app = typer.Typer(help="Roll out, upgrade and look after a fleet of sites.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")

Force = Annotated[bool, typer.Option("--force", help="Wait for neither rounds nor windows.")]

DIFFERENCES = 2
"""Exit status of a plan with differences."""


@app.callback()
def fleet() -> None:
    """Roll out, upgrade and look after a fleet of sites."""


@app.command()
def plan(
    file: File,
    names: Names = None,
    labels: Labels = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show the chart's values and the commands, too.")] = False,
    parallel: Parallel = 100,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say what apply would do at each site: host, cluster, image, Helm, identity, policy. Nothing is changed.

    The exit status is 0 when nothing would be done, 2 when something would, 4 when no site could be asked.
    """
    session = open_session(file, home, names, labels)
    plans = _plans(session, parallel)
    if as_json:
        console.print_json([one.to_dict() for one in plans])
    else:
        _print_plans(plans, diff=diff)
    if all(one.error for one in plans):
        raise UnreachableError(f"no site could be asked: {plans[0].site}: {plans[0].error}")
    if any(one.is_changing for one in plans):
        raise typer.Exit(DIFFERENCES)
    if any(one.error for one in plans):
        raise SitesError(f"{sum(bool(one.error) for one in plans)} of {len(plans)} sites could not be asked")


@app.command()
def apply(
    file: File,
    names: Names = None,
    labels: Labels = None,
    force: Force = False,
    without_centre: Annotated[
        bool, typer.Option("--without-centre", help="Ask no centre: rounds and links are then not looked at.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Roll the release out, wave after wave; stop and go back when a wave is not healthy.

    Sites that are out of reach are put off, not failed: run resume when they are back.
    """
    from edge.fleet.state import begin

    session = open_session(file, home, names, labels)
    with session.store.lock:
        known = session.store.load()
        if known is not None and known.status in ("running", "paused"):
            raise InputError(
                f"rollout {known.id} of {known.version} is {_words(known, held=True)}",
                hint=f"fl fleet resume {file} goes on with it; fl fleet rollback {file} takes it back",
            )
        session.store.unpause()
        state = begin(session.fleet, session.wanted, force=force)
        _roll(session, state, file, "begin", as_json=as_json, without_centre=without_centre)


@app.command()
def resume(
    file: File,
    force: Force = False,
    without_centre: Annotated[
        bool, typer.Option("--without-centre", help="Ask no centre: rounds and links are then not looked at.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a rollout that was paused or interrupted, or whose sites were out of reach."""
    session = open_session(file, home)
    with session.store.lock:
        state = _known(session)
        deferred = state.of("deferred", "failed")
        if state.status in ("stopped", "rolled back") or (state.status == "completed" and not deferred):
            raise InputError(f"rollout {state.id} is {state.status}", hint=f"fl fleet apply {file} begins another")
        session = dataclasses.replace(
            open_session(file, home, tuple(state.sites)), store=session.store
        )  # with its lock
        changed = [name for name, one in session.wanted.items() if one.digest != state.digests.get(name)]
        if changed:
            raise InputError(
                f"{changed[0]} is to get something else now than when rollout {state.id} began",
                hint="restore the fleet file and bundle, or take the rollout back with fl fleet rollback",
            )
        session.store.unpause()
        state.force = state.force or force
        for name in deferred:
            state.sites[name].status = "waiting"
        for wave in state.waves:
            wave.is_done = wave.is_done and not any(name in deferred for name in wave.sites)
        _roll(session, state, file, "resume", as_json=as_json, without_centre=without_centre)


@app.command()
def pause(file: File, home: Home = None) -> None:
    """Have a rollout that runs elsewhere end after the sites that it is at."""
    session = open_session(file, home)
    state = _known(session)
    if state.status != "running":
        raise InputError(f"rollout {state.id} is {state.status}", hint=f"fl fleet status {file}")
    session.store.pause()
    console.say(f"rollout {state.id} ends with the sites that it is at; fl fleet resume {file} goes on")


@app.command()
def rollback(
    file: File,
    names: Names = None,
    labels: Labels = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring sites back to the release that they had before the latest rollout."""
    from edge.fleet.live import shown
    from edge.fleet.rollout import Rollout
    from edge.fleet.room import Room
    from edge.fleet.state import now

    session = open_session(file, home, names, labels)
    with session.store.lock:
        state = _known(session)
        meant = [site.id for site in session.sites if site.id in state.sites]
        with (
            session.hands(executes=True, hold=[session.store.lock.fileno()]) as hands,
            shown(state) as (say, changed),
            contextlib.closing(Room(session.fleet.centre, say)) as room,
        ):
            work = Rollout(session.fleet, session.wanted, state, session.store, hands, None, say=say, changed=changed)
            done = work.roll_back(meant, parallel=max(wave.parallel for wave in state.waves))
            state.status, state.reason, state.ended = "rolled back", "fl fleet rollback", now()
            session.store.save(state)
            session.store.conclude(state)
            room.tell(state, "rollback")
    _report(state, as_json=as_json)
    if not done:
        raise SitesError("not every site could be rolled back", hint=f"fl fleet status {file}")


@app.command()
def status(
    file: File,
    drift: Annotated[bool, typer.Option("--drift", help="Ask the sites whether they still are as wanted.")] = False,
    parallel: Parallel = 100,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the latest rollout site by site, and with --drift what was changed since at the sites."""
    from edge.fleet.live import table

    session = open_session(file, home)
    state = session.store.load()
    plans = _plans(session, parallel) if drift else []
    if as_json:
        facts = None if state is None else {**_facts(state), "reason": state.reason, "words": _words(state)}
        console.print_json({"rollout": facts, "drift": [one.to_dict() for one in plans]})
    else:
        if state is None:
            console.say("nothing was rolled out yet")
        else:
            console.out.print(table(state))
            console.say(f"rollout {state.id} is {_words(state)}" + (f": {state.reason}" if state.reason else ""))
        if plans:
            _print_plans(plans, diff=False)
    if any(one.is_changing for one in plans):
        raise typer.Exit(DIFFERENCES)


@app.command()
def history(file: File, home: Home = None, as_json: AsJson = False) -> None:
    """List the rollouts of a fleet that have ended, latest first."""
    session = open_session(file, home)
    entries = list(session.store.history())[::-1]
    if as_json:
        console.print_json(entries)
        return
    rows = [
        (entry["id"], entry["version"], entry["status"], ", ".join(f"{n} {s}" for s, n in entry["sites"].items()),
         entry["reason"])
        for entry in entries
    ]  # fmt: skip
    console.print_table(["rollout", "release", "status", "sites", "why"], rows)


app.registered_commands += care_app.registered_commands


# ---- what they share ----


def _known(session: Session) -> RolloutState:
    state = session.store.load()
    if state is None:
        raise InputError(f"nothing was rolled out to {session.fleet.fleet.name} yet", hint="fl fleet apply FLEET.yaml")
    return state


def _roll(
    session: Session,
    state: RolloutState,
    file: Path,
    what: Literal["begin", "resume"],
    *,
    as_json: bool,
    without_centre: bool,
) -> None:
    """Bring a rollout to its end, and say how that went."""
    from edge.fleet.centre import CentreCommand
    from edge.fleet.live import shown
    from edge.fleet.rollout import Rollout
    from edge.fleet.room import Room

    centre = None if without_centre else CentreCommand(session.fleet.centre)
    if centre is not None:
        _check_skew(centre.version(), session)
    with (
        session.hands(executes=True, hold=[session.store.lock.fileno()]) as hands,
        shown(state) as (say, changed),
        contextlib.closing(Room(None if without_centre else session.fleet.centre, say)) as room,
    ):
        room.tell(state, what)
        Rollout(
            session.fleet,
            session.wanted,
            state,
            session.store,
            hands,
            centre,
            say=say,
            changed=changed,
            wave_done=lambda wave: room.tell(state, "wave", wave=wave.name),
        ).run()
        room.tell(state, "end")
    _report(state, as_json=as_json)
    if state.status in ("stopped", "rolled back"):
        raise RunError(f"rollout {state.id}: {state.reason}", hint=f"fl fleet status {file}")
    behind = state.of("deferred", "failed", "unhealthy")
    if state.status == "paused":
        raise SitesError(f"rollout {state.id} is paused: {state.reason}", hint=f"fl fleet resume {file}")
    if behind:
        raise SitesError(
            f"{len(behind)} of {len(state.sites)} sites are not at {state.version}: {behind[0]} "
            f"{state.sites[behind[0]].status}: {state.sites[behind[0]].reason}",
            hint=f"fl fleet resume {file}",
        )


def _check_skew(centre: str, session: Session) -> None:
    from edge.fleet import skew

    if words := skew.problem(centre, session.fleet.release.version):
        raise InputError(words, hint="upgrade the centre first, one minor version at a time")


def _plans(session: Session, parallel: int) -> list[SitePlan]:
    from edge.fleet.centre import CentreCommand
    from edge.fleet.plan import failed, planned

    try:
        centre = CentreCommand(session.fleet.centre).version()
    except UnreachableError as error:
        console.say(f"versions are not compared: {error.message}")
        centre = ""
    plans = {}
    with session.hands(executes=False) as hands:
        for answer in hands.each(session.wanted, "plan", parallel=parallel):
            name = answer.site
            plans[name] = (
                planned(session.wanted[name], answer.result, centre)
                if answer.ok
                else failed(name, answer.kind, answer.error)
            )
    return [plans[site.id] for site in session.sites]


def _print_plans(plans: list[SitePlan], *, diff: bool) -> None:
    rows = []
    for one in plans:
        if one.error:
            rows.append((one.site, one.kind, one.error))
        elif not one.is_changing:
            rows.append((one.site, "", "as wanted"))
        for kind, words in one.changes.items():
            rows += [(one.site, kind, word) for word in words]
        rows += [(one.site, "warning", words) for words in one.warnings]
    console.print_table(["site", "", "what apply would do"], rows)
    for one in plans if diff else []:
        if one.diff or one.commands:
            console.out.print(f"\n{one.site}:\n{one.diff}" + "\n".join(one.commands), markup=False)


def _report(state: RolloutState, *, as_json: bool) -> None:
    from edge.fleet.live import title

    if as_json:
        console.print_json(_facts(state))
    else:
        console.say(title(state))


def _facts(state: RolloutState) -> dict[str, Any]:
    from fl.config import to_dict

    return {**to_dict(state), "counts": state.counts()}


def _words(state: RolloutState, *, held: bool = False) -> str:
    """A rollout's status; one that says it runs although nobody holds the lock was interrupted."""
    return "interrupted" if state.status == "running" and held else state.status
