"""Flower apps as the bundles (FAB) that a SuperLink takes: from a directory, or made for one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl.errors import ConfigError

PRIVATE: Mapping[str, str] = {
    "flwr.cli.build:build_fab_from_files": "(files)",
    "flwr.cli.config_utils:load_and_validate": "(path, check_module)",
    "flwr.cli.utils:collect_files": "(root)",
    "flwr.common.config:parse_config_args": "(config, flatten)",
}
"""Private names of Flower that this module uses, with their parameters."""

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
        load_and_validate(directory / "pyproject.toml")
        bundle, _ = build_fab_from_files(collect_files(directory.resolve()))
    except ValueError as err:
        raise ConfigError(f"{directory} is not a Flower app: {_reasons(err)}", hint=EXAMPLE) from err
    return bundle


def from_files(files: Mapping[str, bytes]) -> bytes:
    """The bundle of an app whose files, by their path in it, are given."""
    from flwr.cli.build import build_fab_from_files

    bundle, _ = build_fab_from_files(files)
    return bundle


def parse_overrides(options: list[str]) -> dict[str, Any]:
    """Values for an app's run config from the command line, as ``flwr run -c`` takes them.

    Args:
        options: Each ``key=value`` (several in one, separated by spaces, are fine; strings in quotes).

    Raises:
        ConfigError: If one cannot be read.
    """
    import click
    from flwr.common.config import parse_config_args

    for option in options:
        if "=" not in option and not option.endswith(".toml"):
            raise ConfigError(f"cannot read {option!r} as key=value", hint="-c num-server-rounds=5")
    try:
        return dict(parse_config_args([_quoted(option) for option in options]))
    except (click.ClickException, OSError, ValueError) as err:
        given = " ".join(options)
        raise ConfigError(f"cannot read {given!r} as key=value", hint="""-c 'name="a text"'""") from err


def _quoted(option: str) -> str:
    """A plain word for a value means a text, as a shell user expects: ``name=adam`` is ``name="adam"``."""
    key, separator, value = option.partition("=")
    is_word = value.replace("-", "").replace("_", "").replace("/", "").replace(".", "").isalnum()
    if separator and is_word and value[0].isalpha() and value not in ("true", "false", "nan", "inf"):
        return f'{key}="{value}"'
    return option


def _reasons(error: ValueError) -> str:
    """Flower's list of reasons on one line."""
    lines = [line.removeprefix("- ").strip() for line in str(error).splitlines()]
    reasons = lines[1:] if len(lines) > 1 else lines
    return "; ".join(reason.rstrip(".") for reason in reasons if reason)
