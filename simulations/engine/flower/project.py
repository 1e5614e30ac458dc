"""An app from its directory: its ``pyproject.toml``, its run config, its modules loaded for as long as it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flwr.app import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl.config import unknown
from fl.errors import ConfigError, InputError
from simulations.engine.flower import private
from simulations.engine.flower.private import Project
from simulations.engine.flower.sources import DEPRECATED, Use, deprecated_use, own_modules

BY_RAY = "--backend ray (backend='ray' in Python) runs it as it is"


@dataclasses.dataclass(frozen=True, slots=True)
class App:
    """An app that is ready to run.

    Attributes:
        server: Its ServerApp.
        client: Its ClientApp.
        run_config: Flat, with the overrides in it.
        directory: Where it was loaded from, if it was.
        project: What its ``pyproject.toml`` says, if it has one.
    """

    server: ServerApp
    client: ClientApp
    run_config: UserConfig
    directory: Path | None = None
    project: Project | None = None


def given(apps: tuple[object, object], run_config: Mapping[str, Any]) -> App:
    """An app of two objects.

    Raises:
        InputError: If they are something else.
    """
    server, client = apps
    if not isinstance(server, ServerApp) or not isinstance(client, ClientApp):
        kinds = f"{type(server).__name__}, {type(client).__name__}"
        raise InputError(f"an app is a ServerApp and a ClientApp, not {kinds}")
    return App(server, client, dict(run_config))


@contextlib.contextmanager
def loaded(directory: Path, overrides: Mapping[str, Any], *, allow_deprecated: bool = False) -> Iterator[App]:
    """Load an app, and forget its modules at the end: the next app may have modules of the same names.

    Args:
        directory: Where its ``pyproject.toml`` is.
        overrides: Other values for keys of its run config.
        allow_deprecated: Whether it may use Flower's deprecated API.

    Raises:
        ConfigError: If it isn't a Flower app, has no such key, or can't be loaded.
        InputError: If it uses Flower's deprecated API.
    """
    directory = directory.resolve()
    try:
        project = private.read_project(directory)
        defaults = private.run_config(directory, {})
    except FileNotFoundError:
        raise ConfigError(f"no pyproject.toml in {directory}", hint="give an app's directory") from None
    except ValueError as err:
        raise ConfigError(f"cannot use {directory / 'pyproject.toml'}: {' '.join(str(err).split())}") from err
    for key, value in overrides.items():
        if key not in defaults:
            raise unknown("key of the app's run config", key, defaults)
        if not isinstance(value, bool | int | float | str):
            raise ConfigError(f"{key} is {value!r}, must be a number, a text, true or false")
    names = {reference.partition(":")[0] for reference in (project.serverapp, project.clientapp)}
    modules = own_modules(directory, *names)
    if not allow_deprecated:
        for path in modules.values():
            if use := deprecated_use(path):
                raise _deprecated(use, directory)
    with _modules(directory, modules):
        server = _load(project.serverapp, ServerApp, directory)
        client = _load(project.clientapp, ClientApp, directory)
        yield App(server, client, private.run_config(directory, overrides), directory, project)


def refuse_deprecated(app: App) -> None:
    """Look at the objects themselves.

    Raises:
        InputError: If one was made in the deprecated way.
    """
    if private.is_legacy(app.server, app.client):
        raise InputError(
            "the app is made with server_fn, client_fn or a strategy, Flower's deprecated API",
            hint=f"use functions under @app.main(), @app.train() and @app.evaluate(); or {BY_RAY}",
        )


def _deprecated(use: Use, directory: Path) -> InputError:
    return InputError(
        f"{use.path.relative_to(directory)}:{use.line} uses {use.name}, of Flower's deprecated API",
        hint=f"instead of {use.package}, use {DEPRECATED[use.package]}; or {BY_RAY}",
    )


def _load(reference: str, kind: type, directory: Path) -> Any:
    try:
        found = private.load(reference, directory)
    except private.LoadError as err:
        raise ConfigError(f"cannot load {reference} of {directory}: {str(err).split(chr(10))[0]}") from err
    except Exception as err:
        raise ConfigError(f"cannot load {reference} of {directory}: {type(err).__name__}: {err}") from err
    if not isinstance(found, kind):
        raise ConfigError(f"{reference} of {directory} is of type {type(found).__name__}, not {kind.__name__}")
    return found


@contextlib.contextmanager
def _modules(directory: Path, own: Iterable[str]) -> Iterator[None]:
    """Let modules be imported from a directory, past those of the same names; then put everything back."""
    tops = {name.partition(".")[0] for name in own}
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(directory))
        for name in list(sys.modules):
            if name.partition(".")[0] in tops or _is_below(sys.modules[name], directory):
                del sys.modules[name]
        sys.modules.update(aside)


def _is_below(module: object, directory: Path) -> bool:
    """Whether a module that was imported while the app ran is the app's."""
    file = getattr(module, "__file__", None) or ""
    return file.startswith(f"{directory}{os.sep}") and "site-packages" not in file
