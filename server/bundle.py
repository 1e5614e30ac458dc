"""Flower apps as the bundles (FAB) that a SuperLink takes: from a directory, or made for one run."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fl.config import unknown
from fl.errors import ConfigError

PRIVATE: Mapping[str, str] = {
    "flwr.cli.build:build_fab_from_files": "(files)",
    "flwr.cli.config_utils:load_and_validate": "(path, check_module)",
    "flwr.cli.utils:collect_files": "(root)",
}
"""Private names of Flower that this module uses, with their parameters."""

SECAGG_KEY = "secagg"
"""Key of a run config that says where the server's part in secure aggregation is."""

KEY = re.compile(r"[A-Za-z0-9_.-]+=.")
EXAMPLE = "an app has a pyproject.toml with [tool.flwr.app] and its components, as flwr new writes it"


def from_directory(directory: Path) -> bytes:
    """The bundle of a Flower app, as ``flwr build`` makes it.

    Raises:
        ConfigError: If there is no Flower app, naming what is missing.
    """
    from flwr.cli.build import build_fab_from_files
    from flwr.cli.config_utils import load_and_validate
    from flwr.cli.utils import collect_files

    if not directory.is_dir():
        raise ConfigError(f"no such directory: {directory}")
    if not (directory / "pyproject.toml").is_file():
        raise ConfigError(f"{directory} is not a Flower app: it has no pyproject.toml", hint=EXAMPLE)
    try:
        load_and_validate(directory / "pyproject.toml", check_module=False)
        bundle, _ = build_fab_from_files(collect_files(directory.resolve()))
    except ValueError as err:
        raise ConfigError(f"{directory} is not a Flower app: {_reasons(err)}", hint=EXAMPLE) from err
    _check_components(directory)
    return bundle


def run_config(directory: Path) -> Mapping[str, object]:
    """The run config that a Flower app's ``pyproject.toml`` declares, with its defaults."""
    project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))
    declared: Mapping[str, object] = project["tool"]["flwr"]["app"].get("config", {})
    return declared


def prepared(
    directory: Path, changes: Mapping[str, bool | int | float | str], *, secagg: Path | None = None
) -> tuple[bytes, str, dict[str, bool | int | float | str]]:
    """All that SuperLink needs to run a Flower app.

    Args:
        directory: The app, with its ``pyproject.toml``.
        changes: To its run config.
        secagg: Directory of the server's part in secure aggregation; an app whose run config has an empty ``secagg``
            is told of it.

    Returns:
        Its bundle, ``publisher/name`` as Flower has it, and the changes.

    Raises:
        ConfigError: If it is no Flower app, or has no key of that name.
    """
    content, declared = from_directory(directory), flattened(run_config(directory))
    for key in changes:
        if key not in declared:
            raise unknown("run config key", key, list(declared))
    told = {SECAGG_KEY: str(secagg.resolve())} if secagg and declared.get(SECAGG_KEY) == "" else {}
    project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))
    title = f"{project['tool']['flwr']['app']['publisher']}/{project['project']['name']}"
    return content, title, {**told, **changes}


def flattened(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """A run config with its tables as dotted keys, as Flower has it.

    Example:
        >>> flattened({"rounds": 3, "optimizer": {"rate": 0.1}})
        {'rounds': 3, 'optimizer.rate': 0.1}
    """
    flat: dict[str, object] = {}
    for key, value in table.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def from_files(files: Mapping[str, bytes]) -> bytes:
    """The bundle of an app whose files, by their path in it, are given."""
    from flwr.cli.build import build_fab_from_files

    bundle, _ = build_fab_from_files(files)
    return bundle


def parse_overrides(options: Sequence[str]) -> dict[str, bool | int | float | str]:
    """Values for an app's run config from the command line.

    Args:
        options: Each ``key=value``, or several of them with spaces between, as ``flwr run -c`` takes them. A value is
            TOML (``5``, ``0.1``, ``true``, ``"a text"``); what is not is a text as it stands.

    Raises:
        ConfigError: If one cannot be read.

    Example:
        >>> parse_overrides(["rounds=5 rate=0.1", "name=two words", "path=./here"])
        {'rounds': 5, 'rate': 0.1, 'name': 'two words', 'path': './here'}
    """
    values: dict[str, bool | int | float | str] = {}
    for option in options:
        words = option.split()
        several = len(words) > 1 and all(KEY.match(word) for word in words)
        for word in words if several else [option]:
            if not KEY.match(word):
                raise ConfigError(f"cannot read {word!r} as key=value", hint="-c rounds=5")
            key, _, value = word.partition("=")
            values[key] = _value(value)
    return values


def _value(text: str) -> bool | int | float | str:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.removeprefix("'").removesuffix("'") if text.startswith("'") else text
    return value if isinstance(value, (bool, int, float, str)) else text


def _check_components(directory: Path) -> None:
    """Flower itself notices a component that is not there only when the run fails."""
    project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))
    for kind, reference in project["tool"]["flwr"]["app"]["components"].items():
        module = reference.partition(":")[0]
        place = directory.joinpath(*module.split("."))
        if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
            continue
        top = module.partition(".")[0]
        if (directory / top).is_dir() or importlib.util.find_spec(top) is None:
            raise ConfigError(f"{directory} is not a whole Flower app: its {kind} {reference} is not there")


def _reasons(error: ValueError) -> str:
    """Flower's list of reasons on one line."""
    lines = [line.removeprefix("- ").strip() for line in str(error).splitlines()]
    reasons = lines[1:] if len(lines) > 1 else lines
    return "; ".join(reason.rstrip(".") for reason in reasons if reason)
