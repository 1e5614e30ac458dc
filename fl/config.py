"""Configuration: one TOML table is one frozen dataclass, and an object that exists is valid.

A config class lists its keys as annotated fields, names its table in ``TABLE`` and checks ranges in
``__post_init__`` with the helpers below. ``load`` turns a mapping into such an object and refuses what it does not
know, naming the key that was meant. ``to_dict`` is its inverse, so a resolved configuration is stored as data.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fl.errors import ConfigError

T = TypeVar("T")

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""What a site's id looks like."""


def check_site_name(name: str) -> str:
    """A site's id, if it is one.

    Raises:
        ConfigError: If it has other characters, or is too long.
    """
    if not SITE_NAME.fullmatch(name):
        hint = "up to 63 letters, digits, dots, dashes and underscores"
        raise ConfigError(f"{name[:80]!r} cannot be a site's id", hint=hint)
    return name


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: If the file is missing, unreadable, or not TOML (with line and column).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(f"no such file: {path}") from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read {path}: {err}") from err
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{path} is not TOML: {err}") from err


def load(cls: type[T], values: Mapping[str, Any], *, table: str = "") -> T:
    """An object of ``cls`` from the keys of a table.

    Args:
        cls: A dataclass whose fields are the keys; a field that is itself a dataclass is a sub-table.
        values: The table.
        table: Its dotted name, for messages; empty at the top of a file.

    Raises:
        ConfigError: On an unknown or missing key, a wrong type, or a value out of its range.
    """
    assert dataclasses.is_dataclass(cls)
    hints = _type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in values:
        if key not in fields:
            raise unknown("key", dotted(table, key), [dotted(table, name) for name in fields])
    arguments = {key: _convert(hints[key], value, dotted(table, key)) for key, value in values.items()}
    for name, field in fields.items():
        if (
            name not in arguments
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ConfigError(f"{dotted(table, name)} is missing", hint=first_sentence(cls, name))
    return typing.cast(T, cls(**arguments))


def to_dict(config: Any) -> dict[str, Any]:
    """A config object as plain data (dicts, lists, strings, numbers), keys without a value left out."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return to_dict(value)
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {
        field.name: plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.init and getattr(config, field.name) is not None
    }


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
    return ConfigError(f"unknown {kind} {name}", hint=hint)


def dotted(table: str, key: str) -> str:
    """``key`` with its table before it."""
    return f"{table}.{key}" if table else key


def check_range(
    name: str,
    value: float | None,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse a number outside its range; ``None`` passes.

    Raises:
        ConfigError: Naming key, value and bound.
    """
    if value is None:
        return
    bounds = [
        (f"at least {at_least}", at_least is None or value >= at_least),
        (f"above {above}", above is None or value > above),
        (f"at most {at_most}", at_most is None or value <= at_most),
        (f"below {below}", below is None or value < below),
    ]
    if not math.isfinite(value):
        raise ConfigError(f"{name} is {value}, must be a finite number")
    for bound, holds in bounds:
        if not holds:
            raise ConfigError(f"{name} is {value}, must be {bound}")


def check_share_or_count(name: str, value: int | float) -> None:
    """Refuse what is neither a share in (0, 1.0] written as a float nor a count from 1 written as an integer."""
    if isinstance(value, float):
        check_range(name, value, above=0, at_most=1)
    else:
        check_range(name, value, at_least=1)


def share_or_count(value: int | float, whole: int) -> int:
    """How many of ``whole`` are meant: a float is a share (rounded up, at least 1), an integer a count."""
    return max(1, math.ceil(value * whole - 1e-9)) if isinstance(value, float) else int(value)


def first_sentence(cls: type, field: str) -> str | None:
    """The first line of the docstring under a field, read from the source; ``None`` if there is none."""
    doc = field_docs(cls).get(field)
    return doc.split("\n", 1)[0].rstrip(".") if doc else None


def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a config class, for hints and for the reference page."""
    import ast
    import inspect
    import textwrap

    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):
            continue
        body = typing.cast(ast.ClassDef, tree.body[0]).body
        for statement, after in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[statement.target.id] = inspect.cleandoc(after.value.value)
    return docs


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    """What each key holds; remembered, because a journal is read an event a dataclass."""
    return get_type_hints(cls)


def _convert(hint: Any, value: Any, name: str) -> Any:
    """``value`` as the type a field asks for; TOML's own types are kept apart (``true`` is no number)."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {value!r}, must be a table")
        return load(hint, value, table=name)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union([arg for arg in get_args(hint) if arg is not type(None)], value, name)
    if origin is Literal:
        if value not in get_args(hint):
            hinted = unknown("value", f"{value}", [str(arg) for arg in get_args(hint)])
            raise ConfigError(f"{name} is {value!r}, which is none of its values", hint=hinted.hint)
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{name} is {value!r}, must be a list")
        item = get_args(hint)[0]
        return origin(_convert(item, entry, f"{name}[{i}]") for i, entry in enumerate(value))
    if origin in (dict, Mapping) or hint in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {value!r}, must be a table")
        return dict(value)
    return _convert_scalar(hint, value, name)


def _convert_union(options: list[Any], value: Any, name: str) -> Any:
    """The first option that takes the value; an exact type wins, so that 1 stays a count and 1.0 a share."""
    for option in options:
        if option is type(value):
            return value
    errors: list[ConfigError] = []
    for option in options:
        try:
            return _convert(option, value, name)
        except ConfigError as err:
            errors.append(err)
    if len(errors) == 1:
        raise errors[0]
    words = " or ".join(_word(option) for option in options)
    raise ConfigError(f"{name} is {value!r}, must be {words}")


def _convert_scalar(hint: Any, value: Any, name: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{name} is {value!r}, must be {_word(hint)}")


def _word(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(arg) for arg in get_args(hint))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))
