"""Every change that an operator makes, by whatever way: the API, the dashboard, a command.

Each writes who did it into the audit, in the transaction that makes the change. Who may do it is the caller's to check
(``server.api.auth``). Runs are only put into a state here; ``server.controller`` sees to it that they get there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from fl.errors import BusyError, ConfigError, InputError
from fl.files import dated, storage_error, write_atomic
from fl.rounds.config import RunConfig
from fl.tasks import own
from server import audit, bundle, runs
from server.audit import Actor
from server.controller.apps import BUNDLE
from server.controller.states import Happening, State, after
from server.people import check_project
from server.site_actions import SiteActions
from server.store.models import Site
from server.store.runs import Alias, Model, Run
from server.views.models import model_before

ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")
MODELS = "models"
"""Directory in the home with the files of models that have a name."""


class Actions(SiteActions):
    """Changes of runs, models, sites and people; made as ``SiteActions`` is."""

    # ---- runs ----

    def submit_run(
        self,
        actor: Actor,
        wanted: str | Mapping[str, Any],
        *,
        beside: Path | None = None,
        project: str = "default",
        priority: int = 0,
        sites: Mapping[str, str] | None = None,
        start_s: float = 0.0,
    ) -> str:
        """Put a run into the queue; its journal is made now, so that it has its name.

        Args:
            actor: Who.
            wanted: A run file's text, or its tables.
            beside: Directory with the module of a task of one's own, and where relative paths begin.
            project: Whose run it is.
            priority: Higher starts first, within a project.
            sites: Labels that a site must have to take part; all sites without any.
            start_s: Not before then, seconds since 1970; 0 at once.

        Returns:
            The run's name.

        Raises:
            ConfigError: If the run file cannot be used, naming the key.
            StorageError: If the journal cannot be written.
        """
        check_project(project)
        config = runs.checked(RunConfig.from_dict(_tables(wanted)), beside or self.home.path.resolve())
        self._check_initial_model(actor, config)
        if sites:
            chosen = dataclasses.replace(config.round, sites=self._labelled(sites, config.round.sites))
            config = dataclasses.replace(config, round=chosen)
        task = str(config.task["name"])
        files = own.module_files(task, beside) if ":" in task else {}
        if ":" in task and not files:
            raise ConfigError(
                f"task.name is {task!r}, and its module did not come along", hint="fl run start FILE here"
            )
        folder = self.home.path.resolve() / "runs"
        folder.mkdir(exist_ok=True)
        journal = runs.create(folder, config)
        try:
            own.keep(files, journal / "app")
            with self.store.write() as session:
                session.add(
                    Run(
                        name=journal.name,
                        title=config.run.name,
                        project=project,
                        priority=priority,
                        kind="run",
                        state="queued",
                        config=json.dumps(config.to_dict(), sort_keys=True),
                        sites=json.dumps(dict(sites or {}), sort_keys=True),
                        submitted_by=actor.who,
                        submitted_s=self.now(),
                        start_s=start_s,
                        changed_s=self.now(),
                        rounds_wanted=config.run.rounds,
                    )
                )
                facts = {"project": project, "priority": priority, "sites": dict(sites or {}), "start_s": start_s}
                audit.append(session, actor, "run.start", journal.name, after=facts)
        except BaseException:
            shutil.rmtree(journal, ignore_errors=True)
            raise
        self._tell("run", journal.name, project, state="queued")
        return journal.name

    def submit_app(
        self,
        actor: Actor,
        directory: Path,
        changes: Mapping[str, bool | int | float | str],
        *,
        project: str = "default",
        priority: int = 0,
        start_s: float = 0.0,
    ) -> str:
        """Put any Flower app into the queue, as it is; it has no journal, and decides itself which sites it asks.

        Args:
            actor: Who.
            directory: The app, with its ``pyproject.toml``.
            changes: To its run config.
            project: As for ``submit_run``; the rest too.
            priority: Likewise.
            start_s: Likewise.

        Returns:
            The run's name.

        Raises:
            ConfigError: If it is no Flower app, or a change is of a key that it does not have.
            StorageError: If it cannot be written.
        """
        check_project(project)
        app, title, config = bundle.prepared(directory, changes, secagg=self.home.secagg)
        folder = dated(self.home.path.resolve() / "runs", title.rpartition("/")[2][:64])
        try:
            folder.mkdir(parents=True)
            write_atomic(folder / BUNDLE, app)
            with self.store.write() as session:
                session.add(
                    Run(
                        name=folder.name,
                        title=title[:128],
                        project=project,
                        priority=priority,
                        kind="app",
                        state="queued",
                        config=json.dumps(config, sort_keys=True),
                        app_digest=hashlib.sha256(app).hexdigest(),
                        submitted_by=actor.who,
                        submitted_s=self.now(),
                        start_s=start_s,
                        changed_s=self.now(),
                    )
                )
                facts = {"project": project, "priority": priority, "start_s": start_s, "app": title}
                audit.append(session, actor, "run.start", folder.name, after=facts)
        except OSError as err:
            shutil.rmtree(folder, ignore_errors=True)
            raise storage_error(folder, err) from err
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._tell("run", folder.name, project, state="queued")
        return folder.name

    def pause_run(self, actor: Actor, name: str) -> None:
        """End a run for now.

        Raises:
            BusyError: If it is in a state that has no such move, or a Flower app, which would begin anew.
        """
        with self.store.read() as session:
            if _run(session, name).kind == "app":
                raise BusyError(f"{name} is a Flower app, and cannot be paused", hint=f"fl run stop {name}")
        self._move(actor, name, "pause")

    def stop_run(self, actor: Actor, name: str) -> None:
        """End a run; as ``pause_run``."""
        self._move(actor, name, "stop")

    def resume_run(self, actor: Actor, name: str) -> None:
        """Put a run back into the queue; as ``pause_run``."""
        self._move(actor, name, "resume")

    def _move(self, actor: Actor, name: str, happening: Happening) -> None:
        with self.store.write() as session:
            row = _run(session, name)
            before = cast(State, row.state)
            row.state = after(before, happening, run=name)
            row.changed_s, row.reason = self.now(), f"{happening} asked by {actor.who}"
            if row.state in ("stopped", "paused"):
                row.finished_s = self.now() if row.state == "stopped" else None
            elif happening == "resume":
                row.finished_s = None
            audit.append(session, actor, f"run.{happening}", name, before={"state": before}, after={"state": row.state})
            project, state = row.project, row.state
        self._tell("run", name, project, state=state)

    def _labelled(self, labels: Mapping[str, str], among: Collection[str]) -> tuple[str, ...]:
        """The sites that have all the labels now; the run's file keeps their names, so it is the same when resumed."""
        with self.store.read() as session:
            rows = session.execute(select(Site.id, Site.labels).where(Site.state != "revoked").order_by(Site.id)).all()
        found = [site for site, of in rows if labels.items() <= json.loads(of).items() and (not among or site in among)]
        if not found:
            words = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
            raise ConfigError(f"no site has the labels {words[:200]}", hint="fl site label SITE KEY=VALUE gives it one")
        return tuple(found)

    def _check_initial_model(self, actor: Actor, config: RunConfig) -> None:
        """From elsewhere, a run may begin with a model of this home only, not with any file of this machine."""
        if actor.via == "cli" or not config.run.initial_model:
            return
        path, home = Path(config.run.initial_model).resolve(), self.home.path.resolve()
        if not any(path.is_relative_to(home / name) for name in (MODELS, "runs")):
            raise InputError(
                f"run.initial_model: {path.name} is not in {MODELS}/ or runs/ of the server's home",
                hint="fl model list has the models that can be taken",
            )

    # ---- models ----

    def set_alias(self, actor: Actor, name: str, model: int) -> None:
        """Have a name point at a model, whose file is then kept in the home's ``models/``.

        Raises:
            ConfigError: If there is no such model, or the name cannot be one.
            StorageError: If the file cannot be copied; the name stays as it was.
        """
        if not ALIAS.fullmatch(name):
            raise ConfigError(f"{name[:80]!r} cannot be a model's name", hint="a letter, then letters, digits, . _ -")
        with self.store.write() as session:
            row = session.get(Model, model)
            if row is None:
                raise ConfigError(f"no model {model}", hint="fl model list")
            self._keep_file(row)
            before = _points_at(session, name)
            session.add(Alias(name=name, model=model, by=actor.who, at_s=self.now()))
            audit.append(session, actor, "model.promote", name, before={"model": before}, after={"model": model})
            project = session.get_one(Run, row.run).project
        self._tell("model", str(model), project, alias=name)

    def roll_back_alias(self, actor: Actor, name: str) -> None:
        """Have a name point at the model that it pointed at before.

        Raises:
            ConfigError: If there is no such name, or no model before.
        """
        with self.store.write() as session:
            now = _points_at(session, name)
            if now is None:
                raise ConfigError(f"no model is called {name[:63]}", hint="fl model list")
            before = model_before(session, name)
            if before is None:
                raise ConfigError(f"{name} has pointed at model {now} from the beginning", hint="fl model promote")
            session.add(Alias(name=name, model=before, by=actor.who, at_s=self.now()))
            audit.append(session, actor, "model.rollback", name, before={"model": now}, after={"model": before})
            project = session.get_one(Run, session.get_one(Model, before).run).project
        self._tell("model", str(before), project, alias=name)

    def _keep_file(self, row: Model) -> None:
        folder = self.home.path.resolve() / MODELS
        target, source = folder / f"{row.number}.safetensors", Path(row.path)
        if source == target:
            return
        part = folder / f".{row.number}.part"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(source, part)
            part.replace(target)
        except OSError as err:
            part.unlink(missing_ok=True)
            raise storage_error(target, err) from err
        row.path = str(target)


def _tables(wanted: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(wanted, str):
        return dict(wanted)
    try:
        return tomllib.loads(wanted)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"the run file is not TOML: {err}") from err


def _run(session: Session, name: str) -> Run:
    row = session.scalar(select(Run).where(Run.name == name))
    if row is None:
        raise ConfigError(f"no run {name[:128]}", hint="fl run list")
    return row


def _points_at(session: Session, name: str) -> int | None:
    return session.scalar(select(Alias.model).where(Alias.name == name).order_by(Alias.number.desc()).limit(1))
