"""Tasks by name: the built-in ones, and anybody's own by import path."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl.config import load, unknown
from fl.errors import ConfigError, FLError, TaskError
from fl.tasks.base import Task

BUILT_IN = {
    "digits": "fl.tasks.digits:Digits",
    "images": "fl.tasks.images:Images",
    "tabular": "fl.tasks.tabular:Tabular",
}


def create(name: str, options: Mapping[str, Any], *, search_path: Path | None = None) -> Task:
    """A task with its options.

    Args:
        name: A built-in name, or ``package.module:Class``.
        options: The other keys of the ``[task]`` table.
        search_path: A directory to look for the module in before anywhere else, e.g. that of the run file; it
            stays on ``sys.path``. Relative paths among the options start there.

    Raises:
        ConfigError: If the name or an option is unknown, or a value does not fit.
        TaskError: If the class cannot be imported, or is not a whole task.
    """
    if name in BUILT_IN:
        cls = _import(BUILT_IN[name])
    elif ":" in name:
        cls = _own(name, search_path)
    else:
        error = unknown("task", name, BUILT_IN)
        is_near = error.hint is not None and error.hint.startswith("did you mean")
        own = "" if is_near else "; your own is written my_module:MyTask"
        raise ConfigError(error.message, hint=f"{error.hint}{own}")
    task = load(cls, options, table="task")
    return _anchored(task, search_path) if search_path else task


def available() -> dict[str, str]:
    """The built-in tasks: name and what it is, in one line."""
    return {name: (inspect.getdoc(_import(path)) or "").split("\n", 1)[0] for name, path in sorted(BUILT_IN.items())}


def _import(path: str) -> type[Task]:
    module, _, attribute = path.partition(":")
    cls: type[Task] = getattr(importlib.import_module(module), attribute)
    return cls


def _own(path: str, search_path: Path | None) -> type[Task]:
    """The class behind an import path, checked to be a task that ``load`` can make."""
    module_name, _, class_name = path.partition(":")
    if search_path:
        _put_first(search_path.resolve(), module_name.partition(".")[0])
    try:
        module = importlib.import_module(module_name)
    except FLError:
        raise
    except Exception as err:  # a researcher's module may raise anything while it is imported
        reason = str(err) if isinstance(err, ImportError) else f"{type(err).__name__}: {err}"
        where = f"is {module_name}.py in {search_path}?" if search_path else f"is {module_name} on the import path?"
        missing = isinstance(err, ModuleNotFoundError) and err.name == module_name
        raise TaskError(f"cannot import the task {path}: {reason}", hint=where if missing else None) from err
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        names = [name for name, value in vars(module).items() if _is_own_task(value)]
        raise TaskError(
            f"{path} is not a class derived from fl.tasks.Task",
            hint=f"the module has {', '.join(f'{module_name}:{name}' for name in names)}" if names else None,
        )
    if inspect.isabstract(cls):
        raise TaskError(f"the task {path} lacks {', '.join(sorted(cls.__abstractmethods__))}")
    if inspect.get_annotations(cls) and "__dataclass_fields__" not in cls.__dict__:
        raise TaskError(f"the task {path} has options but is no dataclass", hint="put @dataclass(frozen=True) above it")
    return cls


def _is_own_task(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and value is not Task


def _put_first(directory: Path, package: str) -> None:
    """Look in ``directory`` first, also for a module of that name that was imported from somewhere else."""
    if sys.path[:1] != [str(directory)]:
        sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    file = next((p for p in (directory / package / "__init__.py", directory / f"{package}.py") if p.exists()), None)
    if file is None:
        return
    if package in sys.stdlib_module_names:
        raise TaskError(f"{file} has the name of a module of Python itself", hint="give it another name")
    imported = sys.modules.get(package)
    if imported is not None and imported.__file__ != str(file):
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]


def _anchored(task: Task, directory: Path) -> Task:
    paths = {
        field.name: directory / value
        for field in dataclasses.fields(task)
        if field.init and isinstance(value := getattr(task, field.name), Path)
    }
    return dataclasses.replace(task, **paths) if paths else task
